//! What must hold after every step, checked from scratch.

#![expect(clippy::panic, reason = "a check that fails panics: that is what it is for")]

use alloc::collections::BTreeSet;

use super::Gateway;
use super::state::not_before;
use crate::job::{Hold, JobState, NO_LEASE};
use crate::time::Timestamp;

impl Gateway {
    /// Checks every invariant of the gateway and its parts.
    ///
    /// # Panics
    /// On the first one that does not hold.
    ///
    /// # Complexity
    /// O(n log n): for tests.
    pub fn check_invariants(&self) {
        let state = &self.state;
        assert!(!state.recording && state.undo.is_empty() && state.held_events.is_empty(), "no transaction is open");
        state.jobs.check_invariants();
        state.places.check_invariants();
        state.pool.check_invariants(state.now);
        state.table.check_invariants(&state.pool, &state.places);
        state.outbox.check_invariants();
        self.check_jobs();
        self.check_counts();
        self.check_timers();
    }

    /// Up to which instant of the host's clock a reading is no surprise; `None`: none is.
    pub fn harmless_until(&self) -> Option<Timestamp> {
        let until = self.state.harmless_until(self.state.earliest());
        Some(until).filter(|at| *at != Timestamp::MAX).map(|at| self.state.to_host(at))
    }

    /// The first deadline, as the host's clock shows it, whatever is on trial.
    pub fn first_deadline(&self) -> Option<Timestamp> {
        let at = self.state.earliest();
        (at != Timestamp::MAX).then(|| self.state.to_host(at.max(self.state.now)))
    }

    fn check_jobs(&self) {
        let state = &self.state;
        let mut leased = BTreeSet::new();
        for (slot, job) in state.jobs.iter() {
            let place = state.places.rank(slot);
            assert_eq!(
                job.hot.state == JobState::Queued,
                place.is_some(),
                "{} has a place exactly while queued",
                job.id
            );
            match job.hot.state {
                JobState::Running => {
                    let Some(lease) = state.pool.lease_record(job.hot.lease) else {
                        panic!("{} runs without a live lease", job.id);
                    };
                    assert_eq!(lease.item, slot, "the lease is of its job");
                    assert!(leased.insert(lease.id), "one job per lease");
                    assert!(lease.deadline >= state.now, "no lease outlives its deadline");
                }
                _ => assert_eq!(job.hot.lease, NO_LEASE),
            }
            let parked = state.parked.jobs.contains(&state.parked_place(slot));
            let held = matches!(job.hot.hold, Hold::Parked | Hold::Throttled);
            assert_eq!(held, parked, "{} is parked under its customer", job.id);
            let barred = state.parked.barred.contains(&(job.customer, job.key.sequence(), slot));
            assert_eq!(job.hot.hold == Hold::Barred, barred, "{} is barred under its customer", job.id);
            if job.hot.hold == Hold::NotBefore {
                assert!(not_before(job) >= state.now, "a retry that is due is not held back");
            }
        }
        assert_eq!(leased.len(), state.pool.leases().count(), "a lease has exactly one running job");
        let mut waiting = 0;
        for (route, name, _) in state.table.routes.iter() {
            let mut rank = 0;
            for (key, slot, ready) in state.places.iter(route) {
                let job = &state.jobs[slot];
                let place = (job.route, job.lane(), job.key.sequence());
                assert_eq!(place, (route, key.lane(), key.sequence()), "{} stands where it says", job.id);
                assert_eq!(state.places.rank(slot), Some(rank), "positions of {name} are without gaps");
                assert!(!ready || job.hot.hold == Hold::None, "{} is held and yet ready", job.id);
                rank += 1;
            }
            assert_eq!(rank, state.places.len(route));
            waiting += rank;
        }
        assert_eq!(waiting, state.jobs.count(JobState::Queued), "each queued job is in exactly one place");
    }

    fn check_counts(&self) {
        let state = &self.state;
        for (customer, name, record) in state.customers.iter() {
            let of = |state: JobState| {
                let own = |(_, job): &(u32, &crate::job::Job)| job.customer == customer && job.hot.state == state;
                self.state.jobs.iter().filter(own).count() as u32
            };
            assert_eq!(record.queued, of(JobState::Queued), "queued of {name}");
            assert_eq!(record.running, of(JobState::Running), "running of {name}");
            let jobs = state.jobs.iter().filter(|(_, job)| job.customer == customer).count();
            let owed =
                state.outbox.iter().filter_map(|own| own.party.known()).filter(|known| known.0 == customer).count();
            assert_eq!(record.refs as usize, jobs + owed, "references to {name}");
            let policy = state.policy(customer);
            if let Some(rate) = policy.rate {
                assert!(record.bucket.available(&rate, state.now) <= rate.burst(), "tokens of {name} within capacity");
            }
        }
        for (customer, .., slot) in &state.parked.jobs {
            let (name, job) = (state.customers.name(*customer), state.jobs[*slot].id);
            assert!(state.is_woken(*customer, *slot), "something wakes {job}, which {name} has parked");
        }
        for (route, name, record) in state.table.routes.iter() {
            let jobs = state.jobs.iter().filter(|(_, job)| job.route == route).count();
            let owed = state.outbox.iter().filter_map(|own| own.party.known()).filter(|known| known.1 == route).count();
            assert_eq!(record.refs as usize, jobs + owed, "references to {name}");
        }
        let counters = &state.scalars.counters;
        let ended = counters.completed + counters.errors + counters.cancelled;
        assert_eq!(counters.submitted, u64::from(state.jobs.live()) + ended, "each job is live or has ended once");
        self.check_settlements(ended);
        assert_eq!(
            ended,
            u64::from(state.jobs.terminal()) + counters.forgotten,
            "ended jobs are kept or were forgotten"
        );
        let room = state.config.jobs_max as usize;
        assert!(state.jobs.live() as usize + state.outbox.len() <= room, "there is room for every settlement to come");
    }

    /// Each ended job has exactly one first settlement; every other one is a correction of one before it.
    fn check_settlements(&self, ended: u64) {
        let state = &self.state;
        let kept = if state.config.billing.settlements { ended } else { 0 };
        let corrections = state.outbox.pushed_total().checked_sub(kept);
        let told = state.scalars.counters.corrections;
        assert!(corrections.is_some_and(|count| count <= told), "each ended job has exactly one first settlement");
        assert!(corrections == Some(told) || kept == 0, "each correction has an entry");
        let standing = state.outbox.iter().filter(|own| own.correction.is_some() != own.party.known().is_none());
        assert_eq!(standing.count(), 0, "corrections are told by name, first settlements by number");
        state.late.check_invariants();
        assert!(state.late.len() <= state.config.billing.late_usage_max as usize, "leases to be told of are bounded");
        for own in state.late.iter() {
            assert!(state.pool.find_lease(own.lease).is_none(), "a live lease has not ended");
            assert!(own.ended + state.config.billing.late_usage_for > state.now, "no lease is kept beyond its time");
            let job = state.jobs.find(own.job).filter(|slot| state.jobs[*slot].key.sequence() == own.sequence);
            let live = job.is_some_and(|slot| !state.jobs[slot].hot.state.is_terminal());
            assert_eq!(own.settled.is_none(), live, "a lease of {} is settled with its job", own.job);
        }
    }

    fn check_timers(&self) {
        let state = &self.state;
        for (slot, job) in state.jobs.iter() {
            let armed = state.jobs.timers.armed(slot).unwrap_or(Timestamp::MAX);
            let due = if job.hot.state.is_terminal() { Timestamp::MAX } else { state.job_deadline(slot) };
            assert_eq!(armed, due, "the timer of {} stands at its first deadline", job.id);
        }
        for backend in state.pool.in_order() {
            let armed = state.backend_timers.armed(backend);
            assert_eq!(armed, state.pool.entry(backend).hot.breaker.next_deadline(), "the breaker's deadline is armed");
        }
    }
}
