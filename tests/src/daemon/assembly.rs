//! Putting a lab together: what is started, in which order, and what each part is told of the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::try_join_all;

use super::Orders;
use super::board::Board;
use crate::binder::software::{self, Software, SoftwareError};
use crate::cgroup::{Cgroup, CgroupError};
use crate::command::{CommandError, Run};
use crate::files::{self, FileError};
use crate::host::furnish::Furnishing;
use crate::host::init::{Bind, Init, Unit};
use crate::host::power::{Chassis, Order, PowerButton, PowerError};
use crate::host::root::{self, RootError};
use crate::inventory::{self, Machine, Network, Role, USER};
use crate::layout::Layout;
use crate::net::{self, NetError};
use crate::status::{HostStatus, StatusError};
use crate::tools::progress::{Event, Progress};
use crate::tools::{ToolError, Tools};

/// A part of the lab did not come up.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// A program is missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The Binder packages are missing.
    #[error(transparent)]
    Software(#[from] SoftwareError),
    /// No network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// No control group.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A host has no file system.
    #[error("the file system of {host}")]
    Root {
        /// The host.
        host: &'static str,
        /// What is wrong.
        #[source]
        source: RootError,
    },
    /// A host did not boot.
    #[error(transparent)]
    Power(#[from] PowerError),
    /// A key could not be made.
    #[error("cannot make a key")]
    Key(#[source] CommandError),
    /// The status could not be told.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// Nobody knows such a machine.
    #[error("there is no machine `{0}`")]
    Unknown(String),
}

/// What lives as long as the lab.
pub(super) struct Parts {
    _buttons: Vec<PowerButton>,
}

/// Starts everything, and comes back when everything is up.
pub(super) async fn assemble(
    layout: &Layout,
    orders: &Orders,
    board: Board,
    progress: Arc<dyn Progress>,
) -> Result<Parts, AssemblyError> {
    let machines = orders
        .hosts
        .iter()
        .map(|name| inventory::machine(name).ok_or_else(|| AssemblyError::Unknown(name.clone())))
        .collect::<Result<Vec<_>, _>>()?;
    let tools = Tools::new(progress.clone())?;
    let supplies = Supplies {
        software: Software::ensure(tools.cache(), &*progress).await?,
        ferretdb: match has(&machines, Role::Services) {
            true => Some(tools.ferretdb().await?),
            false => None,
        },
        control_plane: None,
    };
    let network = net::claim(layout.id()).await?;
    let group = Cgroup::of_lab(layout.id())?;
    files::make_dir(&layout.dir().join("keys"))?;
    let login_key = make_key(&layout.login_key(), &format!("{USER}@{}", layout.lab())).await?;
    files::write(&layout.api_key(), random_hex()?, 0o600)?;
    let database = network.address(inventory::with_role(Role::Services).octet);
    board.change(|status| {
        status.network = network.0;
        status.database = format!("mongodb://{database}:9050/binder");
    })?;

    progress.report(Event::Note(&format!("booting {}", orders.hosts.join(", "))));
    let scene = Scene { layout, orders, board: &board, supplies: &supplies, network, group, login_key };
    let buttons = try_join_all(machines.into_iter().map(|machine| scene.host(machine))).await?;
    Ok(Parts { _buttons: buttons })
}

/// Whether a machine of this role is among those of a lab.
fn has(machines: &[&Machine], role: Role) -> bool {
    machines.iter().any(|machine| machine.role == role)
}

/// The programs and packages that hosts are made with.
struct Supplies {
    software: Software,
    ferretdb: Option<PathBuf>,
    control_plane: Option<PathBuf>,
}

/// What every host of a lab is made from.
struct Scene<'a> {
    layout: &'a Layout,
    orders: &'a Orders,
    board: &'a Board,
    supplies: &'a Supplies,
    network: Network,
    group: Cgroup,
    login_key: String,
}

impl Scene<'_> {
    /// Makes one host and boots it.
    async fn host(&self, machine: &'static Machine) -> Result<PowerButton, AssemblyError> {
        let name = machine.name;
        let host = self.layout.host(name);
        let public = make_key(&self.layout.host_key(name), name).await?;
        let private = files::read(&self.layout.host_key(name))?;
        root::create(&host, machine.disk).await.map_err(|source| AssemblyError::Root { host: name, source })?;
        let cluster_kubeconfig: Option<String> = None;
        Furnishing {
            machine,
            network: self.network,
            root: &host.root(),
            login_key: &self.login_key,
            host_key: &private,
            cluster_kubeconfig: cluster_kubeconfig.as_deref(),
        }
        .write()?;
        let button = Chassis {
            name: name.to_owned(),
            network: self.network,
            octets: vec![machine.octet],
            layout: host.clone(),
            cgroup: self.group.child(name),
            init: self.init(machine, &host.root()),
            program: self.orders.program.clone(),
        }
        .mount();
        // Algorithm and key; the comment after them is ours.
        let host_key = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
        self.board.change(|status| {
            status.hosts.push(HostStatus {
                name: name.to_owned(),
                address: self.network.address(machine.octet),
                port: 22,
                user: USER.to_owned(),
                host_key,
                private_key: self.layout.login_key(),
                namespace: self.network.namespace(name),
                pid: None,
                root: host.root(),
                boot_id: None,
                powered: false,
                zone: machine.zone.to_owned(),
            });
            status.hosts.sort_by_key(|host| host.address);
        })?;
        self.board.follow(name.to_owned(), button.watch());
        button.press(Order::Start).await?;
        Ok(button)
    }

    fn init(&self, machine: &Machine, root: &Path) -> Init {
        let mut binds = Vec::new();
        let mut show = |from: &Path, to: &str, writable| {
            binds.push(Bind { from: from.to_owned(), to: to.into(), writable });
        };
        show(self.supplies.software.folder(), software::INSIDE, false);
        let mut units = vec![unit("sshd", "/usr/sbin/sshd", &["-D", "-e"])];
        match machine.role {
            Role::Services => {
                if let Some(ferretdb) = &self.supplies.ferretdb {
                    show(ferretdb, "/usr/local/lib/binder-lab/ferretdb", false);
                }
            }
            Role::WebDeploy => {
                if let Some(control_plane) = &self.supplies.control_plane {
                    let kubectl = format!("/home/{USER}/kubernetes/platforms/linux/amd64/kubectl");
                    show(&control_plane.join("controlplane"), &kubectl, false);
                }
            }
            Role::Build => {
                let data = self.layout.host(machine.name).disk().join("docker");
                show(&data, "/var/lib/docker", true);
                let parent = format!("--cgroup-parent=/binder-lab/{}/{}.docker", self.layout.id(), machine.name);
                units.push(unit(
                    "docker",
                    "/usr/sbin/dockerd",
                    &[
                        "--host=unix:///var/run/docker.sock",
                        "--bridge=none",
                        "--iptables=false",
                        "--storage-driver=overlay2",
                        &parent,
                    ],
                ));
            }
            Role::Master | Role::Management => {}
        }
        Init {
            hostname: machine.name.to_owned(),
            root: root.to_owned(),
            cgroup: self.group.child(machine.name).path().to_owned(),
            boot_id: self.layout.host(machine.name).boot_id(),
            binds,
            cgroups_inside: machine.role == Role::Build,
            units,
        }
    }
}

fn unit(name: &str, program: &str, args: &[&str]) -> Unit {
    Unit {
        name: name.to_owned(),
        program: program.into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: BTreeMap::new(),
        log: format!("/var/log/{name}.log").into(),
    }
}

/// Makes a key pair and gives its public half as one line.
async fn make_key(path: &Path, comment: &str) -> Result<String, AssemblyError> {
    Run::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"])
        .args([path])
        .succeed()
        .await
        .map_err(AssemblyError::Key)?;
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    Ok(files::read(Path::new(&public))?.trim().to_owned())
}

/// 32 hexadecimal digits from the kernel, as Binder's own `hat()` makes its keys.
fn random_hex() -> Result<String, FileError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    read.map_err(|source| FileError::new("read", path, source))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
