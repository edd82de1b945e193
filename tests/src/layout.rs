//! Where a lab keeps what it needs: the names of its files, and nothing else.
//!
//! The lab's folder is a tmpfs of its own while the lab is up, so that overlays can lie on it and that nothing of it
//! touches a disk.

use std::path::{Path, PathBuf};

use sha2::Digest;

/// The variable that says under which folder labs keep their state, and what it is without it.
pub const STATE_VARIABLE: &str = "BINDER_LAB_STATE";
const STATE_DEFAULT: &str = "/run/binder-lab";

/// A lab's name could not be used.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no name for a lab: 1 to 24 characters of a-z, 0-9 and -, the first a letter or digit")]
pub struct BadName(String);

/// The files of one lab.
#[derive(Debug, Clone)]
pub struct Layout {
    lab: String,
    dir: PathBuf,
    id: String,
}

impl Layout {
    /// The files of the lab with this name, under `BINDER_LAB_STATE` or its default.
    ///
    /// # Errors
    /// The name could not be part of a path, a cgroup and a network namespace.
    pub fn of(lab: &str) -> Result<Self, BadName> {
        let base = std::env::var_os(STATE_VARIABLE).map_or_else(|| PathBuf::from(STATE_DEFAULT), PathBuf::from);
        Self::under(&base, lab)
    }

    fn under(base: &Path, lab: &str) -> Result<Self, BadName> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if lab.is_empty() || lab.len() > 24 || lab.starts_with('-') || !lab.chars().all(fits) {
            return Err(BadName(lab.to_owned()));
        }
        let id = if base == Path::new(STATE_DEFAULT) {
            lab.to_owned()
        } else {
            let digest = sha2::Sha256::digest(base.as_os_str().as_encoded_bytes());
            format!("{lab}-{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2])
        };
        Ok(Self { lab: lab.to_owned(), dir: base.join(lab), id })
    }

    /// The lab's name.
    pub fn lab(&self) -> &str {
        &self.lab
    }

    /// What tells this lab from every other of this computer, those of the same name under another folder included.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder that holds everything else.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `status` says, as JSON. Replaced as a whole at each change.
    pub fn status(&self) -> PathBuf {
        self.dir.join("status.json")
    }

    /// The lines that `up` shows while the lab starts.
    pub fn progress(&self) -> PathBuf {
        self.dir.join("progress.log")
    }

    /// What the daemon itself has to say.
    pub fn daemon_log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// Held, as an advisory lock, by whoever brings the lab up or down.
    pub fn lock(&self) -> PathBuf {
        // Beside the folder, since that is mounted and unmounted under the lock.
        self.dir.with_extension("lock")
    }

    /// The private key that opens every host, in OpenSSH's format.
    pub fn login_key(&self) -> PathBuf {
        self.dir.join("keys/login")
    }

    /// The private host key of a host; its public half has `.pub` after the name.
    pub fn host_key(&self, host: &str) -> PathBuf {
        self.dir.join("keys").join(host)
    }

    /// The key of Binder's HTTP APIs.
    pub fn api_key(&self) -> PathBuf {
        self.dir.join("keys/api-key")
    }

    /// The key file of the account with which the operator asks the cloud, as the cloud's console gives it.
    pub fn cloud_key(&self) -> PathBuf {
        self.dir.join("keys/gce.json")
    }

    /// Everything of the control plane that is independent of the hosts.
    pub fn control_plane(&self) -> PathBuf {
        self.dir.join("control-plane")
    }

    /// A folder in which the database is filled before the services host has it.
    pub fn seed(&self) -> PathBuf {
        self.dir.join("seed")
    }

    /// The files of one host.
    pub fn host(&self, name: &str) -> HostLayout {
        HostLayout { dir: self.dir.join("hosts").join(name) }
    }
}

/// The files of one host, as this computer sees them.
#[derive(Debug, Clone)]
pub struct HostLayout {
    dir: PathBuf,
}

impl HostLayout {
    /// The files of a host that is part of no lab.
    pub fn in_folder(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The folder that holds the rest.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its file system, from outside. Lasts while the lab does, whether the host is on or off.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// What its first process is told to do.
    pub fn init(&self) -> PathBuf {
        self.dir.join("init.json")
    }

    /// What its first process and its services print.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// The id of its present boot, which the host sees as `/proc/sys/kernel/random/boot_id`.
    pub fn boot_id(&self) -> PathBuf {
        self.dir.join("boot_id")
    }

    /// What the cloud keeps for it: its instance's metadata. A person may read it, and a fault change it.
    pub fn metadata(&self) -> PathBuf {
        self.dir.join("metadata.json")
    }

    /// What the cloud was asked to do to its instance, one line for each operation: the time and the kind.
    pub fn operations(&self) -> PathBuf {
        self.dir.join("operations.log")
    }

    /// What the machine believes about its memory, when it has less than this computer.
    pub fn memory(&self) -> PathBuf {
        self.dir.join("meminfo")
    }

    /// The image of its own disk, when it has one.
    pub fn disk_image(&self) -> PathBuf {
        self.dir.join("disk.img")
    }

    /// Where that disk is mounted outside.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        for name in ["", "..", "a/b", "A", "-x", "aaaaaaaaaaaaaaaaaaaaaaaaa", "a b", "a,b"] {
            assert!(Layout::under(Path::new("/x"), name).is_err(), "{name}");
        }
        assert_eq!(Layout::under(Path::new("/x"), "ci-1").unwrap().dir(), Path::new("/x/ci-1"));
    }
}
