//! Records: BinderActions (the intention before, the outcome after), status only when it changed, events at transitions.

use super::{Context, Error, MANAGER, list_all};
use crate::execute::Sent;
use crate::facets::Step;
use crate::plan::memory::{Memory, Past};
use crate::plan::{Finish, Run};
use crate::status::events::Tell;
use binder_crds::{
    ActionOutcome, BinderAction, BinderActionSpec, BinderActionStatus, BinderHost, BinderHostStatus, DISRUPTS_LABEL,
    FLEET_LABEL, HOST_UID_LABEL, text::HostName,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};
use serde_json::json;

/// The most of a host's words that is kept in an action.
const EVIDENCE: usize = 2000;

/// Reads what was tried on a host from the API itself, and lets go of what is older than it must be.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn memory(context: &Context, namespace: &str, uid: &str) -> Result<Memory, Error> {
    let api = context.api::<BinderAction>(namespace);
    let parameters = ListParams::default().labels(&format!("{HOST_UID_LABEL}={uid}"));
    let actions = list_all(&api, &parameters, "BinderActions").await?;
    let keep = SignedDuration::try_from(context.config.keep_actions()).unwrap_or(SignedDuration::MAX);
    let now = Timestamp::now();
    let mut memory = Memory::default();
    for action in actions {
        let past = past(&action);
        let old = past.finished_at.is_some_and(|finished| now.duration_since(finished) > keep);
        if old {
            let parameters = DeleteParams {
                preconditions: Some(Preconditions { uid: action.uid(), resource_version: None }),
                ..DeleteParams::default()
            };
            context.metrics.wrote("BinderAction");
            match api.delete(&past.name, &parameters).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => return Err(Error::api("delete", format!("BinderAction {}", past.name))(error)),
            }
        } else {
            memory.actions.push(past);
        }
    }
    memory.actions.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.attempt.cmp(&b.attempt)));
    Ok(memory)
}

pub(super) fn past(action: &BinderAction) -> Past {
    let spec = &action.spec;
    let status = action.status.clone().unwrap_or_default();
    let created = action.creation_timestamp().map(|time| time.0).unwrap_or(spec.deadline.0);
    Past {
        name: action.name_any(),
        uid: action.uid().unwrap_or_default(),
        step: serde_json::from_value(serde_json::Value::Object(spec.parameters.clone())).ok(),
        kind: spec.step.clone(),
        subject: spec.subject.clone(),
        words: spec.description.clone(),
        attempt: spec.attempt,
        created,
        deadline: spec.deadline.0,
        sent_at: status.sent_at.map(|time| time.0),
        said: status.said,
        outcome: status.outcome,
        finished_at: status.finished_at.map(|time| time.0),
        message: status.message,
    }
}

/// Records the intention. `None`: an action of that name is there already, so somebody else acts or acted, and what is
/// remembered must be read again.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn intend(
    context: &Context,
    host: &BinderHost,
    fleet: Option<&str>,
    run: &Run,
    boot_id: Option<&str>,
) -> Result<Option<Past>, Error> {
    let name = run.permit.action().to_owned();
    let uid = run.permit.host().to_owned();
    let what = format!("BinderAction {name}");
    let parameters = parameters(&run.step, &what)?;
    let mut labels = std::collections::BTreeMap::from([(HOST_UID_LABEL.to_owned(), uid.clone())]);
    if let Some(fleet) = fleet {
        labels.insert(FLEET_LABEL.to_owned(), fleet.to_owned());
    }
    if run.step.takes_turns() {
        labels.insert(DISRUPTS_LABEL.to_owned(), "host".to_owned());
    }
    let action = BinderAction {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: host.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![OwnerReference {
                api_version: BinderHost::api_version(&()).into_owned(),
                kind: BinderHost::kind(&()).into_owned(),
                name: host.name_any(),
                uid: uid.clone(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: BinderActionSpec {
            host: HostName(host.name_any()),
            host_uid: uid,
            step: run.step.kind().to_owned(),
            subject: run.drift.subject.clone(),
            description: run.step.words(),
            parameters,
            drift: run.drift.kind.as_str().to_owned(),
            evidence: run.drift.evidence.chars().take(EVIDENCE).collect(),
            attempt: run.attempt,
            boot_id: boot_id.map(str::to_owned),
            deadline: Time(run.deadline),
        },
        status: None,
    };
    let api = context.api::<BinderAction>(&host.namespace().unwrap_or_default());
    context.metrics.wrote("BinderAction");
    match api.create(&PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }, &action).await {
        Ok(created) => Ok(Some(past(&created))),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
        Err(error) => Err(Error::api("create", what)(error)),
    }
}

fn parameters(step: &Step, what: &str) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
    let failed = |source| Error::Json { what: what.to_owned(), source };
    match serde_json::to_value(step).map_err(failed)? {
        serde_json::Value::Object(map) => Ok(map),
        other => serde_json::from_value(other).map_err(failed),
    }
}

/// What became of carrying a step out, as status.
pub(super) fn sent(sent: Sent, at: Timestamp) -> BinderActionStatus {
    if sent.may_have_run {
        BinderActionStatus { sent_at: Some(Time(at)), said: sent.said, ..BinderActionStatus::default() }
    } else {
        abandoned(&sent.said, at)
    }
}

/// The status of an action that was never sent.
fn abandoned(why: &str, at: Timestamp) -> BinderActionStatus {
    BinderActionStatus {
        outcome: Some(ActionOutcome::Abandoned),
        finished_at: Some(Time(at)),
        message: format!("never sent: {why}"),
        ..BinderActionStatus::default()
    }
}

/// The end of an attempt as a patch of its status.
pub(super) fn ended(finish: &Finish, at: Timestamp) -> BinderActionStatus {
    BinderActionStatus {
        outcome: Some(finish.outcome),
        finished_at: Some(Time(at)),
        evidence: finish.evidence.chars().take(EVIDENCE).collect(),
        message: finish.message.chars().take(EVIDENCE).collect(),
        ..BinderActionStatus::default()
    }
}

/// Merges into an action's status. An action that is gone (its host was deleted) is no error.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn update(
    context: &Context,
    namespace: &str,
    action: &str,
    status: &BinderActionStatus,
) -> Result<(), Error> {
    let api = context.api::<BinderAction>(namespace);
    context.metrics.wrote("BinderAction");
    let patch = Patch::Merge(json!({ "status": status }));
    match api.patch_status(action, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(Error::api("update", format!("BinderAction {action}"))(error)),
    }
}

/// Writes a host's status by server-side apply. A host that is gone is no error.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn status(context: &Context, host: &BinderHost, status: &BinderHostStatus) -> Result<(), Error> {
    let name = host.name_any();
    let api = context.api::<BinderHost>(&host.namespace().unwrap_or_default());
    let patch = Patch::Apply(json!({
        "apiVersion": BinderHost::api_version(&()),
        "kind": BinderHost::kind(&()),
        // The UID keeps a status that was worked out for one host from landing on a later one of the same name.
        "metadata": { "name": name, "uid": host.uid() },
        "status": status,
    }));
    context.metrics.wrote("BinderHost");
    match api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(error) => Err(Error::api("write the status of", format!("BinderHost {name}"))(error)),
    }
}

/// Tells events of a host. That one could not be told is logged and no more: status says the same.
pub(super) async fn tell(context: &Context, host: &BinderHost, events: Vec<Tell>) {
    for tell in events {
        let event = Event {
            type_: if tell.warning { EventType::Warning } else { EventType::Normal },
            reason: tell.reason,
            note: Some(tell.note.chars().take(1000).collect()),
            action: tell.action,
            secondary: None,
        };
        context.metrics.wrote("Event");
        if let Err(error) = context.recorder.publish(&event, &host.object_ref(&())).await {
            tracing::warn!(error = super::chain(&error), "an event could not be told");
        }
    }
}
