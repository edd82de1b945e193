//! Acts on keys: the one that lets the operator in, and the one of Binder's servers.

use binder_crds::conditions;

use super::{Act, world};

pub(super) const ACTS: &[Act] = &[Act {
    fault: "ssh-permission",
    host: "binder-services",
    title: "our public key is no longer accepted",
    condition: conditions::REACHABLE,
    reason: "LoginRefused",
    steps: &["AuthorizeKey"],
    consequences: &[],
    world: "our login let in again, others' keys and the boot as they were",
    look: |stage| Box::pin(world::let_in(stage)),
    in_demo: false,
}];
