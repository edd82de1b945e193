//! Which hosts of a fleet are disrupted: what the fleet's budget counts. Read from BinderActions in the API itself, never
//! from a cache: a host that another step of ours has just taken down must count.

use super::{Context, Error, fleet, list_all};
use crate::plan::memory::Disrupted;
use crate::status::conditions::find;
use binder_crds::{
    ActionOutcome, BinderAction, BinderFleet, BinderHostStatus, DISRUPTS_LABEL, FLEET_LABEL, conditions,
};
use kube::ResourceExt;
use kube::api::ListParams;

/// The kind of the step that gives a host a new version of a module.
const INSTALL: &str = "InstallModule";

/// What keeps this host from taking its turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Others {
    /// The other hosts of the fleet that a step of ours disrupts now, or that are not well again since one did.
    pub(super) disrupted: Vec<Disrupted>,
    /// Those that were given a new version of a module and are not well with it: it must prove itself on one host before the
    /// next one gets it.
    pub(super) updating: Vec<String>,
}

/// The other hosts of the fleet that stand in this one's way.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn others(
    context: &Context,
    namespace: &str,
    uid: &str,
    of: Option<&BinderFleet>,
) -> Result<Others, Error> {
    let Some(of) = of else { return Ok(Others::default()) };
    let selector = format!("{DISRUPTS_LABEL}=host,{FLEET_LABEL}={}", of.name_any());
    let api = context.api::<BinderAction>(namespace);
    let actions = list_all(&api, &ListParams::default().labels(&selector), "BinderActions").await?;
    let mut others = Others::default();
    for host in context.hosts.state() {
        let other = host.uid().unwrap_or_default();
        if other == uid || !fleet::governs(of, &host) {
            continue;
        }
        let written = context.known().get(&other).and_then(|known| known.status.clone());
        let status = written.or_else(|| host.status.clone()).unwrap_or_default();
        let its: Vec<&BinderAction> = actions.iter().filter(|action| action.spec.host_uid == other).collect();
        if its.iter().any(|action| disrupts(action, &status)) {
            let domain = host.spec.domain.as_ref().map(|domain| domain.0.clone());
            others.disrupted.push(Disrupted { host: host.name_any(), domain });
        }
        if its.iter().any(|action| updates(action, &status)) {
            others.updating.push(host.name_any());
        }
    }
    others.disrupted.sort_by(|a, b| a.host.cmp(&b.host));
    others.updating.sort();
    Ok(others)
}

/// An attempt disrupts while nobody knows how it ended, and after that until the host's services are back, whatever came
/// of it: a host that a step of ours took down and that stays down is the last reason to take down another.
fn disrupts(action: &BinderAction, status: &BinderHostStatus) -> bool {
    use binder_crds::ActionOutcome::{Abandoned, Failed, Succeeded, Unknown};
    match action.status.as_ref().and_then(|status| status.outcome) {
        None => true,
        Some(Abandoned) => false,
        Some(Succeeded | Failed | Unknown) => {
            this_incident(action, status)
                && !(is(status, conditions::REACHABLE) && is(status, conditions::SERVICES_RUNNING))
        }
    }
}

/// A new version of a module is under way until the host is as described with it, or until its owner asks for another.
fn updates(action: &BinderAction, status: &BinderHostStatus) -> bool {
    let outcome = action.status.as_ref().and_then(|status| status.outcome);
    let all = [conditions::REACHABLE, conditions::SERVICES_RUNNING, conditions::MODULES_AT_VERSION];
    action.spec.step == INSTALL
        && match outcome {
            None => true,
            Some(ActionOutcome::Abandoned) => false,
            Some(_) => this_incident(action, status) && !all.iter().all(|kind| is(status, kind)),
        }
}

fn is(status: &BinderHostStatus, kind: &str) -> bool {
    find(status, kind).is_none_or(|condition| condition.status == "True")
}

fn this_incident(action: &BinderAction, status: &BinderHostStatus) -> bool {
    let since = status.incident_since.as_ref().map(|since| since.0);
    let created = action.creation_timestamp().map(|created| created.0);
    since.zip(created).is_some_and(|(since, created)| created >= since)
}
