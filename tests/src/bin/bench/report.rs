//! The table for people and the list for programs.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::harness::{Budget, Cost, Failed};

/// One line of the result, as `target/bench.json` has it. Rows that measure memory say so in their name and are in bytes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) n: u64,
    pub(crate) ns_per_op: f64,
    pub(crate) peer: Option<String>,
    pub(crate) peer_ns_per_op: Option<f64>,
    /// Ours over the peer's: below 1 we are faster.
    pub(crate) ratio: Option<f64>,
    pub(crate) budget_ns: Option<f64>,
    #[serde(skip)]
    median_ns: Option<f64>,
    /// Whether the budget is the peer's cost, and each peer another budget.
    #[serde(skip)]
    budget_is_peer: bool,
}

impl Line {
    /// The lines of one row: one for each peer, or one without.
    pub(crate) fn of_row(name: &str, n: u64, budget: Budget, costs: &[Cost]) -> Vec<Self> {
        let Some((ours, peers)) = costs.split_first() else { return Vec::new() };
        let line = |peer: Option<&Cost>| Self {
            name: name.to_owned(),
            n,
            ns_per_op: ours.best_ns,
            peer: peer.map(|peer| peer.name.to_owned()),
            peer_ns_per_op: peer.map(|peer| peer.best_ns),
            ratio: peer.map(|peer| ours.best_ns / peer.best_ns),
            budget_ns: match budget {
                Budget::None => None,
                Budget::Nanos(nanos) => Some(nanos),
                Budget::Peer => peer.map(|peer| peer.best_ns),
            },
            median_ns: Some(ours.median_ns),
            budget_is_peer: matches!(budget, Budget::Peer),
        };
        if peers.is_empty() { vec![line(None)] } else { peers.iter().map(|peer| line(Some(peer))).collect() }
    }

    /// A line that was measured in another way.
    pub(crate) fn plain(name: impl Into<String>, n: u64, value: f64, budget: Option<f64>) -> Self {
        Self {
            name: name.into(),
            n,
            ns_per_op: value,
            peer: None,
            peer_ns_per_op: None,
            ratio: None,
            budget_ns: budget,
            median_ns: None,
            budget_is_peer: false,
        }
    }

    /// A line that holds one of our numbers against another.
    pub(crate) fn growth(name: &str, n: u64, value: f64, least: f64, factor: f64) -> Self {
        Self {
            peer: Some("the least of them".to_owned()),
            peer_ns_per_op: Some(least),
            ratio: Some(value / least),
            ..Self::plain(name, n, value, Some(least * factor))
        }
    }

    /// Whether it is about another peer of the same row.
    fn continues(&self, above: &Self) -> bool {
        self.peer.is_some() && self.name == above.name && self.n == above.n
    }

    fn is_missed(&self) -> bool {
        self.budget_ns.is_some_and(|budget| self.ns_per_op > budget)
    }

    fn cells(&self) -> [String; 9] {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
        let verdict = match self.budget_ns {
            None => "",
            Some(_) if self.is_missed() => "MISSED",
            Some(_) => "ok",
        };
        [
            self.name.clone(),
            self.n.to_string(),
            short(self.ns_per_op),
            number(self.median_ns),
            self.peer.clone().unwrap_or_else(|| "-".to_owned()),
            number(self.peer_ns_per_op),
            self.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            number(self.budget_ns),
            verdict.to_owned(),
        ]
    }
}

pub(crate) fn header() -> String {
    row(&HEADER.map(str::to_owned))
}

/// A line of the table. What it has in common with the line above is not said again.
pub(crate) fn show(line: &Line, above: Option<&Line>) -> String {
    let mut cells = line.cells();
    if above.is_some_and(|above| line.continues(above)) {
        cells[..4].iter_mut().for_each(String::clear);
        if !line.budget_is_peer {
            cells[7..].iter_mut().for_each(String::clear);
        }
    }
    row(&cells)
}

/// How many budgets there were, and which were missed.
pub(crate) fn verdict(lines: &[Line]) -> String {
    let mut above = None;
    let mut budgets: Vec<&Line> = Vec::new();
    for line in lines {
        let said = above.is_some_and(|above| line.continues(above)) && !line.budget_is_peer;
        budgets.extend((line.budget_ns.is_some() && !said).then_some(line));
        above = Some(line);
    }
    let missed: Vec<&Line> = budgets.iter().copied().filter(|line| line.is_missed()).collect();
    let mut text = format!("{} of {} budgets held\n", budgets.len() - missed.len(), budgets.len());
    for line in missed {
        let [name, n, ours, _, peer, .., budget, _] = line.cells();
        let whose = if line.budget_is_peer { format!(", which {peer} takes") } else { String::new() };
        text.push_str(&format!("  MISSED: {name}, n = {n}: {ours} instead of {budget}{whose}\n"));
    }
    text
}

/// Writes the lines where `make bench` promises them.
pub(crate) fn write(lines: &[Line]) -> Result<PathBuf, Failed> {
    let path = target().join("bench.json");
    fs::create_dir_all(target())?;
    fs::write(&path, serde_json::to_string_pretty(lines)?)?;
    Ok(path)
}

pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

fn row(cells: &[String; 9]) -> String {
    let padded = cells.iter().zip(WIDTHS).enumerate().map(|(column, (cell, width))| {
        if TEXT.contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    });
    padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// Three digits that say something.
fn short(value: f64) -> String {
    match value {
        _ if value < 10.0 => format!("{value:.2}"),
        _ if value < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

const HEADER: [&str; 9] = ["row", "n", "ns/op", "median", "peer", "ns/op", "ratio", "budget", ""];
const WIDTHS: [usize; 9] = [42, 8, 8, 8, 28, 8, 6, 8, 6];
/// The columns that are words.
const TEXT: [usize; 3] = [0, 4, 8];
