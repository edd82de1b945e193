//! What explains what: what a drift waits for before anything is done about it.
//!
//! Order on one host is the runbook's ("Web and deploy server": web, proxy, `deploy-kubernetes`, health, redirect), carried
//! by the catalogue's `after` and by [`Facet::rank`](crate::facets::Facet::rank); between hosts it is the catalogue's `needs`.
//! What a kind of drift waits for stands in its row of [`DriftKind`](crate::facets::DriftKind); how to find it, here.

use super::Checked;
use super::memory::FleetView;
use crate::catalogue::{self, Component, KUBECTL_PROXY, KUBERNETES_API};
use crate::facets::{Drift, Subject, Waits, modules};
use crate::seen::reach;
use binder_crds::desired::{Module, Reach};
use binder_crds::{Desired, conditions};

/// What a drift waits for: the first thing that its subject depends on and that is not in place, in words.
pub fn waits_for(drift: &Drift, desired: &Desired, checks: &[Checked], fleet: &FleetView) -> Option<String> {
    let held = checks.iter().filter_map(|checked| checked.result.as_ref().ok()).flat_map(|check| &check.held);
    if let Some((_, what)) = held.into_iter().find(|(subject, _)| *subject == drift.subject) {
        return Some(what.clone());
    }
    match drift.kind.waits() {
        Waits::Nothing => None,
        Waits::Needs => {
            let components = catalogue::described(desired);
            let component = components.iter().find(|component| drift.subject.is(component))?;
            needed(component, desired, checks, fleet)
        }
        Waits::Update => update(modules::module_of(desired, drift)?, desired, checks, fleet),
        Waits::Cluster => fleet.missing.get(KUBERNETES_API).map(|host| format!("the Kubernetes API on {host}")),
        Waits::OtherMachine => {
            let is = |wanted: &&Reach| Subject::Reach(reach::subject(wanted)) == drift.subject;
            let other = &desired.reaches.iter().find(is)?.host.as_ref()?.0;
            fleet.missing.values().any(|host| host == other).then(|| format!("what is missing on {other}"))
        }
        Waits::BuildersClock => {
            let off = fleet.build_server.as_ref().filter(|build| build.clock_off);
            off.map(|build| format!("the clock of {}, which is off", build.host)).or_else(|| fresh_backup(checks))
        }
        Waits::Backup => fresh_backup(checks),
        Waits::BuildServer => build_server(desired, fleet),
    }
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
                    && !check.progressing.iter().any(|(progressing, _)| *progressing == subject)
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
            check.drifts.iter().map(|drift| &drift.subject).chain(check.progressing.iter().map(|(subject, _)| subject))
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
    if build.port.is_none() {
        return Some(format!("the settings of {}, which say its build server's port, to be read", build.host));
    }
    let here = catalogue::described(desired).iter().any(|component| component.name == "build");
    let host = fleet.missing.get("build").filter(|_| !here)?;
    Some(format!("build on {host}"))
}

fn words(name: &str) -> String {
    if name == KUBECTL_PROXY { "the kubectl proxy".to_owned() } else { name.to_owned() }
}
