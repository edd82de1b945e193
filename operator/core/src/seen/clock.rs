//! The host's clock: is it the operator's? One rule, for whoever compares ages and for what is said.
//!
//! What a host wrote down is judged by the clock that wrote it, so a clock that is merely off does no harm to most steps. It is
//! a sign all the same that times cannot be compared: it may have been set a moment ago, with everything that was written
//! before dated by the other time. Where it is off, no age is told. Must not know what rests on an age.
//!
//! # How far off
//!
//! The clock is read at the beginning of a look, and a look is dated when all of its answers are there. A clock that agrees
//! may therefore seem to be behind by as long as a look lasts ([`LOOK`]); what is ahead is ahead.

use super::Observation;

/// What two clocks may differ by, in seconds. NTP keeps machines within a second; a minute takes a clock that nobody keeps.
const TOLERATED: i64 = 60;
/// What a look may last, in seconds: connections that are slow, and all its sections (`hosts/limits.rs`).
const LOOK: i64 = 30;
/// A clock that was off must be better than tolerated by this, in seconds, to be in sync again, and one that is near the edge of
/// two words keeps the word that it has: what is said must not change by itself.
const SLACK: i64 = 20;

/// How much, in words that last: from so many seconds on.
const WORDS: [(i64, &str); 5] = [
    (60, "more than a minute"),
    (10 * 60, "more than 10 minutes"),
    (60 * 60, "more than an hour"),
    (24 * 60 * 60, "more than a day"),
    (365 * 24 * 60 * 60, "more than a year"),
];

/// A clock that is off: by how much, as it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Off {
    /// Whether it is ahead of the operator's, and not behind.
    ahead: bool,
    /// Its place in [`WORDS`].
    words: usize,
}

impl Off {
    /// By how much, and to which side: `more than an hour behind the operator's`.
    pub fn words(self) -> String {
        format!("{} {} the operator's", WORDS[self.words].1, if self.ahead { "ahead of" } else { "behind" })
    }
}

/// Whether the clock of the host is off; `None` when it agrees with the operator's, or could not be seen.
pub fn off(seen: &Observation) -> Option<Off> {
    let clock = seen.machine.seen()?.clock;
    let apart = clock.saturating_sub(seen.at.as_second());
    let ahead = apart > 0;
    // Whatever a look may have lasted is taken off, in favour of the host.
    let apart = if ahead { apart } else { apart.saturating_abs().saturating_sub(LOOK).max(0) };
    let before = seen.clock_before;
    if apart <= if before.is_some() { TOLERATED - SLACK } else { TOLERATED } {
        return None;
    }
    let fits =
        |apart: i64| Off { ahead, words: WORDS.iter().rposition(|(from, _)| apart >= *from).unwrap_or_default() };
    // What was said before stays, if it is true of a clock that is a little different.
    let near = [fits(apart.saturating_sub(SLACK)), fits(apart.saturating_add(SLACK))];
    Some(before.filter(|before| near.contains(before)).unwrap_or_else(|| fits(apart)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;
    use crate::seen::machine::Machine;
    use jiff::Timestamp;

    fn seen(apart: i64, before: Option<Off>) -> Observation {
        let at: Timestamp = "2026-11-22T03:00:00Z".parse().unwrap();
        let machine = Machine { clock: at.as_second().saturating_add(apart), ..Machine::default() };
        Observation { machine: Fact::Seen(machine), clock_before: before, ..Observation::nothing(at) }
    }

    #[test]
    fn a_clock_may_differ_by_a_minute_and_by_what_a_look_lasts() {
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
            // The clock of a machine without a battery, and what is no time at all.
            (-1_795_000_000, Some("more than a year behind")),
            (i64::MAX, Some("more than a year ahead of")),
            (i64::MIN, Some("more than a year behind")),
        ] {
            let told = off(&seen(apart, None));
            assert_eq!(told.is_some(), words.is_some(), "{apart}: {told:?}");
            assert!(words.is_none_or(|words| told.unwrap().words().contains(words)), "{apart}");
        }
        assert_eq!(off(&Observation::nothing(Timestamp::UNIX_EPOCH)), None, "not seen is not off");
    }

    #[test]
    fn what_is_said_does_not_change_by_itself() {
        for edge in [60, 600, 3600, 86400, -90, -630] {
            let mut before = None;
            let mut changes = 0;
            for jitter in [3, 1, 2, 0, -2, 4, -5, 9, -9] {
                let told = off(&seen(edge + jitter, before));
                changes += usize::from(told != before);
                before = told;
            }
            assert!(changes <= 1, "{edge}: {changes} changes");
        }
        let off_before = off(&seen(120, None));
        assert!(off_before.is_some());
        assert_eq!(off(&seen(1, off_before)), None, "a clock that was set is in sync");
    }
}
