//! Settlements: each job has one, each is what it must be, none comes twice.

use std::collections::{BTreeMap, BTreeSet};

use libgateway::{Batch, Payer, Settlement, Timestamp};

use super::spending::Line;
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
    pub(super) credited: u128,
    /// What corrections must say, by number: the lease, its line before and after, when it was told.
    corrections: BTreeMap<u64, (u64, (Line, Line), u64)>,
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
    pub(super) fn is_new(&mut self, own: &Settlement, earliest: u64) -> Check<bool> {
        if let Some(known) = self.seen.get(&own.number) {
            expect(told_from(known, earliest) == told_from(own, earliest), "a settlement that comes again unchanged")?;
            return Ok(false);
        }
        expect(own.number == self.seen.len() as u64 + 1, "settlements numbered without gaps")?;
        self.charged += own.charge.map_or(0, |charge| u128::from(charge.as_micros()));
        self.credited += own.correction.map_or(0, |own| u128::from(own.charge_credit.as_micros()));
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

    pub(super) fn expect_correction(&mut self, number: u64, lease: u64, lines: (Line, Line), at: u64) {
        self.corrections.insert(number, (lease, lines, at));
    }

    pub(super) fn corrections(&self) -> u64 {
        self.corrections.len() as u64
    }

    /// Settlements not confirmed when so many jobs have ended.
    pub(super) fn unconfirmed(&self, ended: usize) -> usize {
        ended + self.corrections.len() - self.confirmed.len()
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
        if own.correction.is_some() {
            return self.audit_correction(own);
        }
        let (id, earliest) = (own.job, self.earliest);
        // An id that was used again stands for several jobs; the first settlement is for the first.
        let mut jobs = self.jobs.iter_mut().filter(|job| job.submit.id == id);
        let job = jobs.find(|job| job.settlement.is_none()).ok_or_else(|| format!("{id} settled a second time"))?;
        job.settlement = Some(own.number);
        let Now::Ended { state, at } = job.now else { return Err(format!("{id} settled before its end")) };
        expect(own.state == state && own.finished.as_nanos() == at.max(earliest), "the end of the job told as it was")?;
        expect(*own.customer == *job.submit.customer && *own.route == *job.room, "customer and route of the job")?;
        expect(own.task == job.submit.route.task(), "the task of the job")?;
        let times = (own.created.as_nanos(), own.started.map(|at| at.as_nanos()));
        let told = (job.created.max(earliest), job.started.map(|at| at.max(earliest)));
        expect(times == told, "creation and last start of the job")?;
        let counts = (own.attempts, own.requeues);
        expect(counts == (job.attempts, job.requeues), "attempts and requeues of the job")?;
        let account = &job.settled;
        let time = (own.reported.as_nanos(), own.usage.as_nanos(), own.absorbed.as_nanos());
        let books = (account.reported(), account.billed(), account.absorbed());
        expect(time == books, &format!("reported, paid and absorbed time recomputed, {books:?}"))?;
        expect(own.measured == account.is_measured(), "measured exactly if all is that is paid")?;
        expect(account.is_capped() == own.capped, "flagged exactly where a report was beyond the possible")?;
        let devices: u64 = own.devices.iter().map(|own| own.gpu.as_nanos()).sum();
        expect(devices == account.by_device(), "the devices of all paid attempts")?;

        let (model, usage) = (&job.model, account.billed());
        let account = self.accounts.get(&*own.customer).ok_or("a customer nobody knows")?;
        let tiers: Vec<&String> = account.tiers_at(at).collect();
        expect(tiers.iter().any(|tier| ***tier == *own.tier), "the customer's tier")?;
        let mut books = self.prices.at(at).filter(|book| book.version == own.price_version);
        let book = books.next().ok_or("the price book in force")?;
        let price = book.price(model, &own.tier);
        let told = own.price.map(|price| (price.micros(), price.per().as_nanos()));
        expect(told == price, "the price of the book")?;
        let charge = book.charge(model, &own.tier, usage);
        expect(own.charge.map(|charge| charge.as_micros()) == charge, "the charge recomputed from the price book")
    }

    /// A correction says the difference that a late usage makes, at the price of the entry it corrects.
    fn audit_correction(&mut self, own: &Settlement) -> Check {
        let correction = own.correction.ok_or("a correction without one")?;
        let known = self.ledger.corrections.get(&own.number).ok_or("a correction nobody asked for")?;
        let (lease, (before, after), at) = *known;
        expect((correction.lease.as_u64(), correction.at.as_nanos()) == (lease, at), "lease and time of a correction")?;
        let first = self.ledger.seen.get(&correction.corrects).ok_or("a correction of an entry after it")?;
        expect(first.job == own.job && first.correction.is_none(), "a correction of the job's first entry")?;
        let earliest = self.earliest_ever;
        let same = |own: &Settlement| {
            let created = told_from(own, earliest).created;
            (own.customer.clone(), own.route.clone(), own.price, own.price_version, created)
        };
        expect(same(first) == same(own), "a correction at the price of the first entry")?;
        let (more, less) = (after.billed.saturating_sub(before.billed), before.billed.saturating_sub(after.billed));
        let paid = before.payer == Payer::Customer;
        let part = |nanos: u64, paid: bool| if paid { nanos } else { 0 };
        let told = (own.usage.as_nanos(), correction.usage_credit.as_nanos());
        expect(told == (part(more, paid), part(less, paid)), "the difference in what is paid")?;
        let told = (own.absorbed.as_nanos(), correction.absorbed_credit.as_nanos());
        expect(told == (part(more, !paid), part(less, !paid)), "the difference in what is absorbed")?;
        let books = self.prices.at(first.finished.as_nanos());
        let mut books = books.filter(|book| book.version == own.price_version);
        let book = books.next().ok_or("the price book in force")?;
        let model = own.route.split_once('/').map_or("", |(_, rest)| rest.split('?').next().unwrap_or(""));
        // What the job comes to with either figure for this lease, and those for the others as they were settled.
        let job = self.jobs.iter().find(|job| job.settlement == Some(correction.corrects));
        let job = job.ok_or("a correction of a job that was settled")?;
        let settled = job.settled.lines.get(&lease).ok_or("a lease of the job")?;
        let others = job.settled.billed().saturating_sub(settled.billed);
        let cost = |line: &Line| book.charge(model, &own.tier, if paid { others + line.billed } else { 0 });
        let (old, new) = (cost(&before), cost(&after));
        let more = new.zip(old).map(|(new, old)| new.saturating_sub(old));
        let less = old.zip(new).map_or(0, |(old, new)| old.saturating_sub(new));
        let told = (own.charge.map(|own| own.as_micros()), correction.charge_credit.as_micros());
        expect(told == (more, less), "the difference in what the job comes to")
    }

    /// When all is told: what the entries of each job sum up to is what its leases used.
    pub(super) fn balance(&self) -> Check {
        let mut sums: BTreeMap<u64, (i128, i128)> = BTreeMap::new();
        for own in self.ledger.seen.values() {
            let first = own.correction.map_or(own.number, |correction| correction.corrects);
            let back =
                own.correction.map_or((0, 0), |own| (own.usage_credit.as_nanos(), own.absorbed_credit.as_nanos()));
            let sum = sums.entry(first).or_default();
            sum.0 += i128::from(own.usage.as_nanos()) - i128::from(back.0);
            sum.1 += i128::from(own.absorbed.as_nanos()) - i128::from(back.1);
        }
        for job in &self.jobs {
            let sum = job.settlement.and_then(|number| sums.get(&number));
            let books = (i128::from(job.account.billed()), i128::from(job.account.absorbed()));
            expect(sum == Some(&books), "the entries of a job sum up to what it used")?;
        }
        Ok(())
    }
}

fn numbers(batch: Batch) -> std::ops::Range<u64> {
    batch.first_seq..batch.first_seq + u64::from(batch.len)
}

/// A settlement as a host tells it whose clock shows nothing before that instant.
fn told_from(own: &Settlement, earliest: u64) -> Settlement {
    let earliest = Timestamp::from_nanos(earliest);
    let mut told = own.clone();
    told.created = told.created.max(earliest);
    told.finished = told.finished.max(earliest);
    told.started = told.started.map(|at| at.max(earliest));
    if let Some(correction) = &mut told.correction {
        correction.at = correction.at.max(earliest);
    }
    told
}
