//! The naive clock that models of single parts count by: steps back and returns, at a scale at which no trial ends.

use super::Timestamp;

/// Time at the pace of the readings, and what returns in one step after the second step back is no time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// The time that passed.
    pub(crate) now: u64,
    pub(crate) reading: u64,
    /// How far the clock stands below where it was.
    pub(crate) back: u64,
    /// Steps back so far.
    steps: u32,
}

impl Pace {
    pub(crate) fn new(now: u64) -> Self {
        Self { now, reading: now, ..Self::default() }
    }

    /// Takes a reading of a host that was asked to call at `awaited`.
    pub(crate) fn read(&mut self, reading: u64, awaited: Option<u64>) {
        if reading < self.reading {
            self.back += self.reading - reading;
            self.steps += 1;
        } else {
            let passed = reading - self.reading;
            let punctual =
                awaited.is_some_and(|at| at > self.now && self.now + passed >= at.saturating_sub(250_000_000));
            let back = if passed < self.back { 0 } else { core::mem::take(&mut self.back) };
            let returned = !punctual && (self.steps > 1 || passed - back <= back / 64);
            self.now += passed - if returned { back } else { 0 };
        }
        self.reading = reading;
    }

    /// An instant as the host's clock shows it.
    pub(crate) fn shown(&self, at: u64) -> u64 {
        let shown = i128::from(at) + i128::from(self.reading) - i128::from(self.now);
        if at == u64::MAX { at } else { u64::try_from(shown.max(0)).unwrap_or(u64::MAX) }
    }

    pub(crate) fn shown_at(&self, at: Timestamp) -> Timestamp {
        Timestamp::from_nanos(self.shown(at.as_nanos()))
    }
}
