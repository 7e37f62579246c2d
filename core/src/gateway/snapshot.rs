//! The whole state as bytes: to keep, to move, to compare.
//!
//! The bytes are canonical: two gateways that would answer every future command alike have the same, wherever their
//! records happen to lie in memory. So the digest of the bytes is the digest of the state.
//!
//! Form, numbers in little endian: `LGWS`; the version (u16); how many commands it contains (u64); the body (postcard) in
//! frames of at most 64 KiB, each with its length (u32) before it, and an empty one at its end; BLAKE2b-256 of all before
//! it. Events that were not fetched are not part of it.

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
#[cfg(any(test, feature = "testing"))]
use super::late::LateLease;
use super::restore::{NUMBER_MAX, restore};
use super::settlement::{Correction, DeviceTime, Party, SettlementRecord};
use super::slices::{Orders, Slices};
use super::state::{Scalars, State};
use crate::backend::{Backend, BackendHot, BackendKind};
use crate::billing::{Money, Price};
#[cfg(any(test, feature = "testing"))]
use crate::billing::{Outbox, PriceBook};
use crate::breaker::Permit;
use crate::error::SnapshotError;
use crate::id::{Epoch, JobId};
use crate::job::{
    Earlier, Hold, Idempotency, Job, JobFailure, JobState, KeyEntry, Outcome, Payload, Priority, Requeues, Task,
    Timeouts,
};
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
    /// let now = Timestamp::from_secs(1);
    /// let gateway = Gateway::new(GatewayConfig::default(), now)?;
    /// assert_eq!(Gateway::replica(&gateway.snapshot())?.digest(), gateway.digest());
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Complexity
    /// O(n log n) of everything known.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut slices = self.slices();
        while slices.write(&self.state, &mut bytes) {}
        bytes
    }

    /// The same bytes as those of [`Gateway::snapshot`], in slices of some 64 KiB, so that a host can write them away without
    /// holding all of them. See [`Slices::next`].
    ///
    /// ```
    /// use libgateway::{Gateway, GatewayConfig, Timestamp};
    /// let gateway = Gateway::new(GatewayConfig::default(), Timestamp::from_secs(1))?;
    /// let (mut slices, mut file) = (gateway.slices(), Vec::new());
    /// while let Some(slice) = slices.next(&gateway)? {
    ///     file.extend(slice);
    /// }
    /// assert_eq!(file, gateway.snapshot());
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Complexity
    /// O(n log n) of the numbers of everything known: they are put in order first. Sixteen bytes a job are held.
    pub fn slices(&self) -> Slices {
        Slices::new(&self.state)
    }

    /// The body of a snapshot for people who look for a difference.
    #[cfg(any(test, feature = "testing"))]
    pub fn snapshot_json(&self) -> String {
        serde_json::to_string(&self.state.body()).unwrap_or_default()
    }

    /// The gateway that goes on where the one of a snapshot stopped, or was lost after it: [`Gateway::replica`], then
    /// [`Gateway::begin_epoch`], which a log has to show as the command it is.
    ///
    /// Workers keep the leases that the snapshot knows. The answer of any other is superseded, and nothing it says ends
    /// another's job.
    ///
    /// ```
    /// use libgateway::error::LeaseError;
    /// use libgateway::{Backend, BackendKind, Dispatch, Gateway, GatewayConfig, JobId, Output, Route, Submit, Timestamp, Usage};
    /// let now = Timestamp::from_secs(1);
    /// let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
    /// gateway.put_backend(now, Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["dev"]))?;
    /// let route = Route::parse("image/flux/dev/t2i")?;
    /// gateway.submit(now, Submit::new(JobId::from_entropy(1), "acme", route))?;
    /// let snapshot = gateway.snapshot();
    /// let Dispatch::Lease(old) = gateway.dispatch(now) else { panic!() };
    ///
    /// let mut restored = Gateway::restore(&snapshot, now, 0x5eed)?;
    /// let Dispatch::Lease(new) = restored.dispatch(now) else { panic!() };
    /// assert_ne!(new.id, old.id);
    /// let late = restored.complete(now, old.id, Output::url("1.webp"), Usage::unmeasured());
    /// assert!(matches!(late, Err(LeaseError::Superseded { .. })));
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Gateway::replica`].
    ///
    /// # Complexity
    /// O(n log n) of everything known.
    pub fn restore(bytes: &[u8], now: Timestamp, entropy: u64) -> Result<Self, SnapshotError> {
        let mut gateway = Self::replica(bytes)?;
        gateway.begin_epoch(now, entropy);
        Ok(gateway)
    }

    /// The very gateway of a snapshot: the same answers, the same numbers, the same digest. For replays of a log, for
    /// standbys and for checks. One that takes over from the other begins an epoch of its own first.
    ///
    /// # Errors
    /// [`SnapshotError::Truncated`], [`SnapshotError::NotASnapshot`], [`SnapshotError::NewerVersion`],
    /// [`SnapshotError::Altered`], [`SnapshotError::Corrupt`], in that order.
    ///
    /// # Complexity
    /// O(n log n) of everything known.
    pub fn replica(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let commands = Self::commands_in(bytes)?;
        let body = unframe(bytes)?;
        if commands > NUMBER_MAX {
            return Err(SnapshotError::Corrupt { what: "commands" });
        }
        let mut state = restore(&body)?;
        state.commands = commands;
        Ok(Self { state })
    }

    /// How many commands are in a snapshot: [`Gateway::commands`] of when it was taken. Whoever applies the rest of a log
    /// begins with the one after. Only the head of the bytes is looked at.
    ///
    /// # Errors
    /// [`SnapshotError::Truncated`], [`SnapshotError::NotASnapshot`], [`SnapshotError::NewerVersion`], in that order.
    pub fn commands_in(bytes: &[u8]) -> Result<u64, SnapshotError> {
        let Some((header, _)) = bytes.split_at_checked(HEADER_LEN) else { return Err(SnapshotError::Truncated) };
        let (magic, numbers) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        let (version, commands) = numbers.split_at(2);
        let version = version.iter().rev().fold(0_u16, |number, byte| number << 8 | u16::from(*byte));
        if version > VERSION {
            return Err(SnapshotError::NewerVersion { version, known: VERSION });
        }
        if version < VERSION {
            return Err(SnapshotError::NotASnapshot);
        }
        Ok(commands.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// The digest of the state: equal for gateways that saw the same commands, anywhere.
    ///
    /// # Complexity
    /// O(n log n) of everything known.
    pub fn digest(&self) -> Digest {
        let mut hash = Blake2b::<U32>::new();
        let mut slices = self.slices();
        while let Some(part) = slices.part(&self.state) {
            hash.update(part);
        }
        Digest(hash.finalize().into())
    }
}

/// The body out of its frames, when all of them are there and unaltered.
fn unframe(bytes: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    let mut body = Vec::with_capacity(bytes.len());
    let mut rest = &bytes[HEADER_LEN..];
    loop {
        let Some((len, after)) = rest.split_at_checked(FRAME_HEAD_LEN) else { return Err(SnapshotError::Truncated) };
        let len = len.iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        if len > FRAME_LEN {
            return Err(SnapshotError::Altered);
        }
        let Some((frame, after)) = after.split_at_checked(len) else { return Err(SnapshotError::Truncated) };
        body.extend_from_slice(frame);
        rest = after;
        if len == 0 {
            break;
        }
    }
    match rest.len() {
        ..DIGEST_LEN => return Err(SnapshotError::Truncated),
        DIGEST_LEN => {}
        _ => return Err(SnapshotError::Altered),
    }
    let signed = &bytes[..bytes.len() - DIGEST_LEN];
    if Digest::of(signed).as_bytes() == rest { Ok(body) } else { Err(SnapshotError::Altered) }
}

/// What a state is, whoever holds it. Records refer to each other by their index here. Its parts are written and read one
/// by one, in this order.
#[cfg(any(test, feature = "testing"))]
#[derive(Serialize)]
pub(crate) struct Body {
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) families: Vec<FamilyBody>,
    pub(crate) backends: Vec<BackendBody>,
    pub(crate) routes: Vec<RouteBody>,
    pub(crate) customers: Vec<CustomerBody>,
    pub(crate) shares: Vec<ShareBody>,
    /// Jobs that have not ended, the first to come first.
    pub(crate) jobs: Vec<JobBody>,
    /// Ended jobs, the first to leave first.
    pub(crate) retained: Vec<JobBody>,
    /// Idempotency keys of ended jobs, the first to leave first.
    pub(crate) keys: Vec<KeyBody>,
    pub(crate) leases: Vec<LeaseBody>,
    pub(crate) outbox: Outbox<SettlementBody>,
    /// Ended leases whose usage may still be told, the first to end first.
    pub(crate) late: Vec<LateLease>,
    pub(crate) prices: PriceBook,
}

/// What there is one of.
#[derive(Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) config: GatewayConfig,
    pub(crate) clock: Clock,
    pub(crate) now: Timestamp,
    pub(crate) epoch: Epoch,
    pub(crate) scalars: Scalars,
    pub(crate) next_lease: u64,
    pub(crate) next_backend: u32,
    pub(crate) next_route: u64,
    pub(crate) next_event: u64,
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
    pub(crate) state: JobState,
    pub(crate) priority: Priority,
    pub(crate) hold: Hold,
    pub(crate) paid: bool,
    /// Whether it stands in its flow's list.
    pub(crate) listed: bool,
    /// Whether it is there again.
    pub(crate) returned: bool,
    pub(crate) extra: Option<ExtraBody>,
    pub(crate) outcome: Option<Outcome>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ExtraBody {
    pub(crate) timeouts: Timeouts,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) not_before: Timestamp,
    pub(crate) begins: Timestamp,
    pub(crate) absorbed: u64,
    pub(crate) billable: u64,
    pub(crate) requeues: Requeues,
    pub(crate) failure: Option<JobFailure>,
    pub(crate) first_started: Option<Timestamp>,
    pub(crate) failed_on: Vec<u32>,
    pub(crate) earlier: Earlier,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct KeyBody {
    pub(crate) ended: Timestamp,
    pub(crate) own: Idempotency,
    pub(crate) job: JobId,
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
    pub(crate) epoch: Epoch,
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

impl State {
    pub(crate) fn family_body(&self, id: u32) -> FamilyBody {
        let mut lanes = [(0, 0); LANES];
        for (number, times) in lanes.iter_mut().enumerate() {
            let lane = self.places.lane(id, number as u8);
            *times = (lane.clock, lane.high);
        }
        FamilyBody { name: self.pool.family_name(id).into(), lanes }
    }

    pub(crate) fn backend_body(&self, id: u32) -> BackendBody {
        let entry = self.pool.entry(id);
        BackendBody {
            spec: entry.spec.clone(),
            order: entry.order,
            draining: entry.draining,
            leaving: entry.leaving,
            hot: entry.hot.clone(),
        }
    }

    pub(crate) fn route_body(&self, id: u32, orders: &Orders) -> RouteBody {
        let record = &self.table.routes[id];
        RouteBody {
            name: String::from(&**self.table.routes.name(id)),
            order: record.order,
            family: orders.families.place(record.family),
            kind: record.kind,
            model: String::from(&*record.model),
            paused: record.paused,
            service: record.service,
        }
    }

    pub(crate) fn customer_body(&self, id: u32) -> CustomerBody {
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

    pub(crate) fn share_bodies(&self, orders: &Orders) -> Vec<ShareBody> {
        let told = self.places.accounts().map(|account| ShareBody {
            customer: orders.customers.place(account.customer),
            family: orders.families.place(account.pool()),
            lane: account.lane(),
            given: account.given,
            rest: account.rest,
            typical: account.typical,
        });
        let mut shares: Vec<ShareBody> = told.collect();
        shares.sort_unstable_by_key(|share| (share.customer, share.family, share.lane));
        shares
    }

    pub(crate) fn job_body(&self, slot: u32, job: &Job, orders: &Orders) -> JobBody {
        let hot = job.hot;
        JobBody {
            id: job.id,
            customer: orders.customers.place(job.customer),
            route: orders.routes.place(job.route),
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
            state: hot.state,
            priority: hot.priority,
            hold: hot.hold,
            paid: hot.paid,
            listed: hot.state == JobState::Queued && self.places.is_listed(slot),
            returned: hot.state == JobState::Queued && self.places.is_returned(slot),
            extra: job.extra.as_deref().map(|extra| ExtraBody {
                timeouts: extra.timeouts,
                // The key of a job that has ended stands with the keys.
                idempotency: extra.idempotency.filter(|_| !hot.state.is_terminal()),
                not_before: extra.not_before,
                begins: extra.begins,
                absorbed: extra.absorbed,
                billable: extra.billable,
                requeues: extra.requeues,
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

    pub(crate) fn key_bodies(&self) -> Vec<KeyBody> {
        let told = self.jobs.keys.ended().filter_map(|(ended, entry)| {
            let KeyEntry { address, fingerprint, job, .. } = *entry?;
            Some(KeyBody { ended, own: Idempotency { address, fingerprint }, job })
        });
        told.collect()
    }

    pub(crate) fn lease_bodies(&self, orders: &Orders) -> Vec<LeaseBody> {
        let told = self.pool.leases().map(|(_, lease)| LeaseBody {
            id: lease.id.as_u64(),
            job: orders.jobs.place(lease.item),
            backend: orders.backends.place(lease.backend),
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

pub(crate) fn settlement_body(record: &SettlementRecord, orders: &Orders) -> SettlementBody {
    SettlementBody {
        epoch: record.epoch,
        job: record.job,
        party: match &record.party {
            Party::Known { customer, route } => {
                PartyBody::Known { customer: orders.customers.place(*customer), route: orders.routes.place(*route) }
            }
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

pub(crate) const MAGIC: &[u8; 4] = b"LGWS";
pub(crate) const VERSION: u16 = 1;
const HEADER_LEN: usize = 14;
pub(crate) const FRAME_HEAD_LEN: usize = 4;
/// Longest frame.
pub(crate) const FRAME_LEN: usize = 65_536;
const DIGEST_LEN: usize = 32;
