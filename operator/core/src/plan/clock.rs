//! What must wait while a host's clock is off: which steps and which drifts rest on how old something is. Whether it is off is
//! [`crate::seen::clock`]'s to say, and said in the condition `ClockInSync`. Pure.

use crate::facets::{DriftKind, Rung};
use crate::seen::{Observation, clock};

/// The reason of the condition `ClockInSync`.
pub const CLOCK_OFF: &str = "ClockOff";

/// What is said of a host's clock; `None` when it agrees with the operator's, or could not be seen.
pub fn message(seen: &Observation) -> Option<String> {
    let off = clock::off(seen)?;
    Some(format!(
        "its clock is {}: nothing that rests on how old something is is done here. Let NTP set the clock of the machine \
         (`timedatectl`), or of the operator's node if many hosts say so",
        off.words()
    ))
}

/// What the remedies of a drift wait for when they, or the sight of it, rest on an age and the host's clock is off.
pub fn waits_for(seen: &Observation, drift: DriftKind, ladder: &[Rung]) -> Option<String> {
    if !drift.rests_on_age() && !ladder.iter().any(|rung| rung.step.nature().rests_on_age) {
        return None;
    }
    clock::off(seen).map(|_| "the clock of the machine to be set right".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::facets::docker::Step;
    use crate::seen::Fact;
    use crate::seen::machine::Machine;
    use jiff::Timestamp;

    fn seen(apart: i64) -> Observation {
        let at: Timestamp = "2026-11-22T03:00:00Z".parse().unwrap();
        let machine = Machine { clock: at.as_second() + apart, ..Machine::default() };
        Observation { machine: Fact::Seen(machine), ..Observation::nothing(at) }
    }

    #[test]
    fn only_what_rests_on_an_age_waits_for_the_clock() {
        let rung = |step: Step| vec![Rung::new(step, std::time::Duration::from_secs(1))];
        let images = rung(Step::RemoveImages { images: Vec::new() });
        let cache = rung(Step::EmptyPackageCache);
        let waits = |apart, drift, ladder: &[Rung]| waits_for(&seen(apart), drift, ladder).is_some();
        assert!(waits(7200, DriftKind::ReclaimDue, &images));
        assert!(!waits(0, DriftKind::ReclaimDue, &images));
        assert!(!waits(7200, DriftKind::OverThreshold, &cache));
        assert!(waits(-7200, DriftKind::HealthStale, &[]));
        assert!(!waits(-7200, DriftKind::ProcessMissing, &[]));
        assert!(message(&seen(7200)).unwrap().contains("more than an hour ahead of the operator's"));
        assert_eq!(message(&seen(0)), None);
    }
}
