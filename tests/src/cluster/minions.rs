//! What surrounds a Kubernetes master in a cloud: machines that register as nodes and run pods, a load balancer, and
//! the one container that is real, Binder's proxy.
//!
//! Two processes, given as data like those of a [`Cluster`](super::Cluster): KWOK, which makes nodes Ready and pods
//! Running, and the lab's own `minions` (under `tests/go/controlplane`). Both survive a master that is away. The caller
//! starts them where the two addresses are. Knows nothing of namespaces and networks.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::process::ProcessSpec;
use crate::tools::Programs;

/// The addresses of pods. They exist in objects only, like those of services.
const POD_NETWORK: &str = "198.19.128.1/17";

/// For how long a node counts as alive after its last word, in seconds: kubelet's own default.
const LEASE_SECONDS: u32 = 40;

/// Two settings of client-go: how soon it notices that a server that lost its power is gone, in seconds. By default
/// after 45, which is longer than a host of the lab takes to boot.
const NOTICE: [(&str, &str); 2] = [("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "5"), ("HTTP2_PING_TIMEOUT_SECONDS", "3")];

/// The minions of one cluster. Paths are as their processes see them.
#[derive(Debug, Clone)]
pub struct Minions {
    /// A user of the cluster who may do everything.
    pub kubeconfig: PathBuf,
    /// The folder of their logs, and the home folder of KWOK.
    pub dir: PathBuf,
    /// How many nodes: `kubernetes-minion-1`, ...
    pub nodes: u32,
    /// The address of the service `proxy-lookup`, through which users reach their apps.
    pub lookup: IpAddr,
    /// The address of the service `proxy-registration`, the proxy's API.
    pub registration: IpAddr,
    /// The program of configurable-http-proxy, run on both addresses, port 80, while the pod `proxy-server` exists.
    /// None: that pod stays hollow like the others.
    pub proxy: Option<PathBuf>,
    /// The `PATH` of that program, for its `node`.
    pub path: Option<String>,
}

impl Minions {
    /// The two processes. They may be started before the cluster is up; one that gives up is to be started again.
    pub fn processes(&self, programs: &Programs, kwok: &Path) -> Vec<ProcessSpec> {
        let mut minions = vec![
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--nodes={}", self.nodes),
            format!("--address=proxy-lookup={}", self.lookup),
            format!("--address=proxy-registration={}", self.registration),
        ];
        minions.extend(self.proxy.as_ref().map(|program| format!("--chp={}", program.display())));
        let kwok_args = vec![
            format!("--kubeconfig={}", self.kubeconfig.display()),
            "--manage-all-nodes=false".to_owned(),
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake".to_owned(),
            format!("--node-lease-duration-seconds={LEASE_SECONDS}"),
            format!("--cidr={POD_NETWORK}"),
        ];
        vec![
            self.process("minions", &programs.minions, minions, self.path.iter().map(|path| ("PATH", path.as_str()))),
            // KWOK reads settings of the user's from the home folder; the lab's are the ones above.
            self.process("kwok", kwok, kwok_args, self.dir.to_str().map(|dir| ("HOME", dir)).into_iter()),
        ]
    }

    fn process<'a>(
        &self,
        name: &str,
        program: &Path,
        args: Vec<String>,
        env: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> ProcessSpec {
        ProcessSpec {
            name: name.to_owned(),
            program: program.to_owned(),
            args,
            env: NOTICE.into_iter().chain(env).map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            log: self.dir.join(format!("{name}.log")),
        }
    }
}
