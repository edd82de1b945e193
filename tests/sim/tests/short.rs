//! The short form of `cargo sim`: some seeds, the cases that failed before, and that one seed is one history.

#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

use binder_sim::case::{Case, Shape};
use binder_sim::coverage::Coverage;
use binder_sim::run::{Outcome, run};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// As many seeds: a number, so that a slow machine tries as much as a fast one.
const SEEDS: u64 = 60;

fn fails(what: &str, outcome: &Outcome) -> Option<String> {
    let first = outcome.found.first()?;
    Some(format!("{what}: {} at {:?}: {}", first.invariant, first.at, first.what))
}

#[test]
fn nothing_that_must_not_be_is_in_some_seeds() {
    let (next, all) = (AtomicU64::new(1), Mutex::new((Coverage::default(), Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > SEEDS {
                        break;
                    }
                    let outcome = run(&Case::drawn(seed, Shape::default()), false);
                    let mut all = all.lock().unwrap();
                    all.0.add(&outcome.coverage);
                    let words = fails(&format!("seed {seed} (cargo sim --seeds 1 --seed {seed})"), &outcome);
                    all.1.extend(words);
                }
            });
        }
    });
    let (coverage, failed) = all.into_inner().unwrap();
    assert_eq!(failed, Vec::<String>::new());
    // A simulation in which nothing happens proves nothing.
    assert!(coverage.steps.len() >= 6, "{:?}", coverage.steps);
    assert!(coverage.faults.len() >= 30, "{:?}", coverage.faults);
    assert!(coverage.ends.get("well").is_some_and(|well| *well > SEEDS / 2), "{:?}", coverage.ends);
}

#[test]
fn one_seed_is_one_history() {
    for seed in [9, 26] {
        let case = Case::drawn(seed, Shape::default());
        let (one, other) = (run(&case, true), run(&case, true));
        let differs = one.history.iter().zip(&other.history).position(|(one, other)| one != other);
        let line = differs.map(|at| (&one.history[at], &other.history[at]));
        assert_eq!((one.trace, one.passed), (other.trace, other.passed), "seed {seed} differs first at {line:?}");
        assert!(one.passed > 50, "{}", one.passed);
    }
    let traces = |seed| run(&Case::drawn(seed, Shape::default()), false).trace;
    assert_ne!(traces(3), traces(4));
}

#[test]
fn what_was_drawn_is_the_same_history_as_a_list() {
    use binder_sim::case::Faults;
    let mut compared = 0;
    for seed in 1..40 {
        let case = Case::drawn(seed, Shape { busy: 120, ..Shape::default() });
        if case.faults == Faults::Drawn(0) {
            continue;
        }
        let drawn = run(&case, true);
        let listed = run(&Case { faults: Faults::Listed(drawn.happened.clone()), ..case }, true);
        let differs = drawn.history.iter().zip(&listed.history).find(|(one, other)| one != other);
        assert_eq!(listed.trace, drawn.trace, "seed {seed} differs first at {differs:?}");
        compared += usize::from(!drawn.happened.is_empty());
        if compared == 4 {
            return;
        }
    }
    panic!("only {compared} cases had faults");
}

#[test]
fn cases_that_failed_once_do_not_any_more() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("found");
    let mut failed = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let case: Case = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        failed.extend(fails(&path.display().to_string(), &run(&case, false)));
    }
    assert_eq!(failed, Vec::<String>::new());
}
