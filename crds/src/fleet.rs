//! `BinderFleet`: the owner's file.

use crate::desired::Desired;
use crate::host::{BinderHostSpec, never_observed};
use crate::references::{Access, FleetPower, GceHost, HostPower, MemberPower, SecretKeyRef};
use crate::text::{Address, CloudName, HostName, PublicKey, Schedule, Span, TimeZone};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Policy, defaults, profiles and hosts. A fleet renders one BinderHost for each host that it lists, and governs hosts
/// written by hand that it selects by label.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "fleet.binder-project.org",
    version = "v1alpha1",
    kind = "BinderFleet",
    plural = "binderfleets",
    shortname = "bf",
    category = "binder",
    namespaced,
    status = "BinderFleetStatus",
    derive = "PartialEq",
    doc = "A fleet of machines that are not Kubernetes nodes: policy, defaults, profiles and hosts.",
    printcolumn(name = "Hosts", type_ = "integer", json_path = ".status.hosts"),
    printcolumn(name = "Healthy", type_ = "integer", json_path = ".status.healthy"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Problem", type_ = "string", json_path = ".status.problem"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("a fleet's name has at most 63 characters, since its hosts carry it in a label: shorten metadata.name"),
)]
#[x_kube(
    validation = Rule::new("!has(self.hosts) || self.hosts.all(h, !has(h.profile) || (has(self.profiles) && h.profile in self.profiles))")
        .message("a host names a profile that spec.profiles does not have: add it there or correct hosts[].profile")
        .field_path(".hosts"),
    validation = Rule::new("has(self.apiKeySecretRef) || ((!has(self.hosts) || self.hosts.all(h, !has(h.servers) || size(h.servers) == 0)) && (!has(self.profiles) || self.profiles.all(p, !has(self.profiles[p].servers) || size(self.profiles[p].servers) == 0)))")
        .message("servers need the API key: name its Secret in spec.apiKeySecretRef, for example {name: binder-api-key, key: api-key}"),
    validation = Rule::new("has(self.apiKeySecretRef) || !has(self.access.mayWriteApiKey) || !self.access.mayWriteApiKey")
        .message("access.mayWriteApiKey is about the Secret of spec.apiKeySecretRef: name it there, or leave mayWriteApiKey out"),
    validation = Rule::new("(has(self.power) && has(self.power.gce)) || !has(self.hosts) || self.hosts.all(h, !has(h.power) || !has(h.power.gce))")
        .message("a host names a GCE instance but the fleet no project: add spec.power.gce with project and credentialsSecretRef"),
    // A list of one list is how CEL keeps what it has worked out: without it every host would be compared with lists made anew.
    // Beyond 256 hosts a rule may cost too much when it runs, and for other ports it cannot be written: there the operator says so.
    validation = Rule::new("!has(self.hosts) || size(self.hosts) > 256 || [self.hosts.map(h, !has(h.port) || h.port == 22, h.address)].all(all, all.all(one, all.exists_one(other, other == one)))")
        .message("two hosts have the same address and port: they would be one machine. Correct one hosts[].address, or describe the machine once")
        .field_path(".hosts"),
    validation = Rule::new("!has(self.hosts) || size(self.hosts) > 256 || [self.hosts.map(h, has(h.power) && has(h.power.gce), h.power.gce.zone + ' ' + h.power.gce.instance)].all(all, all.all(one, all.exists_one(other, other == one)))")
        .message("two hosts have the same instance: restarting one would restart the other. Correct one hosts[].power.gce.instance")
        .field_path(".hosts"),
)]
#[serde(rename_all = "camelCase")]
pub struct BinderFleetSpec {
    /// What may be done. A new fleet only observes.
    #[serde(default)]
    pub mode: Mode,
    /// True: neither look at any host nor act on it. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// How many hosts may be disrupted at once.
    #[serde(default)]
    pub budget: Budget,
    /// When disruptive steps are allowed; a purpose that no window is for is allowed always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub windows: Vec<Window>,
    /// How often and how patiently to remedy.
    #[serde(default)]
    pub remedies: Remedies,
    /// How often to look at a host when nothing is wrong. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// How to log in to the hosts.
    pub access: Access,
    /// The API key of Binder's servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretKeyRef>,
    /// What the hosts share for power-cycling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<FleetPower>,
    /// Descriptions that hosts refer to by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(name, size(name) <= 63)").message("a profile's name has at most 63 characters: shorten it here and in hosts[].profile"))]
    pub profiles: BTreeMap<String, Desired>,
    /// The hosts of this fleet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub hosts: Vec<Member>,
    /// Hosts written by hand that this fleet governs too, by their labels. None: only the hosts listed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['Exists', 'DoesNotExist'] ? !has(e.values) || size(e.values) == 0 : e.operator in ['In', 'NotIn'] && has(e.values) && size(e.values) > 0)").message("write each of matchExpressions as {key, operator: In or NotIn, values: [...]} or {key, operator: Exists or DoesNotExist}"))]
    pub host_selector: Option<LabelSelector>,
}

/// What may be done to hosts. Ordered from the least to the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Look, and say what would be done. Nothing on a host is changed.
    #[default]
    Observe,
    /// Do only what a person has approved.
    Approve,
    /// Do what the runbook says, within the budgets.
    Enforce,
}

impl Mode {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "Observe",
            Self::Approve => "Approve",
            Self::Enforce => "Enforce",
        }
    }
}

/// How many hosts may be in a disruptive step (a reboot, a power-cycle) at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// In the whole fleet. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 512))]
    pub max_disrupted: u32,
    /// In one failure domain. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 512))]
    pub max_disrupted_per_domain: u32,
}

fn one() -> u32 {
    1
}

impl Default for Budget {
    fn default() -> Self {
        Self { max_disrupted: 1, max_disrupted_per_domain: 1 }
    }
}

/// A time in which disruptive steps are allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// What it holds. Default: `Planned` only, so that a dead machine never waits for it.
    #[serde(rename = "for", default = "planned")]
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, a == b))").message("a purpose is named twice: write for: [Planned], [Recovery] or [Planned, Recovery]"))]
    pub holds: Vec<Purpose>,
    /// When it opens.
    pub schedule: Schedule,
    /// The time zone of the schedule. Default: Etc/UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<TimeZone>,
    /// How long it stays open.
    pub duration: Span,
}

/// Why a host is disrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Purpose {
    /// Something works and is disrupted: a new version of a module, a reboot of a machine that still serves.
    Planned,
    /// The machine is dead, or nothing that it is described to run works: there is nothing left to disrupt.
    Recovery,
}

impl Purpose {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "Planned",
            Self::Recovery => "Recovery",
        }
    }
}

fn planned() -> Vec<Purpose> {
    vec![Purpose::Planned]
}

/// How often and how patiently to remedy. The defaults suit the runbook's machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Remedies {
    /// The pause after a failed attempt; it doubles with each further one. The operator has a lower bound
    /// (`--min-retry-period`). Default: 30s.
    #[serde(default = "default_retry_period")]
    pub retry_period: Span,
    /// Attempts at each rung of a ladder before the next rung, or a person. Default: 3.
    #[serde(default = "default_attempts")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u32,
    /// How long a host must have been healthy for its attempts to be counted afresh. The operator has a lower
    /// bound (`--min-healthy-period`). Default: 15m.
    #[serde(default = "default_min_healthy_period")]
    pub min_healthy_period: Span,
    /// How long a host must have been silent before it may be taken for dead and, once a second witness agrees, be
    /// power-cycled. Longer than a boot with a check of the file systems takes; the operator has a lower bound of its
    /// own (`--min-unreachable-timeout`). Default: 5m.
    #[serde(default = "default_unreachable_timeout")]
    pub unreachable_timeout: Span,
    /// How many reboots, power-cycles and starts one machine may have within 24 hours, whatever came of them and in however
    /// many incidents. What needs another one waits for a person. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    pub per_day: u32,
}

fn default_retry_period() -> Span {
    Span::from("30s")
}

fn default_attempts() -> u32 {
    3
}

fn default_unreachable_timeout() -> Span {
    Span::from("5m")
}

fn default_min_healthy_period() -> Span {
    Span::from("15m")
}

impl Default for Remedies {
    fn default() -> Self {
        Self {
            retry_period: default_retry_period(),
            attempts: default_attempts(),
            min_healthy_period: default_min_healthy_period(),
            unreachable_timeout: default_unreachable_timeout(),
            per_day: one(),
        }
    }
}

/// One host of a fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The name of the BinderHost that is made of this.
    pub name: HostName,
    /// Where the machine's sshd answers.
    pub address: Address,
    /// The sshd's port. Default: 22.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The public host keys that the machine may prove to own; there is no trust on first use.
    #[schemars(length(min = 1, max = 4))]
    pub host_keys: Vec<PublicKey>,
    /// The failure domain, for budgets: usually the zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<CloudName>,
    /// How to log in, where it differs from the fleet's way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// How to power-cycle the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<MemberPower>,
    /// The most that may be done to this host; the fleet's mode bounds it from above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// True: neither look at this host nor act on it. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// A profile of this fleet; what is set here replaces the profile's field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub profile: Option<String>,
    /// What must be true of the machine.
    #[serde(flatten)]
    pub desired: Desired,
}

impl BinderFleetSpec {
    /// The host that a member describes, complete: the profile is laid under it, the fleet's defaults are filled in.
    /// The same spec always gives the same host.
    pub fn render(&self, member: &Member) -> BinderHostSpec {
        let profile = member.profile.as_ref().and_then(|name| self.profiles.get(name)).cloned().unwrap_or_default();
        let gce = member.power.as_ref().and_then(|power| power.gce.as_ref());
        let project = self.power.as_ref().and_then(|power| power.gce.as_ref());
        let power = gce.zip(project).map(|(instance, project)| HostPower {
            gce: Some(GceHost {
                project: project.project.clone(),
                credentials_secret_ref: project.credentials_secret_ref.clone(),
                instance: instance.instance.clone(),
                zone: instance.zone.clone(),
            }),
            may_start: member
                .power
                .as_ref()
                .and_then(|power| power.may_start)
                .unwrap_or_else(|| self.power.as_ref().is_some_and(|power| power.may_start)),
        });
        self.inherit(&BinderHostSpec {
            address: member.address.clone(),
            port: member.port.unwrap_or(22),
            host_keys: member.host_keys.clone(),
            domain: member.domain.clone(),
            access: member.access.clone(),
            api_key_secret_ref: None,
            power,
            mode: member.mode,
            suspend: member.suspend,
            interval: None,
            desired: member.desired.clone().over(&profile),
        })
    }

    /// A host with what it leaves to its fleet filled in.
    pub fn inherit(&self, host: &BinderHostSpec) -> BinderHostSpec {
        let mut host = host.clone();
        host.access.get_or_insert_with(|| self.access.clone());
        host.api_key_secret_ref = host.api_key_secret_ref.or_else(|| self.api_key_secret_ref.clone());
        host.interval = host.interval.or_else(|| self.interval.clone());
        host
    }
}

/// Counts, conditions and the worst few hosts; never a row per host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BinderFleetStatus {
    /// The generation of the spec that this status speaks of; -1 before it was first read.
    #[serde(default = "never_observed")]
    pub observed_generation: i64,
    /// One sentence: how the fleet is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// How many hosts it governs.
    #[serde(default)]
    pub hosts: u32,
    /// How many of them are as described.
    #[serde(default)]
    pub healthy: u32,
    /// The worst host's problem, and how many more hosts have one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// The worst few hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worst: Vec<HostProblem>,
    /// Conditions; `docs/conditions.md` explains each type and reason.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl Default for BinderFleetStatus {
    fn default() -> Self {
        Self {
            observed_generation: never_observed(),
            summary: String::new(),
            hosts: 0,
            healthy: 0,
            problem: String::new(),
            worst: Vec::new(),
            conditions: Vec::new(),
        }
    }
}

/// A host that is not as described.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostProblem {
    /// The host's name.
    pub host: String,
    /// Its summary.
    pub problem: String,
}
