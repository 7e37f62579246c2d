//! What was so, and what happened, over time: in a bounded number of bins, however long the replay gets.

use libgateway::Timestamp;

/// Something to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    Start,
    /// A start on a GPU that was warm for the job.
    Warm,
    Complete,
    /// An attempt failed and is tried again.
    Retry,
    /// A lease was lost and its job went back.
    Requeue,
    Error,
}

/// Counts and sums per bin of time.
#[derive(Debug)]
pub(crate) struct Series {
    start: Timestamp,
    at: Timestamp,
    /// Nanoseconds of a bin. It doubles when the bins run out.
    width: u64,
    bins: Vec<Bin>,
}

/// One bin, or several together.
#[derive(Clone, Debug, Default)]
pub(super) struct Bin {
    /// Jobs waiting × nanoseconds.
    queued: u128,
    /// Jobs running × nanoseconds.
    running: u128,
    pub(super) queued_max: u32,
    counts: [u64; TICKS],
    /// Nanoseconds seen.
    seen: u64,
}

impl Series {
    pub(crate) fn new(start: Timestamp) -> Self {
        Self { start, at: start, width: WIDTH, bins: Vec::new() }
    }

    /// Time passes until `at`, with so many jobs waiting and running.
    pub(crate) fn pass(&mut self, at: Timestamp, queued: u32, running: u32) {
        while self.at < at {
            let index = self.index();
            let bin_end = self.start.as_nanos() + (index as u64 + 1).saturating_mul(self.width);
            let until = at.as_nanos().min(bin_end);
            let nanos = until - self.at.as_nanos();
            let bin = &mut self.bins[index];
            bin.queued += u128::from(queued) * u128::from(nanos);
            bin.running += u128::from(running) * u128::from(nanos);
            bin.queued_max = bin.queued_max.max(queued);
            bin.seen += nanos;
            self.at = Timestamp::from_nanos(until);
        }
    }

    /// Counts something now.
    pub(crate) fn tick(&mut self, tick: Tick) {
        let index = self.index();
        self.bins[index].counts[tick as usize] += 1;
    }

    /// The bin of this instant. Makes room for it.
    fn index(&mut self) -> usize {
        loop {
            let index = (self.at.since(self.start).as_nanos() / self.width) as usize;
            if index < BINS_MAX {
                if self.bins.len() <= index {
                    self.bins.resize(index + 1, Bin::default());
                }
                return index;
            }
            self.bins = self.bins.chunks(2).map(Bin::merged).collect();
            self.width = self.width.saturating_mul(2);
        }
    }

    /// Seconds from the beginning to the end.
    pub(super) fn seconds(&self) -> f64 {
        seconds(self.at.since(self.start).as_nanos())
    }

    /// At most `max` groups of bins, each with the seconds at which it begins and ends.
    pub(super) fn groups(&self, max: usize) -> Vec<(f64, f64, Bin)> {
        let size = self.bins.len().div_ceil(max).max(1);
        let width = seconds(self.width) * size as f64;
        let groups = self.bins.chunks(size).enumerate().map(|(index, bins)| {
            let from = index as f64 * width;
            (from, (from + width).min(self.seconds()), Bin::merged(bins))
        });
        groups.filter(|(from, to, _)| to > from).collect()
    }
}

impl Bin {
    fn merged(bins: &[Self]) -> Self {
        let mut sum = Self::default();
        for bin in bins {
            sum.queued += bin.queued;
            sum.running += bin.running;
            sum.queued_max = sum.queued_max.max(bin.queued_max);
            sum.seen += bin.seen;
            for (count, more) in sum.counts.iter_mut().zip(bin.counts) {
                *count += more;
            }
        }
        sum
    }

    /// Jobs waiting on average.
    pub(super) fn queued(&self) -> f64 {
        self.queued as f64 / self.seen.max(1) as f64
    }

    /// Jobs running on average.
    pub(super) fn running(&self) -> f64 {
        self.running as f64 / self.seen.max(1) as f64
    }

    pub(super) fn count(&self, tick: Tick) -> u64 {
        self.counts[tick as usize]
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

const TICKS: usize = 6;
const BINS_MAX: usize = 512;
/// A second, to begin with.
const WIDTH: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_counts_survive_any_length() {
        let start = Timestamp::from_secs(1_000);
        let mut series = Series::new(start);
        let mut at = start;
        for step in [1, 100, 400, 11, 5_000, 1_000_000, 3] {
            at += libgateway::Span::from_secs(step);
            series.pass(at, 2, 3);
            series.tick(Tick::Retry);
            assert!(series.bins.len() <= BINS_MAX);
        }
        assert!(series.bins.iter().all(|bin| bin.seen <= series.width));
        for max in [1, 7, BINS_MAX] {
            let groups = series.groups(max);
            assert!(groups.len() <= max);
            let seen: u64 = groups.iter().map(|(.., bin)| bin.seen).sum();
            assert_eq!(seen, at.since(start).as_nanos());
            assert_eq!(groups.iter().map(|(.., bin)| bin.count(Tick::Retry)).sum::<u64>(), 7);
            assert!(groups.iter().all(|(.., bin)| bin.seen == 0 || (bin.queued() == 2.0 && bin.running() == 3.0)));
        }
    }
}
