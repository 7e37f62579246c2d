//! A strict limit: so many in any window of time.

use alloc::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Acquire, RateHeaders};
use crate::error::InputError;
use crate::time::{Clock, Span, Timestamp};

/// The rule of a strict window: at most `amount` tokens in any stretch of time of length `per`, wherever it begins.
///
/// A token bucket of 6 a minute with a burst of 6 lets up to 12 through in some minute: the 6 it kept and the 6 that flow
/// in. This lets 6 through. What it costs is memory: an instant for each token, so an `amount` is at most
/// [`WindowLimit::AMOUNT_MAX`]; for more take a [`crate::RateLimit`], whose excess over the window is its burst.
///
/// ```
/// use libgateway::{Span, WindowLimit};
/// let limit = WindowLimit::new(6, Span::from_secs(60))?;
/// assert_eq!((limit.amount(), limit.per()), (6, Span::from_secs(60)));
/// assert!(WindowLimit::new(65_537, Span::from_secs(60)).is_err());
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "LimitFields", into = "LimitFields")]
pub struct WindowLimit {
    amount: u32,
    per: Span,
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "WindowLimit", deny_unknown_fields)]
struct LimitFields {
    amount: u32,
    per: Span,
}

/// At most so many tokens in any window of time, exact at every nanosecond.
///
/// A token taken at `t` leaves the window at `t + per`: at that instant another may be taken. Any `now` may be passed, as
/// with [`crate::RateLimiter`]. At most `amount` instants are kept, of 16 bytes each; tokens of one instant share one.
///
/// ```
/// use libgateway::{Acquire, Span, Timestamp, WindowLimit, WindowLimiter};
/// let at = Timestamp::from_secs;
/// let mut limiter = WindowLimiter::new(WindowLimit::new(2, Span::from_secs(60))?, at(0));
/// assert_eq!(limiter.try_acquire(1, at(0)), Acquire::Allow { remaining: 1 });
/// assert_eq!(limiter.try_acquire(1, at(59)), Acquire::Allow { remaining: 0 });
/// assert_eq!(limiter.try_acquire(1, at(59)), Acquire::Deny { until: at(60) });
/// assert_eq!(limiter.try_acquire(2, at(60)), Acquire::Deny { until: at(119) });
/// assert_eq!(limiter.next_deadline(), Some(at(119)));
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "LimiterFields")]
pub struct WindowLimiter {
    limit: WindowLimit,
    clock: Clock,
    /// The machine's time of the latest promise.
    awaited: Timestamp,
    /// Oldest first. None has left the window at the clock's time, which only this crate's own calls move.
    taken: VecDeque<Taken>,
    /// Tokens in `taken`: at most the amount, or what it was before it was lowered.
    total: u32,
}

#[derive(Deserialize)]
#[serde(rename = "WindowLimiter", deny_unknown_fields)]
struct LimiterFields {
    limit: WindowLimit,
    clock: Clock,
    awaited: Timestamp,
    taken: VecDeque<Taken>,
    total: u32,
}

/// Tokens that were taken at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Taken {
    at: Timestamp,
    count: u32,
}

impl WindowLimit {
    /// The most tokens a window may have: 1 MiB of instants.
    pub const AMOUNT_MAX: u32 = 65_536;

    /// At most `amount` tokens in any `per`. An `amount` of 0 lets nothing through that costs something.
    ///
    /// # Errors
    /// [`InputError::OutOfRange`] for an `amount` above [`WindowLimit::AMOUNT_MAX`] or a `per` of zero.
    pub const fn new(amount: u32, per: Span) -> Result<Self, InputError> {
        if amount > Self::AMOUNT_MAX {
            let (value, max) = (amount as u64, Self::AMOUNT_MAX as u64);
            return Err(InputError::OutOfRange { field: "amount", value, min: 0, max });
        }
        if per.is_zero() {
            return Err(InputError::OutOfRange { field: "per", value: 0, min: 1, max: u64::MAX });
        }
        Ok(Self { amount, per })
    }

    /// The most tokens of a window.
    pub const fn amount(&self) -> u32 {
        self.amount
    }

    /// The length of the window.
    pub const fn per(&self) -> Span {
        self.per
    }
}

impl WindowLimiter {
    /// A limiter whose window is empty.
    pub const fn new(limit: WindowLimit, now: Timestamp) -> Self {
        Self { limit, clock: Clock::new(now), awaited: now, taken: VecDeque::new(), total: 0 }
    }

    /// Takes `cost` tokens, or says when. A cost of 0 is always allowed.
    ///
    /// # Complexity
    /// O(1) amortised where they are taken, else O(cost).
    pub fn try_acquire(&mut self, cost: u64, now: Timestamp) -> Acquire {
        self.clock.observe_awaited(now, self.awaited);
        self.leave();
        let answer = self.answer(cost, 0, self.total);
        if let (Acquire::Allow { .. }, Ok(count @ 1..)) = (answer, u32::try_from(cost)) {
            let at = self.clock.now();
            match self.taken.back_mut() {
                Some(last) if last.at == at => last.count += count,
                _ => self.taken.push_back(Taken { at, count }),
            }
            self.total += count;
        }
        if let Acquire::Deny { until } = answer {
            self.awaited = until;
        }
        answer.to_host(&self.clock)
    }

    /// What [`WindowLimiter::try_acquire`] would answer.
    ///
    /// # Complexity
    /// O(cost + instants that have left the window since the last call).
    pub fn peek(&self, cost: u64, now: Timestamp) -> Acquire {
        let clock = self.peek_clock(now);
        let (gone, left) = self.left(clock.now());
        self.answer(cost, gone, left).to_host(&clock)
    }

    /// Gives `cost` tokens back. The oldest go, whichever they were: so no window has more than its amount of those that
    /// stay.
    ///
    /// # Complexity
    /// O(cost).
    pub fn refund(&mut self, cost: u64, now: Timestamp) {
        self.clock.observe_awaited(now, self.awaited);
        self.leave();
        let mut rest = u32::try_from(cost).unwrap_or(u32::MAX);
        while let Some(oldest) = self.taken.front_mut() {
            let count = oldest.count.min(rest);
            oldest.count -= count;
            self.total -= count;
            rest -= count;
            if oldest.count > 0 {
                break;
            }
            self.taken.pop_front();
        }
    }

    /// Tokens that may be taken at `now`.
    pub fn available(&self, now: Timestamp) -> u64 {
        let (_, left) = self.left(self.peek_clock(now).now());
        u64::from(self.limit.amount.saturating_sub(left))
    }

    /// What the rate limit headers say at `now`; the reset is when the window is empty.
    pub fn headers(&self, now: Timestamp) -> RateHeaders {
        let at = self.peek_clock(now).now();
        let (_, left) = self.left(at);
        let empty_at = self.taken.back().map_or(at, |last| last.at + self.limit.per);
        let reset = if empty_at == Timestamp::MAX { Span::MAX } else { empty_at.since(at) };
        let amount = self.limit.amount;
        RateHeaders { limit: amount.into(), remaining: amount.saturating_sub(left).into(), reset }
    }

    /// The limit.
    pub const fn limit(&self) -> &WindowLimit {
        &self.limit
    }

    /// Changes the limit at `now`. What was taken stays taken: under a lower amount nothing is allowed until enough has
    /// left. A longer window knows nothing of what had left the shorter one.
    pub fn set_limit(&mut self, limit: WindowLimit, now: Timestamp) {
        self.clock.observe_awaited(now, self.awaited);
        self.leave();
        self.limit = limit;
        self.leave();
    }

    /// The next instant at which more may be taken than before; `None` where the window is empty, or lets nothing through.
    ///
    /// # Complexity
    /// O(1), or O(instants that are too many) after [`WindowLimiter::set_limit`] has lowered the amount.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        // What is above a lowered amount leaves for nobody.
        let mut above = self.total.saturating_sub(self.limit.amount);
        let helps = self.taken.iter().find(|taken| match above.checked_sub(taken.count) {
            Some(rest) => {
                above = rest;
                false
            }
            None => true,
        });
        let end = helps?.at.checked_add(self.limit.per)?;
        Some(self.clock.to_host(end))
    }

    /// Checks that the window holds what it says, in order, and no more than may be.
    ///
    /// # Panics
    /// If it does not: that is a defect of the limiter.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        assert_eq!(sum(&self.taken), Some(self.total), "the total is that of the instants");
        assert!(self.taken.iter().all(|taken| taken.count > 0), "an instant has tokens");
        assert!(self.taken.iter().is_sorted_by(|one, other| one.at < other.at), "instants ascend");
        assert!(self.taken.len() <= WindowLimit::AMOUNT_MAX as usize, "instants are bounded");
        assert!(self.taken.back().is_none_or(|last| last.at <= self.clock.now()), "no instant is ahead of the clock");
    }

    /// In the machine's time.
    fn answer(&self, cost: u64, gone: usize, left: u32) -> Acquire {
        let amount = u64::from(self.limit.amount);
        if cost > amount {
            return Acquire::Never;
        }
        let wanted = cost + u64::from(left);
        if wanted <= amount || cost == 0 {
            return Acquire::Allow { remaining: amount.saturating_sub(wanted) };
        }
        let mut excess = wanted - amount;
        for taken in self.taken.iter().skip(gone) {
            excess = excess.saturating_sub(taken.count.into());
            if excess == 0 {
                return match taken.at.checked_add(self.limit.per) {
                    Some(until) => Acquire::Deny { until },
                    None => Acquire::Never,
                };
            }
        }
        // What is in the window covers the excess, because the cost alone does not exceed the amount.
        Acquire::Never
    }

    fn peek_clock(&self, now: Timestamp) -> Clock {
        let mut clock = self.clock;
        clock.observe_awaited(now, self.awaited);
        clock
    }

    /// How many instants have left the window by `now`, and how many tokens are still in it.
    fn left(&self, now: Timestamp) -> (usize, u32) {
        let gone = self.taken.iter().take_while(|taken| self.has_left(taken, now));
        gone.fold((0, self.total), |(count, left), taken| (count + 1, left - taken.count))
    }

    fn leave(&mut self) {
        let now = self.clock.now();
        while let Some(oldest) = self.taken.front().filter(|oldest| self.has_left(oldest, now)) {
            self.total -= oldest.count;
            self.taken.pop_front();
        }
    }

    fn has_left(&self, taken: &Taken, now: Timestamp) -> bool {
        taken.at.checked_add(self.limit.per).is_some_and(|end| end <= now)
    }
}

impl TryFrom<LimitFields> for WindowLimit {
    type Error = InputError;

    fn try_from(fields: LimitFields) -> Result<Self, InputError> {
        Self::new(fields.amount, fields.per)
    }
}

impl From<WindowLimit> for LimitFields {
    fn from(limit: WindowLimit) -> Self {
        Self { amount: limit.amount, per: limit.per }
    }
}

impl TryFrom<LimiterFields> for WindowLimiter {
    type Error = InputError;

    fn try_from(fields: LimiterFields) -> Result<Self, InputError> {
        let LimiterFields { limit, clock, awaited, taken, total } = fields;
        let malformed = |expected| Err(InputError::Malformed { field: "taken", expected });
        let (len, max) = (taken.len(), WindowLimit::AMOUNT_MAX as usize);
        if len > max {
            return Err(InputError::TooLong { field: "taken", len, max });
        }
        if !taken.iter().is_sorted_by(|one, other| one.at < other.at) || taken.iter().any(|taken| taken.count == 0) {
            return malformed("ascending instants, each with tokens");
        }
        if sum(&taken) != Some(total) || total > WindowLimit::AMOUNT_MAX {
            return malformed("as many tokens as the total says");
        }
        if taken.back().is_some_and(|last| last.at > clock.now()) {
            return malformed("no instant ahead of the clock");
        }
        Ok(Self { limit, clock, awaited, taken, total })
    }
}

fn sum(taken: &VecDeque<Taken>) -> Option<u32> {
    taken.iter().try_fold(0_u32, |sum, taken| sum.checked_add(taken.count))
}

#[cfg(test)]
mod tests;
