//! Versions live once: in the workspace's `Cargo.toml`.

use std::collections::BTreeMap;

use crate::source::{Finding, Source};

/// Keys of `[package]` that a member inherits.
const INHERITED: &[&str] = &["version", "edition", "rust-version"];

/// Versions that a member's `Cargo.toml`, or a `pyproject.toml`, states for itself.
pub(crate) fn versions(source: &Source) -> Vec<Finding> {
    match source.path.rsplit('/').next() {
        Some("Cargo.toml") if source.path != "Cargo.toml" => member(source),
        Some("pyproject.toml") => {
            let entries = entries(&source.text);
            let stated = entries.iter().filter(|entry| entry.table == "project" && entry.key == "version");
            stated.map(|e| Finding::new(&source.path, e.line, "take the version from Cargo.toml (`dynamic`)")).collect()
        }
        _ => Vec::new(),
    }
}

fn member(source: &Source) -> Vec<Finding> {
    // A workspace of its own (cargo-fuzz wants one) has nowhere to inherit from.
    if source.text.lines().any(|line| line.trim() == "[workspace]") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut dependencies: BTreeMap<String, (usize, bool)> = BTreeMap::new();
    for entry in entries(&source.text) {
        if entry.table == "package" && INHERITED.contains(&entry.key.as_str()) {
            findings.push(Finding::new(&source.path, entry.line, format!("write `{}.workspace = true`", entry.key)));
        }
        let Some((name, fact)) = dependency(&entry) else { continue };
        let known = dependencies.entry(name).or_insert((entry.line, false));
        known.1 |= fact;
    }
    let lacking = dependencies.into_iter().filter(|(_, (_, inherits))| !inherits);
    findings.extend(lacking.map(|(name, (line, _))| {
        let what = format!("`{name}` needs `workspace = true`, its version belongs into the workspace");
        Finding::new(&source.path, line, what)
    }));
    findings
}

/// The dependency an entry speaks of (with its table, for one crate may be in several), and whether it inherits it.
fn dependency(entry: &Entry) -> Option<(String, bool)> {
    let inline = entry.value.replace(' ', "").contains("workspace=true");
    if is_dependencies(&entry.table) {
        let (name, rest) = entry.key.split_once('.').unwrap_or((&entry.key, ""));
        let inherits = if rest.is_empty() { inline } else { rest == "workspace" && entry.value == "true" };
        return Some((format!("{}.{name}", entry.table), inherits));
    }
    let (table, _) = entry.table.rsplit_once('.')?;
    is_dependencies(table).then(|| (entry.table.clone(), entry.key == "workspace" && entry.value == "true"))
}

fn is_dependencies(table: &str) -> bool {
    let last = table.rsplit('.').next().unwrap_or(table);
    matches!(last, "dependencies" | "dev-dependencies" | "build-dependencies")
}

struct Entry {
    table: String,
    key: String,
    value: String,
    line: usize,
}

/// The `key = value` lines of a TOML file with their table; a value over several lines counts as one.
fn entries(toml: &str) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    let mut table = String::new();
    let mut open = 0_usize;
    for (index, raw) in toml.lines().enumerate() {
        let line = raw.split(" #").next().unwrap_or(raw).trim();
        let opens = line.matches(['[', '{']).count();
        let closes = line.matches([']', '}']).count();
        if open > 0 {
            if let Some(last) = found.last_mut() {
                last.value.push_str(line);
            }
            open = (open + opens).saturating_sub(closes);
        } else if line.starts_with('[') {
            table = line.trim_matches(['[', ']']).trim().to_owned();
        } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            found.push(Entry { table: table.clone(), key, value, line: index + 1 });
            open = opens.saturating_sub(closes);
        }
    }
    found
}

fn lines(path: &str, toml: &str) -> Vec<usize> {
    versions(&Source::new(path, toml)).into_iter().map(|finding| finding.line).collect()
}

#[test]
fn a_version_of_a_members_own_is_found() {
    let planted = "[package]\nversion = \"0.1.0\"\nedition.workspace = true\n[dependencies]\nserde = \"1\"\n\
                   libgateway = { path = \"../core\" }\n[target.'cfg(unix)'.dev-dependencies]\nlibc = { version = \"0.2\" }\n\
                   [dependencies.tokio]\nversion = \"1\"\n";
    let mut found = lines("runtime/Cargo.toml", planted);
    found.sort_unstable();
    assert_eq!(found, [2, 5, 6, 8, 10]);
}

#[test]
fn inheriting_is_fine_in_each_spelling() {
    let fine = "[package]\nversion.workspace = true\n[features]\nstd = [\n  \"serde/std\",\n  \"a=b\",\n]\n[dependencies]\n\
                serde.workspace = true\nblake2 = { workspace = true, features = [\n  \"x\",\n] } # 0.11\n\
                tokio.features = [\"rt\"]\ntokio.workspace = true\n[dev-dependencies.proptest]\nworkspace = true\n";
    assert_eq!(lines("runtime/Cargo.toml", fine), []);
    assert_eq!(lines("Cargo.toml", "[workspace.dependencies]\nserde = \"1\"\n[package]\nversion = \"1\"\n"), []);
    assert_eq!(lines("fuzz/Cargo.toml", "[workspace]\n[dependencies]\nlibfuzzer-sys = \"0.4\"\n"), []);
}

#[test]
fn a_python_project_takes_its_version_from_the_workspace() {
    assert_eq!(lines("bindings-python/pyproject.toml", "[project]\nname = \"x\"\nversion = \"0.1.0\"\n"), [3]);
    assert_eq!(lines("bindings-python/pyproject.toml", "[project]\ndynamic = [\"version\"]\n"), []);
}
