//! Customers who submit, workers who work or do not, and the collector of settlements.

use libgateway::{
    Command, Failure, FailureClass, GpuNanos, JobId, LeaseId, Output, Priority, Reply, Route, Span, Submit, Timestamp,
    Usage,
};

use super::{Check, Happening, Work, World};
use crate::sim::options::{HELD_MAX, ROUTES, SECOND, TOKENS_MAX};

impl World {
    // --- Customers ---

    pub(super) fn submit_some(&mut self) -> Check {
        let count = if self.rng.percent(15) { self.rng.within(2, 12) } else { 1 };
        for _ in 0..count {
            if self.submitted < self.options.jobs {
                self.submitted += 1;
                let submit = self.submission();
                self.send(submit)?;
            }
        }
        if self.submitted < self.options.jobs {
            let gap = 2 * self.options.length / u64::from(self.options.jobs);
            let gap = self.rng.below(gap * count + 1);
            self.later(gap, Happening::Submit);
        }
        Ok(())
    }

    fn send(&mut self, submit: Submit<'static>) -> Check {
        self.last_submit = Some(submit.clone());
        let reply = self.call(Command::Submit(submit))?;
        self.take_in(&reply);
        Ok(())
    }

    pub(super) fn submission(&mut self) -> Submit<'static> {
        let rng = &mut self.rng;
        let id = JobId::from_entropy(u128::from(rng.bits()) << 64 | u128::from(rng.bits()));
        let customer = self.options.customers[rng.below(self.options.customers.len() as u64) as usize].0;
        let route = Route::parse(ROUTES[rng.weighted(&[6, 4, 2, 1, 2, 2])]).unwrap();
        let lane = [Priority::Normal, Priority::Normal, Priority::High, Priority::Low][rng.below(4) as usize];
        let mut submit = Submit::new(id, customer, route).priority(lane).payload(&b"a red fox in the snow"[..]);
        submit = submit.tokens(rng.within(0, TOKENS_MAX));
        if rng.percent(60) {
            submit = submit.estimate(GpuNanos::from_millis(rng.within(1, 4_000)));
        }
        if rng.percent(30) {
            submit = submit.affinity(*rng.pick(&["lora-1", "lora-2", "lora-3"]));
        }
        if rng.percent(15) {
            submit = submit.idempotency_key(*rng.pick(&["k1", "k2", "k3", "k4"]));
        }
        submit.not_before = self.until(10);
        let rng = &mut self.rng;
        if rng.percent(10) {
            let span = Some(Span::from_millis(rng.within(300, 20_000)));
            match rng.below(4) {
                0 => submit.timeouts.queue = span,
                1 => submit.timeouts.start = span,
                2 => submit.timeouts.run = span,
                _ => submit.timeouts.total = span,
            }
        }
        submit
    }

    /// Now and then an instant before which a job may not run, by the host's clock as it stands.
    fn until(&mut self, percent: u64) -> Option<Timestamp> {
        let nanos = self.rng.percent(percent).then(|| self.rng.below(HELD_MAX))?;
        Some(Timestamp::from_nanos(self.reading().saturating_add(nanos)))
    }

    // --- Workers ---

    /// Workers begin with what a reply handed out.
    pub(super) fn begin_all(&mut self, reply: &Reply) {
        let leases = match reply {
            Reply::Leased(lease) => std::slice::from_ref(lease),
            Reply::Leases(leases) => leases,
            _ => return,
        };
        for lease in leases.iter().cloned() {
            let (id, granted) = (lease.id.as_u64(), self.machine_time());
            let lease_for = lease.deadline.as_nanos().saturating_sub(granted).max(1);
            let long = if self.rng.percent(10) { 6 * SECOND } else { 2 * SECOND };
            let mut work = Work { lease, granted, ends_well: true, beats: true };
            let mut lasts = self.rng.within(SECOND / 20, long);
            if self.dead.contains(&*work.lease.backend) {
                (work.ends_well, lasts) = (false, SECOND / 100);
            } else if !self.calm && self.rng.percent(self.options.mishaps) {
                match self.rng.below(10) {
                    // Lost without a word.
                    0..=2 => continue,
                    // Too late, and silent until then.
                    3..=5 => (work.beats, lasts) = (false, lease_for + self.rng.below(3 * SECOND)),
                    _ => work.ends_well = false,
                }
            }
            self.works.insert(id, work);
            self.later(lasts, Happening::Finish(id));
            self.later(lease_for / 3, Happening::Heartbeat(id));
        }
    }

    pub(super) fn beat(&mut self, lease: u64) -> Check {
        let Some(work) = self.works.get(&lease).filter(|work| work.beats).cloned() else { return Ok(()) };
        let id = LeaseId::from_u64(lease);
        let progress_ppm = self.rng.below(1_000_001) as u32;
        let command = if self.rng.percent(50) {
            Command::Heartbeat { lease: id }
        } else {
            Command::Progress { lease: id, progress_ppm }
        };
        if let Reply::Extended { deadline } = self.call(command)? {
            let left = deadline.as_nanos().saturating_sub(self.gateway.now().as_nanos());
            self.later((left / 3).max(1), Happening::Heartbeat(lease));
        } else {
            // A good worker stops; a bad one will bring its result all the same.
            if work.ends_well && self.rng.percent(70) {
                self.works.remove(&lease);
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, lease: u64) -> Check {
        let Some(work) = self.works.remove(&lease) else { return Ok(()) };
        let lasted = self.machine_time().saturating_sub(work.granted);
        let command = self.result(&work);
        let reply = self.call(command.clone())?;
        if reply.error().is_some_and(|error| error.number == 1103) {
            return Err("a result refused for its usage".to_owned());
        }
        if self.rng.percent(15) {
            // The profiler's figures come later than the result.
            let late = self.rng.below(4 * self.options.config.billing.late_usage_for.as_nanos() / 3);
            let told = lasted - self.rng.below(lasted / 2 + 1);
            self.later(late, Happening::Late(lease, told));
        }
        if !self.calm && self.rng.percent(self.options.mishaps / 2) {
            // The same answer once more, or another one.
            let again = if self.rng.percent(50) { command } else { self.result(&work) };
            self.call(again)?;
        }
        Ok(())
    }

    /// Tells what a lease used that has ended long ago.
    pub(super) fn tell_late(&mut self, lease: u64, nanos: u64) -> Check {
        let usage = Usage::gpu(GpuNanos::from_nanos(nanos), "GPU-1");
        let command = Command::CorrectUsage { lease: LeaseId::from_u64(lease), usage };
        self.call(command.clone())?;
        if self.rng.percent(30) {
            self.call(command)?;
        }
        Ok(())
    }

    fn result(&mut self, work: &Work) -> Command<'static> {
        let lease = work.lease.id;
        let lasted = self.machine_time().saturating_sub(work.granted);
        let rng = &mut self.rng;
        let usage = match rng.below(40) {
            // Days, where it was seconds: the reading of a clock, not a difference.
            0 => Usage::gpu(GpuNanos::from_secs(86_400 + rng.below(86_400)), "GPU-1"),
            1..=15 => Usage::unmeasured(),
            16..=35 => Usage::gpu(GpuNanos::from_nanos(rng.below(lasted + 1)), "GPU-1"),
            _ => Usage::gpu(GpuNanos::from_nanos(rng.below(lasted + 1)), "GPU-1")
                .and_gpu(GpuNanos::from_nanos(rng.below(lasted + 1)), "GPU-2"),
        };
        if work.ends_well {
            return Command::Complete { lease, output: Output::url("s3://out/1.webp"), usage };
        }
        if !self.calm && rng.percent(10) {
            let not_before = self.until(50);
            return match self.rng.below(3) {
                0 => Command::CancelLease { lease, usage },
                _ => Command::Release { lease, not_before, usage },
            };
        }
        let rng = &mut self.rng;
        let class = *rng.pick(&[
            FailureClass::Connection,
            FailureClass::Connection,
            FailureClass::Timeout,
            FailureClass::Http(503),
            FailureClass::Http(429),
            FailureClass::Http(400),
            FailureClass::Backend,
        ]);
        let mut failure = Failure::new(class, "it did not work");
        if rng.percent(20) {
            failure = failure.retry_after(Span::from_millis(rng.within(0, 5_000)));
        }
        if rng.percent(10) {
            failure = failure.retriable(rng.percent(50));
        }
        Command::Fail { lease, failure, usage }
    }

    // --- The collector ---

    pub(super) fn collect(&mut self) -> Check {
        let max = if self.rng.percent(10) { 1 } else { self.rng.within(1, 60) as u32 };
        if let Reply::Settlements(Some(taken)) = self.call(Command::TakeSettlements { max })? {
            let batch = taken.batch;
            self.batches.push(batch);
            let hold = self.options.config.settle_within.as_nanos();
            match self.rng.below(100) {
                _ if self.calm => self.call(Command::ConfirmSettlements { batch }).map(|_| ())?,
                // Lost, and never confirmed.
                0..=5 => {}
                6..=11 => self.call(Command::ReturnSettlements { batch }).map(|_| ())?,
                // Confirmed too late.
                12..=17 => {
                    let late = hold + self.rng.below(hold);
                    self.later(late, Happening::Confirm(batch));
                }
                // Confirmed twice.
                18..=23 => {
                    self.later(SECOND / 10, Happening::Confirm(batch));
                    self.later(SECOND / 5, Happening::Confirm(batch));
                }
                _ => {
                    let soon = self.rng.below(SECOND);
                    self.later(soon, Happening::Confirm(batch));
                }
            }
        }
        let gap = self.rng.within(SECOND / 2, 4 * SECOND);
        self.later(gap, Happening::Collect);
        Ok(())
    }
}
