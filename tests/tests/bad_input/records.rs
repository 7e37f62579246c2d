//! Records of a log as bytes: cut, changed, made up, and with lengths that nobody could hold.

use std::fs;

use libgateway::error::CommandError;
use libgateway::{Command, Entry, Gateway, GatewayConfig, JobId, Output, Timestamp, Usage};
use libgateway_tests::kit::{DEV, START, job};
use libgateway_tests::rng::{Rng, seed};

use crate::lines::Lines;

/// An entry of each shape that carries a list, a text or bytes.
fn entries() -> Vec<Entry<'static>> {
    let lease = libgateway::LeaseId::from_u64(1);
    let usage = Usage::gpu(libgateway::GpuNanos::from_secs(1), "GPU-1");
    let commands = [
        Command::Submit(job(1, "acme", DEV).payload("body").affinity("lora").idempotency_key("key")),
        Command::DispatchTo { backend: "gpu-1".into(), max: 3 },
        Command::Complete { lease, output: Output::inline(b"pixels"), usage },
        Command::Cancel { job: JobId::from_entropy(1), usage: Usage::unmeasured() },
        Command::All(Vec::new()),
        Command::PutBackend(libgateway_tests::kit::flux_model("gpu-1", "dev").label("region", "eu")),
        Command::PutPrices(libgateway::PriceBook::new(1, "EUR").unwrap().price("*", "*", 7).unwrap()),
    ];
    commands.into_iter().map(|command| Entry::new(START, command)).collect()
}

#[test]
fn a_record_cut_anywhere_or_with_a_byte_too_many_is_no_command() {
    for entry in entries() {
        let bytes = entry.to_bytes();
        assert_eq!(Entry::from_bytes(&bytes).as_ref(), Ok(&entry));
        for len in 0..bytes.len() {
            assert_eq!(Entry::from_bytes(&bytes[..len]), Err(CommandError::BadBytes), "{len} bytes of {entry:?}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Entry::from_bytes(&longer), Err(CommandError::BadBytes));
    }
}

#[test]
fn random_and_changed_records_make_neither_a_panic_nor_a_broken_invariant() {
    let seed = seed(3);
    println!("GATEWAY_SEED={seed}");
    let (mut lines, mut chance) = (Lines::new(seed), Rng::new(seed));
    let (mut line, mut understood) = (Vec::new(), 0);
    let mut gateway = Gateway::new(lines.config(), START).unwrap();
    for number in 0..RECORDS {
        let mut bytes = Vec::new();
        if chance.one_in(4) {
            bytes.extend((0..chance.below(60)).map(|_| chance.bits() as u8));
        } else {
            lines.line(&mut line);
            let text = String::from_utf8_lossy(&line);
            let Ok(entry) = Entry::from_json(&text) else { continue };
            bytes = entry.to_bytes();
            for _ in 0..chance.below(4) {
                let at = chance.below(bytes.len() as u64) as usize;
                match chance.below(4) {
                    0 => bytes[at] = chance.bits() as u8,
                    1 => bytes[at] ^= 1 << chance.below(8),
                    2 => bytes.insert(at, chance.bits() as u8),
                    _ => _ = bytes.splice(at..=at, hostile_length(&mut chance)),
                }
            }
        }
        if let Ok(entry) = Entry::from_bytes(&bytes) {
            understood += 1;
            assert_eq!(Entry::from_bytes(&entry.to_bytes()).as_ref(), Ok(&entry));
            _ = gateway.apply(entry);
        }
        if number % 64 == 0 {
            gateway.check_invariants();
        }
        if number % 2_000 == 0 {
            gateway = Gateway::new(lines.config(), START).unwrap();
        }
    }
    assert!(understood > RECORDS / 20, "{understood} of {RECORDS} records were commands");
}

/// A length of many bytes that announces more than there is memory for.
fn hostile_length(chance: &mut Rng) -> Vec<u8> {
    let bits = 28 + chance.below(36);
    let mut number = u64::MAX >> (64 - bits);
    let mut bytes = Vec::new();
    while number > 127 {
        bytes.push(number as u8 | 128);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[test]
fn a_length_that_nobody_could_hold_takes_no_memory() {
    // A list says how long it is before it comes. Whoever takes that as a promise and makes room is killed by ten bytes.
    let Some(before) = memory_peak() else { return skip("memory of hostile records (no /proc/self/status)") };
    let mut chance = Rng::new(1);
    for entry in entries() {
        let bytes = entry.to_bytes();
        for at in 0..bytes.len() {
            for _ in 0..20 {
                let mut hostile = bytes.clone();
                hostile.splice(at..=at, hostile_length(&mut chance));
                _ = Entry::from_bytes(&hostile);
                // With much behind it, as a sender would do who wants the length to be believed.
                hostile.resize(hostile.len() + 4_096, 0);
                _ = Entry::from_bytes(&hostile);
            }
        }
    }
    let mut snapshot = Gateway::new(GatewayConfig::default(), Timestamp::EPOCH).unwrap().snapshot();
    snapshot[6..14].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(Gateway::replica(&snapshot).is_err());
    let grown = memory_peak().unwrap() - before;
    assert!(grown < 1 << 30, "the address space grew by {grown} bytes");
}

/// The most address space this process ever had, in bytes.
fn memory_peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1_024)
}

/// Says at the end of `make test` that something could not be checked here.
fn skip(what: &str) {
    use std::io::Write;
    println!("skipped: {what}");
    let Ok(path) = std::env::var("GATEWAY_SKIPPED") else { return };
    let file = fs::OpenOptions::new().create(true).append(true).open(path);
    _ = file.and_then(|mut file| writeln!(file, "skipped: {what}"));
}

const RECORDS: u64 = 200_000;
