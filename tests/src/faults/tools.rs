//! Faults that only look like faults: a tool refuses, is slow or is missing, a file was replaced or says something else,
//! and what it is about works. Nothing is to be done about any of them; `mend` takes them back.
//!
//! A tool is replaced in the host's own file system by a script of the same name, in one step, and the real one is kept
//! beside it.

use super::binder::DELETE;
use super::cluster::{nothing, silence};
use super::proxy::ANSWERS;
use super::{Act, CLOSED, Fault, FaultError, Healer, OPEN, Site, Target, runs, shows, unseen};
use crate::binder::settle::START_PROXY;
use crate::inventory::Role;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "ss-refuses",
        does: "ss does not know `-H`, as in distributions before 2018; everything else about it works",
        healed_by: Healer::Mend,
        target: Target::Any,
        inflict: REFUSE_OPTION,
        undo: Some(RESTORE_SS),
    },
    Fault {
        name: "ss-broken",
        does: "ss ends with an error and prints no socket, however it is called; everybody goes on to listen",
        healed_by: Healer::Mend,
        target: Target::Any,
        inflict: BREAK_SS,
        undo: Some(RESTORE_SS),
    },
    Fault {
        name: "docker-slow",
        does: "Docker's daemon gets to run four seconds of every thirteen: it answers each question, some after nine seconds",
        healed_by: Healer::Mend,
        target: Target::The(Role::Build),
        inflict: SLOW_DOCKER,
        undo: Some(QUICK_DOCKER),
    },
    Fault {
        name: "clock-behind",
        does: "the build server's clock, as `date` tells it, is five hours behind, and a build has just been started by it",
        healed_by: Healer::Mend,
        target: Target::The(Role::Build),
        inflict: SET_CLOCK_BACK,
        undo: Some(SET_CLOCK_RIGHT),
    },
    Fault {
        name: "port-moved",
        does: "~/.binder/web.conf names port 3001, and the web server listens there and not on 3000",
        healed_by: Healer::Mend,
        target: Target::The(Role::WebDeploy),
        inflict: MOVE_PORT,
        undo: Some(MOVE_PORT_BACK),
    },
    Fault {
        name: "kubectl-replaced",
        does: "8085 is served by ~/bin/kubectl, and that file has been replaced by an upgrade while it ran",
        healed_by: Healer::Mend,
        target: Target::The(Role::WebDeploy),
        inflict: REPLACE_KUBECTL,
        undo: Some(USUAL_KUBECTL),
    },
    Fault {
        name: "start-impossible",
        does: "the web server is gone from pm2, and so is binder-control, which would start it",
        healed_by: Healer::Mend,
        target: Target::The(Role::WebDeploy),
        inflict: HIDE_CONTROL,
        undo: Some(PUT_CONTROL_BACK),
    },
];

const REFUSE_OPTION: Act = |site| Box::pin(replace_ss(site, OLD_SS, "Hltn", "invalid option"));
const BREAK_SS: Act = |site| Box::pin(replace_ss(site, BROKEN_SS, "ltn", "Cannot open netlink socket"));
const RESTORE_SS: Act = |site| Box::pin(restore(site, "ss"));
const SLOW_DOCKER: Act = |site| Box::pin(slow_docker(site));
const QUICK_DOCKER: Act = |site| Box::pin(quick_docker(site));
const SET_CLOCK_BACK: Act = |site| Box::pin(set_clock_back(site));
const SET_CLOCK_RIGHT: Act = |site| Box::pin(set_clock_right(site));
const MOVE_PORT: Act = |site| Box::pin(unseen(site, move_port(site)));
const MOVE_PORT_BACK: Act = |site| Box::pin(unseen(site, move_port_back(site)));
const REPLACE_KUBECTL: Act = |site| Box::pin(unseen(site, replace_kubectl(site)));
const USUAL_KUBECTL: Act = |site| Box::pin(unseen(site, usual_kubectl(site)));
const HIDE_CONTROL: Act = |site| Box::pin(unseen(site, hide_control(site)));
const PUT_CONTROL_BACK: Act = |site| Box::pin(unseen(site, put_control_back(site)));

/// Puts the script `$2` into the place of `/usr/bin/$1`, which is kept as `/usr/bin/.lab-$1`.
const REPLACE: &str = r#"
cd /usr/bin
[ -e ".lab-$1" ] || cp -p "$1" ".lab-$1"
printf '%s\n' "$2" >".lab-$1.new"
chmod 755 ".lab-$1.new"
mv -f ".lab-$1.new" "$1"
"#;
/// Puts the real one back.
const RESTORE: &str = "cd /usr/bin; [ ! -e \".lab-$1\" ] || mv -f \".lab-$1\" \"$1\"";
/// Succeeds when `/usr/bin/$1` is the real one.
const RESTORED: &str = "[ ! -e \"/usr/bin/.lab-$1\" ] && head -c 4 \"/usr/bin/$1\" | grep -q ELF";

async fn restore(site: Site<'_>, tool: &str) -> Result<(), FaultError> {
    site.host.script(RESTORE, &[tool]).await?;
    shows(site.host, "the real tool is back", RESTORED, &[tool]).await
}

/// The words and the status of iproute2 before 4.7. Filters such as `sport = :80` are no options.
const OLD_SS: &str = r#"#!/bin/sh
for word in "$@"; do
  case $word in
    --no-header) echo "ss: unrecognized option '--no-header'" >&2 ;;
    --*) continue ;;
    -*H*) echo "ss: invalid option -- 'H'" >&2 ;;
    *) continue ;;
  esac
  printf 'Usage: ss [ OPTIONS ]\n       ss [ OPTIONS ] [ FILTER ]\n' >&2
  exit 255
done
exec /usr/bin/.lab-ss "$@""#;

const BROKEN_SS: &str = "#!/bin/sh\necho 'Cannot open netlink socket: Protocol not supported' >&2\nexit 255";

/// Succeeds when `ss -$1` ends with status 255 and says `$2`.
const SS_REFUSES: &str = "said=$(ss \"-$1\" 2>&1) && exit 1; status=$?; echo \"$status: $said\"; [ $status = 255 ]; echo \"$said\" | grep -qF -- \"$2\"";

async fn replace_ss(site: Site<'_>, script: &'static str, options: &str, says: &str) -> Result<(), FaultError> {
    site.host.script(REPLACE, &["ss", script]).await?;
    shows(site.host, "ss refuses", SS_REFUSES, &[options, says]).await
}

/// Stops Docker's daemon for `$1` of every `$1` plus `$2` seconds.
const STOP_AND_GO: &str = r#"
setsid sh -c '
  while :; do
    pkill -STOP -x dockerd
    sleep "$1"
    pkill -CONT -x dockerd
    sleep "$2"
  done' binder-lab-slow-docker "$1" "$2" </dev/null >/dev/null 2>&1 &
"#;
/// For how long it is stopped, and how long it then runs, in seconds. A question that comes in the first three of the nine has no
/// answer within the operator's six; the one after that has.
const STOPPED: &str = "9";
const RUNS: &str = "4";

/// Ends that. `timeout` tells 124 when it had to end the question.
const GO: &str = "pkill -f '[b]inder-lab-slow-docker' || true; pkill -CONT -x dockerd";
const NO_ANSWER: &str = "timeout 5 docker version >/dev/null 2>&1 && exit 1 || [ $? = 124 ]";

async fn slow_docker(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script_that_stays(STOP_AND_GO, &[STOPPED, RUNS]).await?;
    shows(site.host, "Docker has no answer within 5 s", NO_ANSWER, &[]).await?;
    shows(site.host, "Docker answers within 20 s", "timeout 20 docker version", &[]).await
}

async fn quick_docker(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script(GO, &[]).await?;
    shows(site.host, "Docker answers at once", "timeout 3 docker version", &[]).await
}

/// How far the clock is behind.
const BEHIND: i64 = 5 * 3600;

/// A host of the lab shares the computer's kernel, and with it the clock. What asks `date` is told another time; what asks for the
/// time of something (`-d`, `-r`) is told the truth.
const LATE_DATE: &str = r#"#!/bin/sh
for word in "$@"; do
  case $word in -d*|-*d|--date*|-r*|--reference*|-s*|--set*|-f*|--file*) exec /usr/bin/.lab-date "$@" ;; esac
done
exec /usr/bin/.lab-date --date='-18000 seconds' "$@""#;

/// Succeeds when `date` tells a time that is at least four hours before `$1`.
const IS_LATE: &str = "now=$(date +%s); echo \"$now\"; [ $((now + 14400)) -lt \"$1\" ]";

/// A build that began this moment by that clock. Nobody works at it, and nobody would know yet.
pub const FRESH_BUILD: &str = "binder-project-example-fresh";
/// Its repository.
const FRESH_REPOSITORY: &str = "http://github.com/binder-project/example-fresh";

async fn set_clock_back(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script(REPLACE, &["date", LATE_DATE]).await?;
    let now = jiff::Timestamp::now().as_second();
    shows(site.host, "the clock is behind", IS_LATE, &[&now.to_string()]).await?;
    let began = jiff::Timestamp::from_second(now - BEHIND).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string();
    site.lab.database("put", &[FRESH_BUILD, FRESH_REPOSITORY, &began, "running"]).await?;
    let row = site.lab.database("build", &[FRESH_BUILD]).await?;
    if row["status"] == "running" { Ok(()) } else { Err(nothing(site, format!("the build is {row}"))) }
}

async fn set_clock_right(site: Site<'_>) -> Result<(), FaultError> {
    site.lab.database("remove", &["builds", FRESH_BUILD]).await?;
    restore(site, "date").await
}

/// Where the web server goes.
pub const MOVED_TO: u16 = 3001;

/// Writes port `$1` into the web server's settings, and restarts it so that it reads them.
const WRITE_PORT: &str = r#"
cd ~/.binder
node -e '
  const fs = require("fs")
  const settings = JSON.parse(fs.readFileSync("web.conf", "utf8"))
  fs.writeFileSync("web.conf.new", JSON.stringify({ ...settings, port: Number(process.argv[1]) }, null, 2) + "\n")
' "$1"
mv web.conf.new web.conf
pm2 restart binder-web-start >/dev/null
"#;

async fn write_port(site: Site<'_>, from: &str, to: &str) -> Result<(), FaultError> {
    runs(site.host, "binder-web-start", Some(from)).await?;
    site.host.script_as_user(WRITE_PORT, &[to]).await?;
    shows(site.host, "the web server listens on the new port", OPEN, &[to]).await?;
    shows(site.host, "nobody listens on the old one", CLOSED, &[from]).await
}

async fn move_port(site: Site<'_>) -> Result<(), FaultError> {
    write_port(site, "3000", &MOVED_TO.to_string()).await
}

async fn move_port_back(site: Site<'_>) -> Result<(), FaultError> {
    write_port(site, &MOVED_TO.to_string(), "3000").await
}

/// The kubectl that is replaced: a program, and not the script that starts one.
pub const OWN_KUBECTL: &str = "/home/andrew/bin/kubectl";

/// Starts the proxy by a kubectl of the login's own, `$1`.
const START_OWN: &str = r#"
mkdir -p "$(dirname "$1")"
cp ~/kubernetes/platforms/linux/amd64/kubectl "$1.new"
mv -f "$1.new" "$1"
setsid -f "$1" proxy --port=8085 </dev/null >>~/kubectl-proxy.log 2>&1
"#;
/// Replaces it by a file of the same contents, as a package manager does: written beside it, then renamed.
const UPGRADE: &str = "cp \"$1\" \"$1.new\"; mv -f \"$1.new\" \"$1\"";
/// Succeeds when who listens on 8085 runs what was the file `$1`.
const RUNS_DELETED: &str = "pid=$(ss -ltnpH 'sport = :8085' | grep -o 'pid=[0-9]*' | head -n 1 | cut -d= -f2); \
    program=$(readlink \"/proc/$pid/exe\"); echo \"$program\"; [ \"$program\" = \"$1 (deleted)\" ]";

async fn replace_kubectl(site: Site<'_>) -> Result<(), FaultError> {
    silence(site).await?;
    site.host.script_as_user(START_OWN, &[OWN_KUBECTL]).await?;
    cluster_answers(site).await?;
    site.host.script_as_user(UPGRADE, &[OWN_KUBECTL]).await?;
    shows(site.host, "the program that serves 8085 has been replaced", RUNS_DELETED, &[OWN_KUBECTL]).await
}

async fn usual_kubectl(site: Site<'_>) -> Result<(), FaultError> {
    usual_proxy(site).await?;
    site.host.script_as_user("rm -rf \"$(dirname \"$1\")\"", &[OWN_KUBECTL]).await?;
    Ok(())
}

/// Has the runbook's proxy serve 8085 in place of whatever does.
pub(super) async fn usual_proxy(site: Site<'_>) -> Result<(), FaultError> {
    silence(site).await?;
    site.host.script_as_user(START_PROXY, &[]).await?;
    cluster_answers(site).await
}

/// Waits until the lab's own cluster answers on 8085.
async fn cluster_answers(site: Site<'_>) -> Result<(), FaultError> {
    let identity = site.lab.status()?.cluster_id.ok_or_else(|| nothing(site, "the lab has no cluster".to_owned()))?;
    shows(site.host, "the cluster answers on 8085", ANSWERS, &[&identity]).await
}

async fn hide_control(site: Site<'_>) -> Result<(), FaultError> {
    site.host
        .script("cd /usr/local/bin; [ ! -e binder-control ] || mv binder-control .lab-binder-control", &[])
        .await?;
    site.host.script_as_user("! command -v binder-control", &[]).await?;
    site.host.script_as_user(DELETE, &["binder-web-start"]).await?;
    shows(site.host, "nobody listens on 3000", CLOSED, &["3000"]).await
}

async fn put_control_back(site: Site<'_>) -> Result<(), FaultError> {
    let back = "cd /usr/local/bin; [ ! -e .lab-binder-control ] || mv .lab-binder-control binder-control";
    site.host.script(back, &[]).await?;
    if site.host.script(CLOSED, &["3000"]).await.is_ok() {
        site.lab.binder()?.ask_to_start_unseen(site.host, "web", None).await?;
    }
    shows(site.host, "the web server listens", OPEN, &["3000"]).await
}
