//! `replay`: what it reads, what it refuses, and that its sums are exact.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use common::{data, folder, nanos, number, replay, replay_json, root, sum};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().expect("paths here are UTF-8")
}

#[test]
fn rows_of_gentd26_are_billed_to_the_nanosecond() {
    let file = data("gentd26.csv");
    let json = replay_json(&["--trace", text(&file), "--gpus", "2"]);
    let counts = ["jobs", "complete", "error", "cancelled", "requeues"].map(|key| number(&json, key));
    assert_eq!(counts, [9, 7, 2, 0, 3]);
    // Failed rows are on the house, and so is what a lost worker had: who has nothing else is not listed. A model that
    // nobody named is told as the file has it, and one that is named like its stand-in is another.
    let models = r#"{"":"0","M0000":"233.75","M0001":"43.250000001","unknown":"21"}"#;
    assert_eq!(json["billed_by_model"].to_string(), models);
    let customers =
        r#"{"G \"quoted\", with comma":"43.25","G0000":"32","G0001":"221.000000001","G0002":"0","Zoë":"1.75"}"#;
    assert_eq!(json["billed_by_customer"].to_string(), customers);
    assert_eq!(json["billed_gpu_seconds"], "298.000000001");
    // 0.0012 USD a GPU-second, each job rounded once: the nanosecond costs nothing.
    assert_eq!(number(&json, "charge_micros"), 298 * 1_200);
}

#[test]
fn tokens_of_azure_become_gpu_time() {
    let file = data("azure.csv");
    let json = replay_json(&["--trace", text(&file), "--gpus", "1"]);
    assert_eq!((number(&json, "jobs"), number(&json, "complete")), (4, 4));
    let expected = (374 + 396 + 879) * 200_000 + (44 + 109 + 55) * 20_000_000;
    assert_eq!(nanos(json["billed_gpu_seconds"].as_str().unwrap()), expected);
    assert_eq!(json["billed_by_customer"].to_string(), r#"{"azure":"4.4898"}"#);
    // The first is done before the second comes, which runs 2.2592 s; the third waits 2.031902 s for it, and the fourth
    // for both of them.
    let waits = ["p50", "p95", "p99", "max"].map(|key| number(&json["wait_ms"], key));
    assert_eq!(waits, [0, 3_140, 3_140, 3_140]);
}

#[test]
fn the_object_has_the_keys_it_promises_and_no_others() {
    let output = replay(&["--trace", text(&data("azure.csv")), "--json"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let keys = [
        "jobs",
        "complete",
        "error",
        "cancelled",
        "requeues",
        "warm_hits",
        "billed_gpu_seconds",
        "billed_by_model",
        "billed_by_customer",
        "charge_micros",
        "wait_ms",
        "queued_end",
        "in_flight_end",
        "outbox_unconfirmed_end",
        "commands",
        "commands_per_second",
        "state_digest",
        "peak_rss_mb",
    ];
    let json: Value = serde_json::from_str(&printed).unwrap();
    let object = json.as_object().unwrap();
    assert_eq!(object.len(), keys.len(), "{printed}");
    let mut from = 0;
    for key in keys {
        from += printed[from..].find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("{key} comes too early, or not"));
    }
    assert_eq!(object["wait_ms"].as_object().unwrap().len(), 4);
    let digest = object["state_digest"].as_str().unwrap();
    assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
}

#[test]
fn the_built_in_trace_adds_up_and_its_seed_decides() {
    let one = replay_json(&["--seed", "1"]);
    let again = replay_json(&["--seed", "1"]);
    let two = replay_json(&["--seed", "2"]);
    for json in [&one, &two] {
        let [jobs, complete, error, cancelled] =
            ["jobs", "complete", "error", "cancelled"].map(|key| number(json, key));
        assert_eq!(jobs, complete + error + cancelled);
        assert!(error > 0 && cancelled > 0 && number(json, "requeues") > 0 && number(json, "warm_hits") > 0, "{json}");
        assert_eq!(["queued_end", "in_flight_end", "outbox_unconfirmed_end"].map(|key| number(json, key)), [0; 3]);
        let billed = nanos(json["billed_gpu_seconds"].as_str().unwrap());
        assert_eq!((sum(&json["billed_by_model"]), sum(&json["billed_by_customer"])), (billed, billed));
        assert!(json["billed_by_customer"].as_object().unwrap().len() > 2_000);
    }
    let lasting = |json: &Value| {
        let mut json = json.clone();
        for key in ["commands_per_second", "peak_rss_mb"] {
            json[key] = Value::Null;
        }
        json
    };
    assert_eq!(lasting(&one), lasting(&again), "everything but the machine's own speed and memory is the same");
    assert_ne!(one["state_digest"], two["state_digest"]);
}

#[test]
fn more_gpus_wait_less_and_bill_the_same_rows() {
    let file = data("gentd26.csv");
    let [few, many] = ["1", "64"].map(|gpus| replay_json(&["--trace", text(&file), "--gpus", gpus]));
    assert_eq!(few["billed_by_model"], many["billed_by_model"]);
    assert!(number(&few["wait_ms"], "max") > number(&many["wait_ms"], "max"));
    assert_eq!(number(&many["wait_ms"], "max"), 0, "the row that came out of order counts from the one before it");
}

#[test]
fn words_say_the_same_as_numbers() {
    let file = data("gentd26.csv");
    let output = replay(&["--trace", text(&file), "--gpus", "2"]);
    let words = String::from_utf8(output.stdout).unwrap();
    for part in [
        "jobs           9: 7 complete, 2 in error, 0 cancelled\n",
        "billed         298.000000001 GPU-seconds to 5 customers for 0.3576 USD; ",
        "at the end     0 queued, 0 leased, 0 unconfirmed\n",
        "1 rows were earlier than one before them",
    ] {
        assert!(words.contains(part), "{part:?} is missing in\n{words}");
    }
    assert!(!words.contains('\u{1b}') && output.stderr.is_empty(), "no bar and no colour in a pipe");
}

const GENTD26: &str = "gmt_create,predict_type,predict_status,exec_time_seconds,groupId,checkpoint_model_version_id\n\
                       2024-11-15 16:57:50,TXT_2_IMG,SUCCEED,32.0,G0000,M0000\n";
const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n";

/// A trace, and what is said of it after its path.
#[track_caller]
fn refused(folder: &Path, bytes: &[u8], what: &str) {
    let file = folder.join("trace.csv");
    let report = folder.join("report.html");
    fs::write(&file, bytes).unwrap();
    fs::write(&report, "as it was").unwrap();
    let output = replay(&["--trace", text(&file), "--json", "--report", text(&report)]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("error: {}:{what}\n", text(&file)));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{what}");
    assert_eq!(fs::read_to_string(&report).unwrap(), "as it was");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "nothing half-written stays");
}

#[test]
fn a_malformed_row_is_told_by_file_line_and_column() {
    let folder = folder("malformed");
    let gentd26 = |row: &str, what: &str| refused(&folder, format!("{GENTD26}{row}\n").as_bytes(), what);
    gentd26("2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,32.0,G0", "3:46: the row has 5 fields, the header 6");
    gentd26("2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,32.0,G0,M0,1", "3:50: the row has 7 fields, the header 6");
    let date = "is not a date and time such as 2024-11-15 16:57:50";
    gentd26(
        "15.11.2024 16:57:51,TXT_2_IMG,SUCCEED,32.0,G0,M0",
        &format!("3:1: gmt_create \"15.11.2024 16:57:51\" {date}"),
    );
    gentd26(
        "2024-02-30 16:57:51,TXT_2_IMG,SUCCEED,32.0,G0,M0",
        "3:1: gmt_create \"2024-02-30 16:57:51\" is a day that is in no calendar",
    );
    gentd26(
        "2024-11-15 16:57:51,TXT_2_VID,SUCCEED,32.0,G0,M0",
        "3:21: predict_type \"TXT_2_VID\" is none of TXT_2_IMG, IMG_2_IMG, INPAINTING",
    );
    gentd26(
        "2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,3O.0,G0,M0",
        "3:39: exec_time_seconds \"3O.0\" is not a decimal number such as 32.5",
    );
    gentd26("2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,,G0,M0", "3:39: exec_time_seconds \"\" is empty");
    gentd26("2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,-1.0,G0,M0", "3:39: exec_time_seconds \"-1.0\" is negative");
    gentd26(
        "2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,1.0000000001,G0,M0",
        "3:39: exec_time_seconds \"1.0000000001\" has more than nine decimals",
    );
    gentd26(
        "2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,99999999999999999999,G0,M0",
        "3:39: exec_time_seconds \"99999999999999999999\" is too large",
    );
    gentd26(
        "2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,31622401,G0,M0",
        "3:39: exec_time_seconds \"31622401\" is more than a year of GPU time",
    );
    gentd26("2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,1.0,,M0", "3:43: groupId \"\" cannot be: groupId is empty");
    gentd26(
        "2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,1.0,G\u{7},M0",
        "3:43: groupId \"G\\u{7}\" cannot be: groupId has a character that is not allowed at byte 1",
    );
    gentd26(
        "2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,1.0,Zoë,M/0",
        "3:47: checkpoint_model_version_id \"M/0\" cannot be: route is malformed: expected modality/family/model/task",
    );
    gentd26("2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,1.0,\"G0,M0", "3:43: the quote is never closed");
    gentd26("2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,1.0,\"G0\"0,M0", "3:47: text after the quote that closes the field");
    gentd26(
        "2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,1.0,G\"0,M0",
        "3:44: a quote inside a field that does not begin with one",
    );
    refused(
        &folder,
        &[GENTD26.as_bytes(), b"2024-11-15 16:57:51,TXT_2_IMG,SUCCEED,1.0,G\xff,M0\n"].concat(),
        "3:43: the field is not valid UTF-8",
    );

    let azure = |row: &str, what: &str| refused(&folder, format!("{AZURE}{row}\n").as_bytes(), what);
    azure("2023-11-16 18:15:50.9951690,x,1", "3:29: ContextTokens \"x\" is not a whole number");
    azure("2023-11-16 18:15:50.9951690,1,-1", "3:31: GeneratedTokens \"-1\" is negative");
    azure("2023-11-16 18:15:50.9951690,1,1.5", "3:31: GeneratedTokens \"1.5\" is not a whole number");
    azure(
        "2023-11-16 18:15:50.9951690,18446744073709551616,1",
        "3:29: ContextTokens \"18446744073709551616\" is too large",
    );
    azure(
        "2023-11-16 18:15:50.9951690,18446744073709551615,1",
        "3:29: ContextTokens \"18446744073709551615\" is too large",
    );
    azure(
        "2023-11-16 18:15:50.9951690,1,1581120001",
        "3:31: GeneratedTokens \"1581120001\" is more than a year of GPU time",
    );
    azure(
        "2023-11-16 18:15:50.99516901234,1,1",
        "3:1: TIMESTAMP \"2023-11-16 18:15:50.99516901234\" has more than nine decimals",
    );
    azure("1969-12-31 23:59:59,1,1", "3:1: TIMESTAMP \"1969-12-31 23:59:59\" is before 1970");
}

#[test]
fn a_header_that_is_none_is_told_what_would_be_one() {
    let folder = folder("header");
    let formats = "the header is neither that of GenTD26 (gmt_create,predict_type,predict_status,exec_time_seconds,groupId,\
                   checkpoint_model_version_id) nor that of Azure LLM (TIMESTAMP,ContextTokens,GeneratedTokens)";
    refused(&folder, b"a,b,c\n1,2,3\n", &format!("1:1: {formats}"));
    refused(&folder, b"", "1:1: the file is empty");
    refused(&folder, b"TIMESTAMP,ContextTokens\n", "1:24: the header lacks the column GeneratedTokens");
    refused(
        &folder,
        b"TIMESTAMP,ContextTokens,GeneratedTokens,TIMESTAMP\n",
        "1:41: the header has the column TIMESTAMP twice",
    );
    refused(&folder, b"gmt_create,groupId\n", "1:19: the header lacks the column predict_type");
}

#[test]
fn windows_line_ends_and_a_header_alone_are_no_errors() {
    let folder = folder("line-ends");
    let file = folder.join("trace.csv");
    fs::write(&file, format!("\u{feff}{GENTD26}").replace('\n', "\r\n")).unwrap();
    assert_eq!(number(&replay_json(&["--trace", text(&file)]), "complete"), 1);
    fs::write(&file, "TIMESTAMP,ContextTokens,GeneratedTokens\n").unwrap();
    let json = replay_json(&["--trace", text(&file)]);
    assert_eq!((number(&json, "jobs"), json["billed_gpu_seconds"].as_str()), (0, Some("0")));
}

#[test]
fn wrong_arguments_are_refused_with_status_2() {
    for arguments in [&["--gpus", "0"][..], &["--gpus", "many"], &["--seed", "-1"], &["--nonsense"], &["trace.csv"]] {
        let output = replay(arguments);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}");
        assert!(words.starts_with("error: ") && words.contains("replay --help"), "{words}");
    }
    let output = replay(&["--trace", "/nowhere/at/all.csv"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: /nowhere/at/all.csv:"));
    let help = replay(&["--help"]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--report FILE.html"));
}

/// Rows of Azure LLM, `gap_ms` apart, each of 200 tokens in and 9 out: 220 ms of GPU time.
fn azure_rows(rows: u64, gap_ms: u64) -> String {
    let mut text = String::from("TIMESTAMP,ContextTokens,GeneratedTokens\n");
    for row in 0..rows {
        let millis = row * gap_ms;
        let (hour, minute, second) = (millis / 3_600_000 % 24, millis / 60_000 % 60, millis / 1_000 % 60);
        let day = 1 + millis / 86_400_000;
        writeln!(text, "2024-01-{day:02} {hour:02}:{minute:02}:{second:02}.{:03},200,9", millis % 1_000).unwrap();
    }
    text
}

#[test]
fn memory_does_not_grow_with_the_file() {
    let folder = folder("memory");
    let peak = |rows: u64| {
        let file = folder.join(format!("{rows}.csv"));
        fs::write(&file, azure_rows(rows, 100)).unwrap();
        let json = replay_json(&["--trace", text(&file), "--gpus", "3"]);
        assert_eq!(number(&json, "complete"), rows);
        json["peak_rss_mb"].as_u64()
    };
    // Where the system does not tell, there is nothing to compare.
    if let (Some(short), Some(long)) = (peak(80_000), peak(320_000)) {
        assert!(long * 10 <= short * 11 + 10, "{short} MB for a quarter of the rows, {long} MB for all");
        assert!(long <= 40, "{long} MB");
    }
}

#[test]
fn more_than_the_gateway_takes_waits_at_the_door() {
    let folder = folder("door");
    let file = folder.join("burst.csv");
    fs::write(&file, azure_rows(120_000, 1)).unwrap();
    let json = replay_json(&["--trace", text(&file), "--gpus", "8"]);
    assert_eq!((number(&json, "jobs"), number(&json, "complete")), (120_000, 120_000));
    // The last one waits for all before it, wherever they wait: 120 000 × 0.22 s on 8 GPUs, less its own arrival.
    let longest = number(&json["wait_ms"], "max");
    assert!((3_179_000..=3_181_000).contains(&longest), "{longest}");
    // Whatever the file is: the jobs at the door are not read yet, and 100 000 ended leases may still be told their usage.
    assert!(json["peak_rss_mb"].as_u64().is_none_or(|mb| mb < 120), "{json}");
    let words = String::from_utf8(replay(&["--trace", text(&file), "--gpus", "8"]).stdout).unwrap();
    assert!(words.contains(" requests waited at the door"), "{words}");
}

/// The sums of a column over the rows that did not fail, computed here by other means than the program's.
fn expected(csv: &str, column: &str) -> BTreeMap<String, u128> {
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let index = |name: &str| header.iter().position(|own| *own == name).unwrap();
    let (status, seconds, key) = (index("predict_status"), index("exec_time_seconds"), index(column));
    let mut sums = BTreeMap::new();
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        if fields[status] != "FAILED" {
            *sums.entry(fields[key].to_owned()).or_default() += nanos_of(fields[seconds]);
        }
    }
    sums
}

fn nanos_of(decimal: &str) -> u128 {
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    format!("{whole}{fraction:0<9}").parse().unwrap()
}

fn billed(json: &Value) -> BTreeMap<String, u128> {
    json.as_object().unwrap().iter().map(|(name, sum)| (name.clone(), nanos(sum.as_str().unwrap()))).collect()
}

#[test]
fn three_weeks_of_a_production_service_come_out_to_the_last_digit() {
    let file = root().join("../shared/data/gentd26_lora_requests.csv");
    let Ok(csv) = fs::read_to_string(&file) else {
        common::skipped("the GenTD26 trace", "it does not lie at ../shared/data/gentd26_lora_requests.csv");
        return;
    };
    let arguments = ["--trace", text(&file), "--gpus", "4"];
    let json = replay_json(&arguments);
    let counts = ["jobs", "complete", "error", "cancelled", "requeues"].map(|key| number(&json, key));
    assert_eq!(counts, [26_823, 26_425, 398, 0, 33]);
    assert_eq!(["queued_end", "in_flight_end", "outbox_unconfirmed_end"].map(|key| number(&json, key)), [0; 3]);
    assert_eq!(billed(&json["billed_by_model"]), expected(&csv, "checkpoint_model_version_id"));
    assert_eq!(billed(&json["billed_by_customer"]), expected(&csv, "groupId"));
    assert_eq!(json["billed_gpu_seconds"], "763106");
    assert_eq!(replay_json(&arguments)["state_digest"], json["state_digest"]);
}
