//! `BinderAction`: one attempt at one runbook step on one host. Created before anything is touched, finished after
//! looking again: the audit trail, and the memory that survives a crash.

use crate::text::ObjectName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One attempt at one runbook step on one host. Written by the operator only.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "fleet.binder-project.org",
    version = "v1alpha1",
    kind = "BinderAction",
    plural = "binderactions",
    shortname = "ba",
    category = "binder",
    namespaced,
    status = "BinderActionStatus",
    derive = "PartialEq",
    doc = "One attempt at one runbook step on one host: the intention, recorded before anything is touched, and how it ended.",
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.host"),
    printcolumn(name = "Step", type_ = "string", json_path = ".spec.step"),
    printcolumn(name = "Subject", type_ = "string", json_path = ".spec.subject"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".spec.attempt"),
    printcolumn(name = "Outcome", type_ = "string", json_path = ".status.outcome"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("an action's spec records an intention and cannot be changed; delete the object if its record is no longer wanted"))]
#[serde(rename_all = "camelCase")]
pub struct BinderActionSpec {
    /// The name of the BinderHost: whatever name the API has let it have.
    pub host: ObjectName,
    /// The UID that the BinderHost had.
    #[schemars(length(min = 1, max = 64))]
    pub host_uid: String,
    /// The kind of step, such as `StartKubectlProxy`.
    #[schemars(length(min = 1, max = 64))]
    pub step: String,
    /// What the step is about: a process, a port, a path.
    #[schemars(length(min = 1, max = 512))]
    pub subject: String,
    /// The step in the runbook's words.
    #[schemars(length(max = 1024))]
    pub description: String,
    /// The step with all its values, as the operator needs it to judge the effect later. No secret is ever among them.
    #[schemars(schema_with = "step_values")]
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// What the step is to cure: the kind of drift, such as `NothingListens`.
    #[schemars(length(min = 1, max = 64))]
    pub drift: String,
    /// What was seen before.
    #[schemars(length(max = 4096))]
    pub evidence: String,
    /// Which attempt this is, from 1.
    #[schemars(range(min = 1, max = 1000))]
    pub attempt: u32,
    /// The boot during which it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub boot_id: Option<String>,
    /// When it was decided, by the operator's clock, which is also the one that incidents and pauses go by. Absent in actions
    /// of earlier versions, for which the time of creation is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Time>,
    /// Since when the incident lasted in which it was decided, if there was one. A host whose object is deleted and made again
    /// goes on with it: what was tried counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident_since: Option<Time>,
    /// A random number of the operator's, by which it knows the action as its own when the API did not answer its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub nonce: Option<String>,
    /// By when its effect must be seen, else it has failed.
    pub deadline: Time,
}

impl BinderAction {
    /// When it was decided: by the operator's own clock, or, of an action that does not say, by the API server's.
    pub fn decided(&self) -> Option<k8s_openapi::jiff::Timestamp> {
        let created = self.metadata.creation_timestamp.as_ref();
        self.spec.decided_at.as_ref().or(created).map(|time| time.0)
    }
}

fn step_values(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// How an attempt went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BinderActionStatus {
    /// How it ended; absent while its effect is awaited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<ActionOutcome>,
    /// When the command was sent. Absent when it never was, or when the operator ended before it could say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Time>,
    /// What the command itself said, cleaned and shortened. Told for a person's sake; the outcome never rests on it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub said: String,
    /// When the outcome was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// What was seen after.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evidence: String,
    /// The outcome in one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ActionOutcome {
    /// The drift it was to cure was seen to be gone.
    Succeeded,
    /// Its time to take effect passed and the drift was still there.
    Failed,
    /// The host could not be looked at in time, so nobody knows.
    Unknown,
    /// It was never sent: what it was for was gone, or the host no longer to be touched.
    Abandoned,
}

impl ActionOutcome {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
            Self::Abandoned => "Abandoned",
        }
    }
}
