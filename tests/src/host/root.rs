//! A host's file system: an overlay over this computer's own.
//!
//! What the host writes goes to the lab's tmpfs, or to a small disk of its own. Knows nothing of what is written.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::command::{CommandError, Run};
use crate::files::{self, FileError};
use crate::layout::HostLayout;

/// A file system could not be made or taken away.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A program failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// It could not be mounted or unmounted.
    #[error("cannot {doing} `{}`", at.display())]
    Mount {
        /// What was tried.
        doing: &'static str,
        /// Where.
        at: PathBuf,
        /// Why not.
        #[source]
        source: nix::errno::Errno,
    },
}

/// Mounts a tmpfs for a lab's state.
///
/// # Errors
/// The folder cannot be made, or this process may not mount.
pub fn mount_state(at: &Path) -> Result<(), RootError> {
    files::make_dir(at)?;
    mount(Some("binder-lab"), at, Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=75%"))
        .map_err(|source| RootError::Mount { doing: "mount a tmpfs on", at: at.to_owned(), source })
}

/// Makes and mounts a host's file system.
///
/// `disk` is the size in MiB of a disk of its own.
///
/// # Errors
/// No loop device is free, or the overlay is refused.
pub async fn create(host: &HostLayout, disk: Option<u32>) -> Result<(), RootError> {
    let writable = match disk {
        Some(size) => attach_disk(host, size).await?,
        None => host.dir().to_owned(),
    };
    let (upper, work, root) = (writable.join("upper"), writable.join("work"), host.root());
    for dir in [&upper, &work, &root] {
        files::make_dir(dir)?;
    }
    // One layer only: another that lies somewhere under `/` would overlap with it, which overlayfs refuses (ELOOP).
    let options = format!("lowerdir=/,upperdir={},workdir={}", escaped(&upper), escaped(&work));
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|source| RootError::Mount { doing: "mount the overlay on", at: root, source })
}

/// Overlay's options are separated by commas, and layers by colons.
pub(super) fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(',', "\\,").replace(':', "\\:")
}

/// Makes a disk image with ext4 on it and mounts it through a loop device that goes away with the mount.
async fn attach_disk(host: &HostLayout, size: u32) -> Result<PathBuf, RootError> {
    let (image, at) = (host.disk_image(), host.disk());
    files::make_dir(&at)?;
    let file = std::fs::File::create(&image).map_err(|source| FileError::new("make", &image, source))?;
    file.set_len(u64::from(size) << 20).map_err(|source| FileError::new("grow", &image, source))?;
    // No journal and no reserve for root: a disk this small would lose a noticeable part of itself to them, and "full"
    // is to mean full for everybody.
    Run::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-O", "^has_journal", "-L", "binder-lab"])
        .args([&image])
        .succeed()
        .await?;
    Run::new("mount").args(["-o", "loop"]).args([&image, &at]).limit(Duration::from_secs(20)).succeed().await?;
    files::make_dir(&at.join("docker"))?;
    Ok(at)
}

/// Everything that is mounted at or below a folder, the innermost first.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let list = files::read(Path::new("/proc/self/mountinfo"))?;
    let mut found: Vec<_> = list
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|at| PathBuf::from(at.replace("\\040", " ").replace("\\134", "\\")))
        .filter(|at| at.starts_with(dir))
        .collect();
    // Later mounts lie over earlier ones, so the list backwards is the order in which they can go.
    found.reverse();
    Ok(found)
}

/// Unmounts everything at and below a folder.
///
/// # Errors
/// Something there cannot be unmounted. One that is merely busy is detached: it goes when its last user does.
pub fn unmount_below(dir: &Path) -> Result<(), RootError> {
    for at in mounts_below(dir)? {
        match umount2(&at, MntFlags::empty()) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(_) => umount2(&at, MntFlags::MNT_DETACH).map_err(|source| RootError::Mount {
                doing: "unmount",
                at: at.clone(),
                source,
            })?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_path_cannot_become_an_option() {
        assert_eq!(escaped(Path::new("/a:b,upperdir=/etc")), "/a\\:b\\,upperdir=/etc");
    }
}
