//! Tokens as exact fractions, prices, settlements, and the box they wait in.

use libgateway::{EventKind, GpuNanos, JobId, JobState, Payer, PriceBook, RateLimit, Usage};

use super::answer::{Answer, Bill, Corrects, error};
use super::lease::check_shape;
use super::parts::{Book, Customer, End, Hold, Job, Late, Model, Promise};

/// A rate limit; levels are tokens times `per`, so that each nanosecond brings a whole number of them.
pub(crate) struct Tokens {
    amount: u128,
    per: u128,
    burst: u128,
}

impl Tokens {
    pub(crate) fn of(limit: &RateLimit) -> Self {
        Self { amount: limit.amount().into(), per: limit.per().as_nanos().into(), burst: limit.burst().into() }
    }

    pub(crate) fn full(&self) -> u128 {
        self.burst * self.per
    }

    fn level(&self, customer: &Customer, now: u64) -> u128 {
        let passed = u128::from(now.saturating_sub(customer.level_at));
        (customer.level + passed * self.amount).min(self.full())
    }

    pub(crate) fn whole(&self, customer: &Customer, now: u64) -> u64 {
        (self.level(customer, now) / self.per) as u64
    }

    /// `Ok` if the tokens are there, else the instant at which they are, if ever.
    pub(crate) fn wait(&self, customer: &Customer, cost: u64, now: u64) -> Result<(), Option<u64>> {
        let (price, level) = (u128::from(cost) * self.per, self.level(customer, now));
        if price > self.full() {
            return Err(None);
        }
        if price <= level { Ok(()) } else { Err(self.after(price - level, now)) }
    }

    pub(crate) fn take(&self, customer: &mut Customer, cost: u64, now: u64) {
        customer.level = self.level(customer, now) - u128::from(cost) * self.per;
        customer.level_at = now;
    }

    pub(crate) fn full_at(&self, customer: &Customer, now: u64) -> Option<u64> {
        match self.full() - self.level(customer, now) {
            0 => Some(now),
            missing => self.after(missing, now),
        }
    }

    fn after(&self, missing: u128, now: u64) -> Option<u64> {
        if self.amount == 0 {
            return None;
        }
        u64::try_from(u128::from(now) + missing.div_ceil(self.amount)).ok()
    }

    /// The part of a token that a level of this limit can say: what flows in per nanosecond divides it evenly.
    fn unit(&self) -> u128 {
        let (mut a, mut b) = (self.per, self.amount);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        self.per / a
    }

    /// Takes over the tokens a customer had under another limit, rounded down to what this one can say.
    pub(crate) fn take_over(&self, old: &Self, customer: &mut Customer, now: u64) {
        let units = old.level(customer, now) * self.unit() / old.per;
        customer.level = (units * (self.per / self.unit())).min(self.full());
        customer.level_at = now;
    }
}

/// What an attempt used.
pub(crate) struct Spent {
    pub(crate) gpu: u64,
    pub(crate) reported: u64,
    pub(crate) capped: bool,
    pub(crate) measured: bool,
    pub(crate) payer: Payer,
    pub(crate) devices: Vec<(String, u64)>,
    pub(crate) backend: Option<String>,
}

impl Spent {
    pub(crate) fn nothing() -> Self {
        let (payer, devices) = (Payer::House, Vec::new());
        Self { gpu: 0, reported: 0, capped: false, measured: true, payer, devices, backend: None }
    }

    /// Leaves to the job what an attempt used that is not its last.
    pub(crate) fn keep(&self, job: &mut Job) {
        job.capped += u32::from(self.capped);
        if self.payer == Payer::House {
            job.absorbed = job.absorbed.saturating_add(self.gpu);
            return;
        }
        job.billable = job.billable.saturating_add(self.gpu);
        job.reported = job.reported.saturating_add(self.reported);
        job.unmeasured += u32::from(!self.measured);
        add_devices(&mut job.devices, &self.devices);
    }
}

/// Sums what devices worked, by name. The model's runs know few devices, so none is left without one.
fn add_devices(sums: &mut Vec<(String, u64)>, more: &[(String, u64)]) {
    for (name, nanos) in more {
        match sums.iter_mut().find(|(own, _)| own == name) {
            Some((_, sum)) => *sum = sum.saturating_add(*nanos),
            None => sums.push((name.clone(), *nanos)),
        }
    }
}

pub(crate) fn devices(usage: &Usage<'_>) -> Vec<(String, u64)> {
    usage.devices().map(|own| (own.device.to_string(), own.gpu_ns.as_nanos())).collect()
}

/// What is billed of each device where none can have worked longer than `each` and all together no longer than `gpus`
/// of them.
pub(crate) fn cap(devices: &[(String, u64)], each: u128, gpus: u32) -> Vec<(String, u64)> {
    let mut left = each.saturating_mul(gpus.into()).min(u64::MAX.into());
    let mut billed = Vec::new();
    for (name, nanos) in devices {
        let share = u128::from(*nanos).min(each).min(left);
        left -= share;
        billed.push((name.clone(), share as u64));
    }
    billed
}

impl Book {
    /// What the book says.
    pub(crate) fn of(book: &PriceBook) -> Self {
        let prices = book
            .prices()
            .map(|(model, tier, price)| (model.to_owned(), tier.to_owned(), (price.micros(), price.per().as_nanos())));
        Self { version: book.version(), currency: book.currency().to_string(), prices: prices.collect() }
    }

    fn price(&self, model: &str, tier: &str) -> Option<(u64, u64)> {
        let entry = |wanted: (&str, &str)| {
            self.prices.iter().find(|(model, tier, _)| (model.as_str(), tier.as_str()) == wanted).map(|own| own.2)
        };
        entry((model, tier)).or(entry((model, "*"))).or(entry(("*", tier))).or(entry(("*", "*")))
    }
}

/// Nanoseconds times a price, to the nearest micro-unit, a tie to the even one; the most that can be told where it is more,
/// and then `true`.
pub(crate) fn charge(nanos: u64, (micros, per): (u64, u64)) -> (u64, bool) {
    let (product, per) = (u128::from(nanos) * u128::from(micros), u128::from(per));
    let (whole, rest) = (product / per, product % per);
    let up = 2 * rest > per || (2 * rest == per && whole % 2 == 1);
    u64::try_from(whole + u128::from(up)).map_or((u64::MAX, true), |charge| (charge, false))
}

impl Model {
    /// The price of a job in force now, and its customer's tier.
    pub(crate) fn price_of(&self, job: usize) -> (Option<(u64, u64)>, String) {
        let job = &self.jobs[job];
        let way = &self.routes[self.route(&job.route).unwrap()];
        let family = way.family.split_once('/').unwrap().1;
        let tier = self.policy(&job.customer).tier.to_string();
        (self.book.price(&format!("{family}/{}", way.model), &tier), tier)
    }

    /// Ends a job with its settlement.
    pub(crate) fn finish(&mut self, index: usize, end: End, spent: Spent) {
        let (price, tier) = self.price_of(index);
        let now = self.now;
        let job = &mut self.jobs[index];
        job.state = match &end {
            End::Complete(_) => JobState::Complete,
            End::Error(_) => JobState::Error,
            End::Cancelled(_) => JobState::Cancelled,
        };
        match job.state {
            JobState::Complete => self.counters.completed += 1,
            JobState::Error => self.counters.errors += 1,
            _ => self.counters.cancelled += 1,
        }
        job.end = Some(end);
        job.hold = Hold::None;
        job.since = now;
        job.version += 1;
        job.payload.clear();
        let summed = u128::from(job.billable) + u128::from(spent.gpu);
        let overflow = spent.payer == Payer::Customer && summed > u128::from(u64::MAX);
        spent.keep(job);
        let charged = price.map(|price| charge(job.billable, price));
        let bill = Bill {
            number: self.outbox.next_number,
            job: job.id,
            customer: job.customer.clone(),
            route: job.route.clone(),
            task: job.task,
            state: job.state,
            backend: spent.backend,
            reported: job.reported,
            usage: job.billable,
            absorbed: job.absorbed,
            capped: job.capped > 0 || overflow || charged.is_some_and(|(_, dear)| dear),
            measured: job.unmeasured == 0,
            devices: job.devices.clone(),
            tier,
            price,
            price_version: self.book.version,
            charge: charged.map(|(charge, _)| charge),
            created: job.created,
            started: job.started,
            finished: now,
            attempts: job.attempts,
            requeues: job.requeues,
            corrects: None,
        };
        let (id, state, customer) = (job.id, job.state, job.customer.clone());
        let sequence = job.sequence;
        self.charged += u128::from(bill.charge.unwrap_or(0));
        if bill.charge.is_none() {
            self.counters.unpriced += 1;
            self.unpriced += u128::from(bill.usage);
        }
        for late in self.late.iter_mut().filter(|late| late.sequence == sequence) {
            late.bill = Some(bill.clone());
            late.first = late.billed;
        }
        if self.config.billing.settlements {
            self.outbox.next_number += 1;
            self.outbox.bills.push(bill);
        }
        self.ended.push(id);
        if let Some(at) = self.keys.iter().position(|own| own.job == id) {
            let promise = self.keys.remove(at);
            let free = match state {
                JobState::Error => self.config.idempotency_free_failed,
                JobState::Cancelled => self.config.idempotency_free_cancelled,
                _ => false,
            };
            if !free {
                self.kept_keys.push(Promise { ended: now, ..promise });
            }
        }
        self.emit(EventKind::Ended(JobId::from_entropy(id), state));
        self.wake(&customer);
    }

    /// Usage of a lease that has ended.
    pub(crate) fn correct_usage(&mut self, id: u64, usage: &Usage<'_>) -> Answer {
        match self.lease(id) {
            Ok(_) => return error(511, "lease"),
            Err(Answer::Error(501, _)) => {}
            Err(answer) => return answer,
        }
        let devices = devices(usage);
        if let Err(answer) = check_shape(&devices) {
            return answer;
        }
        if devices.is_empty() {
            return error(201, "usage");
        }
        let (now, within) = (self.now, self.config.billing.late_usage_for.as_nanos());
        let told = |own: &Late| own.lease == id && own.ended.saturating_add(within) > now;
        let Some(place) = self.late.iter().position(told) else { return error(512, "lease") };
        let old = self.late[place].clone();
        let allowed = self.allowed(old.ended - old.granted);
        if let Err(answer) = self.check_excess(&devices, allowed, old.gpus) {
            return answer;
        }
        let told = cap(&devices, allowed, old.gpus);
        let sum = |devices: &[(String, u64)]| devices.iter().map(|(_, nanos)| u128::from(*nanos)).sum::<u128>();
        let (reported, billed) = (sum(&devices), sum(&told) as u64);
        let capped = reported > u128::from(billed);
        let reported = u64::try_from(reported).unwrap_or(u64::MAX);
        let new = Late { measured: true, reported, billed, devices: told, ..old.clone() };
        let same = (old.measured, old.reported, old.billed, &old.devices)
            == (new.measured, new.reported, new.billed, &new.devices);
        let mut number = None;
        if !same {
            match &old.bill {
                None => self.correct_job(&old, &new),
                Some(_) if old.billed == billed => {}
                Some(bill) => match self.correct_bill(bill, &old, &new, capped) {
                    Ok(told) => number = told,
                    Err(answer) => return answer,
                },
            }
            self.late[place] = Late { corrections: old.corrections + u32::from(number.is_some()), ..new };
            if capped {
                self.tell_capped(old.job, reported, billed);
            }
        }
        Answer::Corrected { job: old.job, number, reported, billed, capped }
    }

    /// A job that will be settled takes the new figures for the old ones.
    fn correct_job(&mut self, old: &Late, new: &Late) {
        let job = self.jobs.iter_mut().find(|job| job.sequence == old.sequence).unwrap();
        let capped = |own: &Late| u32::from(own.reported > own.billed);
        job.capped = job.capped - capped(old) + capped(new);
        if old.payer == Payer::House {
            job.absorbed = job.absorbed.saturating_sub(old.billed).saturating_add(new.billed);
            return;
        }
        job.billable = job.billable.saturating_sub(old.billed).saturating_add(new.billed);
        job.reported = job.reported.saturating_sub(old.reported).saturating_add(new.reported);
        job.unmeasured -= u32::from(!old.measured);
        for (name, nanos) in &old.devices {
            let (_, sum) = job.devices.iter_mut().find(|(own, _)| own == name).unwrap();
            *sum = sum.saturating_sub(*nanos);
        }
        add_devices(&mut job.devices, &new.devices);
        let had = |list: &[(String, u64)], name: &str| list.iter().any(|(own, _)| own == name);
        job.devices.retain(|(name, sum)| *sum > 0 || had(&new.devices, name) || !had(&old.devices, name));
    }

    /// A settled job gets another entry for the difference.
    fn correct_bill(&mut self, bill: &Bill, old: &Late, new: &Late, capped: bool) -> Result<Option<u64>, Answer> {
        let kept = self.config.billing.settlements;
        if kept && self.live() + self.outbox.bills.len() >= self.config.jobs_max as usize {
            return Err(error(301, "jobs"));
        }
        let (more, less) = (new.billed.saturating_sub(old.billed), old.billed.saturating_sub(new.billed));
        let paid = old.payer == Payer::Customer;
        // What the job comes to with either figure for this lease, and those for the others as they were settled.
        let others = bill.usage.saturating_sub(old.first);
        let comes_to = |own: &Late| {
            bill.price.filter(|_| paid).map_or(0, |price| charge(others.saturating_add(own.billed), price).0)
        };
        let (debit, credit) =
            (comes_to(new).saturating_sub(comes_to(old)), comes_to(old).saturating_sub(comes_to(new)));
        self.counters.corrections += 1;
        self.charged += u128::from(debit);
        self.credited += u128::from(credit);
        if paid && bill.price.is_none() {
            self.unpriced = (self.unpriced + u128::from(more)).saturating_sub(less.into());
        }
        self.emit(EventKind::Corrected(JobId::from_entropy(old.job)));
        if !kept {
            return Ok(None);
        }
        let number = self.outbox.next_number;
        let part = |nanos: u64, customers: bool| if paid == customers { nanos } else { 0 };
        let entry = Bill {
            number,
            backend: Some(old.backend.clone()),
            reported: new.reported,
            usage: part(more, true),
            absorbed: part(more, false),
            capped,
            measured: true,
            devices: new.devices.clone(),
            charge: bill.price.map(|_| debit),
            corrects: Some(Corrects {
                number: bill.number,
                lease: old.lease,
                revision: old.corrections + 1,
                at: self.now,
                usage: part(less, true),
                absorbed: part(less, false),
                charge: credit,
            }),
            ..bill.clone()
        };
        self.outbox.next_number += 1;
        self.outbox.bills.push(entry);
        Ok(Some(number))
    }

    pub(crate) fn tell_capped(&mut self, job: u128, reported: u64, billed: u64) {
        self.counters.capped += 1;
        let (reported, billed) = (GpuNanos::from_nanos(reported), GpuNanos::from_nanos(billed));
        self.emit(EventKind::UsageCapped { job: JobId::from_entropy(job), reported, billed });
    }

    pub(crate) fn forget(&mut self, id: u128) {
        let index = self.job(id).unwrap();
        self.jobs.remove(index);
        self.ended.retain(|own| *own != id);
        self.counters.forgotten += 1;
        self.emit(EventKind::Forgotten(JobId::from_entropy(id)));
    }

    // --- The outbox ---

    pub(crate) fn take_settlements(&mut self, max: u32) -> Answer {
        self.return_overdue();
        let hold = self.config.settle_within.as_nanos();
        let deadline = self.now.saturating_add(hold);
        let outbox = &mut self.outbox;
        if max == 0 {
            return Answer::Settlements(None);
        }
        outbox.returned.sort_unstable();
        let (first, len) = match outbox.returned.first().copied() {
            Some((first, len)) => {
                outbox.returned.remove(0);
                if len > max {
                    outbox.returned.push((first + u64::from(max), len - max));
                }
                (first, len.min(max))
            }
            None => (outbox.fresh, (outbox.next_number - outbox.fresh).min(max.into()) as u32),
        };
        if len == 0 {
            return Answer::Settlements(None);
        }
        outbox.fresh = outbox.fresh.max(first + u64::from(len));
        let batch = (outbox.known.len() as u64 + 1, first, len);
        outbox.known.push(batch);
        outbox.taken.push((batch, deadline));
        let bills = outbox.bills.iter().filter(|bill| (first..first + u64::from(len)).contains(&bill.number));
        Answer::Settlements(Some((batch, bills.cloned().collect())))
    }

    /// Confirms a batch, or takes it back.
    pub(crate) fn end_batch(&mut self, batch: (u64, u64, u32), confirmed: bool) -> Answer {
        let outbox = &mut self.outbox;
        let (_, first, len) = batch;
        let run = first..first.saturating_add(len.into());
        if let Some(at) = outbox.taken.iter().position(|(own, _)| *own == batch) {
            outbox.taken.remove(at);
            if confirmed {
                outbox.bills.retain(|bill| !run.contains(&bill.number));
            } else {
                outbox.returned.push((first, len));
            }
            return Answer::Counted(len);
        }
        if !outbox.known.contains(&batch) {
            return error(1111, "batch");
        }
        if outbox.bills.iter().any(|bill| run.contains(&bill.number)) {
            return error(1112, "batch");
        }
        Answer::Counted(0)
    }

    pub(crate) fn return_overdue(&mut self) {
        let now = self.now;
        let outbox = &mut self.outbox;
        let overdue = outbox.taken.iter().filter(|(_, deadline)| *deadline <= now);
        let back: Vec<(u64, u32)> = overdue.map(|((_, first, len), _)| (*first, *len)).collect();
        outbox.taken.retain(|(_, deadline)| *deadline > now);
        outbox.returned.extend(back);
    }

    pub(crate) fn put_prices(&mut self, book: &PriceBook) -> Answer {
        let book = Book::of(book);
        if book.version <= self.book.version {
            return error(204, "version");
        }
        if self.book.version > 0 && book.currency != self.book.currency {
            return error(207, "currency");
        }
        self.book = book;
        Answer::Done
    }
}
