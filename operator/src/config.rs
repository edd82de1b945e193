//! The operator's flags, each with its environment variable.

use crate::commands::Command;
use crate::hosts::Networks;
use crate::power::gce;
use binder_crds::text::Span;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Keeps machines that are not Kubernetes nodes as their owner described them, over SSH.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Watch this namespace only. Without it, all of them, which takes a ClusterRoleBinding.
    #[arg(long, env = "BINDER_NAMESPACE")]
    pub namespace: Option<String>,

    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "BINDER_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// How many hosts are looked at or acted on at once. A host that hangs takes one place until its time limit.
    #[arg(long, env = "BINDER_CONCURRENCY", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,

    /// How long a finished BinderAction is kept, in hours.
    #[arg(long, env = "BINDER_KEEP_ACTIONS_HOURS", default_value_t = 168)]
    pub keep_actions_hours: u32,

    /// How many MiB the answers of all hosts may take at once. A large answer for which there is no room is cut off, and that
    /// part of the look is not seen. 96 MiB fit into the chart's limit of 512 MiB, since an answer is there up to three times
    /// over while it is read.
    #[arg(long, env = "BINDER_LOOK_MEMORY", default_value_t = 96, value_parser = clap::value_parser!(u32).range(16..=65536))]
    pub look_memory: u32,

    /// A network that a host's address may lead to, such as `10.0.0.0/8`; again for each further one. Without any, all may be
    /// dialled but those of cloud metadata and link-local addresses, which are dialled only where a network given here lies
    /// within them.
    #[arg(long = "allow-network", env = "BINDER_ALLOW_NETWORK", value_delimiter = ',', value_name = "CIDR")]
    pub allow_networks: Vec<IpNet>,

    /// A network that no host's address may lead to; again for each further one. It counts more than one that is allowed.
    #[arg(long = "deny-network", env = "BINDER_DENY_NETWORK", value_delimiter = ',', value_name = "CIDR")]
    pub deny_networks: Vec<IpNet>,

    /// The Compute Engine API: scheme, host and port. For a private endpoint of Google's, for instance. Plain http is taken
    /// for an address of this computer only.
    #[arg(long, env = "BINDER_GCE_ENDPOINT", default_value = gce::ENDPOINT)]
    pub gce_endpoint: gce::Endpoint,

    /// Let a bucket whose Secret names no keys be used with the cloud identity of the operator's own pod or machine. Whoever
    /// may write a BinderHost then writes wherever that identity may.
    #[arg(long, env = "BINDER_ALLOW_AMBIENT_CLOUD_IDENTITY")]
    pub allow_ambient_cloud_identity: bool,

    /// The directory below which backups of databases go, where a host's spec names a directory for them: a volume of the
    /// operator's pod. Without it only buckets can be used.
    #[arg(long, env = "BINDER_BACKUPS_DIR")]
    pub backups_dir: Option<PathBuf>,

    /// The least time that a host must have been silent before it may be taken for dead, whatever a fleet's
    /// `remedies.unreachableTimeout` says. Shorter than a boot with a check of the file systems, and a machine that its owner restarts
    /// is power-cycled in the middle of it.
    #[arg(long, env = "BINDER_MIN_UNREACHABLE_TIMEOUT", default_value = "5m", value_parser = span)]
    pub min_unreachable_timeout: Duration,

    /// The shortest pause after a failed attempt, whatever a fleet's `remedies.retryPeriod` says.
    #[arg(long, env = "BINDER_MIN_RETRY_PERIOD", default_value = "10s", value_parser = span)]
    pub min_retry_period: Duration,

    /// The least time that a host must have been healthy for its attempts to count afresh, whatever a fleet's
    /// `remedies.minHealthyPeriod` says.
    #[arg(long, env = "BINDER_MIN_HEALTHY_PERIOD", default_value = "5m", value_parser = span)]
    pub min_healthy_period: Duration,

    /// What is logged, as in RUST_LOG: `info`, `binder_operator=debug`.
    #[arg(long, env = "BINDER_LOG", default_value = "info,kube_client=warn,kube_runtime=warn,russh=error")]
    pub log: String,

    /// How it is logged.
    #[arg(long, env = "BINDER_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The whole command line: without a command, the operator runs.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "binder-operator", version, about, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// The operator's flags.
    #[command(flatten)]
    pub config: Config,
    /// Something else than running the operator.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A length of time as the objects write it, `30s` or `1h30m`.
fn span(text: &str) -> Result<Duration, String> {
    Span::from(text).duration().map_err(|bad| bad.to_string())
}

impl Config {
    /// Which addresses may be dialled.
    pub fn networks(&self) -> Networks {
        Networks { allow: self.allow_networks.clone(), deny: self.deny_networks.clone() }
    }

    /// How many bytes the answers of all hosts may take at once.
    pub fn look_bytes(&self) -> usize {
        usize::try_from(self.look_memory).unwrap_or(usize::MAX).saturating_mul(1024 * 1024)
    }

    /// How long a finished BinderAction is kept.
    pub fn keep_actions(&self) -> Duration {
        Duration::from_secs(u64::from(self.keep_actions_hours) * 3600)
    }
}
