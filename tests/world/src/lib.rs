//! A machine in memory: steps really change it, it can be looked at, time passes as data. One model for the tests of the
//! core's plan and for the simulated fleet.
//!
//! Knows nothing of how it is reached, of what is tried, or of what would be right: a step does to it what it does to a real
//! machine, asked for or not.

mod docker;
mod host;
mod seen;

pub use host::{LOGIN, World};
pub use seen::{CLIMB, CLUSTER};

use binder_crds::Desired;
use binder_crds::desired::{Disk, KubectlProxy, PortRedirect, Server};
use binder_crds::text::{HostPath, InterfaceName, Percent};

/// A machine with three of Binder's servers, a kubectl proxy, a redirect and a disk.
pub fn web() -> Desired {
    Desired {
        servers: vec![Server::Web, Server::DeployKubernetes, Server::Health],
        kubectl_proxy: Some(KubectlProxy {
            port: 8085,
            kubectl: HostPath::from("/opt/k/kubectl.sh"),
            cluster_id: None,
        }),
        port_redirects: vec![PortRedirect { interface: InterfaceName::from("eth0"), from: 80, to: 3000 }],
        disks: vec![Disk { path: HostPath::from("/"), max_used: Percent::from("85%") }],
        ..Desired::default()
    }
}
