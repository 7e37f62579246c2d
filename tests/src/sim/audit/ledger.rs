//! Settlements: each job has one, each is what it must be, none comes twice.

use std::collections::{BTreeMap, BTreeSet};

use libgateway::{Batch, Settlement};

use super::timeline::Now;
use super::{Auditor, expect};
use crate::sim::world::Check;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    seen: BTreeMap<u64, Settlement>,
    confirmed: BTreeSet<u64>,
    /// Batches in flight, and when they come back by themselves.
    out: Vec<(Batch, u64)>,
    pub(super) charged: u128,
}

impl Ledger {
    pub(super) fn pass_time(&mut self, now: u64) {
        self.out.retain(|(_, deadline)| *deadline > now);
    }

    pub(super) fn is_out(&self, batch: Batch) -> bool {
        self.out.iter().any(|(own, _)| *own == batch)
    }

    pub(super) fn deadline(&self) -> u64 {
        self.out.iter().map(|(_, deadline)| *deadline).min().unwrap_or(u64::MAX)
    }

    /// A batch: each of its numbers is in no other one and was not confirmed.
    pub(super) fn hand_out(&mut self, batch: Batch, deadline: u64) -> Check {
        for number in numbers(batch) {
            expect(!self.confirmed.contains(&number), "no settlement handed out after it was confirmed")?;
            let elsewhere = self.out.iter().any(|(own, _)| numbers(*own).contains(&number));
            expect(!elsewhere, "no settlement in two batches at once")?;
        }
        self.out.push((batch, deadline));
        Ok(())
    }

    /// Whether a settlement is seen for the first time. One that comes again is the same to the last digit.
    pub(super) fn is_new(&mut self, own: &Settlement) -> Check<bool> {
        if let Some(known) = self.seen.get(&own.number) {
            expect(known == own, "a settlement that comes again unchanged")?;
            return Ok(false);
        }
        expect(own.number == self.seen.len() as u64 + 1, "settlements numbered without gaps")?;
        self.charged += u128::from(own.charge.as_micros());
        self.seen.insert(own.number, own.clone());
        Ok(true)
    }

    pub(super) fn confirm(&mut self, batch: Batch, count: u32) -> Check {
        if !self.is_out(batch) {
            return expect(
                count == 0 && numbers(batch).all(|number| self.confirmed.contains(&number)),
                "nothing confirmed twice",
            );
        }
        expect(count == batch.len, "the whole batch confirmed")?;
        self.out.retain(|(own, _)| *own != batch);
        self.confirmed.extend(numbers(batch));
        Ok(())
    }

    pub(super) fn give_back(&mut self, batch: Batch, count: u32) -> Check {
        let expected = if self.is_out(batch) { batch.len } else { 0 };
        self.out.retain(|(own, _)| *own != batch);
        expect(count == expected, "a batch in flight given back whole")
    }

    /// Settlements not confirmed when so many jobs have ended.
    pub(super) fn unconfirmed(&self, ended: usize) -> usize {
        ended - self.confirmed.len()
    }

    /// Whether all settlements that are not confirmed are in flight.
    pub(super) fn none_is_free(&self, ended: usize) -> bool {
        self.unconfirmed(ended) == self.out.iter().map(|(batch, _)| batch.len as usize).sum::<usize>()
    }

    /// How many are confirmed; 0 if one that was seen is not.
    pub(super) fn all_confirmed(&self) -> u64 {
        if self.confirmed.len() == self.seen.len() { self.confirmed.len() as u64 } else { 0 }
    }
}

impl Auditor {
    /// Holds a settlement against the job it is for.
    pub(super) fn audit(&mut self, own: &Settlement) -> Check {
        let id = own.job;
        // An id that was used again stands for several jobs; the first settlement is for the first.
        let mut jobs = self.jobs.iter_mut().filter(|job| job.submit.id == id);
        let job = jobs.find(|job| job.settlement.is_none()).ok_or_else(|| format!("{id} settled a second time"))?;
        job.settlement = Some(own.number);
        let Now::Ended { state, at } = job.now else { return Err(format!("{id} settled before its end")) };
        expect(own.state == state && own.finished.as_nanos() == at, "the end of the job told as it was")?;
        expect(*own.customer == *job.submit.customer && *own.route == *job.room, "customer and route of the job")?;
        expect(own.task == job.submit.route.task(), "the task of the job")?;
        let times = (own.created.as_nanos(), own.started.map(|at| at.as_nanos()));
        expect(times == (job.created, job.started), "creation and last start of the job")?;
        let counts = (u32::from(own.attempts), u32::from(own.requeues));
        expect(counts == (job.attempts, job.requeues), "attempts and requeues of the job")?;
        let time = (own.usage.as_nanos(), own.absorbed.as_nanos());
        let books = (job.billed, job.absorbed);
        expect(time == books, &format!("usage and absorbed time recomputed, {books:?}"))?;

        let (model, usage) = (&job.model, job.billed);
        let account = self.accounts.get(&*own.customer).ok_or("a customer nobody knows")?;
        let tiers: Vec<&String> = account.tiers_at(at).collect();
        expect(tiers.iter().any(|tier| ***tier == *own.tier), "the customer's tier")?;
        let mut books = self.prices.at(at).filter(|book| book.version == own.price_version);
        let book = books.next().ok_or("the price book in force")?;
        let price = book.per_second(model, &own.tier);
        expect(own.price.map(|price| price.as_micros()) == price, "the price of the book")?;
        let charge = book.charge(model, &own.tier, usage).unwrap_or(0);
        expect(own.charge.as_micros() == charge, "the charge recomputed from the price book")
    }
}

fn numbers(batch: Batch) -> std::ops::Range<u64> {
    batch.first_seq..batch.first_seq + u64::from(batch.len)
}
