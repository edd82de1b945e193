//! The programs that a lab is made of, and making sure that they are there.
//!
//! [`Tools`] hands out paths. What is missing is built from the Go modules under `tests/go`, once for this version of
//! their files and of Go, and kept for later labs; [`debian::packages`] does the same for what Debian brings. Both say
//! how long it takes while it does.
//!
//! Knows what the programs are called, and nothing of how they are run: that is `cluster`'s and the hosts' business.

pub mod cache;
pub mod debian;
pub mod go;
pub mod progress;
mod work;

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::files::FileError;
use cache::{Cache, NoCache};
use go::{GoError, GoProgram};
use progress::{Event, Progress};

/// A folder with `kube-apiserver`, `etcd` and `kubectl`, as the users of Kubebuilder have it.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// A tool is not there and could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// There is nowhere to keep tools.
    #[error(transparent)]
    NoCache(#[from] NoCache),
    /// The cache cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A build failed.
    #[error(transparent)]
    Go(#[from] GoError),
    /// The folder that the user named lacks programs.
    #[error(
        "{ASSETS_VARIABLE} is `{}`, which has no program {}: set it to a folder that has them all, or unset it and they \
         are built", folder.display(), missing.join(", no program ")
    )]
    IncompleteAssets {
        /// The folder.
        folder: PathBuf,
        /// The programs that are not in it.
        missing: Vec<&'static str>,
    },
}

/// The programs of a control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    /// Its store.
    pub etcd: PathBuf,
    /// Its API.
    pub apiserver: PathBuf,
    /// Its controllers.
    pub controller_manager: PathBuf,
    /// What gives pods to nodes.
    pub scheduler: PathBuf,
    /// The client for people.
    pub kubectl: PathBuf,
    /// The stand-in for a cloud's load balancer and the minions' proxy container.
    pub minions: PathBuf,
}

impl Programs {
    /// All of them in one folder, under their usual names.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            etcd: folder.join("etcd"),
            apiserver: folder.join("kube-apiserver"),
            controller_manager: folder.join("kube-controller-manager"),
            scheduler: folder.join("kube-scheduler"),
            kubectl: folder.join("kubectl"),
            minions: folder.join("minions"),
        }
    }
}

/// The lab's own tools: where they are kept, and who is told while one is built.
#[derive(Clone)]
pub struct Tools {
    cache: Cache,
    progress: Arc<dyn Progress>,
}

impl Tools {
    /// Tools kept in this user's cache.
    ///
    /// # Errors
    /// The environment names no place for a cache.
    pub fn new(progress: Arc<dyn Progress>) -> Result<Self, ToolError> {
        Ok(Self { cache: Cache::of_the_user()?, progress })
    }

    /// The cache, for others who keep things that are expensive to get.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The programs of the lab's main control plane: what [`ASSETS_VARIABLE`] names if it is set and not empty, else
    /// our own.
    ///
    /// Assets of that kind have no controllers. Where they lack `kube-controller-manager`, ours is used with them, and
    /// said to be: without it nothing is garbage-collected and no namespace is ever deleted. What a main control plane
    /// does not run (scheduler, minions) is then ours too.
    ///
    /// # Errors
    /// The named folder lacks a program, or a build failed.
    pub async fn main_control_plane(&self) -> Result<Programs, ToolError> {
        match std::env::var_os(ASSETS_VARIABLE).filter(|folder| !folder.is_empty()) {
            Some(folder) => self.with_assets(&folder).await,
            None => self.control_plane().await,
        }
    }

    /// The programs of a whole control plane, always our own: what `kubernetes-master` runs.
    ///
    /// # Errors
    /// The build failed.
    pub async fn control_plane(&self) -> Result<Programs, ToolError> {
        Ok(Programs::in_folder(&self.ensure(&go::CONTROL_PLANE).await?))
    }

    /// KWOK.
    ///
    /// # Errors
    /// The build failed.
    pub async fn kwok(&self) -> Result<PathBuf, ToolError> {
        self.program(&go::KWOK).await
    }

    /// The database; its command line is `--listen ADDRESS:PORT --data FOLDER`.
    ///
    /// # Errors
    /// The build failed.
    pub async fn ferretdb(&self) -> Result<PathBuf, ToolError> {
        self.program(&go::FERRETDB).await
    }

    /// The server of buckets. Only the scenarios of backups need it.
    ///
    /// # Errors
    /// The build failed.
    pub async fn versitygw(&self) -> Result<PathBuf, ToolError> {
        self.program(&go::VERSITYGW).await
    }

    /// Helm. Only the chart's tests need it.
    ///
    /// # Errors
    /// The build failed.
    pub async fn helm(&self) -> Result<PathBuf, ToolError> {
        self.program(&go::HELM).await
    }

    async fn program(&self, program: &GoProgram) -> Result<PathBuf, ToolError> {
        Ok(self.ensure(program).await?.join(program.name))
    }

    /// The folder with this version of the program, built now if it is not there.
    async fn ensure(&self, program: &GoProgram) -> Result<PathBuf, ToolError> {
        let slot = self.cache.slot(program.name, &program.version().await?);
        if let Some(folder) = slot.filled() {
            return Ok(folder.to_owned());
        }
        let alone = self.cache.build_alone(&*self.progress).await?;
        // Another lab may have built it while this one waited.
        if let Some(folder) = slot.filled() {
            return Ok(folder.to_owned());
        }
        let scratch = slot.scratch(&alone)?;
        let log = self.cache.folder().join(format!("{}.log", program.name));
        program.build(&scratch, &log, &*self.progress).await?;
        Ok(slot.fill(&scratch, &alone)?.to_owned())
    }

    async fn with_assets(&self, folder: &OsStr) -> Result<Programs, ToolError> {
        let assets = Assets::look(Path::new(folder))?;
        if assets.controller_manager {
            self.note(&format!("control plane: from {ASSETS_VARIABLE}"));
            // Scheduler and minions are not run by a main control plane, so their absence is nobody's loss.
            return Ok(Programs::in_folder(&assets.folder));
        }
        self.note(&format!(
            "control plane: kube-apiserver, etcd and kubectl are from {ASSETS_VARIABLE}; kube-controller-manager is not \
             there, so the lab's own is used with them"
        ));
        let own = self.control_plane().await?;
        let theirs = Programs::in_folder(&assets.folder);
        Ok(Programs { etcd: theirs.etcd, apiserver: theirs.apiserver, kubectl: theirs.kubectl, ..own })
    }

    fn note(&self, text: &str) {
        self.progress.report(Event::Note(text));
    }
}

/// What is in the folder that the user named.
#[derive(Debug)]
struct Assets {
    folder: PathBuf,
    controller_manager: bool,
}

impl Assets {
    fn look(folder: &Path) -> Result<Self, ToolError> {
        let missing: Vec<_> =
            ["kube-apiserver", "etcd", "kubectl"].into_iter().filter(|name| !is_program(&folder.join(name))).collect();
        if !missing.is_empty() {
            return Err(ToolError::IncompleteAssets { folder: folder.to_owned(), missing });
        }
        // Later the programs are run from other folders than this one.
        let folder = std::path::absolute(folder).map_err(|source| FileError::new("find", folder, source))?;
        Ok(Self { controller_manager: is_program(&folder.join("kube-controller-manager")), folder })
    }
}

/// Whether this is a file that somebody may execute.
fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::files;

    #[test]
    fn assets_that_lack_something_are_refused_by_name() {
        let folder = std::env::temp_dir().join(format!("binder-lab-assets-{}", std::process::id()));
        files::write(&folder.join("etcd"), "", 0o755).unwrap();
        files::write(&folder.join("kube-apiserver"), "not executable", 0o644).unwrap();
        let error = Assets::look(&folder).unwrap_err().to_string();
        assert!(error.contains("has no program kube-apiserver, no program kubectl:"), "{error}");

        files::write(&folder.join("kube-apiserver"), "", 0o755).unwrap();
        files::write(&folder.join("kubectl"), "", 0o755).unwrap();
        assert!(!Assets::look(&folder).unwrap().controller_manager);
        files::write(&folder.join("kube-controller-manager"), "", 0o755).unwrap();
        assert!(Assets::look(&folder).unwrap().controller_manager);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
