//! Control groups: how the lab knows, freezes and ends every process of a host, whatever these did to hide.
//!
//! Only the core of cgroup v2 is used (`cgroup.procs`, `cgroup.freeze`, `cgroup.kill`), which is there on hybrid systems
//! too. Knows nothing of what runs in a group.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::files::{self, FileError};

/// How long a group may take to become frozen or empty. Both are the kernel's work and take milliseconds; a process in
/// the middle of a system call that cannot be interrupted may hold it up.
const SETTLE: Duration = Duration::from_secs(10);

/// A group could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// This computer has no cgroup v2 hierarchy.
    #[error(
        "no cgroup2 file system is mounted here; the lab needs one to freeze and end hosts (/proc/mounts lists none)"
    )]
    NoHierarchy,
    /// A file of the hierarchy could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// It did not become frozen or empty.
    #[error("the processes in `{}` were not {wanted} after {SETTLE:?}: {left}", path.display())]
    Stuck {
        /// The group.
        path: PathBuf,
        /// What was asked for.
        wanted: &'static str,
        /// The process ids that were still there.
        left: String,
    },
}

/// One group. A value of this type says nothing about whether the group exists.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

/// Where the cgroup v2 hierarchy is mounted.
fn hierarchy() -> Result<PathBuf, CgroupError> {
    let mounts = files::read(Path::new("/proc/mounts"))?;
    let found = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    });
    found.into_iter().next().ok_or(CgroupError::NoHierarchy)
}

impl Cgroup {
    /// The group of a lab, above those of its hosts.
    ///
    /// # Errors
    /// There is no cgroup v2 here.
    pub fn of_lab(lab: &str) -> Result<Self, CgroupError> {
        Ok(Self { path: hierarchy()?.join("binder-lab").join(lab) })
    }

    /// The hierarchy's own root, where a process is in nobody's group.
    ///
    /// # Errors
    /// There is no cgroup v2 here.
    pub fn root() -> Result<Self, CgroupError> {
        Ok(Self { path: hierarchy()? })
    }

    /// A group inside this one.
    pub fn child(&self, name: &str) -> Self {
        Self { path: self.path.join(name) }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it, and those above it.
    ///
    /// # Errors
    /// The hierarchy is read-only.
    pub fn create(&self) -> Result<(), CgroupError> {
        Ok(files::make_dir(&self.path)?)
    }

    /// Puts the calling process into it; what it starts from then on is born there.
    ///
    /// # Errors
    /// The group is not there.
    pub fn join(&self) -> Result<(), CgroupError> {
        // A plain write, since the file exists already and knows no mode.
        let path = self.path.join("cgroup.procs");
        Ok(std::fs::write(&path, "0").map_err(|source| FileError::new("join", &path, source))?)
    }

    /// Puts another process into it; what that one starts from then on is born there.
    ///
    /// # Errors
    /// The group or the process is not there.
    pub fn adopt(&self, pid: u32) -> Result<(), CgroupError> {
        let path = self.path.join("cgroup.procs");
        Ok(std::fs::write(&path, pid.to_string()).map_err(|source| FileError::new("join", &path, source))?)
    }

    /// The ids of the processes in it and in the groups below it. Empty when it does not exist.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub fn processes(&self) -> Result<Vec<u32>, CgroupError> {
        let mut found = Vec::new();
        for group in self.tree()? {
            match files::read(&group.join("cgroup.procs")) {
                Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// It and every group below it, the deepest first.
    fn tree(&self) -> Result<Vec<PathBuf>, CgroupError> {
        let mut found = Vec::new();
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            Err(source) => return Err(FileError::new("list", &self.path, source).into()),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(Self { path: entry.path() }.tree()?);
            }
        }
        found.push(self.path.clone());
        Ok(found)
    }

    fn set(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let path = self.path.join(file);
        Ok(std::fs::write(&path, value).map_err(|source| FileError::new("write", &path, source))?)
    }

    /// Stops every process in it where it stands, as a machine that hangs: the kernel still answers for its sockets,
    /// nobody else does.
    ///
    /// # Errors
    /// It is not there, or some process could not be stopped in time.
    pub async fn freeze(&self) -> Result<(), CgroupError> {
        self.set("cgroup.freeze", "1")?;
        self.becomes("frozen 1", "frozen").await
    }

    /// Waits for a line in the kernel's own account of the group. A list of processes would not do: one that is dying is
    /// gone from it before the group is free of it.
    async fn becomes(&self, event: &str, wanted: &'static str) -> Result<(), CgroupError> {
        let events = self.path.join("cgroup.events");
        let until = Instant::now() + SETTLE;
        while !files::read(&events)?.lines().any(|line| line == event) {
            if Instant::now() > until {
                return Err(self.stuck(wanted)?);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Lets its processes run on.
    ///
    /// # Errors
    /// It is not there.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.set("cgroup.freeze", "0")
    }

    /// Whether it is frozen by [`Cgroup::freeze`]; false when it does not exist.
    pub fn is_frozen(&self) -> bool {
        std::fs::read_to_string(self.path.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
    }

    /// Ends every process in it and below it at once, frozen or not, and waits until they are gone.
    /// One that does not exist is fine.
    ///
    /// # Errors
    /// Some process did not go.
    pub async fn kill(&self) -> Result<(), CgroupError> {
        if !self.path.exists() {
            return Ok(());
        }
        self.set("cgroup.kill", "1")?;
        self.thaw()?;
        self.becomes("populated 0", "ended").await
    }

    fn stuck(&self, wanted: &'static str) -> Result<CgroupError, CgroupError> {
        let left: Vec<_> = self.processes()?.iter().map(u32::to_string).collect();
        Ok(CgroupError::Stuck { path: self.path.clone(), wanted, left: left.join(", ") })
    }

    /// Removes it and the groups below it, which must hold no process. One that does not exist is fine.
    ///
    /// # Errors
    /// It still holds a process.
    pub fn remove(&self) -> Result<(), CgroupError> {
        for group in self.tree()? {
            match std::fs::remove_dir(&group) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(FileError::new("remove", &group, source).into());
                }
                _ => {}
            }
        }
        // Stays as long as another lab is there.
        if let Some(parent) = self.path.parent() {
            let _ = std::fs::remove_dir(parent);
        }
        Ok(())
    }
}

/// Removes what Docker's containers left of their groups in the v1 hierarchies of a hybrid system, where the engine
/// makes them under the parent that it is given. Best effort: an empty directory that stays harms nobody, and the next
/// [`crate::Lab::down`] tries again.
pub fn remove_v1_leftovers(lab: &str) {
    let Ok(mounts) = files::read(Path::new("/proc/mounts")) else { return };
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        if let (_, Some(at), Some("cgroup")) = (fields.next(), fields.next(), fields.next()) {
            let group = Cgroup { path: Path::new(at).join("binder-lab").join(lab) };
            let _ = group.remove();
        }
    }
}
