//! Time: what falls due, in which order, and when to call again.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::event::EventKind;
use super::lifecycle::Failure;
use super::settlement::Spent;
use super::state::{State, not_before};
use crate::backend::{LeaseRecord, Verdict};
use crate::billing::Usage;
use crate::failure::FailureClass;
use crate::job::{CancelReason, Hold, JobFailure, JobState, Outcome};
use crate::time::{Span, Tick, Timestamp, is_punctual};

/// What a call of [`crate::Gateway::advance`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Advance {
    /// Deadlines handled.
    pub handled: u32,
    /// The instant it handled everything up to.
    pub now: Timestamp,
    /// Whether more is due already: call again at once.
    pub more: bool,
    /// How far the host's clock stepped ahead, if that was put on trial.
    pub leapt: Option<Span>,
    /// When to call again; `None`: no deadline is armed.
    pub next_deadline: Option<Timestamp>,
}

/// What falls due next. At one instant jobs come before customers, those before backends, then the outbox and the
/// records that leave; within a kind, order of arrival decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Job,
    Customer,
    Backend,
    Outbox,
    Record,
}

impl State {
    /// Takes a reading of the host's clock and handles what is due by then, at the instant at which it is due.
    ///
    /// The machine's time never passes a deadline that was not handled: with more than `due_max` due it stops at the
    /// last one handled, and the command that follows happens then.
    #[inline]
    pub(crate) fn tick(&mut self, reading: Timestamp) -> (u32, bool) {
        let awaited = self.earliest();
        let caught_up = self.clock.now() == self.now;
        let tick = self.clock.observe_awaited(reading, self.harmless_until(awaited));
        // Nearly always nothing is due and the clock just went on a little.
        let quiet = tick.doubted.is_none() && !is_long(tick.elapsed, self.pool.lease_for_min);
        if caught_up && quiet && self.clock.now() < awaited {
            self.now = self.clock.now();
            return (0, false);
        }
        self.tick_slowly(tick, awaited)
    }

    /// Up to which instant a reading is no surprise: that at which the host was asked to call. One that has nothing to do is
    /// not asked, and may call whenever it likes as long as time takes nothing away; the last instant where there is nothing.
    #[inline]
    pub(crate) fn harmless_until(&self, awaited: Timestamp) -> Timestamp {
        if self.jobs.live() > 0 || self.jobs.next_to_leave().is_some() {
            return awaited;
        }
        let keys = self.jobs.keys.first_to_leave();
        let late = self.late.iter().next().map(|first| first.ended + self.config.billing.late_usage_for);
        let first = [keys, late].into_iter().flatten().fold(Timestamp::MAX, Timestamp::min);
        if awaited == Timestamp::MAX { first } else { first.max(awaited) }
    }

    /// Begins a command: counts it, and handles time.
    #[inline]
    pub(crate) fn begin(&mut self, reading: Timestamp) -> (u32, bool) {
        self.commands += 1;
        let done = self.tick(reading);
        self.jobs.keys.expire(self.now);
        done
    }

    /// Tells numbers apart from those of the life before.
    pub(crate) fn begin_epoch(&mut self, now: Timestamp, entropy: u64) {
        self.epoch = self.epoch.after(now, entropy);
        self.pool.next_lease = self.epoch.first();
        self.outbox.begin_epoch(self.epoch.first());
        self.events.clear();
    }

    fn tick_slowly(&mut self, tick: Tick, awaited: Timestamp) -> (u32, bool) {
        if let Some(leap) = tick.doubted {
            self.scalars.counters.clock_leaps += 1;
            self.emit(EventKind::ClockLeapt(leap));
        }
        let target = self.clock.now();
        let before = Timestamp::from_nanos(target.as_nanos().saturating_sub(tick.elapsed.as_nanos()));
        if !is_punctual(before, target, awaited) {
            self.bridge(tick.elapsed, target > awaited);
        }
        let mut handled = 0;
        while self.earliest() <= target {
            let Some((at, due)) = self.next_due() else { break };
            if handled == self.config.due_max {
                return (handled, true);
            }
            self.now = self.now.max(at);
            self.handle_due(due);
            // What nobody refers to any more since then is looked after at that instant, however late the host calls.
            self.tidy();
            self.changes = self.changes.wrapping_add(1);
            handled += 1;
        }
        self.now = target;
        (handled, false)
    }

    /// Gives workers time to be heard after a silence of the host: it slept, or its clock stepped ahead, and who was
    /// heard meanwhile nobody knows.
    ///
    /// A lease that lost most of its time to the silence gets all of it again, a few times at most until its worker is
    /// heard: a host that is always late must not keep dead workers alive. If the host also let a deadline pass, it may
    /// have been away, so what it missed is not counted as time that a worker worked: no limit of a running job passes by
    /// it. That, too, a few times at most, or a host that only calls when it is called would never end a job.
    ///
    /// # Complexity
    /// O(leases), at most once in a third of the shortest lease.
    fn bridge(&mut self, silence: Span, missed: bool) {
        if silence <= third(self.pool.lease_for_min) {
            return;
        }
        let now = self.clock.now();
        let before = Timestamp::from_nanos(now.as_nanos().saturating_sub(silence.as_nanos()));
        let unworked = |lease: &LeaseRecord| {
            let deadlines = self.deadlines(&self.jobs[lease.item]);
            let limit = deadlines.run.min(deadlines.total);
            let passed = before < limit && limit <= now && silence > third(lease.lease_for);
            missed && (passed || is_long(silence, lease.lease_for))
        };
        let all = self.pool.leases().map(|(slot, lease)| (slot, is_long(silence, lease.lease_for), unworked(lease)));
        let hurt: Vec<(u32, bool, bool)> = all.filter(|(_, unheard, unworked)| *unheard || *unworked).collect();
        for (slot, unheard, unworked) in hurt {
            let silent = if unworked { silence } else { Span::ZERO };
            if let Some(job) = self.pool.bridge(slot, unheard.then_some(now), silent) {
                self.rearm_job(job);
            }
        }
    }

    /// Goes on after a time in which there was no machine: the reading is right, and every worker is given time to be
    /// heard.
    pub(crate) fn resume(&mut self, reading: Timestamp) {
        self.clock.observe_awaited(reading, Timestamp::MAX);
        self.bridge(Span::MAX, false);
    }

    /// Takes the host's clock as it is: steps ahead that are on trial are time that passed.
    pub(crate) fn accept_clock(&mut self, reading: Timestamp) {
        self.tick(reading);
        let awaited = self.earliest();
        let accepted = self.clock.accept();
        self.bridge(accepted, self.clock.now() > awaited);
    }

    /// The earliest deadline, or the last instant, which is never.
    #[inline]
    pub(crate) fn earliest(&self) -> Timestamp {
        let or_never = |at: Option<Timestamp>| at.unwrap_or(Timestamp::MAX);
        let timers = or_never(self.jobs.timers.next_deadline())
            .min(or_never(self.customer_timers.next_deadline()))
            .min(or_never(self.backend_timers.next_deadline()));
        let leaves = or_never(self.jobs.next_to_leave().map(|(at, _)| at));
        timers.min(leaves).min(or_never(self.outbox.next_deadline()))
    }

    /// When something falls due next, as the host's clock shows it. While a step of that clock is on trial, not after its end:
    /// what is due by then would else wait for as long again.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let due = self.next_due().map(|(at, _)| at)?;
        let due = self.clock.trial_ends().map_or(due, |ends| due.min(ends));
        Some(self.to_host(due.max(self.now)))
    }

    fn next_due(&self) -> Option<(Timestamp, Due)> {
        let sources = [
            (self.jobs.timers.next_deadline(), Due::Job),
            (self.customer_timers.next_deadline(), Due::Customer),
            (self.backend_timers.next_deadline(), Due::Backend),
            (self.outbox.next_deadline(), Due::Outbox),
            (self.jobs.next_to_leave().map(|(at, _)| at), Due::Record),
        ];
        sources.into_iter().filter_map(|(at, due)| at.map(|at| (at, due))).min()
    }

    fn handle_due(&mut self, due: Due) {
        match due {
            Due::Job => {
                if let Some((slot, _)) = self.jobs.timers.pop_due(self.now) {
                    self.handle_job(slot);
                }
            }
            Due::Customer => {
                if let Some((customer, _)) = self.customer_timers.pop_due(self.now) {
                    self.handle_customer(customer);
                }
            }
            Due::Backend => {
                if let Some((backend, _)) = self.backend_timers.pop_due(self.now) {
                    let now = self.now;
                    self.pool.entry_mut(backend).hot.breaker.handle_timeout(now);
                    self.pool.refresh(backend, now);
                    self.refresh_backend(backend);
                }
            }
            Due::Outbox => {
                self.outbox.handle_timeout(self.now);
            }
            Due::Record => {
                if let Some((_, slot)) = self.jobs.next_to_leave() {
                    self.forget(slot);
                    self.jobs.drop_stale_front();
                }
            }
        }
    }

    /// Handles the weightiest of a job's deadlines that are due: what ends it before what only moves it.
    fn handle_job(&mut self, slot: u32) {
        let now = self.now;
        let job = &self.jobs[slot];
        let deadlines = self.deadlines(job);
        match job.hot.state {
            JobState::Queued if deadlines.total <= now => self.give_up_queued(slot, CancelReason::TotalTimeout),
            JobState::Queued if deadlines.start <= now => self.give_up_queued(slot, CancelReason::StartTimeout),
            JobState::Queued if deadlines.queue <= now => self.give_up_queued(slot, CancelReason::QueueTimeout),
            JobState::Queued if job.hot.hold == Hold::NotBefore && not_before(job) <= now => self.come(slot),
            JobState::Queued if self.ages_at(job) <= now => self.age(slot),
            JobState::Queued => self.rearm_job(slot),
            JobState::Running if deadlines.total <= now => self.time_out_running(slot),
            JobState::Running if deadlines.run <= now => {
                let failure = Failure::new(FailureClass::Timeout, String::from("the attempt took too long"));
                self.fail_attempt(slot, failure, &Usage::unmeasured());
            }
            JobState::Running => {
                let lease = self.pool.lease_record(job.hot.lease);
                if lease.is_some_and(|lease| lease.deadline <= now) {
                    self.lose_attempt(slot, &Usage::unmeasured());
                } else {
                    self.rearm_job(slot);
                }
            }
            JobState::Complete | JobState::Error | JobState::Cancelled => {}
        }
    }

    /// Lets a job wait for a backend from now on. One that never ran is as old as if it had been submitted now.
    fn come(&mut self, slot: u32) {
        let (lane, mut hot) = (self.jobs[slot].lane(), self.jobs[slot].hot);
        let fresh = hot.started == Timestamp::MAX;
        if fresh {
            self.dequeue(slot);
        }
        hot.hold = Hold::None;
        hot.since = self.now;
        self.set_hot(slot, hot);
        if fresh {
            let sequence = self.next_sequence();
            self.enqueue(slot, lane, sequence);
        } else {
            self.set_ready(slot, true);
        }
        self.rearm_job(slot);
    }

    fn time_out_running(&mut self, slot: u32) {
        let payer = self.payer_of_failure(false);
        let spent = self.end_attempt(slot, Verdict::Neutral, &Usage::unmeasured(), payer);
        let failure = JobFailure {
            class: FailureClass::Timeout,
            message: "the job's whole time was over".into(),
            retriable: false,
        };
        self.finish(slot, Outcome::Error(failure), spent.unwrap_or_else(Spent::nothing));
    }

    /// Lifts a waiting job a lane, to the place that an arrival there would get now.
    fn age(&mut self, slot: u32) {
        let job = &self.jobs[slot];
        let lane = job.lane().saturating_sub(1);
        // If it was parked, its customer is asked again in the new lane.
        self.dequeue(slot);
        self.lift(slot, lane);
        self.rearm_job(slot);
        self.scalars.counters.aged += 1;
        self.emit(EventKind::Aged(self.jobs[slot].id));
    }

    fn handle_customer(&mut self, customer: u32) {
        let record = &self.customers[customer];
        if record.refs > 0 {
            return self.wake(customer);
        }
        let full = self.policy(customer).rate.map_or(self.now, |rate| record.bucket.full_at(&rate));
        if full > self.now {
            return self.arm_customer(customer, full);
        }
        if record.policy.is_none() {
            self.places.forget_customer(customer);
            self.customers.remove(customer);
        }
    }

    /// Looks after what nothing refers to any more. The end of every command that is not inside another, and of each
    /// deadline handled.
    pub(crate) fn tidy(&mut self) {
        self.forget_late();
        self.jobs.drop_stale_front();
        while let Some(slot) = self.jobs.surplus() {
            self.forget(slot);
            self.jobs.drop_stale_front();
        }
        self.jobs.keys.drop_surplus();
        for (job, outcome) in self.held_outcomes.drain(..) {
            self.awaited.keep(job, outcome);
        }
        self.places.sweep();
        while let Some(customer) = self.idle_customers.pop() {
            let idle = self.customers.get(customer).is_some_and(|record| record.refs == 0 && record.policy.is_none());
            if idle && self.customer_timers.armed(customer).is_none() {
                self.arm_customer(customer, self.now + self.config.customer_idle);
            }
        }
        while let Some(route) = self.idle_routes.pop() {
            let idle = self.table.routes.get(route).filter(|record| record.is_idle()).map(|record| record.family);
            if let Some(family) = idle {
                self.drop_route(route);
                if self.pool.is_unserved(family) {
                    self.drop_families();
                }
            }
        }
        if self.pool.has_leaving() {
            self.reap();
        }
    }
}

/// Whether a silence took most of a lease, so that a worker that is heard three times in it may have missed its turn.
fn is_long(silence: Span, lease_for: Span) -> bool {
    silence.as_nanos() > lease_for.as_nanos() / 3 * 2
}

fn third(span: Span) -> Span {
    Span::from_nanos(span.as_nanos() / 3)
}
