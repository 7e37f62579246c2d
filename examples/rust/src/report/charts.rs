//! The plots: what each shows, and of which numbers.

use libgateway::Histogram;

use super::axis::Axis;
use super::html::label;
use super::series::Tick;
use super::svg::Plot;
use super::words;
use crate::replay::{Gpu, Outcome};

/// A plot with its heading, what it shows, and its legend: colours with their names.
pub(super) struct Chart {
    pub(super) id: &'static str,
    pub(super) heading: &'static str,
    pub(super) caption: String,
    pub(super) legend: Vec<(&'static str, String)>,
    pub(super) plots: Vec<String>,
}

/// All of them, in the order of the page.
pub(super) fn charts(outcome: &Outcome) -> Vec<Chart> {
    vec![load(outcome), waits(outcome), shares(outcome), utilisation(outcome), warmth(outcome), retries(outcome)]
}

fn load(outcome: &Outcome) -> Chart {
    let groups = outcome.series.groups(260);
    let steps = |value: &dyn Fn(&super::series::Bin) -> f64| -> Vec<(f64, f64)> {
        groups.iter().flat_map(|(from, to, bin)| [(*from, value(bin)), (*to, value(bin))]).collect()
    };
    let time = || Axis::time(outcome.start, outcome.series.seconds());
    let queued_max = groups.iter().map(|(.., bin)| bin.queued_max).max().unwrap_or(0);
    let mut queue =
        Plot::new("jobs waiting over time", 250.0, 60.0, time(), Axis::up_to(queued_max.into(), "jobs waiting"));
    queue.area(&steps(&|bin| bin.queued()), "c1");
    queue.line(&steps(&|bin| f64::from(bin.queued_max)), "c1");
    let gpus = outcome.gpus.len() as f64;
    let mut running = Plot::new("jobs running over time", 210.0, 60.0, time(), Axis::up_to(gpus, "jobs running"));
    running.area(&steps(&|bin| bin.running()), "c3");
    running.level(gpus, "c4");
    Chart {
        id: "load",
        heading: "Queue depth and running jobs",
        caption: format!("At most {} jobs waited at once.", words::count(outcome.totals.queued_max.into())),
        legend: vec![
            ("c1 soft", "waiting, mean".into()),
            ("c1", "waiting, peak".into()),
            ("c3 soft", "running, mean".into()),
            ("c4", "GPUs there are".into()),
        ],
        plots: vec![queue.finish(), running.finish()],
    }
}

fn waits(outcome: &Outcome) -> Chart {
    let longest = outcome.waits.max().unwrap_or(0) as f64 / 1e9;
    let names = PERCENTILES.map(|(_, name)| name);
    let y = Axis::waits(longest, "wait from arrival to first start");
    let mut plot = Plot::new("wait by percentile and lane", 330.0, 76.0, Axis::names(&names, "percentile of jobs"), y);
    let used = outcome.lanes.iter().zip(["c4", "c1", "c3"]).filter(|(lane, _)| lane.waits.count() > 0);
    let mut legend = Vec::new();
    for (lane, class) in used {
        let points = percentiles(&lane.waits);
        let line: Vec<(f64, f64)> = points.iter().map(|(at, seconds, _)| (*at, *seconds)).collect();
        plot.line(&line, class);
        let dots: Vec<_> = points
            .into_iter()
            .map(|(at, seconds, name)| {
                (at, seconds, format!("{} lane, {name}: {}", lane.name, words::duration(seconds)))
            })
            .collect();
        plot.dots(&dots, class);
        legend.push((class, format!("{} lane, {} jobs", lane.name, words::count(lane.waits.count().into()))));
    }
    if legend.is_empty() {
        plot.note("no job started");
    }
    Chart {
        id: "waits",
        heading: "Wait by percentile and lane",
        caption: "A lane is served before those below it; the scale is logarithmic.".into(),
        legend,
        plots: vec![plot.finish()],
    }
}

fn percentiles(waits: &Histogram) -> Vec<(f64, f64, &'static str)> {
    let points = PERCENTILES.iter().enumerate();
    points.map(|(at, (ppm, name))| (at as f64, waits.quantile_ppm(*ppm).unwrap_or(0) as f64 / 1e9, *name)).collect()
}

fn shares(outcome: &Outcome) -> Chart {
    let top = outcome.shares.top(CUSTOMERS_SHOWN);
    let got: f64 = outcome.shares.accounts().iter().map(|account| account.got).sum();
    let share = |seconds: f64| if got > 0.0 { seconds / got * 100.0 } else { 0.0 };
    let max = top.iter().map(|account| share(account.got.max(account.due))).fold(0.0, f64::max);
    let height = 70.0 + 22.0 * top.len().max(3) as f64;
    let x = Axis::up_to(max, "% of all GPU time");
    let mut plot = Plot::new("share per customer", height, 230.0, x, Axis::names(&[], "customer, × its weight"));
    for (row, account) in top.iter().enumerate() {
        let name = format!("{} ×{}", label(&account.name, 24), account.weight);
        plot.row_name(row, top.len(), &name);
        let told =
            |what, seconds| format!("{}, weight {}: {what} {:.2} %", account.name, account.weight, share(seconds));
        plot.bar(row, top.len(), 0.0, share(account.got), "c1", &told("got", account.got));
        plot.mark(row, top.len(), share(account.due), "c2", &told("due by its weight", account.due));
    }
    if top.is_empty() {
        plot.note("no customer");
    }
    Chart {
        id: "shares",
        heading: "Share per customer against its weight",
        caption: format!(
            "The {} customers with the most GPU time, of {}. The mark is the due of each: what an \
             ideal sharing by weight holds ready for a customer while it has jobs, and no more than it has jobs for. A bar \
             that ends before its mark is that of a customer that did not ask for more; one that passes it was given what \
             others left.",
            top.len(),
            words::count(outcome.shares.accounts().len() as u128)
        ),
        legend: vec![("c1", "share it got".into()), ("c2", "due by its weight".into())],
        plots: vec![plot.finish()],
    }
}

fn utilisation(outcome: &Outcome) -> Chart {
    let gpus = outcome.gpus.len().max(1) as f64;
    let groups = outcome.series.groups(260);
    let time = Axis::time(outcome.start, outcome.series.seconds());
    let mut over_time = Plot::new("GPU utilisation over time", 210.0, 60.0, time, Axis::percent("GPUs at work"));
    let points: Vec<(f64, f64)> = groups
        .iter()
        .map(|(from, to, bin)| (*from, *to, bin.running() / gpus * 100.0))
        .flat_map(|(from, to, value)| [(from, value), (to, value)])
        .collect();
    over_time.area(&points, "c3");
    over_time.line(&points, "c3");
    let span = outcome.end.since(outcome.start).as_nanos() as f64;
    let busy: f64 = outcome.gpus.iter().map(|gpu| gpu.busy() as f64).sum();
    let shown = outcome.gpus.len().min(GPUS_SHOWN);
    Chart {
        id: "utilisation",
        heading: "GPU utilisation",
        caption: format!(
            "GPUs were leased for {} of the time.{}",
            words::percent(busy, span * gpus),
            if shown < outcome.gpus.len() {
                format!(" The first {shown} of {} are shown one by one.", gpus)
            } else {
                String::new()
            }
        ),
        legend: vec![
            ("c3", "delivered".into()),
            ("c4", "failed".into()),
            ("c2", "lost with its worker".into()),
            ("c5", "cancelled".into()),
            ("idle", "idle".into()),
        ],
        plots: vec![over_time.finish(), per_gpu(&outcome.gpus[..shown], span)],
    }
}

fn per_gpu(gpus: &[Gpu], span: f64) -> String {
    let height = 70.0 + 18.0 * gpus.len().max(2) as f64;
    let mut plot =
        Plot::new("use of each GPU", height, 76.0, Axis::percent("% of the time"), Axis::names(&[], "each GPU"));
    for (row, gpu) in gpus.iter().enumerate() {
        plot.row_name(row, gpus.len(), &label(&gpu.name, 12));
        plot.bar(
            row,
            gpus.len(),
            0.0,
            100.0,
            "idle",
            &format!("{}: {} leases, {} warm", gpu.name, gpu.leases, gpu.warm),
        );
        let mut from = 0.0;
        let parts = [
            (gpu.delivered, "c3", "delivered"),
            (gpu.failed, "c4", "failed"),
            (gpu.lost, "c2", "lost"),
            (gpu.cancelled, "c5", "cancelled"),
        ];
        for (nanos, class, name) in parts {
            let part = if span > 0.0 { nanos as f64 / span * 100.0 } else { 0.0 };
            plot.bar(row, gpus.len(), from, from + part, class, &format!("{}: {name} {part:.1} %", gpu.name));
            from += part;
        }
    }
    plot.finish()
}

fn warmth(outcome: &Outcome) -> Chart {
    let groups = outcome.series.groups(BARS_MAX);
    let time = Axis::time(outcome.start, outcome.series.seconds());
    let mut plot = Plot::new("warm hits over time", 230.0, 60.0, time, Axis::percent("starts on a warm GPU"));
    for (from, to, bin) in &groups {
        let (warm, starts) = (bin.count(Tick::Warm), bin.count(Tick::Start));
        if starts > 0 {
            let percent = warm as f64 / starts as f64 * 100.0;
            let words = format!(
                "{} of {} starts were warm, {percent:.1} %",
                words::count(warm.into()),
                words::count(starts.into())
            );
            plot.block((*from, 0.0), (*to, percent), "c5 gap", &words);
        }
    }
    let counters = &outcome.stats.counters;
    let (warm, leases) = (counters.warm_hits as f64, counters.leases as f64);
    if leases > 0.0 {
        plot.level(warm / leases * 100.0, "c4");
    } else {
        plot.note("no job started");
    }
    Chart {
        id: "warmth",
        heading: "Warm hits",
        caption: format!(
            "{} of {} leases went to a GPU that had the model loaded already: {}.",
            words::count(counters.warm_hits.into()),
            words::count(counters.leases.into()),
            words::percent(warm, leases)
        ),
        legend: vec![("c5", "warm starts".into()), ("c4", "mean".into())],
        plots: vec![plot.finish()],
    }
}

fn retries(outcome: &Outcome) -> Chart {
    let groups = outcome.series.groups(BARS_MAX);
    let kinds = [
        (Tick::Retry, "c1", "tried again"),
        (Tick::Requeue, "c2", "lost and requeued"),
        (Tick::Error, "c4", "ended in error"),
    ];
    let total = |bin: &super::series::Bin| kinds.iter().map(|(tick, ..)| bin.count(*tick)).sum::<u64>();
    let max = groups.iter().map(|(.., bin)| total(bin)).max().unwrap_or(0);
    let time = Axis::time(outcome.start, outcome.series.seconds());
    let mut plot =
        Plot::new("retries over time", 230.0, 60.0, time, Axis::up_to(max as f64, "attempts that did not deliver"));
    for (from, to, bin) in &groups {
        let mut below = 0;
        for (tick, class, name) in kinds {
            let count = bin.count(tick);
            plot.block(
                (*from, below as f64),
                (*to, (below + count) as f64),
                &format!("{class} gap"),
                &format!("{count} {name}"),
            );
            below += count;
        }
    }
    if max == 0 {
        plot.note("every attempt delivered");
    }
    let sum = |tick| words::count(groups.iter().map(|(.., bin)| u128::from(bin.count(tick))).sum());
    Chart {
        id: "retries",
        heading: "Retries",
        caption: "Attempts by what became of their jobs. The house pays for all of them.".into(),
        legend: kinds.iter().map(|(tick, class, name)| (*class, format!("{name}, {}", sum(*tick)))).collect(),
        plots: vec![plot.finish()],
    }
}

const PERCENTILES: [(u32, &str); 9] = [
    (100_000, "p10"),
    (250_000, "p25"),
    (500_000, "p50"),
    (750_000, "p75"),
    (900_000, "p90"),
    (950_000, "p95"),
    (990_000, "p99"),
    (999_000, "p99.9"),
    (1_000_000, "longest"),
];
const CUSTOMERS_SHOWN: usize = 18;
const GPUS_SHOWN: usize = 32;
const BARS_MAX: usize = 72;
