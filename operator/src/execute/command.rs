//! A step as a command on the host, run over its one SSH connection.
//!
//! Scripts are constants. What varies reaches them as positional parameters, quoted by the transport's library; a secret
//! reaches them on standard input and lives in one environment variable of the program that needs it.

use super::CannotExecute;
use crate::hosts::Change;
use binder_core::catalogue::Start;
use binder_core::facets::Step;
use secrecy::SecretString;
use std::time::Duration;

/// How much of what a command says is kept, in characters.
const SAID: usize = 400;

/// Starts a server. The key is read from standard input and handed on in `BINDER_API_KEY`, where Binder's servers look for
/// it; as an argument, every user of the host could read it in `ps`.
const START_SERVER: &str = r#"
set -u
IFS= read -r BINDER_API_KEY || exit 64
export BINDER_API_KEY
[ -n "${2:-}" ] && PATH="$2:$PATH"
cd "$HOME" && exec binder-control "$1" start </dev/null
"#;

/// Starts a service. Its exit code is 1 on success and 2 on failure, and nobody looks at it.
const START_SERVICE: &str = r#"
set -u
cd "$HOME" && exec binder-control start-service "$1" </dev/null
"#;

/// Starts an owner's own process.
const START_COMMAND: &str = r#"
set -u
cd "$HOME" && exec "$@" </dev/null
"#;

/// Stops a server. It ends its children itself, if pm2 lets it.
const STOP_SERVER: &str = r#"
set -u
cd "$HOME" && exec binder-control "$1" stop </dev/null
"#;

/// Stops a service. Its exit code is 1 on success and 2 on failure, and nobody looks at it.
const STOP_SERVICE: &str = r#"
set -u
cd "$HOME" && exec binder-control stop-service "$1" </dev/null
"#;

/// Deletes entries one by one, the parent first, so that it may end its children itself. `--` would be taken for a name;
/// the names cannot begin with a dash.
const DELETE_ENTRIES: &str = r#"
set -u
for name in "$@"; do pm2 delete "$name" </dev/null || true; done
"#;

/// Ends a process of the login's own if it still is the one that was seen: same start, same command. The kernel refuses
/// any other user's.
const END_PROCESS: &str = r#"
set -u
pid=$1 started=$2 signature=$3
same() {
  stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 1
  set -- ${stat##*) }
  [ "${20:-}" = "$started" ] || return 1
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$signature"
}
same || { echo "pid $pid is not that process any more"; exit 0; }
kill -TERM "$pid" || exit 1
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do same || exit 0; sleep 0.25; done
same && kill -KILL "$pid"
"#;

/// Starts the proxy as the runbook's `screen` did: detached, with its output in a file. What it says in its first moment
/// is told, since a kubectl that cannot start says why.
const START_KUBECTL_PROXY: &str = r#"
set -u
port=$1 kubectl=$2
mkdir -p "$HOME/.binder" && log="$HOME/.binder/kubectl-proxy.log" || exit 1
cd "$HOME"
setsid nohup "$kubectl" proxy --port="$port" >"$log" 2>&1 </dev/null &
child=$!
for i in 1 2 3 4; do
  sleep 0.25
  kill -0 "$child" 2>/dev/null || { wait "$child"; code=$?; tail -n 3 "$log"; exit "$code"; }
done
"#;

/// Appends the rule unless it is there by now. `-w` waits for others, as long as `timeout` lets it: with seconds it came with
/// iptables 1.6, and not at all before 1.4.20, which refuses it with exit code 2.
const INSERT_REDIRECT: &str = r#"
set -u
wait=-w
sudo -n timeout 10 iptables -w -t nat -S PREROUTING >/dev/null 2>&1 || [ $? -ne 2 ] || wait=
rule() { sudo -n timeout 10 iptables $wait -t nat "$1" PREROUTING -i "$2" -p tcp --dport "$3" -j REDIRECT --to-port "$4"; }
rule -C "$@" 2>/dev/null || rule -A "$@"
"#;

/// Restarts the machine if it still runs the boot that is to end, so that a command that comes late restarts nothing. The
/// answer comes before the end does. Always in order: what refuses (systemd, for an inhibitor such as an upgrade of packages)
/// is not gone round, and nothing is forced.
const REBOOT: &str = r#"
set -u
[ "$(cat /proc/sys/kernel/random/boot_id)" = "$1" ] || { echo "the machine has been restarted meanwhile"; exit 0; }
sudo -n true || exit 77
setsid sh -c '
sleep 1
sync
if [ -d /run/systemd/system ]; then exec sudo -n systemctl reboot; fi
sudo -n reboot || sudo -n busybox reboot
' </dev/null >/dev/null 2>&1 &
"#;

/// Deletes the rule while it is there more than once, counting anew each time. `-w` as above.
const DELETE_EXTRA_REDIRECTS: &str = r#"
set -u
interface=$1 from=$2 to=$3 wait=-w
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
  rules=$(sudo -n timeout 10 iptables $wait -t nat -S PREROUTING) || {
    [ $? -eq 2 ] && [ -n "$wait" ] || exit 1
    wait=
    continue
  }
  count=$(printf '%s\n' "$rules" | grep -Fxc -- "-A PREROUTING -i $interface -p tcp -m tcp --dport $from -j REDIRECT --to-ports $to")
  [ "$count" -gt 1 ] || exit 0
  sudo -n timeout 10 iptables $wait -t nat -D PREROUTING -i "$interface" -p tcp --dport "$from" -j REDIRECT --to-port "$to" || exit 1
done
"#;

/// Removes containers (pairs of id and time of ending), each only if it has stopped and is still the one that was seen:
/// one that ran again has another time. Without `--force` Docker itself refuses to remove one that runs. The last line names
/// what Docker refused to remove ([`binder_core::plan::memory::REFUSED`]).
const REMOVE_CONTAINERS: &str = r#"
set -u
refused=
engine() { sudo -n timeout -s KILL 20 docker --config /nonexistent --host unix:///var/run/docker.sock "$@"; }
while [ $# -ge 2 ]; do
  id=$1 finished=$2
  shift 2
  state=$(engine inspect --type container --format '{{.Id}} {{.State.Running}} {{.State.Paused}} {{.State.Restarting}} {{json .State.FinishedAt}}' "$id" 2>&1) || { echo "$state"; continue; }
  [ "$state" = "$id false false false \"$finished\"" ] || { echo "not what was seen, left alone: $id"; continue; }
  words=$(engine rm "$id" 2>&1 >/dev/null)
  [ $? = 1 ] && { printf '%.150s\n' "$words"; refused="$refused $(printf %.12s "$id")"; }
done
[ -z "$refused" ] || { echo "refused$refused"; exit 1; }
"#;

/// Removes images (pairs of id and time of naming, which a Docker before 17.06 does not know), each only if no build is under way, no container was made of it or of
/// what was built upon it, and nobody has named it anew. By its id and without `--force` Docker itself refuses to remove an
/// image that is used or built upon; an image of several names loses all but one of them first, since Docker wants that. The
/// last line names what Docker refused to remove.
const REMOVE_IMAGES: &str = r#"
set -u
refused=
engine() { sudo -n timeout -s KILL 20 docker --config /nonexistent --host unix:///var/run/docker.sock "$@"; }
told=$(engine info) || exit 1
root=$(printf '%s\n' "$told" | sed -n 's/^ *Docker Root Dir: *//p' | head -n 1)
case $root in /*) ;; *) echo "Docker does not tell its root dir"; exit 1 ;; esac
building() { sudo -n sh -c 'for context in "$1"/tmp/docker-builder* "$1"/buildkit/executor/*/; do [ -e "$context" ] && exit 0; done; exit 1' sh "$root"; }
while [ $# -ge 2 ]; do
  id=$1 tagged=$2
  shift 2
  if building; then echo "a build is under way: no image is touched"; exit 0; fi
  state=$(engine inspect --type image --format '{{.Id}} {{with index . "Metadata"}}{{json (index . "LastTagTime")}}{{else}}-{{end}}' "$id" 2>&1) || { echo "$state"; continue; }
  case $state in "$id \"$tagged\"") ;; "$id -" | "$id null") [ -z "$tagged" ] ;; *) false ;; esac || { echo "not what was seen, left alone: $id"; continue; }
  users=$(engine ps --all --quiet --filter "ancestor=$id") || exit 1
  [ -z "$users" ] || { echo "in use, left alone: $id"; continue; }
  names=$(engine inspect --type image --format '{{range .RepoTags}}{{println .}}{{end}}' "$id") || continue
  for name in $(printf '%s\n' "$names" | grep . | sed 1d); do engine rmi "$name" >/dev/null; done
  words=$(engine rmi "$id" 2>&1 >/dev/null)
  [ $? = 1 ] && { printf '%.150s\n' "$words"; refused="$refused $(printf %.12s "${id#sha256:}")"; }
done
[ -z "$refused" ] || { echo "refused$refused"; exit 1; }
"#;

/// apt fetches again what it needs again.
const EMPTY_PACKAGE_CACHE: &str = "set -u; sudo -n timeout 30 apt-get clean";

/// Deletes files that are empty, files, and the login's own or root's; `find` looks at the moment of deletion, and follows
/// no link.
const DELETE_EMPTY_FILES: &str = r#"
set -u
for path in "$@"; do
  sudo -n find "$path" -maxdepth 0 -type f -empty \( -uid 0 -o -uid "$(id -u)" \) -print -delete
done
"#;

/// By whatever starts services on this machine. systemd gives up a service that ended too often; it must be told to try. One
/// that answers after all is left alone.
const RESTART_DOCKER: &str = r#"
set -u
sudo -n true || exit 77
if sudo -n timeout -s KILL 6 docker --config /nonexistent --host unix:///var/run/docker.sock version >/dev/null 2>&1; then
  echo "Docker answers: left alone"
  exit 0
fi
if [ -d /run/systemd/system ]; then
  sudo -n systemctl reset-failed docker
  exec sudo -n timeout 45 systemctl restart docker
fi
sudo -n timeout 40 service docker restart || exec sudo -n timeout 40 service docker start
"#;

/// Has npm install one version of a module. It goes on in a session of its own, since a registry may be far away: what came of
/// it is seen by a later look, and in the file. In a folder without a `package.json` npm would take everything that it finds
/// there for superfluous and remove it.
const INSTALL_MODULE: &str = r#"
set -u
place=$1 global=$2 scripts=$3 module=$4
set -- --no-audit --no-fund --loglevel=error
if [ "$global" = yes ]; then
  root=$place/lib/node_modules
  set -- --global "$@"
else
  root=$place/node_modules
  [ -f "$place/package.json" ] || { echo "$place has no package.json: npm would remove what it does not name"; exit 66; }
  set -- --save-exact "$@"
fi
[ "$scripts" = yes ] || set -- --ignore-scripts "$@"
command -v npm >/dev/null || { echo "npm is not on the PATH"; exit 127; }
set -- timeout -k 10 270 npm install "$module" --prefix "$place" "$@"
if [ ! -w "$root" ]; then
  sudo -n true || exit 77
  set -- sudo -n env "PATH=$PATH" "$@"
fi
mkdir -p "$HOME/.binder" && log="$HOME/.binder/modules.log" || exit 1
cd /
setsid sh -c '"$@" >"$0" 2>&1 </dev/null; exit $?' "$log" "$@" </dev/null >/dev/null 2>&1 &
child=$!
i=0
while [ "$i" -lt 90 ]; do
  kill -0 "$child" 2>/dev/null || { wait "$child"; code=$?; tail -n 5 "$log"; exit "$code"; }
  sleep 0.5
  i=$((i + 1))
done
echo "npm is still at work"
"#;

/// The command of a step that is one.
///
/// # Errors
/// [`CannotExecute`] when the step lacks something that only the owner can give.
pub(super) fn command(step: &Step, api_key: Option<SecretString>) -> Result<Change, CannotExecute> {
    let change = |name, script, args: Vec<String>, seconds| Change {
        name,
        script,
        args,
        stdin: None,
        limit: Duration::from_secs(seconds),
        max_output: SAID,
    };
    Ok(match step {
        Step::StartProcess { component, start: Start::Server { name }, path } => {
            let key = api_key.ok_or_else(|| CannotExecute::NoApiKey { component: component.clone() })?;
            let args = vec![name.clone(), path.clone().unwrap_or_default()];
            Change { stdin: Some(key), ..change("start-server", START_SERVER, args, 40) }
        }
        Step::StartProcess { start: Start::Service { name }, .. } => {
            change("start-service", START_SERVICE, vec![name.clone()], 40)
        }
        Step::StartProcess { component, start: Start::Command { argv }, .. } => {
            if argv.is_empty() {
                return Err(CannotExecute::NoCommand { component: component.clone() });
            }
            change("start-process", START_COMMAND, argv.clone(), 40)
        }
        Step::StopProcess { component, service: true, .. } => {
            change("stop-service", STOP_SERVICE, vec![component.clone()], 40)
        }
        Step::StopProcess { component, .. } => change("stop-server", STOP_SERVER, vec![component.clone()], 40),
        Step::DeleteEntries { processes, .. } => change("delete-entries", DELETE_ENTRIES, processes.clone(), 40),
        Step::EndOrphan { orphan: process, .. } | Step::EndKubectlProxy { process, .. } => {
            let args = vec![process.pid.to_string(), process.started_ticks.to_string(), process.signature.clone()];
            change("end-process", END_PROCESS, args, 20)
        }
        Step::StartKubectlProxy { port, kubectl } => {
            change("start-kubectl-proxy", START_KUBECTL_PROXY, vec![port.to_string(), kubectl.clone()], 20)
        }
        Step::DeleteRoutes { .. } | Step::WriteApiKey { .. } => return Err(CannotExecute::NoCommandLine),
        Step::InsertRedirect { interface, from, to } => {
            change("insert-redirect", INSERT_REDIRECT, vec![interface.clone(), from.to_string(), to.to_string()], 20)
        }
        Step::Reboot { boot_id } => change("reboot", REBOOT, vec![boot_id.clone()], 20),
        Step::PowerCycle { .. } | Step::PowerOn { .. } | Step::AuthorizeKey { .. } | Step::RestartNode { .. } => {
            return Err(CannotExecute::NoCommandLine);
        }
        Step::DeleteExtraRedirects { interface, from, to } => change(
            "delete-extra-redirects",
            DELETE_EXTRA_REDIRECTS,
            vec![interface.clone(), from.to_string(), to.to_string()],
            20,
        ),
        Step::RemoveContainers { containers } => {
            let args = containers.iter().flat_map(|one| [one.id.clone(), one.finished.clone()]).collect();
            change("remove-containers", REMOVE_CONTAINERS, args, 55)
        }
        Step::RemoveImages { images } => {
            let args = images.iter().flat_map(|one| [one.id.clone(), one.tagged.clone()]).collect();
            change("remove-images", REMOVE_IMAGES, args, 55)
        }
        Step::EmptyPackageCache => change("empty-package-cache", EMPTY_PACKAGE_CACHE, Vec::new(), 35),
        Step::DeleteEmptyDockerConfig { paths } => change("delete-empty-files", DELETE_EMPTY_FILES, paths.clone(), 20),
        Step::RestartDocker => change("restart-docker", RESTART_DOCKER, Vec::new(), 55),
        Step::InstallModule { change: module } | Step::RevertModule { change: module } => {
            let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
            let args = vec![module.place.0.clone(), yes(module.global), yes(module.scripts), module.asked()];
            change("install-module", INSTALL_MODULE, args, 55)
        }
        Step::FailBuild { .. } | Step::RebuildBuild { .. } | Step::FailUnusableBuild { .. } | Step::BackUp { .. } => {
            return Err(CannotExecute::NotHere);
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_api_key_is_in_no_argument() {
        let step = Step::StartProcess {
            component: "web".to_owned(),
            start: Start::Server { name: "web".to_owned() },
            path: None,
        };
        let change = command(&step, Some("s3cret-key".into())).unwrap();
        assert!(change.stdin.is_some());
        assert!(!format!("{change:?}").contains("s3cret-key"));
        assert!(matches!(command(&step, None), Err(CannotExecute::NoApiKey { .. })));
    }

    /// Runs a script as the transport does, on this machine.
    fn run(script: &str, args: &[&str]) -> (i32, String) {
        let output = Command::new("sh").args(["-c", script, "test"]).args(args).output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn started_ticks(pid: u32) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat[stat.rfind(')').unwrap() + 2..].split(' ').nth(19).unwrap().to_owned()
    }

    #[test]
    fn only_the_very_process_that_was_seen_is_ended() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id().to_string();
        let ticks = started_ticks(child.id());
        for (ticks, signature) in [("1", "sleep"), (ticks.as_str(), "binder-web"), (ticks.as_str(), "$(reboot)")] {
            let (code, said) = run(END_PROCESS, &[&pid, ticks, signature]);
            assert_eq!((code, said.contains("not that process")), (0, true));
            assert!(child.try_wait().unwrap().is_none(), "ended with ticks {ticks} and signature {signature}");
        }
        // Its end is reaped here, as an init would: until then the script sees it and waits.
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        assert_eq!(run(END_PROCESS, &[&pid, &ticks, "sleep"]).0, 0);
        assert!(!reaper.join().unwrap().success());
    }

    #[test]
    fn a_reboot_that_is_refused_is_not_forced() {
        assert!(!REBOOT.contains(" -f"), "an unsynced reboot");
        // With systemd, what it refuses (an inhibitor) ends there.
        let after = REBOOT.split("then exec sudo -n systemctl reboot; fi").nth(1).unwrap();
        assert!(!after.contains("systemctl") && REBOOT.contains("\nsync\n"));
        // A command that comes late restarts nothing.
        assert!(run(REBOOT, &["another-boot"]).1.contains("has been restarted meanwhile"));
    }

    /// Images and containers, removed by a client of this text; what it was told to remove.
    fn removes(script: &str, args: &[&str], inspect: &str) -> Vec<String> {
        removes_or(script, args, inspect, "").0
    }

    /// The same with a client that does `refuses` before it removes something; and what was printed.
    fn removes_or(script: &str, args: &[&str], inspect: &str, refuses: &str) -> (Vec<String>, String) {
        let folder = tempfile::tempdir().unwrap().keep();
        let client = format!(
            "#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in --config | --host) shift 2 ;; *) break ;; esac; done\n\
             case $1 in info) echo ' Docker Root Dir: /nonexistent' ;; inspect) case $* in *RepoTags*) echo x:1 ;; *) {inspect} ;; esac ;;\n\
             rm | rmi) shift; {refuses} echo \"$@\" >>{}/removed ;; esac\n",
            folder.display()
        );
        for (name, text) in [("docker", client.as_str()), ("sudo", "#!/bin/sh\nshift\nexec \"$@\"\n")] {
            std::fs::write(folder.join(name), text).unwrap();
            Command::new("chmod").arg("755").arg(folder.join(name)).status().unwrap();
        }
        let path = format!("{}:/usr/bin:/bin", folder.display());
        let ran = Command::new("sh").args(["-c", script, "test"]).args(args).env("PATH", path).output().unwrap();
        let removed = std::fs::read_to_string(folder.join("removed")).unwrap_or_default();
        std::fs::remove_dir_all(&folder).unwrap();
        (removed.lines().map(str::to_owned).collect(), String::from_utf8_lossy(&ran.stdout).into_owned())
    }

    #[test]
    fn what_docker_refuses_to_remove_is_named_and_the_rest_is_removed() {
        let (one, other) = ("a".repeat(64), "b".repeat(64));
        let (first, second) = (format!("sha256:{one}"), format!("sha256:{other}"));
        let inspect = "for id; do :; done; echo \"$id -\"";
        let words = "Error response from daemon: conflict: unable to delete";
        let refuses = format!("case $1 in *a) echo '{words}' >&2; exit 1 ;; esac;");
        let (removed, said) = removes_or(REMOVE_IMAGES, &[&first, "", &second, ""], inspect, &refuses);
        assert_eq!(removed, [second.as_str()]);
        assert!(said.contains(words) && said.ends_with("refused aaaaaaaaaaaa\n"), "{said}");
        let inspect = "for id; do :; done; echo \"$id false false false \\\"t\\\"\"";
        let (removed, said) = removes_or(REMOVE_CONTAINERS, &[&one, "t", &other, "t"], inspect, &refuses);
        assert_eq!(removed, [other.as_str()]);
        assert!(said.ends_with("refused aaaaaaaaaaaa\n"), "{said}");
        // One that is killed at its limit has refused nothing.
        let (_, said) = removes_or(REMOVE_CONTAINERS, &[&one, "t"], inspect, "exit 137;");
        assert!(!said.contains("refused"), "{said}");
    }

    #[test]
    fn only_the_image_that_was_seen_is_removed_by_a_docker_of_today_and_of_2016() {
        let now = "2026-11-22T15:22:39.8Z";
        let today = format!("echo 'sha256:aa \"{now}\"'");
        assert_eq!(removes(REMOVE_IMAGES, &["sha256:aa", now], &today), ["sha256:aa"]);
        assert!(removes(REMOVE_IMAGES, &["sha256:aa", "2026-11-22T15:00:00Z"], &today).is_empty(), "named anew");
        assert_eq!(removes(REMOVE_IMAGES, &["sha256:aa", ""], "echo 'sha256:aa -'"), ["sha256:aa"]);
        assert!(removes(REMOVE_IMAGES, &["sha256:aa", ""], &today).is_empty(), "named since");
        assert!(removes(REMOVE_IMAGES, &["sha256:aa", now], "echo 'sha256:aa -'").is_empty());
    }

    #[test]
    fn npm_is_asked_for_one_version_in_one_place_and_runs_no_scripts_unasked() {
        let home = std::env::temp_dir().join(format!("binder-npm-{}", std::process::id()));
        for folder in ["bin", "app/node_modules", "global/lib/node_modules", "bare/node_modules"] {
            std::fs::create_dir_all(home.join(folder)).unwrap();
        }
        std::fs::write(home.join("app/package.json"), "{}").unwrap();
        std::fs::write(home.join("bin/npm"), "#!/bin/sh\necho \"$@\"\nexit 3\n").unwrap();
        Command::new("chmod").arg("755").arg(home.join("bin/npm")).status().unwrap();
        let run = |place: &str, global: &str, scripts: &str| {
            let output = Command::new("sh")
                .args(["-c", INSTALL_MODULE, "test", &format!("{}/{place}", home.display()), global, scripts])
                .arg("binder-web@1.1.17")
                .env("HOME", &home)
                .env("PATH", format!("{}/bin:/usr/bin:/bin", home.display()))
                .output()
                .unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap().replace(&home.display().to_string(), ""))
        };
        let rest = "--no-audit --no-fund --loglevel=error";
        let app = format!("install binder-web@1.1.17 --prefix /app --ignore-scripts --save-exact {rest}\n");
        let global = format!("install binder-web@1.1.17 --prefix /global --global {rest}\n");
        let answers = [run("app", "no", "no"), run("global", "yes", "yes"), run("bare", "no", "no")];
        std::fs::remove_dir_all(&home).unwrap();
        assert_eq!(answers[0], (Some(3), app));
        assert_eq!(answers[1], (Some(3), global));
        // npm would take everything in the folder for superfluous.
        assert_eq!(answers[2].0, Some(66));
    }

    #[test]
    fn a_kubectl_that_cannot_start_says_why() {
        let home = std::env::temp_dir().join(format!("binder-execute-{}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        let output = Command::new("sh")
            .args(["-c", START_KUBECTL_PROXY, "test", "8085", "/nonexistent/kubectl.sh"])
            .env("HOME", &home)
            .output()
            .unwrap();
        std::fs::remove_dir_all(&home).unwrap();
        assert_eq!(output.status.code(), Some(127));
        assert!(String::from_utf8_lossy(&output.stdout).contains("kubectl.sh"));
    }
}
