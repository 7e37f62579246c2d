//! The rules of the repository, as a test. Each rule is a function over one file, and its own tests plant what it must find.

mod floors;
mod manifest;
mod rules;
mod source;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::source::{Finding, Source};

/// Extensions of the files the rules read.
const READ: &[&str] = &["rs", "py", "pyi", "c", "h", "cc", "cpp", "hpp", "toml", "md"];
/// Folders no rule looks into where git cannot tell what is ignored.
const NOT_OURS: &[&str] = &["target", "__pycache__", "node_modules"];

/// The repository as it stands: what git tracks or would track, or without git whatever lies there.
struct Repository {
    paths: Vec<String>,
    sources: Vec<Source>,
}

impl Repository {
    fn load() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut paths = match git_files(&root) {
            Some(paths) => paths,
            None => {
                let mut paths = Vec::new();
                walk(&root, "", &mut paths)?;
                paths
            }
        };
        paths.sort_unstable();
        let mut sources = Vec::new();
        for path in paths.iter().filter(|path| READ.iter().any(|extension| path.ends_with(&format!(".{extension}")))) {
            let bytes = fs::read(root.join(path)).map_err(|error| format!("{path}: {error}"))?;
            sources.push(Source::new(path.as_str(), String::from_utf8_lossy(&bytes)));
        }
        mark_declared_tests(&mut sources);
        Ok(Self { paths, sources })
    }

    fn each(&self, rule: impl Fn(&Source) -> Vec<Finding>) -> Vec<Finding> {
        self.sources.iter().flat_map(rule).collect()
    }

    fn lib(&self) -> Option<&Source> {
        self.sources.iter().find(|source| source.path == "core/src/lib.rs")
    }
}

/// What git tracks here, and what it would if asked; nothing where there is no git or this is no checkout.
fn git_files(root: &Path) -> Option<Vec<String>> {
    let mut git = Command::new("git");
    git.arg("-C").arg(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = git.output().ok().filter(|output| output.status.success())?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths: Vec<_> =
        listed.split_terminator('\0').filter(|path| root.join(path).is_file()).map(str::to_owned).collect();
    paths.iter().any(|path| path == "Cargo.toml").then_some(paths)
}

/// Every file below `folder`, hidden ones at the top and what tools leave behind excepted.
fn walk(root: &Path, folder: &str, paths: &mut Vec<String>) -> Result<(), String> {
    let entries = fs::read_dir(root.join(folder)).map_err(|error| format!("{folder}: {error}"))?;
    for entry in entries {
        let entry = entry.map_err(|error| format!("{folder}: {error}"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let is_folder = entry.file_type().map_err(|error| format!("{path}: {error}"))?.is_dir();
        if is_folder && !name.starts_with('.') && !NOT_OURS.contains(&name.as_str()) {
            walk(root, &path, paths)?;
        } else if !is_folder {
            paths.push(path);
        }
    }
    Ok(())
}

/// What `#[cfg(test)] mod name;` declares in another file is test code from its first line to its last.
fn mark_declared_tests(sources: &mut [Source]) {
    let declared: Vec<String> = sources.iter().flat_map(|source| source.test_files.clone()).collect();
    let is_declared = |path: &str| declared.iter().any(|at| path == at || (at.ends_with('/') && path.starts_with(at)));
    sources.iter_mut().filter(|source| is_declared(&source.path)).for_each(Source::mark_test_file);
}

#[track_caller]
fn holds(findings: Vec<Finding>) {
    let report: String = findings.iter().map(|finding| format!("\n  {finding}")).collect();
    assert!(findings.is_empty(), "{report}\n");
}

#[expect(clippy::panic, reason = "without a repository to look at, no rule may pass")]
fn repository() -> Repository {
    match Repository::load() {
        Ok(repository) if repository.lib().is_some() => repository,
        Ok(_) => panic!("core/src/lib.rs is not in the repository"),
        Err(error) => panic!("the repository cannot be read: {error}"),
    }
}

#[test]
fn the_top_level_holds_only_what_is_listed() {
    holds(rules::top_level(&repository().paths));
}

#[test]
fn no_file_asks_to_be_split() {
    holds(repository().each(rules::length));
}

#[test]
fn core_is_no_std_and_safe() {
    holds(repository().each(rules::core_attributes));
}

#[test]
fn unsafe_stays_in_the_c_binding() {
    holds(repository().each(rules::no_unsafe));
}

#[test]
fn every_module_of_core_has_a_floor() {
    holds(repository().each(floors::placed));
}

#[test]
fn modules_of_core_import_lower_floors_only() {
    let repository = repository();
    let exports = repository.lib().map(floors::exports).unwrap_or_default();
    holds(repository.each(|source| floors::imports(source, &exports)));
    holds(floors::unused_exceptions(&repository.sources, &exports));
}

#[test]
fn decisions_hold_no_floats() {
    holds(repository().each(rules::no_floats));
}

#[test]
fn core_keeps_the_world_outside() {
    holds(repository().each(rules::no_world));
}

#[test]
fn tests_do_not_sleep() {
    holds(repository().each(rules::no_sleep));
}

#[test]
fn no_test_is_ignored() {
    holds(repository().each(rules::no_ignored_test));
}

#[test]
fn the_oldest_supported_rust_can_read_every_file() {
    holds(repository().each(rules::no_let_chain));
}

#[test]
fn files_of_core_say_what_they_are() {
    holds(repository().each(rules::opens_with_doc));
}

#[test]
fn versions_live_in_the_workspace() {
    holds(repository().each(manifest::versions));
}

#[test]
fn the_changelog_has_a_place_for_the_next_line() {
    let repository = repository();
    assert!(repository.paths.iter().any(|path| path == "CHANGELOG.md"), "there is no CHANGELOG.md");
    holds(repository.each(rules::changelog));
}

#[test]
fn without_git_the_same_files_are_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut walked = Vec::new();
    walk(&root, "", &mut walked).expect("the repository can be walked");
    for path in ["Cargo.toml", "core/src/lib.rs", "tests/tests/house/main.rs"] {
        assert!(walked.iter().any(|found| found == path), "{path} is missing");
    }
    assert!(!walked.iter().any(|path| path.starts_with("target/") || path.starts_with(".git/")));
}

#[test]
fn a_module_declared_for_tests_is_test_code() {
    let mut sources = [
        Source::new("core/src/queue/mod.rs", "#[cfg(test)] mod model; mod lane;"),
        Source::new("core/src/queue/model.rs", "fn naive() {}"),
        Source::new("core/src/queue/model/step.rs", "fn naive() {}"),
        Source::new("core/src/queue/lane.rs", "fn shipped() {}"),
    ];
    mark_declared_tests(&mut sources);
    let is_test = |source: &Source| source.tokens.iter().all(|token| token.test);
    assert_eq!(sources.each_ref().map(is_test), [false, true, true, false]);
}
