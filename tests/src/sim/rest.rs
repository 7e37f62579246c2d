//! After the faults: everything comes to rest, within a bound that is known before it begins.

use libgateway::{Command, CustomerPolicy, Route, Span, WaitReason};

use super::Machine;
use super::options::{HELD_MAX, ROUTES, SECOND, TOKENS_MAX};
use super::world::{Check, World};

impl World {
    /// Stops the faults, mends what they broke, and waits until nothing is left to do.
    pub(super) fn rest(&mut self) -> Check {
        self.mend()?;
        let end = self.time + self.rest_bound();
        while !self.is_at_rest() {
            if self.time > end {
                let bound = Span::from_nanos(self.rest_bound());
                let reasons: Vec<_> = self.jobs.iter().filter_map(|job| self.gateway.explain(*job)).collect();
                return Err(format!("not at rest within {bound}: {:?}, waiting: {reasons:?}", self.gateway.stats()));
            }
            self.give_up_unserved()?;
            self.step()?;
        }
        self.forget()
    }

    /// There may be no room any more for a backend that was removed: nobody will serve its jobs. And a clock that was wrong
    /// when somebody said how long a job is to wait may have made years of that.
    fn give_up_unserved(&mut self) -> Check {
        if self.gateway.stats().queued > 0 {
            let far = self.gateway.now() + Span::from_nanos(HELD_MAX + SECOND);
            for job in self.jobs.clone() {
                let in_vain = match self.gateway.explain(job) {
                    Some(WaitReason::NoBackend) => true,
                    Some(WaitReason::NotBefore { until, .. }) => until > far,
                    _ => false,
                };
                if in_vain {
                    self.call(Command::Cancel { job, usage: libgateway::Usage::unmeasured() })?;
                }
            }
        }
        Ok(())
    }

    fn mend(&mut self) -> Check {
        self.calm = true;
        self.dead.clear();
        // The host's clock is right again, and an operator says so.
        (self.skew, self.wild) = (0, None);
        self.accept_clock()?;
        for route in ROUTES {
            self.call(Command::Resume { route: Route::parse(route).unwrap() })?;
        }
        for backend in self.options.backends.clone() {
            let name = backend.name.clone();
            self.call(Command::PutBackend(backend))?;
            self.call(Command::ForceBreaker { backend: name.into(), state: None, until: None })?;
        }
        Ok(())
    }

    /// Each part is the longest time one thing can take; everything one after the other takes no longer than their sum.
    fn rest_bound(&self) -> u64 {
        let config = &self.options.config;
        let jobs = u64::from(self.gateway.stats().queued + self.gateway.stats().running);
        // A silent worker's lease runs out; a job waits as long as its schedule, a backend or its worker says.
        let lease = self.options.backends.iter().filter_map(|own| own.lease_for).fold(config.lease_for, Span::max);
        let retry = 2 * config.backoff.max.as_nanos().max(HELD_MAX);
        // A breaker opens for its longest time, and then wants its probes one after the other.
        let call = 6 * SECOND;
        let breaker = config.breaker.open_for_max.as_nanos() + u64::from(config.breaker.probes_to_close.get()) * call;
        // All jobs one after the other on one slot, each for as long as calls last, after the tokens it needs.
        let slowest = self.policies.values().chain([&config.customer]).map(token_time).fold(3 * SECOND, u64::max);
        let work = jobs * (call + TOKENS_MAX * slowest);
        // Buckets fill, lost batches come back, the collector has its turn for each of the settlements.
        let tokens = 10 * slowest;
        let settlements =
            config.settle_within.as_nanos() + 5 * SECOND * (u64::from(self.gateway.stats().unconfirmed) + jobs);
        // A silence may give a dead worker's lease its time again three times, and a return of the clock takes a minute at most.
        4 * lease.as_nanos() + retry + breaker + work + tokens + settlements + 60 * SECOND
    }

    fn is_at_rest(&self) -> bool {
        let stats = self.gateway.stats();
        let full = |name: &&str| {
            let Some(view) = self.gateway.customer(name) else { return true };
            let policy = self.policies.get(*name).unwrap_or(&self.options.config.customer);
            let burst = policy.rate.map(|rate| rate.burst());
            view.tokens.is_none() || view.tokens == burst
        };
        let names: Vec<&str> = self.options.customers.iter().map(|(name, _)| *name).collect();
        stats.queued == 0 && stats.running == 0 && stats.unconfirmed == 0 && names.iter().all(full)
    }

    /// Goes from deadline to deadline until there is none: nothing may be left of what nobody needs.
    fn forget(&mut self) -> Check {
        for _ in 0..10_000 {
            let Some(wake) = self.wake_at() else {
                let stats = self.gateway.stats();
                let ended = stats.complete + stats.error + stats.cancelled;
                let own = self
                    .options
                    .customers
                    .iter()
                    .filter(|(name, _)| self.gateway.customer(name).is_some_and(|view| view.own_policy));
                let kept = stats.customers as usize - own.count();
                if ended > 0 || kept > 0 || stats.routes > 0 {
                    return Err(format!("something is left of what nobody needs: {stats:?}"));
                }
                if self.machine == Machine::Honest {
                    self.gateway.check_invariants();
                }
                return Ok(());
            };
            self.time = self.time.max(wake);
            self.call(Command::Advance {})?;
        }
        Err("there is always another deadline".to_owned())
    }
}

fn token_time(policy: &CustomerPolicy) -> u64 {
    policy.rate.map_or(0, |rate| rate.per().as_nanos().div_ceil(rate.amount()))
}
