//! Acts on Binder's services: the database and the log collector.

use binder_crds::conditions;

use super::{Act, world};

pub(super) const ACTS: &[Act] = &[
    Act {
        fault: "services-db-stopped",
        host: "binder-services",
        title: "the database is stopped",
        condition: conditions::SERVICES_RUNNING,
        reason: "ProcessMissing",
        steps: &["StartProcess"],
        consequences: &[],
        world: "the database answers, and no server restarts any more",
        look: |stage| Box::pin(world::database(stage)),
        in_demo: false,
    },
    Act {
        fault: "services-logging-stopped",
        host: "binder-services",
        title: "the log collector is stopped",
        condition: conditions::SERVICES_RUNNING,
        reason: "ProcessMissing",
        steps: &["StartProcess"],
        consequences: &[],
        world: "the log collector takes connections",
        look: |stage| Box::pin(world::logging(stage)),
        in_demo: false,
    },
];
