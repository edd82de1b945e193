//! Where built tools are kept between labs, and the lock that lets one lab build while the others wait.
//!
//! Every version of a tool has a folder of its own, named by the hash of what it is built from. A folder is there whole
//! or not at all: it is filled under another name and renamed. Knows nothing of compilers.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::progress::{Event, Progress};
use crate::files::{self, FileError};

/// Names the folder of the cache; without it, it is `binder-lab` where the user's caches are.
pub const CACHE_VARIABLE: &str = "BINDER_LAB_CACHE";

/// A version that no lab asked for in this time is removed: a control plane is 120 MB, and each edit makes one more.
const UNUSED: Duration = Duration::from_hours(14 * 24);

/// How often a lab that waits for another one's build looks again.
const LOOK: Duration = Duration::from_millis(200);

/// The user's environment says nowhere to keep things.
#[derive(Debug, thiserror::Error)]
#[error("nowhere to keep built tools: set {CACHE_VARIABLE} to a folder (XDG_CACHE_HOME and HOME are not set either)")]
pub struct NoCache;

/// The folder of all built tools.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// One version of one tool.
#[derive(Debug, Clone)]
pub struct Slot {
    tool: &'static str,
    folder: PathBuf,
}

/// Held by the one process that builds.
#[derive(Debug)]
#[must_use]
pub struct Building {
    _lock: File,
}

impl Cache {
    /// The cache of this user, found by [`CACHE_VARIABLE`], `XDG_CACHE_HOME` or `HOME`.
    ///
    /// # Errors
    /// None of them is set.
    pub fn of_the_user() -> Result<Self, NoCache> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        variable(CACHE_VARIABLE)
            .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("binder-lab")))
            .or_else(|| variable("HOME").map(|folder| folder.join(".cache/binder-lab")))
            .map(Self::at)
            .ok_or(NoCache)
    }

    /// A cache in this folder.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder itself; others may keep things of their own beside the tools in it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where this version of this tool is, or would be.
    pub fn slot(&self, tool: &'static str, version: &str) -> Slot {
        Slot { tool, folder: self.folder.join(tool).join(version) }
    }

    /// Waits until no other lab builds, then keeps the others from it until the result is dropped. The kernel gives the
    /// lock back when its holder dies.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub async fn build_alone(&self, progress: &dyn Progress) -> Result<Building, FileError> {
        files::make_dir(&self.folder)?;
        let path = self.folder.join("building.lock");
        let lock = File::create(&path).map_err(|source| FileError::new("open", &path, source))?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Building { _lock: lock }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(FileError::new("lock", &path, source)),
            }
            if !told {
                progress.report(Event::Note("another lab is building its tools: waiting for it"));
                told = true;
            }
            sleep(LOOK).await;
        }
    }
}

impl Slot {
    /// The folder, if it has been filled. Marks it as used.
    pub fn filled(&self) -> Option<&Path> {
        if !self.folder.is_dir() {
            return None;
        }
        // Only the removal of old versions looks at this time: a read-only cache is as good.
        let _ = File::open(&self.folder).and_then(|folder| folder.set_modified(SystemTime::now()));
        Some(&self.folder)
    }

    /// An empty folder to build in; [`Slot::fill`] puts it into place. What an earlier build that was killed left in it
    /// is removed, so the caller must hold [`Building`].
    ///
    /// # Errors
    /// It cannot be made.
    pub fn scratch(&self, _alone: &Building) -> Result<PathBuf, FileError> {
        let scratch = self.folder.with_extension("part");
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch).map_err(|source| FileError::new("remove", &scratch, source))?;
        }
        files::make_dir(&scratch)?;
        Ok(scratch)
    }

    /// Puts the scratch folder into place, and removes versions of the same tool that nobody used for long.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn fill(&self, scratch: &Path, _alone: &Building) -> Result<&Path, FileError> {
        std::fs::rename(scratch, &self.folder)
            .map_err(|source| FileError::new("put into place", &self.folder, source))?;
        self.remove_old();
        Ok(&self.folder)
    }

    /// Best effort: a version too many costs disk space and nothing else.
    fn remove_old(&self) {
        let Some(versions) = self.folder.parent().and_then(|tool| std::fs::read_dir(tool).ok()) else { return };
        for version in versions.flatten() {
            let unused =
                version.metadata().and_then(|about| about.modified()).ok().and_then(|used| used.elapsed().ok());
            if version.path() != self.folder && unused.is_some_and(|unused| unused > UNUSED) {
                tracing::debug!(tool = self.tool, version = ?version.file_name(), "removing a version that nobody used");
                let _ = std::fs::remove_dir_all(version.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;

    use super::*;
    use crate::tools::progress::{Lines, Silent};

    fn cache(name: &str) -> Cache {
        Cache::at(std::env::temp_dir().join(format!("binder-lab-cache-{}-{name}", std::process::id())))
    }

    #[tokio::test]
    async fn a_version_is_there_whole_or_not_at_all() {
        let cache = cache("whole");
        let alone = cache.build_alone(&Silent).await.unwrap();
        let slot = cache.slot("tool", "v1");
        let scratch = slot.scratch(&alone).unwrap();
        files::write(&scratch.join("left behind"), "", 0o600).unwrap();
        assert!(slot.filled().is_none());

        let scratch = slot.scratch(&alone).unwrap();
        assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
        files::write(&scratch.join("tool"), "built", 0o755).unwrap();
        slot.fill(&scratch, &alone).unwrap();
        assert_eq!(files::read(&slot.filled().unwrap().join("tool")).unwrap(), "built");
        assert!(cache.slot("tool", "v2").filled().is_none());
        std::fs::remove_dir_all(cache.folder()).unwrap();
    }

    #[tokio::test]
    async fn only_versions_out_of_use_are_removed() {
        let cache = cache("old");
        let alone = cache.build_alone(&Silent).await.unwrap();
        for version in ["long-unused", "recent", "new"] {
            let slot = cache.slot("tool", version);
            let scratch = slot.scratch(&alone).unwrap();
            slot.fill(&scratch, &alone).unwrap();
            if version == "long-unused" {
                let then = SystemTime::now() - UNUSED - Duration::from_hours(1);
                File::open(slot.filled().unwrap()).unwrap().set_modified(then).unwrap();
            }
        }
        let there = |version| cache.folder().join("tool").join(version).is_dir();
        assert!(!there("long-unused") && there("recent") && there("new"));
        std::fs::remove_dir_all(cache.folder()).unwrap();
    }

    #[tokio::test]
    async fn one_builds_and_the_others_wait_and_say_so() {
        let cache = cache("lock");
        let alone = cache.build_alone(&Silent).await.unwrap();
        let lines = Mutex::new(Vec::new());
        let progress = Lines::new(Duration::ZERO, |line: &str| lines.lock().unwrap().push(line.to_owned()));
        let second = cache.build_alone(&progress);
        tokio::pin!(second);
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut second).await.is_err());
        drop(alone);
        let _second = second.await.unwrap();
        assert_eq!(*lines.lock().unwrap(), ["another lab is building its tools: waiting for it"]);
        std::fs::remove_dir_all(cache.folder()).unwrap();
    }
}
