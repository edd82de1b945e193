//! Building the lab's Go programs from the modules under `tests/go`.
//!
//! [`GoProgram`] lists them as data. Knows how to build one into a folder and how to name its version; not where it is
//! kept, and not what it is for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::progress::Progress;
use super::work::{Work, WorkError};
use crate::files::FileError;
use crate::process;

/// The folder of the Go modules, in the checkout that this program was built from.
const MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/go");

/// The oldest Go that builds all modules: Kubernetes 1.36 asks for it.
const GO: &str = "1.26";

/// One program to build.
#[derive(Debug)]
pub(super) struct GoProgram {
    /// What people call it in `building ...`.
    pub title: &'static str,
    /// The folder of its module under `tests/go`, and the name of the binary.
    pub name: &'static str,
    /// The package of its `main`, for `go build`.
    pub package: &'static str,
    /// Variables of packages to set, for the linker's `-X`.
    pub set: &'static [(&'static str, &'static str)],
    /// Names under which the binary is to be found as well: it looks at the name by which it was called.
    pub links: &'static [&'static str],
    /// How long the first build takes on two cores, measured on an empty Go cache.
    pub usually: Duration,
}

/// The parts of a Kubernetes control plane, `kubectl`, and the stand-in for what surrounds a master in a cloud.
pub(super) const CONTROL_PLANE: GoProgram = GoProgram {
    title: "the control plane",
    name: "controlplane",
    package: ".",
    // Without these the server calls itself v0.0.0-master, and clients that look at the version stumble.
    set: &[
        ("k8s.io/component-base/version.gitVersion", "v1.36.3"),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "36"),
        ("k8s.io/component-base/version.gitTreeState", "clean"),
        ("k8s.io/client-go/pkg/version.gitVersion", "v1.36.3"),
    ],
    links: &["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "minions"],
    usually: Duration::from_secs(540),
};

/// Makes Node objects Ready and pods Running.
pub(super) const KWOK: GoProgram = GoProgram {
    title: "KWOK",
    name: "kwok",
    package: "sigs.k8s.io/kwok/cmd/kwok",
    set: &[],
    links: &[],
    usually: Duration::from_secs(180),
};

/// The database.
pub(super) const FERRETDB: GoProgram = GoProgram {
    title: "the database (FerretDB)",
    name: "ferretdb",
    package: ".",
    set: &[],
    links: &[],
    usually: Duration::from_secs(95),
};

/// A server of buckets that speaks S3, for the backups.
pub(super) const VERSITYGW: GoProgram = GoProgram {
    title: "the server of buckets (Versity S3 Gateway)",
    name: "versitygw",
    package: "github.com/versity/versitygw/cmd/versitygw",
    set: &[],
    links: &[],
    usually: Duration::from_secs(120),
};

/// Helm, for the tests of the chart.
pub(super) const HELM: GoProgram = GoProgram {
    title: "Helm",
    name: "helm",
    package: "helm.sh/helm/v4/cmd/helm",
    set: &[],
    links: &[],
    usually: Duration::from_secs(180),
};

/// A program could not be built.
#[derive(Debug, thiserror::Error)]
pub enum GoError {
    /// Its module cannot be read, or the result not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no Go.
    #[error("building {title} needs Go {GO} or later: `go` cannot be run")]
    NoGo {
        /// What was to be built.
        title: &'static str,
        /// Why it cannot be run.
        #[source]
        source: std::io::Error,
    },
    /// Go said no.
    #[error("building {title} failed ({status}); the end of `{}`:\n{said}", log.display())]
    Failed {
        /// What was to be built.
        title: &'static str,
        /// How `go` ended.
        status: std::process::ExitStatus,
        /// The log of the build, which stays.
        log: PathBuf,
        /// Its end.
        said: String,
    },
}

impl GoProgram {
    /// A name for what would be built: a hash of everything that goes into it.
    pub(super) async fn version(&self) -> Result<String, GoError> {
        let output = Command::new("go")
            .arg("version")
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|source| GoError::NoGo { title: self.title, source })?;
        Ok(self.hash(&output.stdout, &sources(&self.module())?))
    }

    fn hash(&self, go: &[u8], sources: &BTreeMap<PathBuf, Vec<u8>>) -> String {
        let mut hash = Sha256::new();
        // Lengths go in too, so that no two lists of parts read the same.
        let mut add = |part: &[u8]| {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        };
        add(go);
        for argument in self.arguments(Path::new("")) {
            add(argument.as_bytes());
        }
        self.links.iter().for_each(|link| add(link.as_bytes()));
        for (path, contents) in sources {
            add(path.as_os_str().as_encoded_bytes());
            add(contents);
        }
        // 64 bits are plenty to tell a person's edits apart, and fit on a line.
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Builds it into `folder`, with its links. The log of a build that failed stays at `log`.
    pub(super) async fn build(&self, folder: &Path, log: &Path, progress: &dyn Progress) -> Result<(), GoError> {
        let what = format!("building {}", self.title);
        let mut command = Command::new("go");
        // One kind of binary whatever compiler the machine has; it runs in any root file system.
        command.args(self.arguments(folder)).current_dir(self.module()).env("CGO_ENABLED", "0");
        let work = Work { what: &what, usually: Some(self.usually), log, progress };
        let status = work.run(&mut command).await.map_err(|error| match error {
            WorkError::File(error) => GoError::File(error),
            WorkError::Start(source) => GoError::NoGo { title: self.title, source },
        })?;
        if !status.success() {
            let said = process::tail(log);
            return Err(GoError::Failed { title: self.title, status, log: log.to_owned(), said });
        }
        for link in self.links {
            let link = folder.join(link);
            std::os::unix::fs::symlink(self.name, &link).map_err(|source| FileError::new("link", &link, source))?;
        }
        Ok(())
    }

    fn module(&self) -> PathBuf {
        Path::new(MODULES).join(self.name)
    }

    fn arguments(&self, folder: &Path) -> Vec<String> {
        let mut linker = "-s -w".to_owned();
        for (variable, value) in self.set {
            linker += &format!(" -X {variable}={value}");
        }
        let output = folder.join(self.name).display().to_string();
        ["build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", &linker, "-o", &output, self.package]
            .map(str::to_owned)
            .to_vec()
    }
}

/// Every file of a module that a build reads, by its path inside the module.
fn sources(module: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, FileError> {
    let mut found = BTreeMap::new();
    let mut folders = vec![module.to_owned()];
    while let Some(folder) = folders.pop() {
        let unreadable = |source| FileError::new("read", &folder, source);
        for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path();
            if entry.file_type().map_err(unreadable)?.is_dir() {
                folders.push(path);
                continue;
            }
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let built = (name.ends_with(".go") && !name.ends_with("_test.go")) || name == "go.mod" || name == "go.sum";
            if built {
                let contents = std::fs::read(&path).map_err(|source| FileError::new("read", &path, source))?;
                let inside = path.strip_prefix(module).unwrap_or(&path).to_owned();
                found.insert(inside, contents);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::files;

    #[test]
    fn the_version_follows_everything_that_goes_in() {
        let sources = sources(&CONTROL_PLANE.module()).unwrap();
        assert!(sources.contains_key(Path::new("go.sum")) && sources.contains_key(Path::new("minions/nodes.go")));
        let version = CONTROL_PLANE.hash(b"go1.26.0", &sources);
        assert_eq!(version, CONTROL_PLANE.hash(b"go1.26.0", &sources));
        assert_ne!(version, CONTROL_PLANE.hash(b"go1.26.1", &sources));

        let mut edited = sources.clone();
        edited.get_mut(Path::new("main.go")).unwrap().push(b'\n');
        assert_ne!(version, CONTROL_PLANE.hash(b"go1.26.0", &edited));
        let relinked = GoProgram { links: &["etcd"], ..CONTROL_PLANE };
        assert_ne!(version, relinked.hash(b"go1.26.0", &sources));
        let renamed = GoProgram { set: &[], ..CONTROL_PLANE };
        assert_ne!(version, renamed.hash(b"go1.26.0", &sources));
    }

    #[test]
    fn the_control_plane_calls_itself_what_it_is() {
        let module = files::read(&CONTROL_PLANE.module().join("go.mod")).unwrap();
        let version = |name| CONTROL_PLANE.set.iter().find(|(variable, _)| variable.ends_with(name)).unwrap().1;
        let git = version("component-base/version.gitVersion");
        assert!(module.contains(&format!("k8s.io/kubernetes {git}\n")), "go.mod has another Kubernetes than {git}");
        let (major, minor) = (version("gitMajor"), version("gitMinor"));
        assert!(git.starts_with(&format!("v{major}.{minor}.")), "{git} is not {major}.{minor}");
        assert_eq!(git, version("client-go/pkg/version.gitVersion"));
    }

    #[tokio::test]
    async fn a_failed_build_says_what_the_compiler_said() {
        let broken = GoProgram { package: "./nothing-is-here", title: "nothing", ..CONTROL_PLANE };
        let folder = std::env::temp_dir().join(format!("binder-lab-go-{}", std::process::id()));
        files::make_dir(&folder).unwrap();
        let error = broken.build(&folder, &folder.join("log"), &crate::tools::progress::Silent).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("building nothing failed (exit status: 1)"), "{text}");
        assert!(text.contains("nothing-is-here"), "{text}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
