//! One gateway for many threads: one lock, callers that wait, subscribers.
//!
//! The only part of the crate that needs `std`. It reads no clock either: the host gives one.

use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::vec::Vec;

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError};
use crossbeam::sync::{Parker, Unparker};

use crate::error::{FleetError, Poisoned};
use crate::gateway::{Abort, Dispatch, Event, EventKind, Gateway, Lease, Transaction, WatchStep};
use crate::gateway::{Watch, WatchEvent};
use crate::id::JobId;
use crate::job::Outcome;
use crate::time::Timestamp;

/// A [`Gateway`] that any number of threads use at once. Cloning shares it.
///
/// One lock on purpose: a command takes about a microsecond, and one writer is what makes "never over the limit" a fact.
/// Callers that wait are parked outside the lock; each is woken by a change that may help it, or at the instant the
/// gateway named. Nobody polls.
///
/// Every method reads the host's clock once it has the lock, so commands are applied in the order of their instants.
///
/// ```
/// use libgateway::{Backend, BackendKind, Gateway, GatewayConfig, JobId, Output, Route, SharedGateway, Submit, SystemClock, Usage};
///
/// let clock = SystemClock::of_process();
/// let gateway = SharedGateway::new(Gateway::new(GatewayConfig::default(), clock.now())?, || clock.now());
/// gateway.with(|gateway, now| {
///     gateway.put_backend(now, Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["*"]))
/// })??;
/// let worker = gateway.clone();
/// let thread = std::thread::spawn(move || {
///     let lease = worker.dispatch(None)?.ok_or("no job")?;
///     worker.with(|gateway, now| gateway.complete(now, lease.id, Output::url("1.webp"), Usage::unmeasured()))??;
///     Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// });
/// let route = Route::parse("image/flux/dev/t2i")?;
/// let job = gateway.with(|gateway, now| gateway.submit(now, Submit::new(JobId::from_entropy(1), "acme", route)))??;
/// assert!(gateway.outcome(job, None)?.is_some());
/// assert!(thread.join().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SharedGateway {
    shared: Arc<Shared>,
}

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Something happened.
    Event(Event),
    /// More happened than the subscriber took: look at the gateway again.
    LookAgain,
}

/// A stream of events. It never grows: what does not fit is told as one [`Notice::LookAgain`].
pub struct Subscription {
    events: Receiver<Event>,
    lagging: Arc<AtomicBool>,
}

struct Shared {
    clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
    machine: Mutex<Machine>,
}

struct Machine {
    gateway: Gateway,
    /// Callers that want any job: one is enough for one change, and it wakes the next if it got something.
    dispatchers: VecDeque<Waiter>,
    /// Callers that want something only they know: all are woken by every change.
    others: Vec<Waiter>,
    /// Callers that want the end of a job.
    watchers: BTreeMap<JobId, Vec<Waiter>>,
    subscribers: Vec<(Sender<Event>, Arc<AtomicBool>)>,
    /// Numbers waiters, so that one that leaves takes only itself away.
    next_waiter: u64,
    /// The gateway's changes that waiters were told of.
    told: u64,
    /// The event that is told next.
    next_event: u64,
    /// The dispatcher that wakes at the gateway's deadline, and that deadline: one is enough, it wakes the others.
    leader: Option<(u64, Instant)>,
}

struct Waiter {
    number: u64,
    unparker: Unparker,
}

/// Whom a caller waits with.
#[derive(Clone, Copy)]
enum Queue {
    Dispatchers,
    Others,
    Watchers(JobId),
}

impl SharedGateway {
    /// Shares a gateway. `clock` is the host's: nanoseconds since the Unix epoch. [`SystemClock`](crate::SystemClock) is
    /// one; whichever it is, callers wait as long as it says when they begin, by a clock that does not step.
    pub fn new(gateway: Gateway, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let (told, next_event) = (gateway.changes(), gateway.next_event());
        let machine = Machine {
            gateway,
            dispatchers: VecDeque::new(),
            others: Vec::new(),
            watchers: BTreeMap::new(),
            subscribers: Vec::new(),
            next_waiter: 0,
            told,
            next_event,
            leader: None,
        };
        Self { shared: Arc::new(Shared { clock: Box::new(clock), machine: Mutex::new(machine) }) }
    }

    /// Runs anything on the gateway under the lock, at the present instant. Keep it short: everybody waits.
    ///
    /// # Errors
    /// [`Poisoned`] when a call panicked under the lock before.
    pub fn with<T>(&self, body: impl FnOnce(&mut Gateway, Timestamp) -> T) -> Result<T, Poisoned> {
        let mut machine = self.lock()?;
        let now = (self.shared.clock)();
        let result = body(&mut machine.gateway, now);
        machine.tell();
        Ok(result)
    }

    /// Leases the next job; waits for one until `until` (`None`: without end). `Ok(None)`: there was none by then.
    ///
    /// # Errors
    /// As [`SharedGateway::with`].
    pub fn dispatch(&self, until: Option<Timestamp>) -> Result<Option<Lease>, Poisoned> {
        self.wait(Queue::Dispatchers, until, |gateway, now| match gateway.dispatch(now) {
            Dispatch::Lease(lease) => Ok(lease),
            Dispatch::Wait { until } => Err(until),
        })
    }

    /// Leases up to `max` jobs to a backend; waits for the first until `until`. An empty list: there was none by then.
    ///
    /// # Errors
    /// As [`SharedGateway::with`]; inside, [`FleetError::UnknownBackend`].
    pub fn dispatch_to(
        &self,
        backend: &str,
        max: u32,
        until: Option<Timestamp>,
    ) -> Result<Result<Vec<Lease>, FleetError>, Poisoned> {
        let leases = self.wait(Queue::Others, until, |gateway, now| match gateway.dispatch_to(now, backend, max) {
            Ok(leases) if leases.is_empty() && max > 0 => Err(gateway.next_deadline()),
            other => Ok(other),
        })?;
        Ok(leases.unwrap_or(Ok(Vec::new())))
    }

    /// Runs a transaction; while it says "not now", waits for a change and runs it again, until `until`.
    ///
    /// # Errors
    /// As [`SharedGateway::with`]; inside, what `body` returns. [`Abort::Retry`]: it was still "not now" at `until`.
    pub fn transaction<T, E>(
        &self,
        until: Option<Timestamp>,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<T, Abort<E>>,
    ) -> Result<Result<T, Abort<E>>, Poisoned> {
        let done = self.wait(Queue::Others, until, |gateway, now| match gateway.transaction(now, &mut body) {
            Err(Abort::Retry { until }) => Err([until, gateway.next_deadline()].into_iter().flatten().min()),
            other => Ok(other),
        })?;
        Ok(done.unwrap_or(Err(Abort::Retry { until: None })))
    }

    /// How a job ended; waits for it until `until`. `Ok(None)`: it had not by then, or the job is not known (any more).
    ///
    /// # Errors
    /// As [`SharedGateway::with`].
    pub fn outcome(&self, job: JobId, until: Option<Timestamp>) -> Result<Option<Outcome>, Poisoned> {
        let mut watch = Watch::new(job);
        let outcome = self.wait(Queue::Watchers(job), until, |gateway, now| {
            gateway.advance(now);
            loop {
                match watch.poll(gateway) {
                    WatchStep::Event(WatchEvent::Ended(outcome)) => return Ok(Some(outcome)),
                    WatchStep::Event(WatchEvent::Gone) | WatchStep::Done => return Ok(None),
                    WatchStep::Event(_) => {}
                    WatchStep::Wait => return Err(gateway.next_deadline()),
                }
            }
        })?;
        Ok(outcome.flatten())
    }

    /// Subscribes to events from now on; at most `capacity` wait to be taken.
    ///
    /// # Errors
    /// As [`SharedGateway::with`].
    pub fn subscribe(&self, capacity: usize) -> Result<Subscription, Poisoned> {
        let (sender, events) = channel::bounded(capacity.max(1));
        let lagging = Arc::new(AtomicBool::new(false));
        let mut machine = self.lock()?;
        machine.tell();
        machine.subscribers.push((sender, lagging.clone()));
        Ok(Subscription { events, lagging })
    }

    /// Takes the gateway out. `None` while other handles share it, or when a call panicked under the lock.
    pub fn into_inner(self) -> Option<Gateway> {
        let shared = Arc::into_inner(self.shared)?;
        shared.machine.into_inner().ok().map(|machine| machine.gateway)
    }

    /// Tries until it works, parked in between: until a change, until the instant the attempt named, at most until
    /// `until`.
    fn wait<T>(
        &self,
        queue: Queue,
        until: Option<Timestamp>,
        mut attempt: impl FnMut(&mut Gateway, Timestamp) -> Result<T, Option<Timestamp>>,
    ) -> Result<Option<T>, Poisoned> {
        let parker = Parker::new();
        let mut end = None;
        loop {
            let (number, pause) = {
                let mut machine = self.lock()?;
                let now = (self.shared.clock)();
                let result = attempt(&mut machine.gateway, now);
                machine.tell();
                let wake = match result {
                    Ok(value) => {
                        // Where there was one there may be more: the next caller looks, and the last one finds nothing.
                        machine.wake_dispatcher();
                        return Ok(Some(value));
                    }
                    Err(wake) => wake,
                };
                // The host's clock is asked how long, and the wait is by one that does not step.
                let present = Instant::now();
                let after = |at: Timestamp| present.checked_add(Duration::from_nanos(at.since(now).as_nanos()));
                end = end.or_else(|| until.and_then(after));
                if until.is_some_and(|until| until <= now) || end.is_some_and(|end| end <= present) {
                    machine.wake_dispatcher();
                    return Ok(None);
                }
                let number = machine.enlist(queue, parker.unparker().clone());
                let wake = wake.and_then(after).filter(|at| machine.has_to_wake(queue, number, *at));
                (number, [wake, end].into_iter().flatten().min())
            };
            match pause {
                Some(pause) => parker.park_deadline(pause),
                None => parker.park(),
            }
            self.lock()?.delist(queue, number);
        }
    }

    fn lock(&self) -> Result<MutexGuard<'_, Machine>, Poisoned> {
        self.shared.machine.lock().map_err(|_| Poisoned)
    }
}

impl Machine {
    /// Hands events to subscribers and wakes whom a change may help. Called before the lock is let go of.
    fn tell(&mut self) {
        let changes = self.gateway.changes();
        if changes == self.told {
            return;
        }
        self.told = changes;
        self.tell_events();
        self.wake_dispatcher();
        for waiter in self.others.drain(..) {
            waiter.unparker.unpark();
        }
    }

    fn tell_events(&mut self) {
        let from = core::mem::replace(&mut self.next_event, self.gateway.next_event());
        if self.subscribers.is_empty() && self.watchers.is_empty() {
            return;
        }
        let mut expected = from;
        for event in self.gateway.events_from(from) {
            if event.number != expected {
                break;
            }
            expected += 1;
            if let EventKind::Ended(job, _) | EventKind::Forgotten(job) = event.kind {
                for waiter in self.watchers.remove(&job).into_iter().flatten() {
                    waiter.unparker.unpark();
                }
            }
            self.subscribers.retain(|(sender, lagging)| match sender.try_send(event.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    lagging.store(true, Ordering::Release);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            });
        }
        if expected == self.next_event {
            return;
        }
        // Events were dropped for want of room, or the host fetched them: nobody knows of what, so all look.
        for waiter in core::mem::take(&mut self.watchers).into_values().flatten() {
            waiter.unparker.unpark();
        }
        for (_, lagging) in &self.subscribers {
            lagging.store(true, Ordering::Release);
        }
    }

    fn wake_dispatcher(&mut self) {
        if let Some(waiter) = self.dispatchers.pop_front() {
            waiter.unparker.unpark();
        }
    }

    fn enlist(&mut self, queue: Queue, unparker: Unparker) -> u64 {
        let number = self.next_waiter;
        self.next_waiter += 1;
        let waiter = Waiter { number, unparker };
        match queue {
            Queue::Dispatchers => self.dispatchers.push_back(waiter),
            Queue::Others => self.others.push(waiter),
            Queue::Watchers(job) => self.watchers.entry(job).or_default().push(waiter),
        }
        number
    }

    /// Whether a waiter has to wake at the gateway's deadline `at`: of all dispatchers, only the one that wakes first.
    fn has_to_wake(&mut self, queue: Queue, number: u64, at: Instant) -> bool {
        if !matches!(queue, Queue::Dispatchers) {
            return true;
        }
        let leads = self.leader.is_none_or(|(_, other)| at < other);
        if leads {
            self.leader = Some((number, at));
        }
        leads
    }

    /// Takes a waiter away that woke.
    fn delist(&mut self, queue: Queue, number: u64) {
        if self.leader.is_some_and(|(leader, _)| leader == number) {
            self.leader = None;
        }
        match queue {
            Queue::Dispatchers => self.dispatchers.retain(|waiter| waiter.number != number),
            Queue::Others => self.others.retain(|waiter| waiter.number != number),
            Queue::Watchers(job) => {
                if let Some(waiters) = self.watchers.get_mut(&job) {
                    waiters.retain(|waiter| waiter.number != number);
                    if waiters.is_empty() {
                        self.watchers.remove(&job);
                    }
                }
            }
        }
    }
}

impl Subscription {
    /// The next notice; waits for it. `None`: the gateway is gone.
    pub fn recv(&self) -> Option<Notice> {
        match self.try_recv() {
            Ok(notice) => Some(notice),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => self.events.recv().ok().map(Notice::Event),
        }
    }

    /// The next notice; waits for it at most so long. `None`: there was none, or the gateway is gone.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<Notice> {
        match self.try_recv() {
            Ok(notice) => Some(notice),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => match self.events.recv_timeout(timeout) {
                Ok(event) => Some(Notice::Event(event)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
            },
        }
    }

    /// The next notice, if there is one. What was kept comes first, then that more was not.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`], or [`TryRecvError::Disconnected`] when the gateway is gone.
    pub fn try_recv(&self) -> Result<Notice, TryRecvError> {
        match self.events.try_recv() {
            Ok(event) => Ok(Notice::Event(event)),
            Err(_) if self.lagging.swap(false, Ordering::AcqRel) => Ok(Notice::LookAgain),
            Err(error) => Err(error),
        }
    }
}
