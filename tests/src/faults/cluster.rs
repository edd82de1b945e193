//! Faults between Binder and its cluster: the `kubectl proxy`, and `deploy-kubernetes`, which depends on it.
//!
//! How pm2 1.1.3 loses `deploy-kubernetes`, as seen by trying: pm2 gives each process its own record as environment
//! variables. A server that comes back finds `binder-kubernetes-daemon` in pm2's table and asks pm2 to restart it, with
//! its own environment; pm2 takes the id from there, and so overwrites the server's record with the daemon's. The server
//! runs on, listens, and is in nobody's table.

use std::time::Duration;

use tokio::time::sleep;

use super::binder::DELETE;
use super::proxy::ANSWERS;
use super::{Act, CLOSED, Fault, FaultError, Healer, Site, Target, shows, unseen};
use crate::binder::settle::START_PROXY;
use crate::host::enter::HostError;
use crate::inventory::Role;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "proxy-dead",
        does: "whatever serves 8085 is killed; nobody listens there",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: PROXY_DEAD,
        undo: None,
    },
    Fault {
        name: "deploy-lost",
        does: "pm2 has lost binder-deploy-kubernetes-start, which still listens on 8084, and has two of its daemons",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: DEPLOY_LOST,
        undo: None,
    },
    Fault {
        name: "deploy-before-proxy",
        does: "deploy-kubernetes was started while nobody served 8085: nobody listens on 8084, and its entries in pm2 are \
               in disorder",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: DEPLOY_BEFORE_PROXY,
        undo: None,
    },
];

const PROXY_DEAD: Act = |site| Box::pin(unseen(site, silence(site)));
const DEPLOY_LOST: Act = |site| Box::pin(unseen(site, deploy_lost(site)));
const DEPLOY_BEFORE_PROXY: Act = |site| Box::pin(unseen(site, deploy_before_proxy(site)));

/// What deploy-kubernetes has in pm2's table.
const ENTRIES: [&str; 3] = ["binder-deploy-kubernetes-start", "binder-kubernetes-daemon", "binder-kubernetes-proxy"];

/// The races below depend on which of two processes is faster, so they may need another try; on an idle machine, the first
/// nearly always does.
pub(super) const TRIES: usize = 6;

/// Kills whoever listens on port `$1`.
pub(super) const KILL_LISTENER: &str = "for pid in $(ss -ltnpH \"sport = :$1\" | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u); \
    do kill -KILL $pid; done";

/// Waits some seconds for a moment in which nobody has a connection to port `$1`. A server that asks the cluster something when the
/// proxy ends crashes of it, which is another fault: `kube-stream-crash`.
const AT_REST: &str =
    "for try in $(seq 1 50); do ss -tnH state established \"dport = :$1\" | grep -q . || exit 0; sleep 0.2; done";

/// Ends whatever serves 8085: pm2's own first, which it would start again. A server that crashes of it, or of something else, is
/// started again by pm2 and may bring another one.
pub(super) async fn silence(site: Site<'_>) -> Result<(), FaultError> {
    for _ in 0..TRIES {
        site.host.script(AT_REST, &["8085"]).await?;
        site.host.script_as_user(DELETE, &["binder-kubernetes-proxy"]).await?;
        site.host.script(AT_REST, &["8085"]).await?;
        site.host.script(KILL_LISTENER, &["8085"]).await?;
        if site.host.script(CLOSED, &["8085"]).await.is_ok() {
            return Ok(());
        }
    }
    shows(site.host, "nobody listens on 8085", CLOSED, &["8085"]).await
}

/// Succeeds when pm2 has no `binder-deploy-kubernetes-start` while somebody listens on 8084, and `$1` online daemons.
const LOST: &str = r#"
ss -ltnH 'sport = :8084' | grep -q . || { echo 'nobody listens on 8084'; exit 1; }
pm2 jlist | node -e '
  const list = JSON.parse(require("fs").readFileSync(0, "utf8").replace(/^[^]*?(?=\[(?:\{|\]))/, ""))
  const named = (name) => list.filter((entry) => entry.name === name)
  const daemons = named("binder-kubernetes-daemon").filter((entry) => entry.pm2_env.status === "online").length
  const starts = named("binder-deploy-kubernetes-start").length
  console.log(`${starts} in the table, ${daemons} daemons online`)
  process.exit(starts === 0 && daemons === Number(process.argv[1]) ? 0 : 1)
' "$1"
"#;

/// Brings the number of online daemons to two: pm2 keeps between none and two of them, depending on who was faster.
const TWO_DAEMONS: &str = r#"
ids() { pm2 jlist | node -e '
  const list = JSON.parse(require("fs").readFileSync(0, "utf8").replace(/^[^]*?(?=\[(?:\{|\]))/, ""))
  const is = (entry) => (entry.pm2_env.status === "online") === (process.argv[1] === "online")
  for (const entry of list) if (entry.name === "binder-kubernetes-daemon" && is(entry)) console.log(entry.pm_id)
' "$1"; }
for id in $(ids other); do pm2 delete "$id" >/dev/null; done
daemon=/usr/local/lib/binder/node_modules/binder-deploy-kubernetes/scripts/daemon.js
while [ "$(ids online | wc -l)" -lt 2 ]; do pm2 start "$daemon" --name binder-kubernetes-daemon --force >/dev/null; done
"#;

async fn deploy_lost(site: Site<'_>) -> Result<(), FaultError> {
    for _ in 0..TRIES {
        ready_to_be_lost(site).await?;
        // A crash. `pm2 restart` ends the same way, only less often: it also lets the old server clear up.
        site.host.script(KILL_LISTENER, &["8084"]).await?;
        if is_lost(site).await? {
            return Ok(());
        }
    }
    Err(nothing(site, format!("pm2 did not lose {} in {TRIES} crashes", ENTRIES[0])))
}

/// Brings deploy-kubernetes to where a crash may lose it: the cluster answers on 8085, and the server is under pm2 and listens.
/// A crash, also one of an earlier try, may have taken any of it away.
pub(super) async fn ready_to_be_lost(site: Site<'_>) -> Result<(), FaultError> {
    cluster_served(site).await?;
    if !site.host.script_as_user(IN_TABLE_AND_LISTENING, &[]).await.is_ok_and(|said| !said.is_empty()) {
        start_afresh(site).await?;
    }
    Ok(())
}

/// Starts the runbook's proxy if nobody serves 8085, and gives it time to listen; then asks as [`ANSWERS`] does. pm2 has proxies
/// of its own for deploy-kubernetes, and may end the one that serves at any moment.
fn serve_and_ask() -> String {
    format!(
        "open() {{ ss -ltnH 'sport = :8085' | grep -q .; }}
        open || {{ {START_PROXY}; for try in $(seq 1 30); do open && break; sleep 0.1; done; }}
        {ANSWERS}"
    )
}

/// Has the lab's own cluster answer on 8085.
async fn cluster_served(site: Site<'_>) -> Result<(), FaultError> {
    let identity = site.lab.status()?.cluster_id.ok_or_else(|| nothing(site, "the lab has no cluster".to_owned()))?;
    let script = serve_and_ask();
    let look = |host: crate::Host| {
        let (script, identity) = (&script, &identity);
        async move {
            let answer = host.script_as_user(script, &[identity]).await;
            answer.map(|_| ()).map_err(|error: HostError| crate::said(&error))
        }
    };
    Ok(site.host.until("the cluster answers on 8085", super::SHOWS, look).await?)
}

/// Whether pm2 has lost deploy-kubernetes after a crash; if so, it then has two of its daemons.
pub(super) async fn is_lost(site: Site<'_>) -> Result<bool, FaultError> {
    if !settled_as(site, LOST_WHATEVER_DAEMONS, &[]).await {
        return Ok(false);
    }
    site.host.script_as_user(TWO_DAEMONS, &[]).await?;
    let look = |host: crate::Host| async move {
        host.script_as_user(LOST, &["2"]).await.map(|_| ()).map_err(|error: HostError| crate::said(&error))
    };
    site.host.until("pm2 has lost deploy-kubernetes and has two daemons", super::SHOWS, look).await?;
    Ok(true)
}

/// Prints something when pm2 has a `binder-deploy-kubernetes-start` and somebody listens on 8084.
const IN_TABLE_AND_LISTENING: &str = "ss -ltnH 'sport = :8084' | grep -q . && \
    pm2 jlist | grep -oF '\"name\":\"binder-deploy-kubernetes-start\"' | head -n 1";

/// Succeeds when pm2 has no `binder-deploy-kubernetes-start` while somebody listens on 8084.
const LOST_WHATEVER_DAEMONS: &str = "ss -ltnH 'sport = :8084' | grep -q . && \
    ! pm2 jlist | grep -qF '\"name\":\"binder-deploy-kubernetes-start\"'";

/// Whether a look that the login user takes says yes several times in a row, before the patience is over: the table
/// changes for some seconds.
async fn settled_as(site: Site<'_>, look: &str, args: &[&str]) -> bool {
    let mut row = 0;
    for _ in 0..40 {
        row = if site.host.script_as_user(look, args).await.is_ok() { row + 1 } else { 0 };
        if row == 8 {
            return true;
        }
        sleep(Duration::from_millis(500)).await;
    }
    false
}

/// Ends whatever there is of deploy-kubernetes, in pm2's table and outside.
async fn clear(site: Site<'_>) -> Result<(), FaultError> {
    for entry in ENTRIES {
        site.host.script_as_user(DELETE, &[entry]).await?;
    }
    // What the table did not know.
    site.host.script(KILL_LISTENER, &["8084"]).await?;
    shows(site.host, "nobody listens on 8084", CLOSED, &["8084"]).await
}

/// Starts deploy-kubernetes as it should be.
async fn start_afresh(site: Site<'_>) -> Result<(), FaultError> {
    clear(site).await?;
    // The one that served may have been pm2's, which has just been deleted. A server that finds none does not last.
    cluster_served(site).await?;
    let binder = site.lab.binder()?;
    binder.ask_to_start_unseen(site.host, "deploy-kubernetes", None).await?;
    let look = |host: crate::Host| async move {
        match host.script_as_user(IN_TABLE_AND_LISTENING, &[]).await {
            Ok(said) if said.is_empty() => Err("pm2 does not hold it".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(crate::said(&error)),
        }
    };
    Ok(site.host.until("deploy-kubernetes listens, and pm2 holds it", super::SHOWS, look).await?)
}

/// A `kubectl.sh` that takes its time, as on a machine that has just been started and is busy: the server starts one of its
/// own, which would otherwise sometimes be there just in time.
const BUSY_KUBECTL: &str = r#"
mkdir -p "$1"
printf '#!/bin/sh\nsleep 120\nexec /home/andrew/kubernetes/cluster/kubectl.sh "$@"\n' >"$1/kubectl.sh"
chmod 755 "$1" "$1/kubectl.sh"
"#;

/// Succeeds when nobody listens, and pm2 holds of `deploy-kubernetes` only what it started.
const ENDED_TOO_EARLY: &str = "! ss -ltnH 'sport = :8084 or sport = :8085' | grep . && \
    ! pm2 jlist | grep -qF '\"name\":\"binder-deploy-kubernetes-start\"' && \
    pm2 jlist | grep -qF '\"name\":\"binder-kubernetes-'";

async fn deploy_before_proxy(site: Site<'_>) -> Result<(), FaultError> {
    let folder = "/run/busy-kubectl";
    site.host.script(BUSY_KUBECTL, &[folder]).await?;
    for _ in 0..TRIES {
        clear(site).await?;
        silence(site).await?;
        let binder = site.lab.binder()?;
        binder.ask_to_start_unseen(site.host, "deploy-kubernetes", Some(folder)).await?;
        // It ends with the first question to the cluster; how pm2 takes that differs.
        if settled_as(site, ENDED_TOO_EARLY, &[]).await {
            return Ok(());
        }
    }
    Err(nothing(site, format!("deploy-kubernetes did not end without a proxy, {TRIES} times")))
}

pub(super) fn nothing(site: Site<'_>, what: String) -> FaultError {
    FaultError::NothingToBreak { host: site.host.name().to_owned(), what }
}
