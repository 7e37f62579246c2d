//! The gateway in a simulated world, with an auditor who follows what goes in and what comes out.

use std::collections::BTreeMap;

use libgateway::Plant;
use libgateway_tests::rng;
use libgateway_tests::sim::{self, Disguise, Machine, Outcome};

#[test]
fn nothing_wrong_happens_and_everything_comes_to_rest() {
    let (mut seen, seeds) = (Seen::default(), rng::count(SEEDS));
    rng::each_seed(seeds, |seed| {
        let outcome = match sim::run(seed, Machine::Honest) {
            Ok(outcome) => outcome,
            Err(wrong) => panic!("{wrong}"),
        };
        let again = sim::run_again(seed).unwrap();
        assert_eq!(again.state, outcome.state, "two runs of one seed end in different states");
        assert_eq!((again.digest, again.replies), (outcome.digest, outcome.replies), "two runs of one seed differ");
        seen.add(&outcome);
    });
    println!("{seeds} seeds: {seen:?}");
    if rng::replayed().is_none() {
        seen.check(seeds);
    }
}

/// What has happened in all runs together: a simulation in which nothing goes wrong shows nothing.
#[derive(Debug, Default)]
struct Seen {
    commands: u64,
    restarts: u64,
    counts: BTreeMap<&'static str, u64>,
    errors: BTreeMap<u16, u64>,
}

impl Seen {
    fn add(&mut self, outcome: &Outcome) {
        self.commands += u64::from(outcome.commands);
        self.restarts += u64::from(outcome.restarts);
        let counters = &outcome.counters;
        for (name, count) in [
            ("completed", counters.completed),
            ("errors", counters.errors),
            ("cancelled", counters.cancelled),
            ("warm_hits", counters.warm_hits),
            ("probes", counters.probes),
            ("retries", counters.retries),
            ("requeues", counters.requeues),
            ("lost", counters.lost),
            ("parked", counters.parked),
            ("aged", counters.aged),
            ("forgotten", counters.forgotten),
            ("clock_leaps", counters.clock_leaps),
        ] {
            *self.counts.entry(name).or_default() += count;
        }
        for (number, count) in &outcome.errors {
            *self.errors.entry(*number).or_default() += u64::from(*count);
        }
    }

    fn check(&self, seeds: u64) {
        for (name, count) in &self.counts {
            assert!(*count > seeds / 10, "{name} happens too seldom: {count}");
        }
        // Full tables, keys in use, late and foreign results, ended jobs, lost batches, steps that cannot be done now.
        for number in [301, 401, 402, 403, 501, 502, 601, 602, 603, 701, 702, 703, 1111, 1112, 1401] {
            assert!(self.errors.contains_key(&number), "error {number} is never replied");
        }
        assert!(self.restarts > seeds, "too few restarts: {}", self.restarts);
    }
}

/// Seeds beyond the first thousand in which the auditor took a right answer for a wrong one: instants before the epoch of a
/// host's clock that had gone back by decades are told as that epoch, and a call handles no more than `due_max` of what is due.
#[test]
fn seeds_that_once_failed_pass() {
    for seed in [1_554, 2_590, 4_158, 8_983, 18_803, 20_425, 36_728, 60_032] {
        if let Err(wrong) = sim::run(seed, Machine::Honest) {
            panic!("seed {seed}: {wrong}");
        }
    }
}

#[test]
fn a_bug_planted_in_the_gateway_is_caught() {
    for plant in [Plant::LeakedSlot, Plant::LostWakeup, Plant::DoubleSettlement] {
        let caught = caught(Machine::Planted(plant));
        assert!(!caught.is_empty(), "{plant:?} is caught in none of {PLANT_SEEDS} seeds");
    }
}

#[test]
fn a_gateway_that_does_not_do_as_it_is_told_is_caught() {
    for disguise in [
        Disguise::Overcharge,
        Disguise::FasterRate,
        Disguise::Overbooked,
        Disguise::TwiceLeased,
        Disguise::LostSettlement,
    ] {
        let caught = caught(Machine::Disguised(disguise));
        assert!(!caught.is_empty(), "{disguise:?} is caught in none of {PLANT_SEEDS} seeds");
    }
}

/// The seeds in which the machine is accused, each with the accusation.
fn caught(machine: Machine) -> Vec<(u64, String)> {
    let runs = (0..PLANT_SEEDS).map(|seed| (seed, sim::run(seed, machine)));
    let caught: Vec<(u64, String)> = runs.filter_map(|(seed, run)| run.err().map(|wrong| (seed, wrong))).collect();
    let first = caught.first().map_or("", |(_, wrong)| wrong.lines().next().unwrap_or_default());
    println!("{machine:?}: caught in {} of {PLANT_SEEDS} seeds, first: {first}", caught.len());
    caught
}

const SEEDS: u64 = 1_000;
const PLANT_SEEDS: u64 = 100;
