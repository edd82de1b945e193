//! `BinderHost`: one machine.

use crate::desired::Desired;
use crate::fleet::Mode;
use crate::references::{Access, HostPower, SecretKeyRef};
use crate::text::{Address, CloudName, PublicKey, Span};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One machine that is not a Kubernetes node: how to reach it, who it must prove to be, what must be true of it. Usually
/// rendered by a BinderFleet; may be written by hand.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "fleet.binder-project.org",
    version = "v1alpha1",
    kind = "BinderHost",
    plural = "binderhosts",
    shortname = "bh",
    category = "binder",
    namespaced,
    status = "BinderHostStatus",
    derive = "PartialEq",
    doc = "One machine that is not a Kubernetes node: how to reach it, who it must prove to be, what must be true of it.",
    printcolumn(name = "Healthy", type_ = "string", json_path = r#".status.conditions[?(@.type=="Healthy")].status"#),
    printcolumn(name = "Drift", type_ = "string", json_path = ".status.drift"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.next"),
    printcolumn(name = "Waits for", type_ = "string", json_path = ".status.waitsFor"),
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address", priority = 1),
    printcolumn(name = "Summary", type_ = "string", json_path = ".status.summary", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("a host's name has at most 63 characters: shorten metadata.name; the machine's own name belongs in power.gce.instance"),
)]
#[serde(rename_all = "camelCase")]
pub struct BinderHostSpec {
    /// Where the machine's sshd answers.
    pub address: Address,
    /// The sshd's port. Default: 22.
    #[serde(default = "default_ssh_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The public host keys that the machine may prove to own; there is no trust on first use.
    #[schemars(length(min = 1, max = 4))]
    pub host_keys: Vec<PublicKey>,
    /// The failure domain, for budgets: usually the zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<CloudName>,
    /// How to log in. A host that a fleet governs may leave it to the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// The API key of Binder's servers. A host that a fleet governs may leave it to the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretKeyRef>,
    /// How to power-cycle the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<HostPower>,
    /// What may be done to this host. The fleet's mode bounds it from above; a host without a fleet is only observed
    /// unless this says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// True: neither look at the host nor act on it. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// How often to look when nothing is wrong. Default: the fleet's, else 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// What must be true of the machine.
    #[serde(flatten)]
    pub desired: Desired,
}

fn default_ssh_port() -> u16 {
    22
}

/// What was seen of a machine, what differs, what happens next and what it waits for. Written only when it changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BinderHostStatus {
    /// The generation of the spec that this status speaks of; -1 before the first look.
    #[serde(default = "never_observed")]
    pub observed_generation: i64,
    /// One sentence: how the machine is, and why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// The most important difference, and how many more there are.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub drift: String,
    /// The next step, with its attempt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// What the next step waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waits_for: String,
    /// Conditions; `docs/conditions.md` explains each type and reason.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The steps to come, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<PlannedStep>,
    /// The last attempts, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_actions: Vec<PastAction>,
    /// The boot that was last seen, from `/proc/sys/kernel/random/boot_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// What a restart of the machine may come of, and since when it has been so for this reason. Kept here so that the time
    /// survives a restart of the operator; another reason begins anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift_since: Vec<DriftSince>,
    /// What has run here as it is described now. The machine is restarted only for the sake of something in this list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub has_run: Vec<HasRun>,
    /// When the present incident began: attempts are counted from here, and afresh once the host has been healthy for a
    /// while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident_since: Option<Time>,
    /// Where this machine was logged in to, with these host keys: before that it is never power-cycled. Gone when address,
    /// port or host keys change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_at: Option<ProvenAt>,
    /// What is done on a schedule here: when it comes next and when it was done last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub schedules: Vec<ScheduleStatus>,
    /// What the database of this machine holds and when it was backed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseStatus>,
    /// The login that the machine has refused: `USER@ADDRESS:PORT` and the version of the key's Secret (UID and
    /// resourceVersion), and a word more where the key itself may be right (`rsa-sha2`, `further-proof`). It is not tried
    /// again, also after a restart of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_login: Option<String>,
}

impl Default for BinderHostStatus {
    fn default() -> Self {
        Self {
            observed_generation: never_observed(),
            summary: String::new(),
            drift: String::new(),
            next: String::new(),
            waits_for: String::new(),
            conditions: Vec::new(),
            plan: Vec::new(),
            last_actions: Vec::new(),
            boot_id: None,
            drift_since: Vec::new(),
            has_run: Vec::new(),
            incident_since: None,
            proven_at: None,
            schedules: Vec::new(),
            database: None,
            refused_login: None,
        }
    }
}

pub(crate) fn never_observed() -> i64 {
    -1
}

/// An endpoint that was logged in to, having proven to own one of the described host keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProvenAt {
    /// The address, as it was described.
    pub address: String,
    /// The port of its sshd.
    pub port: u16,
    /// A hash of the host keys that were described.
    pub host_keys: String,
    /// Other hosts of the fleet that this endpoint has greeted, by name: only they can say that it has fallen silent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub greets: Vec<String>,
}

/// Something that is done on a schedule. Changes only when a run is done or the schedule is another one; it is also what
/// the operator remembers a run by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleStatus {
    /// What is done: `docker-reclaim`.
    pub name: String,
    /// The schedule that `nextRun` was worked out from.
    pub schedule: String,
    /// Its time zone.
    pub time_zone: String,
    /// When it is due next. In the past: it is due now, or was missed and will be made up once.
    pub next_run: Time,
    /// When the last run came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<Time>,
    /// How the last run ended: `Done`, or `Failed` when its attempts were used up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_outcome: String,
}

/// What Binder's database holds, in short: totals, and the builds that have been running for longest. Changes when a build
/// begins or ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// How many builds there are, of any status.
    pub builds: u64,
    /// How many templates there are.
    pub templates: u64,
    /// How many builds are running, as far as they were counted.
    pub running_builds: u32,
    /// The builds that have been running for longest, five at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub longest_running: Vec<RunningBuild>,
    /// The last good backup; its age is what has passed since `at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<LastBackup>,
}

/// A build that is running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunningBuild {
    /// Its name.
    pub name: String,
    /// When it was started, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// A backup that was verified after it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastBackup {
    /// Its folder's name, for `binder-operator restore`.
    pub name: String,
    /// When it was begun.
    pub at: Time,
    /// How many documents it holds.
    pub documents: u64,
    /// How many bytes it takes.
    pub bytes: u64,
    /// How many good ones there are.
    pub kept: u32,
}

/// Since when something has been wrong for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriftSince {
    /// What it is about.
    pub subject: String,
    /// The reason.
    pub reason: String,
    /// When it began.
    pub since: Time,
}

/// Something that was seen to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HasRun {
    /// What.
    pub name: String,
    /// A hash of how it was described then: what is described otherwise has yet to run.
    pub description: String,
}

/// A step to come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedStep {
    /// The step, in the runbook's words.
    pub step: String,
    /// Which attempt this would be, of how many.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub attempt: String,
    /// What it waits for; empty when nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waits_for: String,
}

/// An attempt that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastAction {
    /// The BinderAction's name: `kubectl describe ba NAME` tells all of it.
    pub name: String,
    /// The step.
    pub step: String,
    /// How it ended.
    pub outcome: String,
    /// Why, in a few words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
