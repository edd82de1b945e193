//! Acts on whole machines: nothing on them answers, and a second witness agrees.

use binder_crds::conditions;

use super::{Act, world};

pub(super) const ACTS: &[Act] = &[
    Act {
        fault: "services-down",
        host: "binder-services",
        title: "the services' machine hangs: SSH dead, database closed",
        condition: conditions::REACHABLE,
        reason: "Unreachable",
        steps: &["PowerCycle", "StartProcess", "StartProcess"],
        world: "the database, and servers that have stopped restarting",
        look: |stage| Box::pin(world::fleet_that_checks(stage)),
        in_demo: false,
    },
    Act {
        fault: "web-deploy-down",
        host: "binder-web-deploy",
        title: "the web and deploy server hangs",
        condition: conditions::REACHABLE,
        reason: "Unreachable",
        steps: &["PowerCycle", "StartProcess", "StartKubectlProxy", "StartProcess", "StartProcess", "InsertRedirect"],
        world: "the whole host as described, and an app that deploys",
        look: |stage| Box::pin(world::fleet(stage)),
        in_demo: false,
    },
];
