//! Faults that nothing on the machine can heal: it must be restarted, most of them from outside.
//!
//! A kernel that hangs cannot be had without a kernel of its own. What everybody else sees of one is made instead: no
//! process runs on, and nothing is answered any more, not even a connection's first packet. Only a reset through the
//! cloud ends that, since it throws the processes and the network away.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::cluster::KILL_LISTENER;
use super::{Act, Fault, FaultError, Healer, Site, Target, runs, shows, unseen};
use crate::cgroup::Cgroup;
use crate::cluster::kubeconfig;
use crate::http::Request;
use crate::inventory::{Machine, NODES, Role};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "services-down",
        does: "the whole machine hangs: SSH dead, the database's port closed, until its instance is reset",
        healed_by: Healer::Operator,
        target: Target::The(Role::Services),
        inflict: SERVICES_DOWN,
        undo: Some(WAKE),
    },
    Fault {
        name: "master-hung",
        does: "the whole machine hangs: API and SSH answer nobody, until its instance is reset",
        healed_by: Healer::Operator,
        target: Target::The(Role::Master),
        inflict: MASTER_HUNG,
        undo: Some(WAKE),
    },
    Fault {
        name: "web-deploy-down",
        does: "the whole machine hangs: SSH and all servers dead, until its instance is reset",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: WEB_DEPLOY_DOWN,
        undo: Some(WAKE),
    },
    Fault {
        name: "web-deploy-stuck",
        does: "a watchdog that somebody left behind starts the web server past pm2 whenever it ends, and takes it out of pm2; a reboot ends it",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: WEB_DEPLOY_STUCK,
        undo: Some(END_LOOP),
    },
    Fault {
        name: "master-memory",
        does: "something eats the master's memory up to a few per cent, and its API server gets to run one part of the time in twenty; \
               a reboot ends both",
        healed_by: Healer::Operator,
        target: Target::The(Role::Master),
        inflict: MASTER_MEMORY,
        undo: Some(RELIEVE),
    },
    Fault {
        name: "minion-lost",
        does: "the machine of kubernetes-minion-1 hangs, and its node is NotReady until the instance is reset",
        healed_by: Healer::Operator,
        target: Target::The(Role::Master),
        inflict: MINION_LOST,
        undo: Some(FIND_MINION),
    },
];

const SERVICES_DOWN: Act = |site| Box::pin(hang(site, 9050));
const MASTER_HUNG: Act = |site| Box::pin(hang(site, 6443));
const WEB_DEPLOY_DOWN: Act = |site| Box::pin(hang(site, 3000));
const WEB_DEPLOY_STUCK: Act = |site| Box::pin(unseen(site, loop_around(site)));
const END_LOOP: Act = |site| {
    Box::pin(async move {
        site.host.script(END_THE_LOOP, &[]).await?;
        site.host.script(KILL_LISTENER, &["3000"]).await?;
        Ok(())
    })
};
const WAKE: Act = |site| Box::pin(wake(site));
const MASTER_MEMORY: Act = |site| Box::pin(eat_memory(site));
const RELIEVE: Act = |site| Box::pin(relieve(site));
const MINION_LOST: Act = |site| Box::pin(lose_minion(site));
const FIND_MINION: Act =
    |site| Box::pin(async move { Ok(minion(site)?.thaw().map_err(crate::host::enter::HostError::from)?) });

/// The machine of the node that is lost.
const LOST: &Machine = &NODES[0];

/// Drops whatever arrives, without a word, as a kernel that hangs does.
const SILENCE: &str = "iptables -w 10 -C INPUT -j DROP 2>/dev/null || iptables -w 10 -I INPUT -j DROP";

/// Takes that back.
const ANSWER: &str = "while iptables -w 10 -D INPUT -j DROP 2>/dev/null; do :; done";

async fn hang(site: Site<'_>, port: u16) -> Result<(), FaultError> {
    // Both commands are visitors, whom the freezing does not stop.
    site.host.script(SILENCE, &[]).await?;
    site.host.freeze().await?;
    let address = site.host.status()?.address;
    let look = |_| async move {
        for port in [22, port] {
            let at = SocketAddr::from((address, port));
            if let Ok(Ok(_)) = timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(at)).await {
                return Err(format!("{at} takes connections"));
            }
        }
        Ok(())
    };
    Ok(site.host.until("nobody is let in any more", super::SHOWS, look).await?)
}

async fn wake(site: Site<'_>) -> Result<(), FaultError> {
    site.host.thaw()?;
    site.host.script(ANSWER, &[]).await?;
    Ok(())
}

/// Starts whoever listens on 3000 again whenever it ends, as pm2 has started it, of which its environment tells, after pm2 has
/// let go of it: a watchdog of somebody's own, which has pm2 let go of any other that takes the port.
const LOOP: &str = r#"
pid=$(ss -ltnpH 'sport = :3000' | sed -n 's/.*pid=\([0-9]*\).*/\1/p')
[ -n "$pid" ] || { echo 'nobody listens on 3000'; exit 1; }
setsid -f node -e '
  const fs = require("fs")
  const { spawn } = require("child_process")
  const lines = fs.readFileSync(`/proc/${process.argv[1]}/environ`, "utf8").split("\0").filter(Boolean)
  const env = Object.fromEntries(lines.map((line) => line.split(/=(.*)/s)))
  delete env.NODE_CHANNEL_FD
  const args = [env.pm_exec_path, ...env.args.split(",")]
  const unlist = () => spawn("pm2", ["delete", "binder-web-start"], { stdio: "ignore" }).on("exit", again)
  const again = () => {
    const began = Date.now()
    // One that ends at once has found the port taken.
    const next = () => Date.now() - began < 5000 ? unlist() : again()
    spawn("node", args, { env, stdio: "ignore" }).on("exit", next)
  }
  fs.writeFileSync(process.argv[2], "")
  setTimeout(again, 2000)
' "$pid" /tmp/loop-has-read binder-lab-loop </dev/null >/dev/null 2>&1
while [ ! -e /tmp/loop-has-read ]; do sleep 0.1; done
rm /tmp/loop-has-read
pm2 delete binder-web-start >/dev/null
"#;
/// Ends the loop; what it has started runs on.
const END_THE_LOOP: &str = "pkill -KILL -f '[b]inder-lab-loop' || true";
/// Succeeds when whoever listens on 3000 is the loop's.
const LOOPS: &str = r#"
pid=$(ss -ltnpH 'sport = :3000' | sed -n 's/.*pid=\([0-9]*\).*/\1/p')
[ -n "$pid" ]
grep -qa binder-lab-loop "/proc/$(awk '{ print $4 }' "/proc/$pid/stat")/cmdline"
"#;

async fn loop_around(site: Site<'_>) -> Result<(), FaultError> {
    runs(site.host, "binder-web-start", Some("3000")).await?;
    site.host.script_as_user(LOOP, &[]).await?;
    shows(site.host, "the web server is the loop's", LOOPS, &[]).await?;
    site.host.script(KILL_LISTENER, &["3000"]).await?;
    shows(site.host, "the loop has started it again", LOOPS, &[]).await
}

/// Keeps the API server stopped for `$1` of every `$1` plus `$2` seconds.
const SLOW: &str = r#"
setsid sh -c '
  while :; do
    pkill -STOP -x kube-apiserver
    sleep "$1"
    pkill -CONT -x kube-apiserver
    sleep "$2"
  done' binder-lab-slow "$1" "$2" </dev/null >/dev/null 2>&1 &
"#;

/// Holds memory so that `$1` per cent of what the machine has are left, and goes on to do so when others let go of some. What
/// goes into `tail` without a line's end stays in it. Should memory run out all the same, the kernel takes it from here before it
/// ends anybody else.
const HOG: &str = r#"
setsid sh -c '
  echo 1000 >/proc/self/oom_score_adj
  while :; do
    while read -r key size _; do
      case $key in MemTotal:) total=$size ;; MemAvailable:) left=$size ;; esac
    done </proc/meminfo
    missing=$((left - total * $1 / 100))
    [ $((missing * 200)) -le "$total" ] || { head -c "${missing}K" /dev/zero | tail | sleep infinity; } &
    sleep 3
  done' binder-lab-hog "$1" </dev/null >/dev/null 2>&1 &
"#;

/// Succeeds when no more than `$1` per cent of the machine's memory are available.
const NEAR_FULL: &str = r#"
awk -v most="$1" '$1 == "MemTotal:" {total = $2} $1 == "MemAvailable:" {left = $2}
  END {print left " kB of " total; exit !(left * 100 <= total * most)}' /proc/meminfo
"#;

/// How long the API server is stopped, and how long it then runs, in seconds. Short enough for clients to stay connected:
/// those of the lab's nodes take a server for dead after 8 s.
const STOPPED: &str = "6.5";
const RUNS: &str = "0.3";

/// What counts as too slow here. An API server that is well answers in milliseconds.
const TOO_SLOW: Duration = Duration::from_secs(1);

async fn eat_memory(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script_that_stays(HOG, &["3"]).await?;
    shows(site.host, "memory is near full", NEAR_FULL, &["5"]).await?;
    site.host.script_that_stays(SLOW, &[STOPPED, RUNS]).await?;
    let api = SocketAddr::from((site.host.status()?.address, 6443));
    let look = |_| async move {
        // Two of three: one may just fall into the time in which the server runs.
        let mut slow = Vec::new();
        for _ in 0..3 {
            let began = Instant::now();
            // Whatever it says to somebody without TLS; it is the time that counts.
            let _ = timeout(Duration::from_secs(8), Request::get("/readyz").send(api)).await;
            slow.push(began.elapsed());
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        if slow.iter().filter(|took| **took > TOO_SLOW).count() >= 2 {
            return Ok(());
        }
        Err(format!("it answered after {slow:?}"))
    };
    Ok(site.host.until("the API server answers too slowly", super::SHOWS, look).await?)
}

async fn relieve(site: Site<'_>) -> Result<(), FaultError> {
    let relieve = "pkill -f '^sh -c .* binder-lab-(slow|hog)' || true; pkill -CONT -x kube-apiserver || true; pkill -x tail || true";
    site.host.script(relieve, &[]).await?;
    shows(
        site.host,
        "there is memory again",
        "awk '$1 == \"MemTotal:\" {total = $2} $1 == \"MemAvailable:\" {left = $2}
        END {exit !(left * 10 > total)}' /proc/meminfo",
        &[],
    )
    .await
}

/// The group of the lost minion's processes.
fn minion(site: Site<'_>) -> Result<Cgroup, FaultError> {
    let group = Cgroup::of_lab(site.lab.layout().id()).map_err(crate::host::enter::HostError::from)?;
    Ok(group.child(LOST.name))
}

async fn lose_minion(site: Site<'_>) -> Result<(), FaultError> {
    minion(site)?.freeze().await.map_err(crate::host::enter::HostError::from)?;
    let nothing = |what: String| FaultError::NothingToBreak { host: LOST.name.to_owned(), what };
    let config = site.lab.status()?.cluster_kubeconfig.ok_or_else(|| nothing("the lab has no cluster".to_owned()))?;
    let client = kubeconfig::client(&config).await.map_err(|error| nothing(crate::said(&error)))?;
    let nodes: Api<Node> = Api::all(client);
    // What the node controller says of a node 50 s after its last word. Nobody but the node itself takes it back.
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let lost = json!({"status": {"conditions": [{
        "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.", "lastTransitionTime": now,
    }]}});
    let look = |_| {
        let (nodes, lost) = (nodes.clone(), Patch::Strategic(lost.clone()));
        async move {
            let said = nodes.patch_status(LOST.name, &PatchParams::default(), &lost).await;
            let node = said.map_err(|error| crate::said(&error))?;
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            match conditions.iter().find(|condition| condition.type_ == "Ready") {
                Some(ready) if ready.status == "True" => Err("it is Ready".to_owned()),
                _ => Ok(()),
            }
        }
    };
    Ok(site.host.until("the node is NotReady", super::SHOWS, look).await?)
}
