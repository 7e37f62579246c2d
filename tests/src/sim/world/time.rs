//! The host's clock: what it shows, what the rules make of it, and how an auditor hears of that.

use libgateway::{AfterFailure, Command, Reply, Step, Timestamp};

use super::{Check, World};
use crate::model::{HostClock, is_punctual};
use crate::sim::audit::Silence;

impl World {
    pub(in crate::sim) fn reading(&self) -> u64 {
        self.time.saturating_add_signed(self.skew)
    }

    /// What the clock shows to the next command.
    pub(super) fn next_reading(&mut self) -> u64 {
        self.wild.take().unwrap_or_else(|| self.reading())
    }

    /// The machine's time as a worker can guess it.
    pub(super) fn machine_time(&self) -> u64 {
        let mut clock = self.clock;
        clock.read(self.reading(), self.awaited());
        clock.machine
    }

    /// Lets the rules of the clock have a reading, as the gateway will.
    pub(super) fn read_clock(&mut self, reading: u64, command: &Command<'_>) -> Vec<Silence> {
        let awaited = self.awaited();
        let harmless = self.gateway.harmless_until().map_or(u64::MAX, |at| self.clock.meant(at.as_nanos()));
        let before = self.clock.read(reading, harmless).before;
        let now = self.clock.machine;
        let mut silences = Vec::new();
        if !is_punctual(before, now, awaited) {
            silences.push(Silence { before, now, missed: now > awaited });
        }
        if matches!(command, Command::AcceptClock {}) && self.clock.believe() > 0 {
            silences.push(Silence { before: now, now: self.clock.machine, missed: self.clock.machine > awaited });
        }
        silences
    }

    fn awaited(&self) -> u64 {
        self.gateway.first_deadline().map_or(u64::MAX, |at| self.clock.meant(at.as_nanos()))
    }

    /// Calls until nothing is due and no trial comes to its end.
    pub(super) fn settle_clock(&mut self) -> Check {
        loop {
            let clock = self.clock;
            let reply = self.apply(Command::Advance {})?;
            let more = matches!(reply, Reply::Advanced(advance) if advance.more);
            if !more && clock == self.clock {
                return Ok(());
            }
        }
    }

    /// An operator says that the clock is right.
    pub(in crate::sim) fn accept_clock(&mut self) -> Check {
        self.settle_clock()?;
        self.apply(Command::AcceptClock {})?;
        self.settle_clock()
    }
}

/// A reply with its instants by machine time, which is what deadlines are counted in.
/// A command with the instants of its jobs in machine time.
pub(super) fn told_by_machine(mut command: Command<'static>, clock: &HostClock) -> Command<'static> {
    let mean = |at: &mut Option<Timestamp>| *at = at.map(|at| Timestamp::from_nanos(clock.meant(at.as_nanos())));
    match &mut command {
        Command::Submit(submit) => mean(&mut submit.not_before),
        Command::Release { not_before, .. } => mean(not_before),
        Command::All(steps) | Command::FirstOf(steps) => {
            for step in steps {
                match step {
                    Step::Submit(submit) => mean(&mut submit.not_before),
                    Step::Release { not_before, .. } => mean(not_before),
                    _ => {}
                }
            }
        }
        _ => {}
    }
    command
}

pub(super) fn by_machine(mut reply: Reply, clock: &HostClock) -> Reply {
    let mean = |at: &mut Timestamp| *at = Timestamp::from_nanos(clock.meant(at.as_nanos()));
    match &mut reply {
        Reply::Leased(lease) => mean(&mut lease.deadline),
        Reply::Leases(leases) => leases.iter_mut().for_each(|lease| mean(&mut lease.deadline)),
        Reply::Wait { until } => until.iter_mut().for_each(mean),
        Reply::Extended { deadline } => mean(deadline),
        Reply::Failed(AfterFailure::Retry { at }) => mean(at),
        Reply::Advanced(advance) => {
            mean(&mut advance.now);
            advance.next_deadline.iter_mut().for_each(mean);
        }
        Reply::Settlements(Some(taken)) => {
            for own in &mut taken.settlements {
                let corrected = own.correction.as_mut().map(|own| &mut own.at);
                let times = [&mut own.created, &mut own.finished].into_iter().chain(&mut own.started);
                times.chain(corrected).for_each(mean);
            }
        }
        Reply::All(replies) => return Reply::All(replies.drain(..).map(|own| by_machine(own, clock)).collect()),
        Reply::First { index, reply } => {
            return Reply::First { index: *index, reply: Box::new(by_machine((**reply).clone(), clock)) };
        }
        _ => {}
    }
    reply
}
