//! What goes wrong, and what operators do.

use libgateway::{
    Abort, Batch, Command, EvictTo, ForcedState, JobId, LeaseId, Output, PriceBook, Route, Timestamp, Usage,
};

use super::{Check, Happening, World};
use crate::difference;
use crate::sim::options::{ROUTES, SECOND, policy};

impl World {
    /// One mishap or change, and the next one later.
    pub(super) fn fault(&mut self) -> Check {
        if self.calm {
            return Ok(());
        }
        match self.rng.below(31) {
            0 => self.step_clock(2 * SECOND),
            1 => self.step_clock(100 * SECOND + self.options.config.clock_jump_max.as_nanos()),
            2 => self.skew = 0,
            3 | 4 => self.die(),
            5 => self.dead.clear(),
            6 => {
                let backend = self.a_backend();
                self.call(Command::RemoveBackend { backend: backend.name.into() })?;
            }
            7 | 8 => {
                let slots = self.rng.within(1, 4) as u32;
                let backend = self.a_backend().slots(slots);
                self.call(Command::PutBackend(backend))?;
            }
            9 => {
                let (backend, draining) = (self.a_backend().name.into(), self.rng.percent(50));
                self.call(Command::DrainBackend { backend, draining })?;
            }
            10 => self.force_breaker()?,
            11 => {
                let route = self.a_route();
                let pause = self.rng.percent(50);
                self.call(if pause { Command::Pause { route } } else { Command::Resume { route } })?;
            }
            12 => {
                let (customer, policy) = (self.a_customer(), policy(&mut self.rng));
                self.call(Command::PutCustomer { customer: customer.into(), policy })?;
            }
            13 => {
                let customer = self.a_customer();
                self.call(Command::RemoveCustomer { customer: customer.into() })?;
            }
            14 => self.put_prices()?,
            15 | 16 => {
                if let Some(job) = self.any_job() {
                    self.call(Command::Cancel { job, usage: Usage::unmeasured() })?;
                }
            }
            17 => {
                if let Some(job) = self.any_job() {
                    self.call(Command::Delete { job })?;
                }
            }
            18 => self.foreign()?,
            19 => {
                // The answer to a submission was lost on the way, and it is sent again.
                if let Some(submit) = self.last_submit.clone() {
                    let reply = self.call(Command::Submit(submit))?;
                    self.take_in(&reply);
                }
            }
            20 | 21 => self.abort()?,
            22 => self.together()?,
            23 | 24 => {
                if let Some(job) = self.any_job() {
                    self.call(Command::Preempt { job, usage: Usage::unmeasured() })?;
                }
            }
            25 => {
                let to = if self.rng.percent(70) { EvictTo::Queue } else { EvictTo::Error };
                let backend = self.a_backend().name.into();
                self.call(Command::EvictBackend { backend, to })?;
            }
            26 | 27 => {
                // The host was suspended, and nobody was heard.
                let away = if self.rng.percent(80) { 30 * SECOND } else { 7_200 * SECOND };
                self.time += self.rng.below(away);
            }
            28 | 29 => {
                let (reading, year) = (self.reading(), 365 * 86_400 * SECOND);
                let wild =
                    [reading - 20 * year, reading - 3_600 * SECOND, reading + 60 * SECOND, reading + 86_400 * SECOND];
                self.wild = Some(*self.rng.pick(&wild));
            }
            _ => {
                if self.skew != 0 && self.rng.percent(30) {
                    self.accept_clock()?;
                }
            }
        }
        let gap = self.rng.below(2 * self.options.fault_gap) + 1;
        self.later(gap, Happening::Fault);
        Ok(())
    }

    fn a_backend(&mut self) -> libgateway::Backend {
        let at = self.rng.below(self.options.backends.len() as u64) as usize;
        self.options.backends[at].clone()
    }

    fn a_customer(&mut self) -> &'static str {
        self.options.customers[self.rng.below(self.options.customers.len() as u64) as usize].0
    }

    fn a_route(&mut self) -> Route<'static> {
        Route::parse(ROUTES[self.rng.below(ROUTES.len() as u64) as usize]).unwrap()
    }

    fn step_clock(&mut self, most: u64) {
        let step = self.rng.below(most) as i64;
        self.skew += if self.rng.percent(50) { step } else { -step };
    }

    fn die(&mut self) {
        let name = self.a_backend().name;
        if !self.dead.remove(&name) {
            self.dead.insert(name);
        }
    }

    fn force_breaker(&mut self) -> Check {
        let state = [None, Some(ForcedState::Open), Some(ForcedState::Closed)][self.rng.below(3) as usize];
        let end = self.reading() + self.rng.within(1, 10 * SECOND);
        let until = self.rng.percent(80).then(|| Timestamp::from_nanos(end));
        let backend = self.a_backend().name.into();
        self.call(Command::ForceBreaker { backend, state, until }).map(|_| ())
    }

    pub(in crate::sim) fn put_prices(&mut self) -> Check {
        self.book += 1;
        let mut book = PriceBook::new(self.book, "EUR").unwrap();
        for (model, tier) in [("flux/dev", "gold"), ("flux/dev", "*"), ("*", "gold"), ("*", "*")] {
            if self.rng.percent(60) {
                book = book.price(model, tier, self.rng.below(3_000_000)).unwrap();
            }
        }
        self.call(Command::PutPrices(book)).map(|_| ())
    }

    /// Words about leases, jobs and batches that never were, or are long gone.
    fn foreign(&mut self) -> Check {
        let numbers = [0, 1, 2, 1_000_000, u64::MAX, self.rng.below(50)];
        let number = *self.rng.pick(&numbers);
        if self.works.contains_key(&number) {
            return Ok(());
        }
        let lease = LeaseId::from_u64(number);
        let job = JobId::from_entropy(number.into());
        let batch = Batch { id: number, first_seq: 1, len: 1 };
        let output = Output::url("s3://out/stolen.webp");
        let usage = Usage::unmeasured();
        let command = match self.rng.below(6) {
            0 => Command::Heartbeat { lease },
            1 => Command::Release { lease: LeaseId::from_u64(u64::MAX - number), not_before: None, usage },
            2 => Command::Cancel { job, usage: Usage::unmeasured() },
            3 => Command::ConfirmSettlements { batch: Batch { id: u64::MAX, ..batch } },
            4 => Command::DispatchTo { backend: "nobody".into(), max: 1 },
            _ => Command::Complete { lease: LeaseId::from_u64(u64::MAX - number), output, usage },
        };
        self.call(command).map(|_| ())
    }

    /// A transaction that thinks better of it at its end.
    fn abort(&mut self) -> Check {
        self.settle_clock()?;
        let before = self.gateway.snapshot_json();
        let now = Timestamp::from_nanos(self.reading());
        let (submit, route) = (self.submission(), self.a_route());
        let works: Vec<LeaseId> = self.works.values().map(|work| work.lease.id).collect();
        let job = self.any_job();
        let steps = self.rng.bits();
        let result: Result<(), Abort<&str>> = self.gateway.transaction(now, |tx| {
            for step in 0..6 {
                match steps >> (4 * step) & 7 {
                    0 => drop(tx.submit(submit.clone())),
                    1 => drop(tx.dispatch()),
                    2 => drop(tx.dispatch_route(&route)),
                    3 => drop(job.map(|job| tx.cancel(job))),
                    4 => drop(job.map(|job| tx.delete(job))),
                    5 => {
                        for lease in works.iter().take(2) {
                            let (output, usage) = (Output::url("s3://out/maybe.webp"), Usage::unmeasured());
                            let _ = tx.complete(*lease, output, usage);
                        }
                    }
                    6 if step % 2 == 0 => drop(works.first().map(|lease| tx.release(*lease))),
                    6 => drop(job.map(|job| tx.preempt(job, Usage::unmeasured()))),
                    _ => drop(works.last().map(|lease| tx.heartbeat(*lease))),
                }
            }
            Err(Abort::Error("no"))
        });
        let after = self.gateway.snapshot_json();
        if result.is_ok() || after != before {
            let words = difference(&before, &after);
            return Err(format!("an aborted transaction left something behind: {words}"));
        }
        Ok(())
    }

    /// Several commands as one.
    fn together(&mut self) -> Check {
        let (submit, route) = (self.submission(), self.a_route());
        let other = self.a_route();
        let commands = match self.rng.below(4) {
            0 => vec![Command::DispatchRoute { route }, Command::DispatchRoute { route: other }],
            1 => vec![Command::Submit(submit), Command::Dispatch {}],
            2 => match self.any_job() {
                Some(job) => vec![Command::Preempt { job, usage: Usage::unmeasured() }, Command::Dispatch {}],
                None => vec![Command::Dispatch {}],
            },
            _ => vec![Command::DispatchTo { backend: self.a_backend().name.into(), max: 2 }, Command::Dispatch {}],
        };
        let all = self.rng.percent(50);
        self.call_together(commands, all)
    }
}
