//! From the body of a snapshot to a state. Nothing is believed: what contradicts itself is refused.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::late::LateLease;
use super::route::RouteRecord;
use super::settlement::{Party, SettlementRecord};
use super::snapshot::{
    BackendBody, CustomerBody, FamilyBody, Head, JobBody, KeyBody, LeaseBody, PartyBody, RouteBody, SettlementBody,
    ShareBody,
};
use super::state::State;
use serde::Deserialize;

use crate::backend::LeaseRecord;
use crate::error::SnapshotError;
use crate::id::{LeaseId, NAME_LEN_MAX, check_name, is_unheard_of};
use crate::job::{Content, Extra, Hold, Job, JobHot, JobState, NO_LEASE};
use crate::queue::{Entrant, Key, LANES, SEQUENCE_MAX, TAG_MAX};
use crate::time::Timestamp;

type Check = Result<(), SnapshotError>;

/// Reads a body part by part, so that no more than one record stands between the bytes and the state.
pub(crate) fn restore(body: &[u8]) -> Result<State, SnapshotError> {
    let mut body = Reader(body);
    let head: Head = body.one()?;
    check_numbers(&head)?;
    let Head { config, clock, now, epoch, scalars, next_lease, next_backend, next_route, next_event } = head;
    let mut state = State::new(config, now).map_err(|_| corrupt("config"))?;
    ensure(clock.now() >= now, "clock")?;
    ensure(epoch.is_sound() && (epoch.first()..=NUMBER_MAX).contains(&next_lease), "epoch")?;
    (state.clock, state.now) = (clock, now);
    state.epoch = epoch;
    state.scalars = scalars;
    state.pool.next_lease = next_lease;
    state.pool.next_order = next_backend;
    state.table.next_order = next_route;
    state.events.next = next_event;

    let mut builder = Builder {
        state,
        backends: Vec::new(),
        routes: Vec::new(),
        customers: Vec::new(),
        jobs: Vec::new(),
        queued: Vec::new(),
        timers: Vec::new(),
    };
    builder.families(body.list()?)?;
    builder.backends(body.list()?)?;
    builder.routes(body.list()?)?;
    builder.customers(&mut body)?;
    builder.shares(body.list()?)?;
    builder.jobs(&mut body)?;
    builder.retained(&mut body)?;
    builder.keys(&mut body)?;
    builder.leases(&mut body)?;
    builder.places()?;
    builder.outbox(&body.one()?)?;
    builder.late(&mut body)?;
    builder.state.prices = body.one()?;
    if !body.0.is_empty() {
        return Err(corrupt("length"));
    }
    builder.tallies()?;
    builder.finish()
}

/// The bytes of a body that were not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn one<T: Deserialize<'a>>(&mut self) -> Result<T, SnapshotError> {
        let (value, rest) = postcard::take_from_bytes(self.0).map_err(|_| corrupt("encoding"))?;
        self.0 = rest;
        Ok(value)
    }

    fn list<T: Deserialize<'a>>(&mut self) -> Result<Vec<T>, SnapshotError> {
        self.one()
    }

    /// How many things follow. Never more than there are bytes, so that room can be made for them.
    fn len(&mut self) -> Result<usize, SnapshotError> {
        let len = self.one()?;
        if len <= self.0.len() { Ok(len) } else { Err(corrupt("encoding")) }
    }
}

/// Numbers that only rise stand where as many again are left as there can ever have been, so that no step from here can
/// overflow one.
fn check_numbers(head: &Head) -> Check {
    let Head { scalars, next_lease, next_route, next_event, next_backend, .. } = head;
    ensure((1..=NUMBER_MAX).contains(next_lease) && *next_route <= NUMBER_MAX, "numbers")?;
    ensure((1..=NUMBER_MAX).contains(next_event) && scalars.customer <= NUMBER_MAX, "numbers")?;
    ensure(scalars.sequence <= SEQUENCE_MAX / 2 && *next_backend <= u32::MAX / 2, "numbers")?;
    ensure(scalars.counters.all().into_iter().all(|count| count <= NUMBER_MAX), "counters")?;
    let sums = [scalars.charged_micros, scalars.credited_micros, scalars.unpriced_ns];
    ensure(sums.into_iter().all(|sum| sum <= u128::MAX / 2), "charged")
}

/// A state that grows, with the numbers in memory of the records of the body.
struct Builder {
    state: State,
    backends: Vec<u32>,
    routes: Vec<u32>,
    customers: Vec<u32>,
    jobs: Vec<u32>,
    /// Places of jobs that wait: key, cost, and whether they stand in the line of their flow.
    queued: Vec<(Key, u32, u64, bool, bool)>,
    /// Timers of customers, armed when all that arms and disarms them is done.
    timers: Vec<(u32, Timestamp)>,
}

impl Builder {
    fn families(&mut self, families: Vec<FamilyBody>) -> Check {
        for (index, FamilyBody { name, lanes }) in families.into_iter().enumerate() {
            ensure(self.state.pool.find_family(&name).is_none(), "families")?;
            let id = self.state.pool.open_family(&name).map_err(|_| corrupt("families"))?;
            ensure(id as usize == index, "families")?;
            for (lane, (clock, high)) in lanes.into_iter().enumerate() {
                ensure(clock <= high && high <= TAG_MAX / 2, "families")?;
                self.state.places.restore_lane(id, lane as u8, clock, high);
            }
        }
        Ok(())
    }

    fn backends(&mut self, backends: Vec<BackendBody>) -> Check {
        let now = self.state.now;
        let mut last = None;
        for BackendBody { spec, order, draining, leaving, mut hot } in backends {
            ensure(last.is_none_or(|last| last < order) && order < self.state.pool.next_order, "backends")?;
            last = Some(order);
            ensure(hot.warm.len() <= spec.warm_max as usize, "warm")?;
            let distinct: BTreeSet<u64> = hot.warm.iter().copied().collect();
            ensure(distinct.len() == hot.warm.len() && !distinct.contains(&0), "warm")?;
            ensure(hot.completed.max(hot.failed).max(hot.lost) <= NUMBER_MAX, "backends")?;
            // Live leases are counted when they are put back.
            hot.live = 0;
            let pool = &mut self.state.pool;
            let id = pool.restore(spec, order, draining, leaving, hot, now).ok_or_else(|| corrupt("backends"))?;
            self.backends.push(id);
        }
        Ok(())
    }

    fn routes(&mut self, routes: Vec<RouteBody>) -> Check {
        let mut last = None;
        let families = self.state.pool.families().count();
        for RouteBody { name, order, family, kind, model, paused, service } in routes {
            ensure(last.is_none_or(|last| last < order) && order < self.state.table.next_order, "routes")?;
            last = Some(order);
            ensure((family as usize) < families && self.state.table.routes.find(&name).is_none(), "routes")?;
            let mut record = RouteRecord::new(order, family, kind, Arc::from(model));
            record.paused = paused;
            record.service = service;
            let next = self.state.table.next_order;
            let id = self.state.insert_route(&name, record).ok_or_else(|| corrupt("routes"))?;
            self.state.table.next_order = next;
            self.routes.push(id);
        }
        Ok(())
    }

    fn customers(&mut self, body: &mut Reader<'_>) -> Check {
        let mut last = None;
        for _ in 0..body.len()? {
            let CustomerBody { name, order, policy, bucket, timer, woken } = body.one()?;
            let next = self.state.scalars.customer;
            ensure(last.is_none_or(|last| last < order) && order < next, "customers")?;
            last = Some(order);
            ensure(self.state.customers.find(&name).is_none(), "customers")?;
            if let Some(policy) = &policy {
                policy.check().map_err(|_| corrupt("policy"))?;
            }
            let id = self.state.insert_customer(&name, policy.map(Arc::new)).ok_or_else(|| corrupt("customers"))?;
            self.state.scalars.customer = next;
            let record = &mut self.state.customers[id];
            record.order = order;
            record.bucket = bucket;
            let (rate, now) = (self.state.policy(id).rate, self.state.now);
            ensure(rate.is_none_or(|rate| bucket.fits(&rate, now)), "bucket")?;
            self.timers.extend(timer.map(|at| (id, at)));
            self.state.set_woken(id, woken);
            self.customers.push(id);
        }
        Ok(())
    }

    fn shares(&mut self, shares: Vec<ShareBody>) -> Check {
        let families = self.state.pool.families().count();
        for ShareBody { customer, family, lane, given, rest, typical } in shares {
            let customer = *self.customers.get(customer as usize).ok_or_else(|| corrupt("shares"))?;
            ensure((family as usize) < families && (lane as usize) < LANES, "shares")?;
            let restored = self.state.places.restore_account(customer, family, lane, given, rest, typical);
            restored.ok_or_else(|| corrupt("shares"))?;
        }
        Ok(())
    }

    fn jobs(&mut self, body: &mut Reader<'_>) -> Check {
        let mut last = None;
        let len = body.len()?;
        ensure(len <= self.state.config.jobs_max as usize, "jobs")?;
        self.jobs.reserve(len);
        self.state.jobs.reserve(len);
        for _ in 0..len {
            let body: JobBody = body.one()?;
            let sequence = Key::from_bits(body.key).sequence();
            ensure(last.is_none_or(|last| last < sequence) && !body.state.is_terminal(), "jobs")?;
            last = Some(sequence);
            let place = (Key::from_bits(body.key), body.cost, body.listed, body.returned);
            let slot = self.insert(body)?;
            self.jobs.push(slot);
            if self.state.jobs[slot].hot.state == JobState::Queued {
                let (key, cost, listed, returned) = place;
                self.queued.push((key, slot, cost, listed, returned));
            }
        }
        Ok(())
    }

    fn leases(&mut self, body: &mut Reader<'_>) -> Check {
        for _ in 0..body.len()? {
            self.lease(body.one()?)?;
        }
        for slot in &self.jobs {
            let hot = self.state.jobs[*slot].hot;
            ensure((hot.state == JobState::Running) == (hot.lease != NO_LEASE), "leases")?;
        }
        Ok(())
    }

    fn job(&self, body: JobBody) -> Result<Job, SnapshotError> {
        let now = self.state.now;
        let key = Key::from_bits(body.key);
        let key = Key::new(key.lane(), 0, key.sequence());
        let customer = *self.customers.get(body.customer as usize).ok_or_else(|| corrupt("customer of a job"))?;
        let route = *self.routes.get(body.route as usize).ok_or_else(|| corrupt("route of a job"))?;
        ensure((key.lane() as usize) < LANES && key.lane() <= body.priority.lane(), "lane of a job")?;
        ensure(body.created <= now && body.since <= now, "times of a job")?;
        ensure(body.state.is_terminal() == body.outcome.is_some(), "outcome of a job")?;
        ensure(body.outcome.as_ref().is_none_or(|outcome| outcome.state() == body.state), "outcome of a job")?;
        ensure(body.outcome.is_none() || body.payload.is_empty(), "payload of a job")?;
        let queued = body.state == JobState::Queued;
        ensure(queued || (body.hold == Hold::None && !body.listed), "hold of a job")?;
        ensure(body.listed || !body.returned, "place of a job")?;
        let alone = matches!(body.hold, Hold::NotBefore | Hold::Barred);
        ensure(!(alone && body.listed), "hold of a job")?;
        let not_before = body.extra.as_ref().map(|extra| extra.not_before);
        ensure(body.hold != Hold::NotBefore || not_before.is_some_and(|at| at >= now), "hold of a job")?;
        let extra = body.extra.map(|extra| {
            Box::new(Extra {
                timeouts: extra.timeouts,
                idempotency: extra.idempotency,
                not_before: extra.not_before,
                begins: extra.begins,
                absorbed: extra.absorbed,
                billable: extra.billable,
                requeues: extra.requeues,
                failure: extra.failure,
                first_started: extra.first_started,
                failed_on: extra.failed_on,
                earlier: extra.earlier,
            })
        });
        Ok(Job {
            id: body.id,
            key,
            content: body.outcome.map_or(Content::Payload(body.payload), Content::Outcome),
            created: body.created,
            estimate: body.estimate,
            affinity: body.affinity,
            extra,
            customer,
            route,
            tokens: body.tokens,
            task: body.task,
            hot: JobHot {
                started: body.started,
                since: body.since,
                lease: NO_LEASE,
                version: body.version,
                progress_ppm: body.progress_ppm,
                attempts: body.attempts,
                state: body.state,
                priority: body.priority,
                hold: body.hold,
                paid: body.paid,
            },
        })
    }

    fn lease(&mut self, body: LeaseBody) -> Check {
        let item = *self.jobs.get(body.job as usize).ok_or_else(|| corrupt("leases"))?;
        let backend = *self.backends.get(body.backend as usize).ok_or_else(|| corrupt("leases"))?;
        let id = LeaseId::from_u64(body.id);
        let mut hot = self.state.jobs[item].hot;
        ensure(hot.state == JobState::Running && hot.lease == NO_LEASE, "leases")?;
        ensure(!is_unheard_of(body.id, self.state.pool.next_lease), "leases")?;
        ensure(self.state.pool.find_lease(id).is_none(), "leases")?;
        ensure(body.granted <= self.state.now && body.deadline >= self.state.now, "times of a lease")?;
        hot.lease = self.state.pool.put_lease(LeaseRecord {
            id,
            item,
            backend,
            permit: body.permit,
            probe: body.probe,
            warm: body.warm,
            granted: body.granted,
            deadline: body.deadline,
            lease_for: body.lease_for,
            charge: body.charge,
            bridges: body.bridges,
            silent: body.silent,
            silences: body.silences,
        });
        self.state.pool.entry_mut(backend).hot.live += 1;
        self.state.set_hot(item, hot);
        let job = &self.state.jobs[item];
        let counted = self.state.places.restore_running(job.customer, job.route, job.lane(), body.charge);
        counted.ok_or_else(|| corrupt("shares"))
    }

    /// Puts queued jobs to their places, in service order, so that each finds its flow as it was.
    fn places(&mut self) -> Check {
        let now = self.state.now;
        for backend in &self.backends {
            self.state.pool.refresh(*backend, now);
            self.state.refresh_backend(*backend);
        }
        self.queued.sort_unstable();
        for (key, slot, cost, listed, returned) in core::mem::take(&mut self.queued) {
            let hold = self.state.jobs[slot].hot.hold;
            let (alone, fresh, ready) = (!listed, !returned, hold == Hold::None);
            let entrant = Entrant { cost, alone, fresh, ready, ..self.state.entrant(slot) };
            self.state.places.relist(slot, key, entrant).ok_or_else(|| corrupt("places"))?;
            match hold {
                Hold::None | Hold::NotBefore => {}
                Hold::Parked | Hold::Throttled => {
                    let place = self.state.parked_place(slot);
                    self.state.parked.jobs.insert(place);
                }
                Hold::Barred => {
                    self.state.parked.barred.insert((entrant.customer, entrant.sequence, slot));
                }
            }
        }
        self.state.follow();
        Ok(())
    }

    fn retained(&mut self, body: &mut Reader<'_>) -> Check {
        let mut last = Timestamp::EPOCH;
        for _ in 0..body.len()? {
            let body: JobBody = body.one()?;
            ensure(body.state.is_terminal() && body.since >= last, "retained")?;
            last = body.since;
            let slot = self.insert(body)?;
            self.state.jobs.retain(slot);
        }
        ensure(self.state.jobs.surplus().is_none(), "retained")
    }

    fn insert(&mut self, body: JobBody) -> Result<u32, SnapshotError> {
        let job = self.job(body)?;
        ensure(job.key.sequence() < self.state.scalars.sequence, "jobs")?;
        ensure(self.state.jobs.find(job.id).is_none(), "jobs")?;
        if let Some(own) = job.idempotency() {
            ensure(!job.hot.state.is_terminal() && self.state.jobs.keys.get(own.address).is_none(), "idempotency")?;
        }
        Ok(self.state.insert_job(job))
    }

    /// Keys of ended jobs, the first to leave first.
    fn keys(&mut self, body: &mut Reader<'_>) -> Check {
        let len = body.len()?;
        let (now, table) = (self.state.now, &mut self.state.jobs.keys);
        let limits = table.limits();
        ensure(len <= limits.keys_max as usize, "idempotency")?;
        let mut last = Timestamp::EPOCH;
        for _ in 0..len {
            let KeyBody { ended, own, job } = body.one()?;
            let due = ended + limits.keep_for;
            ensure(last <= ended && ended <= now && (due > now || due == Timestamp::MAX), "idempotency")?;
            ensure(table.get(own.address).is_none(), "idempotency")?;
            last = ended;
            table.restore_ended(ended, own, job);
        }
        Ok(())
    }

    fn outbox(&mut self, outbox: &crate::billing::Outbox<SettlementBody>) -> Check {
        ensure(outbox.config() == self.state.outbox.config(), "outbox")?;
        let (customers, routes) = (self.customers.len(), self.routes.len());
        let fits = |own: &SettlementBody| match own.party {
            PartyBody::Known { customer, route } => {
                (customer as usize) < customers && (route as usize) < routes && own.correction.is_none()
            }
            PartyBody::Named { .. } => own.correction.is_some(),
        };
        ensure(outbox.iter().all(fits), "outbox")?;
        let room = u64::from(self.state.config.jobs_max);
        ensure(u64::from(self.state.jobs.live()) + outbox.len() as u64 <= room, "outbox")?;
        for own in outbox.iter() {
            if let PartyBody::Known { customer, route } = own.party {
                self.state.refer(self.customers[customer as usize], self.routes[route as usize]);
            }
        }
        let (customers, routes) = (&self.customers, &self.routes);
        self.state.outbox = outbox.map(|own| settlement(own, customers, routes));
        Ok(())
    }

    /// Ended leases whose usage may still be told: each stands once, behind those that ended before it, and is settled
    /// exactly if its job is no longer live.
    fn late(&mut self, body: &mut Reader<'_>) -> Check {
        let state = &mut self.state;
        let policy = &state.config.billing;
        let len = body.len()?;
        ensure(len <= policy.late_usage_max as usize, "late usage")?;
        let (mut before, mut owned) = (Timestamp::EPOCH, 0);
        for _ in 0..len {
            let own: LateLease = body.one()?;
            let number = state.late.len() as u64;
            let in_time = own.ended <= state.now && own.ended + policy.late_usage_for > state.now;
            ensure(in_time && own.ended >= before && own.granted <= own.ended, "late usage")?;
            before = own.ended;
            let id = own.lease;
            let known = !is_unheard_of(id.as_u64(), state.pool.next_lease);
            ensure(known && state.pool.find_lease(id).is_none() && state.late.find(id).is_none(), "late usage")?;
            ensure(own.earlier.is_none_or(|earlier| earlier < number), "late usage")?;
            let of_it = |earlier: u64| state.late.get(earlier).is_some_and(|other| other.sequence == own.sequence);
            ensure(own.earlier.is_none_or(of_it), "late usage")?;
            ensure(check_name("customer", &own.customer, NAME_LEN_MAX).is_ok(), "late usage")?;
            let slot = state.jobs.find(own.job).filter(|slot| state.jobs[*slot].key.sequence() == own.sequence);
            let live = slot.filter(|slot| !state.jobs[*slot].hot.state.is_terminal());
            ensure(own.settled.is_none() == live.is_some(), "late usage")?;
            owned += u64::from(live.is_some());
            state.late.push(own);
        }
        // Each lease of a live job is found from it, so that it hears of the job's end.
        let mut found = 0;
        for (_, job) in state.jobs.live_jobs() {
            let mut next = job.extra.as_ref().and_then(|extra| extra.earlier.late);
            while let Some(number) = next {
                let own = state.late.get(number).filter(|own| own.sequence == job.key.sequence() && own.job == job.id);
                let own = own.ok_or_else(|| corrupt("late usage"))?;
                found += 1;
                next = own.earlier;
            }
        }
        ensure(found == owned, "late usage")
    }

    /// Each job that came in is live or has ended, and each that ended has its settlement and is kept or was forgotten.
    fn tallies(&self) -> Check {
        let State { jobs, outbox, scalars, .. } = &self.state;
        let counters = &scalars.counters;
        let ended = counters.completed + counters.errors + counters.cancelled;
        ensure(counters.submitted == ended + u64::from(jobs.live()), "counters")?;
        let kept = if self.state.config.billing.settlements { ended + counters.corrections } else { 0 };
        ensure(kept == outbox.pushed_total(), "counters")?;
        ensure(ended == counters.forgotten + u64::from(jobs.terminal()), "counters")
    }

    fn finish(self) -> Result<State, SnapshotError> {
        let Self { mut state, jobs, routes, timers, .. } = self;
        for slot in jobs {
            state.rearm_job(slot);
        }
        for (customer, at) in timers {
            state.arm_customer(customer, at);
        }
        for route in routes {
            state.refresh_route(route);
        }
        let woken = state.parked.jobs.iter().all(|(customer, .., slot)| state.is_woken(*customer, *slot));
        ensure(woken, "hold of a job")?;
        let waits = |(_, customer): &(u64, u32)| state.first_parked(*customer).is_some();
        ensure(state.parked.woken.iter().all(waits), "customers")?;
        state.idle_customers.clear();
        state.idle_routes.clear();
        Ok(state)
    }
}

fn settlement(own: &SettlementBody, customers: &[u32], routes: &[u32]) -> SettlementRecord {
    SettlementRecord {
        epoch: own.epoch,
        job: own.job,
        party: match &own.party {
            PartyBody::Known { customer, route } => {
                Party::Known { customer: customers[*customer as usize], route: routes[*route as usize] }
            }
            PartyBody::Named { customer, route } => Party::Named { customer: customer.clone(), route: route.clone() },
        },
        task: own.task,
        state: own.state,
        measured: own.measured,
        capped: own.capped,
        attempts: own.attempts,
        requeues: own.requeues,
        price_version: own.price_version,
        price: own.price,
        reported: own.reported,
        usage: own.usage,
        absorbed: own.absorbed,
        charge: own.charge,
        created: own.created,
        started: own.started,
        finished: own.finished,
        backend: own.backend.clone(),
        tier: own.tier.clone(),
        device: own.device.clone(),
        more_devices: own.more_devices.clone(),
        correction: own.correction.map(Box::new),
    }
}

fn ensure(holds: bool, what: &'static str) -> Check {
    if holds { Ok(()) } else { Err(corrupt(what)) }
}

fn corrupt(what: &'static str) -> SnapshotError {
    SnapshotError::Corrupt { what }
}

/// As many and more are left, and the sum of a few does not overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 60;
