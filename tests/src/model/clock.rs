//! The host's clock as the model sees it: a machine's time that runs at the pace of the readings.
//!
//! All lengths are kept as plain numbers of nanoseconds, each for what it says: how far the clock fell below where it
//! was, and how far it is ahead by steps that nobody believes yet.

/// A machine's time, and the readings it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostClock {
    pub(crate) machine: u64,
    pub(crate) reading: u64,
    /// How much of the readings is not believed yet.
    pub(crate) doubted: u64,
    fallen: u64,
    /// Machine time of the latest step back, or of the latest step that was not believed.
    stepped_at: u64,
    /// Steps back, each within a minute of the one before.
    falls: u32,
    jump_max: u64,
}

/// What a reading brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) before: u64,
    pub(crate) leapt: Option<u64>,
}

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
/// Half of all there is lies before it: what is made later was made by a broken clock.
const MADE_MAX: u64 = u64::MAX / 2 + 1;
const BROKEN: u64 = u64::MAX / 4 + 1;

impl HostClock {
    pub(crate) fn new(now: u64, jump_max: u64) -> Self {
        let machine = now.min(MADE_MAX);
        Self { machine, reading: now, doubted: 0, fallen: 0, stepped_at: machine, falls: 0, jump_max }
    }

    /// When what is not believed yet will be.
    pub(crate) fn believes_at(&self) -> u64 {
        if self.doubted > 0 { self.stepped_at.saturating_add(MINUTE) } else { u64::MAX }
    }

    /// Takes a reading of a host that was asked to call at `awaited`, by machine time.
    pub(crate) fn read(&mut self, reading: u64, awaited: u64) -> Passed {
        let (before, mut leapt) = (self.machine, None);
        match reading.checked_sub(self.reading) {
            None => self.fall(self.reading - reading),
            Some(gone) => {
                // With nothing fallen and nothing doubted there is no trial that could end.
                let plain = self.fallen == 0 && self.doubted == 0;
                let beyond = (self.machine + gone.min(BROKEN)).saturating_sub(awaited);
                if !plain || gone > BROKEN || beyond > self.jump_max {
                    leapt = self.rise(gone, awaited);
                } else {
                    self.machine += gone;
                }
            }
        }
        self.reading = reading;
        Passed { before, leapt }
    }

    fn fall(&mut self, step: u64) {
        if step > self.doubted {
            self.fallen = self.fallen.saturating_add(step - self.doubted);
            self.falls = if self.machine - self.stepped_at >= MINUTE { 1 } else { self.falls + 1 };
            self.stepped_at = self.machine;
        }
        let left = self.doubted.saturating_sub(step);
        self.doubted = if left > self.jump_max { left } else { 0 };
        if self.doubted == 0 {
            self.go_on(left);
        }
    }

    fn rise(&mut self, gone: u64, awaited: u64) -> Option<u64> {
        if self.machine - self.stepped_at >= MINUTE {
            (self.fallen, self.falls) = (0, 0);
            self.believe();
        }
        let mut gone = gone;
        let arrives = self.machine.saturating_add(gone);
        let as_asked = punctual(self.machine, arrives, awaited);
        if gone >= self.fallen {
            let climbed = std::mem::take(&mut self.fallen);
            let about_as_long = gone - climbed <= climbed / 64;
            if climbed > 0 && !as_asked && (about_as_long || self.falls >= 2) {
                gone -= climbed;
            }
        }
        if self.machine.saturating_add(gone).saturating_sub(awaited.max(self.machine)) > self.jump_max {
            self.doubted = self.doubted.saturating_add(gone);
            self.stepped_at = self.machine;
            return Some(gone);
        }
        self.go_on(gone);
        None
    }

    /// What was doubted is time that passed. Returns how much.
    pub(crate) fn believe(&mut self) -> u64 {
        let doubted = std::mem::take(&mut self.doubted);
        self.go_on(doubted)
    }

    fn go_on(&mut self, gone: u64) -> u64 {
        let gone = if gone > BROKEN || gone.saturating_add(self.machine) >= u64::MAX - BROKEN { 0 } else { gone };
        self.machine += gone;
        gone
    }

    /// An instant of the machine as the host's clock shows it.
    pub(crate) fn shown(&self, at: u64) -> u64 {
        moved(at, i128::from(self.reading) - i128::from(self.machine))
    }

    /// An instant of the host's clock by machine time.
    pub(crate) fn meant(&self, at: u64) -> u64 {
        moved(at, i128::from(self.machine) - i128::from(self.reading))
    }
}

fn moved(at: u64, by: i128) -> u64 {
    match at {
        u64::MAX => at,
        _ => u64::try_from((i128::from(at) + by).max(0)).unwrap_or(u64::MAX),
    }
}

/// Whether a host slept until it was asked to call, and called within a quarter of a second.
pub(crate) fn punctual(before: u64, now: u64, awaited: u64) -> bool {
    before < awaited && now.abs_diff(awaited) <= SECOND / 4
}
