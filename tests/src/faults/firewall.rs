//! Faults of the packet filter.

use super::{Act, Fault, FaultError, Healer, Site, Target, shows};
use crate::binder::settle::ADD_REDIRECT;
use crate::inventory::Role;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "redirect-lost",
        does: "the rule that leads port 80 to the web server is flushed",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: LOSE,
        undo: None,
    },
    Fault {
        name: "redirect-doubled",
        does: "the rule that leads port 80 to the web server is there twice",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: DOUBLE,
        undo: None,
    },
];

/// Succeeds when the redirect is there `$1` times.
const TIMES: &str = "count=$(iptables -w 10 -t nat -S PREROUTING | grep -c 'dport 80 .*to-ports 3000' || true); \
    echo \"there $count times\"; [ \"$count\" = \"$1\" ]";

const LOSE: Act = |site| Box::pin(lose(site));
const DOUBLE: Act = |site| Box::pin(double(site));

async fn lose(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script("iptables -w 10 -t nat -F PREROUTING", &[]).await?;
    shows(site.host, "the redirect is gone", TIMES, &["0"]).await
}

async fn double(site: Site<'_>) -> Result<(), FaultError> {
    lose(site).await?;
    for _ in 0..2 {
        site.host.script_as_user(ADD_REDIRECT, &[]).await?;
    }
    shows(site.host, "the redirect is there twice", TIMES, &["2"]).await
}
