//! Tokens as exact fractions, prices, settlements, and the box they wait in.

use libgateway::{EventKind, JobId, JobState, Payer, PriceBook, RateLimit, Usage};

use super::answer::{Answer, Bill, error};
use super::parts::{Book, Customer, End, Hold, Model};

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
    pub(crate) measured: bool,
    pub(crate) payer: Payer,
    pub(crate) devices: Vec<(String, u64)>,
    pub(crate) backend: Option<String>,
}

impl Spent {
    pub(crate) fn nothing() -> Self {
        Self { gpu: 0, measured: true, payer: Payer::House, devices: Vec::new(), backend: None }
    }

    /// The customer's part and the house's.
    pub(crate) fn parts(&self) -> (u64, u64) {
        match self.payer {
            Payer::Customer => (self.gpu, 0),
            Payer::House => (0, self.gpu),
        }
    }
}

pub(crate) fn devices(usage: &Usage<'_>) -> Vec<(String, u64)> {
    usage.devices().map(|own| (own.device.to_string(), own.gpu_ns.as_nanos())).collect()
}

impl Book {
    /// What the book says, read from its own text.
    pub(crate) fn of(book: &PriceBook) -> Self {
        let told = serde_json::to_value(book).unwrap();
        let text = |value: &serde_json::Value, field: &str| value[field].as_str().unwrap().to_owned();
        let prices = told["prices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|own| (text(own, "model"), text(own, "tier"), own["micros_per_second"].as_u64().unwrap()));
        Self {
            version: told["version"].as_u64().unwrap() as u32,
            currency: text(&told, "currency"),
            prices: prices.collect(),
        }
    }

    fn price(&self, model: &str, tier: &str) -> Option<u64> {
        let entry = |wanted: (&str, &str)| {
            self.prices.iter().find(|(model, tier, _)| (model.as_str(), tier.as_str()) == wanted).map(|own| own.2)
        };
        entry((model, tier)).or(entry((model, "*"))).or(entry(("*", tier))).or(entry(("*", "*")))
    }
}

/// Nanoseconds times a price per second, to the nearest micro-unit, a tie to the even one.
pub(crate) fn charge(nanos: u64, price: u64) -> Option<u64> {
    let product = u128::from(nanos) * u128::from(price);
    let (whole, rest) = (product / 1_000_000_000, product % 1_000_000_000);
    let up = rest > 500_000_000 || (rest == 500_000_000 && whole % 2 == 1);
    u64::try_from(whole + u128::from(up)).ok()
}

impl Model {
    /// The price of a job in force now, and its customer's tier.
    pub(crate) fn price_of(&self, job: usize) -> (Option<u64>, String) {
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
        let (billed, house) = spent.parts();
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
        let usage = job.billable.saturating_add(billed);
        let charged = price.and_then(|price| charge(usage, price));
        let bill = Bill {
            number: self.outbox.next_number,
            job: job.id,
            customer: job.customer.clone(),
            route: job.route.clone(),
            task: job.task,
            state: job.state,
            backend: spent.backend,
            usage,
            absorbed: job.absorbed.saturating_add(house),
            measured: spent.measured && job.billable == 0,
            devices: spent.devices,
            tier,
            price: price.filter(|_| charged.is_some()),
            price_version: self.book.version,
            charge: charged.unwrap_or(0),
            created: job.created,
            started: job.started,
            finished: now,
            attempts: job.attempts,
            requeues: job.requeues,
        };
        let (id, state, customer) = (job.id, job.state, job.customer.clone());
        self.charged += u128::from(bill.charge);
        self.outbox.next_number += 1;
        self.outbox.bills.push(bill);
        self.ended.push(id);
        self.emit(EventKind::Ended(JobId::from_entropy(id), state));
        self.wake(&customer);
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
