//! Which module of `core` may import which: only what lies on a lower floor, so that there are no circles.

use std::collections::BTreeMap;

use crate::source::{Finding, Source, Token, closing, reads, text};

/// The floors of `core`, lowest first. A new module gets its floor here.
const FLOORS: &[(&str, &[&str])] = &[
    ("ground", &["time", "hashing"]),
    ("words of errors", &["coded"]),
    ("vocabulary", &["id", "failure", "registry"]),
    ("errors", &["error"]),
    ("small mechanisms", &["timers", "heap", "histogram", "backoff"]),
    ("mechanisms", &["queue", "limiter", "breaker", "shed", "cache", "capacity"]),
    ("records", &["job", "backend", "billing"]),
    ("machines", &["gateway", "audit", "rental", "reconcile"]),
    ("waiting", &["waiting"]),
    ("edges", &["wire", "shared", "system_clock"]),
];

/// Imports between modules of one floor that are allowed all the same, `(from, to)`; they may form no circle.
const SAME_FLOOR: &[(&str, &str)] = &[("timers", "heap")];

/// A module's floor, counted from the ground.
fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|(_, modules)| modules.contains(&module))
}

/// Every file of `core/src` belongs to a module that has a floor.
pub(crate) fn placed(source: &Source) -> Vec<Finding> {
    match source.core_module() {
        Some(module) if module != "lib" && floor(module).is_none() => {
            vec![Finding::new(&source.path, 1, format!("the module `{module}` has no floor: give it one in FLOORS"))]
        }
        _ => Vec::new(),
    }
}

/// What `lib.rs` re-exports: a flat name, and the module it comes from.
pub(crate) fn exports(lib: &Source) -> BTreeMap<String, String> {
    let tokens = &lib.tokens;
    let mut exports = BTreeMap::new();
    for at in (0..tokens.len()).filter(|&at| text(tokens, at) == "use") {
        let mut leaves = Vec::new();
        leaf_paths(tokens, at + 1, &[], &mut leaves);
        for leaf in leaves {
            let path = leaf.path.strip_prefix(&["crate".to_owned()]).unwrap_or(&leaf.path);
            let path = path.strip_prefix(&["self".to_owned()]).unwrap_or(path);
            if let Some(module) = path.first() {
                exports.insert(leaf.name, module.clone());
            }
        }
    }
    exports
}

/// Imports of `source`, outside its tests, from anywhere but lower floors and its own module.
pub(crate) fn imports(source: &Source, exports: &BTreeMap<String, String>) -> Vec<Finding> {
    let Some(from) = source.core_module().filter(|&module| module != "lib") else { return Vec::new() };
    let Some(own) = floor(from) else { return Vec::new() };
    let mut findings = Vec::new();
    for (to, line) in imported(source, exports) {
        let wrong = match floor(&to) {
            _ if to == from || SAME_FLOOR.contains(&(from, to.as_str())) => continue,
            Some(other) if other < own => continue,
            Some(other) if other == own => format!("`{from}` imports its neighbour `{to}`: both are {}", name(own)),
            Some(other) => format!("`{from}` ({}) imports `{to}` ({}): an arrow upwards", name(own), name(other)),
            None => format!("`crate::{to}` is no module with a floor and no name `lib.rs` re-exports: name its module"),
        };
        findings.push(Finding::new(&source.path, line, wrong));
    }
    findings
}

/// Entries of [`SAME_FLOOR`] that nothing needs any more.
pub(crate) fn unused_exceptions(sources: &[Source], exports: &BTreeMap<String, String>) -> Vec<Finding> {
    let is_used = |from: &str, to: &str| {
        sources.iter().filter(|source| source.core_module() == Some(from)).any(|source| {
            let found = imported(source, exports);
            found.iter().any(|(module, _)| module == to)
        })
    };
    let unused = SAME_FLOOR.iter().filter(|(from, to)| !is_used(from, to));
    unused
        .map(|(from, to)| Finding::new("tests/tests/house/floors.rs", 1, format!("`{from}` no longer imports `{to}`")))
        .collect()
}

fn name(floor: usize) -> &'static str {
    FLOORS.get(floor).map_or("", |(name, _)| name)
}

/// The modules of `core` that `source` names outside its tests, with the line; flat names are followed to their module.
fn imported(source: &Source, exports: &BTreeMap<String, String>) -> Vec<(String, usize)> {
    let tokens = &source.tokens;
    let mut found = Vec::new();
    let mut depth = source.core_depth();
    let mut inline_ends = Vec::new();
    for at in 0..tokens.len() {
        while inline_ends.last().is_some_and(|&end| at >= end) {
            inline_ends.pop();
            depth -= 1;
        }
        if text(tokens, at) == "mod" && text(tokens, at + 2) == "{" {
            inline_ends.push(closing(tokens, at + 2));
            depth += 1;
        }
        let continues = at > 0 && text(tokens, at - 1) == "::";
        if tokens[at].test || continues || text(tokens, at + 1) != "::" {
            continue;
        }
        let Some(start) = from_root(tokens, at, depth) else { continue };
        let mut leaves = Vec::new();
        leaf_paths(tokens, start, &[], &mut leaves);
        for leaf in leaves {
            let Some(head) = leaf.path.first() else { continue };
            let module = if floor(head).is_some() { head } else { exports.get(head).unwrap_or(head) };
            found.push((module.clone(), leaf.line));
        }
    }
    found
}

/// If the path at `at` leads to the crate's root (by `crate::` or by enough `super::`), where it goes on from there.
fn from_root(tokens: &[Token], mut at: usize, depth: usize) -> Option<usize> {
    if reads(tokens, at, &["crate", "::"]) {
        return Some(at + 2);
    }
    if reads(tokens, at, &["self", "::"]) {
        at += 2;
    }
    let mut up = 0;
    while reads(tokens, at, &["super", "::"]) {
        at += 2;
        up += 1;
    }
    (up > 0 && up >= depth).then_some(at)
}

struct Leaf {
    path: Vec<String>,
    /// What it is called here: its last part, or what stands after `as`.
    name: String,
    line: usize,
}

/// The single paths of a path or `use` tree that starts at `at`; returns where it ends.
fn leaf_paths(tokens: &[Token], mut at: usize, prefix: &[String], leaves: &mut Vec<Leaf>) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        if text(tokens, at) == "{" {
            let end = closing(tokens, at);
            at += 1;
            while at < end {
                at = leaf_paths(tokens, at, &path, leaves) + 1;
            }
            return end + 1;
        }
        path.push(text(tokens, at).to_owned());
        at += 1;
        if text(tokens, at) != "::" || text(tokens, at + 1) == "<" {
            break;
        }
        at += 1;
    }
    let mut name = path.last().cloned().unwrap_or_default();
    if text(tokens, at) == "as" {
        name = text(tokens, at + 1).to_owned();
        at += 2;
    }
    leaves.push(Leaf { path, name, line });
    at
}

fn lib() -> BTreeMap<String, String> {
    exports(&Source::new(
        "core/src/lib.rs",
        "pub mod error; mod queue; pub use crate::queue::{Queue, lane::{Lane as QueueLane}}; pub use time::Timestamp;",
    ))
}

fn lines(path: &str, code: &str) -> Vec<usize> {
    imports(&Source::new(path, code), &lib()).into_iter().map(|finding| finding.line).collect()
}

#[test]
fn flat_names_lead_to_their_module() {
    let found = lib();
    let pairs: Vec<_> = found.iter().map(|(name, module)| (name.as_str(), module.as_str())).collect();
    assert_eq!(pairs, [("Queue", "queue"), ("QueueLane", "queue"), ("Timestamp", "time")]);
}

#[test]
fn an_import_upwards_is_found_however_it_is_written() {
    let planted = "use crate::time::Span;\nuse crate::gateway::Gateway;\nuse crate::{error::E, billing::{Price, Book}};\n\
                   fn f(job: crate::job::Job, other: Vec<crate::audit::Entry>) {}\nuse super::wire;\n";
    assert_eq!(lines("core/src/queue.rs", planted), [2, 3, 3, 4, 4, 5]);
    assert_eq!(lines("core/src/queue/lane.rs", "use super::gateway;\nuse super::super::gateway;"), [2]);
    assert_eq!(lines("core/src/queue.rs", "mod inner { use super::job; }\nmod next { use super::super::job; }"), [2]);
    assert_eq!(lines("core/src/time.rs", "use crate::Queue;\nuse crate::{Timestamp, QueueLane};"), [1, 2]);
}

#[test]
fn an_import_sideways_is_found_unless_listed() {
    assert_eq!(lines("core/src/queue.rs", "use crate::limiter::Limiter;"), [1]);
    assert_eq!(lines("core/src/timers.rs", "use crate::heap::IndexedHeap;"), []);
    assert_eq!(lines("core/src/heap.rs", "use crate::timers::Timers;"), [1]);
}

#[test]
fn an_import_of_something_unknown_is_found() {
    assert_eq!(lines("core/src/queue.rs", "use crate::Mystery;\nuse crate::*;"), [1, 2]);
}

#[test]
fn lower_floors_own_parts_other_crates_and_tests_are_fine() {
    let fine = "use crate::time::{Span, Timestamp};\nuse crate::queue::lane::Lane;\nuse crate::Timestamp;\nuse std::gateway::X;\n\
                pub(crate) fn f() {}\n#[cfg(test)] mod tests { use crate::gateway::Gateway; }\n// crate::gateway::G\n";
    assert_eq!(lines("core/src/queue/mod.rs", fine), []);
}

#[test]
fn a_module_without_a_floor_is_found() {
    assert_eq!(placed(&Source::new("core/src/attic/old.rs", "")).len(), 1);
    assert!(placed(&Source::new("core/src/queue/anything.rs", "")).is_empty());
    assert!(placed(&Source::new("core/src/lib.rs", "")).is_empty());
}

#[test]
fn an_exception_nobody_needs_is_found() {
    let using = [Source::new("core/src/timers.rs", "use crate::heap::IndexedHeap;")];
    assert!(unused_exceptions(&using, &lib()).is_empty());
    assert_eq!(unused_exceptions(&[Source::new("core/src/timers.rs", "")], &lib()).len(), SAME_FLOOR.len());
}

#[test]
fn the_exceptions_stay_on_one_floor_and_form_no_circle() {
    let mut left = SAME_FLOOR.to_vec();
    assert!(left.iter().all(|(from, to)| floor(from).is_some() && floor(from) == floor(to)), "not of one floor");
    // Whatever imports nothing that is left goes; a circle is what never goes.
    while !left.is_empty() {
        let before = left.len();
        let froms: Vec<_> = left.iter().map(|(from, _)| *from).collect();
        left.retain(|(_, to)| froms.contains(to));
        assert!(left.len() < before, "a circle among {left:?}");
    }
}
