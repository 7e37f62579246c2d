//! What one call used, as the host measured it.

#![expect(clippy::indexing_slicing, reason = "the index is in range by the line above it or by the type")]

use alloc::borrow::Cow;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{BillingError, InputError};
use crate::time::{GpuNanos, Span};

/// What the host measured for one call: how long each device was busy with it.
///
/// A figure is a *difference* on the GPU's own clock (CUPTI, an NVTX range), never a reading of that clock;
/// [`Usage::check`] refuses what cannot be one. Work of several streams on one device at the same time counts once:
/// it is time, not a sum of kernels. Without a measurement ([`Usage::unmeasured`]) the time the call took is billed.
///
/// Building never fails; [`Usage::validate`] and [`Usage::check`] tell whether the whole can be. One device costs no
/// allocation, and its name is borrowed.
///
/// ```
/// use libgateway::{GpuNanos, Span, Usage};
/// let usage = Usage::gpu(GpuNanos::from_millis(1_000), "GPU-8f2c").and_gpu(GpuNanos::from_millis(500), "GPU-11aa");
/// assert_eq!(usage.total(), Ok(GpuNanos::from_millis(1_500)));
/// assert_eq!(usage.device_count(), 2);
/// // No tolerance, no slack: a device that worked 1 s does not fit into 0.9 s.
/// assert!(usage.check(Span::from_millis(1_000), 0, Span::ZERO).is_ok());
/// assert!(usage.check(Span::from_millis(900), 0, Span::ZERO).is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage<'a> {
    first: Option<DeviceUsage<'a>>,
    /// Empty unless `first` is there.
    rest: Vec<DeviceUsage<'a>>,
}

/// How long one device was busy with a call.
///
/// ```
/// use libgateway::{GpuNanos, Usage};
/// let usage = Usage::gpu(GpuNanos::from_nanos(7), "GPU-8f2c");
/// assert_eq!(usage.devices().map(|device| device.gpu_ns.as_nanos()).sum::<u64>(), 7);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceUsage<'a> {
    /// The device, for example `GPU-8f2c…` as the driver names it: at most [`DEVICE_LEN_MAX`] visible ASCII
    /// characters, no comma.
    pub device: Cow<'a, str>,
    /// Nanoseconds it was busy.
    pub gpu_ns: GpuNanos,
}

impl<'a> Usage<'a> {
    /// Usage of one device.
    pub fn gpu(gpu_ns: GpuNanos, device: impl Into<Cow<'a, str>>) -> Self {
        Self { first: Some(DeviceUsage { device: device.into(), gpu_ns }), rest: Vec::new() }
    }

    /// No measurement: the time the call took is billed and marked as unmeasured. It counts as that of one device; in a
    /// gateway, unless [`crate::BillingPolicy::unmeasured_devices`] says otherwise, as that of each device of the backend.
    pub const fn unmeasured() -> Self {
        Self { first: None, rest: Vec::new() }
    }

    /// The same with one more device.
    #[must_use]
    pub fn and_gpu(mut self, gpu_ns: GpuNanos, device: impl Into<Cow<'a, str>>) -> Self {
        let device = DeviceUsage { device: device.into(), gpu_ns };
        match self.first {
            Some(_) => self.rest.push(device),
            None => self.first = Some(device),
        }
        self
    }

    /// Whether the host measured anything.
    pub const fn is_measured(&self) -> bool {
        self.first.is_some()
    }

    /// How many devices worked; 0 without a measurement.
    pub fn device_count(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// The devices in the order they were added.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceUsage<'a>> {
        self.first.iter().chain(&self.rest)
    }

    /// GPU time of all devices together; zero without a measurement.
    ///
    /// # Errors
    /// [`InputError::Overflow`] beyond 64 bits of nanoseconds.
    ///
    /// # Complexity
    /// O(devices).
    pub fn total(&self) -> Result<GpuNanos, InputError> {
        let mut total = GpuNanos::ZERO;
        for device in self.devices() {
            total = total.checked_add(device.gpu_ns).ok_or(InputError::Overflow { field: "usage" })?;
        }
        Ok(total)
    }

    /// What is billed for a call that took `elapsed`: the measured total, or `elapsed` itself where nothing was
    /// measured.
    ///
    /// # Errors
    /// As [`Usage::total`].
    ///
    /// ```
    /// use libgateway::{GpuNanos, Span, Usage};
    /// assert_eq!(Usage::unmeasured().billed(Span::from_secs(2)), Ok(GpuNanos::from_secs(2)));
    /// assert_eq!(Usage::gpu(GpuNanos::from_secs(1), "a").billed(Span::from_secs(2)), Ok(GpuNanos::from_secs(1)));
    /// ```
    pub fn billed(&self, elapsed: Span) -> Result<GpuNanos, InputError> {
        if self.is_measured() { self.total() } else { Ok(GpuNanos::from_nanos(elapsed.as_nanos())) }
    }

    /// Checks the shape: the number of devices, their names, that each stands once.
    ///
    /// # Errors
    /// [`InputError::TooLong`] for more than [`DEVICES_MAX`] devices; [`InputError::Empty`], [`InputError::TooLong`] or
    /// [`InputError::Character`] for a name; [`InputError::Repeated`]; in that order.
    ///
    /// # Complexity
    /// O(n log n) in the number of devices, without allocation.
    pub fn validate(&self) -> Result<(), InputError> {
        let len = self.device_count();
        if len > DEVICES_MAX {
            return Err(InputError::TooLong { field: "devices", len, max: DEVICES_MAX });
        }
        for device in self.devices() {
            check_device(&device.device)?;
        }
        if len > 1 {
            let mut names = [""; DEVICES_MAX];
            for (name, device) in names.iter_mut().zip(self.devices()) {
                *name = &device.device;
            }
            names[..len].sort_unstable();
            if names[..len].windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(InputError::Repeated { field: "devices" });
            }
        }
        Ok(())
    }

    /// Checks the shape, and that no device worked longer than a call of `elapsed` can have kept it busy:
    /// `elapsed × (1 + tolerance_ppm / 1 000 000) + slack`.
    ///
    /// The tolerance covers two clocks that drift, the slack a host that reads its clock coarsely. A reading of a
    /// device's clock in place of a difference is days off and is always caught.
    ///
    /// # Errors
    /// [`BillingError::Input`] as [`Usage::validate`], then [`BillingError::UsageExceedsElapsed`] for the first device
    /// beyond the limit.
    ///
    /// # Complexity
    /// As [`Usage::validate`].
    pub fn check(&self, elapsed: Span, tolerance_ppm: u32, slack: Span) -> Result<(), BillingError> {
        self.validate()?;
        self.check_elapsed(elapsed, tolerance_ppm, slack)
    }

    /// The second half of [`Usage::check`], for a usage whose shape has been checked.
    pub(crate) fn check_elapsed(&self, elapsed: Span, tolerance_ppm: u32, slack: Span) -> Result<(), BillingError> {
        let allowed_ns = allowed(elapsed, tolerance_ppm, slack);
        // Every device within the limit implies the total within as many limits: no second check.
        for device in self.devices() {
            let used_ns = device.gpu_ns.as_nanos();
            if used_ns > allowed_ns {
                return Err(BillingError::UsageExceedsElapsed { used_ns, allowed_ns });
            }
        }
        Ok(())
    }

    /// What is billed of it: of each device at most `each` nanoseconds, of all together at most `all`, the first devices
    /// first. `keep` hears of each device what is billed of it.
    pub(crate) fn cap(&self, each: u64, all: u64, mut keep: impl FnMut(&str, GpuNanos)) -> Capped {
        let (mut reported, mut billed) = (0_u128, 0_u64);
        for device in self.devices() {
            let used = device.gpu_ns.as_nanos();
            reported += u128::from(used);
            let share = used.min(each).min(all - billed);
            billed += share;
            keep(&device.device, GpuNanos::from_nanos(share));
        }
        Capped {
            reported: GpuNanos::from_nanos(u64::try_from(reported).unwrap_or(u64::MAX)),
            billed: GpuNanos::from_nanos(billed),
            capped: reported > u128::from(billed),
        }
    }

    /// The response metadata: `x-gpu-seconds`, a canonical decimal, and `x-gpu-device`, the names joined by commas.
    /// Empty without a measurement.
    ///
    /// # Errors
    /// As [`Usage::validate`]: a name that is not fit for a header never gets into one.
    ///
    /// # Complexity
    /// As [`Usage::validate`].
    ///
    /// ```
    /// use libgateway::{GpuNanos, Usage};
    /// let usage = Usage::gpu(GpuNanos::from_millis(1_450), "GPU-8f2c").and_gpu(GpuNanos::from_millis(50), "GPU-11aa");
    /// let headers = usage.headers()?;
    /// assert_eq!(headers[0], ("x-gpu-seconds", "1.5".to_string()));
    /// assert_eq!(headers[1], ("x-gpu-device", "GPU-8f2c,GPU-11aa".to_string()));
    /// # Ok::<(), libgateway::error::InputError>(())
    /// ```
    pub fn headers(&self) -> Result<Vec<(&'static str, String)>, InputError> {
        self.validate()?;
        let mut headers = Vec::new();
        if self.is_measured() {
            let mut names = String::new();
            for device in self.devices() {
                if !names.is_empty() {
                    names.push(',');
                }
                names.push_str(&device.device);
            }
            headers.push(("x-gpu-seconds", self.total()?.to_string()));
            headers.push(("x-gpu-device", names));
        }
        Ok(headers)
    }

    /// The same with names of its own.
    ///
    /// # Complexity
    /// O(devices), one allocation for each borrowed name.
    pub fn into_owned(self) -> Usage<'static> {
        Usage {
            first: self.first.map(DeviceUsage::into_owned),
            rest: self.rest.into_iter().map(DeviceUsage::into_owned).collect(),
        }
    }
}

/// What was measured, and what of it is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capped {
    pub(crate) reported: GpuNanos,
    pub(crate) billed: GpuNanos,
    pub(crate) capped: bool,
}

/// What becomes of a usage beyond what its devices can have worked: a GPU's clock that runs ahead, a host's clock that was
/// set back, a unit that was mistaken.
///
/// ```
/// use libgateway::{BillingPolicy, Excess};
/// assert_eq!(BillingPolicy::default().excess, Excess::Cap);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Excess {
    /// The result is taken; what was possible is billed, what was reported is told beside it.
    #[default]
    Cap,
    /// The result is refused, and may be told again with another figure.
    Refuse,
}

/// How long a device can have worked within a call of `elapsed`, in nanoseconds.
pub(crate) fn allowed(elapsed: Span, tolerance_ppm: u32, slack: Span) -> u64 {
    let allowed = u128::from(elapsed.as_nanos()) * (PPM + u128::from(tolerance_ppm)) / PPM;
    u64::try_from(allowed).unwrap_or(u64::MAX).saturating_add(slack.as_nanos())
}

impl DeviceUsage<'_> {
    /// The same with a name of its own.
    pub fn into_owned(self) -> DeviceUsage<'static> {
        DeviceUsage { device: Cow::Owned(self.device.into_owned()), gpu_ns: self.gpu_ns }
    }
}

impl Serialize for Usage<'_> {
    /// A list of devices; the empty list is the unmeasured call.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A chained iterator has no exact length of its own, and binary formats want it first.
        let mut list = serializer.serialize_seq(Some(self.device_count()))?;
        for device in self.devices() {
            list.serialize_element(device)?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Usage<'_> {
    /// Owns its names, so that a command read from a log outlives the log. Longer lists than [`DEVICES_MAX`] are
    /// refused while they are read.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Usage<'static>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of devices and their nanoseconds")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut usage = Usage::unmeasured();
                while let Some(device) = list.next_element::<DeviceUsage<'static>>()? {
                    if usage.device_count() == DEVICES_MAX {
                        return Err(de::Error::invalid_length(DEVICES_MAX + 1, &self));
                    }
                    usage = usage.and_gpu(device.gpu_ns, device.device);
                }
                Ok(usage)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// A name that can stand in a header, alone or in a list.
fn check_device(name: &str) -> Result<(), InputError> {
    let field = "device";
    if name.is_empty() {
        return Err(InputError::Empty { field });
    }
    if name.len() > DEVICE_LEN_MAX {
        return Err(InputError::TooLong { field, len: name.len(), max: DEVICE_LEN_MAX });
    }
    let fits = |byte: u8| matches!(byte, b'!'..=b'+' | b'-'..=b'~');
    // Without an early exit the compiler looks at many bytes at once; nearly every name passes.
    if name.bytes().fold(true, |all, byte| all & fits(byte)) {
        return Ok(());
    }
    let at = name.bytes().position(|byte| !fits(byte)).unwrap_or_default();
    Err(InputError::Character { field, at })
}

/// Most devices that one call may name.
pub const DEVICES_MAX: usize = 64;

/// Longest name of a device, in bytes.
pub const DEVICE_LEN_MAX: usize = 96;

const PPM: u128 = 1_000_000;

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    const SECOND: GpuNanos = GpuNanos::from_secs(1);

    fn devices(count: usize) -> Usage<'static> {
        (0..count).fold(Usage::unmeasured(), |usage, n| usage.and_gpu(SECOND, format!("GPU-{n}")))
    }

    #[test]
    fn the_limit_is_exact_and_holds_for_each_device() {
        let elapsed = Span::from_secs(10);
        let slack = Span::from_nanos(7);
        // 10 s and 500 ppm are 10.005 s.
        let most = 10_005_000_007;
        for others in [0, 3] {
            let within = devices(others).and_gpu(GpuNanos::from_nanos(most), "GPU-x");
            assert_eq!(within.check(elapsed, 500, slack), Ok(()));
            let beyond = devices(others).and_gpu(GpuNanos::from_nanos(most + 1), "GPU-x");
            assert_eq!(
                beyond.check(elapsed, 500, slack),
                Err(BillingError::UsageExceedsElapsed { used_ns: most + 1, allowed_ns: most })
            );
        }
    }

    #[test]
    fn a_cap_takes_from_each_device_and_then_from_the_last_ones() {
        let usage = Usage::gpu(GpuNanos::from_nanos(50), "a")
            .and_gpu(GpuNanos::from_nanos(10), "b")
            .and_gpu(GpuNanos::from_nanos(70), "c");
        for (each, all, billed) in [
            (100, 200, [50, 10, 70]),
            (70, 130, [50, 10, 70]),
            (40, 200, [40, 10, 40]),
            (40, 60, [40, 10, 10]),
            (0, 9, [0, 0, 0]),
        ] {
            let mut kept = Vec::new();
            let capped = usage.cap(each, all, |name, gpu| kept.push((name.to_string(), gpu.as_nanos())));
            let names = ["a", "b", "c"].map(ToString::to_string);
            assert_eq!(kept, names.into_iter().zip(billed).collect::<Vec<_>>());
            let sum: u64 = billed.iter().sum();
            assert_eq!((capped.reported.as_nanos(), capped.billed.as_nanos(), capped.capped), (130, sum, sum < 130));
        }
    }

    #[test]
    fn the_uptime_of_a_machine_is_no_usage() {
        // The end of a range was billed without its start: a machine up for 30 days charged 30 days for a picture.
        let uptime = Usage::gpu(GpuNanos::from_secs(30 * 86_400), "GPU-8f2c");
        assert!(uptime.check(Span::from_millis(1_700), 10_000, Span::from_millis(100)).is_err());
    }

    #[test]
    fn extreme_inputs_are_answered() {
        let all = Usage::gpu(GpuNanos::from_nanos(u64::MAX), "a");
        assert_eq!(all.check(Span::MAX, u32::MAX, Span::MAX), Ok(()));
        assert!(all.check(Span::ZERO, u32::MAX, Span::ZERO).is_err());
        let two = all.and_gpu(GpuNanos::from_nanos(1), "b");
        assert_eq!(two.total(), Err(InputError::Overflow { field: "usage" }));
        assert_eq!(two.validate(), Ok(()));
        assert_eq!(
            two.cap(u64::MAX, u64::MAX, |_, _| {}),
            Capped { reported: GpuNanos::from_nanos(u64::MAX), billed: GpuNanos::from_nanos(u64::MAX), capped: true }
        );
        assert!(two.headers().is_err());
        assert_eq!(Usage::unmeasured().check(Span::ZERO, 0, Span::ZERO), Ok(()));
    }

    #[test]
    fn shapes_are_refused_where_they_are_wrong() {
        assert_eq!(devices(DEVICES_MAX).validate(), Ok(()));
        assert_eq!(
            devices(DEVICES_MAX + 1).validate(),
            Err(InputError::TooLong { field: "devices", len: DEVICES_MAX + 1, max: DEVICES_MAX })
        );
        let twice = devices(DEVICES_MAX - 1).and_gpu(SECOND, "GPU-0");
        assert_eq!(twice.validate(), Err(InputError::Repeated { field: "devices" }));
        for (name, at) in [("GPU 1", 3), ("a,b", 1), ("é", 0), ("a\r\nx-evil: 1", 1), ("\u{7f}", 0)] {
            let usage = Usage::gpu(SECOND, name);
            assert_eq!(usage.validate(), Err(InputError::Character { field: "device", at }), "{name:?}");
            assert!(usage.headers().is_err());
        }
        assert_eq!(Usage::gpu(SECOND, "").validate(), Err(InputError::Empty { field: "device" }));
        assert_eq!(Usage::gpu(SECOND, "x".repeat(DEVICE_LEN_MAX)).validate(), Ok(()));
        assert!(Usage::gpu(SECOND, "x".repeat(DEVICE_LEN_MAX + 1)).validate().is_err());
        assert_eq!(Usage::gpu(SECOND, "MIG-GPU-8f2c/1/0").validate(), Ok(()));
    }

    #[test]
    fn headers_carry_canonical_decimals() {
        for (nanos, text) in [(1_500_000_000, "1.5"), (50_000_000, "0.05"), (1, "0.000000001"), (0, "0")] {
            assert_eq!(Usage::gpu(GpuNanos::from_nanos(nanos), "g").headers().unwrap()[0].1, text);
        }
        assert_eq!(Usage::unmeasured().headers(), Ok(Vec::new()));
    }

    #[test]
    fn usage_survives_json_and_postcard() {
        for count in [0, 1, 2, DEVICES_MAX] {
            let usage = devices(count);
            let json = serde_json::to_string(&usage).unwrap();
            assert_eq!(serde_json::from_str::<Usage<'static>>(&json).unwrap(), usage);
            let bytes = postcard::to_allocvec(&usage).unwrap();
            assert_eq!(postcard::from_bytes::<Usage<'static>>(&bytes).unwrap(), usage);
        }
        assert_eq!(serde_json::to_string(&devices(1)).unwrap(), r#"[{"device":"GPU-0","gpu_ns":1000000000}]"#);
        let too_many = serde_json::to_string(&devices(DEVICES_MAX + 1)).unwrap();
        assert!(serde_json::from_str::<Usage<'static>>(&too_many).is_err());
    }

    #[test]
    fn one_device_needs_no_allocation() {
        let usage = Usage::gpu(SECOND, "GPU-8f2c");
        assert!(matches!(usage.first, Some(DeviceUsage { device: Cow::Borrowed(_), .. })));
        assert_eq!(usage.rest.capacity(), 0);
    }
}
