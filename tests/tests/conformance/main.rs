//! Conformance vectors: logs of commands with the replies they must get and the digest they must end on, in `vectors/`.
//! Every language that drives a gateway replays them, byte for byte; `vectors/README.md` tells their format.
//! `GATEWAY_VECTORS=write cargo test -p libgateway-tests --test conformance` writes them anew.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what a test expects and does not get ends it"
)]

mod clock;
mod log;
mod money;
mod queue;
mod refusals;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Once;

use libgateway::{
    AfterFailure, Command, Entry, FailureClass, Gateway, GatewayConfig, Leaf, Reply, Step, Timestamp, error,
};
use serde_json::Value;

use crate::log::Log;

type Theme = (&'static str, fn() -> Log);

/// Each theme with what makes its vector.
const THEMES: [Theme; 23] = [
    ("basics", queue::basics),
    ("fairness", queue::fairness),
    ("fifo", queue::fifo),
    ("limits", queue::limits),
    ("ageing", queue::ageing),
    ("deadlines", queue::deadlines),
    ("fleet", queue::fleet),
    ("breaker", queue::breaker),
    ("retries", queue::retries),
    ("holds", queue::holds),
    ("lease_expiry", queue::lease_expiry),
    ("clock", clock::clock),
    ("cancel", queue::cancel),
    ("idempotency", refusals::idempotency),
    ("restarts", refusals::restarts),
    ("transactions", refusals::transactions),
    ("bad_input", refusals::bad_input),
    ("settlements", money::settlements),
    ("late_usage", money::late_usage),
    ("random_1", || money::random(748, 1)),
    ("random_2", || money::random(6, 1)),
    ("random_3", || money::random(37, SECOND)),
    ("random_4", || money::random(592, SECOND)),
];

/// Error numbers that no command is answered with, and why.
const NEVER_REPLIED: [(u16, &str); 15] = [
    (205, "of a sum or a price by itself"),
    (605, "of the job store by itself"),
    (1101, "of the billing collector by itself"),
    (1102, "of the billing collector by itself"),
    (1104, "of a price by itself"),
    (1113, "of the outbox by itself"),
    (1201, "of a snapshot"),
    (1202, "of a snapshot"),
    (1203, "of a snapshot"),
    (1204, "of a snapshot"),
    (1205, "of a snapshot"),
    (1206, "of a snapshot"),
    (1301, "of a text that is no command"),
    (1302, "of bytes that are no command"),
    (1501, "of a shared gateway"),
];

#[test]
fn the_vectors_are_what_the_gateway_answers_today() {
    for (name, make) in THEMES {
        let (text, known) = (make().finish(), read(name));
        for (number, (old, new)) in known.lines().zip(text.lines()).enumerate() {
            assert_eq!(old, new, "{name}.jsonl:{}: the file (left) and today's answer (right)", number + 1);
        }
        assert_eq!(known.lines().count(), text.lines().count(), "{name}.jsonl has as many lines");
    }
}

#[test]
fn every_vector_is_listed() {
    read("basics");
    let listed: BTreeSet<String> = THEMES.iter().map(|(name, _)| format!("{name}.jsonl")).collect();
    let files = fs::read_dir(path("basics").parent().unwrap()).unwrap();
    let files = files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned());
    let there: BTreeSet<String> = files.filter(|name| name != "README.md").collect();
    assert_eq!(there, listed);
}

#[test]
fn a_replayed_vector_gives_the_same_replies_and_digest() {
    replay_all(&|entry, gateway| gateway.apply(Entry::from_json(entry).unwrap()).to_json());
}

#[test]
fn a_vector_through_postcard_gives_the_same_replies_and_digest() {
    replay_all(&|entry, gateway| {
        let entry = Entry::from_json(entry).unwrap();
        let bytes = entry.to_bytes();
        let copy = Entry::from_bytes(&bytes).unwrap();
        assert_eq!(copy, entry);
        assert_eq!(copy.to_json(), entry.to_json());
        gateway.apply(copy).to_json()
    });
}

#[test]
fn restarts_in_the_middle_of_a_vector_change_nothing() {
    for (name, _) in THEMES {
        for every in [1, 7, 50] {
            replay(name, &mut |number, entry, gateway| {
                let reply = gateway.apply(Entry::from_json(entry).unwrap()).to_json();
                if number % every == 0 {
                    *gateway = Gateway::replica(&gateway.snapshot()).unwrap();
                }
                reply
            });
        }
    }
}

#[test]
fn the_vectors_reach_every_error_a_command_can_be_answered_with() {
    let mut reached = BTreeSet::new();
    for_each_step(|_, reply| {
        let number = reply["error"]["number"].as_u64();
        reached.extend(number.map(|number| number as u16));
    });
    let never: BTreeSet<u16> = NEVER_REPLIED.iter().map(|(number, _)| *number).collect();
    let all: BTreeSet<u16> = error::all().map(|(number, _)| number).collect();
    assert_eq!(
        reached,
        all.difference(&never).copied().collect(),
        "reached (left), all but those never replied (right)"
    );
}

#[test]
fn the_vectors_hold_every_kind_of_command_and_of_reply() {
    let (mut commands, mut steps, mut leaves) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut replies, mut fates, mut failures) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for_each_step(|entry, reply| {
        let command = &entry["command"];
        commands.insert(kind(command));
        for step in group(command) {
            steps.insert(kind(step));
            leaves.extend(group(step).iter().map(kind));
        }
        replies.insert(kind(reply));
        if let Some(fate) = reply.get("failed") {
            fates.insert(kind(fate));
        }
        if let Some(fail) = command.get("fail") {
            failures.insert(kind(&fail["failure"]["class"]));
        }
    });
    assert_eq!(commands, kinds(serde_json::from_str::<Command<'_>>(UNKNOWN).err()), "commands");
    assert_eq!(steps, kinds(serde_json::from_str::<Step<'_>>(UNKNOWN).err()), "steps of transactions");
    assert_eq!(leaves, kinds(serde_json::from_str::<Leaf<'_>>(UNKNOWN).err()), "steps within steps");
    assert_eq!(replies, kinds(serde_json::from_str::<Reply>(UNKNOWN).err()), "replies");
    assert_eq!(fates, kinds(serde_json::from_str::<AfterFailure>(UNKNOWN).err()), "what becomes of a failed job");
    assert_eq!(failures, kinds(serde_json::from_str::<FailureClass>(UNKNOWN).err()), "classes of failures");
}

/// The names a type knows, as it tells them itself when it is given [`UNKNOWN`].
fn kinds(error: Option<serde_json::Error>) -> BTreeSet<String> {
    let error = error.expect("nothing is called ?").to_string();
    let (_, names) = error.split_once("expected").expect("the error tells what was expected");
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The kind of something: its one key, or the word itself where it has no parts.
fn kind(value: &Value) -> String {
    let key = value.as_object().and_then(|object| object.keys().next());
    key.map(String::as_str).or(value.as_str()).expect("a kind").to_owned()
}

/// The steps of a group.
fn group(value: &Value) -> &[Value] {
    let steps = value.get("all").or_else(|| value.get("first_of"));
    steps.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Every entry of all vectors with its reply.
fn for_each_step(mut see: impl FnMut(&Value, &Value)) {
    for (name, _) in THEMES {
        for (entry, reply) in read(name).lines().filter_map(split) {
            see(&serde_json::from_str(entry).unwrap(), &serde_json::from_str(reply).unwrap());
        }
    }
}

/// The entry and the reply of a line, as they stand there. `None`: it is the first line or the last.
fn split(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix(r#"{"entry":"#)?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
    values.next()?.ok()?;
    let (entry, rest) = rest.split_at(values.byte_offset());
    Some((entry, rest.strip_prefix(r#","reply":"#)?.strip_suffix('}')?))
}

fn replay_all(apply: &dyn Fn(&str, &mut Gateway) -> String) {
    for (name, _) in THEMES {
        replay(name, &mut |_, entry, gateway| apply(entry, gateway));
    }
}

/// Replays a file and compares it line by line.
fn replay(name: &str, apply: &mut dyn FnMut(usize, &str, &mut Gateway) -> String) {
    let text = read(name);
    let lines: Vec<&str> = text.lines().collect();
    let [first, lines @ .., last] = lines.as_slice() else { panic!("{name}.jsonl has too few lines") };
    let first: Value = serde_json::from_str(first).unwrap();
    let config: GatewayConfig = serde_json::from_value(first["config"].clone()).unwrap();
    let mut gateway = Gateway::new(config, Timestamp::from_nanos(first["now"].as_u64().unwrap())).unwrap();
    for (number, line) in lines.iter().enumerate() {
        let at = number + 2;
        let (entry, expected) = split(line).unwrap_or_else(|| panic!("{name}.jsonl:{at}: no entry with its reply"));
        let reply = apply(number + 1, entry, &mut gateway);
        assert_eq!(reply, expected, "{name}.jsonl:{at}: today's reply (left) to {entry}");
        let told = Entry::from_json(entry).unwrap().to_json();
        assert_eq!(told, entry, "{name}.jsonl:{at}: the entry, read and written");
    }
    assert_eq!(format!(r#"{{"digest":"{}"}}"#, gateway.digest()), *last, "{name}.jsonl: the digest");
}

fn read(name: &str) -> String {
    static WRITTEN: Once = Once::new();
    WRITTEN.call_once(|| {
        if std::env::var("GATEWAY_VECTORS").is_ok_and(|mode| mode == "write") {
            for (name, make) in THEMES {
                fs::write(path(name), make().finish()).unwrap();
            }
        }
    });
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(format!("{name}.jsonl"))
}

const SECOND: u64 = 1_000_000_000;
const UNKNOWN: &str = r#"{"?":0}"#;
