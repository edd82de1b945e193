//! Acts on whole machines: nothing on them answers, and a second witness agrees.

use binder_crds::conditions;

use super::{Act, world};

pub(super) const ACTS: &[Act] = &[
    // First, since an API is given its time after a boot, which the others bring.
    Act {
        fault: "master-memory",
        host: "kubernetes-master",
        title: "the Kubernetes master runs out of memory, and its API crawls",
        condition: conditions::KUBERNETES_API_ANSWERING,
        reason: "ApiStarved",
        steps: &["Reboot"],
        consequences: &[],
        world: "every node Ready, and /health/ says running of both",
        look: |stage| Box::pin(world::cluster_and_health(stage)),
        in_demo: false,
    },
    Act {
        fault: "services-down",
        host: "binder-services",
        title: "the services' machine hangs: SSH dead, database closed",
        condition: conditions::REACHABLE,
        reason: "Unreachable",
        steps: &["PowerCycle", "StartProcess", "StartProcess"],
        consequences: &[],
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
        consequences: super::web::KUBE_STREAM,
        world: "the whole host as described, and an app that deploys",
        look: |stage| Box::pin(world::fleet(stage)),
        in_demo: false,
    },
    Act {
        fault: "web-deploy-stuck",
        host: "binder-web-deploy",
        title: "the web server comes back past pm2 whenever it is ended",
        condition: conditions::SERVICES_RUNNING,
        reason: "LostByPm2",
        steps: &["Reboot", "StartProcess", "StartKubectlProxy", "StartProcess", "StartProcess", "InsertRedirect"],
        // Before the reboot it is ended, and started, until the attempts at either are used up.
        consequences: super::web::KUBE_STREAM,
        world: "the whole host as described, and an app that deploys",
        look: |stage| Box::pin(world::fleet(stage)),
        in_demo: false,
    },
    Act {
        fault: "master-hung",
        host: "kubernetes-master",
        title: "the Kubernetes master hangs: API and SSH dead",
        condition: conditions::REACHABLE,
        reason: "Unreachable",
        steps: &["PowerCycle"],
        consequences: &[],
        world: "every node Ready, and /health/ says running of both",
        look: |stage| Box::pin(world::cluster_and_health(stage)),
        in_demo: false,
    },
];
