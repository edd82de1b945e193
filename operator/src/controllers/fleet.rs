//! One fleet: renders its hosts, takes away what it no longer lists (and asks nothing of the machine), sums up.

use super::{Context, Error, MANAGER, PASS, chain};
use crate::panics;
use crate::plan::memory::Patience;
use crate::status::fleet::{Refused, summarize};
use binder_crds::fleet::{Member, Remedies};
use binder_crds::{BinderFleet, BinderFleetStatus, BinderHost, FLEET_LABEL, Mode};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::core::{Selector, SelectorExt};
use kube::runtime::controller::Action;
use kube::runtime::reflector::Store;
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::sync::Arc;
use tracing::Instrument;

/// Whether a fleet governs a host: it has rendered it, or its selector names the host's labels.
pub(super) fn governs(fleet: &BinderFleet, host: &BinderHost) -> bool {
    if fleet.namespace() != host.namespace() {
        return false;
    }
    if rendered(fleet, host) {
        return true;
    }
    // A host that some fleet has rendered is that fleet's alone.
    let others = host.owner_references().iter().any(|owner| owner.kind == BinderFleet::kind(&()));
    !others && fleet.spec.host_selector.as_ref().is_some_and(|selector| selects(selector, host))
}

fn rendered(fleet: &BinderFleet, host: &BinderHost) -> bool {
    let uid = fleet.uid().unwrap_or_default();
    host.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// A selector that cannot be read selects nothing; the API server refuses most of them, and an empty one selects all, as
/// everywhere in Kubernetes.
fn selects(selector: &LabelSelector, host: &BinderHost) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(host.labels()))
}

/// The fleets that govern a host: none, one, or by mistake several. One that is being deleted governs until it is gone:
/// else taking the stricter object away would allow more.
pub(super) fn governing(fleets: &Store<BinderFleet>, host: &BinderHost) -> Vec<Arc<BinderFleet>> {
    let mut governing: Vec<_> = fleets.state().into_iter().filter(|fleet| governs(fleet, host)).collect();
    governing.sort_by_cached_key(|fleet| fleet.name_any());
    governing
}

/// What may be done to a host of a fleet: the lower one of the two modes, and nothing once the fleet is being deleted.
pub(super) fn mode(fleet: &BinderFleet, host: &BinderHost) -> Mode {
    if fleet.metadata.deletion_timestamp.is_some() {
        return Mode::Observe;
    }
    fleet.spec.mode.min(host.spec.mode.unwrap_or(Mode::Enforce))
}

/// The fleet that a host names by its owner or its label, for a host that no fleet governs. Such a host is only observed:
/// what its fleet forbade must not be allowed because the fleet is gone, or not there yet.
pub(super) fn named_by(host: &BinderHost) -> Option<String> {
    let owner = host.owner_references().iter().find(|owner| owner.kind == BinderFleet::kind(&()));
    owner.map(|owner| owner.name.clone()).or_else(|| host.labels().get(FLEET_LABEL).cloned())
}

/// How patiently a fleet wants its hosts remedied. What cannot be read falls back to the default, which is the safe one.
pub(super) fn patience(remedies: &Remedies) -> Patience {
    let default = Patience::default();
    Patience {
        cooldown: remedies.cooldown.duration().unwrap_or(default.cooldown),
        attempts: remedies.attempts.clamp(1, 10),
        refill_after: remedies.refill_after.duration().unwrap_or(default.refill_after),
        dead_after: remedies.dead_after.duration().unwrap_or(default.dead_after),
    }
}

/// One pass over one fleet.
pub(super) async fn reconcile(fleet: Arc<BinderFleet>, context: Arc<Context>) -> Result<Action, Error> {
    let span =
        tracing::info_span!("fleet", fleet = fleet.name_any(), namespace = fleet.namespace().unwrap_or_default());
    if !context.have_read().await {
        return Ok(Action::await_change());
    }
    let uid = fleet.uid().unwrap_or_default();
    let done = match tokio::time::timeout(PASS, panics::caught(pass(&fleet, &context).instrument(span))).await {
        Ok(Ok(done)) => done,
        Ok(Err(place)) => Err(Error::Defect { place }),
        Err(_) => Err(Error::TooLong { after: PASS }),
    };
    if done.is_ok() {
        context.fleet_well(&uid);
    }
    done
}

/// After an error of the API: again, less and less often.
pub(super) fn on_error(fleet: Arc<BinderFleet>, error: &Error, context: Arc<Context>) -> Action {
    context.metrics.failed("fleet");
    tracing::warn!(fleet = fleet.name_any(), error = chain(error), "will be tried again");
    Action::requeue(context.fleet_pause(&fleet.uid().unwrap_or_default()))
}

async fn pass(fleet: &BinderFleet, context: &Context) -> Result<Action, Error> {
    if context.stop.is_cancelled() || fleet.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = fleet.namespace().ok_or_else(|| Error::Incomplete(format!("BinderFleet {}", fleet.name_any())))?;
    let mut refused = Vec::new();
    for member in &fleet.spec.hosts {
        refused.extend(render(fleet, member, context, &namespace).await?);
    }
    take_away(fleet, context, &namespace).await?;

    let hosts = context.hosts.state();
    let mine: Vec<&BinderHost> = hosts.iter().map(|host| &**host).filter(|host| governs(fleet, host)).collect();
    let previous = fleet.status.clone().unwrap_or_default();
    let generation = fleet.metadata.generation.unwrap_or_default();
    let mode = fleet.spec.mode;
    let status = summarize(&previous, generation, mode, fleet.spec.suspend, &mine, &refused, Timestamp::now());
    if status != previous {
        write(fleet, context, &namespace, &status).await?;
    }
    Ok(Action::await_change())
}

/// Makes or mends one host by server-side apply, if it is not yet what the fleet says. A host that somebody has written
/// by hand under the same name is left to its writer, and said.
async fn render(
    fleet: &BinderFleet,
    member: &Member,
    context: &Context,
    namespace: &str,
) -> Result<Option<Refused>, Error> {
    let api = context.api::<BinderHost>(namespace);
    let name = &member.name.0;
    let what = || format!("BinderHost {name}");
    let wanted = fleet.spec.render(member);
    let cached = context.hosts.find(|host| host.name_any() == *name && host.namespace().as_deref() == Some(namespace));
    if let Some(cached) = &cached
        && rendered(fleet, cached)
        && cached.spec == wanted
        && cached.labels().get(FLEET_LABEL) == Some(&fleet.name_any())
    {
        return Ok(None);
    }
    // The cache may be behind; the API itself says whether the name is free, ours or somebody else's.
    let there = api.get_opt(name).await.map_err(Error::api("read", what()))?;
    if let Some(there) = &there
        && !rendered(fleet, there)
    {
        return Ok(Some(Refused {
            reason: "HostNameTaken",
            message: format!(
                "a BinderHost {name} is there already and not of this fleet: rename hosts[].name, or delete that object to let the fleet have it"
            ),
        }));
    }
    if there.as_ref().is_some_and(|there| there.metadata.deletion_timestamp.is_some()) {
        return Ok(None);
    }
    let owner = OwnerReference {
        api_version: BinderFleet::api_version(&()).into_owned(),
        kind: BinderFleet::kind(&()).into_owned(),
        name: fleet.name_any(),
        uid: fleet.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let host = BinderHost {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.to_owned()),
            labels: Some([(FLEET_LABEL.to_owned(), fleet.name_any())].into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: wanted,
        status: None,
    };
    context.metrics.wrote("BinderHost");
    match api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&host)).await {
        Ok(_) => {
            tracing::info!(host = name, "rendered");
            Ok(None)
        }
        // The schema of the host is stricter than the fleet's in nothing, but an older definition may be installed.
        Err(kube::Error::Api(status)) if status.is_invalid() || status.code == 400 => Ok(Some(Refused {
            reason: "HostInvalid",
            message: format!("BinderHost {name} was refused: {}", status.message),
        })),
        Err(error) => Err(Error::api("apply", what())(error)),
    }
}

/// Deletes the hosts that the fleet has rendered and no longer lists.
async fn take_away(fleet: &BinderFleet, context: &Context, namespace: &str) -> Result<(), Error> {
    let api = context.api::<BinderHost>(namespace);
    for host in context.hosts.state() {
        let name = host.name_any();
        let listed = fleet.spec.hosts.iter().any(|member| member.name.0 == name);
        if listed || !rendered(fleet, &host) || host.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: host.uid(), resource_version: None }),
            ..DeleteParams::background()
        };
        context.metrics.wrote("BinderHost");
        match api.delete(&name, &parameters).await {
            Ok(_) => tracing::info!(host = name, "no longer listed: taken away"),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(error) => return Err(Error::api("delete", format!("BinderHost {name}"))(error)),
        }
    }
    Ok(())
}

async fn write(
    fleet: &BinderFleet,
    context: &Context,
    namespace: &str,
    status: &BinderFleetStatus,
) -> Result<(), Error> {
    let name = fleet.name_any();
    let patch = Patch::Apply(json!({
        "apiVersion": BinderFleet::api_version(&()),
        "kind": BinderFleet::kind(&()),
        "metadata": { "name": name, "uid": fleet.uid() },
        "status": status,
    }));
    context.metrics.wrote("BinderFleet");
    let api = context.api::<BinderFleet>(namespace);
    match api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        // A fleet of that name was made anew, or somebody wrote at the same moment: it is summed up again.
        Err(kube::Error::Api(status)) if status.is_conflict() => Err(Error::Conflict(format!("BinderFleet {name}"))),
        Err(error) => Err(Error::api("write the status of", format!("BinderFleet {name}"))(error)),
    }
}
