//! The owner of a lab while it is up: starts its parts, keeps its status current, hears the cloud's orders.
//!
//! A process of its own, so that a lab outlives the command that started it. It leaves nothing to clean up that
//! [`crate::lab::take_down`] would not find without it: killed at any moment, the lab can still be taken away.

mod assembly;
mod board;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::cgroup::{Cgroup, CgroupError};
use crate::files::{self, FileError};
use crate::lab::{self, LabError};
use crate::layout::{BadName, Layout};
use crate::process::Running;
use crate::status::{Phase, StatusError};
use crate::tools::progress::Lines;

pub use assembly::AssemblyError;

/// How often the daemon looks whether the lab's owner still runs.
const OWNER_LOOK: Duration = Duration::from_millis(250);

/// Of a piece of work that goes on, one line in this time is shown.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What a daemon is told at its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Orders {
    /// The lab's name.
    pub lab: String,
    /// The names of its hosts.
    pub hosts: Vec<String>,
    /// The process with which the lab is to end; none: it stays until it is taken down.
    pub owner: Option<Running>,
}

/// The daemon cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The lab has no usable name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its orders are none.
    #[error("`{}` holds no orders for a daemon", path.display())]
    Orders {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It could not make itself independent.
    #[error("cannot become a daemon")]
    System(#[source] std::io::Error),
    /// Its control group could not be made or left.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its status could not be told.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The lab could not be taken down.
    #[error(transparent)]
    Lab(#[from] LabError),
}

/// Owns the lab that a file describes, until the lab's owner ends or somebody ends this process.
///
/// # Errors
/// It could not even begin; what goes wrong later is in the lab's status.
pub fn main(orders: &Path) -> Result<(), DaemonError> {
    let text = files::read(orders)?;
    let orders: Orders =
        serde_json::from_str(&text).map_err(|source| DaemonError::Orders { path: orders.to_owned(), source })?;
    let layout = Layout::of(&orders.lab)?;
    // A session of its own: a terminal that closes, or Ctrl-C in it, is none of its business.
    nix::unistd::setsid().map_err(|errno| DaemonError::System(errno.into()))?;
    // Everything that it starts is born in this group, and so found by whoever takes the lab down.
    let group = Cgroup::of_lab(layout.id())?.child("daemon");
    group.create()?;
    group.join()?;
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    tokio::runtime::Runtime::new().map_err(DaemonError::System)?.block_on(run(layout, orders))
}

async fn run(layout: Layout, orders: Orders) -> Result<(), DaemonError> {
    let board = board::Board::begin(&layout)?;
    let log = layout.progress();
    let progress = Arc::new(Lines::new(PROGRESS_EVERY, move |line: &str| board::append(&log, line)));
    let owner = orders.owner.clone();
    let assembled = tokio::select! {
        assembled = assembly::assemble(&layout, &orders, board.clone(), progress) => assembled,
        () = ended(owner.as_ref()) => return leave(&layout).await,
    };
    // What was started lives as long as this value.
    let parts = match assembled {
        Ok(parts) => {
            board.set_phase(Phase::Ready)?;
            Some(parts)
        }
        Err(error) => {
            tracing::error!(error = crate::said(&error), "the lab did not come up");
            board.set_phase(Phase::Failed(crate::said(&error)))?;
            None
        }
    };
    ended(owner.as_ref()).await;
    drop(parts);
    leave(&layout).await
}

/// Comes back when the lab's owner has ended, or when this process is asked to.
async fn ended(owner: Option<&Running>) {
    let asked = async {
        match signal(SignalKind::terminate()) {
            Ok(mut asked) => {
                asked.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot hear SIGTERM");
                std::future::pending::<()>().await;
            }
        }
    };
    let owner_gone = async {
        match owner {
            Some(owner) => {
                while owner.is_alive() {
                    tokio::time::sleep(OWNER_LOOK).await;
                }
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = asked => tracing::info!("asked to end"),
        () = owner_gone => tracing::info!("the lab's owner has ended"),
    }
}

/// Takes the lab down from the inside: first out of the group whose every process is about to be ended.
async fn leave(layout: &Layout) -> Result<(), DaemonError> {
    Cgroup::root()?.join()?;
    Ok(lab::take_down(layout).await?)
}
