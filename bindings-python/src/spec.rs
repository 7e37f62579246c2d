//! What callers describe by value: routes, backends, usage, failures, submissions.

use std::borrow::Cow;
use std::collections::BTreeMap;

use libgateway::error::InputError;
use libgateway::{Backend, BackendKind, Failure, GpuNanos, Models, Route, Submit, Usage};
use pyo3::prelude::*;
use pyo3::types::{PyDelta, PyString};

use crate::argument::Argument;
use crate::calling::Calling;
use crate::convert::{Body, GpuSeconds, Moment, Seconds, decimal};
use crate::errors::{OrRaise, Raise, called, wrong_type};
use crate::ids::{JobArg, PyJobId, fresh};
use crate::policy::{PyTimeouts, seconds};
use crate::text::Words;
use crate::values::devices;
use crate::words::{FailureKind, In, Word};

/// Equality, hash, pickle and JSON of a value that wraps one of the core's.
macro_rules! value {
    ($class:ident, $inner:ty) => {
        crate::spec::value!($class, $inner, |_, _| Ok(()));
    };
    ($class:ident, $inner:ty, $check:expr) => {
        #[crate::argument::named]
        #[pyo3::pymethods]
        impl $class {
            fn __eq__(&self, other: &pyo3::Bound<'_, pyo3::PyAny>) -> bool {
                other.cast::<Self>().is_ok_and(|other| other.get().0 == self.0)
            }

            fn __hash__(&self) -> u64 {
                use std::hash::{DefaultHasher, Hash, Hasher};
                let mut hasher = DefaultHasher::new();
                self.to_json().hash(&mut hasher);
                hasher.finish()
            }

            fn __reduce__<'py>(
                slf: &pyo3::Bound<'py, Self>,
            ) -> pyo3::PyResult<(pyo3::Bound<'py, pyo3::PyAny>, (String,))> {
                Ok((slf.get_type().getattr("from_json")?, (slf.get().to_json(),)))
            }

            /// The value as it stands in commands: integers in nanoseconds and micro-units.
            fn to_json(&self) -> String {
                serde_json::to_string(&self.0).unwrap_or_default()
            }

            /// The value of ``to_json``.
            #[classmethod]
            fn from_json(class: &pyo3::Bound<'_, pyo3::types::PyType>, text: &str) -> pyo3::PyResult<Self> {
                let check: fn(pyo3::Python<'_>, &$inner) -> pyo3::PyResult<()> = $check;
                let read = serde_json::from_str::<$inner>(text);
                let inner = read.map_err(|error| crate::errors::outside::json(class.py(), "text", &error))?;
                check(class.py(), &inner).map(|()| Self(inner))
            }
        }
    };
}
pub(crate) use value;

/// A text as Python writes it.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for character in text.chars() {
        match character {
            '\'' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            _ if character.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(character))),
            _ => out.push(character),
        }
    }
    out.push('\'');
    out
}

/// What a job asks for: ``modality/family/model/task``, and ``?backend=KIND`` where it wants one engine.
///
/// Wherever a route is expected its text will do; a ``Route`` is taken apart once.
///
/// >>> from libgateway import Route
/// >>> route = Route("image/flux/dev/t2i?backend=torch")
/// >>> route.family, route.model, str(route.task), str(route.backend)
/// ('flux', 'dev', 't2i', 'torch')
#[pyclass(module = "libgateway", name = "Route", frozen, weakref)]
pub(crate) struct PyRoute(pub(crate) Route<'static>);

value!(PyRoute, Route<'static>);

#[crate::argument::named]
#[pymethods]
impl PyRoute {
    #[new]
    fn new(py: Python<'_>, text: &str) -> PyResult<Self> {
        Ok(Self(Route::parse(text).or_raise(py)?.into_owned()))
    }

    /// The first segment, for example ``image``.
    #[getter]
    fn modality(&self) -> &str {
        self.0.modality()
    }

    /// The second segment, for example ``flux``.
    #[getter]
    fn family(&self) -> &str {
        self.0.family()
    }

    /// The third segment, for example ``dev``.
    #[getter]
    fn model(&self) -> &str {
        self.0.model()
    }

    /// What to do, a ``Task``.
    #[getter]
    fn task<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.task().member(py)
    }

    /// The engine wanted, a ``BackendKind``, if one is.
    #[getter]
    fn backend<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.backend().map(|kind| kind.member(py)).transpose()
    }

    fn __str__(&self) -> &str {
        self.0.as_str()
    }

    fn __repr__(&self) -> String {
        format!("Route({})", quoted(self.0.as_str()))
    }
}

/// A route as callers give it.
pub(crate) struct RouteArg<'a>(pub(crate) Route<'a>);

impl<'a, 'py> Argument<'a, 'py> for RouteArg<'a> {
    #[inline]
    fn take(value: &'a Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        if value.is_instance_of::<PyString>() {
            let route = Route::parse(<&str>::take(value, name)?);
            return route.map(Self).map_err(|error| called(error, name).raise(value.py()));
        }
        match value.cast::<PyRoute>() {
            Ok(route) => Ok(Self(route.get().0.clone())),
            Err(_) => Err(wrong_type(value, name, "a Route or its text")),
        }
    }
}

/// One worker or pool of workers that serves models of one family.
///
/// ``models`` names them, or is ``"*"`` for all, also ones nobody has named yet. ``lease_for`` is a timedelta or seconds:
/// a lease ends when nothing was heard for so long.
///
/// >>> from libgateway import Backend
/// >>> backend = Backend("flux-1", kind="torch", modality="image", family="flux", models=["schnell", "dev"], slots=4)
/// >>> backend.models, backend.slots
/// (('dev', 'schnell'), 4)
#[pyclass(module = "libgateway", name = "Backend", frozen, weakref)]
pub(crate) struct PyBackend(pub(crate) Backend);

value!(PyBackend, Backend, |py, backend| backend.check().or_raise(py));

#[crate::argument::named]
#[pymethods]
impl PyBackend {
    #[new]
    #[pyo3(signature = (name, *, modality, family, models=None, kind=In(BackendKind::Other), slots=1, devices=1,
                        warm_max=1, lease_for=None, labels=None),
        text_signature = "(name, *, modality, family, models=None, kind='other', slots=1, devices=1, warm_max=1, \
                        lease_for=None, labels=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        py: Python<'_>,
        name: &str,
        modality: &str,
        family: &str,
        models: Option<&Bound<'_, PyAny>>,
        kind: In<BackendKind>,
        slots: u32,
        devices: u32,
        warm_max: u32,
        lease_for: Option<Seconds>,
        labels: Option<BTreeMap<String, String>>,
    ) -> PyResult<Self> {
        let calling = Calling::begin(py);
        let models: Vec<String> = match models {
            None => vec![String::from("*")],
            Some(one) if one.cast::<PyString>().is_ok() => vec![String::take(one, "models")?],
            Some(many) => {
                let many = many.try_iter().map_err(|_| wrong_type(many, "models", "a str or several"))?;
                many.map(|model| String::take(&model?, "models")).collect::<PyResult<_>>()?
            }
        };
        drop(calling);
        let mut backend = Backend::new(name, kind.0).serves(modality, family, models);
        backend = backend.slots(slots).devices(devices).warm_max(warm_max);
        backend.lease_for = lease_for.map(|span| span.0);
        backend.labels = labels.into_iter().flatten().collect();
        backend.check().or_raise(py)?;
        Ok(Self(backend))
    }

    /// Its name, unique within a gateway.
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// The engine it runs, a ``BackendKind``.
    #[getter]
    fn kind<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.kind.member(py)
    }

    /// Modality it serves.
    #[getter]
    fn modality(&self) -> &str {
        &self.0.modality
    }

    /// Family it serves.
    #[getter]
    fn family(&self) -> &str {
        &self.0.family
    }

    /// Models it serves, ascending; ``('*',)`` for all.
    #[getter]
    fn models<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyTuple>> {
        match &self.0.models {
            Models::All => pyo3::types::PyTuple::new(py, ["*"]),
            Models::Only(models) => pyo3::types::PyTuple::new(py, models),
        }
    }

    /// Leases it takes at once.
    #[getter]
    fn slots(&self) -> u32 {
        self.0.slots
    }

    /// GPUs that work for one lease.
    #[getter]
    fn devices(&self) -> u32 {
        self.0.devices
    }

    /// Affinity keys it keeps warm at once.
    #[getter]
    fn warm_max(&self) -> u32 {
        self.0.warm_max
    }

    /// Its own lease time in nanoseconds, if it has one.
    #[getter]
    fn lease_for_ns(&self) -> Option<u64> {
        self.0.lease_for.map(|span| span.as_nanos())
    }

    /// Free words about it.
    #[getter]
    fn labels(&self) -> BTreeMap<String, String> {
        self.0.labels.iter().cloned().collect()
    }

    fn __repr__(&self) -> String {
        let Backend { name, kind, modality, family, slots, .. } = &self.0;
        let models = match &self.0.models {
            Models::All => quoted("*"),
            Models::Only(models) => {
                format!("[{}]", models.iter().map(|own| quoted(own)).collect::<Vec<_>>().join(", "))
            }
        };
        let (name, modality, family) = (quoted(name), quoted(modality), quoted(family));
        let mut text = format!(
            "Backend({name}, kind='{}', modality={modality}, family={family}, models={models}, slots={slots}",
            kind.as_str()
        );
        for (what, count) in [("devices", self.0.devices), ("warm_max", self.0.warm_max)] {
            if count != 1 {
                text.push_str(&format!(", {what}={count}"));
            }
        }
        if let Some(span) = self.0.lease_for {
            let Some(span) = seconds(span) else { return format!("Backend.from_json({})", quoted(&self.to_json())) };
            text.push_str(&format!(", lease_for={span}"));
        }
        if !self.0.labels.is_empty() {
            let labels: Vec<_> =
                self.0.labels.iter().map(|(key, value)| format!("{}: {}", quoted(key), quoted(value))).collect();
            text.push_str(&format!(", labels={{{}}}", labels.join(", ")));
        }
        text.push(')');
        text
    }
}

/// What a call used: GPU time of each device, as a difference on the GPU's own clock.
///
/// ``gpu_seconds`` is a number of seconds (``Decimal`` is exact) or a timedelta; ``gpu_ns`` is the same as an integer of
/// nanoseconds. ``Usage()`` says that nothing was measured.
///
/// >>> from decimal import Decimal
/// >>> from libgateway import Usage
/// >>> usage = Usage(gpu_seconds=Decimal("1.45"), device="GPU-8f2c") + Usage(gpu_ns=50_000_000, device="GPU-11aa")
/// >>> usage.gpu_seconds, usage.headers()["x-gpu-device"]
/// (Decimal('1.5'), 'GPU-8f2c,GPU-11aa')
#[pyclass(module = "libgateway", name = "Usage", frozen, weakref)]
pub(crate) struct PyUsage(pub(crate) Usage<'static>);

value!(PyUsage, Usage<'static>, |py, usage| usage.validate().or_raise(py));

#[crate::argument::named]
#[pymethods]
impl PyUsage {
    #[new]
    #[pyo3(signature = (*, gpu_seconds=None, gpu_ns=None, device="gpu"))]
    fn new(py: Python<'_>, gpu_seconds: Option<GpuSeconds>, gpu_ns: Option<u64>, device: &str) -> PyResult<Self> {
        let usage = usage_of(py, None, gpu_seconds, gpu_ns, device)?.into_owned();
        usage.validate().or_raise(py)?;
        Ok(Self(usage))
    }

    /// Both together.
    fn __add__(&self, py: Python<'_>, other: &Self) -> PyResult<Self> {
        let both = other.0.devices().fold(self.0.clone(), |all, own| all.and_gpu(own.gpu_ns, own.device.clone()));
        both.validate().or_raise(py)?;
        Ok(Self(both))
    }

    /// Whether anything was measured.
    #[getter]
    fn measured(&self) -> bool {
        self.0.is_measured()
    }

    /// GPU time of all devices in nanoseconds.
    #[getter]
    fn gpu_ns(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.0.total().or_raise(py)?.as_nanos())
    }

    /// GPU time of all devices in seconds, a ``Decimal``.
    #[getter]
    fn gpu_seconds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        decimal(py, &self.0.total().or_raise(py)?.to_string())
    }

    /// What each device did, a tuple of ``DeviceTime``.
    #[getter]
    fn devices<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyTuple>> {
        devices(py, &self.0)
    }

    /// The response headers ``x-gpu-seconds`` and ``x-gpu-device``; none where nothing was measured.
    fn headers(&self, py: Python<'_>) -> PyResult<BTreeMap<&'static str, String>> {
        Ok(self.0.headers().or_raise(py)?.into_iter().collect())
    }

    fn __repr__(&self) -> String {
        let one = |own: &libgateway::DeviceUsage<'_>| {
            format!("Usage(gpu_ns={}, device={})", own.gpu_ns.as_nanos(), quoted(&own.device))
        };
        let parts: Vec<_> = self.0.devices().map(one).collect();
        if parts.is_empty() { String::from("Usage()") } else { parts.join(" + ") }
    }
}

/// The usage that a call's keyword arguments tell.
pub(crate) fn usage_of<'a>(
    py: Python<'_>,
    usage: Option<&'a Bound<'_, PyUsage>>,
    gpu_seconds: Option<GpuSeconds>,
    gpu_ns: Option<u64>,
    device: &'a str,
) -> PyResult<Usage<'a>> {
    match (usage, gpu_seconds, gpu_ns) {
        (None, None, None) => Ok(Usage::unmeasured()),
        (None, Some(GpuSeconds(gpu)), None) => Ok(Usage::gpu(gpu, device)),
        (None, None, Some(nanos)) => Ok(Usage::gpu(GpuNanos::from_nanos(nanos), device)),
        (Some(usage), None, None) => Ok(usage.get().0.clone()),
        (None, ..) => Err(InputError::Contradiction { field: "gpu_seconds", other: "gpu_ns" }.raise(py)),
        (_, Some(_), _) => Err(InputError::Contradiction { field: "usage", other: "gpu_seconds" }.raise(py)),
        (_, None, _) => Err(InputError::Contradiction { field: "usage", other: "gpu_ns" }.raise(py)),
    }
}

/// How an attempt failed. ``kind`` decides whether the job is tried again, and whether the breaker hears of it.
///
/// >>> from libgateway import Failure
/// >>> Failure("http", "model is loading", status=503, retry_after=5)
/// Failure('http', 'model is loading', status=503, retry_after=5)
#[pyclass(module = "libgateway", name = "Failure", frozen, weakref)]
pub(crate) struct PyFailure(pub(crate) Failure);

value!(PyFailure, Failure);

#[crate::argument::named]
#[pymethods]
impl PyFailure {
    #[new]
    #[pyo3(signature = (kind, message=Words::default(), *, status=None, retry_after=None, retriable=None),
        text_signature = "(kind, message='', *, status=None, retry_after=None, retriable=None)")]
    fn new(
        py: Python<'_>,
        kind: In<FailureKind>,
        message: Words<'_>,
        status: Option<u16>,
        retry_after: Option<Seconds>,
        retriable: Option<bool>,
    ) -> PyResult<Self> {
        failure_of(py, kind, &message.0, status, retry_after, retriable).map(Self)
    }

    /// The kind, a ``FailureKind``.
    #[getter]
    fn kind<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        FailureKind::of(self.0.class).0.member(py)
    }

    /// The HTTP status of kind ``http``.
    #[getter]
    fn status(&self) -> Option<u16> {
        FailureKind::of(self.0.class).1
    }

    /// Words for people.
    #[getter]
    fn message(&self) -> &str {
        &self.0.message
    }

    /// The backend's own wish in nanoseconds; the next attempt comes no earlier.
    #[getter]
    fn retry_after_ns(&self) -> Option<u64> {
        self.0.retry_after.map(|span| span.as_nanos())
    }

    /// Overrides what the kind says of trying again.
    #[getter]
    fn retriable(&self) -> Option<bool> {
        self.0.retriable
    }

    fn __repr__(&self) -> String {
        let (kind, status) = FailureKind::of(self.0.class);
        let mut text = format!("Failure('{}', {}", kind.word(), quoted(&self.0.message));
        if let Some(status) = status {
            text.push_str(&format!(", status={status}"));
        }
        if let Some(span) = self.0.retry_after {
            let Some(span) = seconds(span) else { return format!("Failure.from_json({})", quoted(&self.to_json())) };
            text.push_str(&format!(", retry_after={span}"));
        }
        if let Some(retriable) = self.0.retriable {
            text.push_str(if retriable { ", retriable=True" } else { ", retriable=False" });
        }
        text.push(')');
        text
    }
}

/// The failure that a call's arguments tell.
pub(crate) fn failure_of(
    py: Python<'_>,
    kind: In<FailureKind>,
    message: &str,
    status: Option<u16>,
    retry_after: Option<Seconds>,
    retriable: Option<bool>,
) -> PyResult<Failure> {
    let mut failure = Failure::new(kind.0.class(status).or_raise(py)?, message);
    failure.retry_after = retry_after.map(|span| span.0);
    failure.retriable = retriable;
    Ok(failure)
}

/// A job to be submitted with others, see ``Gateway.submit_many``. Its arguments are those of ``Gateway.submit``.
///
/// >>> from libgateway import Submit
/// >>> Submit(customer="acme", route="image/flux/dev/t2i", payload="a red fox", id="j_00000000000000000000000007").id.int
/// 7
/// >>> from libgateway import Backend, Gateway
/// >>> gateway = Gateway(backends=[Backend("b", modality="image", family="flux")], now_ns=0)
/// >>> [job] = gateway.submit_many([Submit("acme", "image/flux/dev/t2i", not_before_ns=5_000)], now_ns=0)
/// >>> gateway.dispatch(now_ns=4_999) is None, gateway.dispatch(now_ns=5_000).job == job
/// (True, True)
#[pyclass(module = "libgateway", name = "Submit", frozen, weakref)]
pub(crate) struct PySubmit(pub(crate) Submit<'static>);

value!(PySubmit, Submit<'static>);

#[crate::argument::named]
#[pymethods]
impl PySubmit {
    #[new]
    #[pyo3(signature = (customer, route, payload=None, *, priority=None, estimate=None, tokens=1, affinity=None,
                        idempotency_key=None, timeouts=None, not_before_ns=None, id=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        py: Python<'_>,
        customer: &str,
        route: RouteArg<'_>,
        payload: Option<Body>,
        priority: Option<In<libgateway::Priority>>,
        estimate: Option<GpuSeconds>,
        tokens: u64,
        affinity: Option<&str>,
        idempotency_key: Option<&str>,
        timeouts: Option<&Bound<'_, PyTimeouts>>,
        not_before_ns: Option<Moment>,
        id: Option<JobArg>,
    ) -> PyResult<Self> {
        let id = id.map_or_else(|| fresh(py), |id| Ok(id.0))?;
        let mut submit = Submit::new(id, Cow::Owned(customer.to_owned()), route.0.into_owned());
        submit.tokens = tokens;
        submit.payload = payload.map(|body| body.0).unwrap_or_default();
        submit.priority = priority.map(|priority| priority.0).unwrap_or_default();
        submit.estimate = estimate.map(|gpu| gpu.0);
        submit.affinity = affinity.map(|key| Cow::Owned(key.to_owned()));
        submit.idempotency_key = idempotency_key.map(|key| Cow::Owned(key.to_owned()));
        submit.timeouts = timeouts.map(|own| own.get().0).unwrap_or_default();
        submit.not_before = not_before_ns.map(|at| at.0);
        Ok(Self(submit))
    }

    /// Its id.
    #[getter]
    fn id(&self) -> PyJobId {
        PyJobId(self.0.id)
    }

    /// Who asks.
    #[getter]
    fn customer(&self) -> &str {
        &self.0.customer
    }

    /// What for.
    #[getter]
    fn route(&self) -> PyRoute {
        PyRoute(self.0.route.clone())
    }

    fn __repr__(&self) -> String {
        let (customer, route) = (quoted(&self.0.customer), quoted(self.0.route.as_str()));
        format!("<Submit {} of {customer} for {route}>", self.0.id)
    }
}

/// A span as Python writes it, or ``None``.
pub(crate) fn delta<'py>(py: Python<'py>, span: Option<libgateway::Span>) -> PyResult<Option<Bound<'py, PyDelta>>> {
    let micros = span.map(|span| span.as_nanos() / 1_000);
    micros
        .map(|micros| {
            let (days, rest) = (micros / 86_400_000_000, micros % 86_400_000_000);
            let days = i32::try_from(days).unwrap_or(i32::MAX);
            PyDelta::new(py, days, (rest / 1_000_000) as i32, (rest % 1_000_000) as i32, false)
        })
        .transpose()
}
