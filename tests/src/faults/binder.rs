//! Faults of single Binder servers and services.

use super::{Act, CLOSED, Fault, FaultError, Healer, Site, Target, shows, unseen};
use crate::inventory::Role;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "web-lost",
        does: "binder-web-start is ended and gone from pm2; nobody listens on 3000",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: WEB_LOST,
        undo: None,
    },
    Fault {
        name: "services-db-stopped",
        does: "the service db is stopped: nobody listens on 9050, and what needs it restarts",
        healed_by: Healer::Operator,
        target: Target::The(Role::Services),
        inflict: DB_STOPPED,
        undo: None,
    },
    Fault {
        name: "services-logging-stopped",
        does: "the service logging is stopped: nobody listens on 8050",
        healed_by: Healer::Operator,
        target: Target::The(Role::Services),
        inflict: LOGGING_STOPPED,
        undo: None,
    },
];

const WEB_LOST: Act = |site| Box::pin(unseen(site, web_lost(site)));
const DB_STOPPED: Act = |site| Box::pin(unseen(site, stop_service(site, "db", "9050")));
const LOGGING_STOPPED: Act = |site| Box::pin(unseen(site, stop_service(site, "logging", "8050")));

/// Deletes the process `$1` from pm2's table, if it is there: pm2 ends it first. A server that pm2 starts at that moment may have it
/// started anew.
pub(super) const DELETE: &str = "for try in 1 2 3 4 5; do pm2 delete \"$1\" >/dev/null 2>&1 || true; \
    pm2 jlist | grep -qF \"\\\"name\\\":\\\"$1\\\"\" || exit 0; sleep 0.5; done; echo \"pm2 goes on to hold $1\" >&2; exit 1";

async fn web_lost(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script_as_user(DELETE, &["binder-web-start"]).await?;
    shows(site.host, "nobody listens on 3000", CLOSED, &["3000"]).await
}

async fn stop_service(site: Site<'_>, service: &str, port: &str) -> Result<(), FaultError> {
    // It says that it failed when there is nothing to stop, and that it failed when it succeeded: the port tells.
    site.host.exec_as_user(&["binder-control", "stop-service", service]).await?;
    site.host.script_as_user(DELETE, &[&format!("binder-{service}-service")]).await?;
    shows(site.host, "nobody listens on the service's port", CLOSED, &[port]).await
}
