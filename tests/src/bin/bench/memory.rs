//! What a queued job and a place take, in bytes.

use std::env;
use std::fs;
use std::hint::black_box;
use std::process::Command;

use crate::harness::Failed;
use crate::queue;
use crate::report::Line;
use crate::scene::{Load, Scene};

pub(crate) const NAME: &str = "memory";
/// Asks this program for the two numbers of [`measure_here`].
pub(crate) const FLAG: &str = "--measure-memory";

/// Both ways to count for two sizes: just below a power of two the tables are full, just above it half empty.
pub(crate) fn lines() -> Result<Vec<Line>, Failed> {
    let mut lines = Vec::new();
    for jobs in [1_000_000, 600_000_u64] {
        let [resident, held] = measure_apart(jobs)?;
        lines.push(Line::plain("memory/queued-job/resident (bytes)", jobs, resident, Some(256.0)));
        lines.push(Line::plain("memory/queued-job/memory_bytes() (bytes)", jobs, held, None));
    }
    for places in [100_000, 1_000_000] {
        let bytes = queue::bytes_per_place(places);
        lines.push(Line::plain("memory/place (bytes)", places as u64, bytes, Some(60.0)));
    }
    Ok(lines)
}

/// Prints what a queued job takes: of the memory the system gave this process, and by the gateway's own count.
pub(crate) fn measure_here(jobs: &str) -> Result<(), Failed> {
    let jobs: usize = jobs.parse()?;
    // Customers, routes and backends are there before; what they take is not the jobs'.
    let mut scene = Scene::filled(Load::BUDGET.queued(0))?;
    let before = resident()?;
    for _ in 0..jobs {
        scene.submit();
    }
    scene.drain();
    let after = resident()?;
    println!(
        "{} {}",
        after.saturating_sub(before) as f64 / jobs as f64,
        scene.gateway.memory_bytes() as f64 / jobs as f64
    );
    black_box(scene);
    Ok(())
}

/// In a process of its own: in this one the allocator has memory left from other rows.
fn measure_apart(jobs: u64) -> Result<[f64; 2], Failed> {
    let output = Command::new(env::current_exe()?).args([FLAG, &jobs.to_string()]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    match (numbers.next(), numbers.next()) {
        (Some(resident), Some(held)) => Ok([resident?, held?]),
        _ => Err(format!("no answer about memory: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Bytes of this process that lie in memory.
fn resident() -> Result<u64, Failed> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("the system does not tell")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1_024)
}
