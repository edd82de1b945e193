//! What the lab takes from Debian, and installing what of it is missing.
//!
//! A package counts as there when its programs are, wherever they came from, so on other distributions a person can
//! bring them in that one's way. Knows the package manager, and nothing of what the programs are for.

use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use tokio::process::Command;

use super::progress::Progress;
use super::work::{Work, WorkError};
use crate::files::FileError;
use crate::process;

/// Where Debian's packages put programs. The user's `PATH` is looked at after these: it may hold wrappers of the same
/// names that do less.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// How long to wait while another package manager runs, in seconds.
const LOCK_SECONDS: u32 = 300;

/// A package that the lab needs, and how to tell that it is there.
struct Package {
    name: &'static str,
    /// Every one of these must be there.
    programs: &'static [&'static str],
    /// And be linked statically.
    is_static: bool,
}

const fn package(name: &'static str, programs: &'static [&'static str]) -> Package {
    Package { name, programs, is_static: false }
}

const PACKAGES: [Package; 7] = [
    package("iproute2", &["ip"]),
    package("iptables", &["iptables"]),
    package("openssh-server", &["sshd", "ssh-keygen"]),
    package("sudo", &["sudo"]),
    // The client may be something else of that name; the engine is what the lab runs.
    package("docker.io", &["dockerd", "containerd", "runc"]),
    // Runs inside containers that hold nothing else, so a dynamic one would not do.
    Package { name: "busybox-static", programs: &["busybox"], is_static: true },
    package("procps", &["ps", "pkill"]),
];

/// Debian's part of the lab could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// Not a Debian machine.
    #[error(
        "missing: {}; and there is no `apt-get` to install them with: bring in those programs by hand",
        list(missing)
    )]
    NoApt {
        /// The packages, each with the programs that were looked for.
        missing: Vec<String>,
    },
    /// Not allowed to install.
    #[error("missing: {}; installing needs root: run `apt-get install {}` as root, or the lab itself",
        list(missing), packages.join(" "))]
    NotRoot {
        /// The packages, each with the programs that were looked for.
        missing: Vec<String>,
        /// Their names.
        packages: Vec<&'static str>,
    },
    /// The package manager said no.
    #[error("`apt-get {arguments}` failed ({status}); the end of `{}`:\n{said}", log.display())]
    Apt {
        /// What it was asked.
        arguments: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// Where it wrote.
        log: PathBuf,
        /// The end of that.
        said: String,
    },
    /// The package manager could not be run.
    #[error("cannot run `apt-get`")]
    Start(#[source] std::io::Error),
    /// It ran, and still something is missing.
    #[error("still missing after `apt-get install`: {}", list(missing))]
    StillMissing {
        /// The packages, each with the programs that were looked for.
        missing: Vec<String>,
    },
    /// Its log cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

fn list(missing: &[String]) -> String {
    missing.join(", ")
}

/// Installs what is missing of the packages that every lab needs. Says so, since Debian starts the services of what it
/// installs on a machine that has an init system.
///
/// `log` gets what the package manager says.
///
/// # Errors
/// Something is missing and cannot be installed; the error says what to do.
pub async fn packages(log: &Path, progress: &dyn Progress) -> Result<(), DebianError> {
    ensure(&PACKAGES, log, progress).await
}

async fn ensure(packages: &[Package], log: &Path, progress: &dyn Progress) -> Result<(), DebianError> {
    let missing: Vec<_> = packages.iter().filter(|package| !package.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    if find("apt-get").is_none() {
        return Err(DebianError::NoApt { missing: describe(&missing) });
    }
    if !geteuid().is_root() {
        return Err(DebianError::NotRoot { missing: describe(&missing), packages: names });
    }

    let what = format!("installing {}", names.join(", "));
    let install: Vec<_> = ["install", "--yes", "--no-install-recommends"].into_iter().chain(names).collect();
    // Package lists can be missing or too old to be served any more: only a failure tells.
    if let Err(first) = apt(&install, log, &what, progress).await {
        tracing::debug!(error = %first, "trying again with new package lists");
        apt(&["update"], log, "reading Debian's package lists", progress).await?;
        apt(&install, log, &what, progress).await?;
    }
    let missing: Vec<_> = packages.iter().filter(|package| !package.is_there()).collect();
    if missing.is_empty() { Ok(()) } else { Err(DebianError::StillMissing { missing: describe(&missing) }) }
}

/// The program of this name, as Debian's packages bring it, or else from the user's `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    FOLDERS
        .into_iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|path| super::is_program(path))
}

async fn apt(arguments: &[&str], log: &Path, what: &str, progress: &dyn Progress) -> Result<(), DebianError> {
    let mut command = Command::new("apt-get");
    command
        .arg("-o")
        .arg(format!("DPkg::Lock::Timeout={LOCK_SECONDS}"))
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let work = Work { what, usually: None, log, progress };
    let status = work.run(&mut command).await.map_err(|error| match error {
        WorkError::File(error) => DebianError::File(error),
        WorkError::Start(source) => DebianError::Start(source),
    })?;
    if !status.success() {
        let said = process::tail(log);
        return Err(DebianError::Apt { arguments: arguments.join(" "), status, log: log.to_owned(), said });
    }
    Ok(())
}

fn describe(missing: &[&Package]) -> Vec<String> {
    missing.iter().map(|package| format!("{} ({})", package.name, package.programs.join(", "))).collect()
}

impl Package {
    fn is_there(&self) -> bool {
        self.programs.iter().all(|program| match find(program) {
            Some(path) if self.is_static => std::fs::read(path).is_ok_and(|elf| is_static(&elf)),
            found => found.is_some(),
        })
    }
}

/// Whether a 64-bit little-endian ELF program asks for no interpreter (a program header of type `PT_INTERP`, 3).
fn is_static(elf: &[u8]) -> bool {
    let number = |at: usize, length: usize| -> Option<usize> {
        let bytes = elf.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    };
    let headers = || -> Option<Vec<usize>> {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count).map(|index| number(table.checked_add(index * size)?, 4)).collect()
    };
    elf.starts_with(b"\x7fELF\x02\x01") && headers().is_some_and(|types| !types.contains(&3))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn tells_static_programs_from_others() {
        // This very test is linked dynamically, like every program that rustc makes for glibc.
        assert!(!is_static(&std::fs::read(std::env::current_exe().unwrap()).unwrap()));
        assert!(!is_static(b"#!/bin/sh\n"));
        assert!(!is_static(b"\x7fELF\x02\x01"));
        let mut headerless = b"\x7fELF\x02\x01".to_vec();
        headerless.resize(64, 0);
        assert!(is_static(&headerless));
        headerless[54] = 56;
        headerless[56] = 1;
        headerless[32] = 64;
        assert!(!is_static(&headerless), "its header lies past the end");
        headerless.resize(64 + 56, 0);
        headerless[64] = 1;
        assert!(is_static(&headerless));
        headerless[64] = 3;
        assert!(!is_static(&headerless));
    }

    #[test]
    fn errors_say_what_to_do() {
        let error = DebianError::NotRoot {
            missing: describe(&[&PACKAGES[0], &PACKAGES[4]]),
            packages: vec!["iproute2", "docker.io"],
        };
        assert_eq!(
            error.to_string(),
            "missing: iproute2 (ip), docker.io (dockerd, containerd, runc); installing needs root: run `apt-get install \
             iproute2 docker.io` as root, or the lab itself"
        );
    }
}
