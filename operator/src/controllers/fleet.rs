//! One fleet: renders its hosts, takes away what it no longer lists (and asks nothing of the machine), sums up.

use super::{Context, Error, MANAGER, PASS, brake, chain, members};
use crate::config::Config;
use crate::panics;
use binder_core::plan::memory::RetryPolicy;
use binder_core::status::events;
use binder_core::status::fleet::{Refused, Story, summarize};
use binder_crds::fleet::{Member, Remedies};
use binder_crds::text::Span;
use binder_crds::{BinderFleet, BinderFleetStatus, BinderHost, BinderHostSpec, FLEET_LABEL, Mode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::core::{Selector, SelectorExt};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::Instrument;

/// While its brake holds, a fleet is looked at this often.
const HELD: Duration = Duration::from_secs(5);

/// Whether a fleet governs a host: it has rendered it, or its selector names the host's labels.
pub(super) fn governs(fleet: &BinderFleet, host: &BinderHost) -> bool {
    governs_by(fleet, selector(fleet).as_ref(), host)
}

/// The same with the fleet's selector, as [`selector`] reads it.
pub(super) fn governs_by(fleet: &BinderFleet, selector: Option<&Selector>, host: &BinderHost) -> bool {
    if fleet.namespace() != host.namespace() {
        return false;
    }
    if rendered(fleet, host) {
        return true;
    }
    // A host that some fleet has rendered is that fleet's alone.
    let others = host.owner_references().iter().any(|owner| owner.kind == BinderFleet::kind(&()));
    !others && selector.is_some_and(|selector| selector.matches(host.labels()))
}

fn rendered(fleet: &BinderFleet, host: &BinderHost) -> bool {
    let uid = fleet.uid().unwrap_or_default();
    host.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// A fleet's selector. One that cannot be read selects nothing; the API server refuses most of them, and an empty one selects
/// all, as everywhere in Kubernetes.
pub(super) fn selector(fleet: &BinderFleet) -> Option<Selector> {
    Selector::try_from(fleet.spec.host_selector.clone()?).ok()
}

/// The fleets that govern a host, by name: none, one, or by mistake several. One that is being deleted governs until it is gone:
/// else taking the stricter object away would allow more.
pub(super) fn governing(context: &Context, host: &BinderHost) -> Vec<Arc<BinderFleet>> {
    context.members.governing(host)
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

/// The hosts that a fleet governs, by name.
pub(super) fn members(context: &Context, fleet: &BinderFleet) -> members::Hosts {
    context.members.of(fleet)
}

/// How patiently a fleet wants its hosts remedied, within the operator's own bounds. What cannot be read falls back to the
/// default, which is the safe one.
pub(super) fn patience(remedies: &Remedies, config: &Config) -> RetryPolicy {
    let default = RetryPolicy::default();
    RetryPolicy {
        retry_period: remedies.retry_period.duration().unwrap_or(default.retry_period).max(config.min_retry_period),
        attempts: remedies.attempts.clamp(1, 10),
        min_healthy_period: remedies
            .min_healthy_period
            .duration()
            .unwrap_or(default.min_healthy_period)
            .max(config.min_healthy_period),
        unreachable_timeout: remedies
            .unreachable_timeout
            .duration()
            .unwrap_or(default.unreachable_timeout)
            .max(config.min_unreachable_timeout),
        per_day: remedies.per_day,
    }
}

/// Where a fleet asks for less patience than the operator's flags allow: the field, and the flag that wins.
fn raised(remedies: &Remedies, config: &Config) -> Vec<&'static str> {
    let below = |span: &Span, least| span.duration().is_ok_and(|asked| asked < least);
    [
        (below(&remedies.retry_period, config.min_retry_period), "remedies.retryPeriod (--min-retry-period)"),
        (
            below(&remedies.min_healthy_period, config.min_healthy_period),
            "remedies.minHealthyPeriod (--min-healthy-period)",
        ),
        (
            below(&remedies.unreachable_timeout, config.min_unreachable_timeout),
            "remedies.unreachableTimeout (--min-unreachable-timeout)",
        ),
    ]
    .into_iter()
    .filter_map(|(below, words)| below.then_some(words))
    .collect()
}

/// What others have added to rendered hosts: by the host's UID, its generation and what the fleet wants, so that it is not
/// applied again and again to no effect.
#[derive(Debug, Default)]
pub(crate) struct Altered(Mutex<HashMap<String, (i64, BinderHostSpec)>>);

impl Altered {
    fn all(&self) -> MutexGuard<'_, HashMap<String, (i64, BinderHostSpec)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a host with others' fields is still the one that was told of.
    fn is_known(&self, host: &BinderHost, wanted: &BinderHostSpec) -> bool {
        let all = self.all();
        let known = host.uid().and_then(|uid| all.get(&uid).cloned());
        known.is_some_and(|(generation, spec)| Some(generation) == host.metadata.generation && spec == *wanted)
    }

    /// Takes in what an apply came to; gives what to say if others' fields are still there.
    fn told(&self, host: &BinderHost, wanted: &BinderHostSpec) -> Option<Refused> {
        let uid = host.uid().unwrap_or_default();
        if host.spec == *wanted {
            self.all().remove(&uid);
            return None;
        }
        self.all().insert(uid, (host.metadata.generation.unwrap_or_default(), wanted.clone()));
        Some(altered(&host.name_any(), &host.spec, wanted))
    }
}

/// Fields of a rendered host that the fleet did not write.
fn altered(name: &str, is: &BinderHostSpec, wanted: &BinderHostSpec) -> Refused {
    let [is, wanted] = [is, wanted].map(|spec| serde_json::to_value(spec).unwrap_or_default());
    let fields = is.as_object().into_iter().flatten().filter(|(key, value)| wanted.get(key) != Some(value));
    let fields: Vec<String> = fields.map(|(key, _)| format!("spec.{key}")).take(5).collect();
    Refused {
        reason: "HostAltered",
        message: format!(
            "somebody else has added to BinderHost {name}, which this fleet renders, and it is acted on: look at {}, take it \
             away there, or write it into the fleet's hosts[] ({name})",
            fields.join(", ")
        ),
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

    let held = brake::look(context, fleet);
    let hosts = members(context, fleet);
    let mine: Vec<&BinderHost> = hosts.iter().map(|host| &**host).collect();
    let previous = fleet.status.clone().unwrap_or_default();
    let raised = raised(&fleet.spec.remedies, &context.config);
    let story = Story {
        name: &fleet.name_any(),
        generation: fleet.metadata.generation.unwrap_or_default(),
        spec: &fleet.spec,
        hosts: &mine,
        refused: &refused,
        held: held.as_ref(),
        raised: &raised,
        now: context.clock.now(),
    };
    let status = summarize(&previous, &story);
    context.metrics.fleet(&namespace, &fleet.name_any(), held.is_some());
    if status != previous {
        write(fleet, context, &namespace, &status).await?;
        tell(fleet, context, events::fleet_transitions(&previous, &status)).await;
    }
    // That it may open is seen by looking again, also when no host changes.
    Ok(if held.is_some() { Action::requeue(HELD) } else { Action::await_change() })
}

/// Tells events of a fleet. That one could not be told is logged and no more: status says the same.
async fn tell(fleet: &BinderFleet, context: &Context, told: Vec<events::Tell>) {
    for tell in told {
        let event = Event {
            type_: if tell.warning { EventType::Warning } else { EventType::Normal },
            reason: tell.reason,
            note: Some(binder_core::words::shorten(&tell.note, 500)),
            action: tell.action,
            secondary: None,
        };
        context.metrics.wrote("Event");
        if let Err(error) = context.recorder.publish(&event, &fleet.object_ref(&())).await {
            tracing::warn!(error = chain(&error), "an event could not be told");
        }
    }
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
    let cached = context.members.get(namespace, name);
    if let Some(cached) = &cached
        && rendered(fleet, cached)
        && cached.spec == wanted
        && cached.labels().get(FLEET_LABEL) == Some(&fleet.name_any())
    {
        return Ok(None);
    }
    if let Some(cached) = &cached
        && rendered(fleet, cached)
        && context.altered.is_known(cached, &wanted)
    {
        return Ok(Some(altered(name, &cached.spec, &wanted)));
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
        spec: wanted.clone(),
        status: None,
    };
    context.metrics.wrote("BinderHost");
    match api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&host)).await {
        Ok(applied) => {
            tracing::info!(host = name, "rendered");
            Ok(context.altered.told(&applied, &wanted))
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
    for host in members(context, fleet).iter() {
        let name = host.name_any();
        let listed = fleet.spec.hosts.iter().any(|member| member.name.0 == name);
        if listed || !rendered(fleet, host) || host.metadata.deletion_timestamp.is_some() {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::config::CommandLine;
    use binder_crds::desired::Disk;
    use clap::Parser;

    #[test]
    fn no_fleet_is_less_patient_than_the_operators_flags() {
        let config = CommandLine::try_parse_from(["binder-operator"]).unwrap().config;
        let hasty = Remedies {
            retry_period: "1s".into(),
            min_healthy_period: "1s".into(),
            unreachable_timeout: "1s".into(),
            ..Remedies::default()
        };
        let raised_to = patience(&hasty, &config);
        assert_eq!(raised_to.unreachable_timeout, Duration::from_secs(300), "longer than a boot with fsck takes");
        assert_eq!(
            (raised_to.retry_period, raised_to.min_healthy_period),
            (Duration::from_secs(10), Duration::from_secs(300))
        );
        assert_eq!(raised(&hasty, &config).len(), 3, "and it is said");
        let usual = Remedies::default();
        assert!(raised(&usual, &config).is_empty());
        assert_eq!(patience(&usual, &config), RetryPolicy::default());
        let lab = [
            "binder-operator",
            "--min-unreachable-timeout",
            "1s",
            "--min-retry-period",
            "1s",
            "--min-healthy-period",
            "1s",
        ];
        let config = CommandLine::try_parse_from(lab).unwrap().config;
        assert_eq!(patience(&hasty, &config).unreachable_timeout, Duration::from_secs(1));
        assert!(CommandLine::try_parse_from(["binder-operator", "--min-unreachable-timeout", "soon"]).is_err());
    }

    #[test]
    fn what_somebody_else_added_to_a_rendered_host_is_told_and_not_applied_again() {
        let wanted = BinderHostSpec { address: "192.0.2.1".into(), port: 22, ..BinderHostSpec::default() };
        let mut host = BinderHost::new("web", wanted.clone());
        host.metadata.uid = Some("uid".to_owned());
        host.metadata.generation = Some(3);
        let altered = Altered::default();
        assert_eq!(altered.told(&host, &wanted), None);
        assert!(!altered.is_known(&host, &wanted));
        host.spec.desired.disks = vec![Disk { path: "/".into(), max_used: "85%".into() }];
        let told = altered.told(&host, &wanted).unwrap();
        assert_eq!(told.reason, "HostAltered");
        assert!(told.message.contains("spec.disks") && !told.message.contains("spec.address"), "{}", told.message);
        assert!(altered.is_known(&host, &wanted), "applying it again would change nothing");
        host.metadata.generation = Some(4);
        assert!(!altered.is_known(&host, &wanted), "it was changed again");
    }
}
