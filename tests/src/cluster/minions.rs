//! What surrounds a Kubernetes master in a cloud: machines that register as nodes and run pods, a load balancer, and
//! the one container that is real, Binder's proxy.
//!
//! Processes, given as data like those of a [`Cluster`](super::Cluster): for each node a KWOK, which makes it Ready and its
//! pods Running, and the lab's own `minions` (under `tests/go/controlplane`). All survive a master that is away. The
//! caller starts the last where the two addresses are, and each KWOK where it likes: without it, its node is lost. Knows
//! nothing of namespaces and networks.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::process::ProcessSpec;
use crate::tools::Programs;

/// For how long a node's lease is held after its last word, in seconds. Less than kubelet's 40: a KWOK that was restarted
/// is somebody else to the API, and waits for the end of its own old lease before it takes its node up again.
const LEASE_SECONDS: u32 = 15;

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
    /// The nodes: `kubernetes-minion-1` and so on.
    pub nodes: Vec<String>,
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
    /// All processes. They may be started before the cluster is up; one that gives up is to be started again.
    pub fn processes(&self, programs: &Programs, kwok: &Path) -> Vec<ProcessSpec> {
        let nodes = (0..self.nodes.len()).filter_map(|place| self.node(place, kwok));
        std::iter::once(self.surroundings(programs)).chain(nodes).collect()
    }

    /// The process that registers the nodes, gives the services their addresses and runs the users' proxy.
    pub fn surroundings(&self, programs: &Programs) -> ProcessSpec {
        let mut args = vec![
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--nodes={}", self.nodes.len()),
            format!("--address=proxy-lookup={}", self.lookup),
            format!("--address=proxy-registration={}", self.registration),
        ];
        args.extend(self.proxy.as_ref().map(|program| format!("--chp={}", program.display())));
        self.process("minions", &programs.minions, args, self.path.iter().map(|path| ("PATH", path.as_str())))
    }

    /// The process of one node, by its place in the list.
    pub fn node(&self, place: usize, kwok: &Path) -> Option<ProcessSpec> {
        let name = self.nodes.get(place)?;
        let args = vec![
            format!("--kubeconfig={}", self.kubeconfig.display()),
            "--manage-all-nodes=false".to_owned(),
            format!("--manage-single-node={name}"),
            format!("--node-lease-duration-seconds={LEASE_SECONDS}"),
            // The addresses of its pods. They exist in objects only, like those of services.
            format!("--cidr=198.19.{}.1/24", 128 + place % 128),
        ];
        // KWOK reads settings of the user's from the home folder; the lab's are the ones above.
        let home = self.dir.to_str().map(|dir| ("HOME", dir));
        Some(self.process(&format!("kwok-{name}"), kwok, args, home.into_iter()))
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
