//! The pool: which backend takes the next lease, and which leases live.
//!
//! Backends that serve the same models with the same engine form a *group*. A group keeps its free backends in order of
//! load, and its warm ones by affinity, so that choosing never walks over backends. Load is the number of live leases:
//! there is no counter that could be forgotten.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashTable;
use slab::Slab;

use super::{Backend, BackendKind, Models, SLOTS_MAX};
use crate::breaker::{Admit, CircuitBreaker, CircuitBreakerConfig, Permit};
use crate::error::{Full, InputError};
use crate::hashing::KeyHasher;
use crate::heap::IndexedHeap;
use crate::id::LeaseId;
use crate::registry::Registry;
use crate::time::{Span, Timestamp};

#[derive(Debug)]
pub(crate) struct BackendPool {
    entries: Registry<Entry>,
    families: Registry<Family>,
    groups: Slab<Group>,
    leases: Slab<LeaseRecord>,
    lease_index: HashTable<u32>,
    hasher: KeyHasher,
    breaker: CircuitBreakerConfig,
    /// Number of the next lease; never used twice.
    pub(crate) next_lease: u64,
    pub(crate) next_order: u32,
    /// Backends by order of declaration.
    orders: BTreeMap<u32, u32>,
    /// Backends that were removed while they held leases; gone as soon as they hold none.
    leaving: u32,
    /// Groups with a free backend.
    free_groups: u32,
    /// No live lease is shorter, nor is one that can be granted.
    pub(crate) lease_for_min: Span,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) spec: Backend,
    /// Order of declaration: the last word between equals.
    pub(crate) order: u32,
    pub(crate) group: u32,
    member: u32,
    pub(crate) draining: bool,
    pub(crate) leaving: bool,
    pub(crate) hot: BackendHot,
    /// The load under which it stands among its group's free, if it does.
    listed: Option<Load>,
    /// The device that was reported last: nearly always the next one too, so its name is shared.
    device: Option<Arc<str>>,
}

/// What leases and results change; what an undo log keeps of a backend.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct BackendHot {
    pub(crate) live: u32,
    pub(crate) breaker: CircuitBreaker,
    /// Affinity keys it is warm for, the latest last.
    pub(crate) warm: Vec<u64>,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
}

/// Backends of one modality and family: the domain of a fair share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Family {
    pub(crate) groups: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct Group {
    family: u32,
    kind: BackendKind,
    models: Models,
    members: Slab<u32>,
    free: IndexedHeap<Load>,
    warm: BTreeSet<(u64, Load, u32)>,
    /// Slots of all members.
    slots: u64,
}

/// How busy a backend is: leases per slot, then order of declaration. Less is better.
///
/// The ratio is a fraction of 2^32, rounded down. That keeps all ratios apart, so that small and large backends fill
/// evenly: two of them, with at most 2^16 slots each, differ by at least 2^-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Load(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRecord {
    pub(crate) id: LeaseId,
    pub(crate) item: u32,
    pub(crate) backend: u32,
    pub(crate) permit: Permit,
    pub(crate) probe: bool,
    pub(crate) warm: bool,
    pub(crate) granted: Timestamp,
    pub(crate) deadline: Timestamp,
    pub(crate) lease_for: Span,
    /// What its customer's account was charged for it, in virtual time.
    pub(crate) charge: u64,
    /// How often it got its time again after a silence of the host, since its worker was heard.
    pub(crate) bridges: u8,
    /// Silences of the host that do not count as time its worker worked.
    pub(crate) silent: Span,
    /// How many such silences there were.
    pub(crate) silences: u8,
}

/// A backend that would take a lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) backend: u32,
    load: Load,
    pub(crate) warm: bool,
}

/// What the end of a lease says of its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Success,
    /// The backend's fault: its breaker hears of it.
    Failure,
    /// Nothing was heard any more: a failure, counted on its own.
    Lost,
    /// It did not deliver, and shows that it works: its breaker hears of a success.
    Alive,
    /// Says nothing of the backend.
    Neutral,
}

impl Load {
    /// Of a backend that has a free slot.
    fn new(live: u32, slots: u32, order: u32) -> Self {
        debug_assert!(live < slots && slots <= SLOTS_MAX);
        let ratio = (u64::from(live) << 32).checked_div(u64::from(slots)).unwrap_or(0);
        Self(ratio << 32 | u64::from(order))
    }
}

impl Grant {
    /// The better of two: warm before cold, then the lower load, then the earlier declaration.
    pub(crate) fn better(self, other: Self) -> Self {
        if (other.warm, self.load) > (self.warm, other.load) { other } else { self }
    }
}

impl BackendPool {
    pub(crate) fn new(
        backends_max: u32,
        families_max: u32,
        breaker: CircuitBreakerConfig,
        lease_for: Span,
        seed: u64,
    ) -> Self {
        Self {
            entries: Registry::new("backends", backends_max, seed),
            families: Registry::new("families", families_max, seed),
            groups: Slab::new(),
            leases: Slab::new(),
            lease_index: HashTable::new(),
            hasher: KeyHasher::new(seed),
            breaker: breaker.probe_timeout(None),
            next_lease: 1,
            next_order: 0,
            orders: BTreeMap::new(),
            leaving: 0,
            free_groups: 0,
            lease_for_min: lease_for,
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.entries.find(name).filter(|id| !self.entries[*id].leaving)
    }

    pub(crate) fn find_family(&self, name: &str) -> Option<u32> {
        self.families.find(name)
    }

    /// The family of that name, made if need be.
    pub(crate) fn open_family(&mut self, name: &str) -> Result<u32, Full> {
        match self.families.find(name) {
            Some(id) => Ok(id),
            None => self.families.insert(name, Family::default()),
        }
    }

    pub(crate) fn family_name(&self, id: u32) -> &str {
        self.families.name(id)
    }

    pub(crate) fn families(&self) -> impl Iterator<Item = u32> + '_ {
        self.families.iter().map(|(id, ..)| id)
    }

    /// Families that no backend serves any more.
    pub(crate) fn unserved(&self) -> impl Iterator<Item = u32> + '_ {
        self.families.iter().filter(|(.., family)| family.groups.is_empty()).map(|(id, ..)| id)
    }

    /// Whether no backend serves the family any more.
    pub(crate) fn is_unserved(&self, family: u32) -> bool {
        self.families.get(family).is_some_and(|family| family.groups.is_empty())
    }

    /// Forgets a family that no backend serves and no route belongs to.
    pub(crate) fn drop_family(&mut self, id: u32) {
        debug_assert!(self.is_unserved(id), "a family leaves after its groups");
        self.families.remove(id);
    }

    pub(crate) fn entry(&self, id: u32) -> &Entry {
        &self.entries[id]
    }

    pub(crate) fn entry_mut(&mut self, id: u32) -> &mut Entry {
        &mut self.entries[id]
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Entry> {
        self.entries.get(id)
    }

    pub(crate) fn name(&self, id: u32) -> &Arc<str> {
        self.entries.name(id)
    }

    /// A device's name as a backend's reports share it.
    pub(crate) fn device_name(&mut self, id: u32, device: &str) -> Arc<str> {
        let last = &mut self.entries[id].device;
        match last {
            Some(known) if **known == *device => known.clone(),
            _ => last.insert(Arc::from(device)).clone(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Backends in order of declaration, those that leave included.
    ///
    /// # Complexity
    /// O(n): for views and snapshots.
    pub(crate) fn in_order(&self) -> Vec<u32> {
        self.orders.values().copied().collect()
    }

    /// Adds a backend, or changes one; its leases, breaker and warmth stay. Returns its number, and whether groups came,
    /// went or lost a member.
    pub(crate) fn put(&mut self, spec: Backend, now: Timestamp) -> Result<(u32, bool), PutError> {
        spec.check()?;
        let known = self.entries.find(&spec.name);
        if known.is_none() && self.entries.is_full() {
            return Err(self.entries.full().into());
        }
        let breaker = CircuitBreaker::new(self.breaker, now)?;
        self.lease_for_min = self.lease_for_min.min(spec.lease_for.unwrap_or(Span::MAX));
        let family = self.open_family(&family_name(&spec.modality, &spec.family))?;
        let (group, mut changed) = self.open_group(family, spec.kind, &spec.models);
        let id = match known {
            Some(id) => {
                let entry = &mut self.entries[id];
                entry.draining = false;
                if entry.leaving {
                    entry.leaving = false;
                    self.leaving -= 1;
                }
                entry.spec = spec;
                let keep = self.entries[id].spec.warm_max as usize;
                self.set_warm(id, |warm| {
                    let surplus = warm.len().saturating_sub(keep);
                    warm.drain(..surplus);
                });
                if self.entries[id].group == group {
                    id
                } else {
                    self.leave_group(id);
                    self.join_group(id, group);
                    // Routes of the group it left, too, have to hear that it can no longer be served there.
                    changed = true;
                    id
                }
            }
            None => {
                let hot = BackendHot { live: 0, breaker, warm: Vec::new(), completed: 0, failed: 0, lost: 0 };
                let order = self.next_order;
                self.next_order += 1;
                let name = spec.name.clone();
                let entry = Entry {
                    spec,
                    order,
                    group,
                    member: 0,
                    draining: false,
                    leaving: false,
                    hot,
                    listed: None,
                    device: None,
                };
                let id = self.entries.insert(&name, entry)?;
                self.orders.insert(order, id);
                self.join_group(id, group);
                id
            }
        };
        self.count_slots(group);
        self.refresh(id, now);
        Ok((id, changed))
    }

    /// Puts a backend back as a snapshot tells it. `None` if it cannot be.
    pub(crate) fn restore(
        &mut self,
        spec: Backend,
        order: u32,
        draining: bool,
        leaving: bool,
        hot: BackendHot,
        now: Timestamp,
    ) -> Option<u32> {
        spec.check().ok()?;
        if self.entries.find(&spec.name).is_some() {
            return None;
        }
        let family = self.families.find(&family_name(&spec.modality, &spec.family))?;
        self.lease_for_min = self.lease_for_min.min(spec.lease_for.unwrap_or(Span::MAX));
        let (group, _) = self.open_group(family, spec.kind, &spec.models);
        let name = spec.name.clone();
        let entry = Entry { spec, order, group, member: 0, draining, leaving, hot, listed: None, device: None };
        let id = self.entries.insert(&name, entry).ok()?;
        self.orders.insert(order, id);
        self.leaving += u32::from(leaving);
        self.join_group(id, group);
        self.count_slots(group);
        self.refresh(id, now);
        Some(id)
    }

    /// Takes a backend out. While it holds leases it stays as one that leaves; see [`BackendPool::reap`].
    pub(crate) fn remove(&mut self, id: u32, now: Timestamp) {
        let entry = &mut self.entries[id];
        if !entry.leaving {
            entry.leaving = true;
            self.leaving += 1;
        }
        let group = entry.group;
        self.refresh(id, now);
        self.count_slots(group);
    }

    /// Whether backends left that may now be forgotten.
    pub(crate) fn has_leaving(&self) -> bool {
        self.leaving > 0
    }

    /// Forgets removed backends that hold no lease any more. Returns those, and whether groups went with them.
    pub(crate) fn reap(&mut self) -> (Vec<u32>, bool) {
        let gone = |(id, _, entry): (u32, _, &Entry)| (entry.leaving && entry.hot.live == 0).then_some(id);
        let gone: Vec<u32> = self.entries.iter().filter_map(gone).collect();
        let mut changed = false;
        for id in &gone {
            changed |= self.leave_group(*id);
            self.orders.remove(&self.entries[*id].order);
            self.entries.remove(*id);
            self.leaving -= 1;
        }
        (gone, changed)
    }

    pub(crate) fn set_draining(&mut self, id: u32, draining: bool, now: Timestamp) {
        self.entries[id].draining = draining;
        self.refresh(id, now);
    }

    /// The groups of a family that serve a model with an engine, if one is asked for.
    pub(crate) fn groups_for(&self, family: u32, model: &str, kind: Option<BackendKind>) -> Vec<u32> {
        let matches = |id: &u32| {
            let group = &self.groups[*id as usize];
            group.models.contains(model) && kind.is_none_or(|kind| kind == group.kind)
        };
        self.families[family].groups.iter().copied().filter(matches).collect()
    }

    pub(crate) fn has_free(&self, group: u32) -> bool {
        self.groups.get(group as usize).is_some_and(|group| !group.free.is_empty())
    }

    /// Whether any backend would take a lease.
    pub(crate) fn any_free(&self) -> bool {
        self.free_groups > 0
    }

    pub(crate) fn slots(&self, group: u32) -> u64 {
        self.groups.get(group as usize).map_or(0, |group| group.slots)
    }

    /// How many numbers groups have had at most: the length of a table indexed by them.
    pub(crate) fn group_bound(&self) -> usize {
        self.groups.iter().map(|(id, _)| id + 1).max().unwrap_or(0)
    }

    /// The best free backend of a group for an affinity key (0: none).
    ///
    /// # Complexity
    /// O(log n) of the group's warm entries; O(1) without an affinity.
    pub(crate) fn best(&self, group: u32, affinity: u64) -> Option<Grant> {
        let group = self.groups.get(group as usize)?;
        if affinity != 0 {
            let next = group.warm.range((affinity, Load(0), 0)..).next();
            if let Some((_, load, backend)) = next.filter(|(key, ..)| *key == affinity) {
                return Some(Grant { backend: *backend, load: *load, warm: true });
            }
        }
        let (load, member) = group.free.peek()?;
        let backend = *group.members.get(member as usize)?;
        Some(Grant { backend, load, warm: false })
    }

    /// One backend, if it would take a lease.
    pub(crate) fn only(&self, id: u32, affinity: u64) -> Option<Grant> {
        let entry = self.entries.get(id)?;
        let warm = affinity != 0 && entry.hot.warm.contains(&affinity);
        entry.listed.map(|load| Grant { backend: id, load, warm })
    }

    /// The best free backend of some groups for an affinity key, none of those that were declared as `avoided` if any other is
    /// free.
    ///
    /// # Complexity
    /// O(log n) for each avoided one.
    pub(crate) fn best_but(&mut self, groups: &[u32], affinity: u64, avoided: &[u32]) -> Option<Grant> {
        let best = |pool: &Self| groups.iter().filter_map(|group| pool.best(*group, affinity)).reduce(Grant::better);
        let first = best(self);
        let mut hidden = Vec::new();
        let mut found = first;
        while let Some(grant) = found.filter(|grant| avoided.contains(&self.entries[grant.backend].order)) {
            hidden.push((grant.backend, self.entries[grant.backend].listed));
            self.list(grant.backend, None);
            found = best(self);
        }
        for (backend, listed) in hidden {
            self.list(backend, listed);
        }
        found.or(first)
    }

    /// Names of backends by their order of declaration, as far as they are known.
    pub(crate) fn named(&self, orders: &[u32]) -> Vec<&Arc<str>> {
        orders.iter().filter_map(|order| self.orders.get(order)).map(|id| self.entries.name(*id)).collect()
    }

    /// Leases a slot of a backend that [`BackendPool::best`] or [`BackendPool::only`] named.
    pub(crate) fn lease(
        &mut self,
        grant: Grant,
        item: u32,
        affinity: u64,
        now: Timestamp,
        default: Span,
    ) -> Option<u32> {
        let entry = &mut self.entries[grant.backend];
        let (permit, probe) = match entry.hot.breaker.admit(now) {
            Admit::Allow(permit) => (permit, false),
            Admit::Probe(permit) => (permit, true),
            Admit::Deny { .. } => {
                self.refresh(grant.backend, now);
                return None;
            }
        };
        entry.hot.live += 1;
        let lease_for = entry.spec.lease_for.unwrap_or(default);
        let keep = entry.spec.warm_max as usize;
        if affinity != 0 && keep > 0 && entry.hot.warm.last() != Some(&affinity) {
            self.set_warm(grant.backend, |warm| {
                warm.retain(|key| *key != affinity);
                if warm.len() >= keep {
                    warm.remove(0);
                }
                warm.push(affinity);
            });
        }
        let id = LeaseId::from_u64(self.next_lease);
        self.next_lease += 1;
        let slot = self.put_lease(LeaseRecord {
            id,
            item,
            backend: grant.backend,
            permit,
            probe,
            warm: grant.warm,
            granted: now,
            deadline: now + lease_for,
            lease_for,
            charge: 0,
            bridges: 0,
            silent: Span::ZERO,
            silences: 0,
        });
        self.refresh(grant.backend, now);
        Some(slot)
    }

    pub(crate) fn put_lease(&mut self, record: LeaseRecord) -> u32 {
        self.lease_for_min = self.lease_for_min.min(record.lease_for);
        let hash = self.hash(record.id);
        let slot = self.leases.insert(record) as u32;
        let Self { leases, lease_index, hasher, .. } = self;
        lease_index.insert_unique(hash, slot, |slot| hasher.hash(&leases[*slot as usize].id));
        slot
    }

    pub(crate) fn find_lease(&self, id: LeaseId) -> Option<u32> {
        self.lease_index.find(self.hash(id), |slot| self.leases[*slot as usize].id == id).copied()
    }

    pub(crate) fn lease_record(&self, slot: u32) -> Option<&LeaseRecord> {
        self.leases.get(slot as usize)
    }

    /// Notes that a lease's worker was heard, or that it was not: the inverse.
    pub(crate) fn set_heard(&mut self, slot: u32, deadline: Timestamp, bridges: u8) {
        if let Some(lease) = self.leases.get_mut(slot as usize) {
            lease.deadline = deadline;
            lease.bridges = bridges;
        }
    }

    /// Notes what a lease's customer was charged for it. Part of its grant.
    pub(crate) fn set_charge(&mut self, slot: u32, charge: u64) {
        if let Some(lease) = self.leases.get_mut(slot as usize) {
            lease.charge = charge;
        }
    }

    /// Bridges a silence of the host: gives a lease its time again from an instant on, and does not count a span as time
    /// its worker worked. Returns its job, whose deadlines may have moved.
    pub(crate) fn bridge(&mut self, slot: u32, from: Option<Timestamp>, unworked: Span) -> Option<u32> {
        let lease = self.leases.get_mut(slot as usize)?;
        if let Some(from) = from.filter(|_| lease.bridges < BRIDGES_MAX) {
            lease.bridges += 1;
            lease.deadline = lease.deadline.max(from + lease.lease_for);
        }
        if !unworked.is_zero() && lease.silences < SILENCES_MAX {
            lease.silences += 1;
            lease.silent = lease.silent.saturating_add(unworked);
        }
        Some(lease.item)
    }

    pub(crate) fn leases(&self) -> impl Iterator<Item = (u32, &LeaseRecord)> {
        self.leases.iter().map(|(slot, lease)| (slot as u32, lease))
    }

    /// Ends a lease and frees its slot, the only way in which either happens.
    pub(crate) fn end_lease(&mut self, slot: u32, verdict: Verdict, now: Timestamp) -> Option<LeaseRecord> {
        let lease = self.take_lease(slot)?;
        let hot = &mut self.entries[lease.backend].hot;
        hot.live -= 1;
        match verdict {
            Verdict::Success => {
                hot.completed += 1;
                hot.breaker.handle_success(lease.permit, now)
            }
            Verdict::Failure => {
                hot.failed += 1;
                hot.breaker.handle_failure(lease.permit, now)
            }
            Verdict::Lost => {
                hot.lost += 1;
                hot.breaker.handle_failure(lease.permit, now)
            }
            Verdict::Alive => hot.breaker.handle_success(lease.permit, now),
            Verdict::Neutral => hot.breaker.handle_cancelled(lease.permit, now),
        };
        self.refresh(lease.backend, now);
        Some(lease)
    }

    /// Takes a lease's record out without telling its backend: half of [`BackendPool::end_lease`], and the inverse of a lease.
    pub(crate) fn take_lease(&mut self, slot: u32) -> Option<LeaseRecord> {
        let lease = self.leases.try_remove(slot as usize)?;
        if let Ok(entry) = self.lease_index.find_entry(self.hash(lease.id), |other| *other == slot) {
            entry.remove();
        }
        Some(lease)
    }

    /// Puts a backend among its group's free where it belongs now.
    pub(crate) fn refresh(&mut self, id: u32, now: Timestamp) {
        let Some(entry) = self.entries.get(id) else { return };
        let open = !entry.draining && !entry.leaving && entry.hot.live < entry.spec.slots;
        // Not whether it would admit at this instant: while more is due than one command handles, that would depend on who
        // looked when, and a copy made from a snapshot looks at everybody.
        let passable = entry.hot.breaker.is_passable();
        debug_assert!(!passable || entry.hot.breaker.would_admit(now), "time alone shuts no backend off");
        let listed = (open && passable).then(|| Load::new(entry.hot.live, entry.spec.slots, entry.order));
        self.list(id, listed);
    }

    fn list(&mut self, id: u32, listed: Option<Load>) {
        let Self { entries, groups, .. } = self;
        let entry = &mut entries[id];
        if entry.listed == listed {
            return;
        }
        let Some(group) = groups.get_mut(entry.group as usize) else { return };
        let was_free = !group.free.is_empty();
        if let Some(old) = entry.listed {
            for key in &entry.hot.warm {
                group.warm.remove(&(*key, old, id));
            }
        }
        match listed {
            Some(load) => {
                group.free.update(entry.member, load);
                group.warm.extend(entry.hot.warm.iter().map(|key| (*key, load, id)));
            }
            None => {
                group.free.remove(entry.member);
            }
        }
        entry.listed = listed;
        match (was_free, !group.free.is_empty()) {
            (false, true) => self.free_groups += 1,
            (true, false) => self.free_groups -= 1,
            _ => {}
        }
    }

    /// Changes what a backend is warm for.
    pub(crate) fn set_warm(&mut self, id: u32, change: impl FnOnce(&mut Vec<u64>)) {
        let listed = self.entries[id].listed;
        self.list(id, None);
        change(&mut self.entries[id].hot.warm);
        self.list(id, listed);
    }

    /// Puts back what an undo log kept.
    pub(crate) fn set_hot(&mut self, id: u32, hot: BackendHot, now: Timestamp) {
        self.list(id, None);
        self.entries[id].hot = hot;
        self.refresh(id, now);
    }

    fn open_group(&mut self, family: u32, kind: BackendKind, models: &Models) -> (u32, bool) {
        let same = |id: &&u32| {
            let group = &self.groups[**id as usize];
            group.kind == kind && group.models == *models
        };
        if let Some(id) = self.families[family].groups.iter().find(same) {
            return (*id, false);
        }
        let id = self.groups.insert(Group {
            family,
            kind,
            models: models.clone(),
            members: Slab::new(),
            free: IndexedHeap::new(),
            warm: BTreeSet::new(),
            slots: 0,
        }) as u32;
        self.families[family].groups.push(id);
        (id, true)
    }

    fn join_group(&mut self, id: u32, group: u32) {
        let member = self.groups[group as usize].members.insert(id) as u32;
        let entry = &mut self.entries[id];
        entry.group = group;
        entry.member = member;
    }

    /// Takes a backend out of its group. Returns whether the group went with it.
    fn leave_group(&mut self, id: u32) -> bool {
        self.list(id, None);
        let entry = &self.entries[id];
        let (index, member) = (entry.group, entry.member);
        let group = &mut self.groups[index as usize];
        group.members.try_remove(member as usize);
        if !group.members.is_empty() {
            self.count_slots(index);
            return false;
        }
        let family = group.family;
        self.groups.remove(index as usize);
        self.families[family].groups.retain(|own| *own != index);
        true
    }

    fn count_slots(&mut self, group: u32) {
        let Self { entries, groups, .. } = self;
        if let Some(group) = groups.get_mut(group as usize) {
            let slots = |(_, id): (usize, &u32)| {
                let entry = &entries[*id];
                if entry.leaving { 0 } else { u64::from(entry.spec.slots) }
            };
            group.slots = group.members.iter().map(slots).sum();
        }
    }

    fn hash(&self, id: LeaseId) -> u64 {
        self.hasher.hash(&id)
    }
}

/// So often a lease gets its time again without a word of its worker.
const BRIDGES_MAX: u8 = 3;
/// So many silences are not counted as time that a worker worked.
const SILENCES_MAX: u8 = 8;

/// Why a backend cannot be put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PutError {
    Input(InputError),
    Full(Full),
}

impl From<InputError> for PutError {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}

impl From<Full> for PutError {
    fn from(error: Full) -> Self {
        Self::Full(error)
    }
}

/// The name of the domain that a modality and family are: `image/flux`.
pub(crate) fn family_name(modality: &str, family: &str) -> String {
    let mut name = String::with_capacity(modality.len() + 1 + family.len());
    name.push_str(modality);
    name.push('/');
    name.push_str(family);
    name
}

#[cfg(any(test, feature = "testing"))]
impl BackendPool {
    pub(crate) fn check_invariants(&self, now: Timestamp) {
        for (id, name, entry) in self.entries.iter() {
            let live = self.leases.iter().filter(|(_, lease)| lease.backend == id).count();
            assert_eq!(entry.hot.live as usize, live, "load of {name} is its live leases");
            assert!(live as u32 <= entry.spec.slots || entry.listed.is_none(), "{name} takes no more than its slots");
            let open = !entry.draining && !entry.leaving && entry.hot.live < entry.spec.slots;
            let passable = entry.hot.breaker.is_passable();
            assert!(!passable || entry.hot.breaker.would_admit(now), "time alone shuts {name} not off");
            assert_eq!(entry.listed.is_some(), open && passable, "{name} is listed iff free");
            let group = &self.groups[entry.group as usize];
            assert_eq!(group.free.key(entry.member), entry.listed, "{name} stands in its group's order");
            for key in &entry.hot.warm {
                let warm = entry.listed.is_some_and(|load| group.warm.contains(&(*key, load, id)));
                assert_eq!(warm, entry.listed.is_some(), "{name} is found by what it is warm for");
            }
            entry.hot.breaker.check_invariants();
        }
        for (_, group) in &self.groups {
            let warm: usize = group
                .members
                .iter()
                .map(|(_, id)| &self.entries[*id])
                .filter(|entry| entry.listed.is_some())
                .map(|entry| entry.hot.warm.len())
                .sum();
            assert_eq!(group.warm.len(), warm, "nothing warm is left behind");
            group.free.check_invariants();
        }
        for (slot, lease) in self.leases() {
            assert_eq!(self.find_lease(lease.id), Some(slot));
        }
        assert_eq!(self.lease_index.len(), self.leases.len());
        let free = self.groups.iter().filter(|(_, group)| !group.free.is_empty()).count();
        assert_eq!(self.free_groups as usize, free, "groups with a free backend");
    }
}
