//! Every getter of the gateway against what the model says.

use libgateway::{
    BackendView, BreakerState, Counters, CustomerView, Gateway, JobFailure, JobId, JobState, JobView, Outcome,
    Priority, Stats, WaitReason,
};

use super::money::Tokens;
use super::parts::{End, Fault, Hold, Job, Model, Phase, Worker};
use super::queue::Blocked;

impl Model {
    /// Compares everything there is to ask.
    pub(crate) fn check(&self, gateway: &Gateway, customers: &[&str]) {
        assert_eq!(gateway.now().as_nanos(), self.clock.shown(self.now), "now");
        let next = self.next_deadline().map(|at| self.clock.shown(at));
        assert_eq!(gateway.next_deadline().map(|at| at.as_nanos()), next, "next deadline");
        self.check_stats(&gateway.stats());
        for job in &self.jobs {
            let id = JobId::from_entropy(job.id);
            let view = gateway.job(id).unwrap_or_else(|| panic!("{id} is gone"));
            self.check_job(job, &view);
            assert_eq!(gateway.position(id), self.position(job), "position of {id}");
            assert_eq!(gateway.explain(id), self.explain(job), "why {id} waits");
        }
        for (customer, key) in customers.iter().flat_map(|name| ["k1", "k2", "k3"].map(|key| (name, key))) {
            let own = self.promise(customer, key).map(|own| JobId::from_entropy(own.job));
            assert_eq!(gateway.job_by_key(customer, key), own, "{key} of {customer}");
        }
        let views = gateway.backends();
        assert_eq!(views.len(), self.backends.len(), "backends");
        for (worker, view) in self.backends.iter().zip(&views) {
            check_backend(worker, view, self);
            assert_eq!(gateway.backend(&worker.name).is_some(), !worker.leaving, "{} by its name", worker.name);
        }
        for name in customers {
            assert_eq!(gateway.customer(name).as_ref().map(seen_customer), self.customer_view(name), "{name}");
        }
    }

    fn check_stats(&self, stats: &Stats) {
        let count = |state| self.jobs.iter().filter(|job| job.state == state).count() as u32;
        let states = [JobState::Queued, JobState::Running, JobState::Complete, JobState::Error, JobState::Cancelled];
        let seen = [stats.queued, stats.running, stats.complete, stats.error, stats.cancelled];
        assert_eq!(seen, states.map(count), "jobs by state");
        let seen = [stats.customers, stats.routes, stats.backends, stats.unconfirmed, stats.events];
        let own =
            [self.customers.len(), self.routes.len(), self.backends.len(), self.outbox.bills.len(), self.events.len()];
        assert_eq!(seen, own.map(|len| len as u32), "customers, routes, backends, unconfirmed, events");
        assert_eq!(stats.charged_micros, self.charged, "all charges");
        assert_eq!(stats.credited_micros, self.credited, "all that was given back");
        assert_eq!(stats.unpriced_ns, self.unpriced, "GPU time without a price");
        assert_eq!(stats.clock_offset.as_nanos(), self.clock.doubted, "clock offset");
        self.check_counters(&stats.counters);
    }

    fn check_counters(&self, seen: &Counters) {
        let own = &self.counters;
        let pairs = [
            ("submitted", seen.submitted, own.submitted),
            ("leases", seen.leases, own.leases),
            ("warm hits", seen.warm_hits, own.warm_hits),
            ("probes", seen.probes, own.probes),
            ("completed", seen.completed, own.completed),
            ("errors", seen.errors, own.errors),
            ("cancelled", seen.cancelled, own.cancelled),
            ("retries", seen.retries, own.retries),
            ("requeues", seen.requeues, own.requeues),
            ("lost", seen.lost, own.lost),
            ("released", seen.released, own.released),
            ("preempted", seen.preempted, own.preempted),
            ("parked", seen.parked, own.parked),
            ("aged", seen.aged, own.aged),
            ("forgotten", seen.forgotten, own.forgotten),
            ("clock leaps", seen.clock_leaps, own.clock_leaps),
            ("capped", seen.capped, own.capped),
            ("unpriced", seen.unpriced, own.unpriced),
            ("corrections", seen.corrections, own.corrections),
        ];
        for (what, seen, own) in pairs {
            assert_eq!(seen, own, "{what}");
        }
    }

    fn check_job(&self, job: &Job, view: &JobView) {
        let id = view.id;
        assert_eq!((&view.customer, &view.route, view.task), (&job.customer, &job.route, job.task), "names of {id}");
        assert_eq!((view.priority, view.state), (Priority::from_lane(job.priority), job.state), "state of {id}");
        let shown = |at| self.clock.shown(at);
        assert_eq!(view.created.as_nanos(), shown(job.created), "creation of {id}");
        assert_eq!(view.started.map(|at| at.as_nanos()), job.started.map(shown), "start of {id}");
        let finished = job.end.is_some().then(|| shown(job.since));
        assert_eq!(view.finished.map(|at| at.as_nanos()), finished, "end of {id}");
        assert_eq!(view.position, self.position(job), "position of {id}");
        assert_eq!(view.eta.map(|span| span.as_nanos()), self.eta(job), "expected wait of {id}");
        let seen = (view.progress_ppm, view.attempts, view.requeues, view.version);
        assert_eq!(seen, (job.progress, job.attempts, job.requeues, job.version), "progress, counts, version of {id}");
        assert_eq!(view.lease.map(|lease| lease.as_u64()), job.lease.as_ref().map(|lease| lease.id), "lease of {id}");
        assert_eq!(view.backend.as_ref(), job.lease.as_ref().map(|lease| &lease.backend), "backend of {id}");
        assert_eq!(view.preemptions, job.preemptions, "preemptions of {id}");
        assert_eq!(view.failed_on, self.failed_on(job), "backends that failed {id}");
        assert_eq!(view.failure.as_ref().map(seen_failure), job.failure, "latest failure of {id}");
        assert_eq!(view.outcome.as_ref().map(seen_outcome), job.end, "outcome of {id}");
    }

    /// (position + 1) × mean time ÷ slots.
    fn eta(&self, job: &Job) -> Option<u64> {
        let way = &self.routes[self.route(&job.route).unwrap()];
        let serving = self.backends.iter().filter(|own| !own.leaving && own.serves(&way.family, &way.model, way.kind));
        let slots: u128 = serving.map(|own| u128::from(own.slots)).sum();
        let position = self.position(job)?;
        if slots == 0 || way.mean == 0 {
            return None;
        }
        let wait = u128::from(way.mean) * (u128::from(position) + 1) / slots;
        Some(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    fn explain(&self, job: &Job) -> Option<WaitReason> {
        let way = &self.routes[self.route(&job.route).unwrap()];
        let mut serving = self.backends.iter().filter(|own| own.serves(&way.family, &way.model, way.kind)).peekable();
        let position = self.position(job)?;
        let shown = |at| libgateway::Timestamp::from_nanos(self.clock.shown(at));
        if let Hold::Until(at) = job.hold {
            return Some(WaitReason::NotBefore { until: shown(at), failed_on: self.failed_on(job) });
        }
        if way.paused {
            return Some(WaitReason::Paused);
        }
        if serving.peek().is_none() {
            return Some(WaitReason::NoBackend);
        }
        match self.blocked(job) {
            Some(Blocked::Running) => {
                let running = self.count(&job.customer, JobState::Running);
                return Some(WaitReason::CustomerRunning { running });
            }
            Some(Blocked::Tokens(until)) => {
                return Some(WaitReason::CustomerRate { until: until.map(shown) });
            }
            None => {}
        }
        if !serving.any(|own| self.is_free(own)) {
            return Some(WaitReason::BackendsBusy);
        }
        let first = self.first_of_route(&job.route).is_some_and(|first| self.jobs[first].id == job.id);
        Some(if first { WaitReason::Next } else { WaitReason::Behind { jobs: position } })
    }

    /// Backends that failed a job, without those that left.
    fn failed_on(&self, job: &Job) -> Vec<String> {
        let name = |order: &u32| self.backends.iter().find(|own| own.order == *order).map(|own| own.name.clone());
        job.failed_on.iter().filter_map(name).collect()
    }

    fn customer_view(&self, name: &str) -> Option<CustomerSeen> {
        let own = &self.customers[self.customer(name)?];
        let policy = self.policy(name);
        Some(CustomerSeen {
            weight: policy.weight,
            running: self.count(name, JobState::Running),
            queued: self.count(name, JobState::Queued),
            tokens: policy.rate.map(|limit| Tokens::of(&limit).whole(own, self.now)),
            tier: policy.tier.to_string(),
            own_policy: own.policy.is_some(),
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct CustomerSeen {
    weight: u32,
    running: u32,
    queued: u32,
    tokens: Option<u64>,
    tier: String,
    own_policy: bool,
}

fn seen_customer(view: &CustomerView) -> CustomerSeen {
    let (tokens, own_policy, tier) = (view.tokens, view.own_policy, view.tier.clone());
    CustomerSeen { weight: view.weight, running: view.running, queued: view.queued, tokens, tier, own_policy }
}

fn check_backend(own: &Worker, view: &BackendView, model: &Model) {
    let name = &own.name;
    let seen = (&view.backend.name, view.backend.slots, view.live, view.draining);
    assert_eq!(seen, (name, own.slots, own.live, own.draining || own.leaving), "{name}");
    assert_eq!((view.completed, view.failed, view.lost), (own.completed, own.failed, own.lost), "results of {name}");
    let breaker = own.breaker.clone().at(model.now);
    let (state, forced) = match breaker.phase {
        Phase::Closed => (BreakerState::Closed, false),
        Phase::Open => (BreakerState::Open, false),
        Phase::HalfOpen | Phase::Probing => (BreakerState::HalfOpen, false),
        Phase::HeldClosed => (BreakerState::Closed, true),
        Phase::HeldOpen => (BreakerState::Open, true),
    };
    let seen = &view.breaker;
    assert_eq!((seen.state, seen.forced), (state, forced), "breaker of {name}");
    let until = Some(breaker.deadline).filter(|at| *at != u64::MAX).map(|at| model.clock.shown(at));
    assert_eq!(seen.until.map(|at| at.as_nanos()), until, "end of the state of the breaker of {name}");
    let seen = (seen.consecutive_failures, seen.reopens, seen.probe_successes, seen.probe_out);
    let own = (breaker.in_a_row, breaker.reopens, breaker.probes, breaker.phase == Phase::Probing);
    assert_eq!(seen, own, "counts of the breaker of {name}");
}

fn seen_failure(failure: &JobFailure) -> Fault {
    Fault { class: failure.class, message: failure.message.to_string(), retriable: failure.retriable }
}

fn seen_outcome(outcome: &Outcome) -> End {
    match outcome {
        Outcome::Complete(output) => End::Complete(output.clone()),
        Outcome::Error(failure) => End::Error(seen_failure(failure)),
        Outcome::Cancelled(reason) => End::Cancelled(*reason),
    }
}
