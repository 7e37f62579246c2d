//! Rules that look at one file, or at the list of files.

use crate::source::{Finding, Source, Token, closing, reads, text};

/// What may stand at the top of the repository.
const TOP: &[&str] = &[
    ".ci",
    ".editorconfig",
    ".gitattributes",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "Makefile",
    "README.md",
    "bindings-c",
    "bindings-python",
    "clippy.toml",
    "core",
    "docs",
    "examples",
    "fuzz",
    "include",
    "runtime",
    "rustfmt.toml",
    "tests",
];

/// Longer files are asking to be split by idea.
const LINES_MAX: usize = 800;
/// Extensions of the files people write here.
const WRITTEN: &[&str] = &["rs", "py", "pyi", "c", "h", "cc", "cpp", "hpp"];
/// Generated, so its length is nobody's choice.
const GENERATED: &[&str] = &["include/gateway.h"];

/// Modules of `core` whose state and decisions are integers; a name also stands for those that start with it.
const INTEGER_ONLY: &[&str] = &["queue", "limiter", "breaker", "billing", "audit", "gateway", "job", "backend"];

/// Modules of `core` that feature `std` adds.
const STD: &[&str] = &["shared", "system_clock"];

/// Ways into the world that the rest of `core` does not take, in its tests neither.
const WORLD: &[&[&str]] = &[
    &["SystemTime"],
    &["Instant"],
    &["std", "::", "env"],
    &["std", "::", "thread"],
    &["rand", "::"],
    &["getrandom", "::"],
];

/// Names that wait for real time to pass.
const SLEEPS: &[&str] = &["sleep", "sleep_ms", "sleep_until", "msleep", "usleep", "nanosleep", "clock_nanosleep"];

/// The top level holds only what [`TOP`] lists.
pub(crate) fn top_level(paths: &[String]) -> Vec<Finding> {
    let mut tops: Vec<&str> = paths.iter().filter_map(|path| path.split('/').next()).collect();
    tops.sort_unstable();
    tops.dedup();
    tops.retain(|top| !TOP.contains(top));
    tops.into_iter().map(|top| Finding::new(top, 1, "does not belong at the top of the repository")).collect()
}

/// No file of ours is longer than [`LINES_MAX`].
pub(crate) fn length(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    let counts = WRITTEN.contains(&source.extension()) && !GENERATED.contains(&source.path.as_str());
    if !counts || lines <= LINES_MAX {
        return Vec::new();
    }
    vec![Finding::new(&source.path, lines, format!("more than {LINES_MAX} lines: split it by idea"))]
}

/// `core/src/lib.rs` is `no_std` and forbids `unsafe`, without conditions.
pub(crate) fn core_attributes(source: &Source) -> Vec<Finding> {
    if source.path != "core/src/lib.rs" {
        return Vec::new();
    }
    let has = |words: &[&str]| (0..source.tokens.len()).any(|at| reads(&source.tokens, at, words));
    let mut findings = Vec::new();
    if !has(&["#", "!", "[", "no_std", "]"]) {
        findings.push(Finding::new(&source.path, 1, "lacks `#![no_std]`"));
    }
    if !has(&["#", "!", "[", "forbid", "(", "unsafe_code", ")", "]"]) {
        findings.push(Finding::new(&source.path, 1, "lacks `#![forbid(unsafe_code)]`"));
    }
    findings
}

/// The keyword `unsafe` stands under `bindings-c` only.
pub(crate) fn no_unsafe(source: &Source) -> Vec<Finding> {
    if source.path.starts_with("bindings-c/") {
        return Vec::new();
    }
    each(source, |tokens, at| text(tokens, at) == "unsafe", "`unsafe` belongs into bindings-c")
}

/// No float in a state or decision of `core`: neither type nor literal, outside tests.
pub(crate) fn no_floats(source: &Source) -> Vec<Finding> {
    let is_bound = source.core_module().is_some_and(|module| INTEGER_ONLY.iter().any(|name| module.starts_with(name)));
    if !is_bound {
        return Vec::new();
    }
    let found = |tokens: &[Token], at: usize| !tokens[at].test && is_float(text(tokens, at));
    each(source, found, "a float: count in integers of a named unit")
}

/// `core` reads no clock, no environment, no dice and starts no thread; outside tests it does not name `std` at all.
/// `shared` is the exception to both.
pub(crate) fn no_world(source: &Source) -> Vec<Finding> {
    if source.core_module().is_none_or(|module| STD.contains(&module)) {
        return Vec::new();
    }
    let is_world = |tokens: &[Token], at: usize| WORLD.iter().any(|words| reads(tokens, at, words));
    let mut findings = each(source, is_world, "the world stays outside of core: take it as an argument");
    let is_std = |tokens: &[Token], at: usize| !tokens[at].test && reads(tokens, at, &["std", "::"]);
    findings.extend(each(source, is_std, "`std` in core is for shared and system_clock alone: use core or alloc"));
    findings
}

/// Tests pass time in, they do not wait for it.
pub(crate) fn no_sleep(source: &Source) -> Vec<Finding> {
    let what = "tests do not sleep: hand the time in";
    if source.extension() == "rs" {
        return each(source, |tokens, at| tokens[at].test && SLEEPS.contains(&text(tokens, at)), what);
    }
    let is_test = WRITTEN.contains(&source.extension()) && source.path.split('/').any(|part| part == "tests");
    let numbered = source.text.lines().enumerate().filter(|_| is_test);
    let found = numbered.filter(|(_, line)| {
        let code = line.split("//").next().unwrap_or(line).split('#').next().unwrap_or("");
        // Giving the event loop its turn waits for nothing.
        let code = code.replace("asyncio.sleep(0)", "");
        code.split(|c: char| c != '_' && !c.is_alphanumeric()).any(|word| SLEEPS.contains(&word))
    });
    found.map(|(index, _)| Finding::new(&source.path, index + 1, what)).collect()
}

/// A test that does not run says so at the end of `make test`; `#[ignore]` would hide it.
pub(crate) fn no_ignored_test(source: &Source) -> Vec<Finding> {
    let is_ignored = |tokens: &[Token], at: usize| reads(tokens, at, &["#", "[", "ignore"]);
    each(source, is_ignored, "an ignored test proves nothing: let it run, or delete it")
}

/// Chained `if let` came with Rust 1.88, and newer compilers do not say that it is too new for `rust-version`.
pub(crate) fn no_let_chain(source: &Source) -> Vec<Finding> {
    let is_chain = |tokens: &[Token], at: usize| {
        reads(tokens, at, &["&&", "let"])
            || (matches!(text(tokens, at), "if" | "while") && text(tokens, at + 1) == "let" && has_and(tokens, at + 2))
    };
    each(source, is_chain, "a let-chain needs a newer Rust than `rust-version`")
}

/// Each file of `core/src` opens with a line that says what it is.
pub(crate) fn opens_with_doc(source: &Source) -> Vec<Finding> {
    if source.core_module().is_none() || source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![Finding::new(&source.path, 1, "the first line says what the file is, after `//! `")]
}

/// The changelog has a place for what is not released yet.
pub(crate) fn changelog(source: &Source) -> Vec<Finding> {
    let has = source.text.lines().any(|line| matches!(line.trim(), "## [Unreleased]" | "## Unreleased"));
    if source.path != "CHANGELOG.md" || has {
        return Vec::new();
    }
    vec![Finding::new(&source.path, 1, "lacks a section `## [Unreleased]`")]
}

/// One finding for each token at which `is_found`.
fn each(source: &Source, is_found: impl Fn(&[Token], usize) -> bool, what: &str) -> Vec<Finding> {
    let tokens = &source.tokens;
    (0..tokens.len()).filter(|&at| is_found(tokens, at)).map(|at| source.at(&tokens[at], what)).collect()
}

fn is_float(word: &str) -> bool {
    if word == "f32" || word == "f64" {
        return true;
    }
    let after_digits = word.trim_start_matches(|c: char| c == '_' || c.is_ascii_digit());
    let is_number = word.starts_with(|c: char| c.is_ascii_digit());
    is_number && (after_digits.starts_with(['.', 'e', 'E']) || after_digits == "f32" || after_digits == "f64")
}

/// Whether the condition that begins at `at` has an `&&` of its own before its block.
fn has_and(tokens: &[Token], mut at: usize) -> bool {
    while at < tokens.len() {
        match text(tokens, at) {
            "{" | ";" => return false,
            "(" | "[" => at = closing(tokens, at),
            // After these it is a reference to a reference.
            "&&" if !matches!(text(tokens, at - 1), "let" | "=" | "|" | "&&" | "return") => return true,
            _ => {}
        }
        at += 1;
    }
    false
}

fn lines(rule: fn(&Source) -> Vec<Finding>, path: &str, code: &str) -> Vec<usize> {
    rule(&Source::new(path, code)).into_iter().map(|finding| finding.line).collect()
}

#[test]
fn a_stray_entry_at_the_top_is_found() {
    let paths = ["core/src/lib.rs", "notes.txt", "scripts/a.sh", "Makefile", "scripts/b.sh"].map(str::to_owned);
    let found: Vec<_> = top_level(&paths).into_iter().map(|finding| finding.path).collect();
    assert_eq!(found, ["notes.txt", "scripts"]);
}

#[test]
fn the_line_after_the_last_allowed_one_is_found() {
    let long = "x\n".repeat(LINES_MAX + 1);
    assert_eq!(lines(length, "core/src/queue.rs", &"x\n".repeat(LINES_MAX)), []);
    assert_eq!(lines(length, "core/src/queue.rs", &long), [LINES_MAX + 1]);
    assert_eq!(lines(length, "bindings-python/python/libgateway/aio.py", &long), [LINES_MAX + 1]);
    assert_eq!(lines(length, "include/gateway.h", &long), []);
    assert_eq!(lines(length, "docs/guide.md", &long), []);
}

#[test]
fn a_core_with_std_or_with_unsafe_is_found() {
    assert_eq!(lines(core_attributes, "core/src/lib.rs", "//! #![no_std]\n#![forbid(unsafe_code)]"), [1]);
    assert_eq!(lines(core_attributes, "core/src/lib.rs", "#![no_std]\n#![deny(unsafe_code)]"), [1]);
    assert_eq!(lines(core_attributes, "core/src/lib.rs", "#![cfg_attr(not(test), no_std)]"), [1, 1]);
    assert_eq!(lines(core_attributes, "core/src/lib.rs", "#![no_std]\n#![forbid(unsafe_code)]"), []);
}

#[test]
fn unsafe_outside_the_c_binding_is_found() {
    let planted = "#![forbid(unsafe_code)]\n// unsafe\nfn f() { unsafe { g() } }";
    assert_eq!(lines(no_unsafe, "runtime/src/lib.rs", planted), [3]);
    assert_eq!(lines(no_unsafe, "bindings-c/src/lib.rs", planted), []);
}

#[test]
fn a_float_in_a_decision_is_found() {
    let planted =
        "let a: f64 = x;\nlet b = 0.5;\nlet c = 1e3;\nlet d = 2f32;\nlet e = (x.0.1, 0xf32, 0..9, 1usize, 1_000u64);";
    assert_eq!(lines(no_floats, "core/src/limiter/bucket.rs", planted), [1, 2, 3, 4]);
    assert_eq!(lines(no_floats, "core/src/breaker_pool.rs", planted), [1, 2, 3, 4]);
    assert_eq!(lines(no_floats, "core/src/histogram.rs", planted), []);
    assert_eq!(lines(no_floats, "core/src/job.rs", "#[cfg(test)] mod tests { fn mean() -> f64 { 0.5 } }"), []);
}

#[test]
fn the_world_in_core_is_found() {
    let planted =
        "use std::time::Instant;\nlet t = SystemTime::now();\nstd::env::var(x);\nrand::random();\nuse std::fmt;";
    let mut found = lines(no_world, "core/src/queue.rs", planted);
    found.sort_unstable();
    assert_eq!(found, [1, 1, 2, 3, 3, 4, 5]);
    assert_eq!(lines(no_world, "core/src/shared.rs", planted), []);
    assert_eq!(lines(no_world, "runtime/src/lib.rs", planted), []);
    let in_tests = "#[cfg(test)] mod tests {\nuse std::vec::Vec;\nuse std::thread;\n}\nextern crate std;";
    assert_eq!(lines(no_world, "core/src/queue.rs", in_tests), [3]);
}

#[test]
fn a_test_that_sleeps_is_found() {
    assert_eq!(lines(no_sleep, "tests/tests/x.rs", "use std::thread;\nfn f() { thread::sleep(d) }"), [2]);
    assert_eq!(lines(no_sleep, "core/src/x.rs", "fn sleep() {}\n#[cfg(test)] mod tests { fn f() { sleep(1) } }"), [2]);
    assert_eq!(lines(no_sleep, "bindings-c/tests/x.c", "/* a */ usleep(5);\n// usleep(5)"), [1]);
    let python = "time.sleep(1)\nawait asyncio.sleep(0)\nawait asyncio.sleep(0.1)\nsleepy = 1  # sleep";
    assert_eq!(lines(no_sleep, "bindings-python/tests/test_x.py", python), [1, 3]);
    assert_eq!(lines(no_sleep, "examples/python/worker.py", python), []);
}

#[test]
fn an_ignored_test_is_found() {
    assert_eq!(lines(no_ignored_test, "core/src/x.rs", "#[test]\n#[ignore]\nfn a() {}\n#[ignore = \"slow\"]"), [2, 4]);
    assert_eq!(lines(no_ignored_test, "core/src/x.rs", "let ignore = [ignore]; // #[ignore]"), []);
}

#[test]
fn a_let_chain_is_found() {
    let planted = "if let Some(a) = b && c {}\nif c && let Some(a) = b {}\nwhile let Some(a) = f(x && y) && z {}\n";
    assert_eq!(lines(no_let_chain, "core/src/x.rs", planted), [1, 2, 3]);
    let fine =
        "if let Some(a) = f(x && y) { p && q }\nif let &&a = &&b {}\nif a && b {}\nlet Some(a) = b else { c && d };";
    assert_eq!(lines(no_let_chain, "core/src/x.rs", fine), []);
}

#[test]
fn a_file_of_core_that_does_not_say_what_it_is_is_found() {
    assert_eq!(lines(opens_with_doc, "core/src/queue/lane.rs", "use core::fmt;\n//! Lanes."), [1]);
    assert_eq!(lines(opens_with_doc, "core/src/queue/lane.rs", "//! Lanes.\n"), []);
    assert_eq!(lines(opens_with_doc, "core/build.rs", "fn main() {}"), []);
}

#[test]
fn a_changelog_without_a_place_for_the_next_line_is_found() {
    assert_eq!(lines(changelog, "CHANGELOG.md", "# Changelog\n\n## [0.1.0]\n"), [1]);
    assert_eq!(lines(changelog, "CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n"), []);
}
