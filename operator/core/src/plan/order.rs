//! What comes first, and what explains what. Two tables as data, with a test that every kind of drift is in them.
//!
//! Order on one host is the runbook's ("Web and deploy server": web, proxy, `deploy-kubernetes`, health, redirect), carried
//! by the catalogue's `after` and `rank`; between hosts it is the catalogue's `needs`.

use super::Checked;
use super::memory::FleetView;
use crate::catalogue::{self, Component, KUBECTL_PROXY, KUBERNETES_API};
use crate::facets::{Drift, DriftKind, Subject, modules};
use crate::seen::reach;
use binder_crds::desired::Module;
use binder_crds::{Desired, conditions};

/// Whether a drift of this kind is explained when something that its subject depends on is not in place: then that is
/// remedied, and this one waits.
pub fn explained_by_dependency(kind: DriftKind) -> bool {
    match kind {
        // Starting it now would only make it crash or give up; what it does now says nothing about itself.
        DriftKind::ProcessMissing
        | DriftKind::ProcessErrored
        | DriftKind::NotListening
        | DriftKind::ChildMissing
        | DriftKind::RestartsClimbing
        // What is ended for the sake of a module must be able to come up again.
        | DriftKind::ModuleNotLoaded
        | DriftKind::ModuleOld
        | DriftKind::ModuleNewer
        | DriftKind::ClusterNotAnswering
        // The other machine is not as described either: that is the cause.
        | DriftKind::PortRefused
        | DriftKind::PortSilent
        // The checker would only stop again without its database, and has nothing to launch apps with.
        | DriftKind::HealthStale
        | DriftKind::HealthWrong => true,
        // These are wrong whatever else is, and putting them right never needs the dependency.
        DriftKind::ProcessStopped
        | DriftKind::ProcessDoubled
        | DriftKind::ChildrenLeftOver
        | DriftKind::LostByPm2
        | DriftKind::StartedTooEarly
        | DriftKind::PortTaken
        | DriftKind::StillRunning
        | DriftKind::ModuleMissing
        | DriftKind::NothingListens
        | DriftKind::NotKubectl
        | DriftKind::WrongKubectl
        | DriftKind::WrongCluster
        | DriftKind::KubectlUnusable
        | DriftKind::RedirectMissing
        | DriftKind::RedirectDoubled
        | DriftKind::RedirectShadowed
        | DriftKind::InterfaceMissing
        | DriftKind::ListensElsewhere
        | DriftKind::AnotherProgram
        | DriftKind::OverThreshold
        | DriftKind::DiskUnreadable
        | DriftKind::HostSilent
        | DriftKind::HostOff
        | DriftKind::LoginRefused
        | DriftKind::NoRoute
        | DriftKind::NameNotFound
        | DriftKind::NoSuchHost
        | DriftKind::KeyRefused
        | DriftKind::KeyUnknown
        | DriftKind::KeysDisagree
        | DriftKind::ApiNotAnswering
        | DriftKind::ApiSlow
        | DriftKind::ApiStarved
        | DriftKind::NodesNotReady
        | DriftKind::RoutesStale
        | DriftKind::RouteOdd
        | DriftKind::DockerNotAnswering
        | DriftKind::DockerConfigEmpty
        | DriftKind::ScheduleInvalid
        | DriftKind::ReclaimDue
        | DriftKind::HungBuild
        | DriftKind::BuildNotRebuilt
        | DriftKind::NamesCollide
        | DriftKind::NameNotLower
        | DriftKind::NoFreshBackup
        | DriftKind::BackupPlaceUnusable
        | DriftKind::BackupDue => false,
    }
}

/// Whether the runbook restarts the machine when the lighter steps against a drift are used up ("Web and deploy server":
/// `sudo reboot`, then everything in order). Only for what a fresh boot clears; nothing else is worth a whole machine.
pub fn reboot_helps(kind: DriftKind) -> bool {
    matches!(
        kind,
        DriftKind::ProcessMissing
            | DriftKind::ProcessStopped
            | DriftKind::ProcessErrored
            | DriftKind::ProcessDoubled
            | DriftKind::ChildrenLeftOver
            | DriftKind::ChildMissing
            | DriftKind::LostByPm2
            | DriftKind::NotListening
            | DriftKind::StartedTooEarly
            | DriftKind::NothingListens
    )
}

/// The place of a subject in the runbook's order; lower is earlier.
pub fn rank(subject: &Subject, desired: &Desired) -> u8 {
    match subject {
        Subject::KubectlProxy => 35,
        Subject::Component(_) => catalogue::described(desired)
            .iter()
            .find(|component| subject.is(component))
            .map_or(LAST, |component| component.rank),
        // After what uses it first, so that one module is seen to work before the next one changes.
        Subject::Module { .. } => desired
            .modules
            .iter()
            .filter(|module| modules::subject(module) == *subject)
            .flat_map(|module| catalogue::users(desired, module))
            .map(|component| component.rank + 1)
            .min()
            .unwrap_or(LAST),
        Subject::Redirect { .. } => 55,
        // The runbook's order ("Build server"): room, the empty file, Docker itself.
        Subject::Disk(_) => 60,
        Subject::DockerConfig => 61,
        Subject::Docker => 62,
        Subject::Backup | Subject::BackupBeforeAnEdit => 65,
        Subject::KubernetesApi
        | Subject::DockerReclaim
        | Subject::ReclaimSchedule
        | Subject::Build(_)
        | Subject::BuildName(_)
        | Subject::TemplateName(_)
        | Subject::Reach(_)
        | Subject::Routes
        | Subject::ApiKey
        | Subject::Machine
        | Subject::Login => LAST,
    }
}

/// The place of what the runbook puts in no order.
const LAST: u8 = 70;

/// What a drift waits for: the first thing that its subject depends on and that is not in place, in words.
pub fn waits_for(drift: &Drift, desired: &Desired, checks: &[Checked], fleet: &FleetView) -> Option<String> {
    let held = checks.iter().filter_map(|checked| checked.result.as_ref().ok()).flat_map(|check| &check.held);
    if let Some((_, what)) = held.into_iter().find(|(subject, _)| *subject == drift.subject) {
        return Some(what.clone());
    }
    match drift.kind {
        DriftKind::HungBuild => {
            // By that clock it was written down when the build was begun.
            let off = fleet.build_server.as_ref().filter(|build| build.clock_off);
            return off
                .map(|build| format!("the clock of {}, which is off", build.host))
                .or_else(|| fresh_backup(checks));
        }
        DriftKind::NameNotLower => return fresh_backup(checks),
        DriftKind::BuildNotRebuilt => return build_server(desired, fleet),
        _ => {}
    }
    if !explained_by_dependency(drift.kind) {
        return None;
    }
    if let Some(module) = modules::module_of(desired, drift) {
        return update(module, desired, checks, fleet);
    }
    if drift.kind == DriftKind::ClusterNotAnswering {
        return fleet.missing.get(KUBERNETES_API).map(|host| format!("the Kubernetes API on {host}"));
    }
    if let Some(wanted) = desired.reaches.iter().find(|wanted| Subject::Reach(reach::subject(wanted)) == drift.subject)
    {
        let other = &wanted.host.as_ref()?.0;
        return fleet.missing.values().any(|host| host == other).then(|| format!("what is missing on {other}"));
    }
    let component = catalogue::described(desired).into_iter().find(|component| drift.subject.is(component))?;
    needed(&component, desired, checks, fleet)
}

/// What a new version of a module waits for: whatever its users would wait for if they were started, since they will be;
/// another host of the fleet that is being given a new version; and, in the order of dependency, the modules of what its
/// users need.
fn update(module: &Module, desired: &Desired, checks: &[Checked], fleet: &FleetView) -> Option<String> {
    let users = catalogue::users(desired, module);
    if let Some(what) = users.iter().find_map(|component| needed(component, desired, checks, fleet)) {
        return Some(what);
    }
    if let Some(host) = fleet.updating.first() {
        return Some(format!("{host} to be well with its modules: one host at a time"));
    }
    let needs = users.iter().flat_map(|component| &component.needs);
    let host = needs.filter_map(|name| fleet.outdated.get(*name)).next()?;
    Some(format!("the modules of {host}, whose services come first"))
}

/// What must be in place before a component is started and is not.
fn needed(component: &Component, desired: &Desired, checks: &[Checked], fleet: &FleetView) -> Option<String> {
    let components = catalogue::described(desired);
    let here = |name: &str| {
        (name == KUBECTL_PROXY && desired.kubectl_proxy.is_some())
            || components.iter().any(|component| component.name == name)
    };
    let in_place = |name: &str| {
        let subject = Subject::named(name);
        // What could not be seen is not in place: a step that depends on it waits.
        let facet = if name == KUBECTL_PROXY { conditions::PROXY_SERVING } else { conditions::SERVICES_RUNNING };
        checks.iter().filter(|checked| checked.condition == facet).all(|checked| match &checked.result {
            Err(_) => false,
            Ok(check) => {
                !check.drifts.iter().any(|drift| drift.subject == subject)
                    && !check.settling.iter().any(|(settling, _)| *settling == subject)
            }
        })
    };
    if matches!(component.start, catalogue::Start::Server { .. })
        && let Some(problem) = &fleet.api_key_problem
    {
        return Some(problem.clone());
    }
    if let Some(name) = component.after.iter().find(|name| here(name) && !in_place(name)) {
        return Some(words(name));
    }
    for name in &component.needs {
        if here(name) && !in_place(name) {
            return Some(words(name));
        }
        if let Some(host) = fleet.missing.get(*name) {
            return Some(format!("{} on {host}", words(name)));
        }
        if let Some(to) = unreachable(name, desired, checks) {
            return Some(format!("{to} to be reachable from here"));
        }
    }
    None
}

/// A described port of something that is needed, if it cannot be reached from here.
fn unreachable(name: &str, desired: &Desired, checks: &[Checked]) -> Option<String> {
    let ports = catalogue::ports_of(name);
    let closed = checks
        .iter()
        .filter(|checked| checked.condition == conditions::ENDPOINTS_REACHABLE)
        .filter_map(|checked| checked.result.as_ref().ok())
        .flat_map(|check| {
            check.drifts.iter().map(|drift| &drift.subject).chain(check.settling.iter().map(|(subject, _)| subject))
        });
    let closed: Vec<&Subject> = closed.collect();
    let wanted = desired
        .reaches
        .iter()
        .find(|wanted| ports.contains(&wanted.port) && closed.contains(&&Subject::Reach(reach::subject(wanted))))?;
    Some(reach::words(wanted))
}

/// What an edit of the database waits for: a fresh backup, where backups are described.
fn fresh_backup(checks: &[Checked]) -> Option<String> {
    let backed_up = checks.iter().find(|checked| checked.condition == conditions::BACKED_UP)?;
    match &backed_up.result {
        // Whether there is a fresh one is not known: an edit does not rest on what is not known.
        Err(_) => Some("the backups to be seen".to_owned()),
        Ok(check) if !check.drifts.is_empty() => Some("a fresh backup".to_owned()),
        Ok(_) => None,
    }
}

/// What a build that is owed waits for: the API key, and a build server that runs and that may be asked.
fn build_server(desired: &Desired, fleet: &FleetView) -> Option<String> {
    if let Some(problem) = &fleet.api_key_problem {
        return Some(problem.clone());
    }
    let Some(build) = &fleet.build_server else {
        return Some("a host of the fleet to be described with the server build".to_owned());
    };
    if let Some(why) = &build.closed {
        return Some(format!("{}: {why}", build.host));
    }
    let here = catalogue::described(desired).iter().any(|component| component.name == "build");
    let host = fleet.missing.get("build").filter(|_| !here)?;
    Some(format!("build on {host}"))
}

fn words(name: &str) -> String {
    if name == KUBECTL_PROXY { "the kubectl proxy".to_owned() } else { name.to_owned() }
}
