//! Tokens, prices and tiers, as they were at any time.

use libgateway::{CustomerPolicy, PriceBook};

/// What held from which instant on.
#[derive(Clone, Debug)]
pub(super) struct History<T>(Vec<(u64, T)>);

impl<T> History<T> {
    pub(super) fn new(first: T, now: u64) -> Self {
        Self(vec![(now, first)])
    }

    pub(super) fn change(&mut self, next: T, now: u64) {
        self.0.push((now, next));
    }

    pub(super) fn latest(&self) -> &T {
        &self.0[self.0.len() - 1].1
    }

    /// What held at an instant; where it changed at that instant, what held before and after.
    pub(super) fn at(&self, instant: u64) -> impl Iterator<Item = &T> {
        let until = |index: usize| self.0.get(index + 1).map_or(u64::MAX, |(from, _)| *from);
        let held =
            self.0.iter().enumerate().filter(move |(index, (from, _))| *from <= instant && instant <= until(*index));
        held.map(|(_, (_, what))| what)
    }
}

/// A price book.
#[derive(Clone, Debug, Default)]
pub(super) struct Prices {
    pub(super) version: u32,
    prices: Vec<(String, String, (u64, u64))>,
}

impl Prices {
    pub(super) fn of(book: &PriceBook) -> Self {
        let prices = book
            .prices()
            .map(|(model, tier, price)| (model.to_owned(), tier.to_owned(), (price.micros(), price.per().as_nanos())));
        Self { version: book.version(), prices: prices.collect() }
    }

    /// Micro-units, and for how many nanoseconds: the entry that says most wins.
    pub(super) fn price(&self, model: &str, tier: &str) -> Option<(u64, u64)> {
        let fits =
            |own: &&(String, String, (u64, u64))| (own.0 == model || own.0 == "*") && (own.1 == tier || own.1 == "*");
        let best = self.prices.iter().filter(fits).max_by_key(|own| (own.0 == model, own.1 == tier));
        best.map(|own| own.2)
    }

    /// Usage times price: the micro-unit nearest to the exact product, the even one of two that are equally near.
    pub(super) fn charge(&self, model: &str, tier: &str, nanos: u64) -> Option<u64> {
        let (micros, per) = self.price(model, tier)?;
        let (parts, per) = (u128::from(nanos) * u128::from(micros), u128::from(per));
        let below = parts / per;
        let above = below + 1;
        let (down, up) = (parts - below * per, above * per - parts);
        let nearest = if up < down || (up == down && above % 2 == 0) { above } else { below };
        Some(nearest as u64)
    }
}

/// A customer: its policy, and between how many and how many tokens it has.
#[derive(Clone, Debug)]
pub(super) struct Account {
    default: CustomerPolicy,
    own: Option<CustomerPolicy>,
    tiers: History<String>,
    /// Tokens times the limit's `per`.
    least: u128,
    most: u128,
    at: u64,
}

impl Account {
    pub(super) fn new(default: CustomerPolicy, now: u64) -> Self {
        let tiers = History::new(default.tier.to_string(), now);
        let mut account = Self { default, own: None, tiers, least: 0, most: 0, at: now };
        account.fill();
        account
    }

    pub(super) fn policy(&self) -> &CustomerPolicy {
        self.own.as_ref().unwrap_or(&self.default)
    }

    pub(super) fn has_policy(&self) -> bool {
        self.own.is_some()
    }

    pub(super) fn tier(&self) -> &str {
        self.tiers.latest()
    }

    pub(super) fn tiers_at(&self, instant: u64) -> impl Iterator<Item = &String> {
        self.tiers.at(instant)
    }

    /// Amount and `per` of the limit, and what a full bucket holds.
    fn limit(&self) -> Option<(u128, u128, u128)> {
        let rate = self.policy().rate?;
        let per = u128::from(rate.per().as_nanos());
        Some((rate.amount().into(), per, u128::from(rate.burst()) * per))
    }

    fn fill(&mut self) {
        let full = self.limit().map_or(0, |(.., full)| full);
        (self.least, self.most) = (full, full);
    }

    fn refill(&mut self, now: u64) {
        if let Some((amount, _, full)) = self.limit() {
            let inflow = u128::from(now - self.at) * amount;
            (self.least, self.most) = ((self.least + inflow).min(full), (self.most + inflow).min(full));
        }
        self.at = now;
    }

    /// Changes the policy. Whole tokens stay, of a part of one perhaps less. A customer without jobs may have been
    /// forgotten, and then its bucket is full.
    pub(super) fn set_policy(&mut self, policy: Option<CustomerPolicy>, now: u64, fresh: bool) {
        self.refill(now);
        let old = self.limit();
        self.own = policy;
        self.tiers.change(self.policy().tier.to_string(), now);
        match (old, self.limit()) {
            (Some((_, old, _)), Some((_, new, full))) => {
                self.least = (self.least / old * new).min(full);
                self.most = (self.most * new).div_ceil(old).min(full);
                if fresh {
                    self.most = full;
                }
            }
            _ => self.fill(),
        }
    }

    /// Takes tokens, if they can have been there.
    pub(super) fn take(&mut self, tokens: u64, now: u64) -> bool {
        self.refill(now);
        let Some((_, per, _)) = self.limit() else { return true };
        let price = u128::from(tokens) * per;
        let there = price <= self.most;
        self.most = self.most.saturating_sub(price);
        self.least = self.least.saturating_sub(price);
        there
    }

    /// Whether so many tokens are there for certain.
    pub(super) fn surely_has(&self, tokens: u64, now: u64) -> bool {
        let mut then = self.clone();
        then.refill(now);
        then.limit().is_none_or(|(_, per, _)| u128::from(tokens) * per <= then.least)
    }

    /// The instant by which so many tokens are there for certain, if ever.
    pub(super) fn surely_has_at(&self, tokens: u64) -> u64 {
        let Some((amount, per, full)) = self.limit() else { return self.at };
        let price = u128::from(tokens) * per;
        if price > full || amount == 0 {
            return u64::MAX;
        }
        let missing = price.saturating_sub(self.least);
        u64::try_from(u128::from(self.at) + missing.div_ceil(amount)).unwrap_or(u64::MAX)
    }
}
