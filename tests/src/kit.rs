//! Short words for tests: instants, routes, backends, and a gateway with a clock that the test turns.

#![expect(clippy::expect_used, clippy::panic, reason = "what a test expects and does not get ends the test")]

use libgateway::{
    Advance, AfterFailure, Backend, BackendKind, BackoffConfig, Dispatch, Failure, FailureClass, Gateway,
    GatewayConfig, JobId, JobState, JobView, Lease, Output, Route, Settled, Settlement, Span, Submit, Timestamp, Usage,
};

/// When every rig begins.
pub const START: Timestamp = Timestamp::from_secs(1_700_000_000);

/// The route most tests use.
pub const DEV: &str = "image/flux/dev/t2i";
/// Another model of the same family.
pub const SCHNELL: &str = "image/flux/schnell/t2i";
/// A route of another family.
pub const WAN: &str = "video/wan/default/i2v";

/// An instant so many seconds after the beginning.
pub fn at(secs: u64) -> Timestamp {
    START + Span::from_secs(secs)
}

/// A span of whole seconds.
pub const fn secs(secs: u64) -> Span {
    Span::from_secs(secs)
}

/// One nanosecond before an instant.
pub fn before(at: Timestamp) -> Timestamp {
    Timestamp::from_nanos(at.as_nanos() - 1)
}

/// One nanosecond after an instant.
pub fn after(at: Timestamp) -> Timestamp {
    at + Span::from_nanos(1)
}

/// The job of a small number.
pub const fn id(number: u128) -> JobId {
    JobId::from_entropy(number)
}

/// A route that has to be right.
///
/// # Panics
/// If it is not.
pub fn route(text: &str) -> Route<'_> {
    Route::parse(text).expect("a route of a test")
}

/// A submission with nothing special about it.
pub fn job(number: u128, customer: &'static str, way: &'static str) -> Submit<'static> {
    Submit::new(id(number), customer, route(way))
}

/// A backend for every model of `image/flux`.
pub fn flux(name: &str) -> Backend {
    Backend::new(name, BackendKind::Torch).serves("image", "flux", ["*"])
}

/// A backend for one model of `image/flux`.
pub fn flux_model(name: &str, model: &str) -> Backend {
    Backend::new(name, BackendKind::Torch).serves("image", "flux", [model])
}

/// A backend for `video/wan`.
pub fn wan(name: &str) -> Backend {
    Backend::new(name, BackendKind::Torch).serves("video", "wan", ["*"])
}

/// A gateway, and the time its host shows it.
#[derive(Debug)]
pub struct Rig {
    /// The gateway.
    pub gateway: Gateway,
    /// The host's clock.
    pub now: Timestamp,
    /// Whether every step is followed by a check of all invariants. Off where there are many jobs.
    pub checked: bool,
}

impl Rig {
    /// A gateway without backends.
    ///
    /// # Panics
    /// If the configuration cannot be.
    pub fn new(mut config: GatewayConfig) -> Self {
        // Waits are exact unless a test asks for chance.
        if config.backoff.jitter_ppm == BackoffConfig::default().jitter_ppm {
            config.backoff.jitter_ppm = 0;
        }
        let gateway = Gateway::new(config, START).expect("a configuration of a test");
        Self { gateway, now: START, checked: true }
    }

    /// A gateway with one backend `gpu-1` for all of `image/flux`.
    pub fn with_slots(config: GatewayConfig, slots: u32) -> Self {
        let mut rig = Self::new(config);
        rig.put(flux("gpu-1").slots(slots));
        rig
    }

    /// Checks the invariants, unless the rig is too large for that.
    pub fn check(&self) {
        if self.checked {
            self.gateway.check_invariants();
        }
    }

    /// Adds or changes a backend.
    ///
    /// # Panics
    /// If it is refused.
    pub fn put(&mut self, backend: Backend) {
        self.gateway.put_backend(self.now, backend).expect("a backend of a test");
        self.check();
    }

    /// Goes to an instant and handles what is due.
    pub fn to(&mut self, at: Timestamp) -> Advance {
        self.now = at;
        let advance = self.gateway.advance(at);
        self.check();
        advance
    }

    /// Lets time pass and handles what is due.
    pub fn pass(&mut self, span: Span) -> Advance {
        self.to(self.now + span)
    }

    /// Submits a job that has to be accepted.
    ///
    /// # Panics
    /// If it is refused.
    pub fn submit(&mut self, submit: Submit<'_>) -> JobId {
        let job = self.gateway.submit(self.now, submit).expect("a submission of a test");
        self.check();
        job
    }

    /// Asks for a lease.
    pub fn dispatch(&mut self) -> Dispatch {
        let dispatch = self.gateway.dispatch(self.now);
        self.check();
        dispatch
    }

    /// Asks for a lease that has to come.
    ///
    /// # Panics
    /// If it does not.
    pub fn lease(&mut self) -> Lease {
        match self.dispatch() {
            Dispatch::Lease(lease) => lease,
            Dispatch::Wait { until } => panic!("nothing to lease until {until:?}"),
        }
    }

    /// All leases there are now.
    pub fn leases(&mut self) -> Vec<Lease> {
        core::iter::from_fn(|| self.dispatch().lease()).collect()
    }

    /// Until when there is nothing to lease.
    ///
    /// # Panics
    /// If there is.
    pub fn wait(&mut self) -> Option<Timestamp> {
        match self.dispatch() {
            Dispatch::Wait { until } => until,
            Dispatch::Lease(lease) => panic!("{} was leased to {}", lease.job, lease.backend),
        }
    }

    /// Delivers, without a measurement.
    ///
    /// # Panics
    /// If that is refused.
    pub fn complete(&mut self, lease: &Lease) -> Settled {
        let output = Output::url("https://cdn/x.webp");
        let settled = self.gateway.complete(self.now, lease.id, output, Usage::unmeasured()).expect("a live lease");
        self.check();
        settled
    }

    /// Fails, without a measurement.
    ///
    /// # Panics
    /// If that is refused.
    pub fn fail(&mut self, lease: &Lease, class: FailureClass) -> AfterFailure {
        let failure = Failure::new(class, "as the test wants it");
        let after = self.gateway.fail(self.now, lease.id, failure, Usage::unmeasured()).expect("a live lease");
        self.check();
        after
    }

    /// Cancels a job that lives.
    ///
    /// # Panics
    /// If it does not.
    pub fn cancel(&mut self, job: JobId) {
        self.gateway.cancel(self.now, job).expect("a live job");
        self.check();
    }

    /// A job that is known.
    ///
    /// # Panics
    /// If it is not.
    pub fn job(&self, job: JobId) -> JobView {
        self.gateway.job(job).expect("a known job")
    }

    /// The state of a job that is known.
    pub fn state(&self, job: JobId) -> JobState {
        self.job(job).state
    }

    /// Takes and confirms all settlements.
    ///
    /// # Panics
    /// If a batch is refused.
    pub fn settlements(&mut self) -> Vec<Settlement> {
        let mut all = Vec::new();
        while let Some(taken) = self.gateway.take_settlements(self.now, 1_000) {
            self.gateway.confirm_settlements(self.now, taken.batch).expect("a batch in flight");
            all.extend(taken.settlements);
        }
        self.check();
        all
    }
}
