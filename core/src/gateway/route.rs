//! Routes: the way a job takes, and which routes wait for which backends.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use slab::Slab;

use crate::backend::{BackendKind, BackendPool, check_segment};
use crate::billing::Price;
use crate::error::InputError;
use crate::heap::IndexedHeap;
use crate::job::Task;
use crate::queue::{Key, Places};
use crate::registry::Registry;
use crate::time::GpuNanos;

/// What a job asks for: `modality/family/model/task`, and `?backend=KIND` where it wants one engine.
///
/// Jobs wait per modality, family, model and engine wanted; the task does not part them.
///
/// ```
/// use libgateway::{BackendKind, Route, Task};
/// let route = Route::parse("image/flux/dev/t2i?backend=torch")?;
/// assert_eq!((route.family(), route.model(), route.task()), ("flux", "dev", Task::T2i));
/// assert_eq!(route.backend(), Some(BackendKind::Torch));
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route<'a> {
    text: Cow<'a, str>,
    /// Where the slashes stand.
    slashes: [u16; 3],
    task: Task,
    backend: Option<BackendKind>,
}

impl<'a> Route<'a> {
    /// Takes a route apart. The text is borrowed, nothing is allocated.
    ///
    /// # Errors
    /// An [`InputError`] that names the segment which cannot be.
    pub fn parse(text: &'a str) -> Result<Self, InputError> {
        Self::from_text(Cow::Borrowed(text))
    }

    fn from_text(text: Cow<'a, str>) -> Result<Self, InputError> {
        let expected = "modality/family/model/task";
        if text.len() > ROUTE_LEN_MAX {
            return Err(InputError::TooLong { field: "route", len: text.len(), max: ROUTE_LEN_MAX });
        }
        let malformed = InputError::Malformed { field: "route", expected };
        let mut slashes = [0; 3];
        let mut found = 0;
        let mut end = text.len();
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                b'/' if found == slashes.len() => return Err(malformed),
                b'/' => {
                    slashes[found] = at as u16;
                    found += 1;
                }
                b'?' => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        if found < slashes.len() {
            return Err(malformed);
        }
        let (path, query) = (&text[..end], text.get(end + 1..));
        let backend = match query {
            None => None,
            Some(query) => {
                let kind = query.strip_prefix("backend=").and_then(BackendKind::parse);
                let expected = "backend=nunchaku, torch, tensorrt, vllm, sglang or other";
                Some(kind.ok_or(InputError::Malformed { field: "backend", expected })?)
            }
        };
        let task = path[slashes[2] as usize + 1..].parse()?;
        let route = Self { slashes, task, backend, text };
        check_segment("modality", route.modality())?;
        check_segment("family", route.family())?;
        check_segment("model", route.model())?;
        Ok(route)
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The modality, for example `image`.
    pub fn modality(&self) -> &str {
        &self.text[..self.slashes[0] as usize]
    }

    /// The family, for example `flux`.
    pub fn family(&self) -> &str {
        &self.text[self.slashes[0] as usize + 1..self.slashes[1] as usize]
    }

    /// The model, for example `dev`.
    pub fn model(&self) -> &str {
        &self.text[self.slashes[1] as usize + 1..self.slashes[2] as usize]
    }

    /// The task.
    pub fn task(&self) -> Task {
        self.task
    }

    /// The engine wanted, if one is.
    pub fn backend(&self) -> Option<BackendKind> {
        self.backend
    }

    /// Keeps the text, so that the route outlives what it was parsed from.
    pub fn into_owned(self) -> Route<'static> {
        Route {
            text: Cow::Owned(self.text.into_owned()),
            slashes: self.slashes,
            task: self.task,
            backend: self.backend,
        }
    }

    /// The modality and family: `image/flux`.
    pub(crate) fn domain(&self) -> &str {
        &self.text[..self.slashes[1] as usize]
    }

    /// What jobs wait by: `image/flux/dev`. The engine wanted is told apart from it.
    pub(crate) fn trunk(&self) -> &str {
        &self.text[..self.slashes[2] as usize]
    }
}

impl fmt::Display for Route<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Route<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de, 'a> Deserialize<'de> for Route<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Route::from_text(Cow::Owned(text)).map_err(serde::de::Error::custom)
    }
}

/// A route that jobs know.
#[derive(Clone, Debug)]
pub(crate) struct RouteRecord {
    /// Told in order of first use: the last word between routes.
    pub(crate) order: u64,
    pub(crate) family: u32,
    pub(crate) kind: Option<BackendKind>,
    pub(crate) model: Arc<str>,
    /// Jobs and settlements that refer to it.
    pub(crate) refs: u32,
    pub(crate) paused: bool,
    /// Moving mean of the time its completed jobs took.
    pub(crate) service: GpuNanos,
    /// Price per GPU-second of the tier asked for last, with the version of the book it stands in.
    pub(crate) price: Option<CachedPrice>,
    /// Routes of one class are served by the same groups.
    pub(crate) class: u32,
    /// Groups whose backends serve it, each with its number there.
    links: Vec<(u32, u32)>,
    /// The key under which it stands in the order of its groups.
    listed: Option<Key>,
}

#[derive(Clone, Debug)]
pub(crate) struct CachedPrice {
    pub(crate) version: u32,
    pub(crate) tier: Arc<str>,
    pub(crate) price: Option<Price>,
}

/// Which routes wait for which groups of backends, and which group can be served at once.
#[derive(Debug)]
pub(crate) struct RouteTable {
    pub(crate) routes: Registry<RouteRecord>,
    groups: Vec<GroupQueue>,
    /// Groups with a free backend and a ready job, the one whose next job is oldest first.
    open: IndexedHeap<Turn>,
    /// Numbers of classes, by the groups that serve their routes.
    classes: BTreeMap<Vec<u32>, u32>,
    pub(crate) next_order: u64,
}

/// Lane and age of the job a group would serve next, the lane above the 48 bits of the age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn(u64);

#[derive(Debug, Default)]
struct GroupQueue {
    members: Slab<u32>,
    order: IndexedHeap<Key>,
}

impl RouteRecord {
    pub(crate) fn new(order: u64, family: u32, kind: Option<BackendKind>, model: Arc<str>) -> Self {
        Self {
            order,
            family,
            kind,
            model,
            refs: 0,
            paused: false,
            service: GpuNanos::ZERO,
            price: None,
            class: 0,
            links: Vec::new(),
            listed: None,
        }
    }

    /// The groups whose backends serve it.
    pub(crate) fn groups(&self) -> impl Iterator<Item = u32> + '_ {
        self.links.iter().map(|(group, _)| *group)
    }

    /// Whether nothing of it can be served: it is paused, or no backend serves it.
    pub(crate) fn is_closed(&self) -> bool {
        self.paused || self.links.is_empty()
    }

    /// Whether it says nothing that a new record would not say.
    pub(crate) fn is_idle(&self) -> bool {
        self.refs == 0 && !self.paused
    }
}

impl RouteTable {
    pub(crate) fn new(routes_max: u32, seed: u64) -> Self {
        Self {
            routes: Registry::new("routes", routes_max, seed),
            groups: Vec::new(),
            open: IndexedHeap::new(),
            classes: BTreeMap::new(),
            next_order: 0,
        }
    }

    /// Ties a route to the groups that serve it. To be called for a new route, and for each route of a family whose
    /// groups changed.
    ///
    /// # Complexity
    /// O(groups of the family).
    pub(crate) fn link(&mut self, route: u32, pool: &BackendPool, places: &Places) {
        self.unlink(route, pool);
        let record = &self.routes[route];
        let groups = pool.groups_for(record.family, &record.model, record.kind);
        if self.groups.len() < pool.group_bound() {
            self.groups.resize_with(pool.group_bound(), GroupQueue::default);
        }
        let mut links = Vec::with_capacity(groups.len());
        for group in &groups {
            links.push((*group, self.groups[*group as usize].members.insert(route) as u32));
        }
        self.routes[route].links = links;
        self.classify(route, groups);
        self.refresh(route, pool, places);
    }

    /// Puts a route among those that the same groups serve. A paused one is by itself.
    fn classify(&mut self, route: u32, mut groups: Vec<u32>) {
        if self.routes[route].paused {
            groups = alloc::vec![u32::MAX, route];
        }
        groups.sort_unstable();
        let next = self.classes.len() as u32;
        self.routes[route].class = *self.classes.entry(groups).or_insert(next);
    }

    /// Stops serving a route, or lets it go on. No job of it may be parked then.
    pub(crate) fn set_paused(&mut self, route: u32, paused: bool) {
        self.routes[route].paused = paused;
        let groups = self.routes[route].groups().collect();
        self.classify(route, groups);
    }

    /// Forgets classes, before all routes are linked anew.
    pub(crate) fn forget_classes(&mut self) {
        self.classes.clear();
    }

    /// Unties a route from its groups.
    pub(crate) fn unlink(&mut self, route: u32, pool: &BackendPool) {
        let links = core::mem::take(&mut self.routes[route].links);
        self.routes[route].listed = None;
        for (group, member) in links {
            let queue = &mut self.groups[group as usize];
            queue.order.remove(member);
            queue.members.try_remove(member as usize);
            self.refresh_group(group, pool);
        }
    }

    /// Puts a route where its first ready job belongs.
    pub(crate) fn refresh(&mut self, route: u32, pool: &BackendPool, places: &Places) {
        let record = &mut self.routes[route];
        let first = places.first(route).map(|(key, _)| key).filter(|_| !record.paused);
        if record.listed == first {
            return;
        }
        record.listed = first;
        for index in 0..record.links.len() {
            let (group, member) = self.routes[route].links[index];
            let queue = &mut self.groups[group as usize];
            match first {
                Some(key) => queue.order.update(member, key),
                None => queue.order.remove(member),
            };
            self.refresh_group(group, pool);
        }
    }

    /// Notes whether a group has a free backend. Its next job is the same as before.
    pub(crate) fn refresh_free(&mut self, group: u32, pool: &BackendPool) {
        if self.open.contains(group) != pool.has_free(group) {
            self.refresh_group(group, pool);
        }
    }

    /// Notes whether a group can be served at once.
    pub(crate) fn refresh_group(&mut self, group: u32, pool: &BackendPool) {
        let Some(queue) = self.groups.get(group as usize) else { return };
        match queue.order.peek().filter(|_| pool.has_free(group)) {
            Some((key, _)) => self.open.update(group, Turn(u64::from(key.lane()) << 48 | key.sequence())),
            None => self.open.remove(group),
        };
    }

    /// The route to serve next, of all.
    pub(crate) fn next(&self) -> Option<u32> {
        let (_, group) = self.open.peek()?;
        self.next_of(group)
    }

    /// The route a group would serve next, if it had a free backend.
    pub(crate) fn next_of(&self, group: u32) -> Option<u32> {
        let queue = self.groups.get(group as usize)?;
        let (_, member) = queue.order.peek()?;
        queue.members.get(member as usize).copied()
    }
}

/// The name of a route in the table: trunk and engine wanted.
pub(crate) fn route_name<'b>(trunk: &'b str, kind: Option<BackendKind>, buffer: &'b mut String) -> &'b str {
    match kind {
        None => trunk,
        Some(kind) => {
            buffer.clear();
            buffer.push_str(trunk);
            buffer.push_str("?backend=");
            buffer.push_str(kind.as_str());
            buffer
        }
    }
}

const ROUTE_LEN_MAX: usize = 300;

#[cfg(any(test, feature = "testing"))]
impl RouteTable {
    pub(crate) fn check_invariants(&self, pool: &BackendPool, places: &Places) {
        for (route, name, record) in self.routes.iter() {
            let first = places.first(route).map(|(key, _)| key).filter(|_| !record.paused);
            assert_eq!(record.listed, first, "{name} stands where its first ready job belongs");
            let mut groups: Vec<u32> = record.groups().collect();
            groups.sort_unstable();
            let mut expected = pool.groups_for(record.family, &record.model, record.kind);
            expected.sort_unstable();
            assert_eq!(groups, expected, "{name} waits for the groups that serve it");
            for (group, member) in &record.links {
                let queue = &self.groups[*group as usize];
                assert_eq!(queue.order.key(*member), first, "{name} in group {group}");
                assert_eq!(queue.members.get(*member as usize), Some(&route));
            }
        }
        for (group, queue) in self.groups.iter().enumerate() {
            let group = group as u32;
            let open = pool.has_free(group) && queue.order.peek().is_some();
            assert_eq!(self.open.contains(group), open, "group {group} is open iff it can be served");
            queue.order.check_invariants();
        }
        self.open.check_invariants();
    }
}
