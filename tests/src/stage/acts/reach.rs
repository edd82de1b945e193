//! Acts on what lies between machines.

use binder_crds::conditions;

use super::{Act, world};

pub(super) const ACTS: &[Act] = &[Act {
    fault: "unreachable-from",
    host: "binder-web-deploy",
    title: "a firewall drops the database's port, for one machine only",
    condition: conditions::ENDPOINTS_REACHABLE,
    reason: "PortSilent",
    steps: &[],
    // The health checker has given up by then, as it does for good when its database is away once.
    consequences: &["EndOrphan", "DeleteEntries", "StartProcess"],
    world: "the database reached from binder-web-deploy",
    look: |stage| Box::pin(world::database_reached(stage)),
    in_demo: false,
}];
