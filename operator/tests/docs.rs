//! The lists in the documentation are those of the code: steps, conditions with their reasons, metrics, and the tests that
//! show what prevents harm.
//!
//! Reads files and nothing else; the source is read as text, so that a list needs no twin in the code for the sake of a test.

#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

use binder_core::facets::{DriftKind, Step};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below a folder with this ending, as a path from the root.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(folder)).unwrap().flatten() {
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path, ending));
        } else if path.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What stands between backticks in a line.
fn code(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// What stands between quotes in a line.
fn quoted(line: &str) -> Vec<&str> {
    line.split('"').skip(1).step_by(2).collect()
}

/// Words of sshd and sudo that a page quotes.
const OF_SSHD: &[&str] = &["MaxStartups", "MaxSessions", "PerSourcePenalties", "NOPASSWD"];

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_uppercase()) && text.chars().all(|c| c.is_ascii_alphanumeric())
}

/// The first cell of each row of a page's tables, or the cell at a place.
fn cells(page: &str, place: usize) -> impl Iterator<Item = &str> {
    page.lines().filter(|line| line.starts_with('|')).filter_map(move |line| line.split('|').nth(place + 1))
}

/// The source of the operator without its tests, which are at a file's end or in files of their own.
fn source() -> String {
    [files("operator/src", ".rs"), files("operator/core/src", ".rs")]
        .concat()
        .iter()
        .filter(|path| !path.contains("/tests"))
        .map(|path| read(path))
        .map(|text| text.split("\n#[cfg(test)]\n#[allow").next().unwrap_or_default().to_owned())
        .collect()
}

fn difference(have: &BTreeSet<String>, want: &BTreeSet<String>) -> Vec<String> {
    have.difference(want).cloned().collect()
}

#[test]
fn steps_are_those_of_the_code() {
    let kinds: BTreeSet<String> = Step::kinds().map(str::to_owned).collect();
    assert!(kinds.len() >= 26, "{kinds:?}");
    let page = read("docs/steps.md");
    let told: BTreeSet<String> =
        cells(&page, 0).flat_map(code).filter(|word| is_word(word)).map(str::to_owned).collect();
    assert_eq!(difference(&kinds, &told), [""; 0], "steps that docs/steps.md does not list");
    assert_eq!(difference(&told, &kinds), [""; 0], "docs/steps.md lists what is no step");
}

#[test]
fn conditions_are_those_of_the_code() {
    let page = read("docs/conditions.md");
    let types: BTreeSet<String> = read("crds/src/conditions.rs")
        .lines()
        .filter(|line| line.starts_with("pub const "))
        .flat_map(quoted)
        .map(str::to_owned)
        .collect();
    assert!(types.len() >= 21, "{types:?}");
    let head = page.split("\n## ").next().unwrap();
    let told: BTreeSet<String> = head.lines().flat_map(code).filter(|word| is_word(word)).map(str::to_owned).collect();
    for kind in &types {
        assert!(told.contains(kind), "{kind} is not in the list at the head of docs/conditions.md");
    }
    for heading in page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')) {
        assert!(types.contains(heading), "docs/conditions.md explains {heading}, which is no condition");
    }
    let first: BTreeSet<&str> = cells(&page, 0).flat_map(code).filter(|word| is_word(word)).collect();
    let headings: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    for kind in &types {
        let explained = first.contains(kind.as_str()) || headings.contains(kind.as_str());
        assert!(explained, "docs/conditions.md does not explain {kind}");
    }
}

#[test]
fn reasons_are_those_of_the_code() {
    let page = read("docs/conditions.md");
    let before_outcomes = page.split("\n## Outcomes").next().unwrap();
    let told: BTreeSet<&str> = before_outcomes
        .lines()
        .filter(|line| line.starts_with('|'))
        .flat_map(|line| line.split('|').take(4).flat_map(code))
        .filter(|word| is_word(word))
        .collect();
    // Of a host that cannot be looked at, the condition `Reachable` has the reason why not.
    let silent = [DriftKind::HostSilent, DriftKind::HostOff];
    for kind in DriftKind::ALL.iter().filter(|kind| !silent.contains(kind)) {
        assert!(told.contains(kind.as_str()), "docs/conditions.md does not explain the reason {}", kind.as_str());
    }
    let seen = read("operator/core/src/seen/mod.rs");
    let blind: Vec<&str> = seen
        .lines()
        .filter(|line| line.trim().starts_with("Self::") && line.contains("=> \""))
        .flat_map(quoted)
        .filter(|word| is_word(word))
        .collect();
    assert!(blind.len() >= 9, "{blind:?}");
    for reason in blind {
        assert!(told.contains(reason), "docs/conditions.md does not explain the reason {reason}");
    }
    let source = source();
    let types = read("crds/src/conditions.rs");
    for word in told {
        let known = source.contains(&format!("\"{word}\""))
            || types.contains(&format!("\"{word}\""))
            || DriftKind::ALL.iter().any(|kind| kind.as_str() == word)
            || ["True", "False", "Unknown"].contains(&word)
            || OF_SSHD.contains(&word);
        assert!(known, "docs/conditions.md tells of {word}, which the code does not say");
    }
}

#[test]
fn metrics_are_those_of_the_code() {
    let mut names = BTreeSet::new();
    for path in files("operator/src", ".rs") {
        let text = read(&path);
        if !path.contains("metrics") {
            continue;
        }
        let text = text.split("\n#[cfg(test)]").next().unwrap();
        // A name stands right after what registers it, with a line break between, if it is long.
        for begin in ["register(", "register_with_unit(", "gauge("] {
            for (at, _) in text.match_indices(begin) {
                let rest = text[at + begin.len()..].trim_start().trim_start_matches("encoder,").trim_start();
                let rest = rest.trim_start_matches('(').trim_start();
                if let Some((name, _)) = rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
                    names.insert(name.to_owned());
                }
            }
        }
    }
    assert!(names.len() >= 20, "{names:?}");
    let page = read("docs/metrics.md");
    let told: Vec<&str> = cells(&page, 0).flat_map(code).filter_map(|name| name.strip_prefix("binder_")).collect();
    let of = |told: &str, name: &str| {
        let rest = told.strip_prefix(name);
        rest.is_some_and(|rest| ["", "_total", "_seconds", "_seconds_total", "_bytes"].contains(&rest))
    };
    for name in &names {
        assert!(told.iter().any(|told| of(told, name)), "docs/metrics.md does not tell of binder_{name}");
    }
    for told in told {
        assert!(names.iter().any(|name| of(told, name)), "docs/metrics.md tells of binder_{told}, which is not there");
    }
}

/// The rows of docs/safety.md: the harm, what prevents it, and what shows it.
fn rows(page: &str) -> Vec<(&str, &str, &str)> {
    page.lines()
        .filter(|line| line.starts_with("| "))
        .filter_map(|line| {
            let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
            Some((cells.next()?, cells.next()?, cells.next()?))
        })
        .filter(|(harm, _, _)| *harm != "Harm")
        .collect()
}

#[test]
fn what_prevents_each_harm_is_shown_by_a_test() {
    let page = read("docs/safety.md");
    let rows = rows(&page);
    assert!(rows.len() >= 60, "docs/safety.md has {} rows", rows.len());
    let scenarios: String = files("tests/tests/scenarios", ".rs").iter().map(|path| read(path)).collect();
    let cells: String = files("operator/tests/do_no_harm", ".rs").iter().map(|path| read(path)).collect();
    for (harm, prevents, shown) in rows {
        assert!(!prevents.is_empty(), "{harm}");
        let tests = code(shown);
        assert!(!tests.is_empty(), "nothing shows what prevents this: {harm}");
        for test in tests {
            let found = if let Some(name) = test.strip_prefix("scenario ") {
                scenarios.contains(&format!("\"{name}\"")) || scenarios.contains(&format!("fn {name}("))
            } else if let Some(name) = test.strip_prefix("do_no_harm: ") {
                // `TOOL WAY`, or a part of the name of a question's cell.
                let way = name.split_once(' ').map_or(name, |(_, way)| way);
                cells.contains(&format!("\"{way}\"")) || cells.contains(name)
            } else if let Some((path, name)) = test.split_once("::") {
                root().join(path).exists() && {
                    let text = read(path);
                    text.contains(&format!("fn {name}(")) || text.contains(&format!("\"{name}\""))
                }
            } else {
                false
            };
            assert!(found, "docs/safety.md names a test that is not there: {test}");
        }
    }
}
