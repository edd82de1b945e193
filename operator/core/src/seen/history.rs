//! What earlier looks at one host know, taken into the next: the one place where an [`Observation`] is finished.
//!
//! Kept in the process and lost with it; then what rests on it is done later, never sooner. Must not know what it is for.

use super::Observation;
use super::clock::{self, Off};
use super::lasting::Lasting;
use super::restarts::Counts;

/// What the looks at one host leave for the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EarlierLooks {
    /// Since when what they show has been so.
    lasting: Lasting,
    /// pm2's restart counts.
    restarts: Counts,
    /// Whether the clock was off.
    clock: Option<Off>,
}

impl EarlierLooks {
    /// Takes a look in, and adds to it what earlier ones know: since when what it shows has been so, what pm2 restarts again
    /// and again, whether the clock was off. Once for each look, when all of it is there.
    pub fn take_in(&mut self, seen: &mut Observation) {
        seen.clock_before = self.clock;
        self.clock = clock::off(seen);
        self.lasting = self.lasting.carried(seen.marks(), seen.at);
        seen.lasting = self.lasting.clone();
        self.restarts.add(seen);
        seen.climbing = self.restarts.climbing(seen.at);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;
    use crate::seen::machine::Machine;
    use crate::seen::reach::{Reached, Reaches};
    use jiff::{SignedDuration, Timestamp};

    #[test]
    fn what_earlier_looks_know_is_added_to_the_next() {
        let mut history = EarlierLooks::default();
        let mut look = |second: i64, apart: i64| {
            let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second);
            let machine = Machine { clock: second + apart, ..Machine::default() };
            let reaches: Reaches = [("db".to_owned(), Reached::Refused)].into();
            let mut seen =
                Observation { machine: Fact::Seen(machine), reaches: Fact::Seen(reaches), ..Observation::nothing(at) };
            history.take_in(&mut seen);
            seen
        };
        let (first, second) = (look(100, 61), look(130, 55));
        assert!(first.clock_before.is_none() && clock::off(&first).is_some());
        // It was off a moment ago, and is not better than tolerated by enough.
        assert!(clock::off(&second).is_some());
        assert_eq!(second.lasting.age("db", second.at).as_secs(), 30);
    }
}
