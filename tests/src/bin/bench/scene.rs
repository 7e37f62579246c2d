//! A gateway under steady load: so many jobs wait, so many run, and each operation leaves it as it found it.

use std::hint::black_box;

use libgateway::error::Error;
use libgateway::{
    Backend, BackendKind, Dispatch, Gateway, GatewayConfig, GpuNanos, JobId, LeaseId, Output, Payload, PriceBook,
    Route, Span, Submit, Timestamp, Usage,
};

use crate::rng::Rng;

/// How the load looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) queued: usize,
    pub(crate) customers: usize,
    pub(crate) families: usize,
    /// Per family.
    pub(crate) models: usize,
    pub(crate) payload_len: usize,
}

/// The gateway, and the host that drives it.
pub(crate) struct Scene {
    pub(crate) gateway: Gateway,
    pub(crate) now: Timestamp,
    pub(crate) rng: Rng,
    customers: Vec<String>,
    routes: Vec<String>,
    payload: Vec<u8>,
    running: Vec<(LeaseId, Timestamp)>,
    cycles: u64,
}

impl Load {
    /// What the budget speaks of.
    pub(crate) const BUDGET: Self =
        Self { queued: 100_000, customers: 10_000, families: 10, models: 10, payload_len: 0 };

    pub(crate) const fn queued(mut self, queued: usize) -> Self {
        self.queued = queued;
        self
    }

    pub(crate) const fn customers(mut self, customers: usize) -> Self {
        self.customers = customers;
        self
    }

    pub(crate) const fn routes(mut self, families: usize, models: usize) -> Self {
        self.families = families;
        self.models = models;
        self
    }

    pub(crate) const fn payload_len(mut self, len: usize) -> Self {
        self.payload_len = len;
        self
    }
}

impl Scene {
    /// A gateway that has been under this load for long: as many jobs wait, [`RUNNING`] run, and so many have ended that
    /// for each that ends one leaves.
    pub(crate) fn steady(load: Load) -> Result<Self, Error> {
        let mut scene = Self::filled(load)?;
        for _ in 0..RUNNING {
            scene.submit();
            scene.dispatch();
        }
        for _ in 0..scene.gateway.config().retained_max + 10_000 {
            scene.cycle();
        }
        let stats = scene.gateway.stats();
        assert_eq!((stats.queued as usize, stats.running as usize), (load.queued, RUNNING), "the load is steady");
        assert_eq!(stats.complete, scene.gateway.config().retained_max, "and so is what is kept of it");
        Ok(scene)
    }

    /// A gateway in which as many jobs wait and nothing else has happened yet.
    pub(crate) fn filled(load: Load) -> Result<Self, Error> {
        let now = Timestamp::from_secs(1_700_000_000);
        let mut gateway = Gateway::new(GatewayConfig::default().seed(7), now)?;
        let family = |family: usize| format!("family-{family:02}");
        for backend in 0..load.families * 8 {
            let name = format!("backend-{backend:03}");
            let backend =
                Backend::new(name, BackendKind::Torch).serves("image", family(backend / 8), ["*"]).slots(SLOTS);
            gateway.put_backend(now, backend)?;
        }
        gateway.put_prices(now, PriceBook::new(1, "USD")?.price("*", "*", 1_200)?)?;
        let route = |route: usize| {
            let (family, model) = (family(route / load.models), route % load.models);
            format!("image/{family}/model-{model:03}/t2i")
        };
        let mut scene = Self {
            gateway,
            now,
            rng: Rng::new(load.queued as u64),
            customers: (0..load.customers).map(|customer| format!("customer-{customer:05}")).collect(),
            routes: (0..load.families * load.models).map(route).collect(),
            payload: vec![0x2a; load.payload_len],
            running: Vec::with_capacity(RUNNING),
            cycles: 0,
        };
        for _ in 0..load.queued {
            scene.submit();
        }
        scene.drain();
        Ok(scene)
    }

    /// One job comes in, the next one in the queue gets a lease, and one of those that run is done. Every
    /// [`DRAIN_EVERY`] cycles the host fetches settlements and events.
    pub(crate) fn cycle(&mut self) {
        self.submit();
        self.dispatch();
        self.complete_any();
        self.cycles += 1;
        if self.cycles % DRAIN_EVERY == 0 {
            self.drain();
        }
    }

    pub(crate) fn submit(&mut self) -> JobId {
        self.now += STEP;
        let id = JobId::from_entropy(self.rng.wide());
        let customer = self.rng.below(self.customers.len());
        let route = self.rng.below(self.routes.len());
        let submitted = Route::parse(&self.routes[route]).map_err(Error::from).and_then(|route| {
            let submit = Submit::new(id, &*self.customers[customer], route).payload(Payload::from(&*self.payload));
            self.gateway.submit(self.now, submit).map_err(Error::from)
        });
        debug_assert_eq!(submitted, Ok(id));
        let _ = black_box(submitted);
        id
    }

    pub(crate) fn dispatch(&mut self) {
        if let Dispatch::Lease(lease) = self.gateway.dispatch(self.now) {
            self.running.push((lease.id, self.now));
            black_box(lease);
        }
    }

    pub(crate) fn complete_any(&mut self) {
        let lease = self.rng.below(self.running.len());
        self.complete(lease);
    }

    /// Completes the lease that stands at this place of the list of those that run.
    pub(crate) fn complete(&mut self, running: usize) {
        let (lease, granted) = self.running.swap_remove(running);
        let elapsed = self.now.since(granted).as_nanos();
        // Half to all of the time the lease took.
        let gpu = GpuNanos::from_nanos(elapsed / 2 + self.rng.below_u64(elapsed / 2 + 1));
        let done = self.gateway.complete(self.now, lease, Output::url(URL), Usage::gpu(gpu, "GPU-8f2c01"));
        debug_assert!(done.is_ok());
        let _ = black_box(done);
    }

    /// A lease that lives.
    pub(crate) fn any_running(&mut self) -> LeaseId {
        let at = self.rng.below(self.running.len());
        self.running[at].0
    }

    /// The latest lease, to be completed by its place.
    pub(crate) fn last_running(&self) -> usize {
        self.running.len() - 1
    }

    /// A customer and a route for a job to come.
    pub(crate) fn draw(&mut self) -> (JobId, usize, usize) {
        let id = JobId::from_entropy(self.rng.wide());
        (id, self.rng.below(self.customers.len()), self.rng.below(self.routes.len()))
    }

    /// The gateway apart from what the host knows, for steps that need both at once.
    pub(crate) fn apart(&mut self) -> (&mut Gateway, &[String], &[String]) {
        (&mut self.gateway, &self.customers, &self.routes)
    }

    /// Fetches what the gateway has for its host: settlements, which are confirmed, and events.
    pub(crate) fn drain(&mut self) {
        while let Some(taken) = self.gateway.take_settlements(self.now, DRAIN_EVERY as u32) {
            let _ = black_box(self.gateway.confirm_settlements(self.now, taken.batch));
            black_box(taken.settlements);
        }
        while let Some(event) = self.gateway.poll_event() {
            black_box(event);
        }
    }
}

/// Leases that live at any time.
pub(crate) const RUNNING: usize = 256;
/// Slots of a backend: eight backends of one family have room for all of them.
const SLOTS: u32 = 64;
/// Time from one job to the next: a lease lives for 2.56 s on average, and is heard of before it ends.
pub(crate) const STEP: Span = Span::from_millis(10);
const DRAIN_EVERY: u64 = 1_000;
const URL: &str = "https://cdn.example.com/out/0123456789abcdef.webp";
