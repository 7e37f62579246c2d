//! GenTD26: requests of a production service for diffusion models, a row each.

use libgateway::{BackendKind, GpuNanos, Priority, Route};

use super::{Column, Header, Request, Served, gpu_time, model_segment};
use crate::civil;
use crate::csv::{CsvError, Row};
use crate::decimal::nanos_of_seconds;
use crate::ticket::{FATES, Fate};

/// The column that tells the format.
pub(super) const FIRST: &str = "gmt_create";
pub(super) const SERVED: Served = Served { modality: "image", family: "sd", kind: BackendKind::Torch };

/// The columns that are read; a file may have others.
#[derive(Debug)]
pub(super) struct Columns {
    created: Column,
    kind: Column,
    status: Column,
    seconds: Column,
    customer: Column,
    model: Column,
}

impl Columns {
    pub(super) fn find(header: &Header<'_>) -> Result<Self, CsvError> {
        Ok(Self {
            created: header.find(FIRST)?,
            kind: header.find("predict_type")?,
            status: header.find("predict_status")?,
            seconds: header.find("exec_time_seconds")?,
            customer: header.find("groupId")?,
            model: header.find("checkpoint_model_version_id")?,
        })
    }

    pub(super) fn request(&self, row: &Row) -> Result<Request, CsvError> {
        let at = self.created.read(row, civil::parse)?;
        let task = self.kind.read(row, |kind| match kind {
            "TXT_2_IMG" => Ok("t2i"),
            "IMG_2_IMG" => Ok("i2i"),
            "INPAINTING" => Ok("edit"),
            _ => Err("is none of TXT_2_IMG, IMG_2_IMG, INPAINTING"),
        })?;
        let mut fates = [Fate::Deliver; FATES];
        fates[0] = match self.status.text(row) {
            "SUCCEED" => Fate::Deliver,
            "FAILED" => Fate::Fail,
            // The service never saw an end of it, so the worker that had it is taken to be lost.
            _ => Fate::Vanish,
        };
        let gpu = self.seconds.read(row, |text| nanos_of_seconds(text).and_then(gpu_time))?;
        let customer = self.customer.customer(row)?;
        let model = self.model.text(row);
        let route = format!("image/sd/{}/{task}", model_segment(model));
        let route = Route::parse(&route).map_err(|error| self.model.malformed(row, format!("cannot be: {error}")))?;
        Ok(Request {
            at,
            customer,
            route: route.into_owned(),
            // No GPU is warm for a model that nobody knows.
            affinity: Some(model.to_owned()).filter(|model| !model.is_empty()),
            priority: Priority::Normal,
            estimate: ESTIMATE,
            gpu,
            fates,
            cancel_after: None,
            resend_after: None,
        })
    }
}

/// About what one request takes on average: the gateway cannot know the real time before.
const ESTIMATE: GpuNanos = GpuNanos::from_secs(30);
