//! What the operator changes: backends, customers, routes, prices, breakers.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::config::CustomerPolicy;
use super::lifecycle::EvictTo;
use super::route::{Route, RouteRecord, route_name};
use super::settlement::Settlement;
use super::state::State;
use crate::backend::{Backend, PutError};
use crate::billing::{Batch, PriceBook};
use crate::breaker::ForcedState;
use crate::error::{FleetError, InputError, OutboxError};
use crate::id::{JobId, LeaseId, NAME_LEN_MAX, check_name};
use crate::limiter::TokenBucket;
use crate::time::Timestamp;

/// A lease that ended because its backend was taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Evicted {
    /// The lease: its worker's result is refused from now on.
    pub lease: LeaseId,
    /// The job.
    pub job: JobId,
}

impl State {
    /// Adds a backend or changes one.
    pub(crate) fn put_backend(&mut self, backend: Backend) -> Result<(), FleetError> {
        let (id, regrouped) = self.pool.put(backend, self.now).map_err(|error| match error {
            PutError::Input(error) => FleetError::Input(error),
            PutError::Full(full) => FleetError::Full(full),
        })?;
        if regrouped {
            self.relink();
            self.drop_families();
        }
        self.refresh_backend(id);
        Ok(())
    }

    /// Takes a backend out: it gets no new lease, and is forgotten when its last one has ended.
    pub(crate) fn remove_backend(&mut self, name: &str) -> Result<(), FleetError> {
        let id = self.backend(name)?;
        self.pool.remove(id, self.now);
        self.refresh_backend(id);
        Ok(())
    }

    pub(crate) fn drain_backend(&mut self, name: &str, draining: bool) -> Result<(), FleetError> {
        let id = self.backend(name)?;
        self.pool.set_draining(id, draining, self.now);
        self.refresh_backend(id);
        Ok(())
    }

    /// Ends all leases of a backend. Returns them, in the order in which they were granted.
    pub(crate) fn evict_backend(&mut self, name: &str, to: EvictTo) -> Result<Vec<Evicted>, FleetError> {
        let id = self.backend(name)?;
        let leases = self.pool.leases().filter(|(_, lease)| lease.backend == id);
        let mut leases: Vec<_> = leases.map(|(_, lease)| (lease.granted, lease.id, lease.item)).collect();
        leases.sort_unstable();
        let evicted = leases.into_iter().map(|(_, lease, slot)| {
            let job = self.jobs[slot].id;
            self.evict(slot, to);
            Evicted { lease, job }
        });
        Ok(evicted.collect())
    }

    /// Holds a backend's breaker in a state until an instant, or lets go of it.
    pub(crate) fn force_breaker(
        &mut self,
        name: &str,
        state: Option<ForcedState>,
        until: Option<Timestamp>,
    ) -> Result<(), FleetError> {
        let id = self.backend(name)?;
        let now = self.now;
        let told = until;
        let until = until.map(|until| self.by_machine(until));
        if let Some(past) = told.filter(|_| state.is_some() && until.is_some_and(|until| until <= now)) {
            let (value, min) = (past.as_nanos(), self.to_host(now).as_nanos().saturating_add(1));
            return Err(InputError::OutOfRange { field: "until", value, min, max: u64::MAX }.into());
        }
        let breaker = &mut self.pool.entry_mut(id).hot.breaker;
        match state {
            Some(state) => breaker.force(state, until, now),
            None => breaker.release(now),
        };
        self.pool.refresh(id, now);
        self.refresh_backend(id);
        Ok(())
    }

    /// Forgets removed backends that hold no lease any more.
    pub(crate) fn reap(&mut self) {
        let (gone, regrouped) = self.pool.reap();
        for backend in gone {
            self.backend_timers.disarm(backend);
        }
        if regrouped {
            self.relink();
            self.drop_families();
        }
    }

    /// Forgets families that no backend serves and no route belongs to, so that others find room.
    ///
    /// # Complexity
    /// O(families + routes), and more for a family that goes.
    pub(crate) fn drop_families(&mut self) {
        let in_use: BTreeSet<u32> = self.table.routes.iter().map(|(.., route)| route.family).collect();
        let idle: Vec<u32> = self.pool.unserved().filter(|family| !in_use.contains(family)).collect();
        for family in idle {
            self.pool.drop_family(family);
            self.places.close_pool(family);
        }
    }

    /// Ties routes to the groups that serve them now.
    ///
    /// # Complexity
    /// O(routes × groups of their family): when groups come or go, which is when the operator says so.
    fn relink(&mut self) {
        self.unpark_all();
        self.table.forget_classes();
        let routes: Vec<u32> = self.table.routes.iter().map(|(route, ..)| route).collect();
        for route in &routes {
            self.table.unlink(*route, &self.pool);
        }
        for route in &routes {
            self.table.link(*route, &self.pool, &self.places);
        }
        let (closed, open): (Vec<u32>, Vec<u32>) =
            routes.into_iter().partition(|route| self.table.routes[*route].is_closed());
        open.into_iter().for_each(|route| self.places.set_closed(route, false));
        closed.into_iter().for_each(|route| self.places.set_closed(route, true));
    }

    /// Gives a customer a policy of its own. What it has of tokens stays.
    pub(crate) fn put_customer(&mut self, name: &str, policy: CustomerPolicy) -> Result<(), FleetError> {
        check_name("name", name, NAME_LEN_MAX)?;
        policy.check()?;
        let Some(customer) = self.customers.find(name) else {
            if self.customers.is_full() {
                return Err(self.customers.full().into());
            }
            self.insert_customer(name, Some(Arc::new(policy)));
            return Ok(());
        };
        self.set_policy(customer, Some(Arc::new(policy)));
        Ok(())
    }

    /// Takes a customer's own policy away; it gets the default one.
    pub(crate) fn remove_customer(&mut self, name: &str) -> Result<(), FleetError> {
        let known = self.customers.find(name).filter(|customer| self.customers[*customer].policy.is_some());
        let Some(customer) = known else {
            check_name("customer", name, NAME_LEN_MAX)?;
            return Err(FleetError::UnknownCustomer { customer: name.into() });
        };
        self.set_policy(customer, None);
        if self.customers[customer].refs == 0 {
            self.idle_customers.push(customer);
        }
        Ok(())
    }

    fn set_policy(&mut self, customer: u32, policy: Option<Arc<CustomerPolicy>>) {
        let old = self.policy(customer).rate;
        let new = policy.as_deref().unwrap_or(&self.config.customer).rate;
        let bucket = &mut self.customers[customer].bucket;
        match (old, new) {
            (Some(old), Some(new)) => bucket.rescale(&old, &new, self.now),
            (None, Some(_)) => *bucket = TokenBucket::full(),
            (_, None) => {}
        }
        self.customers[customer].policy = policy;
        self.wake_all(customer);
    }

    /// Stops or lets go on the serving of a route. Its jobs keep their order and their clocks.
    pub(crate) fn pause(&mut self, route: &Route<'_>, paused: bool) -> Result<(), FleetError> {
        let known = self.known_route(route)?;
        if known.is_none() && !paused {
            return Ok(());
        }
        let id = match known {
            Some(id) => id,
            None => self.make_route(route)?,
        };
        self.unpark_all();
        self.table.set_paused(id, paused);
        self.places.set_closed(id, self.table.routes[id].is_closed());
        if !paused && self.table.routes[id].refs == 0 {
            self.idle_routes.push(id);
        }
        self.refresh_route(id);
        Ok(())
    }

    /// Puts a newer price book in force. What was settled stays as it was settled.
    pub(crate) fn put_prices(&mut self, book: PriceBook) -> Result<(), FleetError> {
        if book.version() <= self.prices.version() {
            let (value, min) = (u64::from(book.version()), u64::from(self.prices.version()) + 1);
            return Err(InputError::OutOfRange { field: "version", value, min, max: u64::from(u32::MAX) }.into());
        }
        if self.prices.version() > 0 && book.currency() != self.prices.currency() {
            return Err(InputError::Contradiction { field: "currency", other: "that of the book in force" }.into());
        }
        self.prices = book;
        Ok(())
    }

    /// Hands out up to `max` settlements, the oldest first.
    pub(crate) fn take_settlements(&mut self, max: u32) -> Option<(Batch, Vec<Settlement>)> {
        let batch = self.outbox.take(max, self.now)?;
        let entries = self.outbox.entries(batch).ok()?;
        let told = entries.map(|(number, record)| self.tell_settlement(number, record)).collect();
        Some((batch, told))
    }

    /// Lets go of settlements the host has kept safe.
    pub(crate) fn confirm_settlements(&mut self, batch: Batch) -> Result<u32, OutboxError> {
        let named: Vec<(u32, u32)> = match self.outbox.entries(batch) {
            Ok(entries) => entries.filter_map(|(_, record)| record.party.known()).collect(),
            Err(_) => Vec::new(),
        };
        let count = self.outbox.confirm(batch)?;
        for (customer, route) in named {
            self.release(customer, route);
        }
        Ok(count)
    }

    /// The route as a record, or `None` where nothing asks for it though some backend serves it.
    pub(crate) fn known_route(&self, route: &Route<'_>) -> Result<Option<u32>, FleetError> {
        let mut buffer = String::new();
        let name = route_name(route.trunk(), route.backend(), &mut buffer);
        if let Some(known) = self.table.routes.find(name) {
            return Ok(Some(known));
        }
        let family = self.pool.find_family(route.domain());
        let served =
            family.is_some_and(|family| !self.pool.groups_for(family, route.model(), route.backend()).is_empty());
        if served { Ok(None) } else { Err(FleetError::UnknownRoute { route: name.into() }) }
    }

    /// A record of a route that [`State::known_route`] found served.
    fn make_route(&mut self, route: &Route<'_>) -> Result<u32, FleetError> {
        let full = self.table.routes.full();
        let Some(family) = self.pool.find_family(route.domain()) else { return Err(full.into()) };
        let mut buffer = String::new();
        let name = route_name(route.trunk(), route.backend(), &mut buffer);
        let record = RouteRecord::new(self.table.next_order, family, route.backend(), route.model().into());
        self.insert_route(name, record).ok_or_else(|| full.into())
    }

    pub(crate) fn backend(&self, name: &str) -> Result<u32, FleetError> {
        if let Some(known) = self.pool.find(name) {
            return Ok(known);
        }
        // Only a name that could be one is told in a message.
        check_name("backend", name, NAME_LEN_MAX)?;
        Err(FleetError::UnknownBackend { backend: name.into() })
    }
}
