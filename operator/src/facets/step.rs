//! The steps of the runbook that this version knows, as data: recorded in a `BinderAction` before they are done, turned
//! into commands by `execute`, judged by looking again.

use super::Disruption;
use crate::catalogue::Start;
use serde::{Deserialize, Serialize};

/// One step of the runbook. Every value in it is typed and goes to a host as an argument of its own, never as shell text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Start a component.
    StartProcess {
        /// The component's name.
        component: String,
        /// How it is started.
        start: Start,
        /// A folder to put first on the `PATH`: where the right `kubectl.sh` lies.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// Delete a component's entries from pm2's table, which also ends them.
    DeleteEntries {
        /// The component's name.
        component: String,
        /// The names in pm2's table.
        processes: Vec<String>,
    },
    /// End a process that pm2 has lost.
    EndOrphan {
        /// The component's name.
        component: String,
        /// The process.
        orphan: ProcessId,
    },
    /// Start the kubectl proxy.
    StartKubectlProxy {
        /// The port.
        port: u16,
        /// The kubectl's whole path.
        kubectl: String,
    },
    /// End what serves the proxy's port wrongly.
    EndKubectlProxy {
        /// The port.
        port: u16,
        /// The process.
        process: ProcessId,
    },
    /// Insert a redirect that is missing.
    InsertRedirect {
        /// The interface.
        interface: String,
        /// The port that clients connect to.
        from: u16,
        /// The local port that gets them.
        to: u16,
    },
    /// Delete a redirect until it is there once.
    DeleteExtraRedirects {
        /// The interface.
        interface: String,
        /// The port that clients connect to.
        from: u16,
        /// The local port that gets them.
        to: u16,
    },
}

/// What tells a process from any other: a process id alone is used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started_ticks: u64,
    /// A part of its command line.
    pub signature: String,
}

impl Step {
    /// The kind of step, as the API says it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::StartProcess { .. } => "StartProcess",
            Self::DeleteEntries { .. } => "DeleteEntries",
            Self::EndOrphan { .. } => "EndOrphan",
            Self::StartKubectlProxy { .. } => "StartKubectlProxy",
            Self::EndKubectlProxy { .. } => "EndKubectlProxy",
            Self::InsertRedirect { .. } => "InsertRedirect",
            Self::DeleteExtraRedirects { .. } => "DeleteExtraRedirects",
        }
    }

    /// The step in the runbook's words.
    pub fn words(&self) -> String {
        match self {
            Self::StartProcess { component, start: Start::Service { .. }, .. } => {
                format!("start the service {component}")
            }
            Self::StartProcess { component, .. } => format!("start {component}"),
            Self::DeleteEntries { component, processes } if processes.len() > 1 => {
                format!("delete {component} and its children from pm2")
            }
            Self::DeleteEntries { component, .. } => format!("delete {component} from pm2"),
            Self::EndOrphan { component, orphan } => format!("end the {component} that pm2 lost (pid {})", orphan.pid),
            Self::StartKubectlProxy { port, .. } => format!("start the kubectl proxy on {port}"),
            Self::EndKubectlProxy { port, process } => {
                format!("end the wrong kubectl proxy on {port} (pid {})", process.pid)
            }
            Self::InsertRedirect { interface, from, to } => format!("insert the redirect {interface} {from} -> {to}"),
            Self::DeleteExtraRedirects { interface, from, to } => {
                format!("delete the redirect {interface} {from} -> {to} until it is there once")
            }
        }
    }

    /// What the step costs.
    pub fn disruption(&self) -> Disruption {
        match self {
            Self::StartProcess { .. }
            | Self::StartKubectlProxy { .. }
            | Self::InsertRedirect { .. }
            | Self::DeleteExtraRedirects { .. } => Disruption::None,
            Self::DeleteEntries { .. } | Self::EndOrphan { .. } | Self::EndKubectlProxy { .. } => Disruption::Service,
        }
    }

    /// Whether the command reads the API key.
    pub fn needs_api_key(&self) -> bool {
        matches!(self, Self::StartProcess { start: Start::Server { .. }, .. })
    }
}
