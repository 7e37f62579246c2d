//! Running the real programs.
#![allow(dead_code, reason = "each test program uses its part of this")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file under `tests/data`.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A folder of one test's own, empty.
pub(crate) fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("the folder of an earlier run can be removed");
    }
    fs::create_dir_all(&folder).expect("a folder can be made");
    folder
}

/// Runs `replay`.
pub(crate) fn replay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_replay")).args(arguments).output().expect("replay can be started")
}

/// Runs `replay --json`; it has to succeed.
#[track_caller]
pub(crate) fn replay_json(arguments: &[&str]) -> Value {
    let output = replay(&[arguments, &["--json"]].concat());
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && words.is_empty(), "{arguments:?}: {words}");
    let text = String::from_utf8(output.stdout).expect("the output is UTF-8");
    assert_eq!(text.matches('\n').count(), 1, "one object, one line");
    serde_json::from_str(&text).expect("the output is JSON")
}

/// What `script` writes when it reads `input`; it has to succeed.
#[track_caller]
pub(crate) fn script(input: &[u8]) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_script"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script can be started");
    let mut stdin = child.stdin.take().expect("its input is ours");
    let input = input.to_vec();
    // From another thread: it answers while it reads, and a pipe holds only so much.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("script ends");
    writer.join().expect("the writer ends").expect("script reads to the end");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("the output is UTF-8")
}

/// A number of the JSON output.
#[track_caller]
pub(crate) fn number(json: &Value, key: &str) -> u64 {
    json[key].as_u64().unwrap_or_else(|| panic!("{key} is no whole number: {}", json[key]))
}

/// Nanoseconds of a canonical decimal of seconds.
#[track_caller]
pub(crate) fn nanos(decimal: &str) -> u128 {
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    assert!(!fraction.ends_with('0') && fraction.len() <= 9, "{decimal} is not canonical");
    format!("{whole}{fraction:0<9}").parse().unwrap_or_else(|_| panic!("{decimal} is no decimal"))
}

/// The sum of an object of decimals, in nanoseconds.
#[track_caller]
pub(crate) fn sum(json: &Value) -> u128 {
    let object = json.as_object().expect("an object");
    object.values().map(|value| nanos(value.as_str().expect("a decimal is a text"))).sum()
}

/// Says that something could not be checked here, where `make test` ends with it.
pub(crate) fn skipped(what: &str, why: &str) {
    let line = format!("skipped: {what} ({why})\n");
    print!("{line}");
    if let Some(path) = std::env::var_os("GATEWAY_SKIPPED") {
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of what was skipped can be written");
    }
}
