//! What a step is: what every step must answer, and the one type that holds the step of any facet.
//!
//! A step belongs to the facet whose drifts it is against. There stand its values, its words, the script or call that carries
//! it out, and how its effect is judged. Here is only what all of them have in common. Steps are recorded in a `BinderAction`
//! before they are done, and read back from there: their form is a part of the API (`tests/steps.json`).

use super::modules::ModuleChange;
use super::{
    Check, Drift, Subject, api_keys, backups, builds, docker, kubectl_proxy, kubernetes_api, machine, modules, names,
    port_redirects, proxy_routes, services, stopped,
};
use crate::catalogue::Place;
use crate::gate::demands::Demands;
use crate::seen::routes::AppId;
use crate::seen::{Observation, Unknown};
use binder_crds::text::BadText;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What every step answers. There is no default: who adds a step answers all of it.
pub trait Remedy {
    /// The step in the runbook's words.
    fn words(&self) -> String;
    /// What the planner and the gate must know of it.
    fn nature(&self) -> Nature<'_>;
    /// Whether every value follows its rule: a step that comes back from a BinderAction has been in the API, where others may
    /// have written it.
    ///
    /// # Errors
    /// [`BadText`] for the first one that does not.
    fn checked(&self) -> Result<(), BadText>;
    /// Whether it has had its effect, judged by what a later look sees and never by what the command said.
    ///
    /// # Errors
    /// [`Unknown`] when what it needs could not be seen.
    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown>;
    /// What carries it out.
    fn how(&self) -> How;
}

/// What the planner and the gate must know of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nature<'s> {
    /// What it touches that works.
    pub touches: Touches<'s>,
    /// What it demands as evidence.
    pub demands: Demands,
    /// Whether only so many hosts of a fleet may be in it at once, and only in a window: what disrupts a whole host, and a
    /// new version of a module, which must prove itself on one host before the next one gets it.
    pub in_turn: bool,
    /// Into how many steps of this kind the whole work may be cut: so many successful ones count as one attempt. 1 for
    /// whatever is done at once.
    pub parts: u32,
    /// What it has to do with the modules that its subject runs in.
    pub modules: OfModules<'s>,
    /// Whether its purpose is that the host can be looked at again: then not being able to is its failure.
    pub opens_way_in: bool,
    /// Whether it is done because something is old, by times that were written on the host.
    pub rests_on_age: bool,
    /// Whether it starts its subject. One that cannot be started is not helped by a reboot.
    pub starts: bool,
    /// What it recovers that is dead; everything else is planned.
    pub recovers: Recovers,
}

/// What a step touches that works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touches<'s> {
    /// Nothing.
    Nothing,
    /// One service of the host.
    Service,
    /// The host itself, which is restarted.
    Host {
        /// The boot during which the step was decided, as far as it is known. Another one is left alone.
        boot: Option<&'s str>,
    },
    /// Another machine, which is restarted: the node of this name.
    Node(&'s str),
}

/// What a step has to do with npm modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfModules<'s> {
    /// Nothing.
    Apart,
    /// Its subject runs in them. Its attempts count from the last change of a module: what a server did with the other version
    /// says nothing of what it will do with this one.
    RunsIn,
    /// It changes one.
    Changes(&'s ModuleChange),
}

/// What a step recovers. Who is dead has nothing left to disrupt, and does not wait for a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovers {
    /// Nothing for sure: it is planned.
    Nothing,
    /// A machine that is silent, off or not Ready.
    TheDead,
    /// The machine, if nothing of what it is for serves.
    MachineThatServesNothing,
    /// What uses the module, if all of it is down.
    UsersOfModule,
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

/// What a later look says of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is seen.
    Seen(String),
    /// It may still come.
    NotYet(String),
    /// It will not come any more.
    Failed(String),
}

/// A later look, by which a step is judged.
#[derive(Clone, Copy, Debug)]
pub struct Later<'l> {
    /// What was seen.
    pub seen: &'l Observation,
    /// What the facets found in it.
    pub checks: &'l [&'l Check],
    /// The time since the step was sent.
    pub age: Duration,
}

impl<'l> Later<'l> {
    /// The first drift about a subject.
    pub fn drift(&self, subject: &Subject) -> Option<&'l Drift> {
        self.checks.iter().flat_map(|check| &check.drifts).find(|drift| drift.subject == *subject)
    }

    /// Why a subject is on its way, if it is.
    pub fn progressing(&self, subject: &Subject) -> Option<&'l str> {
        let mut progressing = self.checks.iter().flat_map(|check| &check.progressing);
        progressing.find(|(progressing, _)| progressing == subject).map(|(_, why)| why.as_str())
    }

    /// The effect of a step after which nothing differs about a subject: then `good` is so.
    pub fn without_drift(&self, subject: &Subject, good: String) -> Effect {
        match self.drift(subject) {
            Some(drift) => Effect::NotYet(drift.evidence.clone()),
            None => Effect::Seen(good),
        }
    }
}

/// What carries a step out. The whole list: whoever carries steps out knows these ways, and no step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// A command on the host.
    Command(Command),
    /// A call to the machine's cloud.
    Cloud(CloudCall),
    /// Calls to one of Binder's servers.
    Http(HttpCall),
    /// An edit of Binder's database.
    Database {
        /// Where it is.
        place: Place,
        /// What is changed.
        edit: Edit,
    },
    /// The API key, put into an entry of a Secret that lacks it.
    Secret {
        /// The Secret's name.
        name: String,
        /// The entry.
        entry: String,
    },
    /// A backup of Binder's database. It takes up to half an hour and is made beside the looks.
    Backup {
        /// Where the database is.
        place: Place,
    },
    /// Nothing can: what is described is not enough. In words, with what to describe.
    Impossible(String),
}

/// A command on the host. The script is a constant; what varies reaches it as positional parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What the host's log calls it.
    pub name: &'static str,
    /// The script, for `sh`.
    pub script: &'static str,
    /// Its positional parameters.
    pub args: Vec<String>,
    /// What it reads.
    pub stdin: Stdin,
    /// How long it may run.
    pub limit: Duration,
}

impl How {
    /// A command that reads nothing, with its time limit in seconds.
    pub(super) fn command(name: &'static str, script: &'static str, args: Vec<String>, seconds: u64) -> Self {
        let limit = Duration::from_secs(seconds);
        Self::Command(Command { name, script, args, stdin: Stdin::Nothing, limit })
    }
}

/// What a command reads from its standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing.
    Nothing,
    /// The API key of Binder's servers: as an argument, every user of the host could read it in `ps`.
    ApiKey,
}

/// A call to a machine's cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudCall {
    /// Reset the instance.
    Reset,
    /// Start the instance, which is off.
    Start,
    /// Reset the instance of a node, or start it if it is off. Instances are named as their nodes.
    RestartNode {
        /// The node's name.
        node: String,
    },
    /// Add a key to the instance's SSH keys.
    AddKey {
        /// The login.
        user: String,
        /// The public key, as a line of `authorized_keys`.
        public_key: String,
    },
}

/// Calls to one of Binder's servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpCall {
    /// Delete routes from Binder's proxy, each once the cluster has said once more that its app is gone.
    DeleteRoutes {
        /// The apps whose routes they are; exactly these.
        routes: Vec<AppId>,
        /// The kubectl proxy's port, through which the cluster is asked.
        port: u16,
    },
    /// Have the build server build a repository.
    Build {
        /// The repository.
        repository: String,
    },
}

/// An edit of Binder's database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Set a build to `failed`, if it still is the running one that was started then.
    FailRunning {
        /// The build's name.
        name: String,
        /// When it was started, as the database says.
        started: Timestamp,
    },
    /// Set a completed build of which nothing can be launched to `failed`, with the reason.
    FailUnusable {
        /// The build's name.
        name: String,
    },
}

/// Names the kinds of a facet's steps: each is its variant's name, and the value of `step` in what is recorded.
macro_rules! kinds_of_steps {
    ($step:ident: $($kind:ident),+ $(,)?) => {
        impl $step {
            /// The kinds of these steps, as the API says them.
            pub const KINDS: &'static [&'static str] = &[$(stringify!($kind)),+];

            /// The kind of step, as the API says it.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$kind { .. } => stringify!($kind),)+ }
            }
        }
    };
}
pub(super) use kinds_of_steps;

/// Declares the type that holds any step.
macro_rules! steps {
    ($($(#[$doc:meta])* $facet:ident($step:ty),)*) => {
        /// One step of the runbook. Every value in it is typed and goes to a host as an argument of its own, never as shell text.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(untagged)]
        pub enum Step {
            $($(#[$doc])* $facet($step),)*
        }

        $(impl From<$step> for Step {
            fn from(step: $step) -> Self {
                Self::$facet(step)
            }
        })*

        impl Step {
            /// Every kind of step, as the API says it.
            pub fn kinds() -> impl Iterator<Item = &'static str> {
                [$(<$step>::KINDS),*].into_iter().flatten().copied()
            }

            /// The kind of step, as the API says it.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$facet(step) => step.kind(),)* }
            }

            fn remedy(&self) -> &dyn Remedy {
                match self { $(Self::$facet(step) => step,)* }
            }
        }
    };
}

steps! {
    /// Against what pm2 does not run as described.
    Services(services::Step),
    /// Against what runs and is described as stopped.
    Stopped(stopped::Step),
    /// Against a module of another version.
    Modules(modules::Step),
    /// Against a kubectl proxy that is missing or wrong.
    KubectlProxy(kubectl_proxy::Step),
    /// Against a redirect that is missing or there too often.
    PortRedirects(port_redirects::Step),
    /// Against an API key that its Secret lacks.
    ApiKeys(api_keys::Step),
    /// Against stale routes.
    ProxyRoutes(proxy_routes::Step),
    /// Against nodes that are not Ready.
    KubernetesApi(kubernetes_api::Step),
    /// For Docker, and for room on its disk.
    Docker(docker::Step),
    /// Against builds that hang.
    Builds(builds::Step),
    /// Against builds of which nothing can be launched.
    Names(names::Step),
    /// For backups of the database.
    Backups(backups::Step),
    /// To the whole machine, and to its way in.
    Machine(machine::Step),
}

impl Step {
    /// The step in the runbook's words.
    pub fn words(&self) -> String {
        self.remedy().words()
    }

    /// What the planner and the gate must know of it.
    pub fn nature(&self) -> Nature<'_> {
        self.remedy().nature()
    }

    /// Whether every value follows its rule.
    ///
    /// # Errors
    /// [`BadText`] for the first one that does not.
    pub fn checked(&self) -> Result<(), BadText> {
        self.remedy().checked()
    }

    /// Whether it has had its effect, judged by what a later look sees.
    ///
    /// # Errors
    /// [`Unknown`] when what it needs could not be seen.
    pub fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        self.remedy().effect(later)
    }

    /// What carries it out.
    pub fn how(&self) -> How {
        self.remedy().how()
    }

    /// What the step costs.
    pub fn disruption(&self) -> Disruption {
        match self.nature().touches {
            Touches::Nothing => Disruption::None,
            Touches::Service => Disruption::Service,
            Touches::Host { .. } | Touches::Node(_) => Disruption::Host,
        }
    }

    /// Whether only so many hosts of a fleet may be in it at once, and only in a window.
    pub fn takes_turns(&self) -> bool {
        self.nature().in_turn
    }

    /// How many attempts an incident has for it, where that is not the fleet's number. What restarts a whole machine is done
    /// once: if it did not help, doing it again will not, and a person must look.
    pub fn attempts(&self) -> Option<u32> {
        (self.disruption() == Disruption::Host).then_some(1)
    }

    /// What it does to a module.
    pub fn changes_module(&self) -> Option<&ModuleChange> {
        match self.nature().modules {
            OfModules::Changes(change) => Some(change),
            OfModules::Apart | OfModules::RunsIn => None,
        }
    }

    /// Whether it ends the host's present boot.
    pub fn ends_boot(&self) -> bool {
        match self.nature().touches {
            Touches::Host { .. } => true,
            Touches::Node(_) | Touches::Service | Touches::Nothing => false,
        }
    }

    /// Whether another step restarts the same machine as this one.
    pub fn restarts_same_machine(&self, other: &Step) -> bool {
        match (self.nature().touches, other.nature().touches) {
            (Touches::Host { .. }, Touches::Host { .. }) => true,
            (Touches::Node(node), Touches::Node(other)) => node == other,
            (Touches::Nothing | Touches::Service | Touches::Host { .. } | Touches::Node(_), _) => false,
        }
    }

    /// Whether the machine's cloud does it.
    pub fn needs_power(&self) -> bool {
        match self.how() {
            How::Cloud(_) => true,
            How::Command(_)
            | How::Http(_)
            | How::Database { .. }
            | How::Secret { .. }
            | How::Backup { .. }
            | How::Impossible(_) => false,
        }
    }

    /// Whether what carries it out reads the API key.
    pub fn needs_api_key(&self) -> bool {
        match self.how() {
            How::Command(command) => command.stdin == Stdin::ApiKey,
            How::Http(HttpCall::Build { .. }) | How::Secret { .. } => true,
            How::Http(HttpCall::DeleteRoutes { .. })
            | How::Cloud(_)
            | How::Database { .. }
            | How::Backup { .. }
            | How::Impossible(_) => false,
        }
    }

    /// Whether the step is done on the host with the build server, whichever host it is about.
    pub fn goes_to_build_server(&self) -> bool {
        match self.how() {
            How::Http(HttpCall::Build { .. }) => true,
            How::Http(HttpCall::DeleteRoutes { .. })
            | How::Command(_)
            | How::Cloud(_)
            | How::Database { .. }
            | How::Secret { .. }
            | How::Backup { .. }
            | How::Impossible(_) => false,
        }
    }
}

/// The rule of any text that is compared with what a look sees and never built into a command: bounded, and nothing that could
/// break a terminal.
///
/// # Errors
/// [`BadText`] with what it is.
pub(super) fn plain(what: &'static str, text: &str) -> Result<(), BadText> {
    let fine = text.len() <= LONGEST && !text.chars().any(char::is_control);
    if fine { Ok(()) } else { Err(BadText { what, remedy: "delete the BinderAction that holds it" }) }
}

/// The longest value that a step may hold, in bytes. Paths have 255, addresses of repositories 500, public keys 800.
const LONGEST: usize = 1024;

/// The same rule for each of several.
///
/// # Errors
/// [`BadText`] for the first one that does not follow it.
pub(super) fn all_plain<'t>(what: &'static str, texts: impl IntoIterator<Item = &'t String>) -> Result<(), BadText> {
    texts.into_iter().try_for_each(|text| plain(what, text))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Runs a script as the transport does, on this machine; its exit code and what it said.
    pub(in crate::facets) fn run(script: &str, args: &[&str]) -> (i32, String) {
        let output = std::process::Command::new("sh").args(["-c", script, "test"]).args(args).output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Every step with typical values, as it is recorded.
    fn recorded() -> Vec<Step> {
        let all: Vec<serde_json::Value> = serde_json::from_str(include_str!("../../tests/steps.json")).unwrap();
        all.into_iter().map(|one| serde_json::from_value(one["parameters"].clone()).unwrap()).collect()
    }

    #[test]
    fn each_kind_is_one_facets_and_is_among_those_that_are_recorded() {
        let all: Vec<&str> = Step::kinds().collect();
        let kinds: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), kinds.len(), "two steps of one name: {all:?}");
        let steps = recorded();
        assert_eq!(kinds, steps.iter().map(Step::kind).collect());
    }

    #[test]
    fn no_step_that_disrupts_goes_by_one_look() {
        for step in recorded() {
            let Nature { demands, in_turn, .. } = step.nature();
            assert!(demands.looks >= 2 || step.disruption() == Disruption::None, "{step:?}");
            assert_eq!(demands.per_day && demands.lasting, step.disruption() == Disruption::Host, "{step:?}");
            assert!(in_turn || step.disruption() < Disruption::Host, "{step:?}");
        }
    }

    #[test]
    fn each_step_can_be_carried_out_and_what_varies_is_no_part_of_a_script() {
        for step in recorded() {
            match step.how() {
                How::Impossible(why) => panic!("{step:?}: {why}"),
                How::Command(Command { name, script, args, limit, .. }) => {
                    assert!(!script.trim().is_empty() && !name.is_empty(), "{step:?}");
                    assert!(limit <= Duration::from_secs(60), "{step:?}: longer than a look may wait");
                    for arg in args.iter().filter(|arg| arg.len() > 4) {
                        assert!(!script.contains(arg.as_str()), "{step:?}: {arg}");
                    }
                }
                How::Cloud(_) | How::Http(_) | How::Database { .. } | How::Secret { .. } | How::Backup { .. } => {}
            }
        }
    }
}
