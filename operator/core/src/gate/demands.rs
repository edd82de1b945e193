//! What a step demands as evidence before it may be done: four weights, of which each step names its own.
//!
//! The heavier a step, the more must speak for it. A step that touches nothing that works needs one whole look. What ends,
//! deletes or replaces something needs the same step from two looks in a row: a table that is read in the moment between two
//! changes shows a state that never was. What restarts a whole machine needs time, a machine that is not booting, a subject
//! that has run before under this description, and is bounded per day.
//!
//! Plain data: knows neither clock, host, facet nor step. Who the second witness of an outage is, is `plan::outage`'s to say.

use jiff::Timestamp;

/// What a step demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demands {
    /// How many looks in a row must have led to this very step for this very reason.
    pub looks: u32,
    /// Whether the reason must have lasted for `remedies.unreachableTimeout` since it began.
    pub lasting: bool,
    /// Whether a restart of the machine must be warranted: its subject has run before as it is described now (else the
    /// description is what is wrong), can be started, and does not serve (what only pm2's table says is one witness).
    pub warranted: bool,
    /// Whether the machine must have been up for `remedies.unreachableTimeout`: what is missing during a boot may be on its way.
    pub booted: bool,
    /// Whether it counts against `remedies.perDay`.
    pub per_day: bool,
}

impl Demands {
    /// One whole look: for what adds what is missing, or records something. Done in vain it changes nothing that works.
    pub const ONE_LOOK: Self = Self { looks: 1, lasting: false, warranted: false, booted: false, per_day: false };
    /// The same in two looks: for what ends, deletes or replaces.
    pub const TWO_LOOKS: Self = Self { looks: 2, ..Self::ONE_LOOK };
    /// For what restarts a machine from outside. That it was entered before is its witnesses' to say.
    pub const SILENT: Self = Self { lasting: true, booted: true, per_day: true, ..Self::TWO_LOOKS };
    /// For what restarts a machine that can be looked at.
    pub const RESTART: Self = Self { warranted: true, ..Self::SILENT };
}

/// What speaks for a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// How many looks in a row have led to it, this one included.
    pub looks: u32,
    /// When its reason will have lasted long enough.
    pub lasted_at: Option<Timestamp>,
    /// When the machine will have been up for long enough.
    pub booted_at: Option<Timestamp>,
    /// Why a restart of the machine cannot be expected to help or would end what works; `None` when it can.
    pub unwarranted: Option<String>,
    /// How many steps of this weight the machine had within the last day, whatever came of them.
    pub today: u32,
    /// How many it may have.
    pub per_day: u32,
    /// When the oldest of them is a day old.
    pub day_ends: Option<Timestamp>,
}

/// What is still missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A restart of the machine is not warranted; with the reason.
    Unwarranted(String),
    /// As many steps of this weight as a day allows were done.
    PerDay {
        /// How many.
        done: u32,
        /// When the next one is allowed.
        until: Option<Timestamp>,
    },
    /// The reason has not lasted long enough.
    Lasting {
        /// Until when it is waited for.
        until: Timestamp,
    },
    /// The machine has been up for too short a time.
    Booting {
        /// Until when it is waited for.
        until: Timestamp,
    },
    /// Another look must show the same.
    SecondLook,
}

impl Demands {
    /// The first demand that is not met; what only a person can change comes first, what a moment brings comes last.
    pub fn missing(&self, evidence: &Evidence, now: Timestamp) -> Option<Missing> {
        if let Some(why) = evidence.unwarranted.as_ref().filter(|_| self.warranted) {
            return Some(Missing::Unwarranted(why.clone()));
        }
        if self.per_day && evidence.today >= evidence.per_day {
            return Some(Missing::PerDay { done: evidence.today, until: evidence.day_ends });
        }
        if let Some(until) = evidence.lasted_at.filter(|until| self.lasting && *until > now) {
            return Some(Missing::Lasting { until });
        }
        if let Some(until) = evidence.booted_at.filter(|until| self.booted && *until > now) {
            return Some(Missing::Booting { until });
        }
        (evidence.looks < self.looks).then_some(Missing::SecondLook)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn later() -> Timestamp {
        NOW + SignedDuration::from_secs(60)
    }

    fn enough() -> Evidence {
        Evidence { looks: 2, per_day: 1, ..Evidence::default() }
    }

    #[test]
    fn each_demand_is_asked_by_those_that_make_it_and_by_no_others() {
        let until = later();
        let cases = [
            (Evidence { looks: 1, ..enough() }, Missing::SecondLook, [false, true, true, true]),
            (Evidence { lasted_at: Some(until), ..enough() }, Missing::Lasting { until }, [false, false, true, true]),
            (Evidence { booted_at: Some(until), ..enough() }, Missing::Booting { until }, [false, false, true, true]),
            (
                Evidence { unwarranted: Some("web".to_owned()), ..enough() },
                Missing::Unwarranted("web".to_owned()),
                [false, false, false, true],
            ),
            (
                Evidence { today: 1, day_ends: Some(until), ..enough() },
                Missing::PerDay { done: 1, until: Some(until) },
                [false, false, true, true],
            ),
        ];
        for (evidence, missing, demanded) in cases {
            for (demands, demanded) in
                [Demands::ONE_LOOK, Demands::TWO_LOOKS, Demands::SILENT, Demands::RESTART].into_iter().zip(demanded)
            {
                let expected = demanded.then(|| missing.clone());
                assert_eq!(demands.missing(&evidence, NOW), expected, "{demands:?} {evidence:?}");
            }
        }
    }

    #[test]
    fn enough_is_enough_and_what_has_passed_is_no_wait() {
        let past = Evidence { lasted_at: Some(NOW), booted_at: Some(NOW), ..enough() };
        assert_eq!(Demands::RESTART.missing(&past, NOW), None);
    }
}
