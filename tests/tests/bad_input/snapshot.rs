//! Snapshots that were cut, changed or made up.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use libgateway::error::SnapshotError;
use libgateway::{
    BackoffConfig, CircuitBreakerConfig, CustomerPolicy, Failure, FailureClass, ForcedState, Gateway, GatewayConfig,
    GpuNanos, Output, PriceBook, Priority, RateLimit, Span, Timeouts, Usage,
};
use libgateway_tests::kit::{DEV, Rig, SCHNELL, WAN, flux, flux_model, job, route, secs, wan};
use libgateway_tests::rng::{Rng, seed};

/// A gateway in which a bit of everything is going on.
fn busy() -> Gateway {
    let breaker = CircuitBreakerConfig::default().consecutive_failures(NonZeroU32::new(1));
    let config = GatewayConfig::default()
        .age_after(Some(secs(1_000)))
        .breaker(breaker)
        .backoff(BackoffConfig::default().base(secs(50)))
        .timeouts(Timeouts { queue: Some(secs(5_000)), ..Timeouts::NONE })
        .jobs_max(100);
    let mut rig = Rig::new(config);
    rig.put(flux("gpu-1").slots(3).warm_max(2).label("region", "eu"));
    rig.put(flux_model("gpu-2", "dev").slots(2).lease_for(secs(77)));
    rig.put(wan("wan-1"));
    rig.put(wan("wan-2"));
    let prices = PriceBook::new(3, "EUR").unwrap().price("flux/dev", "*", 1_000).unwrap();
    rig.gateway.put_prices(rig.now, prices.price("*", "gold", 7).unwrap()).unwrap();
    let slow = CustomerPolicy::default().rate(RateLimit::new(1, secs(60), 2).unwrap()).weight(3).tier("gold");
    rig.gateway.put_customer(rig.now, "slow", slow).unwrap();
    rig.gateway.put_customer(rig.now, "capped", CustomerPolicy::default().running_max(1)).unwrap();
    for number in 0..24 {
        let (customer, way) = (["acme", "slow", "capped"][number % 3], [DEV, SCHNELL, WAN][number % 2]);
        let priority = [Priority::Low, Priority::Normal, Priority::Normal, Priority::High][number % 4];
        let mut own = job(number as u128, customer, way).payload("body").priority(priority);
        own = own.estimate(GpuNanos::from_secs(1 + number as u64 % 4));
        if number % 5 == 0 {
            own = own.affinity("lora-1").idempotency_key(format!("key-{number}"));
        }
        rig.submit(own);
    }
    rig.pass(secs(3));
    let leases = rig.leases();
    assert!(leases.len() >= 4, "{leases:?}");
    rig.pass(secs(2));
    let usage = Usage::gpu(GpuNanos::from_secs(1), "GPU-8f2c");
    rig.gateway.complete(rig.now, leases[0].id, Output::url("https://cdn/1"), usage).unwrap();
    rig.fail(&leases[1], FailureClass::Timeout);
    rig.gateway.fail(rig.now, leases[2].id, Failure::new(FailureClass::Rejected, "no"), Usage::unmeasured()).unwrap();
    rig.cancel(leases[3].job);
    let taken = rig.gateway.take_settlements(rig.now, 2).unwrap();
    rig.gateway.return_settlements(rig.now, taken.batch).unwrap();
    rig.gateway.take_settlements(rig.now, 1).unwrap();
    rig.leases();
    rig.submit(job(90, "late", WAN));
    rig.gateway.pause(rig.now, &route(WAN)).unwrap();
    rig.gateway.remove_backend(rig.now, "gpu-2").unwrap();
    rig.gateway.force_breaker(rig.now, "wan-1", Some(ForcedState::Open), Some(rig.now + secs(40))).unwrap();
    rig.check();
    let stats = rig.gateway.stats();
    assert!(stats.queued > 5 && stats.running > 0 && stats.unconfirmed > 2, "{stats:?}");
    rig.gateway
}

/// The bytes of a snapshot with another body, sealed as a snapshot is.
fn seal(snapshot: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = snapshot[..14].to_vec();
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(&[0; 4]);
    let digest: [u8; 32] = Blake2b::<U32>::digest(&bytes).into();
    bytes.extend_from_slice(&digest);
    bytes
}

/// The body, which is in one frame: no state here is longer.
fn body(snapshot: &[u8]) -> &[u8] {
    assert_eq!(snapshot[14..18], (snapshot.len() as u32 - 54).to_le_bytes());
    &snapshot[18..snapshot.len() - 36]
}

fn refusal(bytes: &[u8]) -> SnapshotError {
    Gateway::replica(bytes).err().unwrap()
}

#[test]
fn a_snapshot_cut_anywhere_is_told_as_truncated() {
    let snapshot = busy().snapshot();
    for len in 0..snapshot.len() {
        assert_eq!(refusal(&snapshot[..len]), SnapshotError::Truncated, "{len} of {}", snapshot.len());
    }
    assert!(Gateway::replica(&snapshot).is_ok());
}

#[test]
fn a_snapshot_with_any_byte_changed_is_refused() {
    let mut snapshot = busy().snapshot();
    let last = snapshot.len() - 1;
    for at in 0..=last {
        for bit in [0, 7] {
            snapshot[at] ^= 1 << bit;
            let told = refusal(&snapshot);
            let expected = match at {
                0..=3 => told == SnapshotError::NotASnapshot,
                4 | 5 => matches!(told, SnapshotError::NewerVersion { .. } | SnapshotError::NotASnapshot),
                // Lengths of frames.
                14..=17 => matches!(told, SnapshotError::Truncated | SnapshotError::Altered),
                at if at + 36 > last && at + 32 <= last => {
                    matches!(told, SnapshotError::Truncated | SnapshotError::Altered)
                }
                _ => told == SnapshotError::Altered,
            };
            assert!(expected, "byte {at} bit {bit}: {told:?}");
            snapshot[at] ^= 1 << bit;
        }
    }
    snapshot.push(0);
    assert_eq!(refusal(&snapshot), SnapshotError::Altered);
}

#[test]
fn a_snapshot_of_a_newer_library_says_so_whatever_is_in_it() {
    let snapshot = busy().snapshot();
    for version in [2_u16, 255, 256, u16::MAX] {
        let mut newer = snapshot.clone();
        newer[4..6].copy_from_slice(&version.to_le_bytes());
        let sealed = seal(&newer, b"nobody here can read this");
        assert_eq!(refusal(&sealed), SnapshotError::NewerVersion { version, known: 1 });
    }
    let mut none = snapshot;
    none[4..6].copy_from_slice(&0_u16.to_le_bytes());
    assert_eq!(refusal(&none), SnapshotError::NotASnapshot);
}

#[test]
fn a_snapshot_sealed_over_another_body_is_refused_or_restored_whole() {
    // The seal is no secret, so anybody can seal anything. What is let in has to be a gateway: all its invariants hold,
    // now and while it works on.
    let seed = seed(7);
    println!("GATEWAY_SEED={seed}");
    let mut chance = Rng::new(seed);
    let snapshot = busy().snapshot();
    let (mut restored, mut corrupt) = (0, 0);
    let mut failures = Vec::new();
    for round in 0..ROUNDS {
        let mut forged = body(&snapshot).to_vec();
        let changes = 1 + chance.below(2);
        for _ in 0..changes {
            forge(&mut chance, &mut forged);
        }
        let sealed = seal(&snapshot, &forged);
        let outcome = catch_unwind(AssertUnwindSafe(|| match Gateway::replica(&sealed) {
            Ok(gateway) => {
                gateway.check_invariants();
                work_on(gateway, round % 4 == 0);
                true
            }
            Err(error) => {
                assert!(matches!(error, SnapshotError::Corrupt { .. }), "{error:?}");
                false
            }
        }));
        match outcome {
            Ok(true) => restored += 1,
            Ok(false) => corrupt += 1,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                failures.push(text.unwrap_or_default());
            }
        }
    }
    failures.sort();
    failures.dedup();
    println!("{restored} restored, {corrupt} corrupt");
    assert!(failures.is_empty(), "seed {seed}: {failures:#?}");
    assert!(restored > ROUNDS / 50 && corrupt > ROUNDS / 4, "{restored} restored, {corrupt} corrupt");
}

/// Changes a few bytes, mostly to what numbers are at their ends.
fn forge(chance: &mut Rng, body: &mut Vec<u8>) {
    let at = chance.below(body.len() as u64) as usize;
    match chance.below(8) {
        0 => {
            body.remove(at);
        }
        1 => body.insert(at, chance.bits() as u8),
        2 => body[at] = chance.bits() as u8,
        3 => body[at] ^= 1 << chance.below(8),
        4 => body[at] = body[at].wrapping_add(1),
        5 => body[at] = body[at].wrapping_sub(1),
        _ => {
            // The number that begins or goes on here, as long as it is, for one at the end of its range.
            let end = at + body[at..].iter().take_while(|byte| **byte & 128 != 0).count() + 1;
            let number = *chance.pick(&[0, 1, 2, 127, 1 << 14, u64::from(u32::MAX), 1 << 63, u64::MAX - 1, u64::MAX]);
            let number = number >> chance.below(2);
            body.splice(at..end.min(body.len()), varint(number));
        }
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 127 {
        bytes.push(number as u8 | 128);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Everything a restored gateway may be asked for.
fn work_on(mut gateway: Gateway, thorough: bool) {
    let now = gateway.now();
    let copy = Gateway::replica(&gateway.snapshot()).unwrap();
    assert_eq!(copy.digest(), gateway.digest(), "a restored gateway can be restored");
    for number in 0..3 {
        _ = gateway.submit(now, job(200 + number, "acme", [DEV, SCHNELL, WAN][number as usize]));
    }
    for _ in 0..4 {
        let Some(lease) = gateway.dispatch(now).lease() else { break };
        _ = gateway.complete(now, lease.id, Output::url("u"), Usage::unmeasured());
    }
    for number in 0..30 {
        let id = libgateway_tests::kit::id(number);
        _ = (gateway.explain(id), gateway.job(id), gateway.position(id));
        if number % 3 == 0 {
            _ = gateway.cancel(now, id);
        }
    }
    _ = gateway.backends();
    if thorough {
        gateway.check_invariants();
        for span in [Span::from_secs(60), Span::from_secs(3_600), Span::from_secs(86_400), Span::MAX] {
            gateway.accept_clock(now + span);
            while gateway.dispatch(now + span).lease().is_some() {}
        }
        gateway.check_invariants();
    }
}

const ROUNDS: u64 = 6_000;
