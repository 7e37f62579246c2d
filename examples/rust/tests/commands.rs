//! docs/commands.md says what is so: its session runs through the real program, and its lists are those of the types.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use common::script;
use libgateway::{
    BackoffConfig, Batch, BillingPolicy, CircuitBreakerConfig, Command, CustomerPolicy, DeviceTime, DeviceUsage, Entry,
    Failure, GatewayConfig, Leaf, RateLimit, Reply, Settled, Settlement, Step, TakenSettlements, Timeouts, error,
};
use serde::Deserialize;
use serde_json::Value;

/// The page as its parts: a line of the session, or any other.
enum Line<'d> {
    Asked(&'d str),
    Answered(&'d str),
    Other(&'d str),
}

fn path() -> PathBuf {
    common::root().join("docs/commands.md")
}

fn page() -> String {
    fs::read_to_string(path()).expect("docs/commands.md can be read")
}

fn lines(page: &str) -> Vec<Line<'_>> {
    page.lines()
        .map(|line| match line.split_at_checked(1) {
            Some((">", asked)) => Line::Asked(asked.trim_start()),
            Some(("<", answered)) => Line::Answered(answered.trim_start()),
            _ => Line::Other(line),
        })
        .collect()
}

fn asked(page: &str) -> Vec<&str> {
    lines(page).into_iter().filter_map(|line| if let Line::Asked(asked) = line { Some(asked) } else { None }).collect()
}

fn answered(page: &str) -> Vec<&str> {
    let answered = |line| if let Line::Answered(answered) = line { Some(answered) } else { None };
    lines(page).into_iter().filter_map(answered).collect()
}

/// What `script` answers to the page's session, a reply for each line; the digest is cut off.
fn replies(page: &str) -> Vec<String> {
    let session = asked(page).join("\n") + "\n";
    let mut replies: Vec<String> = script(session.as_bytes()).lines().map(str::to_owned).collect();
    let digest = replies.pop().expect("the digest is the last line");
    assert!(digest.starts_with("{\"digest\":\"") && digest.len() == 77, "{digest}");
    replies
}

/// With `UPDATE_DOCS=1` the page is written anew, for somebody to read the difference.
#[test]
fn every_documented_reply_is_the_real_one() {
    let page = page();
    let real = replies(&page);
    assert_eq!(real.len(), asked(&page).len(), "a line in, a line out");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let mut real = real.iter();
        let told = lines(&page).into_iter().map(|line| match line {
            Line::Asked(asked) => format!("> {asked}\n"),
            Line::Answered(_) => format!("< {}\n", real.next().map_or("", String::as_str)),
            Line::Other(other) => format!("{other}\n"),
        });
        fs::write(path(), told.collect::<String>()).expect("docs/commands.md can be written");
        return;
    }
    for ((asked, answered), real) in asked(&page).iter().zip(answered(&page)).zip(&real) {
        assert_eq!(answered, real, "\nto {asked}\n(UPDATE_DOCS=1 writes the page anew)");
    }
    assert_eq!(answered(&page).len(), real.len());
}

#[test]
fn every_documented_line_means_what_the_types_mean() {
    let page = page();
    let mut commands = 0;
    for line in asked(&page) {
        // The configuration, and what is shown as no command.
        let Ok(entry) = Entry::from_json(line) else { continue };
        commands += 1;
        let again = entry.to_json();
        assert_eq!(Entry::from_json(&again).as_ref(), Ok(&entry), "{line}");
        assert_eq!(Entry::from_bytes(&entry.to_bytes()).as_ref(), Ok(&entry), "{line}");
    }
    assert_eq!(commands, asked(&page).len() - 4, "all but four lines are commands");
    for line in answered(&page) {
        let reply: Reply = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(reply.to_json(), line);
    }
}

/// The names serde knows at a place: it lists them when it gets one it does not know.
fn names<'j, T: Deserialize<'j>>(json: &'j str) -> Vec<String> {
    let error = serde_json::from_str::<T>(json).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.starts_with("unknown "), "{json} should not be known: {error}");
    let list = error.split_once(", ").map_or("", |(_, list)| list);
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn commands() -> Vec<String> {
    names::<Command<'_>>(r#"{"?":0}"#)
}

/// Every object key anywhere in a value.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                found.insert(key.clone());
                keys(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        _ => {}
    }
}

fn keys_of(lines: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in lines {
        keys(&serde_json::from_str(line).unwrap_or_default(), &mut found);
    }
    found
}

#[test]
fn every_command_and_every_reply_has_an_example() {
    let page = page();
    assert!(commands().len() >= 27, "{:?}", commands());
    let shown: BTreeSet<String> = asked(&page)
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["command"].as_object()?.keys().next().cloned())
        .collect();
    for command in commands() {
        assert!(shown.contains(&command), "no example of the command {command}");
        assert!(page.contains(&format!("### `{command}`\n")), "no section on the command {command}");
    }
    let replies = names::<Reply>(r#"{"?":0}"#);
    assert!(replies.len() >= 15, "{replies:?}");
    let keys = keys_of(&answered(&page));
    for reply in replies {
        assert!(keys.contains(&reply), "no example of the reply {reply}");
        assert!(page.contains(&format!("| `{reply}` | ")), "the reply {reply} is not in the table");
    }
}

/// The text from a heading to the next of its rank or above.
fn section<'p>(page: &'p str, heading: &str) -> &'p str {
    let start = page.find(&format!("{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let rest = &page[start + heading.len()..];
    let ranks: &[&str] = if heading.starts_with("### ") { &["\n### ", "\n## "] } else { &["\n## "] };
    let end = ranks.iter().filter_map(|rank| rest.find(rank)).min();
    &rest[..end.unwrap_or(rest.len())]
}

#[track_caller]
fn tells(page: &str, heading: &str, fields: &[String]) {
    let section = section(page, heading);
    for field in fields {
        assert!(section.contains(&format!("`{field}`")), "{heading} does not tell of {field}");
    }
}

#[test]
fn every_field_is_documented_where_it_belongs() {
    let page = page();
    for command in commands() {
        if command == "all" || command == "first_of" {
            continue;
        }
        let fields = names::<Command<'_>>(&format!(r#"{{"{command}":{{"?":0}}}}"#));
        tells(&page, &format!("### `{command}`"), &fields);
    }
    let unknown = r#"{"?":0}"#;
    tells(&page, "### `put_customer`", &names::<CustomerPolicy>(unknown));
    tells(&page, "### `put_customer`", &names::<RateLimit>(unknown));
    tells(&page, "### `submit`", &names::<Timeouts>(unknown));
    tells(&page, "### `complete`", &names::<DeviceUsage<'_>>(unknown));
    tells(&page, "### `fail`", &names::<Failure>(unknown));
    tells(&page, "### `return_settlements`", &names::<Batch>(unknown));
    let first = "## The first line";
    tells(&page, first, &names::<GatewayConfig>(unknown));
    tells(&page, first, &names::<BackoffConfig>(unknown));
    tells(&page, first, &names::<CircuitBreakerConfig>(unknown));
    tells(&page, first, &names::<BillingPolicy>(unknown));
    tells(&page, "## Replies", &names::<Settlement>(unknown));
    tells(&page, "## Replies", &names::<DeviceTime>(unknown));
    tells(&page, "## Replies", &names::<Settled>(unknown));
    tells(&page, "## Replies", &names::<TakenSettlements>(unknown));
    // The rest of what the replies of the session hold.
    let told: Vec<String> = keys_of(&answered(&page)).into_iter().collect();
    let of_errors = ["number", "name", "field", "message"].map(str::to_owned);
    let outside = ["id", "first_seq", "len", "retry", "at"].map(str::to_owned);
    let rest: Vec<String> = told.into_iter().filter(|key| !of_errors.contains(key) && !outside.contains(key)).collect();
    tells(&page, "## Replies", &rest);
    tells(&page, "## Errors", &of_errors);
}

#[test]
fn steps_and_their_steps_are_those_documented() {
    let page = page();
    let told = section(&page, "### `all`");
    let listed: Vec<&str> = told.split('`').skip(1).step_by(2).collect();
    for name in names::<Leaf<'_>>(r#"{"?":0}"#) {
        assert!(listed.contains(&name.as_str()), "{name} may stand in a transaction");
    }
    let leaves = names::<Leaf<'_>>(r#"{"?":0}"#);
    let groups: Vec<String> = names::<Step<'_>>(r#"{"?":0}"#).into_iter().filter(|n| !leaves.contains(n)).collect();
    assert_eq!(groups, ["all", "first_of"]);
}

/// Whether a line of the page is the row of an error: it begins with its number.
fn is_error(line: &str) -> bool {
    line.strip_prefix("| ").is_some_and(|row| row.starts_with(|own: char| own.is_ascii_digit()))
}

#[test]
fn the_table_of_errors_is_the_librarys() {
    let page = page();
    let rows: Vec<&str> = section(&page, "## Errors").lines().filter(|line| is_error(line)).collect();
    let real: Vec<String> = error::all().map(|(number, name)| format!("| {number} | `{name}` |")).collect();
    assert_eq!(rows, real);
}
