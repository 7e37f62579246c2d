//! A clock for hosts that have none of their own: the wall's time once, and from then on one that does not step.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use crate::time::{Span, Timestamp};

/// The system's time, without its steps.
///
/// It reads the wall's time when it is made. From then on it goes on with the machine's time since boot, which no one sets
/// and which on Linux counts the time a machine was suspended, so it never steps: neither ahead nor back. What is set
/// right later, by a time server or by hand, it does not follow; a program that runs for months makes a new one, and the
/// gateway takes the difference for the step it is.
///
/// A host passes any clock it likes to the gateway. This is the one that `gateway_now()` of C and the default of Python
/// read, one for the whole process.
///
/// ```
/// use libgateway::{Gateway, GatewayConfig, Span, SystemClock};
/// let clock = SystemClock::of_process();
/// let gateway = Gateway::new(GatewayConfig::default(), clock.now())?;
/// assert!(clock.now().since(gateway.now()) < Span::from_secs(60));
/// # Ok::<(), libgateway::error::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    wall: Timestamp,
    boot: Duration,
}

impl SystemClock {
    /// A clock that begins at the wall's time of now.
    pub fn new() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { wall: Timestamp::EPOCH + span(wall), boot: since_boot() }
    }

    /// The one clock of this process, made when it is first asked for. A process that is forked goes on with it.
    pub fn of_process() -> &'static Self {
        static CLOCK: OnceLock<SystemClock> = OnceLock::new();
        CLOCK.get_or_init(Self::new)
    }

    /// The present instant. It never lies before one told earlier.
    #[inline]
    pub fn now(&self) -> Timestamp {
        self.wall + span(since_boot().saturating_sub(self.boot))
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

fn span(duration: Duration) -> Span {
    Span::from_nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// `std`'s monotonic clock stands still while a machine is suspended, and a lease that began before would outlive its
/// worker by that.
#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let secs = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(secs, u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(not(target_os = "linux"))]
fn since_boot() -> Duration {
    static BOOT: OnceLock<std::time::Instant> = OnceLock::new();
    BOOT.get_or_init(std::time::Instant::now).elapsed()
}
