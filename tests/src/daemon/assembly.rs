//! Putting a lab together: what is started, in which order, and what each part is told of the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;

use super::Orders;
use super::board::Board;
use crate::binder::seed::{self, SeedError};
use crate::binder::software::{self, Software, SoftwareError};
use crate::cgroup::{Cgroup, CgroupError};
use crate::cloud::accounts::{Account, AccountError, OPERATOR_RIGHTS};
use crate::cloud::metadata::{KEYS, Metadata, MetadataError};
use crate::cloud::{self, CloudError, Instance};
use crate::cluster::minions::Minions;
use crate::cluster::{Cluster, ClusterError, Config};
use crate::command::{CommandError, Run};
use crate::files::{self, FileError};
use crate::host::furnish::Furnishing;
use crate::host::init::{Bind, Init, Unit};
use crate::host::memory;
use crate::host::power::{Chassis, Order, PowerButton, PowerError};
use crate::host::root::{self, RootError};
use crate::inventory::{self, LOOKUP_OCTET, MINIONS, Machine, NODES, Network, REGISTRATION_OCTET, Role, USER, USER_ID};
use crate::layout::Layout;
use crate::net::{self, NetError};
use crate::process::ProcessSpec;
use crate::status::{HostStatus, StatusError};
use crate::tools::debian::{self, DebianError};
use crate::tools::progress::{Event, Progress};
use crate::tools::{Programs, ToolError, Tools};

/// A part of the lab did not come up.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// A program is missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A package of Debian's is missing.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// A control plane does not come up.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The stand-in for the cloud does not listen.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// Nobody could be given an account in the cloud.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// An instance's metadata could not be written.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The database could not be filled.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The files of the database could not be handed over.
    #[error("cannot give the services host its database")]
    Copy(#[source] CommandError),
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

/// Where the programs of the hosted control plane show inside.
const KUBERNETES: &str = "/usr/local/lib/kubernetes";

/// Where its files are inside.
const KUBERNETES_STATE: &str = "/var/lib/kubernetes";

/// Until a control plane answers and its controllers work. 4 s on an idle computer, for each.
const CONTROL_PLANE_LIMIT: Duration = Duration::from_secs(120);

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
    debian::packages(&layout.dir().join("packages.log"), &*progress).await?;
    let tools = Tools::new(progress.clone())?;
    let supplies = Supplies::gather(&tools, &machines, &*progress).await?;

    let network = net::claim(layout.id()).await?;
    let group = Cgroup::of_lab(layout.id())?;
    files::make_dir(&layout.dir().join("keys"))?;
    let login_key = make_key(&layout.login_key(), &format!("{USER}@{}", layout.lab())).await?;
    // As Binder's own `hat()` makes its keys.
    files::write(&layout.api_key(), files::random_hex()?, 0o600)?;
    let main = Cluster::prepare(Config::main(&layout.control_plane(), supplies.main.clone())?)?;
    let database = network.address(inventory::with_role(Role::Services).octet);
    board.change(|status| {
        status.network = network.0;
        status.database = format!("mongodb://{database}:9050/binder");
        status.kubeconfig = main.kubeconfig();
        status.audit_log = main.audit_log().map(|log| log.path().to_owned()).unwrap_or_default();
    })?;

    progress.report(Event::Note(&format!("booting {}", orders.hosts.join(", "))));
    let create = |machine: &'static Machine| async {
        let created = root::create(&layout.host(machine.name), machine.disk).await;
        created.map_err(|source| AssemblyError::Root { host: machine.name, source })
    };
    try_join_all(machines.iter().map(|machine| create(machine))).await?;
    let mut scene = Scene { layout, board: &board, supplies: &supplies, network, group, login_key, cluster: None };
    if has(&machines, Role::Master) {
        scene.cluster = Some(scene.prepare_cluster()?);
        board.change(|status| status.cluster_kubeconfig = scene.cluster.as_ref().map(Cluster::kubeconfig))?;
    }
    if let Some(ferretdb) = &supplies.ferretdb {
        seed::seed(&layout.seed(), ferretdb, &supplies.software).await?;
    }

    let main_up = async {
        let running = main.start().await?;
        main.wait_ready(CONTROL_PLANE_LIMIT, &running).await?;
        progress.report(Event::Note("the control plane is ready"));
        Ok::<_, AssemblyError>(())
    };
    let hosts_up = async {
        let mut buttons = try_join_all(machines.iter().map(|machine| scene.host(machine))).await?;
        let mut instances: Vec<_> =
            machines.iter().zip(&buttons).map(|(machine, button)| scene.instance(machine, button)).collect();
        progress.report(Event::Note("the hosts are up"));
        if let Some(cluster) = &scene.cluster {
            let (surroundings, nodes) = scene.minions(cluster).await?;
            instances.extend(NODES.iter().zip(&nodes).map(|(machine, button)| scene.instance(machine, button)));
            buttons.push(surroundings);
            buttons.extend(nodes);
        }
        scene.cloud(instances).await?;
        if let Some(cluster) = &scene.cluster {
            cluster.wait_ready(CONTROL_PLANE_LIMIT, &[]).await?;
            cluster.wait_nodes(NODES.len(), CONTROL_PLANE_LIMIT).await?;
            let identity = cluster.identity(CONTROL_PLANE_LIMIT).await?;
            board.change(|status| status.cluster_id = Some(identity))?;
            progress.report(Event::Note("the cluster on kubernetes-master is ready"));
        }
        Ok(buttons)
    };
    let ((), buttons) = tokio::try_join!(main_up, hosts_up)?;
    Ok(Parts { _buttons: buttons })
}

/// Whether a machine of this role is among those of a lab.
fn has(machines: &[&Machine], role: Role) -> bool {
    machines.iter().any(|machine| machine.role == role)
}

/// The programs and packages that a lab is made with. What no host of the lab needs is not built either.
struct Supplies {
    software: Software,
    main: Programs,
    ferretdb: Option<PathBuf>,
    /// The folder of our own control plane's programs.
    control_plane: Option<PathBuf>,
    kwok: Option<PathBuf>,
}

impl Supplies {
    async fn gather(tools: &Tools, machines: &[&Machine], progress: &dyn Progress) -> Result<Self, AssemblyError> {
        let mut supplies = Self {
            software: Software::ensure(tools.cache(), progress).await?,
            main: tools.main_control_plane().await?,
            ferretdb: None,
            control_plane: None,
            kwok: None,
        };
        if has(machines, Role::Services) {
            supplies.ferretdb = Some(tools.ferretdb().await?);
        }
        if has(machines, Role::Master) || has(machines, Role::WebDeploy) {
            supplies.control_plane = tools.control_plane().await?.kubectl.parent().map(Path::to_owned);
        }
        if has(machines, Role::Master) {
            supplies.kwok = Some(tools.kwok().await?);
        }
        Ok(supplies)
    }
}

/// What every host of a lab is made from.
struct Scene<'a> {
    layout: &'a Layout,
    board: &'a Board,
    supplies: &'a Supplies,
    network: Network,
    group: Cgroup,
    login_key: String,
    /// The cluster on the master, once its files are there.
    cluster: Option<Cluster>,
}

impl Scene<'_> {
    /// Writes what the control plane on the master needs, into the master's file system.
    fn prepare_cluster(&self) -> Result<Cluster, AssemblyError> {
        let master = inventory::with_role(Role::Master);
        let config = Config::hosted(
            master.name,
            self.network.address(master.octet).into(),
            &self.layout.host(master.name).root(),
            Path::new(KUBERNETES_STATE),
            Programs::in_folder(Path::new(KUBERNETES)),
        );
        Ok(Cluster::prepare(config)?)
    }

    /// Furnishes one host, whose file system is there, and boots it.
    async fn host(&self, machine: &'static Machine) -> Result<PowerButton, AssemblyError> {
        let name = machine.name;
        let host = self.layout.host(name);
        let public = make_key(&self.layout.host_key(name), name).await?;
        let private = files::read(&self.layout.host_key(name))?;
        let kubeconfig = match (&self.cluster, machine.role) {
            (Some(cluster), Role::WebDeploy) => Some(cluster.kubeconfig_for_user(USER, Some("system:masters"))?),
            _ => None,
        };
        Furnishing {
            machine,
            network: self.network,
            root: &host.root(),
            login_key: &self.login_key,
            host_key: &private,
            cluster_kubeconfig: kubeconfig.as_deref(),
        }
        .write()?;
        if machine.role == Role::Services {
            self.move_in_database(&host.root()).await?;
        }
        if let Some(total) = machine.memory {
            memory::believe(self.group.child(name), host.memory(), total)?;
        }
        let button = self.chassis(name, vec![machine.octet], true, self.init(machine)).mount();
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

    /// Makes the files of the database that was filled the services host's own.
    async fn move_in_database(&self, root: &Path) -> Result<(), AssemblyError> {
        let (from, to) = (self.layout.seed().join("data/."), root.join("data/binder/db"));
        let copied = Run::new("cp").args(["-r", "--"]).args([&from, &to]).succeed().await;
        copied.map_err(AssemblyError::Copy)?;
        let owner = format!("{USER_ID}:{USER_ID}");
        Run::new("chown").args(["-R", &owner, "--"]).args([&to]).succeed().await.map_err(AssemblyError::Copy)?;
        Ok(())
    }

    /// A machine as its cloud sees it.
    fn instance(&self, machine: &'static Machine, button: &PowerButton) -> Instance {
        let (files, group) = (self.layout.host(machine.name), self.group.child(machine.name));
        Instance { machine, button: button.clone(), files, group }
    }

    /// Starts the stand-in for the cloud, with an account for the operator.
    async fn cloud(&self, instances: Vec<Instance>) -> Result<(), AssemblyError> {
        for instance in &instances {
            // What a project of some years has: a colleague's key, and an item that nobody dares to remove.
            let mut metadata = Metadata::default();
            metadata.set("startup-script-url", "gs://binder-testing/startup.sh".to_owned());
            metadata.set(KEYS, "carol:ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 carol@example.org".to_owned());
            metadata.write(&instance.files.metadata())?;
        }
        let account = Account::make(&self.layout.dir().join("keys"), "binder-operator", OPERATOR_RIGHTS).await?;
        let service = cloud::serve(self.network, instances, vec![account.clone()]).await?;
        files::write(&self.layout.cloud_key(), account.key_file(service.base()).to_string(), 0o600)?;
        Ok(self.board.change(|status| service.base().clone_into(&mut status.cloud))?)
    }

    /// Starts what surrounds the master: the load balancer and the users' proxy in one place, and the nodes, each a machine
    /// of its own.
    async fn minions(&self, cluster: &Cluster) -> Result<(PowerButton, Vec<PowerButton>), AssemblyError> {
        let kubeconfig = Path::new("/etc/kubernetes/minions.kubeconfig");
        let minions = Minions {
            kubeconfig: kubeconfig.to_owned(),
            dir: "/var/log/minions".into(),
            nodes: NODES.iter().map(|node| node.name.to_owned()).collect(),
            lookup: self.network.address(LOOKUP_OCTET).into(),
            registration: self.network.address(REGISTRATION_OCTET).into(),
            proxy: Some(Path::new(software::INSIDE).join("node_modules/.bin/configurable-http-proxy")),
            path: None,
        };
        let kwok = Path::new("/usr/local/lib/kwok/kwok");
        let text = cluster.kubeconfig_for_user(MINIONS, Some("system:masters"))?;
        let place = |name: &'static str, octets: Vec<u8>, binds: Vec<Bind>, process: Option<ProcessSpec>| {
            let text = &text;
            async move {
                let host = self.layout.host(name);
                let failed = |source| AssemblyError::Root { host: name, source };
                root::create(&host, None).await.map_err(failed)?;
                files::write(&host.root().join("etc/kubernetes/minions.kubeconfig"), text, 0o600)?;
                let units = process.into_iter().map(Unit::from).collect();
                let button = self.chassis(name, octets, false, self.first_process(name, binds, false, units)).mount();
                button.press(Order::Start).await?;
                Ok::<_, AssemblyError>(button)
            }
        };
        let mut binds = vec![bind(self.supplies.software.folder(), software::INSIDE)];
        binds.extend(self.supplies.control_plane.iter().map(|folder| bind(folder, KUBERNETES)));
        let surroundings = minions.surroundings(&Programs::in_folder(Path::new(KUBERNETES)));
        let surroundings = place(MINIONS, vec![LOOKUP_OCTET, REGISTRATION_OCTET], binds, Some(surroundings));
        let nodes = NODES.iter().enumerate().map(|(number, node)| {
            let binds = self.supplies.kwok.iter().map(|from| Bind { to: kwok.to_owned(), ..bind(from, "") });
            place(node.name, vec![node.octet], binds.collect(), minions.node(number, kwok))
        });
        tokio::try_join!(surroundings, try_join_all(nodes))
    }

    fn chassis(&self, name: &str, octets: Vec<u8>, sshd: bool, init: Init) -> Chassis {
        Chassis {
            name: name.to_owned(),
            network: self.network,
            octets,
            layout: self.layout.host(name),
            cgroup: self.group.child(name),
            init,
            // Not by its path: a build may replace or remove the file while the lab is up, and hosts still reboot.
            program: format!("/proc/{}/exe", std::process::id()).into(),
            sshd,
        }
    }

    fn first_process(&self, name: &str, binds: Vec<Bind>, cgroups_inside: bool, units: Vec<Unit>) -> Init {
        Init {
            hostname: name.to_owned(),
            root: self.layout.host(name).root(),
            cgroup: self.group.child(name).path().to_owned(),
            boot_id: self.layout.host(name).boot_id(),
            binds,
            cgroups_inside,
            units,
        }
    }

    /// What a machine shows of this computer, and what it starts by itself at boot.
    fn init(&self, machine: &Machine) -> Init {
        // Each machine has modules of its own, which npm can change.
        let changes = Some(self.layout.host(machine.name).dir().join("modules"));
        let mut binds = vec![Bind { changes, ..bind(self.supplies.software.folder(), software::INSIDE) }];
        let mut units = vec![unit("sshd", "/usr/sbin/sshd", &["-D", "-e"])];
        match machine.role {
            Role::Services => {
                binds
                    .extend(self.supplies.ferretdb.iter().map(|from| bind(from, "/usr/local/lib/binder-lab/ferretdb")));
            }
            Role::WebDeploy => {
                let kubectl = format!("/home/{USER}/kubernetes/platforms/linux/amd64/kubectl");
                binds.extend(self.supplies.control_plane.iter().map(|dir| bind(&dir.join("controlplane"), &kubectl)));
            }
            Role::Build => {
                let data = self.layout.host(machine.name).disk().join("docker");
                binds.push(Bind { writable: true, ..bind(&data, "/var/lib/docker") });
                let parent = format!("--cgroup-parent=/binder-lab/{}/{}.docker", self.layout.id(), machine.name);
                let socket = "--host=unix:///var/run/docker.sock";
                let rest = ["--bridge=none", "--iptables=false", "--storage-driver=overlay2", &parent];
                units.push(unit(
                    "docker",
                    "/usr/local/lib/binder-lab/docker-service",
                    &[&[socket], &rest[..]].concat(),
                ));
            }
            Role::Master => {
                binds.extend(self.supplies.control_plane.iter().map(|folder| bind(folder, KUBERNETES)));
                units.extend(self.cluster.iter().flat_map(Cluster::processes).map(Unit::from));
            }
            Role::Management | Role::Minion => {}
        }
        if machine.memory.is_some() {
            binds.push(bind(&self.layout.host(machine.name).memory(), "/proc/meminfo"));
        }
        self.first_process(machine.name, binds, machine.role == Role::Build, units)
    }
}

fn bind(from: &Path, to: &str) -> Bind {
    Bind { from: from.to_owned(), to: to.into(), writable: false, changes: None }
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
