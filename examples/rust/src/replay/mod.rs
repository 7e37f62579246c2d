//! The program `replay`: a trace of GPU requests through a gateway, in virtual time.
//!
//! Nothing waits: the clock is set to the next thing that happens, be it an arrival, a worker's word or a deadline of the
//! gateway. So three weeks pass in a second, and pass the same each time.

mod args;
mod ledger;
mod progress;
mod schedule;
mod simulation;
mod source;
mod summary;
mod worker;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use args::{Args, Parsed};
use source::Source;
pub(crate) use summary::{Gpu, Outcome};

use crate::csv::CsvError;
use crate::report;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The arguments cannot be.
    #[error("{0}\nTry 'replay --help'.")]
    Usage(String),
    /// The trace cannot be read, or is malformed; the text names file, line and column.
    #[error("{path}:{error}")]
    Trace { path: String, error: CsvError },
    /// A file cannot be written.
    #[error("{path}: {error}")]
    Write { path: String, error: std::io::Error },
    /// The replay contradicts itself: a defect, ours or the library's.
    #[error("the replay failed: {0}")]
    Broken(String),
}

impl Failure {
    fn broken(what: impl std::fmt::Display) -> Self {
        Self::Broken(what.to_string())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Trace { .. } => 2,
            Self::Write { .. } | Self::Broken(_) => 1,
        }
    }
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    match Args::parse().and_then(|parsed| match parsed {
        Parsed::Help => print(args::HELP),
        Parsed::Run(args) => run(&args),
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to hear of it when this fails, too.
            let _ = writeln!(std::io::stderr(), "error: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let mut source = Source::open(args.trace.as_deref(), args.seed)?;
    let outcome = simulation::replay(&mut source, args.gpus, args.seed)?;
    // The page is there before its place is told, and whatever is printed is whole.
    if let Some(path) = &args.report {
        write_whole(path, &report::page(&outcome))?;
    }
    let mut text = if args.json { outcome.to_json()? } else { outcome.to_text() };
    if let Some(path) = args.report.as_ref().filter(|_| !args.json) {
        text.push_str(&format!("\nreport         {}\n", path.display()));
    }
    print(&text)
}

/// Prints a text; a reader that has gone away is no failure of ours.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Write { path: "standard output".to_owned(), error })
        }
        _ => Ok(()),
    }
}

/// Writes a file that is either there and whole, or as it was before.
fn write_whole(path: &Path, text: &str) -> Result<(), Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = Path::new(&name);
    let written = fs::write(part, text).and_then(|()| fs::rename(part, path));
    written.map_err(|error| {
        // It may not have come into being at all.
        let _ = fs::remove_file(part);
        Failure::Write { path: path.display().to_string(), error }
    })
}
