//! Faults that make a server end again and again: a broken module, a port in somebody else's hands, kube-stream.

use std::time::Duration;

use tokio::time::timeout;

use super::cluster::{KILL_LISTENER, TRIES, is_lost, nothing, ready_to_be_lost};
use super::{Act, Fault, FaultError, Healer, Site, Target, runs, shows, unseen};
use crate::binder::settle::START_PROXY;
use crate::inventory::Role;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "restarts-climbing",
        does: "a module of the web server is broken: binder-web-start ends a moment after each start, and pm2 starts it again",
        healed_by: Healer::Mend,
        target: Target::The(Role::WebDeploy),
        inflict: BREAK_MODULE,
        undo: Some(REPAIR_MODULE),
    },
    Fault {
        name: "port-taken",
        does: "the web server was ended, and a program of root's has taken 3000 before pm2 could start it again",
        healed_by: Healer::Mend,
        target: Target::The(Role::WebDeploy),
        inflict: TAKE_PORT,
        undo: Some(FREE_PORT),
    },
    Fault {
        name: "kube-stream-crash",
        does: "8085 is gone when an app is to be deployed: kube-stream leaves the error of its connection unhandled, \
               deploy-kubernetes ends, and pm2 loses it, with two of its daemons",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: CRASH_KUBE_STREAM,
        undo: None,
    },
];

const BREAK_MODULE: Act = |site| Box::pin(break_module(site));
const REPAIR_MODULE: Act = |site| Box::pin(repair_module(site));
const TAKE_PORT: Act = |site| Box::pin(take_port(site));
const FREE_PORT: Act = |site| Box::pin(free_port(site));
const CRASH_KUBE_STREAM: Act = |site| Box::pin(unseen(site, crash_kube_stream(site)));

/// A module that only the web server loads, and the log that pm2 keeps of it.
const MODULE: &str = "/usr/local/lib/binder/node_modules/binder-web/server/index.js";

/// Lays a broken version over the module `$1`, in this host's mounts only, and ends the web server, which then loads it. It
/// throws a moment after its start and not at once: what lives for less than a second, pm2 gives up after 15 times.
const LAY_OVER: &str = r#"
[ -f "$1" ] || { echo "there is no $1"; exit 1; }
cp "$1" /run/broken-module.js
cat >>/run/broken-module.js <<'END'
setTimeout(function renderPage () {
  const page = undefined
  page.render()
}, 1500)
END
chmod 644 /run/broken-module.js
mount --bind /run/broken-module.js "$1"
"#;

/// How often pm2 has restarted the process `$1`, more than `$2` times more than at the time of the first call.
const RESTARTED: &str = r#"
count() { runuser -u andrew -- env HOME=/home/andrew pm2 jlist | node -e '
  const list = JSON.parse(require("fs").readFileSync(0, "utf8").replace(/^[^]*?(?=\[(?:\{|\]))/, ""))
  const found = list.find((entry) => entry.name === process.argv[1])
  console.log(found ? found.pm2_env.restart_time : 0)' "$1"; }
now=$(count "$1"); file=/run/restarts.$1
[ -f "$file" ] || echo "$now" >"$file"
before=$(cat "$file"); echo "restarted $before times, then $now"
[ "$now" -ge "$((before + $2))" ]
"#;

async fn climbs(site: Site<'_>, process: &str, by: &str) -> Result<(), FaultError> {
    site.host.script("rm -f \"/run/restarts.$1\"", &[process]).await?;
    shows(site.host, "pm2 restarts it again and again", RESTARTED, &[process, by]).await
}

async fn break_module(site: Site<'_>) -> Result<(), FaultError> {
    runs(site.host, "binder-web-start", Some("3000")).await?;
    site.host.script(LAY_OVER, &[MODULE]).await?;
    site.host.script(KILL_LISTENER, &["3000"]).await?;
    climbs(site, "binder-web-start", "3").await
}

async fn repair_module(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script("umount \"$1\"; rm /run/broken-module.js", &[MODULE]).await?;
    shows(site.host, "the module is whole", "! grep -q renderPage \"$1\"", &[MODULE]).await
}

/// Ends who listens on `$1` and listens there instead, as root, trying again until it is free.
const TAKE: &str = r#"
setsid -f node -e '
  const net = require("net")
  const take = () => net.createServer().once("error", () => setTimeout(take, 5)).listen(Number(process.argv[1]))
  take()' "$1" </dev/null >/dev/null 2>&1
for pid in $(ss -ltnpH "sport = :$1" | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u); do kill -KILL $pid; done
"#;

/// The program that has the port `$1` is root's.
const TAKEN: &str = "pid=$(ss -ltnpH \"sport = :$1\" | grep -o 'pid=[0-9]*' | cut -d= -f2 | head -n 1); \
    [ -n \"$pid\" ] && [ \"$(stat -c %u /proc/$pid)\" = 0 ]";

async fn take_port(site: Site<'_>) -> Result<(), FaultError> {
    runs(site.host, "binder-web-start", Some("3000")).await?;
    site.host.script(TAKE, &["3000"]).await?;
    shows(site.host, "root has the web server's port", TAKEN, &["3000"]).await
}

async fn free_port(site: Site<'_>) -> Result<(), FaultError> {
    let free = "for pid in $(ss -ltnpH \"sport = :$1\" | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u); do \
        [ \"$(stat -c %u /proc/$pid)\" = 0 ] && kill -KILL $pid; done; exit 0";
    site.host.script(free, &["3000"]).await?;
    let gone = "! ss -ltnpH \"sport = :$1\" | grep -o 'pid=[0-9]*' | cut -d= -f2 | xargs -r -I% stat -c %u /proc/% | grep -qx 0";
    shows(site.host, "root has the web server's port no more", gone, &["3000"]).await
}

/// The error of kube-stream's request in a log that was written to within the last minute. What stands above it in the stack
/// is not in it: under pm2 the log has the error's own stack.
const IN_LOG: &str = r#"
for log in /home/andrew/.pm2/logs/binder-deploy-kubernetes-start-error*.log; do
  [ -n "$(find "$log" -mmin -1)" ] && tail -n 40 "$log" | \
    grep -qE 'Error: (connect ECONNREFUSED 127.0.0.1:8085|read ECONNRESET|aborted|socket hang up)' && exit 0
done
exit 1
"#;

/// Kills whoever serves 8085, waits until the server on 8084 has ended of it, and starts the proxy at once, as whoever runs it by
/// hand does: the server that pm2 starts next finds its cluster, and lasts.
fn end_proxy_and_server() -> String {
    format!(
        "pid() {{ ss -ltnpH \"sport = :$1\" | grep -o 'pid=[0-9]*' | head -n 1 | cut -d= -f2; }}
        server=$(pid 8084); proxy=$(pid 8085); kill -KILL \"$proxy\"
        try=0; while [ -e \"/proc/$server\" ] && [ $try -lt 100 ]; do sleep 0.1; try=$((try + 1)); done
        {START_PROXY}
        [ ! -e \"/proc/$server\" ] || {{ echo 'the server runs on' >&2; exit 1; }}"
    )
}

async fn crash_kube_stream(site: Site<'_>) -> Result<(), FaultError> {
    let end = end_proxy_and_server();
    for _ in 0..TRIES {
        ready_to_be_lost(site).await?;
        let binder = site.lab.binder()?;
        // What becomes of the app is not known: whoever serves it is about to end.
        let app = timeout(Duration::from_secs(5), binder.deploy_app());
        let (ended, _) = tokio::join!(site.host.script_as_user(&end, &[]), app);
        // Another crash may have come first, and taken the server or its proxy with it: then the next try begins with both.
        let crashed = ended.is_ok() && shows(site.host, "kube-stream's error is in the log", IN_LOG, &[]).await.is_ok();
        if crashed && is_lost(site).await? {
            return Ok(());
        }
    }
    Err(nothing(site, format!("kube-stream did not crash deploy-kubernetes so that pm2 lost it, in {TRIES} attempts")))
}
