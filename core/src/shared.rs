//! One gateway for many threads: one lock, callers that wait, subscribers.
//!
//! The only part of the crate that needs `std`. It reads no clock either: the host gives one.

use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::vec::Vec;

use crossbeam::channel::{self, Receiver, Select, Sender, TryRecvError, TrySendError};
use crossbeam::sync::{Parker, Unparker};

use crate::error::{FleetError, Poisoned};
use crate::gateway::{Abort, Dispatch, Event, EventKind, Gateway, Lease, Transaction};
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

/// A stream of events. It never grows: what does not fit, or was gone before it could be told, is told as one
/// [`Notice::LookAgain`], also to a subscriber that waits.
pub struct Subscription {
    events: Receiver<Event>,
    /// Holds one when something was missed.
    missed: Receiver<()>,
}

struct Subscriber {
    events: Sender<Event>,
    missed: Sender<()>,
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
    /// Callers that want the end of a job: only that wakes them.
    watchers: BTreeMap<JobId, BTreeMap<u64, Unparker>>,
    subscribers: Vec<Subscriber>,
    /// Numbers waiters, so that one that leaves takes only itself away.
    next_waiter: u64,
    /// The gateway's changes that waiters were told of.
    told: u64,
    /// The event that is told next.
    next_event: u64,
    /// The caller that wakes at the gateway's deadline, and that deadline: one of all that wait is enough, as what falls due
    /// wakes whom it helps.
    leader: Option<Leader>,
    /// How often callers looked whether what they wait for is there.
    #[cfg(feature = "testing")]
    attempts: u64,
}

struct Leader {
    number: u64,
    at: Instant,
    unparker: Unparker,
}

struct Waiter {
    number: u64,
    unparker: Unparker,
}

/// The host's clock and one that does not step, read together.
#[derive(Clone, Copy)]
struct Reading {
    now: Timestamp,
    instant: Instant,
}

impl Reading {
    /// When the host's clock will show `at`, if it does not step; `None`: never.
    fn instant_of(self, at: Timestamp) -> Option<Instant> {
        self.instant.checked_add(Duration::from_nanos(at.since(self.now).as_nanos()))
    }
}

/// Whether one instant is so much before the other that it is not the same one, told by readings that lie apart a little.
fn is_nearer(one: Instant, other: Instant) -> bool {
    other.saturating_duration_since(one) > Duration::from_millis(1)
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
            #[cfg(feature = "testing")]
            attempts: 0,
        };
        Self { shared: Arc::new(Shared { clock: Box::new(clock), machine: Mutex::new(machine) }) }
    }

    /// Runs anything on the gateway under the lock, at the present instant. Keep it short: everybody waits.
    ///
    /// # Errors
    /// [`Poisoned`] when a call panicked under the lock before.
    pub fn with<T>(&self, body: impl FnOnce(&mut Gateway, Timestamp) -> T) -> Result<T, Poisoned> {
        let mut machine = self.lock()?;
        let reading = self.read();
        let guard = Alarm(&mut machine);
        let result = body(&mut guard.0.gateway, reading.now);
        guard.0.tell(reading);
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
    /// Who waits when the job ends gets its outcome, however soon the record leaves: it is kept for as long as somebody
    /// waits. Nothing but that end wakes a caller, so ten thousand that wait for other jobs cost nothing.
    ///
    /// # Errors
    /// As [`SharedGateway::with`].
    pub fn outcome(&self, job: JobId, until: Option<Timestamp>) -> Result<Option<Outcome>, Poisoned> {
        self.lock()?.gateway.hold_outcome(job);
        let outcome = self.wait(Queue::Watchers(job), until, |gateway, now| {
            gateway.advance(now);
            match gateway.outcome(job) {
                Some(outcome) => Ok(Some(outcome.clone())),
                None if gateway.is_known(job) => Err(gateway.next_deadline()),
                None => Ok(None),
            }
        });
        if let Ok(mut machine) = self.lock() {
            machine.gateway.release_outcome(job);
        }
        Ok(outcome?.flatten())
    }

    /// Subscribes to events from now on; at most `capacity` wait to be taken.
    ///
    /// # Errors
    /// As [`SharedGateway::with`].
    pub fn subscribe(&self, capacity: usize) -> Result<Subscription, Poisoned> {
        let (sender, events) = channel::bounded(capacity.max(1));
        let (miss, missed) = channel::bounded(1);
        let mut machine = self.lock()?;
        machine.tell_changes();
        machine.subscribers.push(Subscriber { events: sender, missed: miss });
        Ok(Subscription { events, missed })
    }

    /// How often callers that wait looked whether what they wait for is there, all together.
    ///
    /// # Errors
    /// As [`SharedGateway::with`].
    #[cfg(feature = "testing")]
    pub fn attempts(&self) -> Result<u64, Poisoned> {
        Ok(self.lock()?.attempts)
    }

    /// How many callers wait.
    ///
    /// # Errors
    /// As [`SharedGateway::with`].
    pub fn waiting(&self) -> Result<usize, Poisoned> {
        let machine = self.lock()?;
        let watchers: usize = machine.watchers.values().map(BTreeMap::len).sum();
        Ok(machine.dispatchers.len() + machine.others.len() + watchers)
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
                let reading = self.read();
                let now = reading.now;
                let guard = Alarm(&mut machine);
                let result = attempt(&mut guard.0.gateway, now);
                guard.0.tell_changes();
                drop(guard);
                #[cfg(feature = "testing")]
                {
                    machine.attempts += 1;
                }
                let wake = match result {
                    Ok(value) => {
                        // Where there was one there may be more: the next caller looks, and the last one finds nothing.
                        machine.hand_on(reading);
                        return Ok(Some(value));
                    }
                    Err(wake) => wake,
                };
                end = end.or_else(|| until.and_then(|until| reading.instant_of(until)));
                if until.is_some_and(|until| until <= now) || end.is_some_and(|end| end <= reading.instant) {
                    machine.hand_on(reading);
                    return Ok(None);
                }
                let number = machine.enlist(queue, parker.unparker().clone());
                let wake = machine.wake_at(reading, number, wake, parker.unparker());
                (number, [wake, end].into_iter().flatten().min())
            };
            match pause {
                Some(pause) => parker.park_deadline(pause),
                None => parker.park(),
            }
            self.lock()?.delist(queue, number);
        }
    }

    /// Asks the host's clock, and one that does not step: callers wait by that.
    fn read(&self) -> Reading {
        Reading { now: (self.shared.clock)(), instant: Instant::now() }
    }

    fn lock(&self) -> Result<MutexGuard<'_, Machine>, Poisoned> {
        self.shared.machine.lock().map_err(|_| Poisoned)
    }
}

/// Wakes everybody where a call panics under the lock: nobody else would, and what they wait for never comes.
struct Alarm<'m>(&'m mut Machine);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.wake_all();
            // Their streams end.
            self.0.subscribers.clear();
        }
    }
}

impl Machine {
    /// Called before the lock is let go of.
    fn tell(&mut self, reading: Reading) {
        self.tell_changes();
        self.lead_on(reading);
    }

    /// Hands events to subscribers and wakes whom a change may help.
    fn tell_changes(&mut self) {
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
                for unparker in self.watchers.remove(&job).into_iter().flat_map(BTreeMap::into_values) {
                    unparker.unpark();
                }
            }
            self.subscribers.retain(|subscriber| match subscriber.events.try_send(event.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    subscriber.miss();
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            });
        }
        if expected == self.next_event {
            return;
        }
        // Events were dropped for want of room, or the host fetched them: nobody knows of what, so all look.
        self.wake_watchers();
        self.subscribers.iter().for_each(Subscriber::miss);
    }

    fn wake_dispatcher(&mut self) {
        if let Some(waiter) = self.dispatchers.pop_front() {
            waiter.unparker.unpark();
        }
    }

    fn wake_watchers(&mut self) {
        for unparker in core::mem::take(&mut self.watchers).into_values().flat_map(BTreeMap::into_values) {
            unparker.unpark();
        }
    }

    fn wake_all(&mut self) {
        self.wake_watchers();
        for waiter in self.dispatchers.drain(..).chain(self.others.drain(..)) {
            waiter.unparker.unpark();
        }
    }

    /// For one who leaves: the next dispatcher looks, and if nobody wakes at the gateway's deadline any more, somebody
    /// takes that over.
    fn hand_on(&mut self, reading: Reading) {
        self.wake_dispatcher();
        self.lead_on(reading);
    }

    /// Sees to it that somebody wakes at the gateway's deadline, if anybody waits. Who is woken for it looks, and leads from
    /// then on.
    fn lead_on(&mut self, reading: Reading) {
        let due = self.gateway.next_deadline().and_then(|due| reading.instant_of(due));
        let Some(due) = due else { return };
        match &self.leader {
            Some(leader) if is_nearer(due, leader.at) => leader.unparker.unpark(),
            Some(_) => {}
            None => {
                let waiter = self.dispatchers.front().or(self.others.first()).map(|waiter| &waiter.unparker);
                let watcher = || self.watchers.first_key_value().and_then(|(_, all)| all.first_key_value());
                if let Some(unparker) = waiter.or_else(|| watcher().map(|(_, unparker)| unparker)) {
                    unparker.unpark();
                }
            }
        }
    }

    fn enlist(&mut self, queue: Queue, unparker: Unparker) -> u64 {
        let number = self.next_waiter;
        self.next_waiter += 1;
        match queue {
            Queue::Dispatchers => self.dispatchers.push_back(Waiter { number, unparker }),
            Queue::Others => self.others.push(Waiter { number, unparker }),
            Queue::Watchers(job) => _ = self.watchers.entry(job).or_default().insert(number, unparker),
        }
        number
    }

    /// When a caller has to wake by itself: at the instant it named where that is not the gateway's own deadline, at that one
    /// only if no other caller does.
    fn wake_at(
        &mut self,
        reading: Reading,
        number: u64,
        wake: Option<Timestamp>,
        unparker: &Unparker,
    ) -> Option<Instant> {
        let due = self.gateway.next_deadline();
        let leads = due.and_then(|due| reading.instant_of(due));
        let leads = leads.filter(|due| self.leader.as_ref().is_none_or(|leader| is_nearer(*due, leader.at)));
        if let Some(at) = leads {
            self.leader = Some(Leader { number, at, unparker: unparker.clone() });
        }
        let own = wake.filter(|at| due.is_none_or(|due| *at < due)).and_then(|at| reading.instant_of(at));
        [leads, own].into_iter().flatten().min()
    }

    /// Takes a waiter away that woke.
    fn delist(&mut self, queue: Queue, number: u64) {
        if self.leader.as_ref().is_some_and(|leader| leader.number == number) {
            self.leader = None;
        }
        match queue {
            Queue::Dispatchers => self.dispatchers.retain(|waiter| waiter.number != number),
            Queue::Others => self.others.retain(|waiter| waiter.number != number),
            Queue::Watchers(job) => {
                if let Some(waiters) = self.watchers.get_mut(&job) {
                    waiters.remove(&number);
                    if waiters.is_empty() {
                        self.watchers.remove(&job);
                    }
                }
            }
        }
    }
}

impl Subscriber {
    fn miss(&self) {
        // Where one is there already, that is enough.
        let _ = self.missed.try_send(());
    }
}

impl Subscription {
    /// The next notice; waits for it. `None`: the gateway is gone, or a call panicked under its lock.
    pub fn recv(&self) -> Option<Notice> {
        self.recv_until(None)
    }

    /// The next notice; waits for it at most so long. `None`: there was none, or the gateway is gone.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<Notice> {
        // A timeout beyond what the clock can tell is none.
        self.recv_until(Some(timeout).map(|timeout| Instant::now().checked_add(timeout)).unwrap_or_default())
    }

    fn recv_until(&self, until: Option<Instant>) -> Option<Notice> {
        let mut select = Select::new();
        select.recv(&self.events);
        select.recv(&self.missed);
        loop {
            match self.try_recv() {
                Ok(notice) => return Some(notice),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            match until {
                None => _ = select.ready(),
                Some(until) if select.ready_deadline(until).is_err() => return None,
                Some(_) => {}
            }
        }
    }

    /// The next notice, if there is one. What was kept comes first, then that more was not.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`], or [`TryRecvError::Disconnected`] when the gateway is gone.
    pub fn try_recv(&self) -> Result<Notice, TryRecvError> {
        match self.events.try_recv() {
            Ok(event) => Ok(Notice::Event(event)),
            Err(error) => self.missed.try_recv().map(|()| Notice::LookAgain).map_err(|_| error),
        }
    }
}
