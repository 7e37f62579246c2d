//! Numbers that name something name it for ever, also in a gateway that goes on from an older snapshot; and keys, results and
//! logs outlive what they were made for.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test expects and does not get ends the test")]

use std::collections::BTreeMap;

use libgateway::error::{CommandError, LeaseError, OutboxError, SnapshotError, SubmitError};
use libgateway::{
    Abort, Batch, Command, Entry, Epoch, Gateway, GatewayConfig, GpuNanos, JobId, JobState, Outcome, Output, Reply,
    Settlement, Span, Timestamp, Usage, Watch, WatchEvent, WatchStep,
};
use libgateway_tests::kit::{DEV, Rig, START, id, job, secs};
use libgateway_tests::rng::{Rng, seed};

fn complete(
    gateway: &mut Gateway,
    now: Timestamp,
    lease: libgateway::LeaseId,
    picture: &str,
) -> Result<(), LeaseError> {
    gateway.complete(now, lease, Output::url(picture), Usage::unmeasured()).map(|_| ())
}

#[test]
fn a_worker_the_gateway_does_not_remember_ends_nobody_elses_job() {
    // A snapshot; lease 1 to alice; a crash, and the gateway of the snapshot gives bob's job the next lease. Alice's worker
    // delivers. Bob got her picture.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    let snapshot = rig.gateway.snapshot();
    rig.submit(job(1, "alice", DEV));
    let alice = rig.lease();
    assert_eq!(alice.id.as_u64(), 1);

    for entropy in [0, 1, u64::MAX] {
        let mut restored = Gateway::restore(&snapshot, rig.now, entropy).unwrap();
        restored.submit(rig.now, job(2, "bob", DEV)).unwrap();
        let bob = restored.dispatch(rig.now).lease().unwrap();
        assert_ne!(bob.id, alice.id);
        let late = complete(&mut restored, rig.now, alice.id, "alice.webp");
        assert_eq!(late, Err(LeaseError::Superseded { lease: 1 }));
        assert_eq!(restored.job(id(2)).map(|job| job.state), Some(JobState::Running));
        complete(&mut restored, rig.now, bob.id, "bob.webp").unwrap();
        assert_eq!(restored.outcome(id(2)), Some(&Outcome::Complete(Output::url("bob.webp"))));
        let next = libgateway::LeaseId::from_u64(bob.id.as_u64() + 1);
        assert!(matches!(restored.heartbeat(rig.now, next), Err(LeaseError::UnknownLease { .. })));
        restored.check_invariants();
    }
}

#[test]
fn a_lease_the_snapshot_knows_lives_on_and_has_time_for_one_heartbeat() {
    for nights in [0, 2 * 3_600, 5 * 86_400] {
        let mut rig = Rig::with_slots(GatewayConfig::default().lease_for(secs(60)), 1);
        rig.submit(job(1, "acme", DEV));
        let lease = rig.lease();
        let snapshot = rig.gateway.snapshot();
        let now = rig.now + secs(nights);
        let mut restored = Gateway::restore(&snapshot, now, 7).unwrap();
        assert_eq!(restored.now(), now, "the reading is believed");
        let later = now + secs(59);
        restored.advance(later);
        assert!(restored.heartbeat(later, lease.id).is_ok(), "{nights} s later");
        complete(&mut restored, later, lease.id, "1.webp").unwrap();
        restored.check_invariants();
    }
}

#[test]
fn no_two_lives_from_one_snapshot_give_out_a_number_twice() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 8);
    for number in 0..8 {
        rig.submit(job(number, "acme", DEV));
    }
    let snapshot = rig.gateway.snapshot();
    let mut leases = BTreeMap::new();
    for life in 0..200 {
        let mut restored = Gateway::restore(&snapshot, rig.now, life).unwrap();
        while let Some(lease) = restored.dispatch(rig.now).lease() {
            let other = leases.insert(lease.id, life);
            assert_eq!(other, None, "{:?} was given out twice", lease.id);
            assert!(lease.id.as_u64() < 1 << 53, "JSON keeps every digit");
        }
    }
    assert_eq!(leases.len(), 1_600);
}

#[test]
fn late_workers_of_lives_that_were_lost_never_end_anothers_job() {
    let seed = seed(5);
    println!("GATEWAY_SEED={seed}");
    let mut chance = Rng::new(seed);
    let mut rig = Rig::with_slots(GatewayConfig::default().lease_for(secs(30)), 4);
    let (mut kept, mut works, mut next) = (rig.gateway.snapshot(), Vec::new(), 0);
    let (mut taken, mut superseded) = (0, 0);
    for _ in 0..3_000 {
        match chance.below(12) {
            0..=2 => {
                // Ids come from dice, so a life that forgot a job never meets its id again.
                next += 1;
                rig.submit(job(next, "acme", DEV));
            }
            3..=5 => works.extend(rig.gateway.dispatch(rig.now).lease().map(|lease| (lease.id, lease.job))),
            6..=8 if !works.is_empty() => {
                // Workers answer late, twice, and of whatever life they are; what they made says for whom.
                let recent = chance.below(12.min(works.len() as u64)) as usize;
                let (lease, own) = works[works.len() - 1 - recent];
                match complete(&mut rig.gateway, rig.now, lease, &own.to_string()) {
                    Ok(()) => {
                        taken += 1;
                        assert_eq!(rig.gateway.outcome(own), Some(&Outcome::Complete(Output::url(own.to_string()))));
                    }
                    Err(LeaseError::Superseded { .. }) => superseded += 1,
                    Err(other) => panic!("{other:?}"),
                }
            }
            9 => _ = rig.pass(Span::from_millis(chance.below(5_000))),
            10 if chance.one_in(10) => kept = rig.gateway.snapshot(),
            11 if chance.one_in(10) => {
                rig.gateway = Gateway::restore(&kept, rig.now, chance.bits()).unwrap();
                rig.check();
            }
            _ => {}
        }
    }
    rig.check();
    assert!(taken > 100 && superseded > 100, "{taken} taken, {superseded} superseded");
    for number in 1..=next {
        if let Some(Outcome::Complete(output)) = rig.gateway.outcome(id(number)) {
            assert_eq!(*output, Output::url(id(number).to_string()), "somebody else's picture");
        }
    }
}

/// What a host keeps of the settlements it gets, by the rule of [`Settlement`].
#[derive(Default)]
struct Ledger {
    numbers: BTreeMap<(Epoch, u64), JobId>,
    jobs: BTreeMap<JobId, (Epoch, u64)>,
}

impl Ledger {
    fn take(&mut self, own: &Settlement) {
        let number = (own.epoch, own.number);
        if let Some(job) = self.numbers.get(&number) {
            assert_eq!(*job, own.job, "{number:?} is two settlements");
            return;
        }
        if self.jobs.get(&own.job).is_some_and(|(epoch, _)| *epoch != own.epoch) {
            return;
        }
        self.numbers.insert(number, own.job);
        assert_eq!(self.jobs.insert(own.job, number), None, "{} is charged twice", own.job);
    }
}

#[test]
fn a_host_that_drops_what_it_has_loses_no_money_and_takes_none_twice() {
    let seed = seed(11);
    println!("GATEWAY_SEED={seed}");
    let mut chance = Rng::new(seed);
    let mut rig = Rig::with_slots(GatewayConfig::default().lease_for(secs(20)), 3);
    let (mut ledger, mut ended) = (Ledger::default(), BTreeMap::new());
    let mut kept = rig.gateway.snapshot();
    let mut lost: Vec<Batch> = Vec::new();
    for number in 0..600 {
        rig.submit(job(number, "acme", DEV));
        while let Some(lease) = rig.gateway.dispatch(rig.now).lease() {
            if chance.one_in(10) {
                break;
            }
            complete(&mut rig.gateway, rig.now, lease.id, "x").unwrap();
            ended.insert(lease.job, ());
        }
        rig.pass(secs(1));
        if chance.one_in(4) {
            if let Some(taken) = rig.gateway.take_settlements(rig.now, 1 + chance.below(5) as u32) {
                taken.settlements.iter().for_each(|own| ledger.take(own));
                match chance.below(3) {
                    0 => _ = rig.gateway.confirm_settlements(rig.now, taken.batch).unwrap(),
                    1 => lost.push(taken.batch),
                    _ => {}
                }
            }
        }
        if chance.one_in(5) {
            // A confirmation from before a crash, perhaps of a batch this life never handed out.
            if let Some(batch) = lost.pop() {
                _ = rig.gateway.confirm_settlements(rig.now, batch);
            }
        }
        match chance.below(12) {
            0 => kept = rig.gateway.snapshot(),
            1 => {
                rig.gateway = Gateway::restore(&kept, rig.now, chance.bits()).unwrap();
                rig.check();
                // What the host did not get of a job that the gateway forgot, it did not get: only what it was told counts.
                ended.retain(|job, ()| {
                    ledger.jobs.contains_key(job) || rig.gateway.job(*job).is_some_and(|job| job.outcome.is_some())
                });
            }
            _ => {}
        }
    }
    while let Some(taken) = rig.gateway.take_settlements(rig.now, 100) {
        taken.settlements.iter().for_each(|own| ledger.take(own));
        rig.gateway.confirm_settlements(rig.now, taken.batch).unwrap();
    }
    for job in ended.keys() {
        assert!(ledger.jobs.contains_key(job), "{job} was never paid");
    }
    assert!(ended.len() > 100, "{}", ended.len());
}

#[test]
fn a_correction_says_over_restarts_which_entry_it_corrects_and_is_known_when_it_comes_again() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.pass(secs(3));
    complete(&mut rig.gateway, rig.now, lease.id, "1.webp").unwrap();
    let taken = rig.gateway.take_settlements(rig.now, 9).unwrap();
    rig.gateway.confirm_settlements(rig.now, taken.batch).unwrap();
    let first = taken.settlements[0].clone();

    let now = rig.now;
    let tell = |snapshot: &[u8], entropy: u64, millis: u64| {
        let mut life = Gateway::restore(snapshot, now, entropy).unwrap();
        let usage = Usage::gpu(GpuNanos::from_millis(millis), "GPU-1");
        let number = life.correct_usage(now, lease.id, usage).unwrap().settlement;
        let taken = life.take_settlements(now, 9).unwrap();
        life.confirm_settlements(now, taken.batch).unwrap();
        let own = taken.settlements[0].clone();
        assert_eq!((Some(own.number), own.epoch), (number, life.epoch()));
        life.check_invariants();
        (life.snapshot(), own)
    };
    let names = |own: &Settlement| {
        own.correction.map(|own| (own.corrects_epoch, own.corrects, own.lease, own.revision)).unwrap()
    };
    // One life is lost after the host got its entry, and the next one is told the same.
    let snapshot = rig.gateway.snapshot();
    let (_, lost) = tell(&snapshot, 1, 2_800);
    let (snapshot, again) = tell(&snapshot, 2, 2_800);
    assert_eq!(names(&lost), (first.epoch, first.number, lease.id, 1));
    assert_eq!(names(&again), names(&lost), "of the two a host takes one");
    assert_ne!(again.epoch, lost.epoch);
    // What follows is another one, in whichever life.
    let (_, next) = tell(&snapshot, 3, 2_500);
    assert_eq!(names(&next), (first.epoch, first.number, lease.id, 2));
    let back = |own: &Settlement| own.correction.unwrap().usage_credit.as_nanos();
    assert_eq!(first.usage.as_nanos() - back(&lost) - back(&next), GpuNanos::from_millis(2_500).as_nanos());
}

#[test]
fn of_two_lives_that_were_told_otherwise_of_a_lease_the_later_word_stands() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease().id;
    rig.pass(secs(3));
    complete(&mut rig.gateway, rig.now, lease, "1.webp").unwrap();
    let first = rig.settlements().remove(0);
    let snapshot = rig.gateway.snapshot();
    let mut books: BTreeMap<u32, (Epoch, u64)> = BTreeMap::new();
    for (entropy, told) in [(1, &[2_800, 2_600, 2_900][..]), (2, &[2_500][..]), (3, &[1_000, 2_000][..])] {
        rig.gateway = Gateway::restore(&snapshot, rig.now, entropy).unwrap();
        for millis in told {
            let usage = Usage::gpu(GpuNanos::from_millis(*millis), "GPU-1");
            rig.gateway.correct_usage(rig.now, lease, usage).unwrap();
        }
        for own in rig.settlements() {
            let correction = own.correction.unwrap();
            assert_eq!((correction.corrects, correction.lease), (first.number, lease));
            // What an older life said from that revision on makes room.
            if books.get(&correction.revision).is_some_and(|(epoch, _)| *epoch != own.epoch) {
                drop(books.split_off(&correction.revision));
            }
            let change = own.usage.as_nanos().wrapping_sub(correction.usage_credit.as_nanos());
            books.insert(correction.revision, (own.epoch, change));
        }
        let stands = books.values().fold(first.usage.as_nanos(), |sum, (_, change)| sum.wrapping_add(*change));
        assert_eq!(stands, GpuNanos::from_millis(*told.last().unwrap()).as_nanos());
    }
}

#[test]
fn a_confirmation_of_a_batch_of_another_life_lets_go_of_nothing() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    let snapshot = rig.gateway.snapshot();
    rig.submit(job(1, "alice", DEV));
    rig.cancel(id(1));
    let alice = rig.gateway.take_settlements(rig.now, 10).unwrap();
    let mut restored = Gateway::restore(&snapshot, rig.now, 5).unwrap();
    restored.submit(rig.now, job(2, "bob", DEV)).unwrap();
    restored.cancel(rig.now, id(2)).unwrap();
    let unknown = OutboxError::UnknownBatch { batch: alice.batch.id };
    assert_eq!(restored.confirm_settlements(rig.now, alice.batch), Err(unknown), "nothing is out");
    let bob = restored.take_settlements(rig.now, 10).unwrap();
    assert_ne!(bob.batch, alice.batch);
    let old = alice.settlements[0].clone();
    let new = bob.settlements[0].clone();
    assert_eq!((old.number, new.number), (1, 1));
    assert_ne!(old.epoch, new.epoch);
    assert!(restored.confirm_settlements(rig.now, alice.batch).is_err());
    assert_eq!(restored.confirm_settlements(rig.now, bob.batch), Ok(1));
}

#[test]
fn batches_that_were_out_come_back_with_the_numbers_they_had() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    for number in 0..4 {
        rig.submit(job(number, "acme", DEV));
        rig.cancel(id(number));
    }
    let mut out = rig.gateway.take_settlements(rig.now, 3).unwrap();
    for life in 0..20 {
        let mut restored = Gateway::restore(&rig.gateway.snapshot(), rig.now, life).unwrap();
        let superseded = OutboxError::BatchSuperseded { batch: out.batch.id };
        assert_eq!(restored.confirm_settlements(rig.now, out.batch), Err(superseded));
        let again = restored.take_settlements(rig.now, 10).unwrap();
        assert_eq!(again.settlements, out.settlements);
        assert_eq!(again.batch.first_seq, out.batch.first_seq);
        restored.check_invariants();
        (rig.gateway, out) = (restored, again);
    }
    assert_eq!(rig.gateway.confirm_settlements(rig.now, out.batch), Ok(3));
}

#[test]
fn events_of_another_life_are_told_apart() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    let snapshot = rig.gateway.snapshot();
    rig.submit(job(2, "acme", DEV));
    let mut restored = Gateway::restore(&snapshot, rig.now, 5).unwrap();
    restored.submit(rig.now, job(3, "acme", DEV)).unwrap();
    let old = rig.gateway.events_from(2).next().unwrap();
    let new = restored.poll_event().unwrap();
    assert_eq!((old.number, new.number), (2, 2));
    assert_eq!((old.epoch, new.epoch), (Epoch::FIRST, restored.epoch()));
}

/// A gateway that keeps its log.
struct Logged {
    gateway: Gateway,
    log: Vec<Entry<'static>>,
}

impl Logged {
    fn give(&mut self, now: Timestamp, command: Command<'static>) -> Reply {
        let entry = Entry::new(now, command).numbered(self.gateway.commands() + 1);
        self.log.push(entry.clone());
        self.gateway.apply(entry)
    }
}

#[test]
fn a_log_with_restarts_replays_to_the_same_bytes() {
    let seed = seed(3);
    println!("GATEWAY_SEED={seed}");
    let mut chance = Rng::new(seed);
    let mut own = Logged { gateway: Gateway::new(GatewayConfig::default(), START).unwrap(), log: Vec::new() };
    let mut now = START;
    own.give(now, Command::BeginEpoch { entropy: chance.bits() });
    let backend = libgateway_tests::kit::flux("flux-1").slots(4);
    own.give(now, Command::PutBackend(backend));
    for number in 0..300 {
        now += Span::from_millis(chance.below(3_000));
        own.give(now, Command::Submit(job(number, "acme", DEV).idempotency_key(format!("{}", number % 40))));
        if let Reply::Leased(lease) = own.give(now, Command::Dispatch {}) {
            if chance.one_in(2) {
                let (output, usage) = (Output::url("x"), Usage::unmeasured());
                own.give(now, Command::Complete { lease: lease.id, output, usage });
            }
        }
        if chance.one_in(20) {
            // The gateway is gone, and the one of its snapshot goes on; the log shows it as the command it is.
            own.gateway = Gateway::replica(&own.gateway.snapshot()).unwrap();
            now += secs(chance.below(7_200));
            own.give(now, Command::BeginEpoch { entropy: chance.bits() });
        }
    }
    let mut replayed = Gateway::new(GatewayConfig::default(), START).unwrap();
    for (number, entry) in own.log.iter().enumerate() {
        let line = entry.to_json();
        let reply = replayed.apply(Entry::from_json(&line).unwrap());
        assert_ne!(reply.error().map(|error| error.number), Some(1303), "{line}");
        assert_eq!(replayed.commands(), number as u64 + 1);
    }
    assert_eq!(replayed.digest(), own.gateway.digest());
    assert_eq!(replayed.snapshot(), own.gateway.snapshot(), "the number of commands, too");
    assert_eq!(replayed.epoch(), own.gateway.epoch());
}

#[test]
fn restore_is_a_replica_and_one_command() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    let snapshot = rig.gateway.snapshot();
    let restored = Gateway::restore(&snapshot, rig.now, 77).unwrap();
    let mut replica = Gateway::replica(&snapshot).unwrap();
    assert_eq!(replica.digest(), rig.gateway.digest());
    let Reply::Began { epoch } = replica.apply(Entry::new(rig.now, Command::BeginEpoch { entropy: 77 })) else {
        panic!()
    };
    assert_eq!((replica.digest(), epoch), (restored.digest(), restored.epoch()));
    let other = Gateway::restore(&snapshot, rig.now + Span::from_nanos(1), 77).unwrap();
    assert_ne!(other.epoch(), epoch, "the instant counts, too");
}

#[test]
fn a_tail_that_is_applied_twice_is_refused_by_number_and_changes_nothing() {
    let rig = Rig::with_slots(GatewayConfig::default(), 1);
    let snapshot = rig.gateway.snapshot();
    let known = Gateway::commands_in(&snapshot).unwrap();
    assert_eq!(known, rig.gateway.commands());
    let tail: Vec<Entry<'_>> = (0..5)
        .map(|n| Entry::new(rig.now, Command::Submit(job(n, "acme", DEV))).numbered(known + 1 + n as u64))
        .collect();
    let mut standby = Gateway::replica(&snapshot).unwrap();
    for entry in &tail {
        assert!(standby.apply(entry.clone()).error().is_none());
    }
    let (digest, commands) = (standby.digest(), standby.commands());
    assert_eq!(commands, known + 5);
    for (n, entry) in tail.iter().enumerate() {
        // Also an instant far ahead is not looked at.
        let mut entry = entry.clone();
        entry.now += secs(1_000_000);
        let reply = standby.apply(entry);
        let error = reply.error().unwrap();
        assert_eq!((error.number, error.field.as_deref()), (1303, Some("sequence")));
        let expected = CommandError::OutOfSequence { sequence: known + 1 + n as u64, expected: commands + 1 };
        assert_eq!(error.message, expected.to_string());
    }
    let ahead = Entry::new(rig.now, Command::Advance {}).numbered(commands + 2);
    assert_eq!(standby.apply(ahead).error().map(|error| error.number), Some(1303), "one is missing");
    assert_eq!((standby.digest(), standby.commands()), (digest, commands));
}

#[test]
fn every_call_that_takes_the_time_counts_and_no_other() {
    let mut rig = Rig::new(GatewayConfig::default());
    let mut expected = rig.gateway.commands();
    let mut one = |gateway: &Gateway, what: &str| {
        expected += 1;
        assert_eq!(gateway.commands(), expected, "{what}");
    };
    let now = rig.now;
    let gateway = &mut rig.gateway;
    gateway.submit(now, job(1, "acme", "image/none/dev/t2i")).unwrap_err();
    one(gateway, "a refusal");
    _ = gateway.dispatch(now);
    one(gateway, "nothing to do");
    gateway.advance(now);
    one(gateway, "time");
    gateway.accept_clock(now);
    one(gateway, "the clock");
    gateway.begin_epoch(now, 1);
    one(gateway, "a life");
    let aborted: Result<(), Abort> = gateway.transaction(now, |tx| {
        _ = tx.dispatch();
        _ = tx.dispatch();
        Err(Abort::Retry { until: None })
    });
    assert!(aborted.is_err());
    one(gateway, "a transaction taken back");
    gateway.apply(Entry::new(now, Command::Advance {}));
    one(gateway, "data");
    gateway.put_backend(now, libgateway_tests::kit::flux("gpu")).unwrap();
    one(gateway, "the fleet");
    gateway.hold_outcome(id(1));
    gateway.release_outcome(id(1));
    _ = (gateway.poll_event(), gateway.stats(), gateway.snapshot(), gateway.digest(), gateway.next_deadline());
    gateway.advance(now);
    one(gateway, "and nothing in between");
}

#[test]
fn the_digest_does_not_say_how_many_commands_there_were() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    let digest = rig.gateway.digest();
    rig.gateway.cancel(rig.now, id(9)).unwrap_err();
    assert_eq!(rig.gateway.digest(), digest);
}

#[test]
fn slices_are_the_snapshot_and_a_command_in_between_ends_them() {
    let mut rig = Rig::with_slots(GatewayConfig::default().retained_max(500), 3);
    for number in 0..3_000 {
        let payload = vec![b'x'; if number == 700 { 200_000 } else { number as usize % 200 }];
        rig.submit(
            job(number, ["acme", "bolt"][number as usize % 2], DEV)
                .payload(payload)
                .idempotency_key(format!("{number}")),
        );
        if number % 3 == 0 {
            rig.cancel(id(number));
        }
    }
    rig.leases();
    let whole = rig.gateway.snapshot();
    let mut slices = rig.gateway.slices();
    let (mut bytes, mut longest) = (Vec::new(), 0);
    while let Some(slice) = slices.next(&rig.gateway).unwrap() {
        longest = longest.max(slice.len());
        bytes.extend(slice);
        // Events that are fetched and looks at jobs are no command.
        _ = (rig.gateway.poll_event(), rig.gateway.job(id(1)));
    }
    assert!(bytes == whole, "the same bytes");
    assert!(longest <= 65_536 + 64 && whole.len() > 6 * longest, "{longest} of {}", whole.len());
    assert_eq!(slices.next(&rig.gateway), Ok(None), "and nothing after them");
    assert_eq!(Gateway::replica(&bytes).unwrap().digest(), rig.gateway.digest());

    let mut slices = rig.gateway.slices();
    assert!(slices.next(&rig.gateway).unwrap().is_some());
    rig.gateway.cancel(rig.now, id(999_999)).unwrap_err();
    assert_eq!(slices.next(&rig.gateway), Err(SnapshotError::Changed), "a refused one is one");
}

// --- Results ---

#[test]
fn who_holds_an_outcome_gets_it_whatever_is_kept() {
    for (retained_max, bytes) in [(0, u64::MAX), (1, u64::MAX), (100, 0), (100, 3)] {
        let config = GatewayConfig::default().retained_max(retained_max).retained_bytes_max(bytes);
        let mut rig = Rig::with_slots(config, 100);
        let mut watches = Vec::new();
        for number in 0..100 {
            rig.submit(job(number, "acme", DEV));
            rig.gateway.hold_outcome(id(number));
            watches.push(Watch::new(id(number)));
        }
        for (number, lease) in rig.leases().into_iter().enumerate() {
            complete(&mut rig.gateway, rig.now, lease.id, &format!("{number}.webp")).unwrap();
        }
        for (number, watch) in watches.iter_mut().enumerate() {
            let outcome = Outcome::Complete(Output::url(format!("{number}.webp")));
            assert_eq!(rig.gateway.outcome(id(number as u128)), Some(&outcome));
            assert_eq!(watch.poll(&rig.gateway), WatchStep::Event(WatchEvent::Ended(outcome)));
            rig.gateway.release_outcome(id(number as u128));
        }
        rig.check();
        let known = (0..100).filter(|number| rig.gateway.outcome(id(*number)).is_some()).count();
        assert!(known <= retained_max as usize, "{known} are known without anybody who waits");
    }
}

#[test]
fn an_outcome_is_kept_until_the_last_who_waits_has_let_go_and_says_nothing_to_a_command() {
    let mut rig = Rig::with_slots(GatewayConfig::default().retained_max(0), 1);
    rig.submit(job(1, "acme", DEV));
    let mut other = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    (0..2).for_each(|_| rig.gateway.hold_outcome(id(1)));
    rig.cancel(id(1));
    other.cancel(rig.now, id(1)).unwrap();
    assert_eq!(rig.gateway.digest(), other.digest());
    rig.gateway.release_outcome(id(1));
    assert!(rig.gateway.outcome(id(1)).is_some());
    rig.gateway.release_outcome(id(1));
    rig.gateway.release_outcome(id(1));
    assert!(rig.gateway.outcome(id(1)).is_none());
    assert!(other.outcome(id(1)).is_none(), "nobody waited there");
}

#[test]
fn an_end_that_was_taken_back_is_not_kept_for_anybody() {
    let mut rig = Rig::with_slots(GatewayConfig::default().retained_max(0), 1);
    rig.submit(job(1, "acme", DEV));
    rig.gateway.hold_outcome(id(1));
    let aborted: Result<(), Abort> = rig.gateway.transaction(rig.now, |tx| {
        tx.cancel(id(1))?;
        Err(Abort::Retry { until: None })
    });
    assert!(aborted.is_err());
    assert!(rig.gateway.outcome(id(1)).is_none());
    // Ended and deleted in one transaction, it is told all the same.
    let done: Result<(), Abort> = rig.gateway.transaction(rig.now, |tx| {
        tx.cancel(id(1))?;
        tx.delete(id(1))?;
        Ok(())
    });
    assert!(done.is_ok());
    assert!(matches!(rig.gateway.outcome(id(1)), Some(Outcome::Cancelled(_))));
    rig.check();
}

#[test]
fn a_step_that_was_taken_back_is_no_change() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    let before = rig.gateway.changes();
    for _ in 0..10 {
        let aborted: Result<(), Abort> = rig.gateway.transaction(rig.now, |tx| {
            tx.dispatch().or_retry()?;
            tx.dispatch().or_retry()?;
            Ok(())
        });
        assert!(aborted.is_err());
    }
    assert_eq!(rig.gateway.changes(), before);
    let done: Result<(), Abort> = rig.gateway.transaction(rig.now, |tx| tx.dispatch().or_retry().map(|_| ()));
    assert!(done.is_ok());
    assert_eq!(rig.gateway.changes(), before + 1);
}

// --- Keys ---

#[test]
fn a_key_stands_for_its_job_until_the_exact_instant_whatever_became_of_the_record() {
    let config = GatewayConfig::default().retained_max(0).idempotency_for(secs(100));
    let mut rig = Rig::with_slots(config, 1);
    let own = |number, payload: &'static str| job(number, "acme", DEV).idempotency_key("k").payload(payload);
    rig.submit(own(1, "a"));
    rig.pass(secs(1_000));
    rig.cancel(id(1));
    assert!(rig.gateway.job(id(1)).is_none());
    assert_eq!(rig.gateway.job_by_key("acme", "k"), Some(id(1)));
    rig.pass(Span::from_nanos(secs(100).as_nanos() - 1));
    for copy in [false, true] {
        if copy {
            rig.gateway = Gateway::replica(&rig.gateway.snapshot()).unwrap();
        }
        assert_eq!(rig.gateway.submit(rig.now, own(2, "a")), Ok(id(1)));
        let conflict = SubmitError::IdempotencyConflict { job: id(1) };
        assert_eq!(rig.gateway.submit(rig.now, own(2, "b")), Err(conflict));
        rig.check();
    }
    rig.pass(Span::from_nanos(1));
    assert_eq!(rig.gateway.submit(rig.now, own(2, "b")), Ok(id(2)));
    rig.check();
}

#[test]
fn a_key_outlives_its_customer_and_is_nobody_elses() {
    let config = GatewayConfig::default().retained_max(0).customer_idle(secs(1));
    let mut rig = Rig::with_slots(config, 1);
    rig.submit(job(1, "acme", DEV).idempotency_key("k"));
    rig.cancel(id(1));
    let taken = rig.gateway.take_settlements(rig.now, 10).unwrap();
    rig.gateway.confirm_settlements(rig.now, taken.batch).unwrap();
    rig.pass(secs(10));
    assert!(rig.gateway.customer("acme").is_none());
    assert_eq!(rig.gateway.submit(rig.now, job(2, "bolt", DEV).idempotency_key("k")), Ok(id(2)));
    assert_eq!(rig.gateway.submit(rig.now, job(3, "acme", DEV).idempotency_key("k")), Ok(id(1)));
    // Names that are the same one after the other are not the same.
    assert_eq!(rig.gateway.submit(rig.now, job(4, "acm", DEV).idempotency_key("ek")), Ok(id(4)));
    rig.check();
}

#[test]
fn a_deleted_job_keeps_its_key_and_a_submission_that_was_taken_back_leaves_none() {
    let mut rig = Rig::with_slots(GatewayConfig::default().idempotency_free_cancelled(true), 1);
    let own = |number| job(number, "acme", DEV).idempotency_key("k");
    let aborted: Result<(), Abort> = rig.gateway.transaction(rig.now, |tx| {
        tx.submit(own(1))?;
        tx.cancel(id(1))?;
        tx.submit(own(2))?;
        Err(Abort::Retry { until: None })
    });
    assert!(aborted.is_err());
    rig.check();
    assert_eq!(rig.gateway.job_by_key("acme", "k"), None);
    rig.submit(own(3));
    let aborted: Result<(), Abort> = rig.gateway.transaction(rig.now, |tx| {
        tx.cancel(id(3))?;
        assert_eq!(tx.submit(own(4)), Ok(id(4)), "it was free");
        Err(Abort::Retry { until: None })
    });
    assert!(aborted.is_err());
    rig.check();
    assert_eq!(rig.gateway.job_by_key("acme", "k"), Some(id(3)));
    let lease = rig.lease();
    rig.complete(&lease);
    rig.gateway.delete(rig.now, id(3)).unwrap();
    assert_eq!(rig.gateway.submit(rig.now, own(5)), Ok(id(3)));
    rig.check();
}

#[test]
fn a_full_table_forgets_the_key_whose_job_ended_first_and_never_that_of_a_live_one() {
    let config = GatewayConfig::default().idempotency_keys_max(2).retained_max(0);
    let mut rig = Rig::with_slots(config, 1);
    for number in 0..6 {
        rig.submit(job(number, "acme", DEV).idempotency_key(format!("k{number}")));
    }
    for number in [5, 0, 3] {
        rig.cancel(id(number));
        rig.check();
    }
    let known =
        |rig: &Rig| (0..6).filter(|n| rig.gateway.job_by_key("acme", &format!("k{n}")).is_some()).collect::<Vec<_>>();
    assert_eq!(known(&rig), [0, 1, 2, 3, 4]);
    rig.gateway = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    rig.cancel(id(1));
    assert_eq!(known(&rig), [1, 2, 3, 4]);
    rig.check();
}
