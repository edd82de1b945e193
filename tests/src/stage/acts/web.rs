//! Acts on the web and deploy server.

use binder_crds::conditions;

use super::{Act, world};

pub(super) const ACTS: &[Act] = &[
    Act {
        fault: "web-lost",
        host: "binder-web-deploy",
        title: "the web server is gone from pm2",
        condition: conditions::SERVICES_RUNNING,
        reason: "ProcessMissing",
        steps: &["StartProcess"],
        world: "the page on 3000",
        look: |stage| Box::pin(world::page(stage)),
        in_demo: true,
    },
    Act {
        fault: "proxy-dead",
        host: "binder-web-deploy",
        title: "the kubectl proxy is dead",
        condition: conditions::PROXY_SERVING,
        reason: "NothingListens",
        steps: &["StartKubectlProxy"],
        world: "the cluster behind 8085",
        look: |stage| Box::pin(world::proxy(stage)),
        in_demo: true,
    },
    Act {
        fault: "redirect-lost",
        host: "binder-web-deploy",
        title: "the port 80 redirect is flushed",
        condition: conditions::REDIRECT_IN_PLACE,
        reason: "RedirectMissing",
        steps: &["InsertRedirect"],
        world: "the redirect once, and the page on 80",
        look: |stage| Box::pin(world::redirect_once(stage)),
        in_demo: true,
    },
    Act {
        fault: "redirect-doubled",
        host: "binder-web-deploy",
        title: "the port 80 redirect is there twice",
        condition: conditions::REDIRECT_IN_PLACE,
        reason: "RedirectDoubled",
        steps: &["DeleteExtraRedirects"],
        world: "the redirect once, and the page on 80",
        look: |stage| Box::pin(world::redirect_once(stage)),
        in_demo: true,
    },
    Act {
        fault: "deploy-lost",
        host: "binder-web-deploy",
        title: "deploy-kubernetes is lost by pm2, with two daemons",
        condition: conditions::SERVICES_RUNNING,
        reason: "LostByPm2",
        steps: &["EndOrphan", "DeleteEntries", "StartProcess"],
        world: "one deploy-kubernetes, and an app that deploys",
        look: |stage| Box::pin(world::deploy(stage)),
        in_demo: true,
    },
];
