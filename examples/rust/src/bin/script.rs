//! Applies a log of commands: JSON lines in, JSON lines out, the state's digest at the end.
//!
//! Each line of standard input is an entry, `{"now":1700000000000000000,"command":{"dispatch":{}}}`, and is answered by one
//! line. A line that is no entry is answered by an error and changes nothing. The first line may configure the gateway:
//! `{"config":{"jobs_max":1000},"now":1700000000000000000}`; fields that are not there have their default. Without it the
//! gateway has the default configuration and begins at the time of the first entry. The last line of the output is
//! `{"digest":"…"}`. docs/commands.md has all commands and replies.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::process::ExitCode;

use libgateway::error::{CommandError, ConfigError, ErrorReply};
use libgateway::{Entry, Gateway, GatewayConfig, Reply, Timestamp};
use serde::Deserialize;
use serde::de::IgnoredAny;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        None => {}
        Some(help) if help == "--help" || help == "-h" => {
            return exit(io::stdout().write_all(HELP.as_bytes()), ExitCode::SUCCESS);
        }
        Some(_) => return exit(io::stderr().write_all(HELP.as_bytes()), ExitCode::from(2)),
    }
    exit(run(BufReader::new(io::stdin().lock()), BufWriter::new(io::stdout().lock())), ExitCode::SUCCESS)
}

/// The exit code; a reader that has gone away is no failure.
fn exit(result: io::Result<()>, code: ExitCode) -> ExitCode {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            // Nobody is left to hear of it when this fails, too.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
        _ => code,
    }
}

fn run(mut input: BufReader<impl Read>, mut output: impl Write) -> io::Result<()> {
    let mut script = Script { gateway: None };
    let mut line = Vec::new();
    while let Some(is_whole) = read_line(&mut input, &mut line)? {
        let reply = match std::str::from_utf8(&line) {
            _ if !is_whole => no_command(format!("the line is longer than {LINE_LEN_MAX} bytes")),
            Ok(text) => script.answer(text),
            Err(error) => no_command(format!("not UTF-8 after {} bytes", error.valid_up_to())),
        };
        writeln!(output, "{}", reply.to_json())?;
        // Whoever waits for the reply before it writes on gets it; a file is not written line by line.
        if input.buffer().is_empty() {
            output.flush()?;
        }
    }
    let digest = match script.gateway {
        Some(gateway) => gateway.digest(),
        None => open(GatewayConfig::default(), Timestamp::EPOCH).map_err(io::Error::other)?.digest(),
    };
    writeln!(output, "{{\"digest\":\"{digest}\"}}")?;
    output.flush()
}

struct Script {
    gateway: Option<Gateway>,
}

/// The line that may come first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Opening {
    config: GatewayConfig,
    now: Timestamp,
}

/// What tells that a line configures.
#[derive(Deserialize)]
struct Peek {
    config: Option<IgnoredAny>,
}

impl Script {
    fn answer(&mut self, line: &str) -> Reply {
        let entry = match Entry::from_json(line) {
            Ok(entry) => entry,
            Err(_) if serde_json::from_str::<Peek>(line).is_ok_and(|peek| peek.config.is_some()) => {
                return self.configure(line);
            }
            Err(error) => return Reply::Error(ErrorReply::from(&error)),
        };
        let now = entry.now;
        let gateway = match &mut self.gateway {
            Some(gateway) => gateway,
            slot @ None => match open(GatewayConfig::default(), now) {
                Ok(gateway) => slot.insert(gateway),
                Err(error) => return Reply::Error(ErrorReply::from(&error)),
            },
        };
        gateway.apply(entry)
    }

    fn configure(&mut self, line: &str) -> Reply {
        if self.gateway.is_some() {
            return no_command("the configuration comes before the first command".to_owned());
        }
        let opening: Opening = match serde_json::from_str(line) {
            Ok(opening) => opening,
            Err(error) => return no_command(error.to_string()),
        };
        match open(opening.config, opening.now) {
            Ok(gateway) => {
                self.gateway = Some(gateway);
                Reply::Done {}
            }
            Err(error) => Reply::Error(ErrorReply::from(&error)),
        }
    }
}

fn open(config: GatewayConfig, now: Timestamp) -> Result<Gateway, ConfigError> {
    Gateway::new(config, now)
}

fn no_command(reason: String) -> Reply {
    let reason = reason.chars().take(REASON_LEN_MAX).collect::<String>().into_boxed_str();
    Reply::Error(ErrorReply::from(&CommandError::NotACommand { reason }))
}

/// Reads a line without its end: `Some(false)` when it was too long to be kept, `None` at the end of the input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let read = input.by_ref().take(LINE_LEN_MAX + 1).read_until(b'\n', line)?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Some(true));
    }
    if line.len() as u64 <= LINE_LEN_MAX {
        return Ok(Some(true));
    }
    line.clear();
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let len = buffer.len();
        input.consume(end.map_or(len, |end| end + 1));
        if end.is_some() || len == 0 {
            return Ok(Some(false));
        }
    }
}

const HELP: &str = "\
Applies commands to a gateway: JSON lines on standard input, a JSON line for each on standard output, and the digest of
the state at the end. docs/commands.md has all commands and replies.

Usage: script < commands.jsonl > replies.jsonl
";

/// Room for the longest payload the default configuration allows, as text.
const LINE_LEN_MAX: u64 = 16 * 1_024 * 1_024;
const REASON_LEN_MAX: usize = 900;
