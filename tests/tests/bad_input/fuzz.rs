//! A million lines of anything: no panic, no broken invariant, no refusal that changed something.

use libgateway::{Digest, Entry, Gateway, Reply, Timestamp};
use libgateway_tests::kit::START;
use libgateway_tests::rng::seed;

use crate::lines::Lines;

/// Says where a run was when it panicked, so that the same seed and line come again.
struct Whereabouts {
    seed: u64,
    number: u64,
    line: Vec<u8>,
}

impl Drop for Whereabouts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let line = String::from_utf8_lossy(&self.line);
            eprintln!("GATEWAY_SEED={} line {}: {line}", self.seed, self.number);
        }
    }
}

/// What came of the lines of a run.
#[derive(Debug, Default)]
struct Tally {
    lines: u64,
    not_text: u64,
    not_commands: u64,
    refused: u64,
    done: u64,
    leases: u64,
    ended: u64,
    forgotten: u64,
}

#[test]
fn a_million_random_lines_make_neither_a_panic_nor_a_broken_invariant() {
    let seed = seed(20);
    println!("GATEWAY_SEED={seed}");
    let mut place = Whereabouts { seed, number: 0, line: Vec::new() };
    let mut lines = Lines::new(seed);
    let mut tally = Tally::default();
    while tally.lines < LINES {
        // Each gateway has other limits, and none lives for ever at the end of time.
        let mut gateway = Gateway::new(lines.config(), START).unwrap();
        assert_eq!(gateway.apply(Entry::from_json(&lines.first_backend()).unwrap()), Reply::Done {});
        for _ in 0..LINES_PER_GATEWAY {
            lines.line(&mut place.line);
            place.number += 1;
            step(&mut gateway, &mut lines, &place, &mut tally);
        }
        gateway.check_invariants();
        let stats = gateway.stats().counters;
        tally.leases += stats.leases;
        tally.ended += stats.completed + stats.errors + stats.cancelled;
        tally.forgotten += stats.forgotten;
    }
    println!("{tally:?}");
    // The run says something only if much of it was understood, and all kinds of things happened.
    assert_eq!(tally.lines, LINES);
    assert!(tally.done > LINES / 4 && tally.refused > LINES / 20 && tally.not_commands > LINES / 20, "{tally:?}");
    assert!(tally.leases > LINES / 100 && tally.ended > LINES / 100 && tally.forgotten > LINES / 1_000, "{tally:?}");
}

fn step(gateway: &mut Gateway, lines: &mut Lines, place: &Whereabouts, tally: &mut Tally) {
    tally.lines += 1;
    let Ok(text) = std::str::from_utf8(&place.line) else {
        tally.not_text += 1;
        return;
    };
    let entry = match Entry::from_json(text) {
        Ok(entry) => entry,
        Err(error) => {
            assert!(error.to_string().chars().count() <= 1_000);
            tally.not_commands += 1;
            return;
        }
    };
    let looked_at = place.number % 32 == 0;
    if looked_at {
        // An entry that can be read can be written, and reads the same.
        assert_eq!(Entry::from_json(&entry.to_json()).as_ref(), Ok(&entry));
        assert_eq!(Entry::from_bytes(&entry.to_bytes()).as_ref(), Ok(&entry));
    }
    let before = looked_at.then(|| settle(gateway, entry.now));
    let reply = gateway.apply(entry);
    note(&reply, lines);
    match reply.error() {
        Some(error) => {
            tally.refused += 1;
            assert!(error.message.chars().count() <= 1_000 && !error.name.is_empty());
            if let Some(before) = before {
                assert_eq!(gateway.digest(), before, "{reply:?} changed something");
            }
        }
        None => tally.done += 1,
    }
    if looked_at {
        gateway.check_invariants();
        let text = reply.to_json();
        assert!(text.starts_with('{') && !text.contains('\n'), "{text}");
    }
    if place.number % 4_096 == 0 {
        let copy = Gateway::replica(&gateway.snapshot()).unwrap();
        copy.check_invariants();
        assert_eq!(copy.digest(), gateway.digest());
    }
}

/// Handles time until there is no more to handle: what a command changes after that, it changes by itself.
fn settle(gateway: &mut Gateway, now: Timestamp) -> Digest {
    let mut digest = gateway.digest();
    loop {
        gateway.advance(now);
        let later = gateway.digest();
        if later == digest {
            return digest;
        }
        digest = later;
    }
}

/// Lets the grammar know which leases and batches there are.
fn note(reply: &Reply, lines: &mut Lines) {
    match reply {
        Reply::Leased(lease) => lines.leases = lines.leases.max(lease.id.as_u64()),
        Reply::Leases(leases) => leases.iter().for_each(|lease| lines.leases = lines.leases.max(lease.id.as_u64())),
        Reply::Settlements(Some(taken)) => lines.batch = Some(taken.batch),
        Reply::All(replies) => replies.iter().for_each(|reply| note(reply, lines)),
        Reply::First { reply, .. } => note(reply, lines),
        _ => {}
    }
}

const LINES: u64 = 1_000_000;
const LINES_PER_GATEWAY: u64 = 2_000;
