//! `script`: a line in, a line out, whatever the line is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use common::script;
use libgateway::{Entry, Gateway, GatewayConfig, Reply, Timestamp};

const ADVANCE: &str = r#"{"now":7,"command":{"advance":{}}}"#;

fn replies(input: &[u8]) -> Vec<Reply> {
    let output = script(input);
    let mut lines: Vec<&str> = output.lines().collect();
    assert!(lines.pop().is_some_and(|line| line.starts_with("{\"digest\":\"")), "{output}");
    lines.into_iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn digest(input: &[u8]) -> String {
    script(input).lines().last().unwrap_or_default().to_owned()
}

fn name(reply: &Reply) -> &str {
    reply.error().map_or("", |error| &error.name)
}

#[test]
fn the_digest_is_that_of_the_library() {
    let mut gateway = Gateway::new(GatewayConfig::default(), Timestamp::from_nanos(7)).unwrap();
    gateway.apply(Entry::from_json(ADVANCE).unwrap());
    assert_eq!(digest(ADVANCE.as_bytes()), format!("{{\"digest\":\"{}\"}}", gateway.digest()));
    let configured = format!("{{\"config\":{{\"seed\":1}},\"now\":7}}\n{ADVANCE}\n");
    assert_ne!(digest(configured.as_bytes()), digest(ADVANCE.as_bytes()), "the configuration is part of the state");
    assert_ne!(digest(b""), digest(ADVANCE.as_bytes()));
    assert_eq!(digest(b"what\n"), digest(b""), "a line that is refused changes nothing");
}

#[test]
fn the_configuration_comes_first_or_not_at_all() {
    let told = |input: &str| replies(input.as_bytes()).iter().map(|reply| name(reply).to_owned()).collect::<Vec<_>>();
    assert_eq!(told("{\"config\":{},\"now\":1}\n{\"config\":{},\"now\":1}\n"), ["", "not_a_command"]);
    assert_eq!(told(&format!("{ADVANCE}\n{{\"config\":{{}},\"now\":1}}\n")), ["", "not_a_command"]);
    // One that cannot be may be put right.
    let wrong = "{\"config\":{\"jobs_max\":0},\"now\":1}\n{\"config\":{\"jobs\":1},\"now\":1}\n{\"config\":{\"jobs_max\":1},\"now\":1}\n";
    assert_eq!(told(wrong), ["out_of_range", "not_a_command", ""]);
}

#[test]
fn lines_that_are_no_commands_are_answered_one_by_one() {
    let mut input = Vec::new();
    input.extend_from_slice(b"\n\r\n{}\nnull\n\xff\xfe\n");
    input.extend_from_slice(&[b"[".repeat(100_000), b"\n".to_vec()].concat());
    input.extend_from_slice(&[b"\"".to_vec(), vec![b'x'; 17 << 20], b"\"\n".to_vec()].concat());
    input.extend_from_slice(ADVANCE.as_bytes());
    let replies = replies(&input);
    let names: Vec<&str> = replies.iter().map(name).collect();
    assert_eq!(names, [vec!["not_a_command"; 7], vec![""]].concat());
    assert!(replies[6].error().unwrap().message.contains("longer than 16777216 bytes"));
}

#[test]
fn a_million_bytes_of_noise_are_survived() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |end: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % end
    };
    let valid = [
        ADVANCE,
        r#"{"now":9,"command":{"put_backend":{"name":"b","kind":"vllm","modality":"m","family":"f","models":"all"}}}"#,
        r#"{"now":18446744073709551615,"command":{"submit":{"id":"j_00000000000000000000000001","customer":"c","route":"m/f/x/chat","tokens":4294967295}}}"#,
        r#"{"now":10,"command":{"dispatch":{}}}"#,
        r#"{"now":11,"command":{"complete":{"lease":1,"output":{"inline":"x"},"usage":[{"device":"d","gpu_ns":18446744073709551615}]}}}"#,
        r#"{"now":11,"command":{"all":[{"dispatch":{}},{"first_of":[{"release":{"lease":2}}]}]}}"#,
        r#"{"now":12,"command":{"take_settlements":{"max":4294967295}}}"#,
    ];
    let mut input = Vec::new();
    let mut count = 0;
    while input.len() < 1_000_000 {
        let mut line = valid[random(valid.len() as u64) as usize].as_bytes().to_vec();
        for _ in 0..random(4) {
            let at = random(line.len() as u64) as usize;
            match random(3) {
                0 => line[at] = random(256) as u8,
                1 => drop(line.remove(at)),
                _ => line.insert(at, b"{}[]\",:0-9e."[random(12) as usize]),
            }
        }
        line.retain(|byte| *byte != b'\n');
        input.extend_from_slice(&line);
        input.push(b'\n');
        count += 1;
    }
    let replies = replies(&input);
    assert_eq!(replies.len(), count);
    let refused = replies.iter().filter(|reply| name(reply) == "not_a_command").count();
    assert!(refused > count / 4 && refused < count * 3 / 4, "{refused} of {count}: noise and sense are both there");
    assert_eq!(digest(&input), digest(&input));
}

#[test]
fn whoever_waits_for_an_answer_gets_it() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_script"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script can be started");
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for now in 1..=3 {
        let mut asked = String::new();
        writeln!(asked, "{{\"now\":{now},\"command\":{{\"advance\":{{}}}}}}").unwrap();
        stdin.write_all(asked.as_bytes()).unwrap();
        let mut answered = String::new();
        stdout.read_line(&mut answered).unwrap();
        assert!(answered.starts_with("{\"advanced\":"), "{answered}");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_argument_is_answered_by_the_usage() {
    let output = Command::new(env!("CARGO_BIN_EXE_script")).arg("file.jsonl").output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: script"));
}

#[test]
fn the_quickstart_does_what_it_says_in_thirty_lines() {
    let output = Command::new(env!("CARGO_BIN_EXE_quickstart")).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(printed.contains("used 1.7 GPU-seconds and costs 0.00204 USD"), "{printed}");
    let code = include_str!("../src/bin/quickstart.rs");
    assert!(code.lines().count() <= 36, "{} lines", code.lines().count());
}
