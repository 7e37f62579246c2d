//! Where requests come from: a file, or the built-in trace.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use libgateway::{CustomerPolicy, FailureClass, Timestamp};

use super::Failure;
use crate::trace::{Request, Served, Trace};
use crate::workload::Workload;

pub(super) enum Source {
    File { trace: Box<Trace<BufReader<File>>>, path: String, len: u64 },
    BuiltIn(Workload),
}

impl Source {
    pub(super) fn open(path: Option<&Path>, seed: u64) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self::BuiltIn(Workload::new(seed))) };
        let name = path.display().to_string();
        let trace = Trace::open(path).map_err(|error| Failure::Trace { path: name.clone(), error })?;
        // Only for the progress bar: of a pipe nobody knows.
        let len = fs::metadata(path).map_or(0, |metadata| metadata.len());
        Ok(Self::File { trace: Box::new(trace), path: name, len })
    }

    /// What it is called in words.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File { path, .. } => path.clone(),
            Self::BuiltIn(_) => "the built-in trace".to_owned(),
        }
    }

    pub(super) fn served(&self) -> Served {
        match self {
            Self::File { trace, .. } => trace.served(),
            Self::BuiltIn(workload) => workload.served(),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Request>, Failure> {
        match self {
            Self::File { trace, path, .. } => {
                trace.next().map_err(|error| Failure::Trace { path: path.clone(), error })
            }
            Self::BuiltIn(workload) => workload.next().map_err(Failure::broken),
        }
    }

    /// Customers that have a policy of their own from the start.
    pub(super) fn policies(&self) -> Vec<(String, CustomerPolicy)> {
        match self {
            Self::File { .. } => Vec::new(),
            Self::BuiltIn(workload) => workload.policies().map(|(name, policy)| (name.to_owned(), policy)).collect(),
        }
    }

    /// What a broken GPU answers.
    pub(super) fn broken(&self, gpu: usize, now: Timestamp) -> Option<FailureClass> {
        match self {
            Self::File { .. } => None,
            Self::BuiltIn(workload) => workload.broken(gpu, now),
        }
    }

    /// Whether the sink of the settlements has its troubles, too.
    pub(super) fn has_faulty_sink(&self) -> bool {
        matches!(self, Self::BuiltIn(_))
    }

    /// Rows that were earlier than one before them.
    pub(super) fn early(&self) -> u64 {
        match self {
            Self::File { trace, .. } => trace.early(),
            Self::BuiltIn(_) => 0,
        }
    }

    pub(super) fn progress_ppm(&self) -> u64 {
        match self {
            Self::File { trace, len, .. } if *len > 0 => {
                (u128::from(trace.bytes()) * 1_000_000 / u128::from(*len)).min(1_000_000) as u64
            }
            Self::File { .. } => 0,
            Self::BuiltIn(workload) => workload.progress_ppm(),
        }
    }
}
