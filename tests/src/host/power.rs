//! A host's power button: boots it, notices when it ends, boots it again or leaves it off.
//!
//! One task for each host owns the host's processes; everybody else holds a [`PowerButton`]. Knows namespaces, cables
//! and boot ids; nothing of Binder.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::init::Init;
use crate::cgroup::{Cgroup, CgroupError};
use crate::files::{self, FileError};
use crate::inventory::Network;
use crate::layout::HostLayout;
use crate::net::{self, NetError};
use crate::process;

/// From the start of the first process to sshd's greeting. It takes 0.2 s when the computer is idle.
const BOOT_LIMIT: Duration = Duration::from_secs(40);

/// How long a host may take to go down by itself before it is cut off. Compute Engine gives about 90 s.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Whether a host that ended had asked for a restart. The kernel then ends its first process by SIGHUP, and by SIGINT when
/// it had asked to be switched off (reboot(2), "Behavior inside PID namespaces"); `unshare` ends itself the same way.
fn asked_for_restart(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SIGHUP as i32)
}

/// A host could not be switched on or off.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its network could not be made.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Its processes could not be ended.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The first process could not be described.
    #[error("cannot describe the first process of {host}")]
    Describe {
        /// The host.
        host: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The first process could not be started.
    #[error("cannot start the first process of {host}")]
    Start {
        /// The host.
        host: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It ended while it was booting, or sshd never greeted.
    #[error("{host} did not boot: {why}; its console says:\n{said}")]
    Boot {
        /// The host.
        host: String,
        /// What was missing.
        why: String,
        /// The end of its console.
        said: String,
    },
    /// The lab is being taken down.
    #[error("{host} has nobody who could switch it any more: the lab is going down")]
    Gone {
        /// The host.
        host: String,
    },
}

/// What is asked of a host from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Switch it on; one that is on stays as it is.
    Start,
    /// Ask it to go down, cut it off if it does not; one that is off stays as it is.
    Stop,
    /// Cut it off and switch it on, in whatever state it is.
    Reset,
}

/// Whether a host is on, and as what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Power {
    /// Whether it is switched on.
    pub on: bool,
    /// Its first process, seen from this computer.
    pub pid: Option<u32>,
    /// The id of its boot.
    pub boot_id: Option<String>,
    /// Why the last attempt to boot failed, until one succeeds.
    pub failure: Option<String>,
}

type Reply = oneshot::Sender<Result<(), PowerError>>;

/// The way to switch a host, and to see whether it is on.
#[derive(Debug, Clone)]
pub struct PowerButton {
    host: String,
    orders: mpsc::Sender<(Order, Reply)>,
    state: watch::Receiver<Power>,
}

impl PowerButton {
    /// Carries out an order; comes back when it is done, which for a start or reset is when sshd greets.
    ///
    /// # Errors
    /// The host does not boot, or the lab is going down.
    pub async fn press(&self, order: Order) -> Result<(), PowerError> {
        let gone = || PowerError::Gone { host: self.host.clone() };
        let (reply, answer) = oneshot::channel();
        self.orders.send((order, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// A button with no machine behind it, for tests of those who press it: it is on, and every order that was carried out
    /// is in the list.
    pub fn imagined(host: &str) -> (Self, Arc<Mutex<Vec<Order>>>) {
        let (orders, mut inbox) = mpsc::channel::<(Order, Reply)>(8);
        let (tell, state) = watch::channel(Power { on: true, ..Power::default() });
        let pressed = Arc::new(Mutex::new(Vec::new()));
        let list = pressed.clone();
        tokio::spawn(async move {
            while let Some((order, reply)) = inbox.recv().await {
                tell.send_modify(|power| power.on = order != Order::Stop);
                list.lock().unwrap_or_else(PoisonError::into_inner).push(order);
                let _ = reply.send(Ok(()));
            }
        });
        (Self { host: host.to_owned(), orders, state }, pressed)
    }

    /// The present state.
    pub fn power(&self) -> Power {
        self.state.borrow().clone()
    }

    /// A receiver that wakes at each change.
    pub fn watch(&self) -> watch::Receiver<Power> {
        self.state.clone()
    }
}

/// What it takes to boot one host.
#[derive(Debug, Clone)]
pub struct Chassis {
    /// Its name.
    pub name: String,
    /// The lab's network.
    pub network: Network,
    /// The last parts of its addresses, the main one first.
    pub octets: Vec<u8>,
    /// Its files.
    pub layout: HostLayout,
    /// The group of its processes.
    pub cgroup: Cgroup,
    /// What its first process does. The boot id is new at each boot.
    pub init: Init,
    /// The program that has `host-init` as a hidden command: this one.
    pub program: PathBuf,
    /// Whether it runs sshd, whose greeting then ends its boot.
    pub sshd: bool,
}

impl Chassis {
    /// Hands the host over to a task of its own, switched off.
    pub fn mount(self) -> PowerButton {
        let (orders, inbox) = mpsc::channel(8);
        let (tell, state) = watch::channel(Power::default());
        let host = self.name.clone();
        tokio::spawn(Owner { chassis: self, inbox, tell, child: None }.run());
        PowerButton { host, orders, state }
    }

    fn namespace(&self) -> String {
        self.network.namespace(&self.name)
    }

    fn address(&self) -> Ipv4Addr {
        self.network.address(self.octets.first().copied().unwrap_or_default())
    }
}

/// The task that owns a host's processes.
struct Owner {
    chassis: Chassis,
    inbox: mpsc::Receiver<(Order, Reply)>,
    tell: watch::Sender<Power>,
    /// The process above the host's first one; none while it is off.
    child: Option<Child>,
}

impl Owner {
    async fn run(mut self) {
        loop {
            let ended = async {
                match &mut self.child {
                    Some(child) => child.wait().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                status = ended => {
                    self.child = None;
                    tracing::info!(host = self.chassis.name, ?status, "went down by itself");
                    let restart = status.is_ok_and(asked_for_restart);
                    let result = if restart { self.boot().await } else { self.off().await };
                    if let Err(error) = result {
                        tracing::error!(host = self.chassis.name, error = crate::said(&error), "cannot be switched");
                    }
                }
                order = self.inbox.recv() => {
                    // Nobody holds the button any more: the lab is going down, and ends the processes itself.
                    let Some((order, reply)) = order else { return };
                    tracing::info!(host = self.chassis.name, ?order, "switching");
                    // Who asked may be gone by now; the order was carried out all the same.
                    let _ = reply.send(self.carry_out(order).await);
                }
            }
        }
    }

    async fn carry_out(&mut self, order: Order) -> Result<(), PowerError> {
        match order {
            Order::Start if self.child.is_some() => Ok(()),
            Order::Start => self.boot().await,
            Order::Stop => {
                self.ask_to_go_down().await;
                self.off().await
            }
            Order::Reset => {
                self.off().await?;
                self.boot().await
            }
        }
    }

    /// As the power button of a machine: its first process hears of it and may end the rest in order.
    async fn ask_to_go_down(&mut self) {
        let pid = self.tell.borrow().pid.and_then(|pid| i32::try_from(pid).ok());
        if let (Some(pid), Some(child)) = (pid, &mut self.child) {
            // A host that hangs does not hear it; the limit and the cut that follows are for that.
            let _ = kill(Pid::from_raw(pid), Signal::SIGUSR2);
            let _ = timeout(STOP_LIMIT, child.wait()).await;
        }
    }

    /// Ends whatever is left of it, and takes its cable away.
    async fn off(&mut self) -> Result<(), PowerError> {
        self.chassis.cgroup.kill().await?;
        if let Some(mut child) = self.child.take() {
            // Its only child is dead, so it ends by itself.
            if timeout(STOP_LIMIT, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
        }
        self.tell.send_replace(Power::default());
        net::unplug(self.chassis.network, &self.chassis.namespace(), &self.chassis.octets).await?;
        Ok(())
    }

    async fn boot(&mut self) -> Result<(), PowerError> {
        let booted = self.try_to_boot().await;
        if let Err(error) = &booted {
            // A machine that fails to boot is off, and says why.
            let failure = Some(crate::said(error));
            let cleaned = self.off().await;
            self.tell.send_modify(|power| power.failure = failure);
            cleaned?;
        }
        booted
    }

    async fn try_to_boot(&mut self) -> Result<(), PowerError> {
        let chassis = &self.chassis;
        let host = chassis.name.clone();
        chassis.cgroup.kill().await?;
        chassis.cgroup.create()?;
        net::plug_in(chassis.network, &chassis.namespace(), &chassis.octets).await?;
        let boot_id = files::read(std::path::Path::new("/proc/sys/kernel/random/uuid"))?.trim().to_owned();
        files::write(&chassis.layout.boot_id(), format!("{boot_id}\n"), 0o444)?;
        let text = serde_json::to_string_pretty(&chassis.init)
            .map_err(|source| PowerError::Describe { host: host.clone(), source })?;
        files::write(&chassis.layout.init(), text, 0o600)?;
        let console = console(chassis)?;
        let errors = console.try_clone().map_err(|source| FileError::new("open", &chassis.layout.console(), source))?;
        let mut network = std::ffi::OsString::from("--net=");
        network.push(net::namespace_file(&chassis.namespace()));
        let child = Command::new("nsenter")
            .arg(network)
            .args(["unshare", "--mount", "--propagation", "private", "--uts", "--ipc", "--pid", "--fork"])
            .args(["--kill-child=SIGKILL", "--"])
            .arg(&chassis.program)
            .arg("host-init")
            .arg(chassis.layout.init())
            .stdin(Stdio::null())
            .stdout(console)
            .stderr(errors)
            .spawn()
            .map_err(|source| PowerError::Start { host, source })?;
        let above = child.id();
        self.child = Some(child);
        if chassis.sshd {
            self.greeted().await?;
        }
        let pid = above.and_then(only_child);
        self.tell.send_replace(Power { on: true, pid, boot_id: Some(boot_id), failure: None });
        Ok(())
    }

    /// Waits until sshd says who it is.
    async fn greeted(&mut self) -> Result<(), PowerError> {
        let until = Instant::now() + BOOT_LIMIT;
        let at = SocketAddrV4::new(self.chassis.address(), 22);
        loop {
            let failed = |why: String| PowerError::Boot {
                host: self.chassis.name.clone(),
                why,
                said: process::tail(&self.chassis.layout.console()),
            };
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(failed(format!("its first process ended with {status}")));
            }
            if greets(at).await {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(failed(format!("sshd did not greet at {at} within {BOOT_LIMIT:?}")));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn console(chassis: &Chassis) -> Result<std::fs::File, FileError> {
    let path = chassis.layout.console();
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|source| FileError::new("open", &path, source))
}

/// Whether an SSH server says who it is.
pub async fn greets(at: SocketAddrV4) -> bool {
    let look = async {
        let mut stream = tokio::net::TcpStream::connect(at).await.ok()?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting).await.ok()?;
        (&greeting == b"SSH-").then_some(())
    };
    matches!(timeout(Duration::from_secs(2), look).await, Ok(Some(())))
}

/// The one process that another started.
fn only_child(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
