//! References to other objects. Always by name, always in the object's own namespace: a fleet cannot be made to read a
//! Secret of somebody else's.

use crate::text::{CloudName, ObjectName, UserName};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Secret in the object's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The Secret's name.
    pub name: ObjectName,
}

/// One key of a Secret in the object's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The Secret's name.
    pub name: ObjectName,
    /// The key within the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$')").message("write the name of one entry of the Secret's data: letters, digits and . _ -, for example api-key"))]
    pub key: String,
}

/// How to log in to a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// The login's name; it needs `sudo` without a password.
    pub user: UserName,
    /// A Secret of type `kubernetes.io/ssh-auth` with the private key in `ssh-privatekey`.
    pub key_secret_ref: SecretRef,
    /// True: when a host refuses the login, the public half of the key may be added to its instance's SSH keys metadata.
    /// Default: false, and a person is asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_authorize_key: bool,
    /// True: when the Secret of `apiKeySecretRef`, or its entry, is missing, the API key that the servers' logs agree on may
    /// be put there. The chart's `apiKeySecrets` must name that Secret too. Default: false, and a person is asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_write_api_key: bool,
}

/// What a fleet's hosts share for power-cycling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetPower {
    /// Instances of Google Compute Engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gce: Option<GceProject>,
    /// True: an instance that its cloud says is off may be started. Default: false, since whoever switched it off may have
    /// meant it; a person is asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_start: bool,
}

/// A project of Google Compute Engine and how to act in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GceProject {
    /// The project's id.
    pub project: CloudName,
    /// A Secret with the service account's key.
    pub credentials_secret_ref: SecretRef,
}

/// How one of a fleet's hosts is power-cycled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberPower {
    /// An instance in the fleet's project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gce: Option<GceInstance>,
    /// Whether it may be started when its cloud says that it is off. Default: what the fleet's `power.mayStart` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_start: Option<bool>,
}

/// An instance of Google Compute Engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GceInstance {
    /// The instance's own name, mixed-case or not.
    pub instance: CloudName,
    /// Its zone.
    pub zone: CloudName,
}

/// How a host is power-cycled, complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostPower {
    /// An instance of Google Compute Engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gce: Option<GceHost>,
    /// True: it may be started when its cloud says that it is off. Default: false, and a person is asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_start: bool,
}

/// An instance of Google Compute Engine with its project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GceHost {
    /// The project's id.
    pub project: CloudName,
    /// A Secret with the service account's key.
    pub credentials_secret_ref: SecretRef,
    /// The instance's own name, mixed-case or not.
    pub instance: CloudName,
    /// Its zone.
    pub zone: CloudName,
}
