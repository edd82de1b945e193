//! The steps against a kubectl proxy that is missing or wrong: start the right one, end the wrong one.

use crate::facets::Subject;
use crate::facets::process::ProcessId;
use crate::facets::step::{Effect, How, Later, Nature, OfModules, Recovers, Remedy, Touches, kinds_of_steps, plain};
use crate::gate::demands::Demands;
use crate::seen::Unknown;
use binder_crds::text::BadText;
use serde::{Deserialize, Serialize};

/// Starts the proxy as the runbook's `screen` did: detached, with its output in a file. What it says in its first moment
/// is told, since a kubectl that cannot start says why.
const START_KUBECTL_PROXY: &str = r#"
set -u
port=$1 kubectl=$2
mkdir -p "$HOME/.binder" && log="$HOME/.binder/kubectl-proxy.log" || exit 1
cd "$HOME"
setsid nohup "$kubectl" proxy --port="$port" >"$log" 2>&1 </dev/null &
child=$!
for i in 1 2 3 4; do
  sleep 0.25
  kill -0 "$child" 2>/dev/null || { wait "$child"; code=$?; tail -n 3 "$log"; exit "$code"; }
done
"#;

/// A step against a kubectl proxy that is missing or wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
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
}

kinds_of_steps!(Step: StartKubectlProxy, EndKubectlProxy);

impl Remedy for Step {
    fn words(&self) -> String {
        match self {
            Self::StartKubectlProxy { port, .. } => format!("start the kubectl proxy on {port}"),
            Self::EndKubectlProxy { port, process } => {
                format!("end the wrong kubectl proxy on {port} (pid {})", process.pid)
            }
        }
    }

    fn nature(&self) -> Nature<'_> {
        let (touches, demands, starts) = match self {
            Self::StartKubectlProxy { .. } => (Touches::Nothing, Demands::ONE_LOOK, true),
            Self::EndKubectlProxy { .. } => (Touches::Service, Demands::TWO_LOOKS, false),
        };
        Nature {
            touches,
            demands,
            in_turn: false,
            parts: 1,
            modules: OfModules::Apart,
            opens_way_in: false,
            rests_on_age: false,
            starts,
            recovers: Recovers::Nothing,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        match self {
            Self::StartKubectlProxy { kubectl, .. } => plain("kubectl", kubectl),
            Self::EndKubectlProxy { process, .. } => process.checked(),
        }
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        match self {
            Self::StartKubectlProxy { port, .. } => {
                later.seen.proxy.get()?;
                Ok(later.without_drift(&Subject::KubectlProxy, format!("{port} is served")))
            }
            Self::EndKubectlProxy { process, .. } => process.ended(later.seen),
        }
    }

    fn how(&self) -> How {
        match self {
            Self::StartKubectlProxy { port, kubectl } => {
                let args = vec![port.to_string(), kubectl.clone()];
                How::command("start-kubectl-proxy", START_KUBECTL_PROXY, args, 20)
            }
            Self::EndKubectlProxy { process, .. } => process.end(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_kubectl_that_cannot_start_says_why() {
        let home = std::env::temp_dir().join(format!("binder-execute-{}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        let output = Command::new("sh")
            .args(["-c", START_KUBECTL_PROXY, "test", "8085", "/nonexistent/kubectl.sh"])
            .env("HOME", &home)
            .output()
            .unwrap();
        std::fs::remove_dir_all(&home).unwrap();
        assert_eq!(output.status.code(), Some(127));
        assert!(String::from_utf8_lossy(&output.stdout).contains("kubectl.sh"));
    }
}
