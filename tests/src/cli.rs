//! `cargo lab`: the lab as a tool for a person and for scripts.
//!
//! Words and columns only; what is done is done by the library.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::faults::{self, Healer};
use crate::host::enter::ssh_options;
use crate::lab::{DEFAULT, LAB_VARIABLE, Lab, LabError, Options, take_down};
use crate::layout::Layout;
use crate::process::Running;
use crate::stage::Stage;
use crate::status::{HostStatus, Phase, Status};

/// A control plane, the runbook's machines and their faults, on this computer.
#[derive(Debug, Parser)]
#[command(name = "lab", bin_name = "cargo lab")]
struct Cli {
    /// Which lab; several can be up side by side.
    #[arg(long, env = LAB_VARIABLE, default_value = DEFAULT, global = true)]
    lab: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start control plane and hosts.
    Up {
        /// Only these hosts, instead of the runbook's.
        #[arg(long, value_delimiter = ',', value_name = "NAME")]
        hosts: Option<Vec<String>>,
        /// Take the lab down when this process ends.
        #[arg(long, value_name = "PID")]
        owner_pid: Option<u32>,
        /// Leave a lab that did not come up as it is, to be looked at.
        #[arg(long)]
        keep_failed: bool,
        /// Then start all of Binder by hand, as `settle` does.
        #[arg(long)]
        settled: bool,
    },
    /// Show where everything is.
    Status {
        /// How.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Start all of Binder by hand, in the runbook's order, and wait until it is well.
    Settle,
    /// Break something, for real.
    Break {
        /// Name every fault, what it does, and what should heal it.
        #[arg(long)]
        list: bool,
        /// The fault.
        #[arg(required_unless_present = "list")]
        fault: Option<String>,
        /// The host, for a fault that can be on any.
        host: Option<String>,
    },
    /// Take back what is not the operator's to heal.
    Mend {
        /// The fault.
        fault: String,
        /// The host, for a fault that can be on any.
        host: Option<String>,
    },
    /// Run a command on a host, past the operator.
    Exec {
        /// The host.
        host: String,
        /// As whom.
        #[arg(long, default_value = "root")]
        user: String,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Log in as the operator does.
    Ssh {
        /// The host.
        host: String,
        /// A command to run there; none: a shell.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Run this checkout's operator against the lab.
    Operator {
        /// As whom the operator talks to the lab's control plane; by default with the chart's rights and no others.
        #[arg(long, env = "BINDER_LAB_OPERATOR_KUBECONFIG")]
        kubeconfig: Option<std::path::PathBuf>,
        /// The operator's own arguments.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Take the lab away; nothing is left behind.
    Down,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs `cargo lab`.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", crate::said(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Box<dyn Error>> {
    match cli.command {
        Command::Up { hosts, owner_pid, keep_failed, settled } => {
            let mut options = Options::named(&cli.lab).keep_failed(keep_failed);
            if let Some(hosts) = hosts {
                options = options.hosts(hosts);
            }
            if let Some(pid) = owner_pid {
                options = options.owner(pid);
            }
            let lab = Lab::up(options, say).await?;
            if settled {
                lab.settle(say).await?;
            }
            show(&lab.status()?);
        }
        Command::Status { output: Output::Json } => {
            say(&serde_json::to_string_pretty(&Lab::open(&cli.lab)?.status()?)?);
        }
        Command::Status { output: Output::Text } => show(&Lab::open(&cli.lab)?.status()?),
        Command::Settle => {
            let lab = Lab::open(&cli.lab)?;
            lab.settle(say).await?;
            say(&format!("an app was deployed: {}", lab.binder()?.deploy_app().await?));
        }
        Command::Break { list: true, .. } | Command::Break { fault: None, .. } => list_faults(),
        Command::Break { fault: Some(fault), host, .. } => {
            let lab = Lab::open(&cli.lab)?;
            lab.fault(&fault)?.break_on(&lab, host.as_deref()).await?;
        }
        Command::Mend { fault, host } => {
            let lab = Lab::open(&cli.lab)?;
            lab.fault(&fault)?.mend_on(&lab, host.as_deref()).await?;
        }
        Command::Exec { host, user, command } => {
            let host = Lab::open(&cli.lab)?.host(&host)?;
            let argv: Vec<&str> = command.iter().map(String::as_str).collect();
            let run = host.entering(&user, &argv)?;
            match std::env::var("TERM") {
                Ok(term) => run.env("TERM", term),
                Err(_) => run,
            }
            .replace_this_process()?;
        }
        Command::Ssh { host, command } => {
            let host = Lab::open(&cli.lab)?.host(&host)?;
            let status = host.status()?;
            let known = host.known_hosts(&status)?;
            let run = crate::command::Run::new("ssh").args(ssh_options(&status, &known));
            if command.is_empty() { run } else { run.args(["--"]).args(command) }.replace_this_process()?;
        }
        Command::Operator { kubeconfig, args } => {
            let stage = Stage::set(Lab::open(&cli.lab)?, say).await?;
            let file = stage.write_owners_file()?;
            let kubectl = stage.kubectl.program().display();
            say(&format!("what its owner would write: {}", file.display()));
            say(&format!("  export KUBECONFIG={}", stage.lab.status()?.kubeconfig.display()));
            say(&format!("  {kubectl} apply -f {}", file.display()));
            stage.operator(kubeconfig).args(args).replace_this_process()?;
        }
        Command::Down => {
            take_down(&Layout::of(&cli.lab).map_err(LabError::from)?).await?;
        }
    }
    Ok(())
}

fn list_faults() {
    for fault in faults::all() {
        let healer = match fault.healed_by {
            Healer::Operator => "the operator",
            Healer::Mend => "`cargo lab mend`",
        };
        let host = fault.only_host().unwrap_or("any host");
        say(&format!("{}\n    on {host}: {}\n    healed by {healer}", fault.name, fault.does));
    }
}

/// Prints a line. A reader that has seen enough (`| head`) is no reason to stop what is being done.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn show(status: &Status) {
    let gone = !status.daemon.as_ref().is_some_and(Running::is_alive);
    let phase = match &status.phase {
        _ if gone => "its daemon is gone; `cargo lab down` takes away what is left".to_owned(),
        Phase::Starting => "starting".to_owned(),
        Phase::Ready => "up".to_owned(),
        Phase::Failed(why) => format!("did not come up: {why}"),
    };
    say(&format!("lab {}: {phase}", status.lab));
    let rows: [(&str, String); 4] = [
        ("kubeconfig", status.kubeconfig.display().to_string()),
        ("database", status.database.clone()),
        ("cloud", status.cloud.clone()),
        ("API key in", status.api_key_file.display().to_string()),
    ];
    for (name, value) in rows {
        say(&format!("  {name:<11} {value}"));
    }
    say(&format!("  {:<18} {:<13} {:<6} {:<8} FILES", "HOST", "ADDRESS", "POWER", "PID"));
    for host in &status.hosts {
        let pid = host.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let power = if host.powered { "on" } else { "off" };
        let HostStatus { name, address, root, .. } = host;
        say(&format!("  {name:<18} {address:<13} {power:<6} {pid:<8} {}", root.display()));
    }
}
