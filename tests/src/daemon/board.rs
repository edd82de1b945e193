//! The lab's status while it is up: one value, written out at each change.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::host::power::Power;
use crate::layout::Layout;
use crate::process::Running;
use crate::status::{Phase, Status, StatusError};

/// The status that everybody in the daemon changes. Clones are the same board.
#[derive(Debug, Clone)]
pub(super) struct Board {
    layout: Layout,
    status: Arc<Mutex<Status>>,
}

impl Board {
    /// A lab of which nothing is there yet.
    pub(super) fn begin(layout: &Layout) -> Result<Self, StatusError> {
        let status = Status {
            lab: layout.lab().to_owned(),
            phase: Phase::Starting,
            kubeconfig: layout.control_plane().join("kubeconfig"),
            database: String::new(),
            cloud: String::new(),
            api_key_file: layout.api_key(),
            cluster_kubeconfig: None,
            cluster_id: None,
            audit_log: layout.control_plane().join("audit.log"),
            hosts: Vec::new(),
            network: 0,
            daemon: i32::try_from(std::process::id())
                .ok()
                .and_then(|pid| Running::adopt("lab-daemon", pid, &layout.daemon_log())),
        };
        let board = Self { layout: layout.clone(), status: Arc::new(Mutex::new(status)) };
        board.change(|_| {})?;
        Ok(board)
    }

    /// Changes the status and writes it out.
    pub(super) fn change(&self, change: impl FnOnce(&mut Status)) -> Result<(), StatusError> {
        // Written under the lock, so that the file never goes back in time. A panic elsewhere left the value whole.
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut status);
        status.write(&self.layout)
    }

    /// Says where the lab is in its life.
    pub(super) fn set_phase(&self, phase: Phase) -> Result<(), StatusError> {
        self.change(|status| status.phase = phase)
    }

    /// Keeps what is said about a host's power current.
    pub(super) fn follow(&self, host: String, mut power: tokio::sync::watch::Receiver<Power>) {
        let board = self.clone();
        tokio::spawn(async move {
            loop {
                let now = power.borrow_and_update().clone();
                let told = board.change(|status| {
                    if let Some(entry) = status.hosts.iter_mut().find(|entry| entry.name == host) {
                        entry.powered = now.on;
                        entry.pid = now.pid;
                        entry.boot_id = now.boot_id;
                    }
                });
                if let Err(error) = told {
                    tracing::error!(host, error = crate::said(&error), "cannot tell its power");
                }
                if power.changed().await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Adds a line to a file. Progress that cannot be shown is no reason to stop.
pub(super) fn append(path: &Path, line: &str) {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    if let Ok(mut file) = file {
        let _ = writeln!(file, "{line}");
    }
}
