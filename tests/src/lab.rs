//! Bringing a lab up and down, and finding the parts of one that is up.
//!
//! What a caller holds is a name: the lab belongs to its daemon. Taking down needs nothing but what the kernel knows
//! (control group, bridge, mounts), so that it works whatever became of the daemon and its records.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::binder::settle::{Binder, SettleError};
use crate::cgroup::{self, Cgroup, CgroupError};
use crate::daemon::Orders;
use crate::faults::{self, Fault, FaultError};
use crate::files::{self, FileError};
use crate::host::enter::{Host, HostError};
use crate::host::root::{self, RootError};
use crate::inventory::{self, MACHINES};
use crate::layout::{BadName, Layout};
use crate::net::{self, NetError};
use crate::process::{self, ProcessError, Running};
use crate::status::{Phase, Status, StatusError};

/// The lab that is meant when nobody says which, and the variable that says which.
pub const DEFAULT: &str = "default";
/// See [`DEFAULT`].
pub const LAB_VARIABLE: &str = "BINDER_LAB";

/// From a start with everything built. It takes well under a minute on two idle cores.
const UP_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Something about a whole lab did not work.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The lab has no usable name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A mount could not be made or taken away.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The network could not be given back.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Processes could not be ended.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The status could not be read.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// A host is missing or does not answer.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A process could not be found or started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Namespaces, mounts and bridges need root.
    #[error("a lab makes namespaces, mounts and a bridge, and so needs root")]
    NotRoot,
    /// One of this name is there.
    #[error("the lab `{0}` is up already; `cargo lab down` takes it away, `--lab NAME` brings up another beside it")]
    IsUp(String),
    /// Nobody knows such a machine.
    #[error("there is no machine `{name}`; a lab can have {known}")]
    UnknownMachine {
        /// The name.
        name: String,
        /// Every machine.
        known: String,
    },
    /// The orders for the daemon could not be written down.
    #[error("cannot write down what the daemon is to do")]
    Orders(#[source] serde_json::Error),
    /// A part did not come up.
    #[error("the lab `{lab}` did not come up: {why}")]
    Failed {
        /// The lab.
        lab: String,
        /// What the daemon said.
        why: String,
    },
    /// The daemon ended in the middle.
    #[error("the daemon of the lab `{lab}` ended while it brought the lab up; it said:\n{said}")]
    DaemonEnded {
        /// The lab.
        lab: String,
        /// The end of its log.
        said: String,
    },
    /// It took too long.
    #[error("the lab `{lab}` was not up after {limit:?} without news; its daemon said:\n{said}")]
    TooLong {
        /// The lab.
        lab: String,
        /// The time.
        limit: Duration,
        /// The end of the daemon's log.
        said: String,
    },
}

/// What lab to bring up.
#[derive(Debug, Clone)]
pub struct Options {
    name: String,
    hosts: Vec<String>,
    owner: Option<u32>,
    program: Option<PathBuf>,
    keep_failed: bool,
}

impl Options {
    /// A lab of this name, with the runbook's usual hosts.
    pub fn named(name: &str) -> Self {
        let hosts = MACHINES.iter().filter(|machine| machine.usual).map(|machine| machine.name.to_owned()).collect();
        Self { name: name.to_owned(), hosts, owner: None, program: None, keep_failed: false }
    }

    /// Only these hosts.
    #[must_use]
    pub fn hosts<S: AsRef<str>>(mut self, hosts: impl IntoIterator<Item = S>) -> Self {
        self.hosts = hosts.into_iter().map(|host| host.as_ref().to_owned()).collect();
        self
    }

    /// The lab goes down by itself when this process ends.
    #[must_use]
    pub fn owner(mut self, pid: u32) -> Self {
        self.owner = Some(pid);
        self
    }

    /// The lab goes down by itself when the calling process ends, however it does.
    #[must_use]
    pub fn owned_by_this_process(self) -> Self {
        self.owner(std::process::id())
    }

    /// A program whose `main` calls [`crate::hidden`] first; it becomes the daemon. Without this it is the calling
    /// program, which is right for all but the harness of `cargo test`.
    #[must_use]
    pub fn program(mut self, program: impl AsRef<OsStr>) -> Self {
        self.program = Some(PathBuf::from(program.as_ref()));
        self
    }

    /// Leaves a lab that did not come up as it is, to be looked at. Otherwise it is taken down at once.
    #[must_use]
    pub fn keep_failed(mut self, keep: bool) -> Self {
        self.keep_failed = keep;
        self
    }
}

/// A lab that is up.
#[derive(Debug, Clone)]
pub struct Lab {
    layout: Layout,
}

impl Lab {
    /// Brings a lab up; `tell` gets a line for each thing worth knowing meanwhile. What a lab of the same name that lost
    /// its daemon has left is taken away first.
    ///
    /// # Errors
    /// It is up already, or some part did not come up, which the error then describes.
    pub async fn up(options: Options, mut tell: impl FnMut(&str)) -> Result<Self, LabError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        for name in &options.hosts {
            if inventory::machine(name).is_none() {
                let known: Vec<_> = MACHINES.iter().map(|machine| machine.name).collect();
                return Err(LabError::UnknownMachine { name: name.clone(), known: known.join(", ") });
            }
        }
        let layout = Layout::of(&options.name)?;
        let lock = lock(&layout)?;
        let there = Status::read(&layout);
        if there.is_ok_and(|status| status.daemon.is_some_and(|daemon| daemon.is_alive())) {
            return Err(LabError::IsUp(options.name));
        }
        if layout.dir().exists() {
            tell("taking away what an earlier lab of this name has left");
        }
        take_down_locked(&layout).await?;
        root::mount_state(layout.dir())?;
        let daemon = start_daemon(&layout, &options)?;
        let lab = Self { layout };
        let up = lab.wait_until_up(&daemon, &mut tell).await;
        if let Err(error) = up {
            drop(lock);
            if !options.keep_failed {
                take_down(&lab.layout).await?;
            }
            return Err(error);
        }
        drop(lock);
        Ok(lab)
    }

    /// A lab that somebody brought up.
    ///
    /// # Errors
    /// None of this name is up.
    pub fn open(name: &str) -> Result<Self, LabError> {
        let lab = Self { layout: Layout::of(name)? };
        lab.status()?;
        Ok(lab)
    }

    /// Its files.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What it says about itself now.
    ///
    /// # Errors
    /// It is gone.
    pub fn status(&self) -> Result<Status, LabError> {
        Ok(Status::read(&self.layout)?)
    }

    /// One of its hosts.
    ///
    /// # Errors
    /// It has none of this name.
    pub fn host(&self, name: &str) -> Result<Host, LabError> {
        Ok(Host::of(&self.layout, name)?)
    }

    /// A fault of a name, to be inflicted on this lab.
    ///
    /// # Errors
    /// Nobody knows such a fault.
    pub fn fault(&self, name: &str) -> Result<&'static Fault, FaultError> {
        faults::named(name)
    }

    /// The Binder software on its hosts.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn binder(&self) -> Result<Binder<'_>, SettleError> {
        Binder::of(self)
    }

    /// Starts all of Binder by hand, in the runbook's order, and waits until it says that it is well.
    ///
    /// # Errors
    /// Some step had no effect.
    pub async fn settle(&self, tell: impl FnMut(&str)) -> Result<(), SettleError> {
        self.binder()?.settle(tell).await
    }

    /// Takes it down. Nothing is left behind. One that is gone already is fine.
    ///
    /// # Errors
    /// Something could not be taken away; what could be is gone.
    pub async fn down(self) -> Result<(), LabError> {
        take_down(&self.layout).await
    }

    async fn wait_until_up(&self, daemon: &Running, tell: &mut impl FnMut(&str)) -> Result<(), LabError> {
        let name = self.layout.lab().to_owned();
        let mut told = 0;
        let mut until = Instant::now() + UP_LIMIT;
        loop {
            let alive = daemon.is_alive();
            let text = std::fs::read_to_string(self.layout.progress()).unwrap_or_default();
            // A line that is being written is for the next look.
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            for line in text[told..whole].lines() {
                tell(line);
                // Builds take minutes and say so all the time; the limit is for silence.
                until = Instant::now() + UP_LIMIT;
            }
            told = whole;
            match Status::read(&self.layout).map(|status| status.phase) {
                Ok(Phase::Ready) => return Ok(()),
                Ok(Phase::Failed(why)) => return Err(LabError::Failed { lab: name, why }),
                _ => {}
            }
            let said = || process::tail(&self.layout.daemon_log());
            if !alive {
                return Err(LabError::DaemonEnded { lab: name, said: said() });
            }
            if Instant::now() > until {
                return Err(LabError::TooLong { lab: name, limit: UP_LIMIT, said: said() });
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn start_daemon(layout: &Layout, options: &Options) -> Result<Running, LabError> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|source| FileError::new("find", "/proc/self/exe".as_ref(), source))?,
    };
    let owner = options.owner.map(|pid| {
        let found = i32::try_from(pid).ok().and_then(|pid| Running::adopt("owner", pid, "".as_ref()));
        found.ok_or_else(|| LabError::Failed {
            lab: options.name.clone(),
            why: format!("its owner, process {pid}, is not there"),
        })
    });
    let orders = Orders { lab: options.name.clone(), hosts: options.hosts.clone(), owner: owner.transpose()? };
    let file = layout.dir().join("orders.json");
    files::write(&file, serde_json::to_string_pretty(&orders).map_err(LabError::Orders)?, 0o600)?;
    let open = || {
        let path = layout.daemon_log();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        log.map_err(|source| FileError::new("open", &path, source))
    };
    let child = tokio::process::Command::new(&program)
        .arg("lab-daemon")
        .arg(&file)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(open()?)
        .stderr(open()?)
        .spawn()
        .map_err(|source| ProcessError::Start { name: "the lab's daemon".into(), program, source })?;
    let running = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(|pid| Running::adopt("lab-daemon", pid, &layout.daemon_log()));
    running
        .ok_or_else(|| LabError::DaemonEnded { lab: options.name.clone(), said: process::tail(&layout.daemon_log()) })
}

/// Taken while a lab goes up or down, so that two commands do not work on one lab. The kernel gives it back.
fn lock(layout: &Layout) -> Result<std::fs::File, LabError> {
    let path = layout.lock();
    if let Some(parent) = path.parent() {
        files::make_dir(parent)?;
    }
    let file = std::fs::File::create(&path).map_err(|source| FileError::new("open", &path, source))?;
    file.lock().map_err(|source| FileError::new("lock", &path, source))?;
    Ok(file)
}

/// Takes a lab away by what the kernel knows of it, whether its daemon lives or not.
///
/// # Errors
/// Something could not be taken away.
pub async fn take_down(layout: &Layout) -> Result<(), LabError> {
    let lock = lock(layout)?;
    take_down_locked(layout).await?;
    // Removed while it is held: whoever waits for it gets the lock of a file that nobody sees any more, and goes on,
    // which is right, since there is nothing left to work on at the same time.
    files::remove(&layout.lock())?;
    drop(lock);
    if let Some(base) = layout.dir().parent() {
        // Fails as long as another lab is there.
        let _ = std::fs::remove_dir(base);
    }
    Ok(())
}

async fn take_down_locked(layout: &Layout) -> Result<(), LabError> {
    let group = Cgroup::of_lab(layout.id())?;
    group.kill().await?;
    for network in net::find(layout.id()) {
        net::release(network).await?;
    }
    root::unmount_below(layout.dir())?;
    files::remove(layout.dir())?;
    group.remove()?;
    cgroup::remove_v1_leftovers(layout.id());
    Ok(())
}
