//! The facets: one aspect of a machine each, with its part of the spec, what it must see, what differs, and the ladder of
//! remedies. Adding a facet is adding a module and its line in [`FACETS`].
//!
//! Pure: facts in, drifts and steps out. Must not know who asks, what was tried before, or whether anything is allowed.

pub mod api_keys;
pub mod backups;
pub mod builds;
mod checked;
mod clocks;
pub mod disks;
pub mod docker;
pub mod effect;
pub mod endpoints;
pub mod health_status;
pub mod kubectl_proxy;
pub mod kubernetes_api;
pub mod modules;
pub mod names;
pub mod port_redirects;
pub mod proxy_routes;
pub mod services;
pub mod step;
pub mod stopped;
mod subject;

use crate::seen::{Ask, Blind, Observation};
use binder_crds::Desired;
use binder_crds::text::{Schedule, TimeZone};
use std::time::Duration;
pub use step::Step;
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
    /// [`Blind`] when what it needs could not be seen: then nothing is known, and nothing is done.
    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Blind>;
    /// The remedies for one of its drifts, lightest first. Empty: a person must act.
    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung>;
    /// What is to be done on a schedule, whether or not anything differs. When one is due, [`Facet::ladder`] is asked for
    /// its steps, with a [`Drift`] of the chore's kind and subject.
    fn chores(&self, _: &Desired) -> Vec<Chore> {
        Vec::new()
    }
}

/// Work that comes by the clock. That it is due is no fault of the host: it stays healthy (see `plan::chores`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chore {
    /// What it is about; in words its name in `status.schedules`, and the subject of its actions.
    pub subject: Subject,
    /// The kind of drift that stands for it where a step needs one; [`DriftKind::is_chore`] says yes to it.
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

/// When a chore that is due is done.
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
    pub settling: Vec<(Subject, String)>,
    /// Subjects of drifts or chores that must wait, each with what for: `the build that is under way`.
    pub held: Vec<(Subject, String)>,
    /// The condition's message when nothing differs. Never holds a figure that changes by itself: a converged fleet
    /// writes nothing.
    pub as_described: String,
}

/// Something that is not as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// What kind it is; also the condition's reason.
    pub kind: DriftKind,
    /// What it is about.
    pub subject: Subject,
    /// For a column: a few words.
    pub short: String,
    /// For a condition: what was seen, in a sentence without a full stop.
    pub evidence: String,
}

/// Declares the kinds of drift with the words of the API and the runbook's section for each.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident => $section:literal,)*) => {
        /// Every kind of drift. The compiler lists what is to be handled when one is added.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DriftKind {
            $($(#[$doc])* $kind,)*
        }

        impl DriftKind {
            /// All of them.
            pub const ALL: &'static [DriftKind] = &[$(Self::$kind,)*];

            /// The word that the API uses.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)* }
            }

            /// The page under `docs/runbook/` that says what a person does about it.
            pub fn runbook(self) -> &'static str {
                match self { $(Self::$kind => $section,)* }
            }
        }
    };
}

kinds! {
    /// pm2 does not know the process, and nothing of it runs.
    ProcessMissing => "services",
    /// The process is stopped.
    ProcessStopped => "services",
    /// pm2 has given the process up.
    ProcessErrored => "services",
    /// pm2 holds the process, or a child of it, more than once.
    ProcessDoubled => "services",
    /// The process is gone but children of it are left over.
    ChildrenLeftOver => "services",
    /// A child that the process needs is gone.
    ChildMissing => "services",
    /// pm2 has lost the process, which still runs and listens.
    LostByPm2 => "services",
    /// The process runs but does not listen on its port.
    NotListening => "services",
    /// It was started before what it needs, and does not work.
    StartedTooEarly => "services",
    /// Somebody else's process has its port.
    PortTaken => "services",
    /// The process runs and listens, on another port than the described one.
    ListensElsewhere => "services",
    /// pm2 holds a process of this name that runs another program.
    AnotherProgram => "services",
    /// pm2 restarts the process again and again.
    RestartsClimbing => "restarts",
    /// What is described as stopped still runs, or is still in pm2's table.
    StillRunning => "services",
    /// A module is older than the version that is asked for.
    ModuleOld => "modules",
    /// A module is newer than the version that is asked for.
    ModuleNewer => "modules",
    /// A module is not installed.
    ModuleMissing => "modules",
    /// A component runs since before its module was changed.
    ModuleNotLoaded => "modules",
    /// Nothing listens on the proxy's port.
    NothingListens => "kubectl-proxy",
    /// Something else than kubectl listens on the proxy's port.
    NotKubectl => "kubectl-proxy",
    /// Another kubectl than the described one serves the port.
    WrongKubectl => "kubectl-proxy",
    /// The port leads to another cluster.
    WrongCluster => "kubectl-proxy",
    /// The proxy runs, but no cluster answers through it.
    ClusterNotAnswering => "kubectl-proxy",
    /// The described kubectl is not there or may not be executed.
    KubectlUnusable => "kubectl-proxy",
    /// The redirect is not there.
    RedirectMissing => "port-redirects",
    /// The redirect is there more than once.
    RedirectDoubled => "port-redirects",
    /// An earlier rule sends the port elsewhere.
    RedirectShadowed => "port-redirects",
    /// The described network interface does not exist.
    InterfaceMissing => "port-redirects",
    /// The file system is over its threshold.
    OverThreshold => "disks",
    /// The described path cannot be asked about.
    DiskUnreadable => "disks",
    /// Nobody answers over SSH, and nobody else has seen the host alive.
    HostSilent => "hosts",
    /// The cloud says that the machine is off.
    HostOff => "hosts",
    /// The host refuses our login.
    LoginRefused => "ssh-permission",
    /// The other machine answers, and nothing listens on the described port.
    PortRefused => "endpoints",
    /// Nothing answers on the described port of another machine.
    PortSilent => "endpoints",
    /// There is no route to the other machine.
    NoRoute => "endpoints",
    /// The other machine's name does not resolve.
    NameNotFound => "endpoints",
    /// The fleet has no host of the described name.
    NoSuchHost => "endpoints",
    /// A server answers 403 to the Secret's API key.
    KeyRefused => "api-key",
    /// The Secret does not have the API key.
    KeyUnknown => "api-key",
    /// The Secret does not have the API key, and what the servers tell of it does not fit together.
    KeysDisagree => "api-key",
    /// What `/health/` says is old.
    HealthStale => "health",
    /// `/health/` says down of what works.
    HealthWrong => "health",
    /// The Kubernetes API does not answer, or not well.
    ApiNotAnswering => "kubernetes-api",
    /// The Kubernetes API answers too slowly.
    ApiSlow => "kubernetes-api",
    /// Fewer nodes are Ready than described.
    NodesNotReady => "kubernetes-api",
    /// The API that the host serves is slow, and the machine has next to no memory left.
    ApiStarved => "kubernetes-api",
    /// The proxy holds routes to apps that are gone.
    RoutesStale => "routes",
    /// The proxy holds a route that no app can have.
    RouteOdd => "routes",
    /// A build has been running for longer than a build takes.
    HungBuild => "hung-build",
    /// A build that hung was set to failed and is owed another try.
    BuildNotRebuilt => "hung-build",
    /// Two names differ by case alone.
    NamesCollide => "names",
    /// Nothing of a name can be launched, since it is not in lower case.
    NameNotLower => "names",
    /// The database is to be edited, and there is no fresh backup.
    NoFreshBackup => "backups",
    /// The place for backups cannot be used as it is described.
    BackupPlaceUnusable => "backups",
    /// A backup is due by its schedule. A chore.
    BackupDue => "backups",
    /// Docker does not answer.
    DockerNotAnswering => "disks",
    /// A file in which Docker's client keeps logins is empty.
    DockerConfigEmpty => "disks",
    /// A schedule of the description can never be followed.
    ScheduleInvalid => "schedules",
    /// The clean-up of Docker is due by its schedule. A chore.
    ReclaimDue => "disks",
}

impl DriftKind {
    /// Whether it is work that is due by the clock ([`Chore`]) and no fault of the host.
    pub fn is_chore(self) -> bool {
        matches!(self, Self::ReclaimDue | Self::BackupDue)
    }
}

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

/// What a step costs; budgets and windows look at this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disruption {
    /// Nothing that works is touched.
    None,
    /// One service of the host is interrupted.
    Service,
    /// The whole host is.
    Host,
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
