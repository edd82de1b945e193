//! Kubernetes control planes, as data first.
//!
//! A [`Cluster`] is a plan: which programs, where they listen, where their files lie. [`Cluster::prepare`] writes the
//! files, [`Cluster::processes`] says what to start and in which order, and the caller starts it: on this computer
//! ([`Cluster::start`] does that), or inside a lab host, whose file system has another root than ours. The lab has two:
//!
//! - [`Config::main`]: on loopback, for the operator. Runs the controllers that objects need (garbage collection,
//!   namespaces, service accounts) and keeps an audit log.
//! - [`Config::hosted`]: `kubernetes-master`, for Binder. Runs also what pods and nodes need, and a scheduler; around it
//!   are the [`minions`].
//!
//! Everyone proves who they are by certificate, servers too; no secret is in any command line. What is written can be
//! read back by a later command ([`Cluster`] is serde data), and a plan that was prepared stays good over restarts.
//!
//! Knows nothing of hosts, of the operator, and of Binder.

pub mod audit;
pub mod kubeconfig;
pub mod minions;
mod ready;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};
use crate::pki::{self, Authority, PkiError, Subject};
use crate::ports;
use crate::process::{self, ProcessError, ProcessSpec, Running};
use crate::tools::Programs;
use audit::AuditLog;
use kubeconfig::{AccessError, Credential, Server};
pub use ready::NotReady;

/// The addresses of services. They exist in objects only, and are from the range set aside for benchmarks, so even a
/// packet that is sent to one by mistake leaves for nobody's network.
const SERVICE_NETWORK: &str = "198.19.0.0/20";

/// The first address of [`SERVICE_NETWORK`], which Kubernetes gives to its own service.
const SERVICE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 19, 0, 1));

/// The names under which Kubernetes knows its own API.
const API_NAMES: &[&str] = &[
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// The port of an API server that has an address of its own.
const API_PORT: u16 = 6443;

/// The port of a store that has a loopback interface of its own.
const ETCD_PORT: u16 = 2379;

/// Until an API server that was started answers: 3 s on an idle computer, far more on one that compiles.
const ANSWERS: Duration = Duration::from_secs(120);

// What its processes are called, everywhere.
const ETCD: &str = "etcd";
const API_SERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";

// Two authorities, so that the certificate of a user of the API opens no door to the store.
const API_AUTHORITY: &str = "lab";
const ETCD_AUTHORITY: &str = "lab-etcd";

/// A control plane could not be made, started or used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A kubeconfig.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// It does not get ready.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// No ports to listen on.
    #[error("cannot pick ports for the control plane")]
    NoPorts(#[source] std::io::Error),
}

/// Which controllers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Controllers {
    /// What any object needs to live and to go away again.
    Objects,
    /// Also what pods, services and nodes need; and the scheduler.
    Workloads,
}

impl Controllers {
    /// For `--controllers`. The names are those of Kubernetes 1.28 and later.
    fn names(self) -> Vec<&'static str> {
        let mut names = vec![
            "clusterrole-aggregation-controller",
            "garbage-collector-controller",
            "namespace-controller",
            "root-ca-certificate-publisher-controller",
            "serviceaccount-controller",
            "serviceaccount-token-controller",
        ];
        if self == Self::Workloads {
            names.extend([
                "daemonset-controller",
                "deployment-controller",
                "endpoints-controller",
                "endpointslice-controller",
                "job-controller",
                "node-lifecycle-controller",
                "pod-garbage-collector-controller",
                "replicaset-controller",
                "replicationcontroller-controller",
                "taint-eviction-controller",
            ]);
        }
        names
    }
}

/// What kind of control plane, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The name that its kubeconfigs use.
    pub name: String,
    /// The folder of all its files, as its processes see it. Absolute.
    pub dir: PathBuf,
    /// Where the root of the processes' file system is, as seen from here: `/` for processes of this computer.
    pub root: PathBuf,
    /// Where the API server listens, and what its clients connect to.
    pub api: SocketAddr,
    /// The port of etcd, on the loopback address of the processes' network.
    pub etcd_port: u16,
    /// The programs, as the processes see them.
    pub programs: Programs,
    /// The controllers that run.
    pub controllers: Controllers,
    /// Whether the API server records who did what.
    pub audit: bool,
}

impl Config {
    /// The operator's control plane: processes of this computer, on loopback, on ports that nobody uses.
    ///
    /// # Errors
    /// There are no free ports.
    pub fn main(dir: &Path, programs: Programs) -> Result<Self, ClusterError> {
        let [api_port, etcd_port] = ports::free().map_err(ClusterError::NoPorts)?;
        Ok(Self {
            name: "binder-lab".to_owned(),
            dir: dir.to_owned(),
            root: PathBuf::from("/"),
            api: SocketAddr::from((Ipv4Addr::LOCALHOST, api_port)),
            etcd_port,
            programs,
            controllers: Controllers::Objects,
            audit: true,
        })
    }

    /// Binder's control plane: processes in a place with a network and a file system of its own.
    ///
    /// `dir` and `programs` are paths in that place, whose root is at `root` for us; `address` is its own address.
    pub fn hosted(name: &str, address: IpAddr, root: &Path, dir: &Path, programs: Programs) -> Self {
        Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            root: root.to_owned(),
            api: SocketAddr::from((address, API_PORT)),
            etcd_port: ETCD_PORT,
            programs,
            controllers: Controllers::Workloads,
            audit: false,
        }
    }
}

/// A control plane that was prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    config: Config,
}

impl Cluster {
    /// Writes everything that its processes read: certificates, keys, kubeconfigs, the audit policy. Over an older one in
    /// the same folder it makes new certificates, so do that only together with a new store.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn prepare(config: Config) -> Result<Self, ClusterError> {
        let cluster = Self { config };
        cluster.write_certificates()?;
        if cluster.config.audit {
            cluster.write("audit-policy.yaml", audit::POLICY, 0o644)?;
        }
        // What its own parts are called is Kubernetes' choice: the access rules that it comes with name them.
        cluster.write_kubeconfig("admin", "lab-admin", Some("system:masters"))?;
        cluster.write_kubeconfig("controller-manager", "system:kube-controller-manager", None)?;
        cluster.write_kubeconfig("scheduler", "system:kube-scheduler", None)?;
        Ok(cluster)
    }

    /// What it was made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The API's address for clients, such as `https://127.0.0.1:23456`.
    pub fn url(&self) -> String {
        format!("https://{}", self.config.api)
    }

    /// The kubeconfig, as seen from here, of a user who may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.outside(&self.kubeconfig_inside())
    }

    /// The same file, as the control plane's own processes see it.
    pub fn kubeconfig_inside(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }

    /// A client of a user who may do everything.
    ///
    /// # Errors
    /// The kubeconfig is gone.
    pub async fn client(&self) -> Result<Client, ClusterError> {
        Ok(kubeconfig::client(&self.kubeconfig()).await?)
    }

    /// The text of a kubeconfig for a user of any name, in one group or none. It is a secret.
    ///
    /// # Errors
    /// The authority's key is gone.
    pub fn kubeconfig_for_user(&self, user: &str, group: Option<&str>) -> Result<String, ClusterError> {
        let authority = self.api_authority()?;
        let identity = authority.issue(&Subject::User { name: user, group })?;
        Ok(self.server(authority.certificate()).kubeconfig(user, &Credential::Certificate(&identity), "default"))
    }

    /// The text of a kubeconfig that acts as a service account, and takes its namespace when none is said. It is a
    /// secret.
    ///
    /// # Errors
    /// The account does not exist, or the API server is away.
    pub async fn kubeconfig_for_service_account(
        &self,
        namespace: &str,
        name: &str,
        valid: Duration,
    ) -> Result<String, ClusterError> {
        let token = kubeconfig::token(&self.client().await?, namespace, name, valid).await?;
        let authority = files::read(&self.outside(&self.pki("ca.crt")))?;
        Ok(self.server(&authority).kubeconfig(name, &Credential::Token(&token), namespace))
    }

    /// Who did what; none for a control plane that does not record it.
    pub fn audit_log(&self) -> Option<AuditLog> {
        self.config.audit.then(|| AuditLog::at(self.outside(&self.path("audit.jsonl"))))
    }

    /// The processes, in the order of their start. Each may be started as soon as the one before it was: they wait for
    /// each other, but not for ever, so one that ended is to be started again.
    pub fn processes(&self) -> Vec<ProcessSpec> {
        let mut all = vec![self.etcd(), self.apiserver(), self.controller_manager()];
        if self.config.controllers == Controllers::Workloads {
            all.push(self.scheduler());
        }
        all
    }

    /// Starts the processes on this computer; the controllers as soon as the API server answers, for which they
    /// themselves would wait 10 s and no longer. Should anything fail, those that were started are ended again.
    ///
    /// # Errors
    /// A program cannot be run, or the API server does not answer within two minutes.
    pub async fn start(&self) -> Result<Vec<Running>, ClusterError> {
        let mut started = Vec::new();
        if let Err(error) = self.start_each(&mut started).await {
            process::end_all(&started, Duration::ZERO).await?;
            return Err(error);
        }
        Ok(started)
    }

    async fn start_each(&self, started: &mut Vec<Running>) -> Result<(), ClusterError> {
        for spec in self.processes() {
            if spec.name == CONTROLLER_MANAGER {
                ready::api(&self.client().await?, &self.logs(), ANSWERS, started).await?;
            }
            started.push(spec.start()?);
        }
        Ok(())
    }

    /// Waits until the API server says that it is ready and the controllers have shown that they work.
    ///
    /// `running` are its processes if the caller started them: should one end meanwhile, waiting ends too.
    ///
    /// # Errors
    /// It does not become ready in time, or a process ended; the error has the end of the log.
    pub async fn wait_ready(&self, limit: Duration, running: &[Running]) -> Result<(), ClusterError> {
        ready::control_plane(&self.client().await?, &self.logs(), limit, running).await?;
        Ok(())
    }

    /// Waits until this many nodes are Ready.
    ///
    /// # Errors
    /// They are not in time.
    pub async fn wait_nodes(&self, count: usize, limit: Duration) -> Result<(), ClusterError> {
        ready::nodes(&self.client().await?, count, limit).await?;
        Ok(())
    }

    /// What tells it from any other cluster: the UID of its namespace `kube-system`.
    ///
    /// # Errors
    /// The API server does not tell in time.
    pub async fn identity(&self, limit: Duration) -> Result<String, ClusterError> {
        Ok(ready::identity(&self.client().await?, limit).await?)
    }

    /// The logs of its processes, as seen from here, in the order of their start.
    pub fn logs(&self) -> Vec<(String, PathBuf)> {
        self.processes().into_iter().map(|spec| (spec.name, self.outside(&spec.log))).collect()
    }

    fn etcd(&self) -> ProcessSpec {
        let url = self.etcd_url();
        let args = vec![
            flag("data-dir", self.path("etcd").display()),
            flag("listen-client-urls", &url),
            flag("advertise-client-urls", &url),
            // There are no peers; etcd insists on listening for them.
            flag("listen-peer-urls", "http://127.0.0.1:0"),
            flag("cert-file", self.pki("etcd.crt").display()),
            flag("key-file", self.pki("etcd.key").display()),
            flag("trusted-ca-file", self.pki("etcd-ca.crt").display()),
            "--client-cert-auth".to_owned(),
            // A lab that loses its power loses all; waiting for the disk at every write would cost most of the time.
            "--unsafe-no-fsync".to_owned(),
            flag("log-level", "warn"),
        ];
        self.process(ETCD, &self.config.programs.etcd, args)
    }

    fn apiserver(&self) -> ProcessSpec {
        let api = self.config.api;
        let mut args = vec![
            flag("bind-address", self.listens_on()),
            flag("advertise-address", api.ip()),
            flag("secure-port", api.port()),
            flag("tls-cert-file", self.pki("apiserver.crt").display()),
            flag("tls-private-key-file", self.pki("apiserver.key").display()),
            flag("client-ca-file", self.pki("ca.crt").display()),
            flag("etcd-servers", self.etcd_url()),
            flag("etcd-cafile", self.pki("etcd-ca.crt").display()),
            flag("etcd-certfile", self.pki("etcd-client.crt").display()),
            flag("etcd-keyfile", self.pki("etcd-client.key").display()),
            flag("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
            flag("service-account-key-file", self.pki("service-accounts.pub").display()),
            flag("service-account-signing-key-file", self.pki("service-accounts.key").display()),
            flag("service-cluster-ip-range", SERVICE_NETWORK),
            flag("authorization-mode", "RBAC"),
            // Nothing reaches the API through its service, and a loopback address is not allowed as its endpoint.
            flag("endpoint-reconciler-type", "none"),
            flag("profiling", false),
        ];
        if self.config.audit {
            args.push(flag("audit-policy-file", self.path("audit-policy.yaml").display()));
            args.push(flag("audit-log-path", self.path("audit.jsonl").display()));
            // In megabytes: a reader holds byte offsets, so the file must not be rotated under it.
            args.push(flag("audit-log-maxsize", 4096));
        }
        self.process(API_SERVER, &self.config.programs.apiserver, args)
    }

    /// Where the API server listens: as real masters do, on every address of a machine that is its own, loopback among them.
    fn listens_on(&self) -> IpAddr {
        match self.config.api.ip() {
            own if own.is_loopback() => own,
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }
    }

    fn controller_manager(&self) -> ProcessSpec {
        let args = vec![
            flag("kubeconfig", self.path("controller-manager.kubeconfig").display()),
            flag("controllers", self.config.controllers.names().join(",")),
            flag("use-service-account-credentials", true),
            flag("service-account-private-key-file", self.pki("service-accounts.key").display()),
            flag("root-ca-file", self.pki("ca.crt").display()),
            flag("leader-elect", false),
            flag("secure-port", 0),
            flag("profiling", false),
        ];
        self.process(CONTROLLER_MANAGER, &self.config.programs.controller_manager, args)
    }

    fn scheduler(&self) -> ProcessSpec {
        let args = vec![
            flag("kubeconfig", self.path("scheduler.kubeconfig").display()),
            flag("leader-elect", false),
            flag("secure-port", 0),
            flag("profiling", false),
        ];
        self.process(SCHEDULER, &self.config.programs.scheduler, args)
    }

    fn process(&self, name: &str, program: &Path, args: Vec<String>) -> ProcessSpec {
        ProcessSpec {
            name: name.to_owned(),
            program: program.to_owned(),
            args,
            env: Vec::new(),
            log: self.path("logs").join(format!("{name}.log")),
        }
    }

    fn write_certificates(&self) -> Result<(), ClusterError> {
        let (api, api_key) = Authority::create(API_AUTHORITY)?;
        self.write("pki/ca.crt", api.certificate(), 0o644)?;
        self.write("pki/ca.key", &api_key, 0o600)?;
        // The store's authority signs these two and no more, so its key is not kept.
        let (etcd, _) = Authority::create(ETCD_AUTHORITY)?;
        self.write("pki/etcd-ca.crt", etcd.certificate(), 0o644)?;

        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let addresses = [self.config.api.ip(), loopback, SERVICE_ADDRESS];
        for (authority, file, subject) in [
            (&api, "apiserver", Subject::Server { name: "kube-apiserver", names: API_NAMES, addresses: &addresses }),
            (&etcd, "etcd", Subject::Server { name: "etcd", names: &["localhost"], addresses: &[loopback] }),
            (&etcd, "etcd-client", Subject::User { name: "kube-apiserver", group: None }),
        ] {
            let identity = authority.issue(&subject)?;
            self.write(&format!("pki/{file}.crt"), &identity.certificate, 0o644)?;
            self.write(&format!("pki/{file}.key"), &identity.key, 0o600)?;
        }

        let (private, public) = pki::signing_pair()?;
        self.write("pki/service-accounts.key", &private, 0o600)?;
        self.write("pki/service-accounts.pub", &public, 0o644)
    }

    fn write_kubeconfig(&self, file: &str, user: &str, group: Option<&str>) -> Result<(), ClusterError> {
        self.write(&format!("{file}.kubeconfig"), &self.kubeconfig_for_user(user, group)?, 0o600)
    }

    fn api_authority(&self) -> Result<Authority, ClusterError> {
        let certificate = files::read(&self.outside(&self.pki("ca.crt")))?;
        let key = files::read(&self.outside(&self.pki("ca.key")))?;
        Ok(Authority::load(API_AUTHORITY, certificate, &key)?)
    }

    fn server<'a>(&'a self, authority: &'a str) -> Server<'a> {
        Server { cluster: &self.config.name, address: self.config.api, authority }
    }

    fn etcd_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.config.etcd_port)
    }

    fn write(&self, path: &str, contents: &str, mode: u32) -> Result<(), ClusterError> {
        Ok(files::write(&self.outside(&self.path(path)), contents, mode)?)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.config.dir.join(path)
    }

    fn pki(&self, file: &str) -> PathBuf {
        self.config.dir.join("pki").join(file)
    }

    /// Where a path of the processes is for us.
    fn outside(&self, path: &Path) -> PathBuf {
        self.config.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn hosted(name: &str) -> (PathBuf, Cluster) {
        let root = std::env::temp_dir().join(format!("binder-lab-cluster-{}-{name}", std::process::id()));
        let programs = Programs::in_folder(Path::new("/opt/kubernetes"));
        let address = IpAddr::from([198, 18, 0, 20]);
        let config = Config::hosted("kubernetes-master", address, &root, Path::new("/srv/kubernetes"), programs);
        (root, Cluster::prepare(config).unwrap())
    }

    #[test]
    fn files_lie_under_the_root_and_are_named_from_inside() {
        let (root, cluster) = hosted("root");
        assert_eq!(cluster.kubeconfig(), root.join("srv/kubernetes/admin.kubeconfig"));
        assert_eq!(cluster.kubeconfig_inside(), Path::new("/srv/kubernetes/admin.kubeconfig"));
        let mut named = 0;
        for spec in cluster.processes() {
            assert!(spec.program.starts_with("/opt/kubernetes") && spec.log.starts_with("/srv/kubernetes/logs"));
            for path in spec.args.iter().filter_map(|arg| arg.split_once('=')).map(|(_, value)| value) {
                assert!(!path.contains(&root.display().to_string()), "{path} is a path from outside");
                if path.starts_with("/srv/kubernetes") && !path.ends_with("/etcd") {
                    let outside = root.join(path.trim_start_matches('/'));
                    assert!(outside.is_file(), "{path} was not written");
                    named += 1;
                }
            }
        }
        assert!(named > 10, "only {named} files were looked for");
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn secrets_are_nobody_elses_to_read() {
        let (root, cluster) = hosted("secrets");
        let mut secrets = 0;
        for folder in ["srv/kubernetes", "srv/kubernetes/pki"] {
            for file in std::fs::read_dir(root.join(folder)).unwrap() {
                let path = file.unwrap().path();
                if path.is_file() && files::read(&path).unwrap().contains("PRIVATE KEY")
                    || path.extension().is_some_and(|extension| extension == "kubeconfig")
                {
                    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
                    assert_eq!(mode & 0o077, 0, "{}", path.display());
                    secrets += 1;
                }
            }
        }
        assert_eq!(secrets, 8);
        let command_lines: String = cluster.processes().into_iter().flat_map(|spec| spec.args).collect();
        assert!(!command_lines.contains("PRIVATE KEY"));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_user_gets_a_kubeconfig_that_can_be_copied_anywhere() {
        let (root, cluster) = hosted("user");
        let text = cluster.kubeconfig_for_user("alice", Some("readers")).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["clusters"][0]["cluster"]["server"], "https://198.18.0.20:6443");
        assert_eq!(parsed["users"][0]["name"], "alice");
        assert!(!text.contains("insecure") && !text.contains(&root.display().to_string()));
        kube::config::Kubeconfig::from_yaml(&text).unwrap();
        std::fs::remove_dir_all(root).unwrap();
    }
}
