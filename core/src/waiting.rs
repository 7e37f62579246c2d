//! Who waits for a gateway, and who of them is woken.
//!
//! The same for threads, for callers of C, for tasks: a host has a lock around a gateway and its [`Waiters`], and a way to
//! sleep until a [`Bell`] rings. It does no I/O and reads no clock.
//!
//! The order of calls, each under the lock: look whether it is there; if not, [`Waiters::enlist`]; let go of the lock and sleep
//! until the bell rings, at most until the instant that was answered; [`Waiters::delist`], and look again. Who leaves, with or
//! without what it wanted, calls [`Waiters::leave`]. After every command, whoever gives it, [`Waiters::tell`], and where its giver
//! does not wait [`Waiters::lead`].
//!
//! Whom a change may help is woken, and nobody else: of those that want any job one, and it wakes the next when it leaves; of
//! those that wait for the end of a job those of that job. One of all that wait, the *leader*, wakes at the gateway's deadline:
//! what falls due is a change. Nobody polls.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::gateway::{Event, EventKind, Gateway};
use crate::id::JobId;
use crate::time::Timestamp;

/// What wakes a caller that waits. Cloning gives another hand on the same bell.
///
/// It is rung under the host's lock, so ringing must not wait for that, and must be heard however soon it comes: before the
/// caller sleeps, too.
pub trait Bell: Clone {
    /// Wakes the caller.
    fn ring(&self);
}

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Line {
    /// A job, whichever: one caller is enough for one change.
    AnyJob,
    /// Something only it knows: every change wakes it.
    AnyChange,
    /// The end of that job; only that wakes it.
    End(JobId),
}

/// The host's clock and the one its callers sleep by, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What the host's clock shows.
    pub now: Timestamp,
    /// Nanoseconds of a clock that does not step, since any instant: callers sleep by it.
    pub awake: u64,
}

impl Reading {
    /// What the clock that callers sleep by will show at an instant of the host's clock, if that does not step.
    pub fn awake_at(self, at: Timestamp) -> u64 {
        self.awake.saturating_add(at.since(self.now).as_nanos())
    }
}

/// What a change brought, for a host that hands events on.
#[derive(Clone, Copy, Debug)]
pub enum News<'g> {
    /// This happened.
    Event(&'g Event),
    /// More happened, and nobody knows what: the events had left before they could be told.
    Missed,
}

/// Where a caller stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    line: Line,
    number: u64,
}

/// Everybody who waits for one gateway.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use libgateway::waiting::{Bell, Line, Reading, Waiters};
/// use libgateway::{Backend, BackendKind, Gateway, GatewayConfig, JobId, Route, Submit, Timestamp};
///
/// #[derive(Clone, Default)]
/// struct Rung(Rc<Cell<u32>>);
/// impl Bell for Rung {
///     fn ring(&self) {
///         self.0.set(self.0.get() + 1);
///     }
/// }
///
/// let now = Timestamp::from_secs(1);
/// let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
/// gateway.put_backend(now, Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["dev"]))?;
/// let mut waiters = Waiters::new(&gateway);
/// let reading = Reading { now, awake: 0 };
/// let (one, other) = (Rung::default(), Rung::default());
/// for bell in [&one, &other] {
///     waiters.enlist(&gateway, reading, Line::AnyJob, bell, None);
/// }
/// gateway.submit(now, Submit::new(JobId::from_entropy(1), "acme", Route::parse("image/flux/dev/t2i")?))?;
/// waiters.tell(&gateway, None);
/// waiters.lead(&gateway, reading);
/// assert_eq!((one.0.get(), other.0.get()), (1, 0)); // One job, one caller.
/// # Ok::<(), libgateway::error::Error>(())
/// ```
#[derive(Debug)]
pub struct Waiters<B> {
    any_job: VecDeque<(u64, B)>,
    any_change: Vec<(u64, B)>,
    ends: BTreeMap<JobId, BTreeMap<u64, B>>,
    /// Numbers callers, so that one that leaves takes only itself away.
    next: u64,
    leader: Option<Leader<B>>,
    /// The gateway's changes that callers were told of.
    told: u64,
    /// The event that is looked at next for whom it wakes.
    next_event: u64,
}

/// The caller that wakes at the gateway's deadline, and when that is.
#[derive(Debug)]
struct Leader<B> {
    number: u64,
    at: u64,
    bell: B,
}

impl<B: Bell> Waiters<B> {
    /// Nobody yet. What happened before is told to nobody.
    pub fn new(gateway: &Gateway) -> Self {
        Self {
            any_job: VecDeque::new(),
            any_change: Vec::new(),
            ends: BTreeMap::new(),
            next: 0,
            leader: None,
            told: gateway.changes(),
            next_event: gateway.next_event(),
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.any_job.len() + self.any_change.len() + self.ends.values().map(BTreeMap::len).sum::<usize>()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.any_job.is_empty() && self.any_change.is_empty() && self.ends.is_empty()
    }

    /// Wakes whom the changes since the last call may help; `each` gets what happened, in order. To be called after every
    /// command, before the lock is let go of. [`Waiters::lead`] follows, unless the caller itself waits or leaves.
    ///
    /// # Complexity
    /// O(1) where nothing has changed; else O(events since) and O(log n) for each caller that is woken.
    pub fn tell(&mut self, gateway: &Gateway, each: Option<&mut dyn FnMut(News<'_>)>) {
        let changes = gateway.changes();
        if changes != self.told {
            self.told = changes;
            self.tell_events(gateway, each);
            self.wake_one();
            self.any_change.drain(..).for_each(|(_, bell)| bell.ring());
        }
    }

    fn tell_events(&mut self, gateway: &Gateway, mut each: Option<&mut dyn FnMut(News<'_>)>) {
        let from = core::mem::replace(&mut self.next_event, gateway.next_event());
        if self.ends.is_empty() && each.is_none() {
            return;
        }
        let mut expected = from;
        for event in gateway.events_from(from).take_while(|event| {
            let follows = event.number == expected;
            expected += u64::from(follows);
            follows
        }) {
            if let EventKind::Ended(job, _) | EventKind::Forgotten(job) = event.kind {
                if let Some(callers) = self.ends.remove(&job) {
                    callers.into_values().for_each(|bell| bell.ring());
                }
            }
            if let Some(each) = &mut each {
                each(News::Event(&event));
            }
        }
        if expected != self.next_event {
            // Events were dropped for want of room, or the host fetched them: nobody knows of what, so all look.
            self.wake_ends();
            if let Some(each) = each {
                each(News::Missed);
            }
        }
    }

    /// Lets a caller stand in its line. `wake` is the instant at which what it waits for may be there by itself. Returns its
    /// place, and what the clock it sleeps by shows when it has to wake unless its bell rings before; `None`: only that.
    ///
    /// # Complexity
    /// O(log n).
    pub fn enlist(
        &mut self,
        gateway: &Gateway,
        reading: Reading,
        line: Line,
        bell: &B,
        wake: Option<Timestamp>,
    ) -> (Place, Option<u64>) {
        let number = self.next;
        self.next += 1;
        match line {
            Line::AnyJob => self.any_job.push_back((number, bell.clone())),
            Line::AnyChange => self.any_change.push((number, bell.clone())),
            Line::End(job) => _ = self.ends.entry(job).or_default().insert(number, bell.clone()),
        }
        // The gateway's own deadline is for one caller; an instant before it is for whoever named it.
        let due = gateway.next_deadline();
        let leads = due.map(|due| reading.awake_at(due));
        let leads = leads.filter(|at| self.leader.as_ref().is_none_or(|leader| is_nearer(*at, leader.at)));
        if let Some(at) = leads {
            self.leader = Some(Leader { number, at, bell: bell.clone() });
        }
        let own = wake.filter(|at| due.is_none_or(|due| *at < due)).map(|at| reading.awake_at(at));
        (Place { line, number }, [leads, own].into_iter().flatten().min())
    }

    /// Takes a caller away that woke.
    ///
    /// # Complexity
    /// O(log n) of those that wait for an end; O(n) of those that wait for any job or change and did not hear their bell.
    pub fn delist(&mut self, place: Place) {
        let Place { line, number } = place;
        if self.leader.as_ref().is_some_and(|leader| leader.number == number) {
            self.leader = None;
        }
        match line {
            Line::AnyJob => self.any_job.retain(|(other, _)| *other != number),
            Line::AnyChange => self.any_change.retain(|(other, _)| *other != number),
            Line::End(job) => {
                if let Some(callers) = self.ends.get_mut(&job) {
                    callers.remove(&number);
                    if callers.is_empty() {
                        self.ends.remove(&job);
                    }
                }
            }
        }
    }

    /// For a caller that leaves: where there was one job there may be more, and who gives up may have been woken for nothing, so
    /// the next one looks; and somebody else wakes at the gateway's deadline.
    pub fn leave(&mut self, gateway: &Gateway, reading: Reading) {
        self.wake_one();
        self.lead(gateway, reading);
    }

    /// Wakes everybody: when the gateway goes, or is no longer to be trusted.
    pub fn wake_all(&mut self) {
        self.wake_ends();
        self.any_job.drain(..).chain(self.any_change.drain(..)).for_each(|(_, bell)| bell.ring());
    }

    fn wake_one(&mut self) {
        if let Some((_, bell)) = self.any_job.pop_front() {
            bell.ring();
        }
    }

    fn wake_ends(&mut self) {
        let bells = core::mem::take(&mut self.ends).into_values().flat_map(BTreeMap::into_values);
        bells.for_each(|bell| bell.ring());
    }

    /// Sees to it that somebody wakes at the gateway's deadline, if anybody waits. Who is woken for it looks, and leads from
    /// then on. Where nobody waits no reading is needed: see [`Waiters::is_empty`].
    pub fn lead(&self, gateway: &Gateway, reading: Reading) {
        if self.is_empty() {
            return;
        }
        let Some(due) = gateway.next_deadline().map(|due| reading.awake_at(due)) else { return };
        match &self.leader {
            Some(leader) if is_nearer(due, leader.at) => leader.bell.ring(),
            Some(_) => {}
            None => {
                let first = self.any_job.front().or(self.any_change.first()).map(|(_, bell)| bell);
                let waits = || self.ends.first_key_value().and_then(|(_, callers)| callers.first_key_value());
                if let Some(bell) = first.or_else(|| waits().map(|(_, bell)| bell)) {
                    bell.ring();
                }
            }
        }
    }
}

/// Whether one instant is so much before the other that it is not the same one, told by readings that lie apart a little.
fn is_nearer(one: u64, other: u64) -> bool {
    other.saturating_sub(one) > SLACK
}

/// What the gateway's deadline may come nearer, in nanoseconds, without a call for it.
const SLACK: u64 = 1_000_000;
