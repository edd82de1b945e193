//! What lies on a host's disk before its first boot: users, keys, sshd, the Binder software and its settings.
//!
//! Everything is written into the host's own file system; the computer below it is never changed. Knows the machines'
//! roles, and nothing of namespaces, power or the lab's life.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::files::{self, FileError};
use crate::inventory::{MACHINES, Machine, Network, Role, USER, USER_ID, with_role};

/// The folder of `binder-control` and what goes with it, inside.
const CONTROL: &str = "usr/local/lib/binder-control";

/// The parts of a lab that a host's files depend on.
#[derive(Debug, Clone)]
pub struct Furnishing<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The lab's network.
    pub network: Network,
    /// Its file system, seen from outside.
    pub root: &'a Path,
    /// The public key that may log in, as one line.
    pub login_key: &'a str,
    /// The private host key.
    pub host_key: &'a str,
    /// A kubeconfig for the cluster on the master, when the lab has one.
    pub cluster_kubeconfig: Option<&'a str>,
}

impl Furnishing<'_> {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn home(&self, path: &str) -> PathBuf {
        self.root.join("home").join(USER).join(path)
    }

    /// A file of the system, owned by root.
    fn system(&self, path: &str, contents: impl AsRef<[u8]>, mode: u32) -> Result<(), FileError> {
        let at = self.at(path);
        // The computer below may have a link there (`/sbin/reboot` to systemctl): never write through it.
        files::remove(&at)?;
        files::write(&at, contents, mode)
    }

    /// A file in the login user's home, with the folders above it that are missing.
    fn own(&self, path: &str, contents: impl AsRef<[u8]>, mode: u32) -> Result<(), FileError> {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.own_dir(folder, 0o755)?;
        }
        let at = self.home(path);
        files::write(&at, contents, mode)?;
        files::give(&at, USER_ID, USER_ID)
    }

    fn own_dir(&self, path: &str, mode: u32) -> Result<(), FileError> {
        let mut so_far = PathBuf::new();
        for part in Path::new(path) {
            so_far.push(part);
            let at = self.root.join("home").join(USER).join(&so_far);
            if !at.exists() {
                files::make_dir(&at)?;
                files::give(&at, USER_ID, USER_ID)?;
            }
        }
        let at = self.home(path);
        std::fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .map_err(|source| FileError::new("set the mode of", &at, source))
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Some file cannot be written, or the computer below lacks one that every Debian has.
    pub fn write(&self) -> Result<(), FileError> {
        self.users()?;
        self.names()?;
        self.ssh()?;
        self.power()?;
        self.software()?;
        self.settings()?;
        match self.machine.role {
            Role::Services => self.services(),
            Role::WebDeploy => self.kubectl(),
            Role::Build => self.docker(),
            Role::Master | Role::Management | Role::Minion => Ok(()),
        }
    }

    fn users(&self) -> Result<(), FileError> {
        let add = |path: &str, line: String, mode| {
            let text = files::read(&self.at(path))?;
            let kept: Vec<_> = text.lines().filter(|old| !old.starts_with(&format!("{USER}:"))).collect();
            self.system(path, kept.join("\n") + "\n" + &line + "\n", mode)
        };
        add("etc/passwd", format!("{USER}:x:{USER_ID}:{USER_ID}::/home/{USER}:/bin/bash"), 0o644)?;
        // `*`: no password fits, yet the account is not locked, which sshd would refuse.
        add("etc/shadow", format!("{USER}:*:19000:0:99999:7:::"), 0o640)?;
        add("etc/group", format!("{USER}:x:{USER_ID}:"), 0o644)?;
        self.join_group("docker")?;
        let home = self.root.join("home").join(USER);
        files::make_dir(&home)?;
        files::give(&home, USER_ID, USER_ID)?;
        for name in [".bashrc", ".profile"] {
            let skeleton = files::read(&self.at("etc/skel").join(name)).unwrap_or_default();
            self.own(name, skeleton, 0o644)?;
        }
        self.system("etc/sudoers.d/binder", sudoers(true), 0o440)?;
        self.system("var/log/sudo.log", "", 0o600)
    }

    /// Puts the login user into a group of the system, if that exists.
    fn join_group(&self, group: &str) -> Result<(), FileError> {
        let text = files::read(&self.at("etc/group"))?;
        let lines: Vec<_> = text
            .lines()
            .map(|line| match line.strip_prefix(&format!("{group}:")) {
                Some(rest) if rest.ends_with(':') => format!("{line}{USER}"),
                Some(_) => format!("{line},{USER}"),
                None => line.to_owned(),
            })
            .collect();
        self.system("etc/group", lines.join("\n") + "\n", 0o644)
    }

    fn names(&self) -> Result<(), FileError> {
        let mut hosts = "127.0.0.1 localhost\n".to_owned();
        for machine in MACHINES {
            // Writing to a String cannot fail.
            let _ = writeln!(hosts, "{} {}", self.network.address(machine.octet), machine.name);
        }
        if self.machine.role == Role::Build {
            // Where `github.js` listens once a fault has started it.
            hosts.push_str("127.0.0.1 github.com\n");
        }
        self.system("etc/hosts", hosts, 0o644)?;
        self.system("etc/hostname", format!("{}\n", self.machine.name), 0o644)?;
        // Nothing outside of the lab can be reached, so nobody is to wait for a name server either.
        self.system("etc/resolv.conf", "", 0o644)?;
        self.system("etc/machine-id", format!("{:032x}\n", 0x00b1_0000 + u32::from(self.machine.octet)), 0o444)
    }

    fn ssh(&self) -> Result<(), FileError> {
        self.own_dir(".ssh", 0o700)?;
        self.own(".ssh/authorized_keys", format!("{}\n", self.login_key), 0o600)?;
        self.system("etc/ssh/ssh_host_ed25519_key", self.host_key, 0o600)?;
        for other in ["rsa", "ecdsa"] {
            // The computer's own keys show through from below; a lab host must not be able to read them.
            files::remove(&self.at(&format!("etc/ssh/ssh_host_{other}_key")))?;
        }
        self.system("etc/ssh/sshd_config", SSHD_CONFIG, 0o644)?;
        self.system("usr/local/lib/binder-lab/witness", include_str!("../../host/witness.sh"), 0o755)?;
        // Writable for the login user, in whose name the witness runs.
        self.system("var/log/ssh-commands.log", "", 0o666)
    }

    fn power(&self) -> Result<(), FileError> {
        for name in ["reboot", "poweroff", "halt", "shutdown"] {
            self.system(&format!("usr/sbin/{name}"), include_str!("../../host/power.sh"), 0o755)?;
        }
        Ok(())
    }

    fn software(&self) -> Result<(), FileError> {
        for (name, contents) in [
            ("binder-control.js", include_str!("../../host/binder-control.js")),
            ("find-and-modify.js", include_str!("../../host/find-and-modify.js")),
            ("logging.js", include_str!("../../host/logging.js")),
        ] {
            self.system(&format!("{CONTROL}/{name}"), contents, 0o644)?;
        }
        // Runs once a fault has started it.
        self.system("usr/local/lib/binder-lab/registry.js", include_str!("../../host/registry.js"), 0o644)?;
        // Where it is missing, pm2 1.1.3 prints a page of advertising before every answer; its own attempt to make it
        // fails with a Node.js of today.
        self.own(".pm2/touch", "", 0o644)?;
        for name in ["pm2", "binder-control"] {
            self.system(&format!("usr/local/bin/{name}"), include_str!("../../host/with-preload.sh"), 0o755)?;
        }
        Ok(())
    }

    /// The files in `~/.binder/`, on every host as the packages' installation leaves them, with this lab's addresses.
    fn settings(&self) -> Result<(), FileError> {
        let of = |role| self.network.address(with_role(role).octet).to_string();
        let (services, web, build) = (of(Role::Services), of(Role::WebDeploy), of(Role::Build));
        let logging = json!({"host": services, "logstash": {"port": 8050}});
        let db = json!({"host": services, "port": 9050});
        let registry = json!({"host": build, "port": 8082});
        let deploy = json!({"host": web, "port": 8084});
        let health = json!({"host": web, "port": 8086});
        let files = [
            ("db.conf", json!({"host": services, "port": 9050, "db": "binder", "dir": "/data/binder/db"})),
            (
                "logging.conf",
                json!({
                    "host": services, "testing": true,
                    "logstash": {"port": 8050, "configDir": "~/binder-control/services/logging/logstash/"},
                    "elasticsearch": {"port": 8052, "dir": "/data/binder/elasticsearch"},
                    "kibana": {"port": 8053}, "streaming": {"port": 2121},
                }),
            ),
            (
                "web.conf",
                json!({
                    "port": 3000, "public": false,
                    "build": registry, "registry": registry, "deploy": deploy, "health": health,
                }),
            ),
            (
                "build.conf",
                json!({
                    "db": db, "logging": logging, "port": 8082,
                    "docker": {"enabled": true, "email": "N/A", "registry": "", "host": "localhost"},
                }),
            ),
            (
                "core.conf",
                json!({
                    "docker": {"enabled": true, "registry": "gcr.io/binder-testing", "host": "localhost"},
                    "baseImage": "andrewosh/binder-base:latest", "repoString": "repo",
                }),
            ),
            (
                "deploy.conf",
                json!({
                    "db": db, "logging": logging, "registry": registry, "port": 8084, "lookupHost": "",
                    "kube": {"provider": "gce", "host": "localhost", "port": 8085, "apiVersion": "v1"},
                    "pool": {"enabled": false, "size": 1},
                    "test": {"templateDir": "examples/", "testing": false},
                }),
            ),
            (
                "health.conf",
                json!({
                    "port": 8086, "interval": 40000,
                    "build": registry, "registry": registry, "deploy": deploy,
                }),
            ),
        ];
        for (name, contents) in files {
            self.own(&format!(".binder/{name}"), format!("{contents:#}\n"), 0o644)?;
        }
        Ok(())
    }

    fn services(&self) -> Result<(), FileError> {
        for service in ["db", "logging"] {
            // Only its path matters: it is how the stand-in for docker-compose knows which service is meant.
            self.system(&format!("{CONTROL}/services/{service}/docker-compose.yml"), "", 0o644)?;
        }
        self.system("usr/local/bin/docker-compose.sh", include_str!("../../host/docker-compose.sh"), 0o755)?;
        for path in ["data/binder", "data/binder/db"] {
            files::make_dir(&self.at(path))?;
            files::give(&self.at(path), USER_ID, USER_ID)?;
        }
        Ok(())
    }

    fn kubectl(&self) -> Result<(), FileError> {
        self.own("kubernetes/cluster/kubectl.sh", include_str!("../../host/kubectl.sh"), 0o755)?;
        self.own_dir("kubernetes/platforms/linux/amd64", 0o755)?;
        let on_path = self.at("usr/local/bin/kubectl.sh");
        files::remove(&on_path)?;
        std::os::unix::fs::symlink(format!("/home/{USER}/kubernetes/cluster/kubectl.sh"), &on_path)
            .map_err(|source| FileError::new("link", &on_path, source))?;
        match self.cluster_kubeconfig {
            Some(kubeconfig) => self.own(".kube/config", kubeconfig, 0o600),
            None => Ok(()),
        }
    }

    fn docker(&self) -> Result<(), FileError> {
        // Whatever the computer below has there would shadow Debian's own client.
        files::remove(&self.at("usr/local/bin/docker"))?;
        let service = include_str!("../../host/docker-service.sh");
        self.system("usr/local/lib/binder-lab/docker-service", service, 0o755)?;
        self.system("etc/init.d/docker", include_str!("../../host/docker-init.sh"), 0o755)?;
        self.system("usr/local/lib/binder-lab/github.js", include_str!("../../host/github.js"), 0o644)?;
        // The build server pushes an image with it, and takes any other end for a failed build. There is no registry.
        self.system("usr/local/bin/gcloud", "#!/bin/sh\nexit 0\n", 0o755)?;
        files::make_dir(&self.at("var/lib/docker"))
    }
}

/// The rule that lets the login user become root, with or without being asked for a password that nobody has.
pub fn sudoers(free: bool) -> String {
    let tag = if free { "NOPASSWD: " } else { "" };
    format!("Defaults logfile=/var/log/sudo.log\n{USER} ALL=(ALL) {tag}ALL\n")
}

/// Key logins only, and every command witnessed. Limits on sessions and logins are sshd's own.
const SSHD_CONFIG: &str = "\
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
UsePAM no
UseDNS no
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
ForceCommand /usr/local/lib/binder-lab/witness
";
