//! Since when something has been seen, look after look: what tells a blip from a state.
//!
//! A fact that matters only when it lasts leaves a *mark* in each look that shows it. The operator carries marks from one
//! look to the next; one that is missing once begins anew, and so does everything when the operator is restarted: then what
//! rests on a mark is done later, never sooner. Must not know what marks mean.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// As many marks are carried for one host; what is beyond begins anew with each look.
const MOST: usize = 8192;

/// Marks with the time of the first look that showed them without a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lasting(BTreeMap<String, Timestamp>);

impl Lasting {
    /// The marks of a look at `at`, those of the look before among them with their times.
    #[must_use]
    pub fn carried(&self, marks: BTreeSet<String>, at: Timestamp) -> Self {
        let since = |mark: &String| self.0.get(mark).copied().filter(|since| *since <= at).unwrap_or(at);
        Self(marks.into_iter().take(MOST).map(|mark| (since(&mark), mark)).map(|(since, mark)| (mark, since)).collect())
    }

    /// For how long a mark has lasted at `at`; zero for one that is not there.
    pub fn age(&self, mark: &str, at: Timestamp) -> Duration {
        self.0.get(mark).and_then(|since| Duration::try_from(at.duration_since(*since)).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    fn marks(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_mark_keeps_its_time_until_it_is_missing_once() {
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        let first = Lasting::default().carried(marks(&["a", "b"]), at(0));
        let second = first.carried(marks(&["a"]), at(30));
        assert_eq!(second.age("a", at(30)).as_secs(), 30);
        assert_eq!(second.age("b", at(30)).as_secs(), 0);
        let third = second.carried(marks(&["a", "b"]), at(60));
        assert_eq!((third.age("a", at(60)).as_secs(), third.age("b", at(60)).as_secs()), (60, 0));
        // A clock that was set back makes nothing older than it is.
        assert_eq!(third.carried(marks(&["a"]), Timestamp::MIN).age("a", Timestamp::MIN).as_secs(), 0);
    }
}
