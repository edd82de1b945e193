//! Whether a host's clock may be compared with ours. What a host wrote down is judged by the clock that wrote it; where that
//! clock and the operator's differ by more than a minute, one of them is wrong, and no step rests on an age.

use crate::seen::machine::Machine;
use jiff::{SignedDuration, Timestamp};

/// What a look takes from its first section to its last, and what is called a clock that is off.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(60);

/// Why no age is told.
pub(super) const DIFFER: &str =
    "the clocks of the host and of the operator differ by over a minute: set the host's (NTP)";

/// What a step waits for that rests on an age.
pub(super) const HELD: &str = "the clock of the machine to be set right";

/// Whether the host's clock and the operator's, `at` the time of the look, differ by more than a minute.
pub(super) fn differ(machine: &Machine, at: Timestamp) -> bool {
    Timestamp::from_second(machine.clock).map_or(true, |clock| clock.duration_since(at).abs() > TOLERANCE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_within_what_a_look_takes_and_an_hour_is_not() {
        let at = Timestamp::from_second(1_780_000_000).unwrap();
        for (clock, differs) in
            [(0, false), (60, false), (-60, false), (61, true), (-61, true), (3600, true), (-18_000, true)]
        {
            let machine = Machine { clock: 1_780_000_000 + clock, ..Machine::default() };
            assert_eq!(differ(&machine, at), differs, "{clock}");
        }
        assert!(differ(&Machine { clock: i64::MAX, ..Machine::default() }, at));
    }
}
