//! What must hold when the gateway says that nothing can run now.

use libgateway::{BreakerState, Gateway, WaitReason};

use super::timeline::{Job, Now};
use super::{Auditor, expect};
use crate::sim::world::Check;

impl Auditor {
    /// Whoever waits is called in time: for the first deadline there is, or the first token that helps.
    pub(super) fn waits(&self, until: Option<u64>) -> Check {
        let jobs = self.live.iter().map(|index| self.jobs[*index].deadline()).min().unwrap_or(u64::MAX);
        let first = jobs.min(self.ledger.deadline());
        if until.unwrap_or(u64::MAX) > first {
            return Err(format!("the next deadline is {first}, the host is told to wait until {until:?}"));
        }
        Ok(())
    }

    /// After the host has handed out all it was given, no job may wait that could run.
    pub(in crate::sim) fn check_idle(&mut self, gateway: &Gateway, next: Option<u64>) -> Check {
        let waiting: Vec<&Job> =
            self.live.iter().map(|index| &self.jobs[*index]).filter(|job| job.is_waiting()).collect();
        let stats = gateway.stats();
        expect(stats.queued as usize == waiting.len(), "as many waiting jobs as there are")?;
        expect(stats.running as usize == self.leases.len(), "as many running jobs as there are live leases")?;
        let ended = self.jobs.len() - self.live.len();
        expect(
            stats.unconfirmed as usize == self.ledger.unconfirmed(ended),
            "as many settlements as there are to confirm",
        )?;
        for job in &waiting {
            if gateway.explain(job.submit.id) == Some(WaitReason::Next) {
                return Err(format!("{} is next and was not handed out", job.submit.id));
            }
        }
        self.check_free(gateway, next, &waiting)
    }

    /// By the books alone: of each customer and route, the jobs that could run now.
    fn check_free(&self, gateway: &Gateway, next: Option<u64>, waiting: &[&Job]) -> Check {
        let free: Vec<&str> =
            self.fleet.keys().map(String::as_str).filter(|name| self.is_free(gateway, name)).collect();
        if free.is_empty() {
            return Ok(());
        }
        for job in waiting.iter().filter(|job| self.is_released(job)) {
            let (customer, room) = (&job.submit.customer, &job.room);
            // Those in line with it: if all of them could run, so can the first one, whichever that is.
            let others = waiting.iter().filter(|own| (&own.submit.customer, &own.room) == (customer, room));
            let dearest = others.map(|own| if own.paid { 0 } else { own.submit.tokens }).max().unwrap_or(0);
            let Some(account) = self.accounts.get(&**customer) else { continue };
            let may_run = self.count(customer, true) < account.policy().running_max && !self.paused.contains(room);
            let taker = free.iter().find(|name| self.fleet[**name].serves(job));
            let (Some(taker), true) = (taker, may_run) else { continue };
            if account.surely_has(dearest, self.now) {
                return Err(format!(
                    "{} waits while {taker} is idle: {:?}",
                    job.submit.id,
                    gateway.explain(job.submit.id)
                ));
            }
            // Only tokens are missing: the host has to be called when they are there.
            let until = next.unwrap_or(u64::MAX);
            let there = account.surely_has_at(dearest);
            if until > there {
                return Err(format!("{} has tokens at {there}, the host is called at {until}", job.submit.id));
            }
        }
        Ok(())
    }

    fn is_released(&self, job: &Job) -> bool {
        matches!(job.now, Now::Waiting { hold, .. } if hold.1 <= self.now)
    }

    fn is_free(&self, gateway: &Gateway, name: &str) -> bool {
        let machine = &self.fleet[name];
        if !machine.open || self.busy(name) >= machine.spec.slots as usize {
            return false;
        }
        let Some(view) = gateway.backend(name) else { return false };
        match view.breaker.state {
            BreakerState::Closed => true,
            BreakerState::HalfOpen => !view.breaker.probe_out,
            BreakerState::Open => false,
        }
    }
}
