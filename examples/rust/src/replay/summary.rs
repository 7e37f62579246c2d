//! What came of a replay, for programs and for people.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::time::Duration;

use libgateway::{Histogram, Stats, Timestamp};
use serde::Serialize;

use super::Failure;
use super::ledger::Ledger;
use crate::civil;
use crate::decimal::{seconds_of_nanos, units_of_micros};
use crate::report::{Series, Shares};

/// Everything there is to tell.
pub(crate) struct Outcome {
    /// What was replayed.
    pub(crate) trace: String,
    pub(crate) seed: u64,
    /// Rows that were earlier than one before them.
    pub(crate) early: u64,
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) stats: Stats,
    pub(crate) digest: String,
    pub(crate) totals: Totals,
    /// Real time it took.
    pub(crate) elapsed: Duration,
    pub(crate) ledger: Ledger,
    /// From arrival to first start, in nanoseconds.
    pub(crate) waits: Histogram,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) gpus: Vec<Gpu>,
    pub(crate) series: Series,
    pub(crate) shares: Shares,
}

/// What the host counted.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Commands given to the gateway, refused ones too.
    pub(crate) commands: u64,
    /// Requests that came twice and were taken for one.
    pub(crate) duplicates: u64,
    /// Words for leases that had ended.
    pub(crate) superseded: u64,
    pub(crate) batches_returned: u64,
    pub(crate) confirmations_lost: u64,
    pub(crate) queued_max: u32,
    /// Requests that came in later than they arrived, for want of room.
    pub(crate) held_at_door: u64,
}

/// The waits of one lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    pub(crate) waits: Histogram,
}

/// One GPU and the nanoseconds it spent on leases, by how they ended.
#[derive(Debug, Default)]
pub(crate) struct Gpu {
    pub(crate) name: String,
    pub(crate) device: String,
    pub(crate) delivered: u128,
    pub(crate) failed: u128,
    pub(crate) lost: u128,
    pub(crate) cancelled: u128,
    pub(crate) leases: u64,
    /// Leases of jobs whose model it had loaded.
    pub(crate) warm: u64,
}

#[derive(Serialize)]
struct Json<'o> {
    jobs: u64,
    complete: u64,
    error: u64,
    cancelled: u64,
    requeues: u64,
    warm_hits: u64,
    billed_gpu_seconds: String,
    billed_by_model: BTreeMap<&'o str, String>,
    billed_by_customer: BTreeMap<&'o str, String>,
    charge_micros: u128,
    wait_ms: WaitMs,
    queued_end: u32,
    in_flight_end: u32,
    outbox_unconfirmed_end: u32,
    commands: u64,
    commands_per_second: u64,
    state_digest: &'o str,
    peak_rss_mb: Option<u64>,
}

#[derive(Serialize)]
struct WaitMs {
    p50: u64,
    p95: u64,
    p99: u64,
    max: u64,
}

impl Gpu {
    pub(crate) fn busy(&self) -> u128 {
        self.delivered + self.failed + self.lost + self.cancelled
    }
}

impl Outcome {
    /// One JSON object and a line break.
    pub(super) fn to_json(&self) -> Result<String, Failure> {
        let json = Json {
            jobs: self.stats.counters.submitted,
            complete: self.stats.counters.completed,
            error: self.stats.counters.errors,
            cancelled: self.stats.counters.cancelled,
            requeues: self.stats.counters.requeues,
            warm_hits: self.stats.counters.warm_hits,
            billed_gpu_seconds: seconds_of_nanos(self.ledger.billed),
            billed_by_model: told(&self.ledger.by_model),
            billed_by_customer: told(&self.ledger.by_customer),
            charge_micros: self.ledger.charge_micros,
            wait_ms: WaitMs {
                p50: self.wait_ms(500_000),
                p95: self.wait_ms(950_000),
                p99: self.wait_ms(990_000),
                max: self.wait_ms(1_000_000),
            },
            queued_end: self.stats.queued,
            in_flight_end: self.stats.running,
            outbox_unconfirmed_end: self.stats.unconfirmed,
            commands: self.totals.commands,
            commands_per_second: self.commands_per_second(),
            state_digest: &self.digest,
            peak_rss_mb: peak_rss_mb(),
        };
        serde_json::to_string(&json).map(|text| text + "\n").map_err(Failure::broken)
    }

    /// A summary in words.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.lines() {
            // Writing to memory does not fail.
            let _ = writeln!(text, "{name:<14} {value}");
        }
        text
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let Self { stats, totals, ledger, .. } = self;
        let counters = &stats.counters;
        let span = u128::from(self.end.since(self.start).as_nanos());
        let busy: u128 = self.gpus.iter().map(Gpu::busy).sum();
        let wait = |ppm| seconds_of_nanos(u128::from(self.wait_ms(ppm)) * 1_000_000);
        let mut lines = vec![
            ("trace", format!("{}, seed {}", self.trace, self.seed)),
            ("time", format!("{} to {} UTC", civil::format(self.start), civil::format(self.end))),
            (
                "jobs",
                format!(
                    "{}: {} complete, {} in error, {} cancelled",
                    counters.submitted, counters.completed, counters.errors, counters.cancelled
                ),
            ),
            (
                "wait",
                format!(
                    "p50 {} s, p95 {} s, p99 {} s, longest {} s; at most {} waiting",
                    wait(500_000),
                    wait(950_000),
                    wait(990_000),
                    wait(1_000_000),
                    totals.queued_max
                ),
            ),
            (
                "GPUs",
                format!(
                    "{}, leased {} % of the time, warm for {} % of {} leases",
                    self.gpus.len(),
                    percent(busy, span * self.gpus.len() as u128),
                    percent(counters.warm_hits.into(), counters.leases.into()),
                    counters.leases
                ),
            ),
            (
                "trouble",
                format!(
                    "{} attempts tried again, {} leases lost, {} words too late, {} breaker probes",
                    counters.retries, counters.lost, totals.superseded, counters.probes
                ),
            ),
            (
                "billed",
                format!(
                    "{} GPU-seconds to {} customers for {} USD; {} GPU-seconds on the house",
                    seconds_of_nanos(ledger.billed),
                    ledger.by_customer.len(),
                    units_of_micros(ledger.charge_micros),
                    seconds_of_nanos(ledger.absorbed)
                ),
            ),
            (
                "at the end",
                format!("{} queued, {} leased, {} unconfirmed", stats.queued, stats.running, stats.unconfirmed),
            ),
            (
                "commands",
                format!(
                    "{} in {} ms, {} a second",
                    totals.commands,
                    self.elapsed.as_millis(),
                    self.commands_per_second()
                ),
            ),
            ("memory", peak_rss_mb().map_or("not known here".to_owned(), |mb| format!("{mb} MB at most"))),
            ("digest", self.digest.clone()),
        ];
        let mut note = |what: u64, words: String| {
            if what > 0 {
                lines.push(("note", words));
            }
        };
        note(totals.duplicates, format!("{} requests came twice and ran once", totals.duplicates));
        note(
            totals.batches_returned + totals.confirmations_lost,
            format!(
                "the sink refused {} batches of settlements, and {} confirmations got lost: {} settlements came twice and \
                 were billed once",
                totals.batches_returned, totals.confirmations_lost, ledger.repeated
            ),
        );
        note(
            self.early,
            format!("{} rows were earlier than one before them and count as arriving with it", self.early),
        );
        note(
            totals.held_at_door,
            format!("{} requests waited at the door, because as many jobs were live as may be", totals.held_at_door),
        );
        lines
    }

    /// A quantile of the waits, in milliseconds, rounded up.
    pub(crate) fn wait_ms(&self, ppm: u32) -> u64 {
        self.waits.quantile_ppm(ppm).unwrap_or(0).div_ceil(1_000_000)
    }

    pub(crate) fn commands_per_second(&self) -> u64 {
        let nanos = self.elapsed.as_nanos().max(1);
        u64::try_from(u128::from(self.totals.commands) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    }
}

/// Sums as exact decimals.
fn told(sums: &BTreeMap<Box<str>, u128>) -> BTreeMap<&str, String> {
    sums.iter().map(|(name, nanos)| (&**name, seconds_of_nanos(*nanos))).collect()
}

/// Tenths of a percent, as `12.3`.
fn percent(part: u128, whole: u128) -> String {
    let tenths = (part * 1_000).checked_div(whole).unwrap_or(0);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// The most memory this process has had, where the system tells.
fn peak_rss_mb() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes.div_ceil(1_024))
}
