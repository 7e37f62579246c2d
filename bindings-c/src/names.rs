//! Numbers that stand for words: states, priorities, tasks, kinds, classes.

use std::ffi::{CStr, c_char};

use libgateway::{BackendKind, BreakerState, FailureClass, JobState, Priority, Task};

use crate::failure::Failure;
use crate::input::choice;

/// The job waits, for a backend or for the instant before which it may not run.
pub const GATEWAY_STATE_QUEUED: u32 = 0;
/// The job is on a backend under a lease.
pub const GATEWAY_STATE_RUNNING: u32 = 1;
/// The job ended with an output.
pub const GATEWAY_STATE_COMPLETE: u32 = 2;
/// The job ended with a failure.
pub const GATEWAY_STATE_ERROR: u32 = 3;
/// The job was given up, on request or by a deadline.
pub const GATEWAY_STATE_CANCELLED: u32 = 4;

/// Served first.
pub const GATEWAY_PRIORITY_HIGH: u32 = 0;
/// The default.
pub const GATEWAY_PRIORITY_NORMAL: u32 = 1;
/// Served when nothing higher can run.
pub const GATEWAY_PRIORITY_LOW: u32 = 2;

/// Text to image, "t2i".
pub const GATEWAY_TASK_T2I: u32 = 0;
/// Image to image, "i2i".
pub const GATEWAY_TASK_I2I: u32 = 1;
/// Edit an image within a mask, "edit".
pub const GATEWAY_TASK_EDIT: u32 = 2;
/// Text to video, "t2v".
pub const GATEWAY_TASK_T2V: u32 = 3;
/// Image to video, "i2v".
pub const GATEWAY_TASK_I2V: u32 = 4;
/// Complete a text, "complete".
pub const GATEWAY_TASK_COMPLETE: u32 = 5;
/// Answer a chat, "chat".
pub const GATEWAY_TASK_CHAT: u32 = 6;
/// Fill a gap in a text, "infill".
pub const GATEWAY_TASK_INFILL: u32 = 7;
/// Embed a text, "embed".
pub const GATEWAY_TASK_EMBED: u32 = 8;

/// The engine Nunchaku.
pub const GATEWAY_KIND_NUNCHAKU: u32 = 0;
/// The engine PyTorch.
pub const GATEWAY_KIND_TORCH: u32 = 1;
/// The engines TensorRT and TensorRT-LLM.
pub const GATEWAY_KIND_TENSORRT: u32 = 2;
/// The engine vLLM.
pub const GATEWAY_KIND_VLLM: u32 = 3;
/// The engine SGLang.
pub const GATEWAY_KIND_SGLANG: u32 = 4;
/// Any other engine.
pub const GATEWAY_KIND_OTHER: u32 = 5;

/// No answer within the time allowed. Tried again, and counts against the backend.
pub const GATEWAY_FAILURE_TIMEOUT: u32 = 0;
/// No connection could be made. Tried again, and counts against the backend.
pub const GATEWAY_FAILURE_CONNECTION: u32 = 1;
/// The connection broke before the answer was complete. Tried again, and counts against the backend.
pub const GATEWAY_FAILURE_NETWORK: u32 = 2;
/// An answer with an HTTP status that is no success; the status decides. 500, 502, 503, 504, and 429 with a
/// `retry_after`, are tried again; 500 and up count against the backend.
pub const GATEWAY_FAILURE_HTTP: u32 = 3;
/// The backend took the job and says that it failed. Final, and counts against the backend.
pub const GATEWAY_FAILURE_BACKEND: u32 = 4;
/// We refused the job ourselves. Final, and says nothing about the backend.
pub const GATEWAY_FAILURE_REJECTED: u32 = 5;
/// The worker vanished. The job returns to the queue without counting as an attempt.
pub const GATEWAY_FAILURE_LOST: u32 = 6;

/// All calls pass.
pub const GATEWAY_BREAKER_CLOSED: u32 = 0;
/// No call passes.
pub const GATEWAY_BREAKER_OPEN: u32 = 1;
/// One probe at a time passes.
pub const GATEWAY_BREAKER_HALF_OPEN: u32 = 2;

/// The longest name in a struct, with its NUL, and a little room so that fields stay aligned.
pub const GATEWAY_NAME_CAP: usize = 136;
/// The longest route in a struct: modality, family, model and the engine wanted, with the NUL.
pub const GATEWAY_ROUTE_CAP: usize = 216;

/// The name of a job's state: "queued"; "unknown" for a number that is none. A static string: do not free it.
///
/// Cannot fail. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn gateway_state_name(state: u32) -> *const c_char {
    name(&[c"queued", c"running", c"complete", c"error", c"cancelled"], state)
}

/// The name of a task: "t2i"; "unknown" for a number that is none. A static string: do not free it.
///
/// Cannot fail. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn gateway_task_name(task: u32) -> *const c_char {
    name(&[c"t2i", c"i2i", c"edit", c"t2v", c"i2v", c"complete", c"chat", c"infill", c"embed"], task)
}

/// The name of an engine: "torch"; "unknown" for a number that is none. A static string: do not free it.
///
/// Cannot fail. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn gateway_kind_name(kind: u32) -> *const c_char {
    name(&[c"nunchaku", c"torch", c"tensorrt", c"vllm", c"sglang", c"other"], kind)
}

fn name(names: &[&'static CStr], number: u32) -> *const c_char {
    names.get(number as usize).map_or(c"unknown", |name| *name).as_ptr()
}

pub(crate) const PRIORITIES: &[Priority] = &[Priority::High, Priority::Normal, Priority::Low];

pub(crate) const BREAKER_STATES: &[BreakerState] = &[BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen];

pub(crate) fn priority(value: u32) -> Result<Priority, Failure> {
    choice(value, PRIORITIES, "priority")
}

pub(crate) fn state_number(state: JobState) -> u32 {
    crate::input::number(state, &JobState::ALL)
}

pub(crate) fn task_number(task: Task) -> u32 {
    crate::input::number(task, &Task::ALL.map(|(task, _)| task))
}

pub(crate) fn kind(value: u32) -> Result<BackendKind, Failure> {
    choice(value, &BackendKind::ALL.map(|(kind, _)| kind), "kind")
}

pub(crate) fn kind_number(kind: BackendKind) -> u32 {
    crate::input::number(kind, &BackendKind::ALL.map(|(kind, _)| kind))
}

pub(crate) fn failure_class(class: u32, http_status: u32) -> Result<FailureClass, Failure> {
    if class == GATEWAY_FAILURE_HTTP {
        let status = u16::try_from(http_status);
        let max = u64::from(u16::MAX);
        let status = status.map_err(|_| Failure::range("http_status", u64::from(http_status), 0, max))?;
        return Ok(FailureClass::Http(status));
    }
    choice(class, CLASSES, "class")
}

/// The class and the HTTP status, 0 where there is none.
pub(crate) fn failure_numbers(class: FailureClass) -> (u32, u32) {
    match class {
        FailureClass::Http(status) => (GATEWAY_FAILURE_HTTP, u32::from(status)),
        other => (crate::input::number(other, CLASSES), 0),
    }
}

/// By number; that of HTTP is not looked up here.
const CLASSES: &[FailureClass] = &[
    FailureClass::Timeout,
    FailureClass::Connection,
    FailureClass::Network,
    FailureClass::Http(0),
    FailureClass::Backend,
    FailureClass::Rejected,
    FailureClass::Lost,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: *const c_char) -> String {
        // SAFETY: the functions return static strings.
        unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn numbers_and_names_are_those_of_the_library() {
        for state in JobState::ALL {
            assert_eq!(text(gateway_state_name(state_number(state))), state.as_str());
        }
        for (task, own) in Task::ALL {
            assert_eq!(text(gateway_task_name(task_number(task))), own);
        }
        for (own_kind, own) in BackendKind::ALL {
            let number = kind_number(own_kind);
            assert_eq!(text(gateway_kind_name(number)), own);
            assert_eq!(kind(number).unwrap(), own_kind);
        }
        for lane in 0..3_u8 {
            assert_eq!(priority(u32::from(lane)).unwrap(), Priority::from_lane(lane));
        }
        for past in [5, 9, 6, u32::MAX] {
            assert!([gateway_state_name, gateway_kind_name].iter().all(|name| text(name(past.max(6))) == "unknown"));
        }
        assert_eq!(text(gateway_task_name(9)), "unknown");
        assert!(kind(6).is_err() && priority(3).is_err() && failure_class(7, 0).is_err());
        assert!(failure_class(GATEWAY_FAILURE_HTTP, 65_536).is_err());
    }

    #[test]
    fn classes_survive_their_numbers() {
        for class in [
            FailureClass::Timeout,
            FailureClass::Connection,
            FailureClass::Network,
            FailureClass::Http(503),
            FailureClass::Backend,
            FailureClass::Rejected,
            FailureClass::Lost,
        ] {
            let (number, status) = failure_numbers(class);
            assert_eq!(failure_class(number, status).unwrap(), class);
        }
        assert_eq!(failure_class(GATEWAY_FAILURE_HTTP, 0).unwrap(), FailureClass::Http(0));
    }

    #[test]
    fn the_longest_names_fit() {
        use libgateway::{NAME_LEN_MAX, SEGMENT_LEN_MAX};
        const { assert!(NAME_LEN_MAX < GATEWAY_NAME_CAP) };
        let kind = BackendKind::ALL.iter().map(|(_, name)| name.len()).max().unwrap();
        assert!(3 * SEGMENT_LEN_MAX + 2 + "?backend=".len() + kind < GATEWAY_ROUTE_CAP);
    }
}
