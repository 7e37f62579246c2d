//! libgateway for Python: the classes under the package `libgateway`.
//!
//! Each class is frozen and has its state behind a lock that is held for the call into the core and nothing else. What
//! calls answer are values of their own here where calls are hot, and dataclasses of `libgateway.values` elsewhere.
#![forbid(unsafe_code)]

mod argument;
mod billing;
mod breaker;
mod calling;
mod convert;
mod errors;
mod gateway;
mod guard;
mod histogram;
mod ids;
mod joint;
mod limiter;
mod number;
mod policy;
mod queue;
mod spec;
mod store;
mod text;
mod values;
mod words;

use pyo3::prelude::*;

/// The machines of libgateway. Import them from ``libgateway``.
#[pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::*;

    use crate::{calling, convert};

    #[pymodule_export]
    use crate::billing::PyBillingCollector;
    #[pymodule_export]
    use crate::breaker::{PyAdmit, PyCircuitBreaker};
    #[pymodule_export]
    use crate::calling::_ending;
    #[pymodule_export]
    use crate::errors::error_codes;
    #[pymodule_export]
    use crate::gateway::{PyBackendView, PyGateway, PyLease, PySettled, PySettlement, PySlices, PySteps, PyWatch};
    #[pymodule_export]
    use crate::guard::_forked;
    #[pymodule_export]
    use crate::histogram::PyHistogram;
    #[pymodule_export]
    use crate::ids::PyJobId;
    #[pymodule_export]
    use crate::joint::PyCombinedLimiter;
    #[pymodule_export]
    use crate::limiter::{PyAnswer, PyKeyedRateLimiter, PyRateLimiter, PyWindowLimiter};
    #[pymodule_export]
    use crate::policy::{
        PyBackoff, PyBillingPolicy, PyBreakerConfig, PyCustomerPolicy, PyPriceBook, PyRateLimit, PyTimeouts,
        PyWindowLimit,
    };
    #[pymodule_export]
    use crate::queue::{PyFairQueue, PyTicket};
    #[pymodule_export]
    use crate::spec::{PyBackend, PyFailure, PyRoute, PySubmit, PyUsage};
    #[pymodule_export]
    use crate::store::PyJobStore;
    #[pymodule_export]
    use crate::{defaults, nothing};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        calling::refuse_second(module.py())?;
        // What is found out once and by waiting for each other is found out now: in a fork nobody would come to tell.
        convert::warm(module.py());
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

/// The core's default configuration of each part that keeps none, for the test that nothing repeats them wrongly.
#[pyfunction]
#[pyo3(name = "_defaults")]
fn defaults() -> PyResult<String> {
    use libgateway::{BillingCollectorConfig, FairQueueConfig, JobStoreConfig, KeyedRateLimiterConfig};
    let all = (
        BillingCollectorConfig::default(),
        FairQueueConfig::default(),
        JobStoreConfig::default(),
        KeyedRateLimiterConfig::default(),
    );
    serde_json::to_string(&all).map_err(|error| pyo3::exceptions::PyRuntimeError::new_err(error.to_string()))
}

/// Does nothing: what a call costs by itself, for the benchmark.
#[pyfunction]
#[pyo3(name = "_nothing")]
fn nothing() {}
