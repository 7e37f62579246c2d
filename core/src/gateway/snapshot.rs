//! The whole state as bytes: to keep, to move, to compare.
//!
//! The bytes are canonical: two gateways that would answer every future command alike have the same, wherever their
//! records happen to lie in memory. So the digest of the bytes is the digest of the state.
//!
//! Form: `LGWS`, the version (u16, little endian), the length of the body (u64), the body (postcard), BLAKE2b-256 of all
//! before it. Events that were not fetched are not part of it, nor is any key.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use serde::{Deserialize, Serialize};

use super::Gateway;
use super::config::{CustomerPolicy, GatewayConfig};
use super::late::LateLease;
use super::restore::restore;
use super::settlement::{Correction, DeviceTime, Party, SettlementRecord};
use super::state::{Scalars, State};
use crate::backend::{Backend, BackendHot, BackendKind};
use crate::billing::{Money, Outbox, Price, PriceBook};
use crate::breaker::Permit;
use crate::error::SnapshotError;
use crate::id::JobId;
use crate::job::{Earlier, Hold, Idempotency, Job, JobFailure, JobState, Outcome, Payload, Priority, Task, Timeouts};
use crate::limiter::TokenBucket;
use crate::queue::LANES;
use crate::time::{Clock, GpuNanos, Span, Timestamp};

/// BLAKE2b-256 of a state, shown as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Blake2b::<U32>::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Gateway {
    /// The whole state as bytes.
    ///
    /// ```
    /// use libgateway::{Gateway, GatewayConfig, Timestamp};
    /// let gateway = Gateway::new(GatewayConfig::default(), Timestamp::from_secs(1))?;
    /// let copy = Gateway::restore(&gateway.snapshot())?;
    /// assert_eq!(copy.digest(), gateway.digest());
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Complexity
    /// O(n log n) of everything known.
    pub fn snapshot(&self) -> Vec<u8> {
        let body = self.state.body_bytes();
        let mut bytes = Vec::with_capacity(body.len() + HEADER_LEN + DIGEST_LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&body);
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// The body of a snapshot for people who look for a difference.
    #[cfg(any(test, feature = "testing"))]
    pub fn snapshot_json(&self) -> String {
        serde_json::to_string(&self.state.body()).unwrap_or_default()
    }

    /// A gateway from the bytes of [`Gateway::snapshot`].
    ///
    /// # Errors
    /// [`SnapshotError::Truncated`], [`SnapshotError::NotASnapshot`], [`SnapshotError::NewerVersion`],
    /// [`SnapshotError::Altered`], [`SnapshotError::Corrupt`], in that order.
    ///
    /// # Complexity
    /// O(n log n) of everything known.
    pub fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        if bytes.len() < HEADER_LEN + DIGEST_LEN {
            return Err(SnapshotError::Truncated);
        }
        let (header, rest) = bytes.split_at(HEADER_LEN);
        let (magic, numbers) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        let (version, len) = numbers.split_at(2);
        let version = version.iter().rev().fold(0_u16, |number, byte| number << 8 | u16::from(*byte));
        let len = len.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        if version > VERSION {
            return Err(SnapshotError::NewerVersion { version, known: VERSION });
        }
        if version < VERSION {
            return Err(SnapshotError::NotASnapshot);
        }
        match u64::try_from(rest.len() - DIGEST_LEN) {
            Ok(there) if there == len => {}
            Ok(there) if there < len => return Err(SnapshotError::Truncated),
            _ => return Err(SnapshotError::Altered),
        }
        let (signed, digest) = bytes.split_at(bytes.len() - DIGEST_LEN);
        if Digest::of(signed).as_bytes().as_slice() != digest {
            return Err(SnapshotError::Altered);
        }
        let (body, rest) = postcard::take_from_bytes::<Body>(&signed[HEADER_LEN..])
            .map_err(|_| SnapshotError::Corrupt { what: "encoding" })?;
        if !rest.is_empty() {
            return Err(SnapshotError::Corrupt { what: "length" });
        }
        Ok(Self { state: restore(body)? })
    }

    /// The digest of the state: equal for gateways that saw the same commands, anywhere.
    ///
    /// # Complexity
    /// O(n log n) of everything known.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.state.body_bytes())
    }
}

/// What a state is, whoever holds it. Records refer to each other by their index here.
#[derive(Serialize, Deserialize)]
pub(crate) struct Body {
    pub(crate) config: GatewayConfig,
    pub(crate) clock: Clock,
    pub(crate) now: Timestamp,
    pub(crate) scalars: Scalars,
    pub(crate) next_lease: u64,
    pub(crate) next_backend: u32,
    pub(crate) next_route: u64,
    pub(crate) next_event: u64,
    pub(crate) families: Vec<FamilyBody>,
    pub(crate) backends: Vec<BackendBody>,
    pub(crate) routes: Vec<RouteBody>,
    pub(crate) customers: Vec<CustomerBody>,
    pub(crate) shares: Vec<ShareBody>,
    /// Jobs that have not ended, the first to come first.
    pub(crate) jobs: Vec<JobBody>,
    /// Ended jobs, the first to leave first.
    pub(crate) retained: Vec<JobBody>,
    pub(crate) leases: Vec<LeaseBody>,
    pub(crate) outbox: Outbox<SettlementBody>,
    /// Ended leases whose usage may still be told, the first to end first.
    pub(crate) late: Vec<LateLease>,
    pub(crate) prices: PriceBook,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct FamilyBody {
    pub(crate) name: String,
    /// Virtual time of each lane, and the most anybody was given in it.
    pub(crate) lanes: [(u128, u128); LANES],
}

#[derive(Serialize, Deserialize)]
pub(crate) struct BackendBody {
    pub(crate) spec: Backend,
    pub(crate) order: u32,
    pub(crate) draining: bool,
    pub(crate) leaving: bool,
    pub(crate) hot: BackendHot,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct RouteBody {
    pub(crate) name: String,
    pub(crate) order: u64,
    pub(crate) family: u32,
    pub(crate) kind: Option<BackendKind>,
    pub(crate) model: String,
    pub(crate) paused: bool,
    pub(crate) service: GpuNanos,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct CustomerBody {
    pub(crate) name: String,
    pub(crate) order: u64,
    pub(crate) policy: Option<CustomerPolicy>,
    pub(crate) bucket: TokenBucket,
    pub(crate) timer: Option<Timestamp>,
    pub(crate) woken: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ShareBody {
    pub(crate) customer: u32,
    pub(crate) family: u32,
    pub(crate) lane: u8,
    pub(crate) given: u128,
    pub(crate) rest: u64,
    pub(crate) typical: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct JobBody {
    pub(crate) id: JobId,
    pub(crate) customer: u32,
    pub(crate) route: u32,
    pub(crate) task: Task,
    pub(crate) key: u128,
    /// What it was expected to cost when it came to its place.
    pub(crate) cost: u64,
    pub(crate) payload: Payload,
    pub(crate) created: Timestamp,
    pub(crate) estimate: u64,
    pub(crate) affinity: u64,
    pub(crate) tokens: u64,
    pub(crate) started: Timestamp,
    pub(crate) since: Timestamp,
    pub(crate) version: u32,
    pub(crate) progress_ppm: u32,
    pub(crate) attempts: u32,
    pub(crate) requeues: u32,
    pub(crate) state: JobState,
    pub(crate) priority: Priority,
    pub(crate) hold: Hold,
    pub(crate) paid: bool,
    /// Whether it stands in its flow's list.
    pub(crate) listed: bool,
    pub(crate) extra: Option<ExtraBody>,
    pub(crate) outcome: Option<Outcome>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ExtraBody {
    pub(crate) timeouts: Timeouts,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) not_before: Timestamp,
    pub(crate) absorbed: u64,
    pub(crate) billable: u64,
    pub(crate) losses: u32,
    pub(crate) failure: Option<JobFailure>,
    pub(crate) first_started: Option<Timestamp>,
    pub(crate) failed_on: Vec<u32>,
    pub(crate) earlier: Earlier,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct LeaseBody {
    pub(crate) id: u64,
    pub(crate) job: u32,
    pub(crate) backend: u32,
    pub(crate) permit: Permit,
    pub(crate) probe: bool,
    pub(crate) warm: bool,
    pub(crate) granted: Timestamp,
    pub(crate) deadline: Timestamp,
    pub(crate) lease_for: Span,
    pub(crate) charge: u64,
    pub(crate) bridges: u8,
    pub(crate) silent: Span,
    pub(crate) silences: u8,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SettlementBody {
    pub(crate) job: JobId,
    pub(crate) party: PartyBody,
    pub(crate) task: Task,
    pub(crate) state: JobState,
    pub(crate) measured: bool,
    pub(crate) capped: bool,
    pub(crate) attempts: u32,
    pub(crate) requeues: u32,
    pub(crate) price_version: u32,
    pub(crate) price: Option<Price>,
    pub(crate) reported: GpuNanos,
    pub(crate) usage: GpuNanos,
    pub(crate) absorbed: GpuNanos,
    pub(crate) charge: Option<Money>,
    pub(crate) created: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
    pub(crate) backend: Option<Arc<str>>,
    pub(crate) tier: Arc<str>,
    pub(crate) device: Option<DeviceTime>,
    pub(crate) more_devices: Vec<DeviceTime>,
    pub(crate) correction: Option<Correction>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum PartyBody {
    Known { customer: u32, route: u32 },
    Named { customer: Arc<str>, route: Arc<str> },
}

/// From numbers in memory to numbers in a body.
struct Numbers {
    families: Vec<u32>,
    backends: Vec<u32>,
    routes: Vec<u32>,
    customers: Vec<u32>,
    jobs: Vec<u32>,
}

impl Numbers {
    /// The inverse of a list of numbers in memory in body order.
    fn of(order: &[u32]) -> Vec<u32> {
        let len = order.iter().map(|id| *id as usize + 1).max().unwrap_or(0);
        let mut numbers = alloc::vec![u32::MAX; len];
        for (index, id) in order.iter().enumerate() {
            numbers[*id as usize] = index as u32;
        }
        numbers
    }
}

impl State {
    fn body_bytes(&self) -> Vec<u8> {
        // Serialising into memory fails for no value these types can have.
        postcard::to_allocvec(&self.body()).unwrap_or_default()
    }

    fn body(&self) -> Body {
        let mut families: Vec<u32> = self.pool.families().collect();
        families.sort_unstable_by(|a, b| self.pool.family_name(*a).cmp(self.pool.family_name(*b)));
        let backends = self.pool.in_order();
        let mut routes: Vec<u32> = self.table.routes.iter().map(|(id, ..)| id).collect();
        routes.sort_unstable_by_key(|id| self.table.routes[*id].order);
        let mut customers: Vec<u32> = self.customers.iter().map(|(id, ..)| id).collect();
        customers.sort_unstable_by_key(|id| self.customers[*id].order);
        let mut jobs: Vec<(u64, u32)> = self.jobs.live_jobs().map(|(slot, job)| (job.key.sequence(), slot)).collect();
        jobs.sort_unstable();
        let jobs: Vec<u32> = jobs.into_iter().map(|(_, slot)| slot).collect();
        let numbers = Numbers {
            families: Numbers::of(&families),
            backends: Numbers::of(&backends),
            routes: Numbers::of(&routes),
            customers: Numbers::of(&customers),
            jobs: Numbers::of(&jobs),
        };
        Body {
            config: self.config.clone(),
            clock: self.clock,
            now: self.now,
            scalars: self.scalars,
            next_lease: self.pool.next_lease,
            next_backend: self.pool.next_order,
            next_route: self.table.next_order,
            next_event: self.events.next,
            families: families.iter().map(|id| self.family_body(*id)).collect(),
            backends: backends.iter().map(|id| self.backend_body(*id)).collect(),
            routes: routes.iter().map(|id| self.route_body(*id, &numbers)).collect(),
            customers: customers.iter().map(|id| self.customer_body(*id)).collect(),
            shares: self.share_bodies(&numbers),
            jobs: jobs.iter().map(|slot| self.job_body(*slot, &self.jobs[*slot], &numbers)).collect(),
            retained: self.jobs.retained().map(|(slot, job)| self.job_body(slot, job, &numbers)).collect(),
            leases: self.lease_bodies(&numbers),
            outbox: self.outbox.map(|record| settlement_body(record, &numbers)),
            late: self.late.told(),
            prices: self.prices.clone(),
        }
    }

    fn family_body(&self, id: u32) -> FamilyBody {
        let mut lanes = [(0, 0); LANES];
        for (number, times) in lanes.iter_mut().enumerate() {
            let lane = self.places.lane(id, number as u8);
            *times = (lane.clock, lane.high);
        }
        FamilyBody { name: self.pool.family_name(id).into(), lanes }
    }

    fn backend_body(&self, id: u32) -> BackendBody {
        let entry = self.pool.entry(id);
        BackendBody {
            spec: entry.spec.clone(),
            order: entry.order,
            draining: entry.draining,
            leaving: entry.leaving,
            hot: entry.hot.clone(),
        }
    }

    fn route_body(&self, id: u32, numbers: &Numbers) -> RouteBody {
        let record = &self.table.routes[id];
        RouteBody {
            name: String::from(&**self.table.routes.name(id)),
            order: record.order,
            family: numbers.families[record.family as usize],
            kind: record.kind,
            model: String::from(&*record.model),
            paused: record.paused,
            service: record.service,
        }
    }

    fn customer_body(&self, id: u32) -> CustomerBody {
        let record = &self.customers[id];
        CustomerBody {
            name: String::from(&**self.customers.name(id)),
            order: record.order,
            policy: record.policy.as_deref().cloned(),
            bucket: record.bucket,
            timer: self.customer_timers.armed(id),
            woken: self.parked.woken.contains(&(record.order, id)),
        }
    }

    fn share_bodies(&self, numbers: &Numbers) -> Vec<ShareBody> {
        let told = self.places.accounts().map(|account| ShareBody {
            customer: numbers.customers[account.customer as usize],
            family: numbers.families[account.pool() as usize],
            lane: account.lane(),
            given: account.given,
            rest: account.rest,
            typical: account.typical,
        });
        let mut shares: Vec<ShareBody> = told.collect();
        shares.sort_unstable_by_key(|share| (share.customer, share.family, share.lane));
        shares
    }

    fn job_body(&self, slot: u32, job: &Job, numbers: &Numbers) -> JobBody {
        let hot = job.hot;
        JobBody {
            id: job.id,
            customer: numbers.customers[job.customer as usize],
            route: numbers.routes[job.route as usize],
            task: job.task,
            key: if hot.state == JobState::Queued { self.places.key(slot).bits() } else { job.key.bits() },
            cost: if hot.state == JobState::Queued { self.places.cost(slot) } else { 0 },
            payload: job.payload(),
            created: job.created,
            estimate: job.estimate,
            affinity: job.affinity,
            tokens: job.tokens,
            started: hot.started,
            since: hot.since,
            version: hot.version,
            progress_ppm: hot.progress_ppm,
            attempts: hot.attempts,
            requeues: hot.requeues,
            state: hot.state,
            priority: hot.priority,
            hold: hot.hold,
            paid: hot.paid,
            listed: hot.state == JobState::Queued && self.places.is_listed(slot),
            extra: job.extra.as_deref().map(|extra| ExtraBody {
                timeouts: extra.timeouts,
                idempotency: extra.idempotency.clone(),
                not_before: extra.not_before,
                absorbed: extra.absorbed,
                billable: extra.billable,
                losses: extra.losses,
                failure: extra.failure.clone(),
                first_started: extra.first_started,
                failed_on: extra.failed_on.clone(),
                earlier: Earlier {
                    late: extra.earlier.late.and_then(|late| self.late.place(late)).map(|place| place as u64),
                    ..extra.earlier.clone()
                },
            }),
            outcome: job.outcome().cloned(),
        }
    }

    fn lease_bodies(&self, numbers: &Numbers) -> Vec<LeaseBody> {
        let told = self.pool.leases().map(|(_, lease)| LeaseBody {
            id: lease.id.as_u64(),
            job: numbers.jobs[lease.item as usize],
            backend: numbers.backends[lease.backend as usize],
            permit: lease.permit,
            probe: lease.probe,
            warm: lease.warm,
            granted: lease.granted,
            deadline: lease.deadline,
            lease_for: lease.lease_for,
            charge: lease.charge,
            bridges: lease.bridges,
            silent: lease.silent,
            silences: lease.silences,
        });
        let mut leases: Vec<LeaseBody> = told.collect();
        leases.sort_unstable_by_key(|lease| lease.id);
        leases
    }
}

fn settlement_body(record: &SettlementRecord, numbers: &Numbers) -> SettlementBody {
    SettlementBody {
        job: record.job,
        party: match &record.party {
            Party::Known { customer, route } => PartyBody::Known {
                customer: numbers.customers[*customer as usize],
                route: numbers.routes[*route as usize],
            },
            Party::Named { customer, route } => PartyBody::Named { customer: customer.clone(), route: route.clone() },
        },
        task: record.task,
        state: record.state,
        measured: record.measured,
        capped: record.capped,
        attempts: record.attempts,
        requeues: record.requeues,
        price_version: record.price_version,
        price: record.price,
        reported: record.reported,
        usage: record.usage,
        absorbed: record.absorbed,
        charge: record.charge,
        created: record.created,
        started: record.started,
        finished: record.finished,
        backend: record.backend.clone(),
        tier: record.tier.clone(),
        device: record.device.clone(),
        more_devices: record.more_devices.clone(),
        correction: record.correction.as_deref().copied(),
    }
}

const MAGIC: &[u8; 4] = b"LGWS";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 14;
const DIGEST_LEN: usize = 32;
