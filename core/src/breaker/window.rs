//! The results of late: a ring of buckets that slides with time.

use alloc::boxed::Box;
use alloc::vec;

use serde::{Deserialize, Serialize};

use super::config::CircuitBreakerConfig;
use crate::time::{Span, Timestamp};

/// Calls and failures of the current bucket and of those before it. Nothing is divided or scanned until a bucket ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Window {
    /// When the current bucket began.
    start: Timestamp,
    bucket_span: Span,
    current: Bucket,
    /// Place of the oldest bucket in `past`.
    oldest: u8,
    /// Sums over `past`.
    past_calls: u64,
    past_failures: u64,
    /// A ring of the buckets before the current one.
    past: Box<[Bucket]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bucket {
    calls: u32,
    failures: u32,
}

impl Window {
    /// An empty window that begins at `now`, given a valid configuration.
    pub(super) fn new(config: &CircuitBreakerConfig, now: Timestamp) -> Self {
        let past = vec![Bucket::default(); usize::from(config.buckets.saturating_sub(1))];
        Self {
            start: now,
            bucket_span: config.bucket_span(),
            current: Bucket::default(),
            oldest: 0,
            past_calls: 0,
            past_failures: 0,
            past: past.into_boxed_slice(),
        }
    }

    /// Forgets everything and begins at `now`.
    pub(super) fn restart(&mut self, now: Timestamp) {
        self.start = now;
        self.forget();
    }

    /// Counts a result. `now` must not go back. A bucket that is full, at 2^32 - 1 calls, counts no further.
    #[inline]
    pub(super) fn record(&mut self, failed: bool, now: Timestamp) {
        if now.since(self.start) >= self.bucket_span {
            self.rotate(now);
        }
        if let Some(calls) = self.current.calls.checked_add(1) {
            self.current.calls = calls;
            // Failures are never more than calls.
            self.current.failures = self.current.failures.saturating_add(u32::from(failed));
        }
    }

    /// Calls and failures as of the last result.
    pub(super) fn counts(&self) -> (u64, u64) {
        let calls = self.past_calls.saturating_add(self.current.calls.into());
        (calls, self.past_failures.saturating_add(self.current.failures.into()))
    }

    /// Calls and failures that will not have left the window at `now`.
    ///
    /// # Complexity
    /// O(buckets).
    pub(super) fn counts_at(&self, now: Timestamp) -> (u64, u64) {
        let steps = self.steps(now);
        let (calls, failures) = self.counts();
        if steps > self.past.len() as u64 {
            return (0, 0);
        }
        let leaving = self.past.iter().cycle().skip(self.oldest.into()).take(steps as usize);
        leaving.fold((calls, failures), |(calls, failures), bucket| {
            (calls.saturating_sub(bucket.calls.into()), failures.saturating_sub(bucket.failures.into()))
        })
    }

    /// How many buckets have ended since the current one began.
    fn steps(&self, now: Timestamp) -> u64 {
        now.since(self.start).as_nanos().checked_div(self.bucket_span.as_nanos()).unwrap_or(0)
    }

    #[cold]
    #[inline(never)]
    fn rotate(&mut self, now: Timestamp) {
        let steps = self.steps(now);
        self.start += self.bucket_span.saturating_mul(steps);
        if steps > self.past.len() as u64 {
            self.forget();
            return;
        }
        let mut ended = core::mem::take(&mut self.current);
        for _ in 0..steps {
            let Some(slot) = self.past.get_mut(usize::from(self.oldest)) else { return };
            let left = core::mem::replace(slot, ended);
            self.past_calls = self.past_calls.saturating_sub(left.calls.into()).saturating_add(ended.calls.into());
            self.past_failures =
                self.past_failures.saturating_sub(left.failures.into()).saturating_add(ended.failures.into());
            let next = self.oldest.saturating_add(1);
            self.oldest = if usize::from(next) < self.past.len() { next } else { 0 };
            ended = Bucket::default();
        }
    }

    fn forget(&mut self) {
        self.current = Bucket::default();
        self.oldest = 0;
        self.past_calls = 0;
        self.past_failures = 0;
        self.past.fill(Bucket::default());
    }

    /// Whether the window is one that this configuration can have made by `now`.
    pub(super) fn is_sound(&self, config: &CircuitBreakerConfig, now: Timestamp) -> bool {
        let sum = |part: fn(&Bucket) -> u32| self.past.iter().map(|bucket| u64::from(part(bucket))).sum::<u64>();
        self.start <= now
            && self.bucket_span == config.bucket_span()
            && self.past.len() + 1 == usize::from(config.buckets)
            && usize::from(self.oldest) < self.past.len().max(1)
            && self.past.iter().chain([&self.current]).all(|bucket| bucket.failures <= bucket.calls)
            && self.past_calls == sum(|bucket| bucket.calls)
            && self.past_failures == sum(|bucket| bucket.failures)
    }
}
