//! How long to wait until the next look, given how the last one went. Pure.
//!
//! What is slow is asked less often, never more: a look that cannot see because machines are overloaded must not be the
//! reason for more looks. Who was described together with others is not looked at together with them.

use binder_core::plan;
use binder_core::seen::Reason;
use binder_crds::BinderHostStatus;
use std::time::Duration;

/// A look that takes longer is slow. On an idle machine it takes 0.2 to 1 s; the shortest limit of a section is 6 s.
pub(super) const SLOW: Duration = Duration::from_secs(4);

/// So many slow looks in a row change no more than that a look that could not see waits its usual time. What hangs on one
/// host is often about to be told as a fault and healed; what goes on after that is load.
const PATIENCE: u32 = 3;

/// How often the pause doubles at most: eight times the usual one, 4 min where that is 30 s.
const DOUBLED: u32 = 3;

/// Room for each host within which the first looks after a start are spread: 500 hosts within 25 s.
const ROOM: Duration = Duration::from_millis(50);

/// Slow looks in a row. A look in time takes one back, so that a machine at the edge does not flap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slowness(u32);

/// One look, as far as the next one's time depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Went {
    /// How long it took.
    pub took: Duration,
    /// Whether a part of it ran out of time.
    pub timed_out: bool,
    /// Whether there is something to do or to watch on the host: that is not put off for the sake of load.
    pub busy: bool,
}

impl Slowness {
    /// What a look makes of it.
    pub(super) fn after(self, went: Went) -> Self {
        if went.took >= SLOW || went.timed_out {
            Self((self.0 + 1).min(PATIENCE + DOUBLED))
        } else {
            Self(self.0.saturating_sub(1))
        }
    }

    /// The pause before the next look, where `wanted` was decided and the host is looked at `usual`ly so often.
    pub(super) fn pause(self, wanted: Duration, usual: Duration, went: Went) -> Duration {
        // No more than a third of the time is spent on looking at one host; half of it while something is wrong there, which
        // is often what makes a look slow (an API that hangs).
        let rest = if went.busy { went.took } else { went.took.saturating_mul(2) };
        let wanted = if went.took >= SLOW || went.timed_out { wanted.max(rest) } else { wanted };
        if self.0 == 0 || went.busy {
            return wanted;
        }
        wanted.max(usual.saturating_mul(1 << self.0.saturating_sub(PATIENCE)))
    }
}

/// Whether a status says that some part of the look ran out of time.
pub(super) fn timed_out(status: &BinderHostStatus) -> bool {
    let late = [Reason::ProbeTimedOut.as_str(), Reason::NotSeen.as_str()];
    status.conditions.iter().any(|condition| condition.status == "Unknown" && late.contains(&condition.reason.as_str()))
}

/// How long the first look at a host waits after the operator's start, where `part` is chosen at random from 0 to 1.
pub(super) fn spread(hosts: usize, part: f64) -> Duration {
    let room = ROOM.saturating_mul(u32::try_from(hosts).unwrap_or(u32::MAX)).min(plan::USUAL);
    room.mul_f64(part.clamp(0.0, 1.0))
}

/// A pause that differs by up to a tenth either way, where `part` is chosen at random from 0 to 1.
pub(super) fn jittered(pause: Duration, part: f64) -> Duration {
    pause.mul_f64(0.9 + 0.2 * part.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use binder_core::status::conditions::{Conditions, Is};

    const USUAL: Duration = Duration::from_secs(30);

    fn went(seconds: u64, timed_out: bool) -> Went {
        Went { took: Duration::from_secs(seconds), timed_out, busy: false }
    }

    #[test]
    fn a_host_that_is_slow_is_looked_at_less_often_and_never_more() {
        let (mut slowness, mut last) = (Slowness::default(), Duration::ZERO);
        // What could not be seen asks for another look in 5 s.
        for _ in 0..12 {
            slowness = slowness.after(went(9, true));
            let pause = slowness.pause(Duration::from_secs(5), USUAL, went(9, true));
            assert!(pause >= USUAL && pause >= last, "{pause:?}");
            last = pause;
        }
        assert_eq!(last, USUAL * 8);
        for _ in 0..6 {
            slowness = slowness.after(went(1, false));
        }
        assert_eq!(slowness.pause(USUAL, USUAL, went(1, false)), USUAL, "and as before when it is well again");
    }

    #[test]
    fn a_quick_look_changes_no_pause() {
        for wanted in [2, 5, 10, 30, 600] {
            let wanted = Duration::from_secs(wanted);
            assert_eq!(Slowness::default().after(went(1, false)).pause(wanted, USUAL, went(1, false)), wanted);
        }
    }

    #[test]
    fn what_takes_effect_on_a_slow_host_is_watched_but_not_in_a_tight_loop() {
        let went = Went { took: Duration::from_secs(6), timed_out: true, busy: true };
        let pause = Slowness::default().after(went).after(went).pause(plan::WATCH, USUAL, went);
        assert_eq!(pause, Duration::from_secs(6));
        let calm = Went { busy: false, ..went };
        assert_eq!(Slowness::default().after(calm).pause(plan::WATCH, Duration::ZERO, calm), Duration::from_secs(12));
    }

    #[test]
    fn five_hundred_slow_hosts_settle() {
        // A machine that serves so many looks at once slowly: each look takes as long as there are others beside it.
        let mut pauses = vec![(Slowness::default(), USUAL); 500];
        for _ in 0..20 {
            let rate: f64 = pauses.iter().map(|(_, pause)| 1.0 / pause.as_secs_f64()).sum();
            let took = Duration::from_secs_f64((rate * 1.5).min(30.0));
            for (slowness, pause) in &mut pauses {
                let went = Went { took, timed_out: took > Duration::from_secs(6), busy: false };
                *slowness = slowness.after(went);
                *pause = slowness.pause(if went.timed_out { plan::DRIFTED / 2 } else { USUAL }, USUAL, went);
            }
        }
        let rate: f64 = pauses.iter().map(|(_, pause)| 1.0 / pause.as_secs_f64()).sum();
        assert!(rate < 500.0 / USUAL.as_secs_f64(), "no more looks than at healthy hosts: {rate}");
    }

    #[test]
    fn first_looks_are_spread_and_a_small_fleet_does_not_wait() {
        assert!(spread(8, 1.0) < Duration::from_secs(1));
        assert_eq!(spread(500, 1.0), Duration::from_secs(25));
        assert_eq!(spread(1_000_000, 1.0), plan::USUAL);
        assert_eq!(jittered(USUAL, 0.0), Duration::from_secs(27));
        assert_eq!(jittered(USUAL, 1.0), Duration::from_secs(33));
    }

    #[test]
    fn a_part_of_a_look_that_ran_out_of_time_is_noticed() {
        let mut list = Conditions::new(&[], 1, jiff::Timestamp::UNIX_EPOCH);
        list.set("DockerReady", Is::Unknown, "ProbeTimedOut", "");
        let status = BinderHostStatus { conditions: list.list(), ..BinderHostStatus::default() };
        assert!(timed_out(&status) && !timed_out(&BinderHostStatus::default()));
    }
}
