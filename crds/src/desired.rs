//! What must be true of a machine: one field a facet, all optional. A host, a profile and a fleet's member hold the same
//! fields; what a host does not describe is not looked at.

use crate::references::SecretRef;
use crate::text::{
    Address, BucketUrl, CloudLabel, ClusterId, DatabaseName, FolderName, HostName, HostPath, ImagePattern,
    InterfaceName, ModuleName, ModuleVersion, Percent, ProcessName, Schedule, Span, TimeZone,
};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What must be true of a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.stopped) || self.stopped.all(name, !(has(self.servers) && name in self.servers) && !(has(self.services) && (name in self.services || 'binder-' + name + '-service' in self.services || self.services.exists(service, 'binder-' + service + '-service' == name))))").message("something is described both as running and as stopped: leave it in servers or services, or in stopped"))]
pub struct Desired {
    /// Binder's servers that run here under pm2: `web`, `build`, `health`, `deploy-kubernetes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, a == b))").message("a server is named twice: name each once"))]
    pub servers: Vec<Server>,
    /// Binder's services that run here under pm2: `db`, `logging`, or by their pm2 names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, a == b)) && !('db' in self && 'binder-db-service' in self) && !('logging' in self && 'binder-logging-service' in self)").message("a service is named twice: name each once, by its short name or by its pm2 name"))]
    pub services: Vec<Service>,
    /// Servers and services that must not run here. One of these that a profile describes does not run on this host; what is
    /// named nowhere is left as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, a == b)) && !('db' in self && 'binder-db-service' in self) && !('logging' in self && 'binder-logging-service' in self)").message("something is named twice: name each once, by its short name or by its pm2 name"))]
    pub stopped: Vec<Stoppable>,
    /// Other pm2 processes that must run here, in the same terms as Binder's own components.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub processes: Vec<Process>,
    /// The kubectl proxy that `deploy-kubernetes` talks to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubectl_proxy: Option<KubectlProxy>,
    /// TCP ports that must be redirected to others, each by exactly one rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["interface".into(), "from".into()]))]
    pub port_redirects: Vec<PortRedirect>,
    /// File systems that must stay below a threshold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub disks: Vec<Disk>,
    /// Docker on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<Docker>,
    /// Binder's database on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,
    /// The Kubernetes API that this machine serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_api: Option<KubernetesApi>,
    /// npm modules that must be installed here in exactly these versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub modules: Vec<Module>,
    /// Ports of other machines that this one must be able to reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub reaches: Vec<Reach>,
}

impl Desired {
    /// This description laid over a profile: a field that is set here replaces the profile's whole field.
    pub fn over(self, profile: &Desired) -> Desired {
        fn list<T: Clone>(own: Vec<T>, profile: &[T]) -> Vec<T> {
            if own.is_empty() { profile.to_vec() } else { own }
        }
        // A host's own word wins over its profile's, and the result never says both of one thing.
        let stopped = |component| self.stopped.iter().any(|name| name.component() == component);
        let servers: Vec<Server> =
            profile.servers.iter().copied().filter(|server| !stopped(Component::Server(*server))).collect();
        let services: Vec<Service> =
            profile.services.iter().copied().filter(|service| !stopped(Component::Service(service.short()))).collect();
        let runs = |name: &Stoppable| match name.component() {
            Component::Server(server) => self.servers.contains(&server),
            Component::Service(service) => self.services.iter().any(|own| own.short() == service),
        };
        let stops: Vec<Stoppable> = profile.stopped.iter().copied().filter(|name| !runs(name)).collect();
        Desired {
            servers: list(self.servers, &servers),
            services: list(self.services, &services),
            stopped: list(self.stopped, &stops),
            processes: list(self.processes, &profile.processes),
            kubectl_proxy: self.kubectl_proxy.or_else(|| profile.kubectl_proxy.clone()),
            port_redirects: list(self.port_redirects, &profile.port_redirects),
            disks: list(self.disks, &profile.disks),
            docker: self.docker.or_else(|| profile.docker.clone()),
            database: self.database.or_else(|| profile.database.clone()),
            kubernetes_api: self.kubernetes_api.or_else(|| profile.kubernetes_api.clone()),
            modules: list(self.modules, &profile.modules),
            reaches: list(self.reaches, &profile.reaches),
        }
    }
}

/// One of Binder's servers, started by `binder-control NAME start` with the API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// The web page, port 3000.
    Web,
    /// The build server, port 8082.
    Build,
    /// The health checker, port 8086.
    Health,
    /// The deploy server, port 8084; needs the kubectl proxy.
    DeployKubernetes,
}

/// One of Binder's services, started by `binder-control start-service NAME`, by either of the runbook's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// The database, port 9050.
    Db,
    /// The database, by its pm2 name.
    BinderDbService,
    /// The log collector.
    Logging,
    /// The log collector, by its pm2 name.
    BinderLoggingService,
}

impl Service {
    /// The same service by its short name.
    pub fn short(self) -> Service {
        match self {
            Service::Db | Service::BinderDbService => Service::Db,
            Service::Logging | Service::BinderLoggingService => Service::Logging,
        }
    }
}

/// What can be described as stopped: each server, and each service by either of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stoppable {
    /// The web page.
    Web,
    /// The build server.
    Build,
    /// The health checker.
    Health,
    /// The deploy server.
    DeployKubernetes,
    /// The database.
    Db,
    /// The database, by its pm2 name.
    BinderDbService,
    /// The log collector.
    Logging,
    /// The log collector, by its pm2 name.
    BinderLoggingService,
}

/// A server, or a service by its short name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// A server.
    Server(Server),
    /// A service.
    Service(Service),
}

impl Stoppable {
    /// What it names.
    pub fn component(self) -> Component {
        match self {
            Stoppable::Web => Component::Server(Server::Web),
            Stoppable::Build => Component::Server(Server::Build),
            Stoppable::Health => Component::Server(Server::Health),
            Stoppable::DeployKubernetes => Component::Server(Server::DeployKubernetes),
            Stoppable::Db | Stoppable::BinderDbService => Component::Service(Service::Db),
            Stoppable::Logging | Stoppable::BinderLoggingService => Component::Service(Service::Logging),
        }
    }
}

/// A pm2 process of the owner's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// The name that `pm2 list` shows.
    pub name: ProcessName,
    /// The command that starts it under pm2, one argument an item, without a shell: `[pm2, start, /srv/echo.js, --name, echo]`.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 512), regex(pattern = r"^[^[:cntrl:]]+$")))]
    pub start: Vec<String>,
    /// TCP ports that it must listen on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<u16>,
    /// Names of pm2 processes that it starts itself and that go when it goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub children: Vec<ProcessName>,
    /// What must be in place before it is started: names of servers, services or processes of this host, or `kubectl-proxy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub after: Vec<ProcessName>,
    /// How long it may take from its start until its ports answer. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_timeout: Option<Span>,
}

/// An npm module in one exact version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Module {
    /// Its name, as npm knows it: `binder-web`.
    pub name: ModuleName,
    /// The version: another one, older or newer, is replaced by this.
    pub version: ModuleVersion,
    /// The folder whose `node_modules` holds it, with a `package.json` of its own. Default: npm's global modules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<HostPath>,
    /// The servers, services and processes of this host that are started again after it has changed. Default: those that are
    /// known to use it; `binder-control` and what it brings along: Binder's servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub used_by: Vec<ProcessName>,
    /// Whether npm runs the module's own install scripts, with the rights of whoever owns the folder. Default: it does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub install_scripts: bool,
}

/// A kubectl proxy on a host's loopback.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubectlProxy {
    /// The port that it serves. Default: 8085, where `deploy-kubernetes` looks for it.
    #[serde(default = "default_proxy_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The kubectl to serve it with, by its whole path; only this one counts as the right one.
    pub kubectl: HostPath,
    /// The cluster that must answer: the UID of its `kube-system` namespace. Without it, any cluster will do, and the
    /// host's condition tells which one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<ClusterId>,
}

fn default_proxy_port() -> u16 {
    8085
}

/// A redirect of one TCP port to another, in the `PREROUTING` chain of the `nat` table (runbook, "Web and deploy server").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.from != self.to").message("from and to are the same port: a redirect leads to another one"))]
pub struct PortRedirect {
    /// The interface that the connections come in by.
    pub interface: InterfaceName,
    /// The port that clients connect to.
    #[schemars(range(min = 1, max = 65535))]
    pub from: u16,
    /// The local port that gets them.
    #[schemars(range(min = 1, max = 65535))]
    pub to: u16,
}

/// A file system and its threshold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Any path on the file system, usually where it is mounted.
    pub path: HostPath,
    /// The highest use that is still all right, as `df` counts it. Default: 85%.
    #[serde(default = "default_max_used")]
    pub max_used: Percent,
}

fn default_max_used() -> Percent {
    Percent::from("85%")
}

/// Docker on a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Docker {
    /// When and what to clean up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim: Option<Reclaim>,
}

/// The clean-up of stopped containers and images in no use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reclaim {
    /// When to clean up even below the threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// The time zone of the schedule. Default: Etc/UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<TimeZone>,
    /// Only what has been in no use for this long goes. Default: 1h (the rule of the runbook's docker-gc).
    #[serde(default = "default_unused_for")]
    pub unused_for: Span,
    /// Images that never go, by name: with or without the tag, `*` for any characters. Default: the images that Binder
    /// builds upon, `andrewosh/binder-*`, without which the next build would fetch some gigabytes, and those of its services
    /// (`mongo`, `elasticsearch`, `kibana`, `andrewosh/logstash-binder`). An empty list keeps only the images of services that
    /// are described on the host.
    #[serde(default = "default_keep_images")]
    #[schemars(length(max = 8))]
    pub keep: Vec<ImagePattern>,
}

fn default_keep_images() -> Vec<ImagePattern> {
    ["andrewosh/binder-*", "mongo", "elasticsearch", "kibana", "andrewosh/logstash-binder"]
        .map(ImagePattern::from)
        .to_vec()
}

fn default_unused_for() -> Span {
    Span::from("1h")
}

/// Binder's database on a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// The port on which it listens on the host's loopback. Default: 9050.
    #[serde(default = "default_database_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The name of the database. Default: binder.
    #[serde(default = "default_database_name")]
    pub name: DatabaseName,
    /// When to back it up, where to, and how many backups to keep. Without it the database is edited without a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<Backups>,
    /// What to do about builds that never end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hung_builds: Option<HungBuilds>,
    /// What to do about names that only their case tells apart, or that are not in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Names>,
}

fn default_database_port() -> u16 {
    9050
}

fn default_database_name() -> DatabaseName {
    DatabaseName::from("binder")
}

/// Backups of the database, in the format of `mongodump`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backups {
    /// When to back up.
    pub schedule: Schedule,
    /// The time zone of the schedule. Default: Etc/UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<TimeZone>,
    /// Where backups go.
    pub to: BackupPlace,
    /// How many good backups to keep. Default: 7.
    #[serde(default = "default_keep")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep: u32,
    /// Good backups that are older than this go too, but never the last one. Default: they are kept by number alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_for: Option<Span>,
    /// Before the database is edited there must be a backup that is not older than this; else one is made first. Default:
    /// 1h.
    #[serde(default = "default_fresh_for")]
    pub fresh_for: Span,
}

fn default_keep() -> u32 {
    7
}

fn default_fresh_for() -> Span {
    Span::from("1h")
}

/// Where backups go: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.directory) != has(self.bucket)").message("say where backups go, either as directory (a folder of the operator's volume for backups) or as bucket, not both"))]
pub struct BackupPlace {
    /// A folder below the operator's volume for backups (the chart's `backups.volume`), made when it is missing. Each host
    /// has one of its own in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<FolderName>,
    /// A bucket of Amazon S3, of Google Cloud Storage, or of what speaks the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<Bucket>,
}

/// A bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    /// The bucket and a folder in it: `s3://BUCKET/FOLDER` or `gs://BUCKET/FOLDER`.
    pub url: BucketUrl,
    /// A Secret with what it takes to write there, each entry under its usual name: `aws_access_key_id`,
    /// `aws_secret_access_key`, `aws_region`, `aws_endpoint`, or `google_service_account_key`; and `ca.crt`, if the server's
    /// certificate is signed by an authority of your own.
    pub credentials_secret_ref: SecretRef,
}

/// Builds whose status stays `running` (runbook, "Hung build").
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HungBuilds {
    /// A build that has been running for longer is hung. Default: 3h.
    #[serde(default = "default_hung_after")]
    pub after: Span,
    /// Whether to start the build again once it has been set to `failed`. Default: false.
    #[serde(default)]
    pub rebuild: bool,
}

/// Names of builds and templates that only their case tells apart, or that are not in lower case: image and Kubernetes
/// names must be. They are reported; nothing is merged, renamed or deleted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    /// Whether to set a completed build to `failed`, with the reason, when nothing of its name can be launched. Default:
    /// false.
    #[serde(default)]
    pub fail_unusable: bool,
}

fn default_hung_after() -> Span {
    Span::from("3h")
}

/// The Kubernetes API that a host serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesApi {
    /// How many nodes must be Ready at least.
    #[schemars(range(min = 0, max = 5000))]
    pub ready_nodes: u32,
    /// True: the instance of a node that is not Ready may be restarted, once in an incident. Instances are named as their
    /// nodes, in the project and zone of this host's `power`; they must be hosts of this fleet, or carry `nodeLabel`.
    /// Default: false, and a person is asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_restart_nodes: bool,
    /// The label of the cluster's instances in their cloud, as `KEY=VALUE`. Without it only instances that the fleet lists
    /// as hosts may be restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_label: Option<CloudLabel>,
    /// The UID of the cluster's namespace `kube-system`. Default: `kubectlProxy.clusterId` of the host through which the
    /// cluster is asked. Where neither is known, nothing is restarted on that proxy's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<ClusterId>,
    /// The API's port on this machine's own loopback address. Default: 6443.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// True: that port speaks plain HTTP, as the insecure port 8080 of old masters does. Default: false, it speaks TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain_http: bool,
}

impl KubernetesApi {
    /// The API's port on the machine's own loopback address.
    pub fn own_port(&self) -> u16 {
        self.port.unwrap_or(6443)
    }
}

/// A port of another machine that this one must be able to reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.host) != has(self.address)").message("name the other machine either as host (a host of this fleet) or as address, not both"))]
pub struct Reach {
    /// A host of the same fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// Any other address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// The TCP port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}
