//! Running commands on a host: past the operator, from this computer, or over SSH exactly as the operator does.
//!
//! Knows how to get in, not what for.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::init::PATH;
use crate::cgroup::{Cgroup, CgroupError};
use crate::command::{CommandError, Output, Run};
use crate::files::{self, FileError};
use crate::inventory::USER;
use crate::layout::Layout;
use crate::net::{self, NetError};
use crate::status::{HostStatus, Status, StatusError};

/// A command could not be run on a host, or a host did not become as waited for.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The lab has no such host, or none at all is up.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The lab has no such host.
    #[error("the lab has no host `{name}`; it has {has}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names that there are.
        has: String,
    },
    /// It is off, so nothing can run on it.
    #[error("{0} is switched off")]
    Off(String),
    /// The way in failed, or the command did.
    #[error("on {host}")]
    Command {
        /// The host.
        host: String,
        /// What failed.
        #[source]
        source: CommandError,
    },
    /// A file of it could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// It could not be frozen.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its cable could not be changed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// It did not become so in time.
    #[error("{host}: {what} was not so after {limit:?}; last seen: {seen}")]
    Never {
        /// The host.
        host: String,
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// What the last look said.
        seen: String,
    },
}

/// A host of a lab that is up. Cheap to clone; what it tells is looked up when it is asked.
#[derive(Debug, Clone)]
pub struct Host {
    layout: Layout,
    name: String,
}

/// The options of `ssh` that pin the host's key, use the lab's key only, and never ask anything.
pub fn ssh_options(host: &HostStatus, known_hosts: &std::path::Path) -> Vec<OsString> {
    let mut options: Vec<OsString> = vec!["-i".into(), host.private_key.clone().into_os_string()];
    let mut known: OsString = "UserKnownHostsFile=".into();
    known.push(known_hosts);
    for option in
        ["IdentitiesOnly=yes", "BatchMode=yes", "StrictHostKeyChecking=yes", "LogLevel=ERROR", "ConnectTimeout=10"]
    {
        options.extend(["-o".into(), option.into()]);
    }
    options.extend(["-o".into(), known, "-p".into(), host.port.to_string().into()]);
    options.push(format!("{}@{}", host.user, host.address).into());
    options
}

impl Host {
    /// A host of a lab, by its name.
    ///
    /// # Errors
    /// No such lab is up, or it has no such host.
    pub fn of(layout: &Layout, name: &str) -> Result<Self, HostError> {
        let status = Status::read(layout)?;
        if status.host(name).is_none() {
            let has: Vec<_> = status.hosts.iter().map(|host| host.name.as_str()).collect();
            return Err(HostError::Unknown { name: name.to_owned(), has: has.join(", ") });
        }
        Ok(Self { layout: layout.clone(), name: name.to_owned() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the lab says about it now.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn status(&self) -> Result<HostStatus, HostError> {
        let status = Status::read(&self.layout)?;
        let found = status.hosts.into_iter().find(|host| host.name == self.name);
        found.ok_or_else(|| HostError::Unknown { name: self.name.clone(), has: "others".into() })
    }

    /// A file of it, seen from this computer. What it mounts while it runs (`/run`, `/tmp`, `/proc`) does not show here.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn path(&self, inside: &str) -> Result<PathBuf, HostError> {
        Ok(self.layout.host(&self.name).root().join(inside.trim_start_matches('/')))
    }

    fn wrap(&self, source: CommandError) -> HostError {
        HostError::Command { host: self.name.clone(), source }
    }

    /// The command line on this computer that runs something on the host.
    ///
    /// What runs as root is a visitor: it goes on when the host is frozen. What runs as the login user belongs to the
    /// host like everything that user started, since it may leave something behind (pm2's daemon).
    ///
    /// # Errors
    /// The host is off.
    pub fn entering(&self, user: &str, argv: &[&str]) -> Result<Run, HostError> {
        self.enter(user, user == "root", argv)
    }

    fn enter(&self, user: &str, visitor: bool, argv: &[&str]) -> Result<Run, HostError> {
        let status = self.status()?;
        let pid = status.pid.ok_or_else(|| HostError::Off(self.name.clone()))?;
        let home = if user == "root" { "/root".to_owned() } else { format!("/home/{user}") };
        let mut run = if visitor {
            Run::new("nsenter")
        } else {
            let group = self.cgroup()?.path().join("cgroup.procs");
            let join = "echo 0 > \"$1\" && shift && exec nsenter \"$@\"";
            Run::new("sh").args(["-c", join, "enter"]).args([group])
        };
        run = run
            .args(["--target", &pid.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid", "--root"])
            .clear_env()
            .env("PATH", PATH)
            .env("HOME", &home)
            .env("USER", user)
            .env("LOGNAME", user)
            .env("SHELL", "/bin/bash")
            .env("LANG", "C.UTF-8");
        if !visitor {
            run = run.args(["setpriv", "--reuid", user, "--regid", user, "--init-groups"]);
        }
        // nsenter's own `--wd` looks the folder up outside.
        Ok(run.args(["env", "--chdir", &home, "--"]).args(argv))
    }

    /// Runs a command as root, past SSH, to its end, whatever its status. It has a minute.
    ///
    /// # Errors
    /// The host is off, or the command does not end in time.
    pub async fn exec(&self, argv: &[&str]) -> Result<Output, HostError> {
        self.entering("root", argv)?.output().await.map_err(|source| self.wrap(source))
    }

    /// As [`Host::exec`], as the login user.
    ///
    /// # Errors
    /// As [`Host::exec`].
    pub async fn exec_as_user(&self, argv: &[&str]) -> Result<Output, HostError> {
        self.entering(USER, argv)?.output().await.map_err(|source| self.wrap(source))
    }

    /// Runs a constant script as root; `args` arrive as `$1` and so on. Anything but status 0 is an error.
    ///
    /// # Errors
    /// As [`Host::exec`], and when the script fails.
    pub async fn script(&self, script: &str, args: &[&str]) -> Result<String, HostError> {
        self.script_as("root", script, args).await
    }

    /// As [`Host::script`], as the login user.
    ///
    /// # Errors
    /// As [`Host::script`].
    pub async fn script_as_user(&self, script: &str, args: &[&str]) -> Result<String, HostError> {
        self.script_as(USER, script, args).await
    }

    async fn script_as(&self, user: &str, script: &str, args: &[&str]) -> Result<String, HostError> {
        let argv: Vec<&str> = ["sh", "-euc", script, "script"].iter().chain(args).copied().collect();
        self.entering(user, &argv)?.succeed().await.map_err(|source| self.wrap(source))
    }

    /// As [`Host::script`], but what it starts and leaves behind is the host's own: it counts as the host's memory, stops
    /// when the host hangs, and ends with it.
    ///
    /// # Errors
    /// As [`Host::script`].
    pub async fn script_that_stays(&self, script: &str, args: &[&str]) -> Result<String, HostError> {
        let argv: Vec<&str> = ["sh", "-euc", script, "script"].iter().chain(args).copied().collect();
        self.enter("root", false, &argv)?.succeed().await.map_err(|source| self.wrap(source))
    }

    /// Runs a command line over SSH as the operator would: sshd hands it to the user's shell.
    ///
    /// # Errors
    /// `ssh` could not be started or did not end within `limit`. A refused login shows as status 255.
    pub async fn ssh(&self, command: &str, limit: Duration) -> Result<Output, HostError> {
        self.ssh_with_input(command, Vec::new(), limit).await
    }

    /// As [`Host::ssh`], with something to read: the way for a secret, which must not be in a command line.
    ///
    /// # Errors
    /// As [`Host::ssh`].
    pub async fn ssh_with_input(&self, command: &str, stdin: Vec<u8>, limit: Duration) -> Result<Output, HostError> {
        let status = self.status()?;
        let known = self.known_hosts(&status)?;
        let run = Run::new("ssh").args(ssh_options(&status, &known)).args(["--", command]).stdin(stdin).limit(limit);
        run.output().await.map_err(|source| self.wrap(source))
    }

    /// Writes the host's pinned key where `ssh` can read it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn known_hosts(&self, status: &HostStatus) -> Result<PathBuf, HostError> {
        let path = self.layout.host(&self.name).dir().join("known_hosts");
        files::replace(&path, format!("{} {}\n", status.address, status.host_key), 0o600)?;
        Ok(path)
    }

    /// The commands that sshd was asked to run since the host's first boot, oldest first, each in one line: the time in
    /// seconds since 1970, a blank, the command quoted as bash does it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn asked_over_ssh(&self) -> Result<Vec<String>, HostError> {
        let text = files::read(&self.path("var/log/ssh-commands.log")?)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// What the cloud was asked to do to its instance since the lab came up, oldest first: the time, a blank, the kind of
    /// operation.
    ///
    /// # Errors
    /// The record is there and cannot be read.
    pub fn asked_of_the_cloud(&self) -> Result<Vec<String>, HostError> {
        let path = self.layout.host(&self.name).operations();
        if !path.exists() {
            return Ok(Vec::new());
        }
        Ok(files::read(&path)?.lines().map(str::to_owned).collect())
    }

    /// The control group of its processes.
    fn cgroup(&self) -> Result<Cgroup, HostError> {
        Ok(Cgroup::of_lab(self.layout.id())?.child(&self.name))
    }

    /// Stops all its processes where they stand. Its kernel goes on: a connection stays open and nobody answers.
    ///
    /// # Errors
    /// It is off.
    pub async fn freeze(&self) -> Result<(), HostError> {
        Ok(self.cgroup()?.freeze().await?)
    }

    /// Lets its processes run on.
    ///
    /// # Errors
    /// It is off.
    pub fn thaw(&self) -> Result<(), HostError> {
        Ok(self.cgroup()?.thaw()?)
    }

    /// Pulls or plugs its network cable.
    ///
    /// # Errors
    /// It is off.
    pub async fn set_cable(&self, plugged: bool) -> Result<(), HostError> {
        let status = Status::read(&self.layout)?;
        let octet = self.status()?.address.octets()[3];
        Ok(net::set_cable(status.network(), octet, plugged).await?)
    }

    /// Waits until a look at the host says yes. `look` gives what it saw as an error as long as it is not so.
    ///
    /// # Errors
    /// It was not so within `limit`.
    pub async fn until<F>(&self, what: &str, limit: Duration, mut look: impl FnMut(Self) -> F) -> Result<(), HostError>
    where
        F: Future<Output = Result<(), String>>,
    {
        let until = Instant::now() + limit;
        loop {
            match look(self.clone()).await {
                Ok(()) => return Ok(()),
                Err(seen) if Instant::now() > until => {
                    return Err(HostError::Never { host: self.name.clone(), what: what.to_owned(), limit, seen });
                }
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }
}
