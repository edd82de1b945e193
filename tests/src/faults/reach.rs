//! Faults between two machines that are both well.

use super::{Act, Fault, FaultError, Healer, Site, Target, shows};
use crate::inventory::{Role, with_role};

pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "unreachable-from",
    does: "a firewall rule on binder-services drops new connections from binder-web-deploy to 9050; others get through, and \
           those that are open live on",
    healed_by: Healer::Mend,
    target: Target::The(Role::WebDeploy),
    inflict: CUT,
    undo: Some(JOIN),
}];

const CUT: Act = |site| Box::pin(cut(site));
const JOIN: Act = |site| Box::pin(join(site));

/// The rule, as often as it is there, is deleted; `$1` is whose connections it drops, `$2` the port.
const DELETE: &str =
    "while iptables -w 10 -D INPUT -s \"$1\" -p tcp --syn --dport \"$2\" -j DROP 2>/dev/null; do :; done";
/// Drops new connections from `$1` to port `$2`.
const INSERT: &str = "iptables -w 10 -I INPUT -s \"$1\" -p tcp --syn --dport \"$2\" -j DROP";
/// Succeeds when a connection to `$1`, port `$2`, gets no answer at all.
const SILENT: &str = "timeout 2 bash -c 'exec 3<>/dev/tcp/$0/$1' \"$1\" \"$2\" 2>/dev/null && exit 1 || [ $? = 124 ]";
/// Succeeds when a connection to `$1`, port `$2`, is taken.
const OPEN: &str = "timeout 2 bash -c 'exec 3<>/dev/tcp/$0/$1' \"$1\" \"$2\"";

const PORT: &str = "9050";

async fn cut(site: Site<'_>) -> Result<(), FaultError> {
    join(site).await?;
    let (here, there) = ends(site)?;
    site.lab.host(with_role(Role::Services).name)?.script(INSERT, &[&here, PORT]).await?;
    shows(site.host, "the database does not answer from here", SILENT, &[&there, PORT]).await?;
    // It is not the database: its own machine reaches it.
    shows(&site.lab.host(with_role(Role::Services).name)?, "the database answers", OPEN, &[&there, PORT]).await
}

async fn join(site: Site<'_>) -> Result<(), FaultError> {
    let (here, there) = ends(site)?;
    site.lab.host(with_role(Role::Services).name)?.script(DELETE, &[&here, PORT]).await?;
    shows(site.host, "the database answers from here", OPEN, &[&there, PORT]).await
}

fn ends(site: Site<'_>) -> Result<(String, String), FaultError> {
    let there = site.lab.host(with_role(Role::Services).name)?.status()?.address.to_string();
    Ok((site.host.status()?.address.to_string(), there))
}
