//! A strict reader of comma-separated rows that knows where each field stands.
//!
//! Lenient readers take an open quote for a field that lasts to the end of the file, which would swallow a file of any
//! size and say nothing. This one refuses it, reads no row longer than [`ROW_LEN_MAX`], and can name line and column.

use std::io::BufRead;

/// Where something stands in a file, both from 1. Columns are counted in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CsvError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is not what it should be.
    #[error("{}:{}: {what}", place.line, place.column)]
    Malformed { place: Place, what: String },
}

/// One row: its fields and where each begins.
#[derive(Debug, Default)]
pub(crate) struct Row {
    text: String,
    ends: Vec<usize>,
    places: Vec<Place>,
    /// The field being read.
    field: Vec<u8>,
    end: Option<Place>,
}

/// Reads rows from anything that can be read.
#[derive(Debug)]
pub(crate) struct CsvReader<R> {
    source: R,
    place: Place,
    /// Bytes read so far.
    bytes: u64,
}

impl Place {
    pub(crate) fn malformed(self, what: impl Into<String>) -> CsvError {
        CsvError::Malformed { place: self, what: what.into() }
    }
}

impl Row {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// A field's text; empty beyond the last.
    pub(crate) fn get(&self, index: usize) -> &str {
        let Some(&end) = self.ends.get(index) else { return "" };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..end]
    }

    /// Where a field begins; beyond the last, where the row ends.
    pub(crate) fn place(&self, index: usize) -> Place {
        let end = self.end.unwrap_or(Place { line: 1, column: 1 });
        if index < self.len() { self.places[index] } else { end }
    }

    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.places.clear();
        self.field.clear();
    }

    fn close(&mut self) -> Result<(), CsvError> {
        match std::str::from_utf8(&self.field) {
            Ok(text) => self.text.push_str(text),
            Err(_) => return Err(self.places[self.ends.len()].malformed("the field is not valid UTF-8")),
        }
        self.ends.push(self.text.len());
        self.field.clear();
        Ok(())
    }
}

/// Where in a field the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Plain,
    Quoted(Place),
    /// After the quote that may have closed the field, or be the first of two.
    Closed(Place),
}

impl<R: BufRead> CsvReader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, place: Place { line: 1, column: 1 }, bytes: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the next row that is not blank; false at the end of the file.
    pub(crate) fn read(&mut self, row: &mut Row) -> Result<bool, CsvError> {
        row.clear();
        let first = self.bytes;
        let mut at = At::Start;
        row.places.push(self.place);
        loop {
            let place = self.place;
            let byte = self.next()?;
            let is_blank = row.len() == 0 && at == At::Start;
            at = match (at, byte) {
                (At::Quoted(opened), None) => return Err(opened.malformed("the quote is never closed")),
                (At::Quoted(opened), Some(b'"')) => At::Closed(opened),
                (At::Closed(opened), Some(b'"')) => {
                    row.field.push(b'"');
                    At::Quoted(opened)
                }
                (At::Quoted(opened), Some(byte)) => {
                    row.field.push(byte);
                    At::Quoted(opened)
                }
                (_, None) if is_blank => return Ok(false),
                (_, Some(b'\n')) if is_blank => {
                    row.places[0] = self.place;
                    At::Start
                }
                (_, None | Some(b'\n')) => {
                    row.close()?;
                    row.end = Some(place);
                    return Ok(true);
                }
                (at, Some(b'\r')) if self.peek()? == Some(b'\n') => at,
                (_, Some(b',')) => {
                    row.close()?;
                    row.places.push(self.place);
                    At::Start
                }
                (At::Start, Some(b'"')) => At::Quoted(place),
                (At::Plain, Some(b'"')) => {
                    return Err(place.malformed("a quote inside a field that does not begin with one"));
                }
                (At::Closed(_), Some(_)) => return Err(place.malformed("text after the quote that closes the field")),
                (_, Some(byte)) => {
                    row.field.push(byte);
                    At::Plain
                }
            };
            if self.bytes - first > ROW_LEN_MAX && !is_blank {
                return Err(match at {
                    At::Quoted(opened) => {
                        opened.malformed(format!("the quote is not closed within {ROW_LEN_MAX} bytes"))
                    }
                    _ => row.places[0].malformed(format!("the row is longer than {ROW_LEN_MAX} bytes")),
                });
            }
        }
    }

    fn peek(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            match self.source.fill_buf() {
                Ok(buffer) => return Ok(buffer.first().copied()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn next(&mut self) -> std::io::Result<Option<u8>> {
        let Some(byte) = self.peek()? else { return Ok(None) };
        self.source.consume(1);
        self.bytes += 1;
        match byte {
            b'\n' => self.place = Place { line: self.place.line + 1, column: 1 },
            // The bytes that continue a character do not begin a column.
            0x80..=0xbf => {}
            _ => self.place.column += 1,
        }
        Ok(Some(byte))
    }
}

/// No honest row of a trace is longer.
const ROW_LEN_MAX: u64 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[u8]) -> Result<Vec<Vec<String>>, String> {
        let mut reader = CsvReader::new(text);
        let (mut row, mut rows) = (Row::default(), Vec::new());
        while reader.read(&mut row).map_err(|error| error.to_string())? {
            rows.push((0..row.len()).map(|index| row.get(index).to_owned()).collect());
        }
        Ok(rows)
    }

    #[test]
    fn rows_quotes_and_line_ends_are_read() {
        let text = b"a,b\r\n\n\"x, \"\"y\"\"\",\"two\nlines\"\n,\nlast,\xc3\xa9";
        let expected = [["a", "b"], ["x, \"y\"", "two\nlines"], ["", ""], ["last", "é"]];
        assert_eq!(rows(text).unwrap(), expected.map(|row| row.map(str::to_owned).to_vec()));
        assert_eq!(rows(b"").unwrap(), Vec::<Vec<String>>::new());
        assert_eq!(rows(b"\"\"\n").unwrap(), [[""]]);
    }

    #[test]
    fn what_is_malformed_is_told_with_its_place() {
        for (text, what) in [
            (b"a\nb,\"c\n\n".as_slice(), "2:3: the quote is never closed"),
            (b"a\n\xc3\xa9\xc3\xa9,b\"c\n", "2:5: a quote inside a field that does not begin with one"),
            (b"\"a\"b", "1:4: text after the quote that closes the field"),
            (b"a,b\nc,d\xff\n", "2:3: the field is not valid UTF-8"),
        ] {
            assert_eq!(rows(text).unwrap_err(), what);
        }
    }

    #[test]
    fn a_row_without_end_is_refused_before_it_is_kept() {
        let mut endless =
            CsvReader::new(std::io::BufReader::new(std::io::Read::chain(&b"x,\""[..], std::io::repeat(b'y'))));
        let error = endless.read(&mut Row::default()).unwrap_err().to_string();
        assert_eq!(error, "1:3: the quote is not closed within 65536 bytes");
        let mut endless = CsvReader::new(std::io::BufReader::new(std::io::repeat(b'y')));
        assert_eq!(
            endless.read(&mut Row::default()).unwrap_err().to_string(),
            "1:1: the row is longer than 65536 bytes"
        );
    }

    #[test]
    fn fields_know_where_they_begin() {
        let mut reader = CsvReader::new(&b"a\n\xc3\xa9\xc3\xa9,\"b\nc\",d\n"[..]);
        let mut row = Row::default();
        assert!(reader.read(&mut row).unwrap());
        assert!(reader.read(&mut row).unwrap());
        let places = [0, 1, 2, 3].map(|index| (row.place(index).line, row.place(index).column));
        assert_eq!(places, [(2, 1), (2, 4), (3, 4), (3, 5)]);
        assert_eq!(row.get(3), "");
    }
}
