//! Azure LLM inference: tokens in and tokens out of requests to a language model, a row each.

use libgateway::{BackendKind, GpuNanos, Priority, Route};

use super::{Column, Header, Request, Served, gpu_time};
use crate::civil;
use crate::csv::{CsvError, Row};
use crate::decimal::whole;
use crate::ticket::{FATES, Fate};

/// The column that tells the format.
pub(super) const FIRST: &str = "TIMESTAMP";
pub(super) const SERVED: Served = Served { modality: "text", family: "llm", kind: BackendKind::Vllm };

/// The columns that are read; a file may have others.
#[derive(Debug)]
pub(super) struct Columns {
    arrived: Column,
    context: Column,
    generated: Column,
}

impl Columns {
    pub(super) fn find(header: &Header<'_>) -> Result<Self, CsvError> {
        Ok(Self {
            arrived: header.find(FIRST)?,
            context: header.find("ContextTokens")?,
            generated: header.find("GeneratedTokens")?,
        })
    }

    pub(super) fn request(&self, row: &Row) -> Result<Request, CsvError> {
        let at = self.arrived.read(row, civil::parse)?;
        let too_large = "is too large";
        let read = self
            .context
            .read(row, |text| whole(text)?.checked_mul(NANOS_PER_CONTEXT).ok_or(too_large).and_then(gpu_time))?;
        let written = self
            .generated
            .read(row, |text| whole(text)?.checked_mul(NANOS_PER_GENERATED).ok_or(too_large).and_then(gpu_time))?;
        let gpu = read.saturating_add(written);
        self.generated.read(row, |_| gpu_time(gpu.as_nanos()))?;
        let route = Route::parse(ROUTE).map_err(|error| row.place(0).malformed(error.to_string()))?;
        Ok(Request {
            at,
            customer: CUSTOMER.to_owned(),
            route,
            affinity: None,
            priority: Priority::Normal,
            // How long the context is can be seen before, how long the answer gets cannot.
            estimate: read.saturating_add(GpuNanos::from_nanos(ANSWER * NANOS_PER_GENERATED)),
            gpu,
            fates: [Fate::Deliver; FATES],
            cancel_after: None,
            resend_after: None,
        })
    }
}

const CUSTOMER: &str = "azure";
const ROUTE: &str = "text/llm/azure/complete";
/// Tokens of a usual answer.
const ANSWER: u64 = 200;
const NANOS_PER_CONTEXT: u64 = 200_000;
const NANOS_PER_GENERATED: u64 = 20_000_000;
