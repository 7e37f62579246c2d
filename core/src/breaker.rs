//! The circuit breaker: keeps calls away from what fails, and finds out with few calls when it works again.

mod config;
#[cfg(test)]
mod tests;
mod window;

use serde::{Deserialize, Serialize};

pub use self::config::{CircuitBreakerConfig, RateRule};
use self::window::Window;
use crate::error::InputError;
use crate::time::{Clock, Timestamp};

/// A circuit breaker round one callee.
///
/// *Closed*, every call is allowed and its result counted in a sliding window. A failure opens the breaker when it is
/// one of `consecutive_failures` in a row or when the share of failures in the window reaches its threshold, in this
/// order; a success never does. *Open*, no call is allowed until the open time has passed. Then, *half-open*, one probe
/// at a time is allowed: enough of them succeeding close the breaker, one failing opens it again for longer. The open
/// time is back at its first length once the breaker has closed. [`CircuitBreaker::force`] overrides all of this.
///
/// Each call asks [`CircuitBreaker::admit`] and then says with its permit how it went: `handle_success`,
/// `handle_failure` (a call that timed out is a failure) or `handle_cancelled` (nothing is known). A permit belongs to the
/// state it was given in: results of calls begun before the last change of state count for nothing, and a second answer
/// to a probe too. While the breaker is closed, each call must be answered once at most: their permits are alike.
///
/// What happens at an instant happens at that instant, whether or not somebody calls: questions take `now`, never change
/// anything, and answer as [`CircuitBreaker::admit`] would. [`CircuitBreaker::handle_timeout`] at
/// [`CircuitBreaker::next_deadline`] only makes it so for the record.
///
/// `now` is the host's clock, and what counts is the time between two readings: however that clock steps, an open time
/// ends when it has lasted (see [`Clock`]). Only calls that may change something take note of a step, so a host that asks
/// questions alone calls [`CircuitBreaker::handle_timeout`] before them. Instants that are answered are of the clock as
/// it was read last.
///
/// Memory is 272 bytes, and 8 for each bucket but the first: 344 by default. The whole state can be serialised; a state that
/// contradicts itself is refused when it is read.
///
/// ```
/// use libgateway::{Admit, BreakerState, CircuitBreaker, CircuitBreakerConfig, Span, Timestamp};
/// let start = Timestamp::from_secs(1_000);
/// let mut breaker = CircuitBreaker::new(CircuitBreakerConfig::default(), start)?;
/// for _ in 0..5 {
///     let Admit::Allow(permit) = breaker.admit(start) else { panic!() };
///     breaker.handle_failure(permit, start);
/// }
/// let until = start + Span::from_secs(60);
/// assert_eq!(breaker.admit(start), Admit::Deny { until });
/// assert_eq!(breaker.next_deadline(), Some(until));
///
/// for _ in 0..2 {
///     let Admit::Probe(permit) = breaker.admit(until) else { panic!() };
///     assert!(!breaker.would_admit(until));
///     breaker.handle_success(permit, until);
/// }
/// assert_eq!(breaker.state(until), BreakerState::Closed);
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct CircuitBreaker {
    clock: Clock,
    phase: Phase,
    /// Failures since the last success, while closed.
    consecutive: u32,
    window: Window,
    totals: Totals,
    config: CircuitBreakerConfig,
}

/// What [`CircuitBreaker::admit`] says to a call.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admit {
    /// The call may be made.
    Allow(Permit),
    /// The call may be made and is the one probe: its result decides.
    Probe(Permit),
    /// The call must not be made.
    Deny {
        /// When it is worth asking again. [`Timestamp::MAX`] where no instant will change the answer: a probe without
        /// deadline is out, or the breaker is forced open without end.
        until: Timestamp,
    },
}

/// Under which state a call was begun; comes back with its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Permit(u64);

/// Whether calls pass a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// All calls pass.
    Closed,
    /// No call passes.
    Open,
    /// One probe at a time passes.
    HalfOpen,
}

/// What a breaker can be forced to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForcedState {
    /// All calls pass, whatever their results.
    Closed,
    /// No call passes.
    Open,
}

/// Why a breaker came into the state it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum BreakerReason {
    /// It was made so: closed.
    Initial,
    /// Too many failures in a row opened it.
    ConsecutiveFailures {
        /// How many.
        failures: u32,
    },
    /// Too great a share of failures in the window opened it.
    FailureRate {
        /// Results in the window.
        calls: u64,
        /// Failures among them.
        failures: u64,
    },
    /// The open time passed: half-open.
    Waited,
    /// A probe failed: open again.
    ProbeFailed,
    /// A probe was not answered in time: open again.
    ProbeTimedOut,
    /// Enough probes succeeded: closed.
    ProbesSucceeded {
        /// How many.
        successes: u32,
    },
    /// It was forced.
    Forced,
    /// A forced state came to its end or was released: closed after closed, half-open after open.
    ForceEnded,
}

/// All there is to know of a breaker at an instant.
///
/// ```
/// use libgateway::{BreakerReason, CircuitBreaker, CircuitBreakerConfig, Timestamp};
/// let breaker = CircuitBreaker::new(CircuitBreakerConfig::default(), Timestamp::from_secs(9))?;
/// let status = breaker.status(Timestamp::from_secs(10));
/// assert_eq!((status.since, status.until), (Timestamp::from_secs(9), None));
/// assert_eq!(status.reason, BreakerReason::Initial);
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BreakerStatus {
    /// The state.
    pub state: BreakerState,
    /// Whether the state was forced.
    pub forced: bool,
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself: the end of the open time or of the forced state, or the deadline of the probe.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: BreakerReason,
    /// Results in the window. Only those of the present state are counted; open and half-open have none.
    pub calls: u64,
    /// Failures among them.
    pub failures: u64,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// How often in a row a probe failed.
    pub reopens: u32,
    /// Whether a probe is out.
    pub probe_out: bool,
    /// Probes that succeeded in this half-open state.
    pub probe_successes: u32,
    /// Successes counted since the breaker was made, probes included.
    pub successes_total: u64,
    /// Failures counted since the breaker was made, probes included, probes that were never answered not.
    pub failures_total: u64,
    /// Calls denied since the breaker was made.
    pub rejected_total: u64,
}

/// The part of a breaker that time alone can change. Small, so that a question can work on a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Phase {
    kind: Kind,
    /// Counts changes of state and probes: the number that permits carry.
    generation: u64,
    since: Timestamp,
    /// When the phase ends by itself; MAX is never.
    deadline: Timestamp,
    /// Probes failed in a row, each having opened the breaker again.
    reopens: u32,
    probe_successes: u32,
    reason: BreakerReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Closed,
    Open,
    /// Half-open, the place of the probe is free.
    HalfOpen,
    /// Half-open, the probe is out.
    Probing,
    ForcedClosed,
    ForcedOpen,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Totals {
    successes: u64,
    failures: u64,
    rejected: u64,
}

impl CircuitBreaker {
    /// A closed breaker that has seen nothing.
    ///
    /// # Errors
    /// [`InputError`] for the first field of the configuration that cannot be.
    pub fn new(config: CircuitBreakerConfig, now: Timestamp) -> Result<Self, InputError> {
        config.validate()?;
        let clock = Clock::new(now);
        let now = clock.now();
        Ok(Self {
            clock,
            phase: Phase {
                kind: Kind::Closed,
                generation: 0,
                since: now,
                deadline: Timestamp::MAX,
                reopens: 0,
                probe_successes: 0,
                reason: BreakerReason::Initial,
            },
            consecutive: 0,
            window: Window::new(&config, now),
            totals: Totals::default(),
            config,
        })
    }

    /// The configuration.
    pub const fn config(&self) -> &CircuitBreakerConfig {
        &self.config
    }

    /// Asks for a call, and counts a denial. A call that is never answered counts for nothing, unless it is a probe: that
    /// has failed at its deadline.
    #[inline]
    pub fn admit(&mut self, now: Timestamp) -> Admit {
        let now = self.observe(now);
        if self.phase.kind == Kind::Closed {
            return Admit::Allow(Permit(self.phase.generation));
        }
        self.admit_unless_open(now)
    }

    #[cold]
    #[inline(never)]
    fn admit_unless_open(&mut self, now: Timestamp) -> Admit {
        self.phase = self.phase.at(now, &self.config);
        match self.phase.kind {
            Kind::Closed | Kind::ForcedClosed => Admit::Allow(Permit(self.phase.generation)),
            Kind::HalfOpen => {
                self.phase.kind = Kind::Probing;
                self.phase.generation = self.phase.generation.wrapping_add(1);
                self.phase.deadline = self.config.probe_timeout.map_or(Timestamp::MAX, |timeout| now + timeout);
                Admit::Probe(Permit(self.phase.generation))
            }
            Kind::Open | Kind::Probing | Kind::ForcedOpen => {
                self.totals.rejected = self.totals.rejected.saturating_add(1);
                Admit::Deny { until: self.clock.to_host(self.phase.deadline) }
            }
        }
    }

    /// The call succeeded. Returns whether that counted.
    #[inline]
    pub fn handle_success(&mut self, permit: Permit, now: Timestamp) -> bool {
        let now = self.observe(now);
        if self.phase.kind == Kind::Closed && self.phase.generation == permit.0 {
            self.count_success(now);
            return true;
        }
        self.handle_rare_success(permit, now)
    }

    #[cold]
    #[inline(never)]
    fn handle_rare_success(&mut self, permit: Permit, now: Timestamp) -> bool {
        self.phase = self.phase.at(now, &self.config);
        if self.phase.generation != permit.0 {
            return false;
        }
        match self.phase.kind {
            Kind::Closed | Kind::ForcedClosed => self.count_success(now),
            Kind::Probing => {
                self.totals.successes = self.totals.successes.saturating_add(1);
                let successes = self.phase.probe_successes.saturating_add(1);
                if successes >= self.config.probes_to_close.get() {
                    self.enter(Kind::Closed, Timestamp::MAX, 0, BreakerReason::ProbesSucceeded { successes }, now);
                } else {
                    self.phase.end_probe();
                    self.phase.probe_successes = successes;
                }
            }
            Kind::Open | Kind::HalfOpen | Kind::ForcedOpen => return false,
        }
        true
    }

    /// The call failed or timed out. Returns whether that counted.
    pub fn handle_failure(&mut self, permit: Permit, now: Timestamp) -> bool {
        let now = self.observe(now);
        self.phase = self.phase.at(now, &self.config);
        if self.phase.generation != permit.0 {
            return false;
        }
        match self.phase.kind {
            Kind::Closed => {
                self.count_failure(now);
                if let Some(reason) = self.reason_to_open() {
                    self.open(0, reason, now);
                }
            }
            Kind::ForcedClosed => self.count_failure(now),
            Kind::Probing => {
                self.totals.failures = self.totals.failures.saturating_add(1);
                self.open(self.phase.reopens.saturating_add(1), BreakerReason::ProbeFailed, now);
            }
            Kind::Open | Kind::HalfOpen | Kind::ForcedOpen => return false,
        }
        true
    }

    /// The call was given up and nothing is known of the callee. It counts for nothing; a probe's place is free again.
    /// Returns whether a probe's place became free.
    pub fn handle_cancelled(&mut self, permit: Permit, now: Timestamp) -> bool {
        let now = self.observe(now);
        self.phase = self.phase.at(now, &self.config);
        if self.phase.kind != Kind::Probing || self.phase.generation != permit.0 {
            return false;
        }
        self.phase.end_probe();
        true
    }

    /// Brings the state up to `now`. Safe early, safe twice, and never needed for the right answers. Returns whether
    /// anything changed.
    pub fn handle_timeout(&mut self, now: Timestamp) -> bool {
        let now = self.observe(now);
        let before = self.phase;
        self.phase = self.phase.at(now, &self.config);
        self.phase != before
    }

    /// When the state changes by itself: the end of the open time or of a forced state, or the deadline of the probe.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        // The last instant is never, whichever clock shows it.
        let shown = Some(self.phase.deadline).filter(|at| *at != Timestamp::MAX).map(|at| self.clock.to_host(at));
        shown.filter(|at| *at != Timestamp::MAX)
    }

    /// Overrides the breaker until `until`, or until [`CircuitBreaker::release`] if there is no end. All calls that are
    /// out count for nothing and the window starts anew. Forced closed, results are counted but open nothing; after the
    /// end they stand in the window, and the next failure may open. A breaker that was forced open becomes half-open: a
    /// callee that was kept away has to prove itself.
    ///
    /// Returns false, and changes nothing, if `until` is not in the future.
    ///
    /// ```
    /// use libgateway::{Admit, BreakerState, CircuitBreaker, CircuitBreakerConfig, ForcedState, Timestamp};
    /// let mut breaker = CircuitBreaker::new(CircuitBreakerConfig::default(), Timestamp::EPOCH)?;
    /// let until = Timestamp::from_secs(30);
    /// assert!(breaker.force(ForcedState::Open, Some(until), Timestamp::from_secs(10)));
    /// assert_eq!(breaker.admit(Timestamp::from_millis(29_999)), Admit::Deny { until });
    /// assert_eq!(breaker.state(until), BreakerState::HalfOpen);
    /// # Ok::<(), libgateway::error::InputError>(())
    /// ```
    pub fn force(&mut self, state: ForcedState, until: Option<Timestamp>, now: Timestamp) -> bool {
        let now = self.observe(now);
        let until = until.map_or(Timestamp::MAX, |until| self.clock.from_host(until));
        if until <= now {
            return false;
        }
        let kind = match state {
            ForcedState::Closed => Kind::ForcedClosed,
            ForcedState::Open => Kind::ForcedOpen,
        };
        self.enter(kind, until, 0, BreakerReason::Forced, now);
        true
    }

    /// Ends a forced state before its time. Returns whether there was one.
    pub fn release(&mut self, now: Timestamp) -> bool {
        let now = self.observe(now);
        self.phase = self.phase.at(now, &self.config);
        let forced = self.phase.kind.is_forced();
        if forced {
            self.phase = self.phase.unforced(now);
        }
        forced
    }

    /// The state at `now`.
    pub fn state(&self, now: Timestamp) -> BreakerState {
        self.phase_at(self.peek(now)).kind.state()
    }

    /// Whether [`CircuitBreaker::admit`] would let a call pass at `now`.
    pub fn would_admit(&self, now: Timestamp) -> bool {
        self.denied_until(now).is_none()
    }

    /// Whether calls pass in the state it was last brought to: time alone does not change the answer.
    #[inline]
    pub(crate) fn is_passable(&self) -> bool {
        matches!(self.phase.kind, Kind::Closed | Kind::ForcedClosed | Kind::HalfOpen)
    }

    /// What [`CircuitBreaker::admit`] would deny a call with at `now`, or `None` if it would let it pass.
    #[inline]
    pub fn denied_until(&self, now: Timestamp) -> Option<Timestamp> {
        if self.phase.kind == Kind::Closed {
            return None;
        }
        let clock = self.peek(now);
        let phase = self.phase_at(clock);
        match phase.kind {
            Kind::Closed | Kind::ForcedClosed | Kind::HalfOpen => None,
            Kind::Open | Kind::Probing | Kind::ForcedOpen => Some(clock.to_host(phase.deadline)),
        }
    }

    /// All there is to know at `now`.
    ///
    /// # Complexity
    /// O(buckets).
    pub fn status(&self, now: Timestamp) -> BreakerStatus {
        let clock = self.peek(now);
        let phase = self.phase_at(clock);
        let (calls, failures) = self.window.counts_at(clock.now());
        BreakerStatus {
            state: phase.kind.state(),
            forced: phase.kind.is_forced(),
            since: clock.to_host(phase.since),
            until: Some(phase.deadline).filter(|at| *at != Timestamp::MAX).map(|at| clock.to_host(at)),
            reason: phase.reason,
            calls,
            failures,
            consecutive_failures: self.consecutive,
            reopens: phase.reopens,
            probe_out: phase.kind == Kind::Probing,
            probe_successes: phase.probe_successes,
            successes_total: self.totals.successes,
            failures_total: self.totals.failures,
            rejected_total: self.totals.rejected,
        }
    }

    #[inline]
    fn observe(&mut self, now: Timestamp) -> Timestamp {
        self.clock.observe_awaited(now, self.phase.deadline);
        self.clock.now()
    }

    fn peek(&self, now: Timestamp) -> Clock {
        self.clock.peek(now, self.phase.deadline)
    }

    fn phase_at(&self, clock: Clock) -> Phase {
        self.phase.at(clock.now(), &self.config)
    }

    #[inline]
    fn count_success(&mut self, now: Timestamp) {
        self.window.record(false, now);
        self.consecutive = 0;
        self.totals.successes = self.totals.successes.saturating_add(1);
    }

    fn count_failure(&mut self, now: Timestamp) {
        self.window.record(true, now);
        self.consecutive = self.consecutive.saturating_add(1);
        self.totals.failures = self.totals.failures.saturating_add(1);
    }

    fn reason_to_open(&self) -> Option<BreakerReason> {
        if self.config.consecutive_failures.is_some_and(|limit| self.consecutive >= limit.get()) {
            return Some(BreakerReason::ConsecutiveFailures { failures: self.consecutive });
        }
        let (calls, failures) = self.window.counts();
        self.config.rate_opens(calls, failures).then_some(BreakerReason::FailureRate { calls, failures })
    }

    fn open(&mut self, reopens: u32, reason: BreakerReason, now: Timestamp) {
        self.enter(Kind::Open, now + self.config.open_span(reopens), reopens, reason, now);
    }

    /// A change that a call or a command made: what was counted and what is out belongs to the state before.
    fn enter(&mut self, kind: Kind, deadline: Timestamp, reopens: u32, reason: BreakerReason, now: Timestamp) {
        let generation = self.phase.generation.wrapping_add(1);
        self.phase = Phase { kind, generation, since: now, deadline, reopens, probe_successes: 0, reason };
        self.consecutive = 0;
        self.window.restart(now);
    }

    /// Whether calls can have left the breaker like this.
    fn is_sound(&self) -> bool {
        let counting = matches!(self.phase.kind, Kind::Closed | Kind::ForcedClosed);
        self.config.validate().is_ok()
            && self.window.is_sound(&self.config, self.clock.now())
            && (counting || (self.consecutive == 0 && self.window.counts() == (0, 0)))
            && self.phase.is_sound(&self.config, self.clock.now())
    }

    /// Panics unless the state is one that calls can have led to.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        assert!(self.is_sound(), "{self:?}");
    }
}

impl Phase {
    /// The phase at `now` if nobody calls until then. At most three steps: probe, open, half-open.
    fn at(mut self, now: Timestamp, config: &CircuitBreakerConfig) -> Self {
        while self.deadline <= now && self.deadline != Timestamp::MAX {
            let since = self.deadline;
            match self.kind {
                Kind::ForcedClosed | Kind::ForcedOpen => self = self.unforced(since),
                Kind::Open => self = self.lapsed(Kind::HalfOpen, BreakerReason::Waited, since),
                Kind::Probing => {
                    let reopens = self.reopens.saturating_add(1);
                    let deadline = since + config.open_span(reopens);
                    let open = self.lapsed(Kind::Open, BreakerReason::ProbeTimedOut, since);
                    self = Self { deadline, reopens, probe_successes: 0, ..open };
                }
                Kind::Closed | Kind::HalfOpen => self.deadline = Timestamp::MAX,
            }
        }
        self
    }

    /// What a forced phase leaves behind.
    fn unforced(self, since: Timestamp) -> Self {
        let kind = if self.kind == Kind::ForcedClosed { Kind::Closed } else { Kind::HalfOpen };
        self.lapsed(kind, BreakerReason::ForceEnded, since)
    }

    /// A phase that follows by time alone, without an end of its own. The number of permits stays: calls begun under
    /// forced closed go on to count, and to a probe that is late nobody listens until the next one has another number.
    fn lapsed(self, kind: Kind, reason: BreakerReason, since: Timestamp) -> Self {
        Self { kind, since, deadline: Timestamp::MAX, reason, ..self }
    }

    /// Frees the place of the probe. Its permit counts for nothing from here on: only a probing phase listens, and the
    /// next one has another number.
    fn end_probe(&mut self) {
        self.kind = Kind::HalfOpen;
        self.deadline = Timestamp::MAX;
    }

    fn is_sound(&self, config: &CircuitBreakerConfig, now: Timestamp) -> bool {
        use BreakerReason as Why;
        let probes = matches!(self.kind, Kind::HalfOpen | Kind::Probing);
        let reason = match self.kind {
            Kind::Closed => matches!(self.reason, Why::Initial | Why::ProbesSucceeded { .. } | Why::ForceEnded),
            Kind::Open => matches!(
                self.reason,
                Why::ConsecutiveFailures { .. } | Why::FailureRate { .. } | Why::ProbeFailed | Why::ProbeTimedOut
            ),
            Kind::HalfOpen | Kind::Probing => matches!(self.reason, Why::Waited | Why::ForceEnded),
            Kind::ForcedClosed | Kind::ForcedOpen => self.reason == Why::Forced,
        };
        reason
            && self.since <= now
            && self.since <= self.deadline
            && (self.deadline == Timestamp::MAX || !matches!(self.kind, Kind::Closed | Kind::HalfOpen))
            && (self.reopens == 0 || probes || self.kind == Kind::Open)
            && (self.probe_successes == 0 || probes)
            && self.probe_successes < config.probes_to_close.get()
    }
}

impl Kind {
    const fn state(self) -> BreakerState {
        match self {
            Self::Closed | Self::ForcedClosed => BreakerState::Closed,
            Self::Open | Self::ForcedOpen => BreakerState::Open,
            Self::HalfOpen | Self::Probing => BreakerState::HalfOpen,
        }
    }

    const fn is_forced(self) -> bool {
        matches!(self, Self::ForcedClosed | Self::ForcedOpen)
    }
}

impl Permit {
    /// A permit from its number.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number: for callers that keep permits outside of Rust.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// A breaker as it was written, before anybody looked whether it makes sense.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    clock: Clock,
    phase: Phase,
    consecutive: u32,
    window: Window,
    totals: Totals,
    config: CircuitBreakerConfig,
}

impl TryFrom<Stored> for CircuitBreaker {
    type Error = InputError;

    /// # Errors
    /// [`InputError`] if no calls can have left a breaker like this.
    fn try_from(stored: Stored) -> Result<Self, InputError> {
        let Stored { clock, phase, consecutive, window, totals, config } = stored;
        config.validate()?;
        let breaker = Self { clock, phase, consecutive, window, totals, config };
        if breaker.is_sound() {
            return Ok(breaker);
        }
        Err(InputError::Malformed { field: "breaker", expected: "a state that calls can have led to" })
    }
}
