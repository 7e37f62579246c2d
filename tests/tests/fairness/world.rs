//! A small world round a gateway: jobs that arrive, GPUs that take their time, and a log of who started when.

use std::collections::BTreeMap;

use libgateway::{GpuNanos, JobId, Lease, Output, Span, Submit, Timestamp, Usage};
use libgateway_tests::kit::Rig;

/// A gateway and the jobs that run on its backends.
pub(crate) struct World {
    pub(crate) rig: Rig,
    /// What runs, by the instant at which it will be done.
    running: BTreeMap<(Timestamp, u64), Lease>,
    /// How long a job of the customer takes; `default` for the others.
    pub(crate) service: BTreeMap<&'static str, Span>,
    pub(crate) default: Span,
    /// Who started, in order.
    pub(crate) started: Vec<(JobId, Timestamp)>,
}

impl World {
    pub(crate) fn new(rig: Rig, default: Span) -> Self {
        Self { rig, running: BTreeMap::new(), service: BTreeMap::new(), default, started: Vec::new() }
    }

    pub(crate) fn submit(&mut self, submit: Submit<'_>) -> JobId {
        self.rig.submit(submit)
    }

    /// Leases all there is to lease now.
    pub(crate) fn dispatch(&mut self) {
        for lease in self.rig.leases() {
            self.start(lease);
        }
    }

    /// Lets a lease run.
    pub(crate) fn start(&mut self, lease: Lease) {
        let service = self.service.get(&*lease.customer).copied().unwrap_or(self.default);
        self.started.push((lease.job, self.rig.now));
        self.running.insert((self.rig.now + service, lease.id.as_u64()), lease);
    }

    /// Lets everything happen up to an instant, each at its own: jobs are done, deadlines fall due, slots are filled.
    pub(crate) fn run_until(&mut self, until: Timestamp) {
        self.dispatch();
        loop {
            let done = self.running.first_key_value().map(|((at, _), _)| *at);
            let due = self.rig.gateway.next_deadline();
            let Some(next) = [done, due].into_iter().flatten().min().filter(|next| *next <= until) else { break };
            self.rig.to(next);
            while self.running.first_key_value().is_some_and(|((at, _), _)| *at <= next) {
                let Some((_, lease)) = self.running.pop_first() else { break };
                self.finish(&lease);
            }
            self.dispatch();
        }
        self.rig.to(until);
        self.dispatch();
    }

    /// Lets the next job be done, alone, and fills its slot.
    pub(crate) fn finish_one(&mut self) -> bool {
        let Some(((at, _), lease)) = self.running.pop_first() else { return false };
        self.rig.to(at.max(self.rig.now));
        self.finish(&lease);
        self.dispatch();
        true
    }

    fn finish(&mut self, lease: &Lease) {
        let worked = self.service.get(&*lease.customer).copied().unwrap_or(self.default);
        let usage = Usage::gpu(GpuNanos::from_nanos(worked.as_nanos()), "GPU-1");
        let output = Output::url("u");
        // A job that was cancelled while it ran has no lease any more.
        _ = self.rig.gateway.complete(self.rig.now, lease.id, output, usage);
        self.rig.check();
    }

    pub(crate) fn start_of(&self, job: JobId) -> Option<Timestamp> {
        self.started.iter().find(|(started, _)| *started == job).map(|(_, at)| *at)
    }
}
