//! When a fleet allows disruption: its maintenance windows.
//!
//! Pure. No window means always; a window that cannot be read is none that could be open.

use crate::schedule::Timetable;
use binder_crds::fleet::Window;
use jiff::{SignedDuration, Timestamp};

/// Whether a step that disrupts a whole host may be done now, as far as windows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// It may: there are no windows, or one of them is open.
    Open,
    /// It may not, until the next one opens; `None` if none ever does.
    Closed(Option<Timestamp>),
}

/// Asks all windows of a fleet.
pub fn ask(windows: &[Window], now: Timestamp) -> Windows {
    if windows.is_empty() {
        return Windows::Open;
    }
    let mut next: Option<Timestamp> = None;
    for window in windows {
        let Ok(table) = Timetable::read(&window.schedule, window.time_zone.as_ref()) else { continue };
        let Some(lasts) = window.duration.duration().ok().and_then(|lasts| SignedDuration::try_from(lasts).ok()) else {
            continue;
        };
        // It is open if it opened within its duration: the first opening after that moment has come.
        let since = now.checked_sub(lasts).unwrap_or(Timestamp::MIN);
        match table.next_after(since) {
            Some(opened) if opened <= now => return Windows::Open,
            Some(opens) => next = Some(next.map_or(opens, |known| known.min(opens))),
            None => {}
        }
    }
    Windows::Closed(next)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use binder_crds::text::{Schedule, Span, TimeZone};

    fn window(schedule: &str, zone: Option<&str>, lasts: &str) -> Window {
        Window { schedule: Schedule::from(schedule), time_zone: zone.map(TimeZone::from), duration: Span::from(lasts) }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_is_open_from_its_moment_for_its_duration_in_its_zone() {
        let nightly = [window("0 3 * * *", Some("Europe/Berlin"), "3h")];
        // 03:00 in Berlin is 01:00 UTC in summer and 02:00 UTC in winter.
        for (moment, wanted) in [
            ("2026-07-01T00:59:59Z", Windows::Closed(Some(at("2026-07-01T01:00:00Z")))),
            ("2026-07-01T01:00:00Z", Windows::Open),
            ("2026-07-01T03:59:59Z", Windows::Open),
            ("2026-07-01T04:00:00Z", Windows::Closed(Some(at("2026-07-02T01:00:00Z")))),
            ("2026-01-15T01:30:00Z", Windows::Closed(Some(at("2026-01-15T02:00:00Z")))),
            ("2026-01-15T02:30:00Z", Windows::Open),
        ] {
            assert_eq!(ask(&nightly, at(moment)), wanted, "{moment}");
        }
    }

    #[test]
    fn no_window_is_always_and_one_of_several_is_enough() {
        let now = at("2026-07-01T12:00:00Z");
        assert_eq!(ask(&[], now), Windows::Open);
        assert_eq!(ask(&[window("0 3 * * *", None, "1h"), window("0 11 * * *", None, "2h")], now), Windows::Open);
        // What cannot be read opens nothing.
        assert_eq!(ask(&[window("61 3 * * *", None, "1h")], now), Windows::Closed(None));
        assert_eq!(ask(&[window("0 3 * * *", None, "soon")], now), Windows::Closed(None));
    }
}
