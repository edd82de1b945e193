//! Schedules: the owner's five fields of cron in the owner's time zone, as moments.
//!
//! Pure: the time zones are those of the IANA database that is compiled in, and "now" is always an argument. Must not
//! know what runs on a schedule.
//!
//! # When the clocks change
//!
//! As Vixie's cron does it, which is what owners of crontabs are used to (the library is `croner`):
//!
//! - A **fixed time** (one minute and one hour, such as `30 2 * * *`) that is left out in spring comes at the first moment
//!   after the gap; one that comes twice in autumn counts the first time only. So a daily job runs once on every day.
//! - Anything else (`*/15 * * * *`, `0 * * * *`, `30 1,2 * * *`) follows the clock on the wall: what is left out is left out,
//!   what comes twice comes twice.
//!
//! # What was missed
//!
//! A run that was missed, however often, is made up once: what counts is whether some moment of the schedule has passed
//! since the last run, not how many ([`crate::plan::scheduled`]).

use binder_crds::text::{BadText, Checked, Schedule, TimeZone};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::{self, TimeZoneDatabase};

/// The time zone of a schedule that names none.
pub const DEFAULT_ZONE: &str = "Etc/UTC";

/// A schedule that cannot be followed. Never repeats what the owner wrote beyond a name that follows its type's rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSchedule {
    /// The text does not follow the type's rule: the object is older than the schema.
    #[error("the schedule is {0}")]
    Text(#[from] BadText),
    /// The fields are in their places, and one of them means nothing: `61` for a minute, `31-1`.
    #[error(
        "the schedule \"{schedule}\" has a field that cron does not know: write minute (0-59), hour (0-23), day of month \
         (1-31), month (1-12) and day of week (0-7)"
    )]
    Fields {
        /// The schedule.
        schedule: String,
    },
    /// The fields are fine one by one, and no day has all of them, such as the 30th of February.
    #[error("the schedule \"{schedule}\" never comes: is there a day in its month?")]
    Never {
        /// The schedule.
        schedule: String,
    },
    /// The IANA database has no such time zone.
    #[error("there is no time zone \"{zone}\" in the IANA database: write one such as Europe/Berlin or Etc/UTC")]
    Zone {
        /// The time zone.
        zone: String,
    },
}

/// A schedule in its time zone, ready to be asked.
#[derive(Clone, Debug)]
pub struct Timetable {
    cron: Cron,
    zone: tz::TimeZone,
}

impl Timetable {
    /// Reads what the owner wrote.
    ///
    /// # Errors
    /// [`BadSchedule`] says what to write instead.
    pub fn read(schedule: &Schedule, zone: Option<&TimeZone>) -> Result<Self, BadSchedule> {
        let text = schedule.checked()?;
        let zone = match zone {
            Some(zone) => zone.checked()?,
            None => DEFAULT_ZONE,
        };
        let cron = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build()
            .parse(text)
            .map_err(|_| BadSchedule::Fields { schedule: text.to_owned() })?;
        let zone = TimeZoneDatabase::bundled().get(zone).map_err(|_| BadSchedule::Zone { zone: zone.to_owned() })?;
        let table = Self { cron, zone };
        // A leap day is at most eight years away (1896 to 1904, 2096 to 2104), and whatever comes at all comes in the 28
        // or, over such a gap, 40 years after which the days of the week repeat.
        match table.next_after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(table),
            None => Err(BadSchedule::Never { schedule: text.to_owned() }),
        }
    }

    /// The first moment of the schedule after a moment, that moment itself not included. `None`: there is none that can be
    /// told, which for a schedule that was read means the end of the calendar.
    pub fn next_after(&self, moment: Timestamp) -> Option<Timestamp> {
        let from = moment.to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&from, false).ok().map(|next| next.timestamp()).filter(|next| *next > moment)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(schedule: &str, zone: &str) -> Timetable {
        Timetable::read(&Schedule::from(schedule), Some(&TimeZone::from(zone))).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The next moments after one, as UTC.
    fn next(schedule: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let table = table(schedule, zone);
        let mut moment = at(after);
        (0..count)
            .map(|_| {
                moment = table.next_after(moment).unwrap();
                moment.to_string()
            })
            .collect()
    }

    #[test]
    fn a_schedule_is_in_its_time_zone() {
        assert_eq!(next("0 3 * * *", "Etc/UTC", "2026-01-10T02:59:59Z", 1), ["2026-01-10T03:00:00Z"]);
        assert_eq!(next("0 3 * * *", "Europe/Berlin", "2026-01-10T01:00:00Z", 1), ["2026-01-10T02:00:00Z"]);
        assert_eq!(next("0 3 * * *", "Europe/Berlin", "2026-07-10T00:00:00Z", 1), ["2026-07-10T01:00:00Z"]);
        assert_eq!(next("0 3 * * *", "Asia/Kolkata", "2026-07-10T00:00:00Z", 1), ["2026-07-10T21:30:00Z"]);
        let utc = Timetable::read(&Schedule::from("0 3 * * *"), None).unwrap();
        assert_eq!(
            utc.next_after(at("2026-07-10T03:00:00Z")),
            Some(at("2026-07-11T03:00:00Z")),
            "not the moment itself"
        );
    }

    /// Berlin: on 2026-03-29 02:00 becomes 03:00 at 01:00Z.
    #[test]
    fn what_spring_leaves_out() {
        let daily = next("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3);
        assert_eq!(
            daily,
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
            "once on every day"
        );
        let quarters = next("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 4);
        assert_eq!(
            quarters,
            ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:00:00Z"],
            "by the clock, without a jump"
        );
    }

    /// Berlin: on 2026-10-25 03:00 becomes 02:00 at 01:00Z.
    #[test]
    fn what_autumn_brings_twice() {
        let daily = next("30 2 * * *", "Europe/Berlin", "2026-10-24T00:00:00Z", 3);
        assert_eq!(
            daily,
            ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
            "once on every day"
        );
        // An operator that starts between the two does not run it again.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-25T00:45:00Z", 1), ["2026-10-26T01:30:00Z"]);
        let hourly = next("0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", 3);
        assert_eq!(hourly, ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"], "every hour");
    }

    #[test]
    fn what_cannot_be_followed_is_said() {
        let read = |schedule: &str, zone: &str| {
            Timetable::read(&Schedule::from(schedule), Some(&TimeZone::from(zone))).map(|_| ()).unwrap_err()
        };
        assert!(matches!(read("61 * * * *", "Etc/UTC"), BadSchedule::Fields { .. }));
        assert!(matches!(read("0 0 30 2 *", "Etc/UTC"), BadSchedule::Never { .. }));
        assert!(matches!(read("0 0 * * *", "Europe/Atlantis"), BadSchedule::Zone { .. }));
        assert!(matches!(read("$(reboot) 0 * * *", "Etc/UTC"), BadSchedule::Text(_)));
        assert!(matches!(read("0 0 * * *", "../../etc/passwd"), BadSchedule::Text(_)));
        assert!(Timetable::read(&Schedule::from("0 0 29 2 *"), None).is_ok(), "a leap day comes");
        assert!(Timetable::read(&Schedule::from("0 0 * * 5#L"), None).is_ok(), "the last Friday");
    }

    fn field(low: u8, high: u8) -> impl Strategy<Value = String> {
        let number = low..=high;
        prop_oneof![
            Just("*".to_owned()),
            number.clone().prop_map(|n| n.to_string()),
            (1u8..=9).prop_map(|step| format!("*/{step}")),
            (number.clone(), number).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        ]
    }

    fn zones() -> impl Strategy<Value = &'static str> {
        prop_oneof![
            Just("Etc/UTC"),
            Just("Europe/Berlin"),
            Just("America/New_York"),
            Just("America/Sao_Paulo"),
            Just("Australia/Lord_Howe"),
            Just("Asia/Kathmandu"),
            Just("Africa/Casablanca"),
            Just("Pacific/Apia"),
        ]
    }

    proptest! {
        /// Whatever is written: no panic, and the next moment is later, is a whole minute, and is next.
        #[test]
        fn the_next_moment_is_later_and_no_other_is_before_it(
            minute in field(0, 59), hour in field(0, 23), day in field(1, 28), month in field(1, 12), week in field(0, 6),
            zone in zones(), seconds in 1_500_000_000i64..2_500_000_000, share in 1i64..1000,
        ) {
            let table = table(&format!("{minute} {hour} {day} {month} {week}"), zone);
            let from = Timestamp::from_second(seconds).unwrap();
            let next = table.next_after(from).unwrap();
            prop_assert!(next > from);
            prop_assert_eq!(next.as_second() % 60, 0);
            // Asked from any moment on the way, it is the same one; from itself, a later one.
            let way = next.as_second() - seconds;
            let between = Timestamp::from_second(seconds + way * share / 1000).unwrap();
            if between < next {
                prop_assert_eq!(table.next_after(between), Some(next));
            }
            prop_assert!(table.next_after(next).unwrap() > next);
        }

        #[test]
        fn any_text_is_survived(schedule in "[0-9A-Za-z*/,?# -]{0,40}", zone in "[A-Za-z0-9_+/-]{0,20}") {
            let _ = Timetable::read(&Schedule(schedule), Some(&TimeZone(zone)));
        }
    }

    proptest! {
        // A year each: enough of them to meet every zone's changes.
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn a_daily_time_comes_once_on_every_day(
            minute in 0u8..60, hour in 0u8..24, zone in zones(), seconds in 1_500_000_000i64..2_500_000_000,
        ) {
            let table = table(&format!("{minute} {hour} * * *"), zone);
            let tz = TimeZoneDatabase::bundled().get(zone).unwrap();
            let mut moment = Timestamp::from_second(seconds).unwrap();
            let mut days = std::collections::BTreeSet::new();
            for _ in 0..370 {
                moment = table.next_after(moment).unwrap();
                let day = moment.to_zoned(tz.clone()).date();
                prop_assert!(days.insert(day), "twice on {}", day);
            }
            let (first, last) = (*days.first().unwrap(), *days.last().unwrap());
            prop_assert_eq!((last - first).get_days(), 369, "a day was left out");
        }
    }
}
