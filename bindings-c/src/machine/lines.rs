//! Who waits for a gateway, and who of them is woken.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar};

use libgateway::{Gateway, JobId};

/// Whom a caller waits with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Any job will do: one is woken by a change, and wakes the next if it got something.
    Dispatchers,
    /// All are woken by every change.
    Others,
    /// Only the end of that job wakes them.
    Watchers(JobId),
}

/// A caller's bell. Rung and waited for under the lock of the gateway's slot, so none is missed.
pub(super) type Bell = Arc<Condvar>;

#[derive(Default)]
pub(super) struct Lines {
    dispatchers: VecDeque<(u64, Bell)>,
    others: Vec<(u64, Bell)>,
    watchers: BTreeMap<JobId, BTreeMap<u64, Bell>>,
    /// Numbers callers, so that one that leaves takes only itself away.
    next: u64,
    /// The caller that wakes at the gateway's deadline, and that deadline in nanoseconds: one of all that wait is enough,
    /// as what falls due wakes whom it helps.
    leader: Option<(u64, u64, Bell)>,
    /// How often callers looked whether what they wait for is there.
    pub(super) attempts: u64,
}

impl Lines {
    pub(super) fn is_empty(&self) -> bool {
        self.dispatchers.is_empty() && self.others.is_empty() && self.watchers.is_empty()
    }

    #[cfg(feature = "testing")]
    pub(super) fn waiting(&self) -> usize {
        self.dispatchers.len() + self.others.len() + self.watchers.values().map(BTreeMap::len).sum::<usize>()
    }

    pub(super) fn has_watchers(&self) -> bool {
        !self.watchers.is_empty()
    }

    pub(super) fn enlist(&mut self, line: Line, bell: &Bell) -> u64 {
        let number = self.next;
        self.next += 1;
        let bell = bell.clone();
        match line {
            Line::Dispatchers => self.dispatchers.push_back((number, bell)),
            Line::Others => self.others.push((number, bell)),
            Line::Watchers(job) => _ = self.watchers.entry(job).or_default().insert(number, bell),
        }
        number
    }

    /// Takes a caller away that woke.
    pub(super) fn delist(&mut self, line: Line, number: u64) {
        if self.leader.as_ref().is_some_and(|(leader, ..)| *leader == number) {
            self.leader = None;
        }
        match line {
            Line::Dispatchers => self.dispatchers.retain(|(other, _)| *other != number),
            Line::Others => self.others.retain(|(other, _)| *other != number),
            Line::Watchers(job) => {
                if let Some(waiters) = self.watchers.get_mut(&job) {
                    waiters.remove(&number);
                    if waiters.is_empty() {
                        self.watchers.remove(&job);
                    }
                }
            }
        }
    }

    pub(super) fn wake_dispatcher(&mut self) {
        if let Some((_, bell)) = self.dispatchers.pop_front() {
            bell.notify_one();
        }
    }

    pub(super) fn wake_others(&mut self) {
        self.others.drain(..).for_each(|(_, bell)| bell.notify_one());
    }

    pub(super) fn wake_watchers_of(&mut self, job: JobId) {
        for bell in self.watchers.remove(&job).into_iter().flat_map(BTreeMap::into_values) {
            bell.notify_one();
        }
    }

    pub(super) fn wake_watchers(&mut self) {
        for bell in std::mem::take(&mut self.watchers).into_values().flat_map(BTreeMap::into_values) {
            bell.notify_one();
        }
    }

    pub(super) fn wake_all(&mut self) {
        self.wake_watchers();
        self.wake_others();
        self.dispatchers.drain(..).for_each(|(_, bell)| bell.notify_one());
    }

    /// When a caller has to wake by itself: at the instant it named where that is not the gateway's own deadline, at that
    /// one only if no other caller does.
    pub(super) fn wake_at(&mut self, gateway: &Gateway, number: u64, wake: Option<u64>, bell: &Bell) -> Option<u64> {
        let due = gateway.next_deadline().map(|at| at.as_nanos());
        let leads = due.filter(|due| self.leader.as_ref().is_none_or(|(_, at, _)| due < at));
        if let Some(at) = leads {
            self.leader = Some((number, at, bell.clone()));
        }
        let own = wake.filter(|at| due.is_none_or(|due| *at < due));
        [leads, own].into_iter().flatten().min()
    }

    /// Sees to it that somebody wakes at the gateway's deadline, if anybody waits. Who is woken for it looks, and leads from
    /// then on.
    pub(super) fn lead_on(&mut self, gateway: &Gateway) {
        if self.is_empty() {
            return;
        }
        let Some(due) = gateway.next_deadline().map(|at| at.as_nanos()) else { return };
        match &self.leader {
            Some((_, at, _)) if *at <= due.saturating_add(SLACK) => {}
            // It came nearer.
            Some((.., bell)) => bell.notify_one(),
            None => {
                let first = self.dispatchers.front().or(self.others.first()).map(|(_, bell)| bell);
                let watcher = || self.watchers.first_key_value().and_then(|(_, all)| all.first_key_value());
                if let Some(bell) = first.or_else(|| watcher().map(|(_, bell)| bell)) {
                    bell.notify_one();
                }
            }
        }
    }
}

/// What the gateway's deadline may come nearer, in nanoseconds, without a call for it. Callers read the clock before they have
/// the lock, so a reading may be a little behind the one before, and the host's clock stands back by that.
const SLACK: u64 = 1_000_000;
