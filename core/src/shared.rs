//! One gateway for many threads: one lock, callers that wait, subscribers.
//!
//! The only part of the crate that needs `std`. It reads no clock either: the host gives one.

use std::boxed::Box;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::vec::Vec;

use crossbeam::channel::{self, Receiver, Select, Sender, TryRecvError, TrySendError};
use crossbeam::sync::{Parker, Unparker};

use crate::error::{FleetError, Poisoned};
use crate::gateway::{Abort, Dispatch, Event, Gateway, Lease, Transaction};
use crate::id::JobId;
use crate::job::Outcome;
use crate::time::Timestamp;
use crate::waiting::{Bell, Line, News, Reading, Waiters};

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
    /// Callers sleep by the time since then.
    since: Instant,
    machine: Mutex<Machine>,
}

struct Machine {
    gateway: Gateway,
    waiters: Waiters<Unparker>,
    subscribers: Vec<Subscriber>,
    /// How often callers looked whether what they wait for is there.
    #[cfg(feature = "testing")]
    attempts: u64,
}

impl Bell for Unparker {
    fn ring(&self) {
        self.unpark();
    }
}

impl SharedGateway {
    /// Shares a gateway. `clock` is the host's: nanoseconds since the Unix epoch. [`SystemClock`](crate::SystemClock) is
    /// one; whichever it is, callers wait as long as it says when they begin, by a clock that does not step.
    pub fn new(gateway: Gateway, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let machine = Machine {
            waiters: Waiters::new(&gateway),
            gateway,
            subscribers: Vec::new(),
            #[cfg(feature = "testing")]
            attempts: 0,
        };
        let shared = Shared { clock: Box::new(clock), since: Instant::now(), machine: Mutex::new(machine) };
        Self { shared: Arc::new(shared) }
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
        guard.0.tell();
        guard.0.waiters.lead(&guard.0.gateway, reading);
        Ok(result)
    }

    /// Leases the next job; waits for one until `until` (`None`: without end). `Ok(None)`: there was none by then.
    ///
    /// # Errors
    /// As [`SharedGateway::with`].
    pub fn dispatch(&self, until: Option<Timestamp>) -> Result<Option<Lease>, Poisoned> {
        self.wait(Line::AnyJob, until, |gateway, now| match gateway.dispatch(now) {
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
        let leases =
            self.wait(Line::AnyChange, until, |gateway, now| match gateway.dispatch_to(now, backend, max) {
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
        let done = self.wait(Line::AnyChange, until, |gateway, now| match gateway.transaction(now, &mut body) {
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
        let outcome = self.wait(Line::End(job), until, |gateway, now| {
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
        machine.tell();
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
        Ok(self.lock()?.waiters.len())
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
        line: Line,
        until: Option<Timestamp>,
        mut attempt: impl FnMut(&mut Gateway, Timestamp) -> Result<T, Option<Timestamp>>,
    ) -> Result<Option<T>, Poisoned> {
        let parker = Parker::new();
        let mut end = None;
        loop {
            let (place, pause) = {
                let mut machine = self.lock()?;
                let reading = self.read();
                let guard = Alarm(&mut machine);
                let result = attempt(&mut guard.0.gateway, reading.now);
                guard.0.tell();
                drop(guard);
                #[cfg(feature = "testing")]
                {
                    machine.attempts += 1;
                }
                let Machine { gateway, waiters, .. } = &mut *machine;
                let wake = match result {
                    Ok(value) => {
                        waiters.leave(gateway, reading);
                        return Ok(Some(value));
                    }
                    Err(wake) => wake,
                };
                end = end.or_else(|| until.map(|until| reading.awake_at(until)));
                if until.is_some_and(|until| until <= reading.now) || end.is_some_and(|end| end <= reading.awake) {
                    waiters.leave(gateway, reading);
                    return Ok(None);
                }
                let (place, wake) = waiters.enlist(gateway, reading, line, parker.unparker(), wake);
                (place, [wake, end].into_iter().flatten().min())
            };
            // An instant that no clock will show is none.
            match pause.and_then(|at| self.shared.since.checked_add(Duration::from_nanos(at))) {
                Some(pause) => parker.park_deadline(pause),
                None => parker.park(),
            }
            self.lock()?.waiters.delist(place);
        }
    }

    /// Asks the host's clock, and one that does not step: callers wait by that.
    fn read(&self) -> Reading {
        let awake = u64::try_from(self.shared.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Reading { now: (self.shared.clock)(), awake }
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
            self.0.waiters.wake_all();
            // Their streams end.
            self.0.subscribers.clear();
        }
    }
}

impl Machine {
    /// Wakes whom changes may help and hands events to subscribers. Called before the lock is let go of.
    fn tell(&mut self) {
        let Self { gateway, waiters, subscribers, .. } = self;
        if subscribers.is_empty() {
            return waiters.tell(gateway, None);
        }
        waiters.tell(gateway, Some(&mut |news| subscribers.retain(|subscriber| subscriber.hear(news))));
    }
}

impl Subscriber {
    /// Tells it. Whether it is there still.
    fn hear(&self, news: News<'_>) -> bool {
        let sent = match news {
            News::Event(event) => self.events.try_send(event.clone()),
            News::Missed => return self.miss(),
        };
        match sent {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => self.miss(),
            Err(TrySendError::Disconnected(_)) => false,
        }
    }

    /// Tells it to look again. Where it is told so already, that is enough.
    fn miss(&self) -> bool {
        !matches!(self.missed.try_send(()), Err(TrySendError::Disconnected(())))
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
