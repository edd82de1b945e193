//! The host's clock: is it the operator's, and which steps rest on how old something is?
//!
//! Pure. What a host says is judged by the host's own clock (`seen.machine.clock`), so a clock that is merely off does no
//! harm to most steps. It is a sign all the same that times cannot be compared: it may have been set a moment ago, with
//! everything that was written before dated by the other time, and what the database of one machine dates is compared with
//! the operator's time. So nothing that rests on an age is done for a host whose clock is off ([`waits_for`]).
//!
//! # How far off
//!
//! The clock is read at the beginning of a look, and a look is dated when all of its answers are there. A clock that agrees
//! may therefore seem to be behind by as long as a look lasts ([`LOOK`]); what is ahead is ahead.

use crate::conditions::find;
use crate::facets::{DriftKind, Rung};
use crate::seen::Observation;
use binder_crds::{BinderHostStatus, conditions};
use jiff::{SignedDuration, Timestamp};

/// The reason of the condition `ClockInSync`.
pub const CLOCK_OFF: &str = "ClockOff";

/// What two clocks may differ by. NTP keeps machines within a second; a minute takes a clock that nobody keeps.
const TOLERATED: SignedDuration = SignedDuration::from_secs(60);
/// What a look may last: connections that are slow, and all its sections (`hosts/limits.rs`, 30 s).
const LOOK: SignedDuration = SignedDuration::from_secs(30);
/// A clock that was off must be better than tolerated by this to be in sync again, and one that is near the edge of two
/// words keeps the word that it has: a status must not change by itself.
const SLACK: SignedDuration = SignedDuration::from_secs(20);

/// How much, in words that last: from so many seconds on.
const WORDS: [(i64, &str); 5] = [
    (60, "more than a minute"),
    (10 * 60, "more than 10 minutes"),
    (60 * 60, "more than an hour"),
    (24 * 60 * 60, "more than a day"),
    (365 * 24 * 60 * 60, "more than a year"),
];

/// What is said of a host's clock; `None` when it agrees with the operator's, or could not be seen.
pub fn off(previous: &BinderHostStatus, seen: &Observation) -> Option<String> {
    let machine = seen.machine.seen()?;
    let clock = Timestamp::from_second(machine.clock).ok()?;
    let apart = clock.duration_since(seen.at);
    let before = find(previous, conditions::CLOCK_IN_SYNC).filter(|condition| condition.status == "False");
    let ahead = apart.is_positive();
    // Whatever a look may have lasted is taken off, in favour of the host.
    let apart = if ahead { apart } else { (apart.abs() - LOOK).max(SignedDuration::ZERO) };
    let tolerated = if before.is_some() { TOLERATED - SLACK } else { TOLERATED };
    if apart <= tolerated {
        return None;
    }
    let said = |words: &str| {
        format!(
            "its clock is {words} {} the operator's: nothing that rests on how old something is is done here. Let NTP set \
             the clock of the machine (`timedatectl`), or of the operator's node if many hosts say so",
            if ahead { "ahead of" } else { "behind" }
        )
    };
    let fits = |apart: SignedDuration| {
        let reached = WORDS.iter().rev().find(|(from, _)| apart.as_secs() >= *from);
        said(reached.map_or(WORDS[0].1, |(_, words)| words))
    };
    // What was said before stays, if it is true of a clock that is a little different.
    let near = [fits(apart - SLACK), fits(apart + SLACK)];
    let same = before.filter(|before| near.contains(&before.message)).map(|before| before.message.clone());
    Some(same.unwrap_or_else(|| fits(apart)))
}

/// What the remedies of a drift wait for when they, or the sight of it, rest on an age and the host's clock is off.
pub fn waits_for(previous: &BinderHostStatus, seen: &Observation, drift: DriftKind, ladder: &[Rung]) -> Option<String> {
    if !drift.rests_on_age() && !ladder.iter().any(|rung| rung.step.nature().rests_on_age) {
        return None;
    }
    off(previous, seen).map(|_| "the clock of the machine to be set right".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::conditions::{Conditions, Is};
    use crate::facets::docker::Step;
    use crate::seen::Known;
    use crate::seen::machine::Machine;

    fn at() -> Timestamp {
        "2026-11-22T03:00:00Z".parse().unwrap()
    }

    fn seen(apart: i64) -> Observation {
        let machine = Machine { clock: at().as_second() + apart, ..Machine::default() };
        Observation { machine: Known::Seen(machine), ..Observation::nothing(at()) }
    }

    fn said(message: &str) -> BinderHostStatus {
        let mut list = Conditions::new(&[], 1, at());
        list.set(conditions::CLOCK_IN_SYNC, Is::False, CLOCK_OFF, message);
        BinderHostStatus { conditions: list.list(), ..BinderHostStatus::default() }
    }

    #[test]
    fn a_clock_may_differ_by_a_minute_and_by_what_a_look_lasts() {
        let never = BinderHostStatus::default();
        for (apart, words) in [
            (0, None),
            (60, None),
            (-60, None),
            // Read at the beginning of a look that lasted 30 s.
            (-90, None),
            (61, Some("more than a minute ahead of")),
            (-91, Some("more than a minute behind")),
            (599, Some("more than a minute ahead of")),
            (2 * 3600, Some("more than an hour ahead of")),
            (-3 * 86400, Some("more than a day behind")),
            // The clock of a machine without a battery.
            (-1_795_000_000, Some("more than a year behind")),
        ] {
            let told = off(&never, &seen(apart));
            assert_eq!(told.is_some(), words.is_some(), "{apart}: {told:?}");
            assert!(words.is_none_or(|words| told.unwrap().contains(words)), "{apart}");
        }
        assert_eq!(off(&never, &Observation::nothing(at())), None, "not seen is not off");
        let odd = Machine { clock: i64::MAX, ..Machine::default() };
        let odd = Observation { machine: Known::Seen(odd), ..Observation::nothing(at()) };
        assert_eq!(off(&never, &odd), None);
    }

    #[test]
    fn what_is_said_does_not_change_by_itself() {
        for edge in [60, 600, 3600, 86400, -90, -630] {
            let mut status = BinderHostStatus::default();
            let mut writes = 0;
            for jitter in [3, 1, 2, 0, -2, 4, -5, 9, -9] {
                let told = off(&status, &seen(edge + jitter));
                let before = find(&status, conditions::CLOCK_IN_SYNC).map(|condition| condition.message.clone());
                if told != before {
                    writes += 1;
                    status = told.map_or_else(BinderHostStatus::default, |told| said(&told));
                }
            }
            assert!(writes <= 1, "{edge}: {writes} writes");
        }
        let off_before = said(&off(&BinderHostStatus::default(), &seen(120)).unwrap());
        assert_eq!(off(&off_before, &seen(1)), None, "a clock that was set is in sync");
    }

    #[test]
    fn only_what_rests_on_an_age_waits_for_the_clock() {
        let never = BinderHostStatus::default();
        let rung = |step: Step| vec![Rung::new(step, std::time::Duration::from_secs(1))];
        let images = rung(Step::RemoveImages { images: Vec::new() });
        let cache = rung(Step::EmptyPackageCache);
        let waits = |apart, drift, ladder: &[Rung]| waits_for(&never, &seen(apart), drift, ladder).is_some();
        assert!(waits(7200, DriftKind::ReclaimDue, &images));
        assert!(!waits(0, DriftKind::ReclaimDue, &images));
        assert!(!waits(7200, DriftKind::OverThreshold, &cache));
        assert!(waits(-7200, DriftKind::HealthStale, &[]));
        assert!(!waits(-7200, DriftKind::ProcessMissing, &[]));
    }
}
