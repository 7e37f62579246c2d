//! The report of `replay`: whole, alone, and safe to open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::{data, folder, replay};

/// A report with these arguments.
#[track_caller]
fn report(test: &str, arguments: &[&str]) -> String {
    let folder = folder(test);
    let path = folder.join("report.html");
    let output = replay(&[arguments, &["--report", path.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing but the report is left");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(path.to_str().unwrap()), "its place is told:\n{printed}");
    fs::read_to_string(path).unwrap()
}

/// Every tag is closed in the right order, and no stray sign stands in the text. Returns the tags with their attributes.
#[track_caller]
fn well_formed(html: &str) -> Vec<String> {
    let body = html.strip_prefix("<!DOCTYPE html>\n").expect("a document type");
    let mut open: Vec<&str> = Vec::new();
    let mut tags = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.find('<') {
        let (text, after) = rest.split_at(at);
        assert!(!text.contains('>') || open.last() == Some(&"style"), "a stray sign in {text:?}");
        let end = after.find('>').unwrap_or_else(|| panic!("no end of {:?}", &after[..after.len().min(80)]));
        let tag = &after[1..end];
        rest = &after[end + 1..];
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !name.is_empty(), "{tag:?} is no tag");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag:?}");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{tag:?} closes another");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        tags.push(tag.to_owned());
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} stay open");
    tags
}

/// Nothing is fetched, nothing runs.
#[track_caller]
fn self_contained(tags: &[String], html: &str) {
    for tag in tags {
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
        let known = [
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "main",
            "header",
            "footer",
            "section",
            "div",
            "figure",
            "figcaption",
            "h1",
            "h2",
            "p",
            "ul",
            "li",
            "i",
            "code",
            "svg",
            "text",
            "line",
            "path",
            "rect",
            "circle",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
        ];
        assert!(known.contains(&name), "a tag nobody meant: {tag:?}");
        for attribute in ["src=", "href=", "style=", " on", "srcset=", "data="] {
            assert!(!tag.contains(attribute), "{tag:?} has {attribute}");
        }
    }
    let style = html.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
    assert!(!style.contains("url(") && !style.contains("@import"), "the style fetches something");
    assert!(html.contains("default-src 'none'"), "a browser is told so, too");
}

#[test]
fn every_plot_is_in_one_file_that_needs_no_other() {
    let html = report("plots", &[]);
    self_contained(&well_formed(&html), &html);
    for (id, plots) in [("load", 2), ("waits", 1), ("shares", 1), ("utilisation", 2), ("warmth", 1), ("retries", 1)] {
        let figure = html.split(&format!("<figure id=\"{id}\">")).nth(1).unwrap_or_else(|| panic!("no plot {id}"));
        let figure = figure.split("</figure>").next().unwrap();
        assert_eq!(figure.matches("<svg").count(), plots, "{id}");
        let marks = ["<path", "<rect", "<circle"].map(|mark| figure.matches(mark).count()).iter().sum::<usize>();
        assert!(marks >= 2, "{id} shows something");
        assert!(figure.matches("<text").count() >= 8, "{id} has axes with words");
        assert!(figure.contains("class=\"legend\"><li>"), "{id} has a legend");
    }
    for words in [
        "high lane",
        "normal lane",
        "low lane",
        "minutes since 2026-01-01 00:00:00 UTC",
        "customer-0000",
        "×4",
        "gpu-16",
    ] {
        assert!(html.contains(words), "{words:?} is missing");
    }
    assert!(!html.contains("NaN") && !html.contains("inf"), "a number that is none");
    assert!(html.len() < 400_000, "{} bytes", html.len());
    assert!(html.contains("prefers-color-scheme: dark"));
}

#[test]
fn hostile_names_stay_text() {
    let folder = folder("hostile-trace");
    let trace = folder.join("<img src=x onerror=alert(1)>.csv");
    let evil = "</title><script>alert(1)</script><b a='\"\"x\"\"'>&amp; \u{202e}";
    let rows = format!(
        "gmt_create,predict_type,predict_status,exec_time_seconds,groupId,checkpoint_model_version_id\n\
         2024-11-15 16:57:50,TXT_2_IMG,SUCCEED,32.0,\"{evil}\",M0000\n\
         2024-11-15 16:57:50,TXT_2_IMG,SUCCEED,32.0,https://evil.example/x.js,\n"
    );
    fs::write(&trace, rows).unwrap();
    let html = report("hostile", &["--trace", trace.to_str().unwrap(), "--gpus", "1"]);
    self_contained(&well_formed(&html), &html);
    assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("\u{202e}"));
    assert!(html.contains("&lt;/title&gt;&lt;script&gt;") && html.contains("(no name)"));
}

#[test]
fn traces_of_nothing_and_of_many_gpus_have_a_report_too() {
    let folder = folder("nothing-trace");
    let trace = folder.join("nothing.csv");
    fs::write(&trace, "TIMESTAMP,ContextTokens,GeneratedTokens\n").unwrap();
    for (name, arguments) in [
        ("nothing", ["--trace", trace.to_str().unwrap(), "--gpus", "1"]),
        ("many", ["--trace", data("gentd26.csv").to_str().unwrap(), "--gpus", "10000"]),
        ("azure", ["--trace", data("azure.csv").to_str().unwrap(), "--gpus", "2"]),
    ] {
        let html = report(name, &arguments);
        self_contained(&well_formed(&html), &html);
        assert!(!html.contains("NaN") && !html.contains(">inf"), "{name}");
        assert!(html.len() < 200_000, "{name}: {} bytes", html.len());
    }
}

#[test]
fn a_report_that_cannot_be_written_prints_no_result() {
    let output =
        replay(&["--trace", data("azure.csv").to_str().unwrap(), "--json", "--report", "/nowhere/at/all.html"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: /nowhere/at/all.html: "));
}
