//! Records: BinderActions (the intention before, the outcome after), status only when it changed, events at transitions.

use super::actions::{self, HostName, Remembered};
use super::{Context, Error, MANAGER, list_all};
use crate::execute::Sent;
use binder_core::facets::{Disruption, Step};
use binder_core::plan::memory::{Attempt, History};
use binder_core::plan::{Finish, Run};
use binder_core::status::conditions::find;
use binder_core::status::events::Tell;
use binder_crds::{
    ActionOutcome, BinderAction, BinderActionSpec, BinderActionStatus, BinderHost, BinderHostStatus, DISRUPTS_LABEL,
    FLEET_LABEL, HOST_LABEL, HOST_UID_LABEL, conditions, text::ObjectName,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Time};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// The most of a host's words that is kept in an action.
const EVIDENCE: usize = 2000;
/// The longest description that an action's schema takes, in characters.
const DESCRIPTION: usize = 1024;
/// The longest note of an event, in bytes (`events.k8s.io/v1`).
const NOTE: usize = 1024;
/// The longest action of an event, in bytes.
const ACTION: usize = 128;

/// As many records of hosts that are gone are written or deleted at one time: some per second, for hours if need be.
const TIDIED_AT_ONCE: usize = 20;

/// How long what was done on a host is kept, whatever else is asked for: as long as steps that disrupt a host are counted by
/// the day.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Which records of a host have to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keep {
    /// How long finished ones are kept at least.
    age: SignedDuration,
    /// Since when attempts count: since the incident began, or a task was due.
    since: Option<Timestamp>,
    now: Timestamp,
}

impl Keep {
    /// From what the flags say and what the host's status tells: an incident is over once the host has been healthy for
    /// `min_healthy_period`.
    pub(super) fn of(age: Duration, status: &BinderHostStatus, min_healthy_period: Duration, now: Timestamp) -> Self {
        let refill = SignedDuration::try_from(min_healthy_period).unwrap_or(DAY);
        let healthy_for = find(status, conditions::HEALTHY)
            .filter(|condition| condition.status == "True")
            .map(|condition| now.duration_since(condition.last_transition_time.0));
        let incident = status.incident_since.as_ref().map(|since| since.0);
        let incident = incident.filter(|_| healthy_for.is_none_or(|healthy_for| healthy_for < refill));
        let due = status.schedules.iter().map(|task| task.next_run.0).filter(|due| *due <= now);
        Self {
            age: SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX),
            since: due.chain(incident).min(),
            now,
        }
    }

    /// Whether a record may be let go of. What still counts as an attempt stays, however old it is: else the operator would
    /// try again what has failed, as often as records get old.
    fn lets_go_of(&self, past: &Attempt) -> bool {
        let Some(finished) = past.finished_at else { return false };
        let counts = self.since.is_some_and(|since| past.created >= since);
        let by_the_day =
            past.disruption() == Disruption::Host && self.now.duration_since(past.created.max(finished)) <= DAY;
        !counts && !by_the_day && self.now.duration_since(finished) > self.age
    }
}

/// What was tried on a host, as far as it is known here; lets go of what is older than it must be. What the operator did not
/// write is no memory: it is said, once, and left alone.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn memory(context: &Context, host: &BinderHost, uid: &str, keep: Keep) -> Result<History, Error> {
    let (namespace, name) = (host.namespace().unwrap_or_default(), host.name_any());
    let mut memory = History::default();
    for recorded in context.actions.of(&namespace, &name) {
        if let Some(why) = recorded.stranger {
            say_stranger(context, host, uid, &recorded.past, why).await;
        } else if keep.lets_go_of(&recorded.past) {
            delete(context, &namespace, &name, &recorded.past).await?;
        } else {
            memory.actions.push(recorded.past.clone());
        }
    }
    Ok(memory)
}

/// Whether what was tried on a host is, in the API itself, still what was remembered when something was decided.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn still_remembered(
    context: &Context,
    host: &BinderHost,
    remembered: Remembered,
) -> Result<bool, Error> {
    let (namespace, name) = (host.namespace().unwrap_or_default(), host.name_any());
    actions::refresh(context, &namespace, &name).await?;
    let ours = context.actions.of(&namespace, &name).into_iter().filter(|recorded| recorded.stranger.is_none());
    let now = History { actions: ours.map(|recorded| recorded.past.clone()).collect() };
    Ok(Remembered::of(&now) == remembered)
}

/// Since when the incident lasts that a host's earlier object has left behind, for an object of the same name that was never
/// looked at: a host that is deleted and made again does not get its attempts anew. It goes on unless what was tried last
/// helped, longer than `min_healthy_period` ago. A host that is healthy ends it as any other, after `min_healthy_period`.
pub(super) fn inherited(
    context: &Context,
    namespace: &str,
    host: &str,
    min_healthy_period: Duration,
    now: Timestamp,
) -> Option<Timestamp> {
    let all = context.actions.of(namespace, host);
    let last = all.iter().rfind(|recorded| recorded.stranger.is_none() && recorded.incident.is_some())?;
    let refill = SignedDuration::try_from(min_healthy_period).unwrap_or(DAY);
    let over = last.past.outcome == Some(ActionOutcome::Succeeded)
        && last.past.finished_at.is_some_and(|finished| now.duration_since(finished) >= refill);
    last.incident.filter(|_| !over)
}

/// Looks after the records of hosts that are described no more: what is open there is nobody's to judge once its time is up,
/// and what is old goes. A part of them at a time; what fails is tried at the next time.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn tidy(context: &Context, now: Timestamp) -> Result<(), Error> {
    let is_there = |place: &HostName| context.hosts.get(&ObjectRef::new(&place.1).within(&place.0)).is_some();
    let age = SignedDuration::try_from(context.config.keep_actions()).unwrap_or(SignedDuration::MAX);
    let keep = Keep { age, since: None, now };
    let mut left = TIDIED_AT_ONCE;
    for place in context.actions.hosts().into_iter().filter(|place| !is_there(place)) {
        for recorded in context.actions.of(&place.0, &place.1) {
            let past = &recorded.past;
            let open = past.outcome.is_none() && now >= past.deadline;
            if recorded.stranger.is_some() || !(open || keep.lets_go_of(past)) {
                continue;
            }
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            if open {
                let status = BinderActionStatus {
                    outcome: Some(ActionOutcome::Unknown),
                    finished_at: Some(Time(now)),
                    message: "its host was described no more before its effect could be seen".to_owned(),
                    ..BinderActionStatus::default()
                };
                context.metrics.finished(&past.kind, ActionOutcome::Unknown.as_str());
                update(context, &place.0, &past.name, &status).await?;
            } else {
                delete(context, &place.0, &place.1, past).await?;
            }
        }
    }
    Ok(())
}

/// Deletes an action, unless another one has its name by now. One that is gone is no error.
///
/// # Errors
/// [`Error`] when the API fails.
async fn delete(context: &Context, namespace: &str, host: &str, past: &Attempt) -> Result<(), Error> {
    let uid = (!past.uid.is_empty()).then(|| past.uid.clone());
    let parameters =
        DeleteParams { preconditions: Some(Preconditions { uid, resource_version: None }), ..DeleteParams::default() };
    context.metrics.wrote("BinderAction");
    match context.api::<BinderAction>(namespace).delete(&past.name, &parameters).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
        Err(error) => return Err(Error::api("delete", format!("BinderAction {}", past.name))(error)),
    }
    context.actions.gone(namespace, host, past);
    Ok(())
}

/// Whether an action is one of the operator's own: by the field manager of its spec. Somebody who may write BinderActions can
/// imitate that; that he may not is the business of the chart's ValidatingAdmissionPolicy. This finds what was written by
/// mistake or by a tool, where there is no such policy.
///
/// # Errors
/// In words, what is not as the operator writes it.
pub(super) fn written_by_us(action: &BinderAction) -> Result<(), &'static str> {
    let manages = |entry: &ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(MANAGER)
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
            && entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:spec").is_some())
    };
    if !action.managed_fields().iter().any(manages) {
        return Err("this operator did not write its spec");
    }
    Ok(())
}

/// Says once that an action is not ours.
async fn say_stranger(context: &Context, host: &BinderHost, uid: &str, action: &Attempt, why: &str) {
    let first = context.known().get_mut(uid).is_some_and(|known| known.strangers.insert(action.uid.clone()));
    if !first {
        return;
    }
    tracing::warn!(action = action.name, why, "a BinderAction that the operator did not write is ignored");
    let note = format!("the BinderAction {} is ignored: {why}; delete it if it is not wanted", action.name);
    let event = Tell { warning: true, reason: "ActionNotOurs".to_owned(), action: "Look".to_owned(), note };
    tell(context, host, vec![event]).await;
}

pub(super) fn past(action: &BinderAction) -> Attempt {
    let spec = &action.spec;
    let status = action.status.clone().unwrap_or_default();
    Attempt {
        name: action.name_any(),
        uid: action.uid().unwrap_or_default(),
        step: step(action),
        kind: spec.step.clone(),
        subject: spec.subject.clone(),
        words: spec.description.clone(),
        attempt: spec.attempt,
        // Without either it would be of an API server that is none.
        created: action.decided().unwrap_or(spec.deadline.0),
        deadline: spec.deadline.0,
        sent_at: status.sent_at.map(|time| time.0),
        said: status.said,
        outcome: status.outcome,
        finished_at: status.finished_at.map(|time| time.0),
        message: status.message,
    }
}

/// The step of an action, if this version knows it and each of its values follows its rule: what came through the API is
/// checked like a spec before anything rests on it.
fn step(action: &BinderAction) -> Option<Step> {
    let step: Step = serde_json::from_value(serde_json::Value::Object(action.spec.parameters.clone())).ok()?;
    (step.kind() == action.spec.step && step.checked().is_ok()).then_some(step)
}

/// When an intention was formed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decided {
    /// By the operator's clock.
    pub(super) at: Timestamp,
    /// Since when the host's incident lasts, if there is one.
    pub(super) incident: Option<Timestamp>,
}

/// Records the intention. It belongs to no object, so that the trail outlives the host's. `None`: an action of that name is there already and not this one, so somebody else acts or acted, and
/// what is remembered must be read again.
///
/// An answer that did not come, or came badly, says nothing of what the API has done; so the action is looked for, and known
/// by its nonce.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn intend(
    context: &Context,
    host: &BinderHost,
    fleet: Option<&str>,
    run: &Run,
    boot_id: Option<&str>,
    decided: Decided,
) -> Result<Option<Attempt>, Error> {
    let name = run.permit.action().to_owned();
    let uid = run.permit.host().to_owned();
    let what = format!("BinderAction {name}");
    let parameters = parameters(&run.step, &what)?;
    let mut labels = std::collections::BTreeMap::from([
        (HOST_LABEL.to_owned(), host.name_any()),
        (HOST_UID_LABEL.to_owned(), uid.clone()),
    ]);
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
            ..ObjectMeta::default()
        },
        spec: BinderActionSpec {
            host: ObjectName(host.name_any()),
            host_uid: uid,
            step: run.step.kind().to_owned(),
            subject: run.drift.subject.to_string(),
            description: run.step.words().chars().take(DESCRIPTION).collect(),
            parameters,
            drift: run.drift.kind.as_str().to_owned(),
            evidence: run.drift.evidence.chars().take(EVIDENCE).collect(),
            attempt: run.attempt,
            boot_id: boot_id.map(str::to_owned),
            decided_at: Some(Time(decided.at)),
            incident_since: decided.incident.map(Time),
            nonce: Some(format!("{:032x}", context.dice.nonce())),
            deadline: Time(run.deadline),
        },
        status: None,
    };
    let api = context.api::<BinderAction>(&host.namespace().unwrap_or_default());
    context.metrics.wrote("BinderAction");
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let failed = match api.create(&parameters, &action).await {
        Ok(created) => {
            context.actions.wrote(&created);
            return Ok(Some(past(&created)));
        }
        Err(error) => error,
    };
    let is_there = matches!(&failed, kube::Error::Api(status) if status.is_already_exists());
    if !is_there && !may_be_there(&failed) {
        return Err(Error::api("create", what)(failed));
    }
    let named = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = list_all(&api, &named, "BinderActions").await?.into_iter().next();
    found.iter().for_each(|found| context.actions.wrote(found));
    match found {
        Some(found) if found.spec.nonce == action.spec.nonce => {
            tracing::info!(
                action = name,
                error = super::chain(&failed),
                "recorded, although the API answered with an error"
            );
            Ok(Some(past(&found)))
        }
        Some(_) => Ok(None),
        None => Err(Error::api("create", what)(failed)),
    }
}

/// Whether what was to be created may be there although the call failed: no answer came, or one of a server that did not get
/// to its end.
fn may_be_there(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500 || status.code == 429 || status.code == 408,
        _ => true,
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

/// Merges into an action's status. An action that is gone (a person has deleted it) is no error.
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
        Ok(updated) => {
            context.actions.wrote(&updated);
            Ok(())
        }
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
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        // A host of that name was made anew, or somebody wrote at the same moment. Nothing was written, and nothing may be
        // remembered as if it were.
        Err(kube::Error::Api(status)) if status.is_conflict() => Err(Error::Conflict(format!("BinderHost {name}"))),
        Err(error) => Err(Error::api("write the status of", format!("BinderHost {name}"))(error)),
    }
}

/// Tells events of a host. That one could not be told is logged and no more: status says the same.
pub(super) async fn tell(context: &Context, host: &BinderHost, events: Vec<Tell>) {
    for tell in events {
        let event = Event {
            type_: if tell.warning { EventType::Warning } else { EventType::Normal },
            reason: tell.reason,
            note: Some(cut(&tell.note, NOTE).to_owned()),
            action: short_action(&tell.action),
            secondary: None,
        };
        context.metrics.wrote("Event");
        if let Err(error) = context.recorder.publish(&event, &host.object_ref(&())).await {
            tracing::warn!(error = super::chain(&error), "an event could not be told");
        }
    }
}

/// As much of a text as fits into so many bytes, in whole characters.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// An event's action in the length that the API takes. What is cut off becomes a hash: events of the same action are counted
/// as one.
fn short_action(action: &str) -> String {
    if action.len() <= ACTION {
        return action.to_owned();
    }
    let hash: String = Sha256::digest(action.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{} {hash}", cut(action, ACTION - hash.len() - 1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The most characters that the API takes for a field of a BinderAction's spec.
    fn most(field: &str) -> usize {
        let crd = serde_json::to_value(<BinderAction as kube::CustomResourceExt>::crd()).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        usize::try_from(spec[field]["maxLength"].as_u64().unwrap()).unwrap()
    }

    #[test]
    fn whatever_may_be_described_can_be_recorded() {
        use binder_core::facets::{DriftKind, modules};
        use binder_crds::desired::{Disk, Module};
        use binder_crds::text::Checked;
        // A host's object may be named as any object, and its action is named after it.
        for host in ["web.example".to_owned(), "a".repeat(63)] {
            assert!(ObjectName(host).checked().is_ok());
        }
        assert!(DriftKind::ALL.iter().all(|kind| kind.as_str().len() <= most("drift")));
        let disk = Disk { path: format!("/{}", "x".repeat(254)).as_str().into(), max_used: "85%".into() };
        assert!(disk.path.checked().is_ok());
        let module = Module {
            name: "m".repeat(100).as_str().into(),
            folder: Some(disk.path.clone()),
            ..serde_json::from_value(json!({"name": "m", "version": "1.0.0"})).unwrap()
        };
        assert!(module.name.checked().is_ok());
        for subject in [format!("disk {}", disk.path), modules::subject(&module).to_string(), "p".repeat(64)] {
            assert!(subject.chars().count() <= most("subject"), "{subject}");
        }
        assert!(DESCRIPTION <= most("description") && EVIDENCE <= most("evidence"));
    }

    /// An action as the API gives it back.
    fn action(spec: serde_json::Value) -> BinderAction {
        let mut whole = json!({
            "host": "web", "hostUid": "uid", "step": "Reboot", "subject": "web", "description": "", "drift": "ProcessMissing",
            "parameters": {"step": "Reboot", "bootId": "b"}, "evidence": "", "attempt": 1, "deadline": "2026-11-01T00:05:00Z",
        });
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        serde_json::from_value(json!({
            "apiVersion": "fleet.binder-project.org/v1alpha1", "kind": "BinderAction",
            "metadata": {
                "name": "web-1", "namespace": "binder", "uid": "a", "creationTimestamp": "2026-11-01T03:00:00Z",
                "labels": {HOST_UID_LABEL: "uid"},
                "managedFields": [{"manager": MANAGER, "operation": "Update", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": whole,
        }))
        .unwrap()
    }

    fn ended_at(action: &BinderAction, finished: &str) -> Attempt {
        Attempt { outcome: Some(ActionOutcome::Failed), finished_at: Some(at(finished)), ..past(action) }
    }

    fn status(incident: Option<&str>, healthy_since: Option<&str>) -> BinderHostStatus {
        let mut list = binder_core::status::conditions::Conditions::new(
            &[],
            1,
            at(healthy_since.unwrap_or("2026-11-01T00:00:00Z")),
        );
        let is = healthy_since
            .map_or(binder_core::status::conditions::Is::False, |_| binder_core::status::conditions::Is::True);
        list.set(conditions::HEALTHY, is, "Any", "");
        BinderHostStatus {
            incident_since: incident.map(|since| Time(at(since))),
            conditions: list.list(),
            ..BinderHostStatus::default()
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);
    const REFILL: Duration = Duration::from_secs(900);

    #[test]
    fn what_was_tried_in_an_incident_stays_however_old_it_is() {
        let start = json!({"step": "StartProcess", "decidedAt": "2026-11-01T00:00:00Z",
            "parameters": {"step": "StartProcess", "component": "web", "start": {"server": {"name": "web"}}}});
        let old = ended_at(&action(start), "2026-11-01T00:01:00Z");
        let now = at("2026-11-20T00:00:00Z");
        let keep = |status: &BinderHostStatus| Keep::of(HOUR, status, REFILL, now);
        assert!(
            !keep(&status(Some("2026-11-01T00:00:00Z"), None)).lets_go_of(&old),
            "nobody has mended it for 19 days"
        );
        assert!(keep(&status(Some("2026-11-10T00:00:00Z"), None)).lets_go_of(&old), "of an earlier incident");
        assert!(
            keep(&status(Some("2026-11-01T00:00:00Z"), Some("2026-11-01T01:00:00Z"))).lets_go_of(&old),
            "the incident is over"
        );
        let open = Attempt { outcome: None, finished_at: None, ..old.clone() };
        assert!(!keep(&status(None, None)).lets_go_of(&open), "nobody knows yet how it ended");
        let mut task = status(None, Some("2026-11-01T00:00:00Z"));
        task.schedules = vec![binder_crds::host::ScheduleStatus {
            name: "backup".to_owned(),
            schedule: String::new(),
            time_zone: String::new(),
            next_run: Time(at("2026-10-31T00:00:00Z")),
            last_run: None,
            last_outcome: String::new(),
        }];
        assert!(!keep(&task).lets_go_of(&old), "a task that is still due has its attempts");
    }

    #[test]
    fn what_disrupted_a_host_is_remembered_for_a_day() {
        let reboot = ended_at(&action(json!({"decidedAt": "2026-11-01T00:00:00Z"})), "2026-11-01T00:05:00Z");
        let keep = |now: &str| Keep::of(Duration::ZERO, &status(None, Some("2026-11-01T00:06:00Z")), REFILL, at(now));
        assert!(!keep("2026-11-01T23:00:00Z").lets_go_of(&reboot));
        assert!(keep("2026-11-03T00:00:00Z").lets_go_of(&reboot));
    }

    #[test]
    fn an_attempt_counts_from_the_operators_own_time() {
        let ahead = action(json!({"decidedAt": "2026-11-01T03:10:00Z"}));
        assert_eq!(past(&ahead).created, at("2026-11-01T03:10:00Z"), "and not the API server's, which is behind");
        assert_eq!(past(&action(json!({}))).created, at("2026-11-01T03:00:00Z"), "of a version that did not say it");
    }

    #[test]
    fn an_action_that_the_operator_did_not_write_is_none_of_its_memory() {
        let ours = action(json!({}));
        assert_eq!(written_by_us(&ours), Ok(()));
        let mut by_hand = ours.clone();
        by_hand.metadata.managed_fields.as_mut().unwrap()[0].manager = Some("kubectl-create".to_owned());
        assert!(written_by_us(&by_hand).is_err());
    }

    #[test]
    fn values_of_a_recorded_step_are_checked_like_a_spec() {
        let module = |from: &str, place: &str, kind: &str| {
            past(&action(json!({"step": kind, "parameters": {"step": "InstallModule", "change": {
                "module": "binder-web", "place": place, "global": false, "from": from, "to": "1.1.18", "scripts": true}}})))
            .step
        };
        assert!(module("1.1.17", "/home/andrew", "InstallModule").is_some());
        for (from, place, kind) in [
            ("https://evil.example/x.tgz", "/home/andrew", "InstallModule"),
            ("1.1.17", "../../etc", "InstallModule"),
            ("1.1.17", "/home/andrew", "Reboot"),
        ] {
            assert_eq!(module(from, place, kind), None, "{from} {place} {kind}");
        }
    }

    #[test]
    fn what_the_api_answered_badly_may_be_there() {
        let said = |code: u16| {
            may_be_there(&kube::Error::Api(Box::new(kube::core::Status { code, ..kube::core::Status::default() })))
        };
        assert!(said(504) && said(500) && said(429));
        assert!(!said(403) && !said(422) && !said(404));
    }

    #[test]
    fn an_event_fits_whatever_it_tells_of() {
        assert_eq!(cut("é", 1), "");
        assert_eq!(cut(&"é".repeat(1000), NOTE).len(), NOTE);
        let path = |end: &str| short_action(&format!("DeleteFiles disk /{}{end}", "x".repeat(250)));
        assert_eq!(path("a").len(), ACTION);
        assert_ne!(path("a"), path("b"), "two are not counted as one");
        assert_eq!(short_action("Reboot web"), "Reboot web");
    }
}
