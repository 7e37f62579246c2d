//! Instruction counts: the same on a busy machine as on an idle one.

use std::env;
use std::fs;
use std::process::Command;

use crate::harness::{Failed, Row};
use crate::report;

/// The rows counted by `make bench-instructions`.
const MAIN: [&str; 12] = [
    "cycle/100k",
    "cycle/1m",
    "submit+cancel",
    "heartbeat",
    "advance/nothing-due",
    "position",
    "queue/push+pop/100k",
    "queue/remove/100k",
    "queue/rank/100k",
    "limiter/text-keys/allow",
    "breaker/admit+success",
    "transaction/three-changes",
];
const OPERATIONS: u64 = 20_000;

/// Does a fixed number of our operations of a row and prints how many it were.
pub(crate) fn run(plan: Vec<Row>, name: &str) -> Result<(), Failed> {
    let row = plan.into_iter().find(|row| row.name == name).ok_or_else(|| format!("there is no row {name}"))?;
    let mut subjects = (row.build)()?;
    let ours = subjects.first_mut().ok_or("the row has no subject")?;
    println!("{}", ours.run(OPERATIONS).operations());
    Ok(())
}

/// Runs each of the main rows under valgrind and prints its instructions.
pub(crate) fn count(plan: &[Row]) -> Result<(), Failed> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return Err("valgrind is not installed, and nothing else counts instructions the same way everywhere".into());
    }
    let folder = report::target().join("callgrind");
    fs::create_dir_all(&folder)?;
    println!("{:<36}  {:>15}", "row", "instructions/op");
    for name in MAIN {
        if !plan.iter().any(|row| row.name == name) {
            return Err(format!("there is no row {name}").into());
        }
        let file = folder.join(format!("{}.out", name.replace('/', "-")));
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured_region*"])
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(env::current_exe()?)
            .args(["--callgrind", name])
            .output()?;
        let operations: u64 = String::from_utf8(output.stdout)?.trim().parse()?;
        println!("{name:<36}  {:>15.1}", instructions(&fs::read_to_string(&file)?)? as f64 / operations as f64);
    }
    println!("\nfunction by function: callgrind_annotate {}/<row>.out", folder.display());
    Ok(())
}

/// What callgrind counted in all.
fn instructions(profile: &str) -> Result<u64, Failed> {
    let found = profile.lines().find_map(|line| line.strip_prefix("totals:").or(line.strip_prefix("summary:")));
    let count = found.and_then(|rest| rest.split_whitespace().next()).ok_or("valgrind counted nothing")?;
    Ok(count.parse()?)
}
