//! The gate: may this step run on this host, now?
//!
//! One function with one answer. [`admit`] gives a [`Permit`] or says what blocks; nothing that changes a host can be
//! sent without a permit, because [`Permit`] has no other constructor and the transport asks for one by value.
//!
//! Knows plain data only: no transport, no clock, no facet and no step; what a step demands as evidence
//! ([`demands`]) comes with the request. Later
//! checks (frozen, approval, lease) are further fields of [`Request`] and further arms of [`BlockedBy`].

pub mod demands;

use binder_crds::Mode;
use demands::{Demands, Evidence, Missing};
use jiff::Timestamp;

/// Proof that the gate was passed, for one step on one host. It says which host the step is about and which one may be acted
/// on; nobody can turn it to another. Not `Clone`: one permit, one step.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Permit {
    host: String,
    via: Option<String>,
    action: String,
    record: String,
}

impl Permit {
    /// The UID of the `BinderHost` that the step is about; its action is recorded there.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The UID of the one `BinderHost` that may be acted on: the host by way of which the step is done, else the host itself.
    pub fn done_on(&self) -> &str {
        self.via.as_deref().unwrap_or(&self.host)
    }

    /// The name of the `BinderAction` that records the intention.
    pub fn action(&self) -> &str {
        &self.action
    }

    /// The UID of the `BinderAction`; empty until it is recorded.
    pub fn record(&self) -> &str {
        &self.record
    }

    /// The same permit, once its `BinderAction` is there under a UID.
    pub fn recorded(self, uid: &str) -> Self {
        Self { record: uid.to_owned(), ..self }
    }
}

/// Everything that the gate looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The UID of the `BinderHost`.
    pub host: &'a str,
    /// The UID of the `BinderHost` by way of which the step is done, if it is not done on the host itself: a build is asked for
    /// where the build server is, about a row of the database that is elsewhere.
    pub via: Option<&'a str>,
    /// The name that the `BinderAction` will have.
    pub action: &'a str,
    /// Whether host or fleet is suspended.
    pub suspended: bool,
    /// The mode: the lower one of the fleet's and the host's.
    pub mode: Mode,
    /// Why the fleet's brake holds the step, in words; `None` when it does not.
    pub held: Option<&'a str>,
    /// What must be in place first and is not.
    pub waits_for: Option<&'a str>,
    /// A step on this host whose effect is still awaited, and until when.
    pub taking_effect: Option<(&'a str, Timestamp)>,
    /// Attempts that were made at this step in the present incident.
    pub attempts: u32,
    /// How many are allowed.
    pub max_attempts: u32,
    /// Until when a failed attempt's pause lasts.
    pub retry_at: Option<Timestamp>,
    /// What the step demands as evidence.
    pub demands: Demands,
    /// What speaks for it.
    pub evidence: Evidence,
    /// Who has yet to confirm that the host is dead, in words; `None` when nobody has to.
    pub witness: Option<&'a str>,
    /// Until when no maintenance window is open, for a step that disrupts a host; `Some(None)` if none ever opens.
    pub closed_until: Option<Option<Timestamp>>,
    /// Why the budget has no room for the step, in words; `None` when it has, or when the step disrupts no host.
    pub over_budget: Option<&'a str>,
    /// The operator's clock.
    pub now: Timestamp,
}

/// What blocks a step. The order of the arms is the order in which the gate asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockedBy {
    /// Host or fleet is suspended.
    Suspended,
    /// The mode is `Observe`.
    Observe,
    /// The mode is `Approve`, and nobody has approved.
    Approval,
    /// The fleet's brake holds: too much broke too fast.
    Held {
        /// Why, and what opens it.
        what: String,
    },
    /// The attempts are used up: a person is needed.
    Attempts {
        /// How many were made.
        made: u32,
    },
    /// Something must be in place first.
    Order {
        /// What.
        what: String,
    },
    /// Another step on this host is taking effect.
    TakingEffect {
        /// Which.
        step: String,
        /// Until when at the latest.
        until: Timestamp,
    },
    /// The pause after a failed attempt.
    RetryPeriod {
        /// Until when.
        until: Timestamp,
    },
    /// A restart of the machine cannot be expected to help, or would end what works.
    Unwarranted {
        /// What, and what to do.
        what: String,
    },
    /// The machine had as many steps of this weight within a day as are allowed.
    PerDay {
        /// How many.
        done: u32,
        /// When the next one is allowed.
        until: Option<Timestamp>,
    },
    /// It might pass by itself.
    MayPass {
        /// Until when that is waited for.
        until: Timestamp,
    },
    /// The machine may still be booting.
    Booting {
        /// Until when that is waited for.
        until: Timestamp,
    },
    /// A second witness must agree that the host is dead.
    Witness {
        /// Who, and what stands in the way.
        what: String,
    },
    /// A second look must show the same.
    SecondLook,
    /// No maintenance window is open.
    Window {
        /// When the next one opens, if any does.
        opens: Option<Timestamp>,
    },
    /// As many hosts as allowed are disrupted.
    Budget {
        /// Which, or why there is no room.
        what: String,
    },
}

impl BlockedBy {
    /// Whether only a person can change the answer, however long it is waited for.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Attempts { .. } | Self::Unwarranted { .. } | Self::PerDay { .. } => true,
            Self::Suspended
            | Self::Observe
            | Self::Approval
            | Self::Held { .. }
            | Self::Order { .. }
            | Self::TakingEffect { .. }
            | Self::RetryPeriod { .. }
            | Self::MayPass { .. }
            | Self::Booting { .. }
            | Self::Witness { .. }
            | Self::SecondLook
            | Self::Window { .. }
            | Self::Budget { .. } => false,
        }
    }

    /// When the answer may be another one by the passing of time alone.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Window { opens } => *opens,
            Self::TakingEffect { until, .. }
            | Self::RetryPeriod { until }
            | Self::MayPass { until }
            | Self::Booting { until } => Some(*until),
            Self::PerDay { until, .. } => *until,
            // At once.
            Self::SecondLook => Some(Timestamp::MIN),
            Self::Suspended
            | Self::Observe
            | Self::Approval
            | Self::Held { .. }
            | Self::Attempts { .. }
            | Self::Order { .. }
            | Self::Unwarranted { .. }
            | Self::Witness { .. }
            | Self::Budget { .. } => None,
        }
    }
}

/// The one answer.
///
/// # Errors
/// [`BlockedBy`] names the first check that does not pass.
pub fn admit(request: &Request<'_>) -> Result<Permit, BlockedBy> {
    if request.suspended {
        return Err(BlockedBy::Suspended);
    }
    match request.mode {
        Mode::Observe => return Err(BlockedBy::Observe),
        Mode::Approve => return Err(BlockedBy::Approval),
        Mode::Enforce => {}
    }
    if let Some(what) = request.held {
        return Err(BlockedBy::Held { what: what.to_owned() });
    }
    if request.attempts >= request.max_attempts {
        return Err(BlockedBy::Attempts { made: request.attempts });
    }
    if let Some(what) = request.waits_for {
        return Err(BlockedBy::Order { what: what.to_owned() });
    }
    if let Some((step, until)) = request.taking_effect {
        return Err(BlockedBy::TakingEffect { step: step.to_owned(), until });
    }
    if let Some(until) = request.retry_at.filter(|until| *until > request.now) {
        return Err(BlockedBy::RetryPeriod { until });
    }
    // The second look is the last of the evidence: whatever else is missing takes longer, and says more.
    let missing = request.demands.missing(&request.evidence, request.now);
    match &missing {
        Some(Missing::Unwarranted(what)) => return Err(BlockedBy::Unwarranted { what: what.clone() }),
        Some(Missing::PerDay { done, until }) => return Err(BlockedBy::PerDay { done: *done, until: *until }),
        Some(Missing::Lasting { until }) => return Err(BlockedBy::MayPass { until: *until }),
        Some(Missing::Booting { until }) => return Err(BlockedBy::Booting { until: *until }),
        Some(Missing::SecondLook) | None => {}
    }
    if let Some(what) = request.witness {
        return Err(BlockedBy::Witness { what: what.to_owned() });
    }
    if missing == Some(Missing::SecondLook) {
        return Err(BlockedBy::SecondLook);
    }
    if let Some(opens) = request.closed_until {
        return Err(BlockedBy::Window { opens });
    }
    if let Some(what) = request.over_budget {
        return Err(BlockedBy::Budget { what: what.to_owned() });
    }
    Ok(Permit {
        host: request.host.to_owned(),
        via: request.via.map(str::to_owned),
        action: request.action.to_owned(),
        record: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMANDS: Demands = Demands { looks: 2, lasting: true, warranted: true, booted: true, per_day: true };

    fn evidence() -> Evidence {
        Evidence { looks: 2, per_day: 1, ..Evidence::default() }
    }

    fn request() -> Request<'static> {
        Request {
            host: "uid",
            via: None,
            action: "web-1",
            suspended: false,
            mode: Mode::Enforce,
            held: None,
            waits_for: None,
            taking_effect: None,
            attempts: 0,
            max_attempts: 3,
            retry_at: None,
            demands: DEMANDS,
            evidence: evidence(),
            witness: None,
            closed_until: None,
            over_budget: None,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn each_check_blocks_by_itself() {
        let later = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(9);
        let cases = [
            (Request { suspended: true, ..request() }, BlockedBy::Suspended),
            (Request { mode: Mode::Observe, ..request() }, BlockedBy::Observe),
            (Request { mode: Mode::Approve, ..request() }, BlockedBy::Approval),
            (Request { held: Some("held"), attempts: 3, ..request() }, BlockedBy::Held { what: "held".to_owned() }),
            (Request { attempts: 3, ..request() }, BlockedBy::Attempts { made: 3 }),
            (Request { waits_for: Some("db"), ..request() }, BlockedBy::Order { what: "db".to_owned() }),
            (
                Request { taking_effect: Some(("start web", later)), ..request() },
                BlockedBy::TakingEffect { step: "start web".to_owned(), until: later },
            ),
            (Request { retry_at: Some(later), ..request() }, BlockedBy::RetryPeriod { until: later }),
            (
                Request { evidence: Evidence { unwarranted: Some("web".to_owned()), ..evidence() }, ..request() },
                BlockedBy::Unwarranted { what: "web".to_owned() },
            ),
            (
                Request { evidence: Evidence { today: 1, day_ends: Some(later), ..evidence() }, ..request() },
                BlockedBy::PerDay { done: 1, until: Some(later) },
            ),
            (
                Request { evidence: Evidence { lasted_at: Some(later), ..evidence() }, ..request() },
                BlockedBy::MayPass { until: later },
            ),
            (
                Request { evidence: Evidence { booted_at: Some(later), ..evidence() }, ..request() },
                BlockedBy::Booting { until: later },
            ),
            (Request { evidence: Evidence { looks: 1, ..evidence() }, ..request() }, BlockedBy::SecondLook),
            (
                Request { witness: Some("another host"), ..request() },
                BlockedBy::Witness { what: "another host".to_owned() },
            ),
            (Request { closed_until: Some(Some(later)), ..request() }, BlockedBy::Window { opens: Some(later) }),
            (
                Request { over_budget: Some("db is down"), ..request() },
                BlockedBy::Budget { what: "db is down".to_owned() },
            ),
        ];
        for (request, blocked) in cases {
            assert_eq!(admit(&request), Err(blocked));
        }
    }

    #[test]
    fn a_permit_is_for_one_host_and_one_action() {
        let permit = admit(&Request { retry_at: Some(Timestamp::UNIX_EPOCH), ..request() });
        let expected = Permit { host: "uid".to_owned(), via: None, action: "web-1".to_owned(), record: String::new() };
        assert_eq!(expected.done_on(), "uid");
        assert_eq!(permit, Ok(expected));
    }

    #[test]
    fn a_step_by_way_of_another_host_is_recorded_here_and_done_there() {
        let there = Permit {
            host: "uid".to_owned(),
            via: Some("builder".to_owned()),
            action: "web-1".to_owned(),
            record: String::new(),
        };
        assert_eq!((there.host(), there.done_on()), ("uid", "builder"));
        assert_eq!(admit(&Request { via: Some("builder"), ..request() }), Ok(there));
    }
}
