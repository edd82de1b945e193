//! The API of binder-operator, group `fleet.binder-project.org/v1alpha1`.
//!
//! Three kinds, all namespaced:
//!
//! - [`BinderFleet`] (`bf`), the owner's file: policy, defaults, profiles and hosts;
//! - [`BinderHost`] (`bh`), one machine: how to reach it, who it must prove to be, what must be true of it;
//! - [`BinderAction`] (`ba`), one attempt at one runbook step on one host: intention, evidence and outcome.
//!
//! This crate holds types, their CEL rules and the generated YAML (`crds/yaml`). It must not know how a host is looked
//! at, what is decided about it or how anything is done.

#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats each struct inside a private block, which this lint takes for the struct"
)]

pub mod action;
pub mod conditions;
pub mod desired;
pub mod fleet;
pub mod host;
pub mod references;
pub mod schema;
pub mod text;

pub use action::{ActionOutcome, BinderAction, BinderActionSpec, BinderActionStatus};
pub use desired::Desired;
pub use fleet::{BinderFleet, BinderFleetSpec, BinderFleetStatus, Mode};
pub use host::{BinderHost, BinderHostSpec, BinderHostStatus};

/// The API group of every kind here.
pub const GROUP: &str = "fleet.binder-project.org";

/// The label that a fleet puts on the hosts it renders, and that hosts put on their actions; its value is the fleet's
/// name.
pub const FLEET_LABEL: &str = "fleet.binder-project.org/fleet";
/// On a BinderFleet: a person's word that the fleet's brake may open. The value is a moment (RFC 3339); what began before
/// it no longer holds anything.
pub const RELEASE_ANNOTATION: &str = "fleet.binder-project.org/release";
/// On a BinderAction whose step disrupts a whole host, with the value `host`: what the fleet's budget counts.
pub const DISRUPTS_LABEL: &str = "fleet.binder-project.org/disrupts";

/// The label on a `BinderAction`; its value is the UID of its host, which fits a label whatever the host's name is.
pub const HOST_UID_LABEL: &str = "fleet.binder-project.org/host-uid";

/// The label on a `BinderAction` by which the actions of one host are listed; its value is the host's name.
pub const HOST_LABEL: &str = "fleet.binder-project.org/host";

/// The label by which the owner of a Secret says what it is for: the operator sends the value of no other one to a machine or a
/// bucket, whatever an object names.
pub const PURPOSE_LABEL: &str = "fleet.binder-project.org/purpose";
/// The value of [`PURPOSE_LABEL`] of a Secret that holds the API key of Binder's servers.
pub const PURPOSE_API_KEY: &str = "api-key";
/// The value of [`PURPOSE_LABEL`] of a Secret that holds what a bucket for backups needs.
pub const PURPOSE_BACKUP: &str = "backup";
