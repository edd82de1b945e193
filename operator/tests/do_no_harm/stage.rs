//! A computer that plays a host: stand-ins for its tools on the `PATH`, a world of processes, listeners and files that they
//! tell of, and a real `sh` that runs the real probe against them.

use binder_core::seen::{Answer, Ask};
use binder_operator::observe::local;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Stand-ins that are scripts of their own.
const SCRIPTS: &[(&str, &str)] = &[
    ("cat", include_str!("tools/cat")),
    ("date", include_str!("tools/date")),
    ("df", include_str!("tools/df")),
    ("dmesg", include_str!("tools/dmesg")),
    ("docker", include_str!("tools/docker")),
    ("id", include_str!("tools/id")),
    ("ip", include_str!("tools/ip")),
    ("iptables", include_str!("tools/iptables")),
    ("iptables-save", include_str!("tools/iptables-save")),
    ("node", include_str!("tools/node")),
    ("npm", include_str!("tools/npm")),
    ("pm2", include_str!("tools/pm2")),
    ("ps", include_str!("tools/ps")),
    ("readlink", include_str!("tools/readlink")),
    ("ss", include_str!("tools/ss")),
    ("stat", include_str!("tools/stat")),
    ("sudo", include_str!("tools/sudo")),
    ("systemctl", include_str!("tools/systemctl")),
];

/// Real tools, with the world's `/proc` in place of the computer's.
const READERS: &[&str] = &["awk", "grep", "head", "sed", "tail", "tr", "cut", "sort", "wc"];

/// Real tools as they are.
const PLAIN: &[&str] = &[
    "[", "base64", "basename", "dd", "dirname", "echo", "env", "expr", "false", "find", "getconf", "hostname", "kill",
    "ls", "mktemp", "nl", "nproc", "od", "printf", "rm", "seq", "setsid", "sh", "sleep", "test", "timeout", "touch",
    "true", "uname", "uniq", "xargs",
];

/// The name under which a stand-in is found although it is the real tool.
pub(crate) fn tools() -> impl Iterator<Item = &'static str> {
    SCRIPTS.iter().map(|(name, _)| *name).chain(READERS.iter().copied()).chain(PLAIN.iter().copied())
}

/// A process of the world.
struct Process {
    pid: u32,
    parent: u32,
    uid: u32,
    /// When it began, in hundredths of the machine's time since boot.
    begun: u64,
    command: String,
}

/// Ids that no process of this computer has: Linux gives none beyond 4,194,304.
const FIRST: u32 = 5_000_000;

/// What is broken in a world, each really.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    WebMissing,
    ProxyMissing,
    RedirectMissing,
    ModuleOld,
    DiskFull,
    ConfigEmpty,
}

/// The folder of everything, removed when it is dropped.
pub(crate) struct Stage {
    root: tempfile::TempDir,
    /// The host's clock, in milliseconds since 1970.
    now: i64,
    _pm2: UnixListener,
}

fn script(at: &Path, text: &str) {
    let _ = fs::remove_file(at);
    fs::write(at, text).unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
}

fn find(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].iter().map(|folder| Path::new(folder).join(name)).find(|at| at.exists())
}

impl Stage {
    /// Everything well.
    pub(crate) fn new(now: i64) -> Self {
        let root = tempfile::Builder::new().prefix("harm").tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["real", "well", "cells", "home/.pm2/logs", "home/.binder", "home/global/lib/node_modules"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for tool in tools().chain(["ps", "stat", "readlink", "cat", "date"]) {
            if let Some(found) = find(tool) {
                let _ = symlink(found, at("real").join(tool));
            }
        }
        for (name, text) in SCRIPTS {
            script(&at("well").join(name), text);
        }
        for name in READERS {
            script(&at("well").join(name), include_str!("tools/reader"));
        }
        for name in PLAIN {
            if let Some(found) = find(name) {
                symlink(found, at("well").join(name)).unwrap();
            }
        }
        fs::write(at("home/.npmrc"), format!("prefix={}\n", at("home/global").display())).unwrap();
        fs::write(at("home/.binder/db.conf"), "{\"port\": 9050, \"host\": \"127.0.0.1\"}\n").unwrap();
        let module = at("home/global/lib/node_modules/binder-web");
        fs::create_dir_all(&module).unwrap();
        fs::write(module.join("package.json"), "{\"name\": \"binder-web\", \"version\": \"1.1.17\"}\n").unwrap();
        fs::create_dir_all(at("home/kubernetes/cluster")).unwrap();
        script(&at("home/kubernetes/cluster/kubectl.sh"), "#!/bin/bash\nexec kubectl \"$@\"\n");
        let pm2 = UnixListener::bind(at("home/.pm2/rpc.sock")).unwrap();
        let stage = Self { root, now, _pm2: pm2 };
        stage.world("world", None);
        stage
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The login's home, as the description names it.
    pub(crate) fn home(&self) -> String {
        self.at("home").display().to_string()
    }

    /// Writes what there is in a world of this name.
    pub(crate) fn world(&self, name: &str, fault: Option<Fault>) {
        let world = self.at(name);
        let is = |wanted| fault == Some(wanted);
        fs::create_dir_all(world.join("proc")).unwrap();
        let up: f64 = fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
        let home = self.home();
        let server = |module: &str, cli: &str| format!("node /usr/local/lib/node_modules/{module}/{cli}.js start");
        let process = |id: u32, parent: u32, uid: u32, begun: u64, command: &str| Process {
            pid: FIRST + id,
            parent: if parent < 2 { parent } else { FIRST + parent },
            uid,
            begun,
            command: command.to_owned(),
        };
        let kubectl = format!("{home}/kubernetes/cluster/kubectl.sh proxy --port=8085");
        let mut all = vec![
            Process { pid: 1, parent: 0, uid: 0, begun: 0, command: "/sbin/init".to_owned() },
            process(2, 1, 0, 1, "/usr/sbin/sshd -D"),
            process(3, 2, 0, 60, "sshd: andrew [priv]"),
            process(4, 3, 1000, 60, "sshd: andrew@notty"),
            process(10, 1, 1000, 2, &format!("PM2 v1.1.3: God Daemon ({home}/.pm2)")),
            process(20, 10, 1000, 20, &server("binder-web", "server/cli")),
            process(30, 10, 1000, 21, &server("binder-build", "lib/cli")),
            process(40, 10, 1000, 22, &server("binder-deploy-kubernetes", "lib/cli")),
            process(41, 10, 1000, 23, "node /usr/local/lib/node_modules/binder-deploy-kubernetes/scripts/daemon.js"),
            process(50, 10, 1000, 24, &server("binder-health-checker", "lib/cli")),
            process(51, 10, 1000, 25, "node /usr/local/lib/node_modules/binder-health-checker/scripts/checker.js"),
            process(60, 10, 1000, 20, "node /srv/echo.js"),
            process(70, 10, 1000, 15, "node /usr/local/lib/node_modules/binder-control/services/db.js"),
            process(80, 1, 1000, 10, &format!("bash {kubectl}")),
            process(81, 80, 1000, 10, "/usr/bin/kubectl proxy --port=8085"),
            process(90, 1, 0, 3, "/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock"),
            process(91, 90, 0, 16, "/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 9050"),
        ];
        let gone: &[u32] = match fault {
            Some(Fault::WebMissing) => &[20],
            Some(Fault::ProxyMissing) => &[80, 81],
            _ => &[],
        };
        all.retain(|process| !gone.contains(&process.pid.saturating_sub(FIRST)));
        let mut table = String::new();
        for Process { pid, parent, uid, begun, command } in &all {
            let ticks = (up * *begun as f64) as u64;
            writeln!(table, "{pid}\t{parent}\t{uid}\t{ticks}\t{command}").unwrap();
            let folder = world.join("proc").join(pid.to_string());
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).unwrap();
            let program = command.split(' ').next().unwrap().rsplit('/').next().unwrap();
            let short: String = program.chars().take(15).collect();
            let stat = format!(
                "{pid} ({short}) S {parent} {pid} {pid} 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 {ticks} 1000 100 0 0 0\n"
            );
            fs::write(folder.join("stat"), stat).unwrap();
            fs::write(folder.join("cmdline"), command.replace(' ', "\0") + "\0").unwrap();
            fs::write(folder.join("comm"), format!("{short}\n")).unwrap();
            fs::write(
                folder.join("status"),
                format!("Name:\t{short}\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"),
            )
            .unwrap();
            let environment = format!("HOME={home}\0PM2_HOME={home}/.pm2\0PATH=/usr/bin:/bin\0");
            fs::write(folder.join("environ"), environment).unwrap();
            let exe = match program {
                "kubectl" => world.join("usr/bin/kubectl"),
                "node" => PathBuf::from("/usr/bin/node"),
                _ => PathBuf::from("/usr/bin/env"),
            };
            symlink(exe, folder.join("exe")).unwrap();
        }
        fs::create_dir_all(world.join("usr/bin")).unwrap();
        fs::write(world.join("usr/bin/kubectl"), "\x7fELF").unwrap();
        fs::write(world.join("processes"), table).unwrap();
        fs::write(
            world.join("proc/meminfo"),
            "MemTotal:        3780000 kB\nMemFree:          900000 kB\nMemAvailable:    2400000 kB\n",
        )
        .unwrap();

        fs::create_dir_all(world.join("proc/net")).unwrap();
        fs::write(
            world.join("proc/net/dev"),
            "Inter-|   Receive |  Transmit\n face |bytes packets|bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1\n  eth0: 1 1 0 0 0 0 0 0 1 1\n",
        )
        .unwrap();
        let listen = |port: u16, id: u32, name: &str| (port, id, name.to_owned());
        let listeners = [
            listen(3000, 20, "node"),
            listen(8082, 30, "node"),
            listen(22, 2, "sshd"),
            listen(8084, 40, "node"),
            listen(8086, 50, "node"),
            listen(4000, 60, "node"),
            listen(8085, 81, "kubectl"),
            listen(9050, 91, "docker-proxy"),
        ];
        let rows: String = listeners
            .iter()
            .filter(|(_, id, _)| !gone.contains(id))
            .map(|(port, id, name)| {
                format!("LISTEN 0      511    *:{port}   *:*    users:((\"{name}\",pid={},fd=20))\n", FIRST + id)
            })
            .collect();
        fs::write(world.join("listeners"), rows).unwrap();

        let program = |id: u32| {
            let command = all.iter().find(|process| process.pid == FIRST + id).map(|process| process.command.as_str());
            command.and_then(|command| command.split(' ').nth(1)).unwrap_or("/usr/bin/node").to_owned()
        };
        let names = [
            ("binder-db-service", 70u32, 15u64),
            ("binder-web-start", 20, 20),
            ("binder-build-start", 30, 21),
            ("binder-deploy-kubernetes-start", 40, 22),
            ("binder-kubernetes-daemon", 41, 23),
            ("binder-health-checker-start", 50, 24),
            ("binder-health-checker", 51, 25),
            ("echo", 60, 20),
        ];
        let rows: Vec<serde_json::Value> = names
            .iter()
            .enumerate()
            .filter(|(_, (_, id, _))| !gone.contains(id))
            .map(|(number, (name, id, begun))| {
                let started = self.now as f64 - up * 1000.0 * (1.0 - *begun as f64 / 100.0);
                serde_json::json!({
                    "pid": FIRST + id, "name": name, "pm_id": number, "monit": {"memory": 1, "cpu": 0},
                    "pm2_env": {
                        "status": "online", "restart_time": 0, "pm_uptime": started as u64, "exec_mode": "fork_mode",
                        "unstable_restarts": 0, "name": name, "pm_exec_path": program(*id), "instances": 1,
                    },
                })
            })
            .collect();
        fs::write(world.join("pm2"), serde_json::to_string(&rows).unwrap() + "\n").unwrap();

        let mut nat =
            String::from("-P PREROUTING ACCEPT\n-P INPUT ACCEPT\n-P OUTPUT ACCEPT\n-P POSTROUTING ACCEPT\n-N DOCKER\n");
        if !is(Fault::RedirectMissing) {
            nat.push_str("-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3000\n");
        }
        nat.push_str("-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER -i docker0 -j RETURN\n");
        fs::write(world.join("nat"), nat).unwrap();

        let (used, left, percent) = if is(Fault::DiskFull) { (98, 2, 98) } else { (40, 60, 40) };
        let disk = format!(
            "/dev/sda1  107374182400 {}  {}      {percent}% /\n",
            used * 1_073_741_824_u64,
            left * 1_073_741_824_u64
        );
        fs::write(world.join("disk"), disk).unwrap();

        let docker = world.join("docker");
        let images = docker.join("root/image/overlay2/imagedb/content/sha256");
        fs::create_dir_all(&images).unwrap();
        let id = |digit: char| digit.to_string().repeat(64);
        for digit in ['c', 'd', 'e'] {
            fs::write(images.join(id(digit)), "{}").unwrap();
        }
        fs::write(
            docker.join("info"),
            format!("DockerRootDir={}\tServerVersion=20.10.24\n", docker.join("root").display()),
        )
        .unwrap();
        let container = |digit, state, finished| {
            format!(
                "Id={}\tState.Status={state}\tState.Running={}\tImage=sha256:{}\tCreated=2016-05-01T00:00:00Z\tState.StartedAt=2016-05-01T00:00:01Z\tState.FinishedAt={finished}\tName=/x{digit}\tConfig.Image=mongo\tConfig=map\tHostConfig.VolumesFrom=null\tMounts=\n",
                id(digit),
                state == "running",
                id('c'),
            )
        };
        fs::write(
            docker.join("containers"),
            container('a', "running", "0001-01-01T00:00:00Z") + &container('b', "exited", "2016-05-02T00:00:00.5Z"),
        )
        .unwrap();
        let image = |digit, tags| {
            format!(
                "Id=sha256:{}\tParent=\tCreated=2016-05-01T00:00:00Z\tMetadata.LastTagTime=2016-05-01T00:00:00Z\tMetadata=map\tLastTagTime=2016-05-01T00:00:00Z\tSize=1000000\tRepoTags={tags}\tRepoDigests=\n",
                id(digit)
            )
        };
        fs::write(
            docker.join("images"),
            image('c', "mongo:3.2") + &image('d', "old:1") + &image('e', "andrewosh/binder-base:latest"),
        )
        .unwrap();
    }

    /// A home in which something is really broken; the files of the login are shared by all worlds.
    pub(crate) fn broken_home(&self, fault: Fault, broken: bool) {
        let module = self.at("home/global/lib/node_modules/binder-web/package.json");
        match fault {
            Fault::ModuleOld => {
                let version = if broken { "1.1.0" } else { "1.1.17" };
                fs::write(module, format!("{{\"name\": \"binder-web\", \"version\": \"{version}\"}}\n")).unwrap();
            }
            Fault::ConfigEmpty if broken => fs::write(self.at("home/.dockercfg"), "").unwrap(),
            Fault::ConfigEmpty => fs::remove_file(self.at("home/.dockercfg")).unwrap(),
            _ => {}
        }
    }

    /// The folder of tools of one cell: all well, but for `tool`, which is `broken`, or is not there.
    pub(crate) fn cell(&self, name: &str, tool: &str, broken: Option<&str>) -> PathBuf {
        let folder = self.at("cells").join(name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(self.at("well")).unwrap().flatten() {
            if entry.file_name() != tool {
                symlink(entry.path(), folder.join(entry.file_name())).unwrap();
            }
        }
        if let Some(text) = broken {
            script(&folder.join(tool), text);
        }
        folder
    }

    /// The folder of tools that are all well.
    pub(crate) fn well(&self) -> PathBuf {
        self.at("well")
    }

    /// Runs sections by a shell.
    pub(crate) fn run(
        &self,
        asks: &[Ask],
        tools: &Path,
        world: &str,
        shell: &[&str],
        limit: Option<Duration>,
    ) -> BTreeMap<String, Answer> {
        let mut command = Command::new(shell[0]);
        command
            .args(&shell[1..])
            .current_dir(self.root.path())
            .env_clear()
            .env("PATH", tools)
            .env("HOME", self.at("home"))
            .env("USER", "andrew")
            .env("SSH_CONNECTION", "192.0.2.9 50000 192.0.2.1 22")
            .env("REAL", self.at("real"))
            .env("WELL", self.at("well"))
            .env("NOW", (self.now / 1000).to_string())
            .env("TMP", self.root.path())
            .env("WORLD", self.at(world));
        let within = limit.map_or(Duration::from_secs(60), |limit| limit * 4 + Duration::from_secs(3));
        local::answers(asks, limit, &mut command, within).unwrap()
    }
}
