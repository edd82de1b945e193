//! The lab: the runbook's machines on one computer, running the real Binder software, and ways to break them.
//!
//! As a tool it is `cargo lab`; as a library it is [`Lab`]:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use binder_lab::{Lab, Options};
//!
//! let options = Options::named("healing").owned_by_this_process();
//! let lab = Lab::up(options, |line| eprintln!("{line}")).await?;
//! let status = lab.status()?;                               // what `cargo lab status -o json` says
//! let web = lab.host("binder-web-deploy")?;
//! lab.settle(|line| eprintln!("{line}")).await?;            // everything started by hand, in the runbook's order
//! lab.fault("web-lost")?.break_on(&lab, None).await?;       // or `Some("binder-web-deploy")`
//! web.exec(&["ss", "-ltn"]).await?;                         // as root, past SSH
//! web.ssh("pm2 jlist", std::time::Duration::from_secs(10)).await?; // as the operator
//! lab.down().await?;                                        // nothing is left behind
//! # Ok(()) }
//! ```
//!
//! A lab is owned by a daemon of its own (the program's hidden `daemon` command), not by whoever called `up`: it
//! outlives a shell, and goes down by itself with the process that was named as its owner. Every `main` that may bring
//! a lab up calls [`hidden`] first, so that the program can be that daemon, and a host's first process.
//!
//! After `up` the hosts are as after a reboot: sshd, Docker and the cluster run, the Binder software is installed and
//! set up, and **no** Binder process runs.
//!
//! | module | |
//! |---|---|
//! | [`inventory`] | the machines, as data |
//! | [`lab`] | bringing a lab up and down, finding its parts |
//! | [`daemon`] | who owns the parts while it is up |
//! | [`host`] | one host |
//! | [`binder`] | the Binder software: installed, filled with data, started by hand |
//! | [`faults`] | what can be broken |
//! | [`cloud`] | the Compute Engine stand-in |
//! | [`bucket`] | a server of buckets, for backups |
//! | [`tools`], [`cluster`], [`process`] | programs in Go, control planes, long-lived processes |
//! | [`status`], [`layout`] | what a lab says about itself, and where |
//! | [`net`], [`cgroup`], [`command`], [`files`], [`http`] | the computer below |

pub mod binder;
pub mod bucket;
pub mod cgroup;
pub mod cli;
pub mod cloud;
pub mod cluster;
pub mod command;
pub mod daemon;
pub mod faults;
pub mod files;
pub mod host;
pub mod http;
pub mod inventory;
pub mod lab;
pub mod layout;
pub mod net;
mod pki;
mod ports;
pub mod process;
pub mod stage;
pub mod status;
pub mod tools;

pub use faults::Fault;
pub use host::enter::Host;
pub use lab::{Lab, LabError, Options};
pub use status::{HostStatus, Phase, Status};

/// An error with its causes, as one line.
pub fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Does the work of the program's hidden commands, `daemon` and `host-init`, if it was started as one of them; comes back
/// only if it was not. Call it first thing in `main`, before any thread or runtime exists.
pub fn hidden() {
    let mut args = std::env::args_os().skip(1);
    let (command, file) = (args.next(), args.next().map(std::path::PathBuf::from));
    let result = match (command.as_ref().and_then(|command| command.to_str()), file) {
        (Some("host-init"), Some(file)) => host::init::run(&file).map(|never| match never {}).map_err(|e| said(&e)),
        (Some("lab-daemon"), Some(file)) => daemon::main(&file).map_err(|e| said(&e)),
        _ => return,
    };
    if let Err(said) = &result {
        eprintln!("{said}");
    }
    std::process::exit(i32::from(result.is_err()));
}
