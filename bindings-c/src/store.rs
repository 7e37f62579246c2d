//! A job store.

use std::ffi::{c_char, c_void};

use libgateway::{JobFailure, JobState, JobStore, JobStoreConfig, NewJob, Span, StoredJob};

use crate::guard::guard;
use crate::handle::{create, free, gateway_store, with};
use crate::ids::gateway_job_id;
use crate::input::{
    Options, Out, at, choice, instant_or_forever, job_id, optional_text, options, payload, text, timeouts,
};
use crate::machine::{
    GATEWAY_FREE_CANCELLED, GATEWAY_FREE_FAILED, GATEWAY_HOUR, freed, gateway_failure, gateway_outcome, gateway_output,
    read_failure, read_output,
};
use crate::names::{GATEWAY_NAME_CAP, state_number};
use crate::output::{copy_bytes, fixed, id_out};
use crate::status::*;

/// Limits of a job store. Begin with `GATEWAY_STORE_CONFIG_INIT`. Spans are in nanoseconds.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_store_config {
    /// `sizeof(gateway_store_config)`.
    pub size: usize,
    /// Keys the hash tables. Default 0.
    pub seed: u64,
    /// Ended jobs are kept so long. Default 1 h.
    pub retain_for: u64,
    /// Bytes of outputs and failure messages that are kept at most, together. Default 1 GiB.
    pub retained_bytes_max: u64,
    /// An idempotency key stands for its job until so long after the job's end. Default 24 h.
    pub idempotency_for: u64,
    /// Longest single stay of a job in the queue; 0: no end. Default 0.
    pub timeout_queue: u64,
    /// Longest time to the first start; 0: no end. Default 0.
    pub timeout_start: u64,
    /// Longest time of one attempt; 0: no end. Default 0.
    pub timeout_run: u64,
    /// Longest time to the end; 0: no end. Default 0.
    pub timeout_total: u64,
    /// Jobs that have not ended. Default 1 000 000.
    pub jobs_max: u32,
    /// Ended jobs that are kept at most. Default 100 000.
    pub retained_max: u32,
    /// Longest payload, output and failure message in bytes. Default 10 MiB.
    pub payload_len_max: u32,
    /// Idempotency keys of ended jobs at most; the one whose job ended first leaves first. Default 1 000 000.
    pub idempotency_keys_max: u32,
    /// Whose keys are free again at once: `GATEWAY_FREE_FAILED`, `GATEWAY_FREE_CANCELLED` or both. Default 0: nobody's.
    pub idempotency_free: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: repr(C), begins with its size, and has integers only.
unsafe impl Options for gateway_store_config {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        seed: 0,
        retain_for: GATEWAY_HOUR,
        retained_bytes_max: 1 << 30,
        idempotency_for: 24 * GATEWAY_HOUR,
        timeout_queue: 0,
        timeout_start: 0,
        timeout_run: 0,
        timeout_total: 0,
        jobs_max: 1_000_000,
        retained_max: 100_000,
        payload_len_max: 10_485_760,
        idempotency_keys_max: 1_000_000,
        idempotency_free: 0,
        reserved: 0,
    };
}

/// What a job may bring beyond its id and customer. Begin with `GATEWAY_STORE_OPTIONS_INIT`.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_store_options {
    /// `sizeof(gateway_store_options)`.
    pub size: usize,
    /// The body. May be NULL where `payload_len` is 0.
    pub payload: *const c_void,
    /// How many bytes the body has.
    pub payload_len: usize,
    /// A second insertion of the customer under the same key is the same job. NULL: each is another.
    pub idempotency_key: *const c_char,
    /// Longest single stay in the queue; 0: as configured.
    pub timeout_queue: u64,
    /// Longest time to the first start; 0: as configured.
    pub timeout_start: u64,
    /// Longest time of one attempt; 0: as configured.
    pub timeout_run: u64,
    /// Longest time to the end; 0: as configured.
    pub timeout_total: u64,
}

// SAFETY: repr(C), begins with its size, and has integers and pointers only.
unsafe impl Options for gateway_store_options {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        payload: std::ptr::null(),
        payload_len: 0,
        idempotency_key: std::ptr::null(),
        timeout_queue: 0,
        timeout_start: 0,
        timeout_run: 0,
        timeout_total: 0,
    };
}

/// A stored job as it stands.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_stored_job {
    /// Its id.
    pub id: gateway_job_id,
    /// When it was inserted.
    pub created: u64,
    /// When its latest attempt began; `GATEWAY_FOREVER`: none has.
    pub started: u64,
    /// When it ended; `GATEWAY_FOREVER`: it has not.
    pub finished: u64,
    /// How many bytes its payload has; 0 once it has ended.
    pub payload_len: usize,
    /// Where it is in its life: `GATEWAY_STATE_QUEUED` and its like.
    pub state: u32,
    /// How far it is, in parts per million.
    pub progress_ppm: u32,
    /// The number of its latest attempt; 0 before the first.
    pub attempt: u32,
    /// Rises with each change.
    pub version: u32,
    /// Who asked.
    pub customer: [c_char; GATEWAY_NAME_CAP],
}

impl From<&StoredJob> for gateway_stored_job {
    fn from(job: &StoredJob) -> Self {
        Self {
            id: id_out(job.id),
            created: job.created.as_nanos(),
            started: instant_or_forever(job.started),
            finished: instant_or_forever(job.finished),
            payload_len: job.payload.len(),
            state: state_number(job.state),
            progress_ppm: job.progress_ppm,
            attempt: job.attempt,
            version: job.version,
            customer: fixed(&job.customer),
        }
    }
}

/// Makes an empty store. NULL as `config` takes all defaults. Free it by `gateway_store_free`.
///
/// The order of calls: `gateway_store_insert`; `gateway_store_start`, which numbers the attempt; then one of
/// `gateway_store_complete`, `gateway_store_fail`, `gateway_store_requeue` with that number: an answer of an attempt that
/// is no longer the present one is refused. `gateway_store_handle_timeout` at `gateway_store_next_deadline`.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_OUT_OF_RANGE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_new(
    config: *const gateway_store_config,
    now: u64,
    store: *mut *mut gateway_store,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (own, store) = unsafe { (options(config, "config")?, Out::required(store, "store")?) };
        crate::machine::reserved(own.reserved)?;
        let free = freed(own.idempotency_free)?;
        let config = JobStoreConfig::default()
            .seed(own.seed)
            .retain_for(Span::from_nanos(own.retain_for))
            .timeouts(timeouts(own.timeout_queue, own.timeout_start, own.timeout_run, own.timeout_total))
            .jobs_max(own.jobs_max)
            .retained_max(own.retained_max)
            .retained_bytes_max(own.retained_bytes_max)
            .idempotency_for(Span::from_nanos(own.idempotency_for))
            .idempotency_keys_max(own.idempotency_keys_max)
            .idempotency_free_failed(free & GATEWAY_FREE_FAILED != 0)
            .idempotency_free_cancelled(free & GATEWAY_FREE_CANCELLED != 0)
            .payload_len_max(own.payload_len_max);
        create(JobStore::new(config, at(now)), store)?;
        Ok(GATEWAY_OK)
    })
}

/// Frees a store with its jobs. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_free(store: *mut gateway_store) -> gateway_status {
    guard(|| free(store))
}

/// Stores a job. NULL as `options` takes all defaults. `*job`, which may be NULL, is `id`, or that of the job its
/// idempotency key stands for already.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_BAD_SIZE`, `GATEWAY_NOT_UTF8`, from -201 down for a value that cannot be;
/// `GATEWAY_IDEMPOTENCY_CONFLICT`; `GATEWAY_DUPLICATE_JOB`; `GATEWAY_FULL`; `GATEWAY_INVALID_HANDLE`,
/// `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_insert(
    store: *mut gateway_store,
    now: u64,
    id: gateway_job_id,
    customer: *const c_char,
    options: *const gateway_store_options,
    job: *mut gateway_job_id,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (customer, own, job) = unsafe {
            (text(customer, "customer")?, crate::input::options(options, "options")?, Out::optional(job, "job")?)
        };
        // SAFETY: the caller's promise.
        let (payload, key) =
            unsafe { (payload(own.payload, own.payload_len)?, optional_text(own.idempotency_key, "idempotency_key")?) };
        let mut new = NewJob::new(job_id(id), customer).payload(payload).timeouts(timeouts(
            own.timeout_queue,
            own.timeout_start,
            own.timeout_run,
            own.timeout_total,
        ));
        if let Some(key) = key {
            new = new.idempotency_key(key);
        }
        job.set(id_out(with(store, |store| Ok(store.insert(at(now), new)?))?));
        Ok(GATEWAY_OK)
    })
}

/// Lets a queued job run. `*attempt` is the number of the attempt, from 1.
///
/// Errors: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_NOT_ALLOWED`; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`,
/// `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_start(
    store: *mut gateway_store,
    now: u64,
    id: gateway_job_id,
    attempt: *mut u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let attempt = unsafe { Out::required(attempt, "attempt") }?;
        attempt.set(with(store, |store| Ok(store.start(at(now), job_id(id))?))?);
        Ok(GATEWAY_OK)
    })
}

/// Takes an attempt's result.
///
/// Errors: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_NOT_ALLOWED`; `GATEWAY_STALE_ATTEMPT`; from -201 down for an empty or
/// over-long output; `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be
/// called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_complete(
    store: *mut gateway_store,
    now: u64,
    id: gateway_job_id,
    attempt: u32,
    output: *const gateway_output,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let output = unsafe { read_output(output) }?;
        with(store, |store| Ok(store.complete(at(now), job_id(id), attempt, output)?)).map(|()| GATEWAY_OK)
    })
}

/// Takes an attempt's failure, for good. Of `failure`, the class, the words and `retriable` are kept; NULL is one of the
/// backend without words.
///
/// Errors: as `gateway_store_complete`, and `GATEWAY_BAD_SIZE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_fail(
    store: *mut gateway_store,
    now: u64,
    id: gateway_job_id,
    attempt: u32,
    failure: *const gateway_failure,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let own = unsafe { read_failure(failure) }?;
        let retriable = own.retriable.unwrap_or_else(|| own.class.is_retriable(own.retry_after));
        let failure = JobFailure { class: own.class, message: own.message.into_boxed_str(), retriable };
        with(store, |store| Ok(store.fail(at(now), job_id(id), attempt, failure)?)).map(|()| GATEWAY_OK)
    })
}

/// Ends an attempt without a verdict: the job waits again.
///
/// Errors: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_NOT_ALLOWED`; `GATEWAY_STALE_ATTEMPT`; `GATEWAY_BAD_POINTER`,
/// `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_requeue(
    store: *mut gateway_store,
    now: u64,
    id: gateway_job_id,
    attempt: u32,
) -> gateway_status {
    guard(|| with(store, |store| Ok(store.requeue(at(now), job_id(id), attempt)?)).map(|()| GATEWAY_OK))
}

/// Tells how far an attempt is, in parts per million.
///
/// Errors: as `gateway_store_requeue`, and `GATEWAY_OUT_OF_RANGE` beyond 1 000 000. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_progress(
    store: *mut gateway_store,
    now: u64,
    id: gateway_job_id,
    attempt: u32,
    progress_ppm: u32,
) -> gateway_status {
    guard(|| with(store, |store| Ok(store.progress(at(now), job_id(id), attempt, progress_ppm)?)).map(|()| GATEWAY_OK))
}

/// Gives a job up, waiting or running.
///
/// Errors: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_NOT_ALLOWED`; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`,
/// `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_cancel(
    store: *mut gateway_store,
    now: u64,
    id: gateway_job_id,
) -> gateway_status {
    guard(|| with(store, |store| Ok(store.cancel(at(now), job_id(id))?)).map(|()| GATEWAY_OK))
}

/// Removes the record of a job that has ended.
///
/// Errors: as `gateway_store_cancel`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_delete(
    store: *mut gateway_store,
    now: u64,
    id: gateway_job_id,
) -> gateway_status {
    guard(|| with(store, |store| Ok(store.delete(at(now), job_id(id))?)).map(|()| GATEWAY_OK))
}

/// Reads a job as it stands.
///
/// `GATEWAY_NONE`: no job of that id is known, or it is no longer. Errors: `GATEWAY_BAD_POINTER`,
/// `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_read(
    store: *const gateway_store,
    id: gateway_job_id,
    job: *mut gateway_stored_job,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let job = unsafe { Out::required(job, "job") }?;
        let stored = with(store, |store| Ok(store.get(job_id(id))))?;
        Ok(stored.map_or(GATEWAY_NONE, |stored| {
            job.set((&stored).into());
            GATEWAY_OK
        }))
    })
}

/// Copies a job's payload, without a NUL after it. It is empty once the job has ended.
///
/// `GATEWAY_NONE`: no job of that id is known. Errors: as `gateway_store_read`, and `GATEWAY_BUFFER_TOO_SMALL`. May be
/// called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_payload(
    store: *const gateway_store,
    id: gateway_job_id,
    buf: *mut c_void,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    guard(|| match with(store, |store| Ok(store.get(job_id(id))))? {
        None => Ok(GATEWAY_NONE),
        // SAFETY: the caller's promise.
        Some(stored) => unsafe { copy_bytes(stored.payload.as_bytes(), buf, cap, needed) },
    })
}

/// How a job ended, as `gateway_job_outcome` tells it.
///
/// `GATEWAY_WAIT`: it has not ended. `GATEWAY_NONE`: no job of that id is known. Errors: as `gateway_store_payload`. May
/// be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_outcome(
    store: *const gateway_store,
    id: gateway_job_id,
    outcome: *mut gateway_outcome,
    buf: *mut c_void,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let outcome = unsafe { Out::optional(outcome, "outcome") }?;
        match with(store, |store| Ok(store.get(job_id(id))))?.map(|stored| stored.outcome) {
            None => Ok(GATEWAY_NONE),
            Some(None) => Ok(GATEWAY_WAIT),
            // SAFETY: the caller's promise.
            Some(Some(own)) => unsafe { crate::machine::tell_outcome(&own, outcome, buf, cap, needed) },
        }
    })
}

/// The job a customer inserted under an idempotency key.
///
/// `GATEWAY_NONE`: no job is known under it. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, `GATEWAY_INVALID_HANDLE`,
/// `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_by_key(
    store: *const gateway_store,
    customer: *const c_char,
    key: *const c_char,
    job: *mut gateway_job_id,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (customer, key, job) =
            unsafe { (text(customer, "customer")?, text(key, "key")?, Out::required(job, "job")?) };
        let found = with(store, |store| Ok(store.by_key(customer, key)))?;
        Ok(found.map_or(GATEWAY_NONE, |id| {
            job.set(id_out(id));
            GATEWAY_OK
        }))
    })
}

/// How many known jobs are in a state, `GATEWAY_STATE_QUEUED` and its like.
///
/// Errors: `GATEWAY_OUT_OF_RANGE`; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called
/// from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_count(
    store: *const gateway_store,
    state: u32,
    count: *mut u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let count = unsafe { Out::required(count, "count") }?;
        let state = choice(state, &JobState::ALL, "state")?;
        count.set(with(store, |store| Ok(store.count(state)))?);
        Ok(GATEWAY_OK)
    })
}

/// When something falls due next; `GATEWAY_FOREVER` where nothing does.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_next_deadline(
    store: *const gateway_store,
    deadline: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let deadline = unsafe { Out::required(deadline, "deadline") }?;
        deadline.set(with(store, |store| Ok(instant_or_forever(store.next_deadline())))?);
        Ok(GATEWAY_OK)
    })
}

/// Handles what is due by `now`, each at its own instant. `*handled`, which may be NULL, is how much. Safe early, safe
/// twice; every call that changes something does it first.
///
/// Errors: as `gateway_store_next_deadline`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_store_handle_timeout(
    store: *mut gateway_store,
    now: u64,
    handled: *mut u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let handled = unsafe { Out::optional(handled, "handled") }?;
        handled.set(with(store, |store| Ok(store.handle_timeout(at(now))))?);
        Ok(GATEWAY_OK)
    })
}
