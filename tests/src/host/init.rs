//! The first process of a lab host: makes the host's view of the world, starts its services, and carries out `reboot`.
//!
//! Runs inside fresh mount, process, host name and IPC namespaces, and in the host's network. What it is to do is told
//! by an [`Init`] as JSON; it knows nothing of Binder, nor of the lab around it. Synchronous and small on purpose: this
//! is what stays in memory once for each host.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, pivot_root, sethostname};
use serde::{Deserialize, Serialize};

use super::root::escaped;
use crate::files::{self, FileError};
use crate::process::ProcessSpec;

/// What `PATH` is for a host's services; as Debian sets it for root.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long services have to end by themselves at a reboot. systemd gives 90 s; pm2's own limit for a process is 1.6 s.
const GRACE: Duration = Duration::from_secs(4);

/// How long a service that ended waits for its next start.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// What the first process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Init {
    /// The host's name.
    pub hostname: String,
    /// Its file system, which is mounted already.
    pub root: PathBuf,
    /// The control group to be in, with everything that is started.
    pub cgroup: PathBuf,
    /// The file whose contents are the id of this boot.
    pub boot_id: PathBuf,
    /// Files and folders of this computer to show inside.
    pub binds: Vec<Bind>,
    /// Whether the control groups are shown inside, as a container engine needs.
    pub cgroups_inside: bool,
    /// What is started, in order.
    pub units: Vec<Unit>,
}

/// One file or folder of this computer, shown inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    /// Where it lies outside.
    pub from: PathBuf,
    /// Where it shows inside.
    pub to: PathBuf,
    /// Whether the host may change it.
    pub writable: bool,
    /// A folder of this computer that takes what the host changes of it; what lies below stays as it is.
    #[serde(default)]
    pub changes: Option<PathBuf>,
}

/// A service that the machine itself starts at boot, and starts again when it ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unit {
    /// Its name, for the console.
    pub name: String,
    /// The program, as seen inside.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, beside `PATH` and `HOME`.
    pub env: BTreeMap<String, String>,
    /// The file, as seen inside, that takes what it prints.
    pub log: PathBuf,
}

impl From<ProcessSpec> for Unit {
    /// A process that is described as seen inside.
    fn from(spec: ProcessSpec) -> Self {
        let ProcessSpec { name, program, args, env, log } = spec;
        Self { name, program, args, env: env.into_iter().collect(), log }
    }
}

/// The host could not be started.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The description is not one.
    #[error("`{}` does not describe a host", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A system call failed.
    #[error("cannot {doing} `{}`", at.display())]
    System {
        /// What was tried.
        doing: &'static str,
        /// On what.
        at: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
}

fn system(doing: &'static str, at: impl AsRef<Path>) -> impl FnOnce(Errno) -> InitError {
    let at = at.as_ref().to_owned();
    move |source| InitError::System { doing, at, source }
}

/// Becomes the host that a file describes. Comes back only with an error.
///
/// # Errors
/// Some part of the host's world could not be made; the host then never was.
pub fn run(description: &Path) -> Result<std::convert::Infallible, InitError> {
    let text = files::read(description)?;
    let init: Init = serde_json::from_str(&text)
        .map_err(|source| InitError::Description { path: description.to_owned(), source })?;
    let procs = init.cgroup.join("cgroup.procs");
    std::fs::write(&procs, "0").map_err(|source| FileError::new("join", &procs, source))?;
    // Before any thread or child: all of them are to leave these signals to the loop below.
    let signals = handled();
    signals.thread_block().map_err(system("block signals of", "/proc/self"))?;
    furnish(&init)?;
    enter(&init)?;
    Supervisor::new(init.units).run(signals)
}

fn handled() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR2].into_iter().collect()
}

/// Mounts what a running system has beside its disk.
fn furnish(init: &Init) -> Result<(), InitError> {
    let none = None::<&str>;
    let nosuid = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let tmpfs: [(&str, MsFlags, &str); 4] = [
        ("dev", MsFlags::MS_NOSUID, "mode=755,size=64k"),
        ("run", nosuid, "mode=755,size=64m"),
        ("tmp", nosuid, "mode=1777,size=256m"),
        ("dev/shm", nosuid, "mode=1777,size=64m"),
    ];
    for (name, flags, options) in tmpfs {
        let at = init.root.join(name);
        files::make_dir(&at)?;
        mount(Some("tmpfs"), &at, Some("tmpfs"), flags, Some(options)).map_err(system("mount a tmpfs on", &at))?;
    }
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        bind(&Path::new("/dev").join(name), &init.root.join("dev").join(name), MsFlags::empty())?;
    }
    let pts = init.root.join("dev/pts");
    files::make_dir(&pts)?;
    mount(Some("devpts"), &pts, Some("devpts"), MsFlags::MS_NOSUID, Some("newinstance,ptmxmode=0666,mode=620,gid=5"))
        .map_err(system("mount devpts on", &pts))?;
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let at = init.root.join("dev").join(name);
        std::os::unix::fs::symlink(target, &at).map_err(|source| FileError::new("link", &at, source))?;
    }
    // Fresh ones: these show the processes and interfaces of the namespaces that this process is in.
    for (kind, name) in [("proc", "proc"), ("sysfs", "sys")] {
        let at = init.root.join(name);
        mount(Some(kind), &at, Some(kind), nosuid | MsFlags::MS_NOEXEC, none).map_err(system("mount", &at))?;
    }
    bind(&init.boot_id, &init.root.join("proc/sys/kernel/random/boot_id"), MsFlags::MS_RDONLY)?;
    if init.cgroups_inside {
        let (from, to) = (Path::new("/sys/fs/cgroup"), init.root.join("sys/fs/cgroup"));
        mount(Some(from), &to, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).map_err(system("show", &to))?;
    }
    for shown in &init.binds {
        let inside = shown.to.strip_prefix("/").unwrap_or(&shown.to);
        let flags = if shown.writable { MsFlags::empty() } else { MsFlags::MS_RDONLY };
        match &shown.changes {
            Some(changes) => lay_over(&shown.from, changes, &init.root.join(inside))?,
            None => bind(&shown.from, &init.root.join(inside), flags)?,
        }
    }
    Ok(())
}

/// Shows a folder at another place, where it can be changed without being changed itself.
fn lay_over(from: &Path, changes: &Path, to: &Path) -> Result<(), InitError> {
    let (upper, work) = (changes.join("upper"), changes.join("work"));
    for folder in [upper.as_path(), work.as_path(), to] {
        files::make_dir(folder)?;
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", escaped(from), escaped(&upper), escaped(&work));
    mount(Some("overlay"), to, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(system("lay over", to))
}

/// Shows a file or folder at another place, which is made if it is missing.
fn bind(from: &Path, to: &Path, flags: MsFlags) -> Result<(), InitError> {
    let none = None::<&str>;
    if from.is_dir() {
        files::make_dir(to)?;
    } else if !to.exists() {
        files::write(to, "", 0o644)?;
    }
    mount(Some(from), to, none, MsFlags::MS_BIND, none).map_err(system("show", to))?;
    if !flags.is_empty() {
        // A bind takes its flags only when it is mounted a second time.
        mount(none, to, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags, none)
            .map_err(system("make read-only", to))?;
    }
    Ok(())
}

/// Makes the host's file system the only one that this process and all after it can see.
fn enter(init: &Init) -> Result<(), InitError> {
    chdir(&init.root).map_err(system("enter", &init.root))?;
    // Both at one place: the old root lies over the new one for a moment and is taken off, without a folder for it.
    pivot_root(".", ".").map_err(system("change the root to", &init.root))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(system("leave the old root from", &init.root))?;
    chdir("/").map_err(system("enter", "/"))?;
    sethostname(&init.hostname).map_err(system("set the host name", &init.hostname))?;
    files::make_dir(Path::new("/run/sshd"))?;
    files::make_dir(Path::new("/run/lock"))?;
    Ok(())
}

/// How a host is asked to go down, and by which signal: the same as busybox's init takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GoDown {
    Reboot,
    PowerOff,
}

struct Supervisor {
    units: Vec<Running>,
}

struct Running {
    unit: Unit,
    pid: Option<Pid>,
    due: Option<Instant>,
}

impl Supervisor {
    fn new(units: Vec<Unit>) -> Self {
        let due = Some(Instant::now());
        Self { units: units.into_iter().map(|unit| Running { unit, pid: None, due }).collect() }
    }

    /// Starts what is due, collects what ended, until somebody asks to go down.
    fn run(mut self, signals: SigSet) -> Result<std::convert::Infallible, InitError> {
        let (send, arrived) = channel();
        std::thread::spawn(move || {
            while let Ok(signal) = signals.wait() {
                if send.send(signal).is_err() {
                    return;
                }
            }
        });
        loop {
            self.start_due();
            let next = self.units.iter().filter_map(|running| running.due).min();
            let pause = next.map_or(Duration::from_secs(3600), |due| due.saturating_duration_since(Instant::now()));
            match arrived.recv_timeout(pause) {
                Ok(Signal::SIGCHLD) => self.collect(),
                Ok(Signal::SIGUSR2) => return go_down(GoDown::PowerOff),
                Ok(_) => return go_down(GoDown::Reboot),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        for running in &mut self.units {
            if running.due.is_none_or(|due| due > now) {
                continue;
            }
            running.due = None;
            match start(&running.unit) {
                Ok(pid) => {
                    eprintln!("init: {} runs as {pid}", running.unit.name);
                    running.pid = Some(pid);
                }
                Err(error) => {
                    eprintln!("init: cannot start {}: {error}", running.unit.name);
                    running.due = Some(now + RESTART_DELAY);
                }
            }
        }
    }

    /// Takes every child that ended, its own and those whose parents are gone.
    fn collect(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid() else { break };
            if let Some(running) = self.units.iter_mut().find(|running| running.pid == Some(pid)) {
                eprintln!("init: {} ended ({status:?})", running.unit.name);
                running.pid = None;
                running.due = Some(Instant::now() + RESTART_DELAY);
            }
        }
    }
}

fn start(unit: &Unit) -> std::io::Result<Pid> {
    if let Some(parent) = unit.log.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&unit.log)?;
    let child = Command::new(&unit.program)
        .args(&unit.args)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .envs(&unit.env)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A group of its own: a service that ends its group does not end the first process with it.
        .process_group(0)
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
    Ok(Pid::from_raw(pid))
}

/// Asks everything to end, waits a little, and leaves the rest to the kernel, which ends this namespace with the status
/// that tells reboot (129) from power off (130).
fn go_down(how: GoDown) -> Result<std::convert::Infallible, InitError> {
    eprintln!("init: going down ({how:?})");
    let everybody = Pid::from_raw(-1);
    let until = Instant::now() + GRACE;
    let mut asked = kill(everybody, Signal::SIGTERM);
    while asked.is_ok() && Instant::now() < until {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(20)),
            Ok(_) => {}
            // No child is left.
            Err(error) => asked = Err(error),
        }
    }
    nix::unistd::sync();
    let mode = match how {
        GoDown::Reboot => RebootMode::RB_AUTOBOOT,
        GoDown::PowerOff => RebootMode::RB_POWER_OFF,
    };
    reboot(mode).map_err(system("restart", "this host"))
}
