//! A simulated world round a real gateway: customers, workers, operators and their mishaps, in virtual time.
//!
//! A seed makes the options, the options make the run. First comes a phase with faults, in which nothing wrong may
//! happen; then the faults stop, and everything has to come to rest within a bound that is known beforehand. An auditor
//! that shares no code with the gateway follows what goes in and what comes out.

mod audit;
mod options;
mod rest;
mod world;

use std::collections::BTreeMap;

use libgateway::{Counters, Digest, Plant};

pub use world::Disguise;

use crate::rng::Rng;
use options::Options;
use world::World;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The gateway's state at the end, and that for people.
    pub digest: Digest,
    /// The same as text.
    pub state: String,
    /// A hash of all replies in their order.
    pub replies: u64,
    /// Commands given.
    pub commands: u32,
    /// Times the gateway was dropped and restored from its snapshot.
    pub restarts: u32,
    /// What has happened.
    pub counters: Counters,
    /// How often which error was replied.
    pub errors: BTreeMap<u16, u32>,
}

/// What is wrong with the machine that is simulated, if something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// Nothing.
    Honest,
    /// It has a bug inside.
    Planted(Plant),
    /// What it is told or what it answers is not what the auditor hears.
    Disguised(Disguise),
}

/// Runs the world of a seed.
///
/// # Errors
/// What the auditor, or the world itself, found wrong.
pub fn run(seed: u64, machine: Machine) -> Result<Outcome, String> {
    let mut options = Options::new(seed);
    if machine != Machine::Honest {
        // A restart would mend what is broken inside, or find it.
        options.restarts = 0;
    }
    World::new(options, machine, Rng::new(seed ^ 0x5eed)).run()
}

/// Runs the world of a seed again without an auditor, with other restarts: nobody may notice those.
///
/// # Errors
/// What the world itself found wrong.
pub fn run_again(seed: u64) -> Result<Outcome, String> {
    let mut options = Options::new(seed);
    options.restarts = 15;
    World::new(options, Machine::Honest, Rng::new(!seed)).without_auditor().run()
}
