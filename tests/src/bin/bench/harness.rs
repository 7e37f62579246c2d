//! How a row is measured: the subjects of a row take turns, and the best of their rounds counts.

use std::error::Error;
use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub(crate) type Failed = Box<dyn Error>;

/// A thing that is measured at work.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    /// Does about as many operations as it is asked to, all or part of them within [`Meter::measure`].
    work: Box<Work>,
}

type Work = dyn FnMut(&mut Meter, u64);
/// A row's subjects, ours first, or why there are none.
pub(crate) type Built = Result<Vec<Subject>, Failed>;

/// One line of the plan: we and our peers at the same work.
pub(crate) struct Row {
    /// What filters and `--callgrind` go by; unique.
    pub(crate) name: String,
    /// How large the state is: jobs queued, keys known.
    pub(crate) n: u64,
    pub(crate) budget: Budget,
    /// Makes the state, ours first. Not before the row's turn: some take a good part of the memory.
    pub(crate) build: Box<dyn FnOnce() -> Built>,
}

/// What a row may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Budget {
    None,
    /// So many nanoseconds an operation.
    Nanos(f64),
    /// As much as the peer in the same run.
    Peer,
}

/// How long the rounds take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) batch: Duration,
}

/// What an operation costs, over the rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) name: &'static str,
    pub(crate) best_ns: f64,
    pub(crate) median_ns: f64,
}

/// Adds up the time of what is measured, and leaves out what is not.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    elapsed: Duration,
    operations: u64,
}

impl Subject {
    pub(crate) fn new(name: &'static str, work: impl FnMut(&mut Meter, u64) + 'static) -> Self {
        Self { name, work: Box::new(work) }
    }

    /// A subject whose batch is one loop over one operation, with nothing to leave out.
    pub(crate) fn each<T>(name: &'static str, mut operation: impl FnMut() -> T + 'static) -> Self {
        Self::new(name, move |meter, operations| {
            meter.measure(operations, || {
                for _ in 0..operations {
                    black_box(operation());
                }
            });
        })
    }

    pub(crate) fn run(&mut self, operations: u64) -> Meter {
        let mut meter = Meter::default();
        (self.work)(&mut meter, operations);
        meter
    }
}

impl Meter {
    /// Does and measures some of the operations asked for.
    pub(crate) fn measure<T>(&mut self, operations: u64, work: impl FnOnce() -> T) -> T {
        let start = time_of_this_thread();
        let result = black_box(measured_region(work));
        self.elapsed += time_of_this_thread().saturating_sub(start);
        self.operations += operations;
        result
    }

    pub(crate) fn operations(&self) -> u64 {
        self.operations
    }

    fn nanos(&self) -> f64 {
        self.elapsed.as_nanos() as f64 / self.operations.max(1) as f64
    }
}

/// Time this thread has run. Time that passes while others have its core is not its own.
fn time_of_this_thread() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// The function within which callgrind counts; it is told by this name.
#[inline(never)]
fn measured_region<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Measures each subject in turn, round after round: what disturbs the machine for a while disturbs all of them.
pub(crate) fn measure(subjects: &mut [Subject], effort: Effort) -> Vec<Cost> {
    // Finding how many operations fill a batch warms the caches and the branch predictors up.
    let sizes: Vec<u64> = subjects.iter_mut().map(|subject| operations_for(subject, effort.batch)).collect();
    let mut rounds: Vec<Vec<f64>> = vec![Vec::with_capacity(effort.rounds); subjects.len()];
    for _ in 0..effort.rounds {
        for ((subject, operations), nanos) in subjects.iter_mut().zip(&sizes).zip(&mut rounds) {
            nanos.push(subject.run(*operations).nanos());
        }
    }
    let cost = |(subject, mut nanos): (&Subject, Vec<f64>)| {
        nanos.sort_unstable_by(f64::total_cmp);
        let median_ns = nanos.get(nanos.len() / 2).copied().unwrap_or(0.0);
        Cost { name: subject.name, best_ns: nanos.first().copied().unwrap_or(0.0), median_ns }
    };
    subjects.iter().zip(rounds).map(cost).collect()
}

fn operations_for(subject: &mut Subject, batch: Duration) -> u64 {
    let mut operations = 1;
    loop {
        let meter = subject.run(operations);
        if meter.elapsed >= batch || operations >= OPERATIONS_MAX {
            return operations;
        }
        let wanted = batch.as_nanos() as f64 * 1.2 / meter.nanos().max(0.1);
        // Cold caches make the first guesses too small; the loop corrects them.
        operations = (wanted as u64).clamp(operations + 1, operations * 100);
    }
}

const OPERATIONS_MAX: u64 = 1 << 32;
