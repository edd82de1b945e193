//! The facets: one aspect of a machine each, with its part of the spec, what it must see, what differs, and the ladder of
//! remedies. Adding a facet is adding a module and its line in [`FACETS`].
//!
//! Pure: facts in, drifts and steps out. Must not know who asks, what was tried before, or whether anything is allowed.

pub mod api_keys;
pub mod backups;
pub mod builds;
pub mod disks;
pub mod docker;
mod drift;
pub mod endpoints;
pub mod health_status;
pub mod kubectl_proxy;
pub mod kubernetes_api;
pub mod machine;
pub mod modules;
pub mod names;
pub mod port_redirects;
pub mod process;
pub mod proxy_routes;
pub mod services;
pub mod step;
pub mod stopped;
mod subject;

use crate::seen::{Ask, Observation, Unknown};
use binder_crds::Desired;
use binder_crds::text::{Schedule, TimeZone};
pub use drift::{Drift, DriftKind, OnMany, Waits};
use std::time::Duration;
pub use step::{Disruption, Effect, How, Later, Step};
pub use subject::Subject;

/// One aspect of a machine.
pub trait Facet: Sync {
    /// The type of its condition, named as the state that should be.
    fn condition(&self) -> &'static str;
    /// Whether the description speaks of it.
    fn in_use(&self, desired: &Desired) -> bool;
    /// The sections of the probe that it needs. Two facets may ask for the same one.
    fn asks(&self, desired: &Desired) -> Vec<Ask>;
    /// Compares.
    ///
    /// # Errors
    /// [`Unknown`] when what it needs could not be seen: then nothing is known, and nothing is done.
    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown>;
    /// The place of one of its drifts in the runbook's order; lower is earlier, [`LAST`] for what the runbook puts in no order.
    fn rank(&self, desired: &Desired, drift: &Drift) -> u8;
    /// The remedies for one of its drifts, lightest first. Empty: a person must act.
    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung>;
    /// What is to be done on a schedule, whether or not anything differs. When one is due, [`Facet::ladder`] is asked for
    /// its steps, with a [`Drift`] of the task's kind and subject.
    fn scheduled(&self, _: &Desired) -> Vec<Task> {
        Vec::new()
    }
}

/// Work that comes by the clock. That it is due is no fault of the host: it stays healthy (see `plan::scheduled`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// What it is about; in words its name in `status.schedules`, and the subject of its actions.
    pub subject: Subject,
    /// The kind of drift that stands for it where a step needs one; [`DriftKind::is_scheduled`] says yes to it.
    pub kind: DriftKind,
    /// What it is, for people: `the clean-up of Docker`.
    pub words: &'static str,
    /// When.
    pub schedule: Schedule,
    /// In which time zone.
    pub time_zone: Option<TimeZone>,
    /// When it is done.
    pub done: Done,
}

/// When a task that is due is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// When there is no step left to do: its ladder is empty.
    NothingLeft,
    /// When one of its steps has succeeded since it was due.
    Once,
}

/// Every facet, in the order in which conditions are listed.
pub static FACETS: &[&dyn Facet] = &[
    &services::Services,
    &stopped::Stopped,
    &modules::Modules,
    &kubectl_proxy::KubectlProxy,
    &port_redirects::PortRedirects,
    &disks::Disks,
    &endpoints::Endpoints,
    &api_keys::ApiKeys,
    &health_status::HealthStatus,
    &proxy_routes::ProxyRoutes,
    &kubernetes_api::KubernetesApi,
    &docker::Docker,
    &builds::Builds,
    &names::Names,
    &backups::Backups,
];

/// The result of comparing one facet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Check {
    /// What is not so.
    pub drifts: Vec<Drift>,
    /// Subjects that are on their way (started a moment ago) with a sentence each: neither drift nor healthy.
    pub progressing: Vec<(Subject, String)>,
    /// Subjects of drifts or scheduled that must wait, each with what for: `the build that is under way`.
    pub held: Vec<(Subject, String)>,
    /// The condition's message when nothing differs. Never holds a figure that changes by itself: a converged fleet
    /// writes nothing.
    pub as_described: String,
}

/// The place of what the runbook puts in no order.
pub const LAST: u8 = 70;

/// What lasts for less is a blip: it is waited out and said as something on its way, not as a difference.
pub const BLIP: Duration = Duration::from_secs(10);

/// One rung of a ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// What to do.
    pub step: Step,
    /// How long its effect may take to be seen.
    pub takes_effect: Duration,
}

impl Rung {
    /// A rung for a facet's step.
    pub fn new(step: impl Into<Step>, takes_effect: Duration) -> Self {
        Self { step: step.into(), takes_effect }
    }
}

/// Every section that a description needs, each once.
pub fn asks(desired: &Desired) -> Vec<Ask> {
    let mut asks = vec![crate::seen::machine::ask()];
    for facet in FACETS.iter().filter(|facet| facet.in_use(desired)) {
        for ask in facet.asks(desired) {
            if !asks.iter().any(|known| known.name == ask.name) {
                asks.push(ask);
            }
        }
    }
    // A file system that hangs can hold `df` beyond any signal: whatever comes after it might not be seen.
    asks.sort_by_key(|ask| ask.name == crate::seen::disks::NAME);
    asks
}
