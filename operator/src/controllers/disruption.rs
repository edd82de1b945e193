//! Which hosts of a fleet are disrupted: what the fleet's budget counts. Read from BinderActions in the API itself, never
//! from a cache: a host that another step of ours has just taken down must count.

use super::{Context, Error, fleet, list_all};
use crate::plan::memory::Disrupted;
use crate::status::conditions::find;
use binder_crds::{BinderAction, BinderFleet, BinderHostStatus, DISRUPTS_LABEL, FLEET_LABEL, conditions};
use kube::ResourceExt;
use kube::api::ListParams;

/// The other hosts of the fleet that a step of ours disrupts now, or that are not well again since one did.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn others(
    context: &Context,
    namespace: &str,
    uid: &str,
    of: Option<&BinderFleet>,
) -> Result<Vec<Disrupted>, Error> {
    let Some(of) = of else { return Ok(Vec::new()) };
    let selector = format!("{DISRUPTS_LABEL}=host,{FLEET_LABEL}={}", of.name_any());
    let api = context.api::<BinderAction>(namespace);
    let actions = list_all(&api, &ListParams::default().labels(&selector), "BinderActions").await?;
    let mut disrupted = Vec::new();
    for host in context.hosts.state() {
        let other = host.uid().unwrap_or_default();
        if other == uid || !fleet::governs(of, &host) {
            continue;
        }
        let written = context.known().get(&other).and_then(|known| known.status.clone());
        let status = written.or_else(|| host.status.clone()).unwrap_or_default();
        let counts = |action: &&BinderAction| action.spec.host_uid == other && disrupts(action, &status);
        if actions.iter().any(|action| counts(&action)) {
            let domain = host.spec.domain.as_ref().map(|domain| domain.0.clone());
            disrupted.push(Disrupted { host: host.name_any(), domain });
        }
    }
    disrupted.sort_by(|a, b| a.host.cmp(&b.host));
    Ok(disrupted)
}

/// An attempt disrupts while nobody knows how it ended, and after that until the host's services are back, whatever came
/// of it: a host that a step of ours took down and that stays down is the last reason to take down another.
fn disrupts(action: &BinderAction, status: &BinderHostStatus) -> bool {
    use binder_crds::ActionOutcome::{Abandoned, Failed, Succeeded, Unknown};
    match action.status.as_ref().and_then(|status| status.outcome) {
        None => true,
        Some(Abandoned) => false,
        Some(Succeeded | Failed | Unknown) => {
            let is = |kind| find(status, kind).is_none_or(|condition| condition.status == "True");
            let since = status.incident_since.as_ref().map(|since| since.0);
            let created = action.creation_timestamp().map(|created| created.0);
            let this_incident = since.zip(created).is_some_and(|(since, created)| created >= since);
            this_incident && !(is(conditions::REACHABLE) && is(conditions::SERVICES_RUNNING))
        }
    }
}
