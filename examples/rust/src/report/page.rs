//! The page around the plots.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::charts::{Chart, charts};
use super::html::{escape, label};
use super::words;
use crate::civil;
use crate::decimal::{seconds_of_nanos, units_of_micros};
use crate::replay::Outcome;

/// The whole report.
pub(crate) fn page(outcome: &Outcome) -> String {
    let mut page = String::with_capacity(1 << 18);
    // Writing to memory does not fail, here and below.
    let _ = write!(page, "{HEAD}<style>{STYLE}</style></head><body><main>");
    let _ = write!(
        page,
        "<header><h1>Replay of {}</h1><p>{} to {} UTC, {}; {} GPUs of one slot; seed {}</p></header>",
        escape(file_name(&outcome.trace)),
        civil::format(outcome.start),
        civil::format(outcome.end),
        words::duration(outcome.end.since(outcome.start).as_nanos() as f64 / 1e9),
        outcome.gpus.len(),
        outcome.seed
    );
    cards(&mut page, outcome);
    for chart in charts(outcome) {
        figure(&mut page, &chart);
    }
    tables(&mut page, outcome);
    let _ = writeln!(
        page,
        "<footer><p>{} commands in {:.2} s, {} a second. State digest <code>{}</code>: the same on every run.</p></footer>\
         </main></body></html>",
        words::count(outcome.totals.commands.into()),
        outcome.elapsed.as_secs_f64(),
        words::count(outcome.commands_per_second().into()),
        escape(&outcome.digest)
    );
    page
}

fn cards(page: &mut String, outcome: &Outcome) {
    let counters = &outcome.stats.counters;
    let wait = |ppm| words::duration(outcome.wait_ms(ppm) as f64 / 1e3);
    let span = outcome.end.since(outcome.start).as_nanos() as f64 * outcome.gpus.len() as f64;
    let busy: f64 = outcome.gpus.iter().map(|gpu| gpu.busy() as f64).sum();
    let cards = [
        (
            "jobs",
            words::count(counters.submitted.into()),
            format!("{} complete", words::count(counters.completed.into())),
        ),
        (
            "did not deliver",
            words::count((counters.errors + counters.cancelled).into()),
            format!(
                "{} in error, {} cancelled",
                words::count(counters.errors.into()),
                words::count(counters.cancelled.into())
            ),
        ),
        ("median wait", wait(500_000), format!("p95 {}, p99 {}", wait(950_000), wait(990_000))),
        ("GPU utilisation", words::percent(busy, span), format!("{} leases", words::count(counters.leases.into()))),
        (
            "billed, USD",
            money(outcome.ledger.charge_micros),
            format!("for {} of GPU time", words::gpu_seconds(outcome.ledger.billed)),
        ),
        ("on the house", words::gpu_seconds(outcome.ledger.absorbed), "failed and lost attempts".to_owned()),
    ];
    page.push_str("<section class=\"cards\">");
    for (name, value, more) in cards {
        let _ = write!(page, "<div><h2>{name}</h2><p class=\"value\">{value}</p><p>{more}</p></div>");
    }
    page.push_str("</section>");
}

fn figure(page: &mut String, chart: &Chart) {
    let _ = write!(
        page,
        "<figure id=\"{}\"><h2>{}</h2><figcaption>{}</figcaption>",
        chart.id,
        chart.heading,
        escape(&chart.caption)
    );
    page.push_str("<ul class=\"legend\">");
    for (class, name) in &chart.legend {
        let _ = write!(page, "<li><i class=\"{class}\"></i>{}</li>", escape(name));
    }
    page.push_str("</ul>");
    for plot in &chart.plots {
        let _ = write!(page, "<div class=\"plot\">{plot}</div>");
    }
    page.push_str("</figure>");
}

fn tables(page: &mut String, outcome: &Outcome) {
    page.push_str("<div class=\"tables\">");
    let billed = outcome.ledger.billed;
    sums(page, "Models", "model", &outcome.ledger.by_model, billed);
    sums(page, "Customers", "customer", &outcome.ledger.by_customer, billed);
    summary(page, outcome);
    weights(page, outcome);
    page.push_str("</div>");
}

/// What each class of weight got, and what was its due.
fn weights(page: &mut String, outcome: &Outcome) {
    let mut classes: BTreeMap<u32, (usize, f64, f64)> = BTreeMap::new();
    for account in outcome.shares.accounts() {
        let class = classes.entry(account.weight).or_default();
        *class = (class.0 + 1, class.1 + account.got, class.2 + account.due);
    }
    let total: f64 = classes.values().map(|class| class.1).sum();
    let rows = classes.iter().map(|(weight, (customers, got, due))| {
        vec![
            format!("×{weight}"),
            words::count(*customers as u128),
            words::percent(*got, total),
            words::percent(*due, total),
        ]
    });
    table(page, "Weights", &["weight", "customers", "share", "due"], rows, 0);
}

/// The largest sums of GPU time.
fn sums(page: &mut String, heading: &str, what: &str, sums: &BTreeMap<Box<str>, u128>, total: u128) {
    let mut largest: Vec<_> = sums.iter().collect();
    largest.sort_by(|one, other| other.1.cmp(one.1));
    let more = largest.len().saturating_sub(ROWS_MAX);
    let rows = largest.into_iter().take(ROWS_MAX).map(|(name, nanos)| {
        vec![label(name, 32), seconds_of_nanos(*nanos), words::percent(*nanos as f64, total as f64)]
    });
    table(page, heading, &[what, "GPU-seconds billed", "of all"], rows, more);
}

fn summary(page: &mut String, outcome: &Outcome) {
    let (counters, totals) = (&outcome.stats.counters, &outcome.totals);
    let number = |number: u64| words::count(number.into());
    let rows = [
        ("attempts tried again", number(counters.retries)),
        ("leases lost, jobs requeued", number(counters.requeues)),
        ("words too late, without effect", number(totals.superseded)),
        ("breaker probes", number(counters.probes)),
        ("requests that came twice, and ran once", number(totals.duplicates)),
        ("batches of settlements the sink refused", number(totals.batches_returned)),
        ("confirmations lost", number(totals.confirmations_lost)),
        ("settlements that came twice, billed once", number(outcome.ledger.repeated)),
        ("requests that waited at the door", number(totals.held_at_door)),
        ("rows earlier than one before them", number(outcome.early)),
        (
            "queued, leased, unconfirmed at the end",
            format!("{}, {}, {}", outcome.stats.queued, outcome.stats.running, outcome.stats.unconfirmed),
        ),
    ];
    let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    table(page, "What else happened", &["", "times"], rows, 0);
}

/// A table of cells that are escaped already.
fn table(page: &mut String, heading: &str, columns: &[&str], rows: impl Iterator<Item = Vec<String>>, more: usize) {
    let _ = write!(page, "<section><h2>{heading}</h2><table><thead><tr>");
    for column in columns {
        let _ = write!(page, "<th>{column}</th>");
    }
    page.push_str("</tr></thead><tbody>");
    for row in rows {
        page.push_str("<tr>");
        for cell in row {
            let _ = write!(page, "<td>{cell}</td>");
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table>");
    if more > 0 {
        let _ = write!(page, "<p>and {} more</p>", words::count(more as u128));
    }
    page.push_str("</section>");
}

/// The last part of a path.
fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Units with two decimals.
fn money(micros: u128) -> String {
    let exact = units_of_micros(micros / 10_000 * 10_000);
    let (whole, fraction) = exact.split_once('.').unwrap_or((&exact, "0"));
    let whole: u128 = whole.parse().unwrap_or(0);
    format!("{}.{fraction:0<2}", words::count(whole))
}

const ROWS_MAX: usize = 12;
const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
    <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\
    <title>Replay</title>";
const STYLE: &str = include_str!("style.css");
