//! What a lab says about itself: the contract that scripts and tests build on.
//!
//! Plain data, written by the daemon and read by everybody. The names of the fields stay.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};
use crate::inventory::Network;
use crate::layout::Layout;
use crate::process::Running;

/// Where a lab is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "name", content = "reason")]
pub enum Phase {
    /// Its parts are being started.
    Starting,
    /// Everything is up.
    Ready,
    /// It did not come up; the text says why. What had been started is still there to look at.
    Failed(String),
}

/// A lab, as `cargo lab status -o json` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The lab's name.
    pub lab: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// An administrator's kubeconfig of the control plane that the operator works in.
    pub kubeconfig: PathBuf,
    /// The database, as a MongoDB URI. It answers once the services host runs its `db` service.
    pub database: String,
    /// The Compute Engine stand-in, as a base URL.
    pub cloud: String,
    /// The file that holds the key of Binder's HTTP APIs.
    pub api_key_file: PathBuf,
    /// An administrator's kubeconfig of the cluster on `kubernetes-master`; none when the lab has no such host.
    pub cluster_kubeconfig: Option<PathBuf>,
    /// That cluster's identity: the UID of its namespace `kube-system`; none before it has ever been up.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// The record of what was asked of the control plane: JSON lines, as the API server's audit log writes them.
    pub audit_log: PathBuf,
    /// Every host of the lab.
    pub hosts: Vec<HostStatus>,
    /// Which network it has.
    pub network: u8,
    /// The process that owns it.
    pub daemon: Option<Running>,
}

/// One host of a lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The port of its sshd.
    pub port: u16,
    /// Who logs in.
    pub user: String,
    /// The host key that it shows unless a fault changed it, as in `known_hosts`: algorithm and key.
    pub host_key: String,
    /// The file with the private key that opens it.
    pub private_key: PathBuf,
    /// Its network namespace, as `ip netns` names it.
    pub namespace: String,
    /// Its first process, seen from this computer; none when it is off.
    pub pid: Option<u32>,
    /// Its file system, seen from this computer.
    pub root: PathBuf,
    /// The id of its present boot; none when it is off.
    pub boot_id: Option<String>,
    /// Whether it is switched on.
    pub powered: bool,
    /// Its zone in the cloud.
    pub zone: String,
}

impl Status {
    /// What the lab last said.
    ///
    /// # Errors
    /// There is no such lab, or the file is not one that this version wrote.
    pub fn read(layout: &Layout) -> Result<Self, StatusError> {
        let path = layout.status();
        let text = match files::read(&path) {
            Err(error) if error.is_missing() => return Err(StatusError::NoLab(layout.lab().to_owned())),
            other => other?,
        };
        serde_json::from_str(&text).map_err(|source| StatusError::Unreadable { path, source })
    }

    /// Says it, to everybody who reads from now on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, layout: &Layout) -> Result<(), StatusError> {
        let path = layout.status();
        let text = serde_json::to_string_pretty(self)
            .map_err(|source| StatusError::Unreadable { path: path.clone(), source })?;
        Ok(files::replace(&path, text + "\n", 0o644)?)
    }

    /// The lab's network.
    pub fn network(&self) -> Network {
        Network(self.network)
    }

    /// Whether the lab has come up, and somebody still owns it.
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Ready && self.daemon.as_ref().is_some_and(Running::is_alive)
    }

    /// A host by its name.
    pub fn host(&self, name: &str) -> Option<&HostStatus> {
        self.hosts.iter().find(|host| host.name == name)
    }
}

/// A lab's status could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody brought such a lab up.
    #[error("no lab `{0}` is up; `cargo lab up` starts one")]
    NoLab(String),
    /// The file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what this version writes.
    #[error("`{}` is not a status that this version understands; `cargo lab down` takes the lab away", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}
