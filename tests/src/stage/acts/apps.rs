//! Acts on Binder's own status, its API key, its cluster and its routes.

use binder_crds::conditions;

use super::{Act, world};

pub(super) const ACTS: &[Act] = &[
    Act {
        fault: "stale-routes",
        host: "binder-web-deploy",
        title: "the proxy holds routes to apps that are gone",
        condition: conditions::ROUTES_LIVE,
        reason: "RoutesStale",
        steps: &["DeleteRoutes"],
        consequences: &[],
        world: "the stale routes gone, and the live one there",
        look: |stage| Box::pin(world::live_routes_only(stage)),
        in_demo: false,
    },
    Act {
        fault: "key-mismatch",
        host: "binder-tester-2",
        title: "the build server runs with another API key",
        condition: conditions::API_KEY_ACCEPTED,
        reason: "KeyRefused",
        steps: &["DeleteEntries", "StartProcess"],
        consequences: &[],
        world: "the build server answering to the one key",
        look: |stage| Box::pin(world::build_takes_the_key(stage)),
        in_demo: false,
    },
    Act {
        fault: "status-stale",
        host: "binder-web-deploy",
        title: "the health checker has stopped, and its last word is old",
        condition: conditions::HEALTH_STATUS_CURRENT,
        reason: "HealthStale",
        steps: &["DeleteEntries", "StartProcess"],
        consequences: &[],
        world: "/health/ saying running, just now",
        look: |stage| Box::pin(world::health_is_fresh(stage)),
        in_demo: false,
    },
    Act {
        fault: "status-wrong",
        host: "binder-web-deploy",
        title: "the status says down while builds and launches work",
        condition: conditions::HEALTH_STATUS_CURRENT,
        reason: "HealthWrong",
        steps: &["DeleteEntries", "StartProcess"],
        consequences: &[],
        world: "/health/ saying running, just now",
        look: |stage| Box::pin(world::health_is_fresh(stage)),
        in_demo: false,
    },
    Act {
        fault: "minion-lost",
        host: "kubernetes-master",
        title: "a minion is heard of no more",
        condition: conditions::KUBERNETES_API_ANSWERING,
        reason: "NodesNotReady",
        steps: &["RestartNode"],
        consequences: &[],
        world: "every node Ready",
        look: |stage| Box::pin(world::nodes(stage)),
        in_demo: false,
    },
];
