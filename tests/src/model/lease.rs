//! What becomes of a lease: delivered, failed, given back, lost.

use libgateway::{EventKind, EvictTo, Excess, FailureClass, JobId, JobState, Output, Payer, Timestamp, Usage};

use super::answer::{Answer, error};
use super::money::{Spent, cap, charge, devices};
use super::parts::{End, Fault, Hold, Job, Late, Model};

impl Model {
    /// The job of a live lease.
    pub(crate) fn lease(&self, id: u64) -> Result<usize, Answer> {
        let found = self.jobs.iter().position(|job| job.lease.as_ref().is_some_and(|lease| lease.id == id));
        found.ok_or_else(|| error(if id == 0 || id >= self.next_lease { 502 } else { 501 }, "lease"))
    }

    pub(crate) fn heartbeat(&mut self, id: u64) -> Answer {
        let job = match self.lease(id) {
            Ok(job) => job,
            Err(answer) => return answer,
        };
        let lease = self.jobs[job].lease.as_mut().unwrap();
        lease.deadline = self.now.saturating_add(lease.lease_for);
        lease.spared = 0;
        Answer::Extended(lease.deadline)
    }

    pub(crate) fn progress(&mut self, id: u64, progress: u32) -> Answer {
        if progress > 1_000_000 {
            return error(204, "progress_ppm");
        }
        let job = match self.lease(id) {
            Ok(job) => job,
            Err(answer) => return answer,
        };
        let answer = self.heartbeat(id);
        let job = &mut self.jobs[job];
        if job.progress != progress {
            job.progress = progress;
            job.version += 1;
            let id = JobId::from_entropy(job.id);
            self.emit(EventKind::Progress(id));
        }
        answer
    }

    pub(crate) fn complete(&mut self, id: u64, output: &Output, usage: &Usage<'_>) -> Answer {
        let job = match self.lease(id) {
            Ok(job) => job,
            Err(answer) => return answer,
        };
        if matches!(output, Output::Url(url) if url.is_empty()) {
            return error(201, "output");
        }
        if output.len() > self.config.output_len_max as usize {
            return error(202, "output");
        }
        let devices = devices(usage);
        if let Err(answer) = self.check_usage(job, &devices) {
            return answer;
        }
        let spent = self.end_attempt(job, Some(true), &devices, Payer::Customer);
        self.learn(job, spent.gpu);
        let mut after = self.jobs[job].clone();
        let summed = u128::from(after.billable) + u128::from(spent.gpu);
        spent.keep(&mut after);
        let charged = self.price_of(job).0.map(|price| charge(after.billable, price));
        let dear = charged.is_some_and(|(_, dear)| dear) || summed > u128::from(u64::MAX);
        self.finish(job, End::Complete(output.clone()), spent);
        Answer::Completed {
            job: after.id,
            reported: after.reported,
            usage: after.billable,
            capped: after.capped > 0 || dear,
            charge: charged.map(|(charge, _)| charge),
        }
    }

    pub(crate) fn fail(&mut self, id: u64, failure: &libgateway::Failure, usage: &Usage<'_>) -> Answer {
        let job = match self.lease(id) {
            Ok(job) => job,
            Err(answer) => return answer,
        };
        if failure.message.len() > self.config.output_len_max as usize {
            return error(202, "message");
        }
        let devices = devices(usage);
        if let Err(answer) = self.check_usage(job, &devices) {
            return answer;
        }
        let after = failure.retry_after.map(|span| span.as_nanos());
        if failure.class == FailureClass::Lost {
            return self.lose_attempt(job, &devices);
        }
        self.fail_attempt(job, failure.class, &failure.message, after, failure.retriable, &devices)
    }

    pub(crate) fn cancel_lease(&mut self, id: u64, usage: &Usage<'_>) -> Answer {
        let job = match self.lease(id) {
            Ok(job) => job,
            Err(answer) => return answer,
        };
        let devices = devices(usage);
        if let Err(answer) = self.check_usage(job, &devices) {
            return answer;
        }
        let id = self.jobs[job].id;
        self.cancel(id, usage);
        Answer::Cancelled(id)
    }

    pub(crate) fn give_back(&mut self, id: u64, not_before: Option<Timestamp>, usage: &Usage<'_>) -> Answer {
        let job = match self.lease(id) {
            Ok(job) => job,
            Err(answer) => return answer,
        };
        let devices = devices(usage);
        if let Err(answer) = self.check_usage(job, &devices) {
            return answer;
        }
        let id = self.jobs[job].id;
        let spent = self.end_attempt(job, None, &devices, self.config.billing.released);
        self.counters.released += 1;
        self.jobs[job].releases += 1;
        if self.jobs[job].releases > self.config.releases_max {
            self.withdraw(job, "it was given back too often", spent);
        } else {
            spent.keep(&mut self.jobs[job]);
            let at = not_before.map_or(0, |at| self.clock.meant(at.as_nanos()));
            self.requeue(job, at);
        }
        Answer::Released(id)
    }

    pub(crate) fn preempt(&mut self, id: u128, usage: &Usage<'_>) -> Answer {
        let Some(job) = self.job(id) else { return error(601, "job") };
        if self.jobs[job].end.is_some() {
            return error(602, "job");
        }
        let Some(lease) = self.jobs[job].lease.as_ref().map(|lease| lease.id) else { return error(604, "job") };
        if self.jobs[job].preemptions >= self.config.preemptions_max {
            return error(606, "job");
        }
        let devices = devices(usage);
        if let Err(answer) = self.check_usage(job, &devices) {
            return answer;
        }
        self.take_away(job, &devices);
        Answer::Preempted(lease)
    }

    fn take_away(&mut self, job: usize, devices: &[(String, u64)]) {
        let spent = self.end_attempt(job, None, devices, self.config.billing.preempted);
        spent.keep(&mut self.jobs[job]);
        self.counters.preempted += 1;
        self.jobs[job].preemptions += 1;
        self.requeue(job, 0);
    }

    pub(crate) fn evict_backend(&mut self, name: &str, to: EvictTo) -> Answer {
        if self.backend(name).is_none() {
            return error(701, "backend");
        }
        let of = |job: &Job| {
            job.lease.as_ref().filter(|lease| lease.backend == name).map(|lease| (lease.granted, lease.id, job.id))
        };
        let mut held: Vec<(u64, u64, u128)> = self.jobs.iter().filter_map(of).collect();
        held.sort_unstable();
        for (.., id) in &held {
            let job = self.job(*id).unwrap();
            if to == EvictTo::Queue {
                self.take_away(job, &[]);
                continue;
            }
            let spent = self.end_attempt(job, None, &[], self.config.billing.preempted);
            self.counters.preempted += 1;
            self.withdraw(job, "its backend was taken away", spent);
        }
        Answer::Evicted(held.into_iter().map(|(_, lease, job)| (lease, job)).collect())
    }

    /// Ends a job in error of whose lease nobody says how it went.
    fn withdraw(&mut self, job: usize, message: &str, spent: Spent) {
        let fault = Fault { class: FailureClass::Lost, message: message.to_owned(), retriable: true };
        self.jobs[job].failure = Some(fault.clone());
        self.finish(job, End::Error(fault), spent);
    }

    pub(crate) fn fail_attempt(
        &mut self,
        index: usize,
        class: FailureClass,
        message: &str,
        retry_after: Option<u64>,
        retriable: Option<bool>,
        devices: &[(String, u64)],
    ) -> Answer {
        let counts = match class {
            FailureClass::Timeout | FailureClass::Connection | FailureClass::Network | FailureClass::Backend => true,
            FailureClass::Lost => true,
            FailureClass::Http(status) => (500..600).contains(&status),
            FailureClass::Rejected => false,
        };
        let by_class = match class {
            FailureClass::Timeout | FailureClass::Connection | FailureClass::Network => true,
            FailureClass::Http(status) => {
                [500, 502, 503, 504].contains(&status) || (status == 429 && retry_after.is_some())
            }
            FailureClass::Backend | FailureClass::Rejected | FailureClass::Lost => false,
        };
        let retriable = retriable.unwrap_or(by_class);
        let alive = matches!(class, FailureClass::Http(400..=499))
            && ![408, 409, 425, 429].map(FailureClass::Http).contains(&class);
        let backend = self.jobs[index].lease.as_ref().unwrap().backend.clone();
        let completed = self.backends[self.backend_of(index)].completed;
        let told = if counts { Some(false) } else { alive.then_some(true) };
        let at = self.backend_of(index);
        let spent = self.end_attempt(index, told, devices, self.config.billing.failed);
        // It works, and delivered nothing.
        self.backends[at].completed = completed;
        self.remember_failure(index, &backend);
        let fault = Fault { class, message: message.to_owned(), retriable };
        let now = self.now;
        self.jobs[index].attempts += 1;
        let first = self.jobs[index].first_started.unwrap();
        match self.next_attempt(self.jobs[index].attempts, first, retry_after).filter(|_| retriable) {
            Some(at) => {
                let job = &mut self.jobs[index];
                spent.keep(job);
                job.failure = Some(fault);
                self.counters.retries += 1;
                self.return_to_queue(index, if at > now { Hold::Until(at) } else { Hold::None });
                self.emit(EventKind::Retried(JobId::from_entropy(self.jobs[index].id)));
                Answer::Retry(at)
            }
            None => {
                self.jobs[index].failure = Some(fault.clone());
                self.finish(index, End::Error(fault), spent);
                Answer::Failed
            }
        }
    }

    /// When the attempt after so many failures begins. The model knows no jitter.
    fn next_attempt(&self, failures: u32, first: u64, retry_after: Option<u64>) -> Option<u64> {
        let backoff = self.config.backoff;
        assert_eq!(backoff.jitter_ppm, 0);
        if failures > backoff.retries {
            return None;
        }
        let mut wait = u128::from(backoff.base.as_nanos());
        for _ in 1..failures {
            wait = (wait * u128::from(backoff.factor_ppm / 1_000_000)).min(backoff.max.as_nanos().into());
        }
        let asked = retry_after.unwrap_or(0).min(backoff.retry_after_max.as_nanos());
        let wait = wait.max(asked.into());
        let at = u64::try_from(u128::from(self.now) + wait).ok()?;
        let end = backoff.total.map_or(u64::MAX, |total| first.saturating_add(total.as_nanos()));
        (at <= end).then_some(at)
    }

    pub(crate) fn lose_attempt(&mut self, index: usize, devices: &[(String, u64)]) -> Answer {
        let backend = self.jobs[index].lease.as_ref().unwrap().backend.clone();
        let spent = self.end_lost(index, devices);
        self.remember_failure(index, &backend);
        self.counters.lost += 1;
        self.jobs[index].losses += 1;
        if self.jobs[index].losses > self.config.losses_max {
            self.withdraw(index, "the workers it was given to vanished", spent);
            return Answer::Failed;
        }
        spent.keep(&mut self.jobs[index]);
        self.requeue(index, 0);
        Answer::Retry(self.now)
    }

    /// Another backend is preferred next time.
    fn remember_failure(&mut self, index: usize, backend: &str) {
        let order = self.backends.iter().find(|own| own.name == backend).unwrap().order;
        let job = &mut self.jobs[index];
        job.first_started = job.first_started.or(job.started);
        job.failed_on.retain(|own| *own != order);
        job.failed_on.push(order);
        let surplus = job.failed_on.len().saturating_sub(8);
        job.failed_on.drain(..surplus);
    }

    fn requeue(&mut self, index: usize, at: u64) {
        let now = self.now;
        let job = &mut self.jobs[index];
        job.requeues += 1;
        job.first_started = job.first_started.or(job.started);
        self.counters.requeues += 1;
        self.return_to_queue(index, if at > now { Hold::Until(at) } else { Hold::None });
        self.emit(EventKind::Requeued(JobId::from_entropy(self.jobs[index].id)));
    }

    /// Puts a job back to its old place.
    fn return_to_queue(&mut self, index: usize, hold: Hold) {
        let now = self.now;
        let job = &mut self.jobs[index];
        job.state = JobState::Queued;
        job.since = now;
        job.progress = 0;
        job.version += 1;
        job.hold = hold;
        let (lane, customer) = (job.lane, job.customer.clone());
        self.enqueue(index, lane, false);
        self.wake(&customer);
    }

    fn end_lost(&mut self, index: usize, devices: &[(String, u64)]) -> Spent {
        let (completed, failed) = {
            let backend = self.backend_of(index);
            (self.backends[backend].completed, self.backends[backend].failed)
        };
        let backend = self.backend_of(index);
        let spent = self.end_attempt(index, Some(false), devices, self.config.billing.lost);
        let worker = &mut self.backends[backend];
        (worker.completed, worker.failed) = (completed, failed);
        worker.lost += 1;
        spent
    }

    fn backend_of(&self, job: usize) -> usize {
        let lease = self.jobs[job].lease.as_ref().unwrap();
        self.backends.iter().position(|own| own.name == lease.backend).unwrap()
    }

    /// Ends a lease; its slot is free after this. `success` is what the breaker is told, if anything.
    pub(crate) fn end_attempt(
        &mut self,
        index: usize,
        success: Option<bool>,
        devices: &[(String, u64)],
        payer: Payer,
    ) -> Spent {
        let backend = self.backend_of(index);
        let lease = self.jobs[index].lease.take().unwrap();
        let worker = &mut self.backends[backend];
        let gpus = worker.devices;
        worker.live -= 1;
        worker.completed += u64::from(success == Some(true));
        worker.failed += u64::from(success == Some(false));
        self.tell_breaker(backend, lease.generation, success);
        let lasted = self.now - lease.granted;
        let sum = |devices: &[(String, u64)]| devices.iter().map(|(_, nanos)| u128::from(*nanos)).sum::<u128>();
        let count = if self.config.billing.unmeasured_devices { gpus } else { 1 };
        let (reported, billed, told) = if devices.is_empty() {
            let all = u128::from(lasted) * u128::from(count);
            (all, all, Vec::new())
        } else {
            let told = cap(devices, self.allowed(lasted), gpus);
            (sum(devices), sum(&told), told)
        };
        let capped = reported > billed;
        let short = |nanos: u128| u64::try_from(nanos).unwrap_or(u64::MAX);
        let spent = Spent {
            gpu: short(billed),
            reported: short(reported),
            capped,
            measured: !devices.is_empty(),
            payer,
            devices: told,
            backend: Some(lease.backend),
        };
        let job = &self.jobs[index];
        let (id, sequence) = (job.id, job.sequence);
        if capped {
            self.tell_capped(id, spent.reported, spent.gpu);
        }
        if self.config.billing.late_usage_for.as_nanos() > 0 && self.config.billing.late_usage_max > 0 {
            self.late.push(Late {
                lease: lease.id,
                job: id,
                sequence,
                backend: spent.backend.clone().unwrap(),
                payer,
                measured: spent.measured,
                reported: spent.reported,
                billed: spent.gpu,
                devices: spent.devices.clone(),
                granted: lease.granted,
                ended: self.now,
                gpus,
                corrections: 0,
                first: 0,
                bill: None,
            });
        }
        self.charge(index, spent.gpu);
        spent
    }

    /// Learns how long jobs of a route take.
    fn learn(&mut self, index: usize, gpu: u64) {
        let way = self.route(&self.jobs[index].route).unwrap();
        let mean = &mut self.routes[way].mean;
        *mean = if *mean == 0 { gpu } else { *mean - *mean / 8 + gpu / 8 };
    }

    pub(crate) fn check_usage(&self, job: usize, devices: &[(String, u64)]) -> Result<(), Answer> {
        check_shape(devices)?;
        let granted = self.jobs[job].lease.as_ref().unwrap().granted;
        self.check_excess(devices, self.allowed(self.now - granted), self.backends[self.backend_of(job)].devices)
    }

    /// How long a device can have worked in an attempt that lasted so long.
    pub(crate) fn allowed(&self, lasted: u64) -> u128 {
        let (billing, lasted) = (&self.config.billing, u128::from(lasted));
        lasted + lasted * u128::from(billing.tolerance_ppm) / 1_000_000 + u128::from(billing.slack.as_nanos())
    }

    pub(crate) fn check_excess(&self, devices: &[(String, u64)], allowed: u128, gpus: u32) -> Result<(), Answer> {
        if self.config.billing.excess == Excess::Cap {
            return Ok(());
        }
        if devices.iter().any(|(_, nanos)| u128::from(*nanos) > allowed) {
            return Err(error(1103, "usage"));
        }
        if devices.len() > gpus as usize {
            return Err(error(202, "devices"));
        }
        Ok(())
    }
}

pub(crate) fn check_shape(devices: &[(String, u64)]) -> Result<(), Answer> {
    for (index, (name, _)) in devices.iter().enumerate() {
        if devices[..index].iter().any(|(own, _)| own == name) {
            return Err(error(208, "devices"));
        }
    }
    Ok(())
}
