//! The arguments of `replay`.

use std::path::PathBuf;

use lexopt::Parser;
use lexopt::prelude::{Long, Short, ValueExt};

use super::Failure;

#[derive(Debug)]
pub(super) struct Args {
    pub(super) trace: Option<PathBuf>,
    pub(super) gpus: u32,
    pub(super) seed: u64,
    pub(super) json: bool,
    pub(super) report: Option<PathBuf>,
}

pub(super) enum Parsed {
    Run(Args),
    Help,
}

impl Args {
    /// Reads the arguments of the process.
    pub(super) fn parse() -> Result<Parsed, Failure> {
        Self::read(Parser::from_env()).map_err(|error| Failure::Usage(error.to_string()))
    }

    fn read(mut parser: Parser) -> Result<Parsed, lexopt::Error> {
        let mut args = Self { trace: None, gpus: GPUS, seed: 1, json: false, report: None };
        while let Some(arg) = parser.next()? {
            match arg {
                Short('h') | Long("help") => return Ok(Parsed::Help),
                Long("trace") => args.trace = Some(parser.value()?.into()),
                Long("gpus") => args.gpus = parser.value()?.parse_with(gpus)?,
                Long("seed") => args.seed = parser.value()?.parse()?,
                Long("json") => args.json = true,
                Long("report") => args.report = Some(parser.value()?.into()),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Parsed::Run(args))
    }
}

fn gpus(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=GPUS_MAX).contains(number));
    number.ok_or_else(|| format!("expected a number of GPUs from 1 to {GPUS_MAX}"))
}

pub(super) const HELP: &str = "\
Replays a trace of GPU requests through a gateway, in virtual time.

Usage: replay [--trace FILE] [--gpus N] [--seed S] [--json] [--report FILE.html]

  --trace FILE        requests to replay; without it two made-up hours of a service that makes images
  --gpus N            GPUs of one slot each, 1 to 10000; 16 if not told
  --seed S            what the made-up trace, job ids and hash tables are drawn from; 1 if not told
  --json              print one JSON object instead of words
  --report FILE.html  write a page with plots, all in one file
  -h, --help          print this

Two formats are told apart by their header:

  GenTD26    gmt_create,predict_type,predict_status,exec_time_seconds,groupId,checkpoint_model_version_id
             FAILED fails after its GPU time and is not tried again. Any status but SUCCEED and FAILED: the first
             worker vanishes, the lease expires, and the second one delivers.
  Azure LLM  TIMESTAMP,ContextTokens,GeneratedTokens
             0.2 ms of GPU time for each token of context, 20 ms for each token generated.

Columns are found by name, others are ignored. A row that is earlier than one before it counts as arriving with that
one. While 100 000 jobs are live, further requests wait at the door, and that counts as waiting.

Customers pay for what was delivered, and for what ran until they cancelled it; not for failures nor for lost workers.
billed_by_model and billed_by_customer have a key for each name with a delivered job or something to pay, written as in
the trace (a model without a name is \"\"). A GPU-second costs 0.0012 USD, of sdxl 0.0015, of a language model 0.0020.

Exit status: 0; 1 if something could not be written, or the replay contradicts itself; 2 if the arguments or the trace
cannot be, and then nothing was written.
";

const GPUS: u32 = 16;
const GPUS_MAX: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Args, String> {
        match Args::read(Parser::from_args(args.iter().copied())) {
            Ok(Parsed::Run(args)) => Ok(args),
            Ok(Parsed::Help) => Err("help".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn arguments_are_read_and_nothing_else() {
        let args = read(&["--trace=a.csv", "--gpus", "4", "--seed", "18446744073709551615", "--json"]).unwrap();
        assert_eq!((args.gpus, args.seed, args.json), (4, u64::MAX, true));
        assert_eq!(args.trace, Some(PathBuf::from("a.csv")));
        assert_eq!(read(&[]).unwrap().gpus, 16);
        for wrong in [
            &["--gpus", "0"][..],
            &["--gpus", "10001"],
            &["--gpus", "x"],
            &["--gpus"],
            &["--seed", "-1"],
            &["--json=yes"],
            &["--nonsense"],
            &["a.csv"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
