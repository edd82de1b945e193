//! How often pm2 restarts a process: a rate, worked out from the counts of earlier looks, which the controller keeps in
//! the process. pm2's own count says nothing by itself: it may have been high for a year.
//!
//! Pure. After a restart of the operator nothing is known of the past, so a rate takes a few looks to be seen again.

use super::Observation;
use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

/// What is older does not count. Convention: an operator's patience with a server, in minutes.
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// So many restarts within the window are a climb. Two happen to a server whose database was started a moment late.
const CLIMB: u64 = 3;
/// The most entries of pm2's table that are followed, and the most rises that are kept of each.
const ROWS: usize = 256;
const RISES: usize = 32;
/// A process that has been up for so many of its usual times between two restarts has stopped climbing, but never sooner
/// than after [`QUIET_AT_LEAST`].
const QUIET: i32 = 4;
const QUIET_AT_LEAST: SignedDuration = SignedDuration::from_secs(30);

/// The counts of earlier looks at one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    boot: String,
    rows: BTreeMap<(String, u32), Rises>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rises {
    count: u64,
    rises: VecDeque<(Timestamp, u64)>,
}

impl Rises {
    fn climb(&self, now: Timestamp) -> Option<Climb> {
        let restarts: u64 = self.rises.iter().fold(0, |sum, (_, by)| sum.saturating_add(*by));
        let (first, last) = (self.rises.front()?, self.rises.back()?);
        let between = i32::try_from(restarts - first.1).unwrap_or(i32::MAX).max(1);
        (restarts >= CLIMB).then(|| Climb {
            restarts,
            lasting: now.duration_since(first.0),
            quiet: now.duration_since(last.0),
            every: last.0.duration_since(first.0) / between,
        })
    }
}

/// How a process's restart count climbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Climb {
    /// Restarts within the last 10 minutes.
    pub restarts: u64,
    /// Since the first of them.
    pub lasting: SignedDuration,
    /// Since the last of them.
    pub quiet: SignedDuration,
    /// The usual time between two.
    pub every: SignedDuration,
}

impl Climb {
    /// Whether it goes on: the last restart is no longer ago than two of them usually are apart.
    pub fn goes_on(&self) -> bool {
        self.quiet <= (self.every * 2).max(SignedDuration::from_secs(10))
    }

    fn is_over(&self) -> bool {
        self.quiet > (self.every * QUIET).max(QUIET_AT_LEAST)
    }

    /// The count in words that do not change with every look.
    pub fn words(&self) -> &'static str {
        match self.restarts {
            0..30 => "several times",
            30..300 => "over 30 times",
            _ => "over 300 times",
        }
    }
}

impl Counts {
    /// Takes in a look. What was not seen changes nothing; another boot begins anew.
    pub fn add(&mut self, seen: &Observation) {
        let (Some(boot), Some(table)) = (seen.boot_id(), seen.pm2.seen()) else { return };
        if self.boot != boot {
            *self = Self { boot: boot.to_owned(), rows: BTreeMap::new() };
        }
        let mut rows = BTreeMap::new();
        for row in table.rows.iter().take(ROWS) {
            let key = (row.name.clone(), row.id);
            let mut known = self
                .rows
                .remove(&key)
                .filter(|known| known.count <= row.restarts)
                .unwrap_or(Rises { count: row.restarts, rises: VecDeque::new() });
            if row.restarts > known.count {
                // After it had been well again, another climb begins.
                if known.climb(seen.at).is_some_and(|climb| climb.is_over()) {
                    known.rises.clear();
                }
                known.rises.push_back((seen.at, row.restarts - known.count));
                known.count = row.restarts;
            }
            let old = |rise: &(Timestamp, u64)| seen.at.duration_since(rise.0) > WINDOW;
            while known.rises.len() > RISES || known.rises.front().is_some_and(old) {
                known.rises.pop_front();
            }
            rows.insert(key, known);
        }
        self.rows = rows;
    }

    /// The processes that climb, or have climbed and are not quiet for long enough, by name; the worst of each name.
    pub fn climbing(&self, now: Timestamp) -> BTreeMap<String, Climb> {
        let mut all: BTreeMap<String, Climb> = BTreeMap::new();
        for ((name, _), known) in &self.rows {
            let Some(climb) = known.climb(now).filter(|climb| !climb.is_over()) else { continue };
            let worse = all.get(name).is_none_or(|known| known.restarts < climb.restarts);
            if worse {
                all.insert(name.clone(), climb);
            }
        }
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;
    use crate::seen::machine::Machine;
    use crate::seen::pm2::{Row, State, Table};
    use proptest::prelude::*;

    fn look(second: i64, boot: &str, restarts: u64) -> Observation {
        let row = Row {
            name: "binder-web-start".to_owned(),
            id: 0,
            pid: Some(7),
            state: State::Online,
            restarts,
            started_ms: 0,
            ..Row::default()
        };
        Observation {
            machine: Fact::Seen(Machine { boot_id: boot.to_owned(), ..Machine::default() }),
            pm2: Fact::Seen(Table { daemon: true, rows: vec![row], ..Table::default() }),
            ..Observation::nothing(at(second))
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn climbing(looks: &[(i64, u64)], now: i64) -> Option<Climb> {
        let mut kept = Counts::default();
        looks.iter().for_each(|(second, restarts)| kept.add(&look(*second, "boot-0001", *restarts)));
        kept.climbing(at(now)).get("binder-web-start").copied()
    }

    #[test]
    fn a_high_count_that_stands_still_is_no_climb() {
        assert_eq!(climbing(&[(0, 5000), (10, 5000), (600, 5000)], 600), None);
        // One or two happen to anybody.
        assert_eq!(climbing(&[(0, 5000), (10, 5002)], 10), None);
    }

    #[test]
    fn a_rising_one_is_and_ends_when_it_is_quiet_for_a_while() {
        let looks = [(0, 0), (10, 2), (20, 4), (30, 6)];
        let climb = climbing(&looks, 30).unwrap();
        assert_eq!((climb.restarts, climb.every), (6, SignedDuration::from_secs(5)));
        assert!(climb.goes_on());
        assert!(!climbing(&looks, 50).unwrap().goes_on());
        assert_eq!(climbing(&looks, 61), None);
    }

    #[test]
    fn one_restart_after_a_climb_that_is_over_is_none() {
        assert_eq!(climbing(&[(0, 0), (10, 2), (20, 4), (300, 5)], 300), None);
        assert!(climbing(&[(0, 0), (10, 2), (20, 4), (300, 5), (305, 7)], 305).is_some());
    }

    #[test]
    fn a_slow_one_is_seen_too_and_takes_longer_to_be_called_quiet() {
        let looks = [(0, 0), (100, 1), (200, 2), (300, 3)];
        assert!(climbing(&looks, 390).unwrap().goes_on());
        assert!(climbing(&looks, 650).is_some());
        assert_eq!(climbing(&looks, 701), None);
    }

    #[test]
    fn a_new_boot_and_a_new_entry_begin_anew() {
        let mut kept = Counts::default();
        kept.add(&look(0, "boot-0001", 0));
        kept.add(&look(10, "boot-0002", 9));
        assert!(kept.climbing(at(10)).is_empty());
        kept.add(&look(20, "boot-0002", 0));
        assert!(kept.climbing(at(20)).is_empty());
    }

    #[test]
    fn what_was_not_seen_changes_nothing() {
        let mut kept = Counts::default();
        kept.add(&look(0, "boot-0001", 0));
        let known = kept.clone();
        kept.add(&Observation::nothing(at(10)));
        assert_eq!(kept, known);
    }

    proptest! {
        #[test]
        fn it_stays_bounded(counts in prop::collection::vec(any::<u64>(), 0..200)) {
            let mut kept = Counts::default();
            for (second, count) in counts.into_iter().enumerate() {
                kept.add(&look(second as i64, "boot-0001", count));
                let _ = kept.climbing(at(second as i64));
            }
            prop_assert!(kept.rows.values().all(|known| known.rises.len() <= RISES));
        }
    }
}
