//! Traces of GPU requests: two formats, told by their header, read one row at a time.

mod azure;
mod gentd26;
mod models;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use libgateway::{BackendKind, GpuNanos, Priority, Route, Span, Timestamp};

pub(crate) use models::{model_name, model_segment};

use crate::csv::{CsvError, CsvReader, Place, Row};
use crate::ticket::{FATES, Fate};

/// One request as it arrives.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) at: Timestamp,
    pub(crate) customer: String,
    pub(crate) route: Route<'static>,
    /// What a GPU should have loaded.
    pub(crate) affinity: Option<String>,
    pub(crate) priority: Priority,
    /// GPU time that a gateway would expect before it has run.
    pub(crate) estimate: GpuNanos,
    /// GPU time it really takes.
    pub(crate) gpu: GpuNanos,
    pub(crate) fates: [Fate; FATES],
    /// Its customer gives it up after so long.
    pub(crate) cancel_after: Option<Span>,
    /// Its customer's client heard no answer and sends it again, under the same idempotency key.
    pub(crate) resend_after: Option<Span>,
}

/// What the GPUs of a replay serve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    pub(crate) modality: &'static str,
    pub(crate) family: &'static str,
    pub(crate) kind: BackendKind,
}

/// A file of requests.
pub(crate) struct Trace<R> {
    reader: CsvReader<R>,
    row: Row,
    format: Format,
    width: usize,
    latest: Timestamp,
    early: u64,
}

enum Format {
    GenTd26(gentd26::Columns),
    Azure(azure::Columns),
}

impl Trace<BufReader<File>> {
    /// Opens a file and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Self, CsvError> {
        Self::new(BufReader::with_capacity(1 << 16, File::open(path)?))
    }
}

impl<R: BufRead> Trace<R> {
    pub(crate) fn new(source: R) -> Result<Self, CsvError> {
        let mut reader = CsvReader::new(source);
        let mut row = Row::default();
        let formats = "the header is neither that of GenTD26 (gmt_create,predict_type,predict_status,exec_time_seconds,\
                       groupId,checkpoint_model_version_id) nor that of Azure LLM (TIMESTAMP,ContextTokens,GeneratedTokens)";
        if !reader.read(&mut row)? {
            return Err(Place { line: 1, column: 1 }.malformed("the file is empty"));
        }
        let header = Header(&row);
        let format = if header.has(gentd26::FIRST) {
            Format::GenTd26(gentd26::Columns::find(&header)?)
        } else if header.has(azure::FIRST) {
            Format::Azure(azure::Columns::find(&header)?)
        } else {
            return Err(row.place(0).malformed(formats));
        };
        let width = row.len();
        Ok(Self { reader, row, format, width, latest: Timestamp::EPOCH, early: 0 })
    }

    pub(crate) fn served(&self) -> Served {
        match self.format {
            Format::GenTd26(_) => gentd26::SERVED,
            Format::Azure(_) => azure::SERVED,
        }
    }

    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.reader.bytes()
    }

    /// Rows that came with an earlier time than one before them; they count as arriving with it.
    pub(crate) fn early(&self) -> u64 {
        self.early
    }

    /// The next request, or `None` at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<Request>, CsvError> {
        if !self.reader.read(&mut self.row)? {
            return Ok(None);
        }
        let (row, width) = (&self.row, self.width);
        if row.len() != width {
            let what = format!("the row has {} fields, the header {width}", row.len());
            return Err(row.place(width).malformed(what));
        }
        let mut request = match &self.format {
            Format::GenTd26(columns) => columns.request(row)?,
            Format::Azure(columns) => columns.request(row)?,
        };
        self.early += u64::from(request.at < self.latest);
        self.latest = self.latest.max(request.at);
        request.at = self.latest;
        Ok(Some(request))
    }
}

/// The first row of a file.
struct Header<'r>(&'r Row);

impl Header<'_> {
    fn has(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    fn position(&self, name: &str) -> Option<usize> {
        (0..self.0.len()).find(|index| self.name(*index) == name)
    }

    /// A column's name; a byte order mark before the first one is not part of it.
    fn name(&self, index: usize) -> &str {
        let name = self.0.get(index);
        if index == 0 { name.trim_start_matches('\u{feff}') } else { name }
    }

    fn find(&self, name: &'static str) -> Result<Column, CsvError> {
        let Some(index) = self.position(name) else {
            return Err(self.0.place(self.0.len()).malformed(format!("the header lacks the column {name}")));
        };
        match (index + 1..self.0.len()).find(|later| self.name(*later) == name) {
            Some(again) => Err(self.0.place(again).malformed(format!("the header has the column {name} twice"))),
            None => Ok(Column { name, index }),
        }
    }
}

/// A column that a format needs.
#[derive(Clone, Copy, Debug)]
struct Column {
    name: &'static str,
    index: usize,
}

impl Column {
    fn text<'r>(&self, row: &'r Row) -> &'r str {
        row.get(self.index)
    }

    /// The field as `read` takes it; what `read` says ends a sentence that begins with the field.
    fn read<'r, T>(&self, row: &'r Row, read: impl FnOnce(&'r str) -> Result<T, &'static str>) -> Result<T, CsvError> {
        read(self.text(row)).map_err(|what| self.malformed(row, what))
    }

    fn malformed(&self, row: &Row, what: impl std::fmt::Display) -> CsvError {
        let text = self.text(row);
        let shown: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
        let more = if text.chars().count() > SHOWN_MAX { "…" } else { "" };
        row.place(self.index).malformed(format!("{} \"{shown}{more}\" {what}", self.name))
    }

    /// A customer's name.
    fn customer(&self, row: &Row) -> Result<String, CsvError> {
        match libgateway::check_name(self.name, self.text(row), libgateway::NAME_LEN_MAX) {
            Ok(()) => Ok(self.text(row).to_owned()),
            Err(error) => Err(self.malformed(row, format!("cannot be: {error}"))),
        }
    }
}

/// GPU time of one request; more is a slip of the pen, and would not fit into the time there is.
fn gpu_time(nanos: u64) -> Result<GpuNanos, &'static str> {
    if nanos > GPU_TIME_MAX.as_nanos() {
        return Err("is more than a year of GPU time");
    }
    Ok(GpuNanos::from_nanos(nanos))
}

const GPU_TIME_MAX: GpuNanos = GpuNanos::from_secs(366 * 86_400);
/// Characters of a field that an error message repeats.
const SHOWN_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_before_its_time_counts_as_the_latest_seen() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:10,1,1\n2024-05-10 00:00:05,1,1\n";
        let mut trace = Trace::new(text.as_bytes()).unwrap();
        let first = trace.next().unwrap().unwrap();
        let second = trace.next().unwrap().unwrap();
        assert_eq!((first.at, trace.early()), (second.at, 1));
        assert!(trace.next().unwrap().is_none());
    }

    #[test]
    fn columns_are_found_by_name_in_any_order() {
        let text = "\u{feff}GeneratedTokens,note,TIMESTAMP,ContextTokens\n2,\"a,b\",2024-05-10 00:00:10,3\n";
        let request = Trace::new(text.as_bytes()).unwrap().next().unwrap().unwrap();
        assert_eq!(request.gpu, GpuNanos::from_nanos(3 * 200_000 + 2 * 20_000_000));
    }
}
