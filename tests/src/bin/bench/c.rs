//! What the C interface costs: the same calls through it, and from Rust, with and without a lock.

use std::hint::black_box;
use std::sync::Mutex;

use gateway::bench::{Limiter, Machine};
use libgateway::error::Error;
use libgateway::{
    Backend, BackendKind, Dispatch, Gateway, GatewayConfig, GpuNanos, JobId, LeaseId, Output, RateLimit, RateLimiter,
    Route, Span, Submit, Timestamp, Usage,
};

use crate::harness::{Budget, Row, Subject};
use crate::report::Line;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row { name: LIMITER.to_owned(), n: 1, budget: Budget::None, build: Box::new(|| Ok(limiters())) },
        Row {
            name: "c/heartbeat".to_owned(),
            n: 1,
            budget: Budget::None,
            build: Box::new(|| {
                let mut c = Machine::new(START, 1);
                let (mut locked, mut plain) = (Host::new()?, Host::new()?);
                let (mut tick, mut tock, mut tack) = (START, START, START);
                let gateway = Mutex::new(());
                Ok(vec![
                    Subject::each(C, move || {
                        tick += 1;
                        assert!(c.heartbeat(tick));
                    }),
                    Subject::each(LOCKED, move || {
                        let _held = gateway.lock();
                        tock += 1;
                        assert!(locked.heartbeat(tock));
                    }),
                    Subject::each(RUST, move || {
                        tack += 1;
                        assert!(plain.heartbeat(tack));
                    }),
                ])
            }),
        },
        Row {
            name: "c/cycle".to_owned(),
            n: 1,
            budget: Budget::None,
            build: Box::new(|| {
                let mut c = Machine::new(START, 1);
                let mut plain = Host::new()?;
                let (mut id, mut other) = (FIRST, FIRST);
                Ok(vec![
                    Subject::each(C, move || {
                        id += 1;
                        let now = START + id * STEP;
                        assert!(c.heartbeat(now) && c.cycle(now, id));
                        if id % DRAIN_EVERY == 0 {
                            c.drain(now);
                        }
                    }),
                    Subject::each(RUST, move || {
                        other += 1;
                        let now = START + other * STEP;
                        assert!(plain.heartbeat(now) && plain.cycle(now, other));
                        if other % DRAIN_EVERY == 0 {
                            plain.drain(now);
                        }
                    }),
                ])
            }),
        },
    ]
}

/// What a call costs on top of the same one from Rust behind a lock, once both were measured.
pub(crate) fn overhead(lines: &[Line]) -> Option<Line> {
    let line = lines.iter().find(|line| line.name == LIMITER && line.peer.as_deref() == Some(LOCKED))?;
    let locked = line.peer_ns_per_op?;
    Some(Line::plain("c/call-over-rust-call-and-lock", 1, (line.ns_per_op - locked).max(0.0), Some(5.0)))
}

fn limiters() -> Vec<Subject> {
    let limit = RateLimit::per_second(u32::MAX.into(), u32::MAX.into());
    let mut c = Limiter::new();
    let locked = Mutex::new(RateLimiter::new(limit, Timestamp::EPOCH));
    let mut plain = RateLimiter::new(limit, Timestamp::EPOCH);
    let (mut tick, mut tock, mut tack) = (0, 0, 0);
    vec![
        Subject::each(C, move || {
            tick += 1_000;
            assert!(c.try_acquire(tick));
        }),
        Subject::each(LOCKED, move || {
            tock += 1_000;
            let taken = locked.lock().is_ok_and(|mut own| own.try_acquire(1, at(tock)).is_allowed());
            assert!(taken);
        }),
        Subject::each(RUST, move || {
            tack += 1_000;
            assert!(black_box(plain.try_acquire(1, at(tack))).is_allowed());
        }),
    ]
}

/// The same gateway as the one behind the C interface.
struct Host {
    gateway: Gateway,
    lease: LeaseId,
}

impl Host {
    fn new() -> Result<Self, Error> {
        let mut gateway = Gateway::new(GatewayConfig::default(), at(START))?;
        let backend = Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["dev"]).slots(65_536);
        gateway.put_backend(at(START), backend)?;
        let mut host = Self { gateway, lease: LeaseId::from_u64(0) };
        host.lease = host.leased(START, 0).unwrap_or(host.lease);
        Ok(host)
    }

    fn leased(&mut self, now: u64, id: u64) -> Option<LeaseId> {
        let route = Route::parse("image/flux/dev/t2i").ok()?;
        let id = JobId::from_entropy(1 << 64 | u128::from(id));
        self.gateway.submit(at(now), Submit::new(id, "acme", route)).ok()?;
        match self.gateway.dispatch(at(now)) {
            Dispatch::Lease(lease) => Some(lease.id),
            Dispatch::Wait { .. } => None,
        }
    }

    fn heartbeat(&mut self, now: u64) -> bool {
        black_box(self.gateway.heartbeat(at(now), self.lease)).is_ok()
    }

    fn cycle(&mut self, now: u64, id: u64) -> bool {
        let Some(lease) = self.leased(now, id) else { return false };
        let usage = Usage::gpu(GpuNanos::from_nanos(1_000), "GPU-8f2c");
        let output = Output::url("https://cdn.example.com/1.webp");
        black_box(self.gateway.complete(at(now), lease, output, usage)).is_ok()
    }

    fn drain(&mut self, now: u64) {
        while let Some(taken) = self.gateway.take_settlements(at(now), 1_000) {
            let _ = black_box(self.gateway.confirm_settlements(at(now), taken.batch));
        }
        while let Some(event) = self.gateway.poll_event() {
            black_box(event);
        }
    }
}

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

const LIMITER: &str = "c/limiter-acquire";
const C: &str = "libgateway from C";
const LOCKED: &str = "from Rust, behind a lock";
const RUST: &str = "from Rust";
const START: u64 = 1_700_000_000_000_000_000;
const STEP: u64 = Span::from_millis(10).as_nanos();
const DRAIN_EVERY: u64 = 1_000;
/// Ids below it are those of jobs that run throughout.
const FIRST: u64 = 1_000;
