//! Acts on keys: the one that lets the operator in, and the one of Binder's servers.

use binder_crds::conditions;

use super::{Act, world};

pub(super) const ACTS: &[Act] = &[
    Act {
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
    },
    Act {
        fault: "key-unknown",
        host: "binder-tester-2",
        title: "the Secret with the API key is gone",
        condition: conditions::API_KEY_ACCEPTED,
        reason: "KeyUnknown",
        steps: &["WriteApiKey"],
        consequences: &[],
        world: "the same key in the Secret again, and a server that takes it",
        look: |stage| Box::pin(world::key_is_back(stage)),
        in_demo: false,
    },
];
