//! What occurred in the runs: a simulation that finds nothing because nothing happened says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Counts by name.
pub type Counts = BTreeMap<String, u64>;

/// What occurred.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Steps that were carried out.
    pub steps: Counts,
    /// Drifts that actions were to cure.
    pub drifts: Counts,
    /// What the gate answered, as statuses say it: the reason of `RemediationAllowed`, and what steps waited for.
    pub answers: Counts,
    /// Conditions with their reasons, as they were written.
    pub conditions: Counts,
    /// What happened to calls and to the world.
    pub faults: Counts,
    /// Which of those met in one run.
    pub pairs: Counts,
    /// How attempts ended.
    pub outcomes: Counts,
    /// How runs ended: healed, stalled, and so on, by host.
    pub ends: Counts,
    met: BTreeSet<String>,
}

/// Counts one.
pub fn count(counts: &mut Counts, name: &str) {
    match counts.get_mut(name) {
        Some(known) => *known += 1,
        None => drop(counts.insert(name.to_owned(), 1)),
    }
}

impl Coverage {
    /// Something happened to a call or to the world.
    pub fn fault(&mut self, name: &str) {
        count(&mut self.faults, name);
        if !self.met.contains(name) {
            self.met.insert(name.to_owned());
        }
    }

    /// The run is over: which faults met.
    pub fn close(&mut self) {
        let met: Vec<String> = std::mem::take(&mut self.met).into_iter().collect();
        for (n, one) in met.iter().enumerate() {
            for other in &met[n + 1..] {
                count(&mut self.pairs, &format!("{one}+{other}"));
            }
        }
    }

    /// Takes in another's counts.
    pub fn add(&mut self, other: &Self) {
        let sums = [
            (&mut self.steps, &other.steps),
            (&mut self.drifts, &other.drifts),
            (&mut self.answers, &other.answers),
            (&mut self.conditions, &other.conditions),
            (&mut self.faults, &other.faults),
            (&mut self.pairs, &other.pairs),
            (&mut self.outcomes, &other.outcomes),
            (&mut self.ends, &other.ends),
        ];
        for (sum, part) in sums {
            for (name, number) in part {
                *sum.entry(name.clone()).or_default() += number;
            }
        }
    }

    /// In lines, for a person.
    pub fn report(&self) -> String {
        let mut text = String::new();
        let all = [
            ("steps", &self.steps),
            ("drifts", &self.drifts),
            ("answers of the gate", &self.answers),
            ("conditions", &self.conditions),
            ("outcomes", &self.outcomes),
            ("ends of hosts", &self.ends),
            ("faults", &self.faults),
        ];
        for (what, counts) in all {
            let list: Vec<String> = counts.iter().map(|(name, number)| format!("{name} {number}")).collect();
            let _ = writeln!(text, "{what} ({}): {}", counts.len(), list.join(", "));
        }
        let kinds = self.faults.len();
        let possible = kinds * kinds.saturating_sub(1) / 2;
        let _ = writeln!(text, "pairs of faults in one run: {} of {possible}", self.pairs.len());
        text
    }
}
