//! Builds a list of conditions, and finds one in a status that was written, after the Kubernetes conventions: a transition's time changes only with the status, the
//! order is fixed, messages are bounded.

use crate::words::shorten;
use binder_crds::BinderHostStatus;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The longest message that the API server takes is 32 KiB; a person reads less.
const LONGEST_MESSAGE: usize = 1024;

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// It is.
    True,
    /// It is not.
    False,
    /// Nobody knows.
    Unknown,
}

impl Is {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A list of conditions in the making.
#[derive(Debug)]
pub struct Conditions<'a> {
    previous: &'a [Condition],
    generation: i64,
    now: Timestamp,
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    /// An empty list for one generation of a spec.
    pub fn new(previous: &'a [Condition], generation: i64, now: Timestamp) -> Self {
        Self { previous, generation, now, list: Vec::new() }
    }

    /// Adds a condition.
    pub fn set(&mut self, kind: &str, is: Is, reason: &str, message: impl Into<String>) {
        let since = self
            .previous
            .iter()
            .find(|before| before.type_ == kind && before.status == is.as_str())
            .map_or(Time(self.now), |before| before.last_transition_time.clone());
        self.list.push(Condition {
            type_: kind.to_owned(),
            status: is.as_str().to_owned(),
            reason: reason.to_owned(),
            message: shorten(&message.into(), LONGEST_MESSAGE),
            observed_generation: Some(self.generation),
            last_transition_time: since,
        });
    }

    /// The list.
    pub fn list(self) -> Vec<Condition> {
        self.list
    }
}

/// A condition of a status, by its type.
pub fn find<'s>(status: &'s BinderHostStatus, kind: &str) -> Option<&'s Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}
