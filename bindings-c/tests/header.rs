//! `include/gateway.h` is what the sources say it is, and says what the library does.
//! `GATEWAY_HEADER=write cargo test -p libgateway-c --test header` (`make header`) writes it anew.

#![expect(clippy::unwrap_used, reason = "what a test expects and does not get ends it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn generated() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new().with_config(config).with_crate(root()).generate().unwrap();
    let mut text = Vec::new();
    bindings.write(&mut text);
    tidy(&String::from_utf8(text).unwrap())
}

/// Makes what was generated read well: types by their names, short comments on one line, a heading before each part.
fn tidy(text: &str) -> String {
    let mut tidy = String::new();
    let mut lines = text.lines().peekable();
    let mut headings = SECTIONS.iter().peekable();
    let mut doc: Option<String> = None;
    while let Some(line) = lines.next() {
        if line.trim() == "/**" {
            let indent = &line[..line.len() - 3];
            let body: Vec<&str> = std::iter::from_fn(|| lines.next_if(|line| line.trim() != "*/")).collect();
            lines.next();
            let one = body.first().map_or("", |line| line.trim().trim_start_matches("* ").trim_end());
            doc = Some(if body.len() == 1 && indent.len() + one.len() + 8 <= 120 {
                format!("{indent}/** {one} */\n")
            } else {
                let body: String = body.iter().map(|line| format!("{}\n", line.trim_end())).collect();
                format!("{indent}/**\n{body}{indent} */\n")
            });
            continue;
        }
        if headings.peek().is_some_and(|(first, _)| line.contains(&format!("{first}("))) {
            if let Some((_, heading)) = headings.next() {
                tidy.push_str(&format!("/* ---- {heading} {} */\n\n", "-".repeat(112 - heading.len())));
            }
        }
        tidy.push_str(&doc.take().unwrap_or_default());
        let types = line.starts_with("typedef struct") || !line.contains("struct gateway");
        let line = if types { line.to_owned() } else { line.replace("struct gateway", "gateway") };
        let line = match line.strip_prefix("#define ").and_then(|rest| rest.split_once(' ')) {
            // A span times an int has to be 64 bits wide, and a minus is safe in brackets only.
            Some((name, value)) if SPANS.contains(&name) && !value.ends_with("ull") => format!("{line}ull"),
            Some((name, value)) if value.starts_with('-') => format!("#define {name} ({value})"),
            _ => line,
        };
        let blank_twice = line.is_empty() && tidy.ends_with("\n\n");
        if !blank_twice {
            tidy.push_str(line.trim_end());
            tidy.push('\n');
        }
    }
    assert!(headings.peek().is_none(), "{:?} is not where it was looked for", headings.peek());
    tidy
}

const SPANS: &[&str] =
    &["GATEWAY_MICROSECOND", "GATEWAY_MILLISECOND", "GATEWAY_SECOND", "GATEWAY_MINUTE", "GATEWAY_HOUR"];

/// The first function of each part, with its heading, in the order of the header.
const SECTIONS: &[(&str, &str)] = &[
    ("gateway_abi_version", "The library and its clock"),
    ("gateway_status_name", "What went wrong"),
    ("gateway_job_id_random", "Ids"),
    ("gateway_bytes_len", "Answers of any length"),
    ("gateway_state_name", "Names of numbers"),
    ("gateway_new", "The gateway: its making and its end"),
    ("gateway_put_backend", "The gateway: backends, customers, routes"),
    ("gateway_submit", "The gateway: jobs come in"),
    ("gateway_lease_read", "The gateway: what a worker works by"),
    ("gateway_dispatch", "The gateway: who works next, and what became of it"),
    ("gateway_wait_dispatch", "The gateway: calls that wait"),
    ("gateway_transaction", "The gateway: several steps as one"),
    ("gateway_put_prices", "The gateway: money"),
    ("gateway_read_job", "The gateway: what it tells of itself"),
    ("gateway_poll_event", "The gateway: what happened"),
    ("gateway_apply_json", "The gateway: commands as data"),
    ("gateway_limiter_new", "Alone: a rate limit"),
    ("gateway_keyed_limiter_new", "Alone: rate limits by key"),
    ("gateway_breaker_new", "Alone: a circuit breaker"),
    ("gateway_queue_new", "Alone: a fair queue"),
    ("gateway_store_new", "Alone: a job store"),
    ("gateway_billing_new", "Alone: a billing collector"),
    ("gateway_histogram_new", "Alone: a histogram"),
    ("gateway_backoff_new", "Alone: a retry schedule"),
];

fn header() -> String {
    fs::read_to_string(root().join("../include/gateway.h")).unwrap_or_default()
}

/// `#define NAME number` of the header.
fn numbers() -> BTreeMap<String, i64> {
    let header = header();
    let defines = header.lines().filter_map(|line| line.strip_prefix("#define "));
    defines
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim_matches(['(', ')']).parse().ok()?)))
        .collect()
}

/// The functions the header declares: a name, and its whole declaration.
fn functions() -> BTreeMap<String, String> {
    let header = header();
    let mut found = BTreeMap::new();
    let mut lines = header.lines();
    while let Some(line) = lines.next() {
        let Some((before, _)) = line.split_once('(') else { continue };
        if line.starts_with([' ', '#', '/', '}']) || before.starts_with("typedef") {
            continue;
        }
        let name = before.rsplit([' ', '*']).next().unwrap_or_default();
        let mut declaration = line.to_owned();
        while !declaration.ends_with(';') {
            declaration.push_str(lines.next().unwrap_or(";").trim());
        }
        found.insert(name.to_owned(), declaration);
    }
    found
}

#[test]
fn the_header_is_what_the_sources_say() {
    let text = generated();
    if std::env::var("GATEWAY_HEADER").is_ok_and(|word| word == "write") {
        fs::create_dir_all(root().join("../include")).unwrap();
        fs::write(root().join("../include/gateway.h"), &text).unwrap();
    }
    for (number, (old, new)) in header().lines().zip(text.lines()).enumerate() {
        assert_eq!(
            old,
            new,
            "include/gateway.h:{}: the file (left) and the sources (right): `make header`",
            number + 1
        );
    }
    assert_eq!(header(), text, "run `make header`");
}

#[test]
fn every_error_has_its_number_and_its_name() {
    let numbers = numbers();
    for (number, name) in libgateway::error::all() {
        let constant = format!("GATEWAY_{}", name.to_uppercase());
        assert_eq!(numbers.get(&constant), Some(&-i64::from(number)), "{constant}");
    }
    let known: Vec<i64> = libgateway::error::all().map(|(number, _)| -i64::from(number)).collect();
    for (name, number) in &numbers {
        assert!(*number > -200 || known.contains(number), "{name} is the number of no error: {number}");
    }
}

#[test]
fn the_names_of_statuses_are_those_of_their_constants() {
    let statuses = numbers().into_iter().filter(|(name, number)| *number < 0 || STATUSES.contains(&name.as_str()));
    let mut count = 0;
    for (name, number) in statuses {
        let status = i32::try_from(number).unwrap();
        // SAFETY: it returns a static string.
        let own = unsafe { std::ffi::CStr::from_ptr(gateway::gateway_status_name(status)) }.to_str().unwrap();
        assert_eq!(format!("GATEWAY_{}", own.to_uppercase()), name);
        count += 1;
    }
    assert!(count > 40, "{count} statuses were compared");
    // SAFETY: it returns a static string.
    let unknown = unsafe { std::ffi::CStr::from_ptr(gateway::gateway_status_name(12_345)) };
    assert_eq!(unknown, c"unknown");
}

const STATUSES: &[&str] =
    &["GATEWAY_OK", "GATEWAY_WAIT", "GATEWAY_NONE", "GATEWAY_DENIED", "GATEWAY_NEVER", "GATEWAY_NO_ROOM"];

#[test]
fn every_function_is_documented_with_its_errors_and_its_threads() {
    let text = header();
    let functions = functions();
    assert!(functions.len() > 120, "{} functions were found", functions.len());
    for (name, declaration) in functions {
        let at = text.find(&format!("{name}(")).map(|_| declaration.split('(').next().unwrap_or_default()).unwrap();
        let line = text.lines().position(|line| line.starts_with(at)).unwrap();
        let before: Vec<&str> = text.lines().take(line).collect();
        let doc: Vec<&str> =
            before.into_iter().rev().take_while(|line| line.starts_with(" *") || line.starts_with("/**")).collect();
        let doc: Vec<&str> = doc.into_iter().rev().map(|line| line.trim_start_matches(" *").trim()).collect();
        let doc = doc.join(" ");
        assert!(doc.starts_with("/**"), "{name} has no documentation");
        assert!(doc.contains("rrors") || doc.contains("annot fail"), "{name} says no errors");
        let threads = ["any thread", "nside of a transaction", "threads:", "in that thread"];
        assert!(threads.iter().any(|word| doc.contains(word)), "{name} does not say from which threads");
    }
}
