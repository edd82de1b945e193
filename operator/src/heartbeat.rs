//! Whether both controllers are still at work: each leaves a mark whenever it has done something, or has nothing to do.
//!
//! Knows nothing of what they do. That a host is slow is no reason to restart the operator; that nobody looks at any host is.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::Instant;

/// How often a controller with nothing to do leaves a mark.
pub const TICK: Duration = Duration::from_secs(10);

/// A controller without a mark for so long does not work any more: twelve marks are missing. One pass over a host never
/// delays a mark, since passes run side by side with it.
pub const STALE_AFTER: Duration = Duration::from_secs(120);

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// The one that looks at hosts.
    Hosts,
    /// The one that renders fleets.
    Fleets,
}

impl Controller {
    /// Its name, in logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hosts => "host",
            Self::Fleets => "fleet",
        }
    }
}

/// The last marks.
#[derive(Debug)]
pub struct Heartbeat {
    hosts: Mutex<Instant>,
    fleets: Mutex<Instant>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        let now = Instant::now();
        Self { hosts: Mutex::new(now), fleets: Mutex::new(now) }
    }
}

impl Heartbeat {
    fn of(&self, which: Controller) -> &Mutex<Instant> {
        match which {
            Controller::Hosts => &self.hosts,
            Controller::Fleets => &self.fleets,
        }
    }

    /// A controller is at work at this moment.
    pub fn beat(&self, which: Controller, now: Instant) {
        *self.of(which).lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// The controllers that left no mark for too long, with how long.
    pub fn stale(&self, now: Instant) -> Vec<(Controller, Duration)> {
        [Controller::Hosts, Controller::Fleets]
            .into_iter()
            .filter_map(|which| {
                let last = *self.of(which).lock().unwrap_or_else(PoisonError::into_inner);
                let age = now.saturating_duration_since(last);
                (age > STALE_AFTER).then_some((which, age))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_controller_that_stands_still_is_told_by_its_name() {
        let heartbeat = Heartbeat::default();
        let later = Instant::now() + STALE_AFTER + TICK;
        assert_eq!(heartbeat.stale(Instant::now()), []);
        heartbeat.beat(Controller::Fleets, later);
        let stale: Vec<&str> = heartbeat.stale(later).iter().map(|(which, _)| which.as_str()).collect();
        assert_eq!(stale, ["host"]);
        heartbeat.beat(Controller::Hosts, later);
        assert_eq!(heartbeat.stale(later), []);
    }
}
