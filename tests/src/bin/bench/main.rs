//! `make bench`: what the library costs, beside its peers in the same run. See docs/benchmarks.md.
#![expect(
    clippy::float_arithmetic,
    reason = "measurements and ratios for people; no decision of the library is made here"
)]

mod breaker;
mod c;
mod callgrind;
mod harness;
mod limiter;
mod machine;
mod memory;
mod parts;
mod queue;
mod report;
mod rng;
mod scene;
mod transaction;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use harness::{Effort, Failed, Row};
use report::Line;

const USAGE: &str =
    "usage: bench [--quick] [WORD..]     measure the rows whose name has one of the words, or all of them
       bench --list               name the rows
       bench --instructions       count instructions of the main rows under valgrind
       bench --callgrind ROW      do a fixed number of operations of a row, to be watched from outside";

/// Rounds of 10 ms: enough that one of them is left alone on a machine with other things to do.
const FULL: Effort = Effort { rounds: 31, batch: Duration::from_millis(10) };
/// Proves that everything runs; its numbers say little.
const QUICK: Effort = Effort { rounds: 2, batch: Duration::from_millis(1) };

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        ["--list"] => {
            plan().iter().for_each(|row| println!("{}", row.name));
            Ok(())
        }
        ["--instructions"] => callgrind::count(&plan()),
        ["--callgrind", name] => callgrind::run(plan(), name),
        [memory::FLAG, jobs] => memory::measure_here(jobs),
        ["--quick", words @ ..] => run(words, QUICK),
        words if words.iter().any(|word| word.starts_with('-')) => Err(USAGE.into()),
        words => run(words, FULL),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Every row there is. A part that comes later adds its line here.
fn plan() -> Vec<Row> {
    let parts = [machine::rows, queue::rows, limiter::rows, breaker::rows, transaction::rows, parts::rows, c::rows];
    parts.into_iter().flat_map(|rows| rows()).collect()
}

fn run(words: &[&str], effort: Effort) -> Result<(), Failed> {
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let mut lines = Vec::new();
    println!("{}", report::header());
    for row in plan().into_iter().filter(|row| is_wanted(&row.name)) {
        let mut subjects = (row.build)()?;
        let costs = harness::measure(&mut subjects, effort);
        tell(&mut lines, Line::of_row(&row.name, row.n, row.budget, &costs));
    }
    let told = [machine::growth(&lines), c::overhead(&lines)].into_iter().flatten().collect();
    tell(&mut lines, told);
    if is_wanted(memory::NAME) {
        tell(&mut lines, memory::lines()?);
    }
    println!("\n{}", report::verdict(&lines));
    // A part of the rows is no result to keep.
    if words.is_empty() {
        println!("{}", report::write(&lines)?.display());
    }
    Ok(())
}

fn tell(lines: &mut Vec<Line>, more: Vec<Line>) {
    for line in more {
        println!("{}", report::show(&line, lines.last()));
        lines.push(line);
    }
}
