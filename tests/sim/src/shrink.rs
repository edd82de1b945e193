//! A case that fails, made shorter: what the failure does not need is left out, one thing after another, until nothing more
//! can be.

use crate::case::{Case, Faults};
use crate::judge::Violation;
use crate::run::{Outcome, run};

/// As many runs it may take.
const RUNS: usize = 400;

/// The shortest case found that fails in the same way, and its outcome with its history.
pub fn shrink(case: &Case, outcome: &Outcome) -> (Case, Outcome) {
    let Some(first) = outcome.found.first().cloned() else { return (case.clone(), outcome.clone()) };
    let mut best = case.clone();
    let mut left = RUNS;
    // What was drawn, as a list: from here on, what is left out moves nothing else.
    let listed = Case { faults: Faults::Listed(outcome.happened.clone()), ..case.clone() };
    if fails(&listed, &first, &mut left) {
        best = listed;
    }
    loop {
        let before = size(&best);
        fewer_events(&mut best, &first, &mut left);
        fewer_faults(&mut best, &first, &mut left);
        simpler(&mut best, &first, &mut left);
        if size(&best) == before || left == 0 {
            break;
        }
    }
    let told = run(&best, true);
    (best, told)
}

fn size(case: &Case) -> (usize, usize, usize, u64) {
    let faults = match &case.faults {
        Faults::Listed(list) => list.len(),
        Faults::Drawn(_) => usize::MAX,
    };
    (case.events.len(), faults, case.roles.len(), case.busy)
}

fn fails(case: &Case, first: &Violation, left: &mut usize) -> bool {
    if *left == 0 {
        return false;
    }
    *left -= 1;
    run(case, false).found.first().is_some_and(|found| found.invariant == first.invariant)
}

fn fewer_events(best: &mut Case, first: &Violation, left: &mut usize) {
    let mut at = best.events.len();
    while at > 0 {
        at -= 1;
        let mut shorter = best.clone();
        shorter.events.remove(at);
        if fails(&shorter, first, left) {
            *best = shorter;
        }
    }
}

/// By halves first, then one by one.
fn fewer_faults(best: &mut Case, first: &Violation, left: &mut usize) {
    let Faults::Listed(list) = &best.faults else { return };
    let mut chunk = list.len().next_power_of_two() / 2;
    while chunk > 0 {
        let mut from = 0;
        loop {
            let Faults::Listed(list) = &best.faults else { return };
            if from >= list.len() {
                break;
            }
            let kept = list.iter().enumerate().filter(|(n, _)| *n < from || *n >= from + chunk);
            let kept = kept.map(|(_, (key, fault))| (key.clone(), *fault)).collect();
            let shorter = Case { faults: Faults::Listed(kept), ..best.clone() };
            if fails(&shorter, first, left) {
                *best = shorter;
            } else {
                from += chunk;
            }
        }
        chunk /= 2;
    }
}

fn simpler(best: &mut Case, first: &Violation, left: &mut usize) {
    // The last machine, if nothing happens to it.
    while best.roles.len() > 1 {
        let last = best.roles.len() - 1;
        let named = best.events.iter().any(|(_, event)| format!("{event:?}").contains(&format!("({last}")));
        let mut shorter = best.clone();
        shorter.roles.pop();
        if named || !fails(&shorter, first, left) {
            break;
        }
        *best = shorter;
    }
    let last = best.events.last().map_or(20, |(at, _)| *at + 1);
    if last < best.busy {
        let shorter = Case { busy: last, ..best.clone() };
        if fails(&shorter, first, left) {
            *best = shorter;
        }
    }
}
