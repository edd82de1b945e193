//! The npm packages that make up Binder, installed once for this version of their list and kept for later labs.
//!
//! Knows npm, and nothing of hosts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::{Instant, interval};

use crate::command::{CommandError, Run};
use crate::files::{self, FileError};
use crate::tools::cache::Cache;
use crate::tools::progress::{Event, Progress};

/// The list of packages, and the exact version and checksum of each one that they pull in.
const PACKAGES: &str = include_str!("../../npm/package.json");
const LOCK: &str = include_str!("../../npm/package-lock.json");

/// Where the packages show on a host.
pub const INSIDE: &str = "/usr/local/lib/binder";

/// How long npm may take. It took 2 min on two cores with an empty cache of its own.
const LIMIT: Duration = Duration::from_secs(15 * 60);
const USUALLY: Duration = Duration::from_secs(2 * 60);

/// The packages could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum SoftwareError {
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// npm failed, or is not there.
    #[error("cannot install the Binder packages; the lab needs npm and Node.js 20 or later")]
    Npm(#[from] CommandError),
}

/// The installed packages.
#[derive(Debug, Clone)]
pub struct Software {
    folder: PathBuf,
}

impl Software {
    /// The packages of this version of the list, installed now if they are not there.
    ///
    /// # Errors
    /// npm is missing or fails; the error carries the end of what it said.
    pub async fn ensure(cache: &Cache, progress: &dyn Progress) -> Result<Self, SoftwareError> {
        let node = Run::new("node").args(["--version"]).succeed().await?;
        let slot = cache.slot("npm", &version(node.trim()));
        if let Some(folder) = slot.filled() {
            return Ok(Self { folder: folder.to_owned() });
        }
        let alone = cache.build_alone(progress).await?;
        if let Some(folder) = slot.filled() {
            return Ok(Self { folder: folder.to_owned() });
        }
        let scratch = slot.scratch(&alone)?;
        install(&scratch, progress).await?;
        Ok(Self { folder: slot.fill(&scratch, &alone)?.to_owned() })
    }

    /// The folder that a host sees as [`INSIDE`].
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The packages, seen from this computer: what `NODE_PATH` needs to be.
    pub fn modules(&self) -> PathBuf {
        self.folder.join("node_modules")
    }
}

/// Changes with everything that decides what is installed.
fn version(node: &str) -> String {
    let mut hash = Sha256::new();
    for part in [PACKAGES, LOCK, node] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

async fn install(folder: &Path, progress: &dyn Progress) -> Result<(), SoftwareError> {
    let what = "installing the Binder packages of 2016";
    let begin = Instant::now();
    progress.report(Event::Started { what, usually: Some(USUALLY) });
    files::write(&folder.join("package.json"), PACKAGES, 0o644)?;
    files::write(&folder.join("package-lock.json"), LOCK, 0o644)?;
    // Without scripts: those of the Binder packages write into the installer's home, those of others fetch and compile.
    let npm = Run::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
        .directory(folder)
        .limit(LIMIT)
        .succeed();
    tokio::pin!(npm);
    let mut ticks = interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            done = &mut npm => {
                done?;
                break;
            }
            _ = ticks.tick() => {
                progress.report(Event::Running { what, usually: Some(USUALLY), elapsed: begin.elapsed() });
            }
        };
    }
    // npm keeps the invoker's umask; the hosts' login user must be able to read all of it.
    Run::new("chmod").args(["-R", "a+rX"]).args([folder]).succeed().await?;
    progress.report(Event::Finished { what, elapsed: begin.elapsed() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_node_is_another_version() {
        assert_ne!(version("v20.0.0"), version("v22.0.0"));
        assert_eq!(version("v20.0.0").len(), 16);
    }

    #[test]
    fn the_lock_names_no_registry() {
        assert!(!LOCK.contains("\"resolved\": \"http"), "a lock file with addresses ties the lab to one registry");
    }
}
