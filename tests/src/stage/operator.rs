//! This checkout's operator as a process: built by cargo, started with a kubeconfig, ended by a signal.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::cgroup::{Cgroup, CgroupError};
use crate::files::FileError;
use crate::http::{HttpError, Request};
use crate::ports;
use crate::process::{ProcessError, tail};

/// From the start until the first lists have been read.
pub(super) const READY: Duration = Duration::from_secs(30);
/// What the issue of this software promises: SIGTERM ends it within 10 s.
pub const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// The folder beside its log that takes the place of its volume for backups.
pub const BACKUPS: &str = "backups";

/// The operator could not be built, started, asked or ended.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Cargo could not be run.
    #[error("cannot run cargo to build the operator")]
    Cargo(#[source] std::io::Error),
    /// The build failed.
    #[error("the operator does not build:\n{0}")]
    Build(String),
    /// It could not be started.
    #[error("cannot start `{program}`")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It does not become ready.
    #[error("the operator was not ready after {} s; it said:\n{said}", READY.as_secs())]
    NotReady {
        /// The end of its log.
        said: String,
    },
    /// It does not run.
    #[error("the operator does not run")]
    NotRunning,
    /// It did not end in time, or not well.
    #[error("the operator did not end as it should: {how}; it said:\n{said}")]
    BadEnd {
        /// What happened instead.
        how: String,
        /// The end of its log.
        said: String,
    },
    /// It cannot be signalled.
    #[error("cannot signal the operator")]
    Signal(#[source] nix::Error),
    /// It could not be put into the lab's control group.
    #[error("the operator cannot be made to end with the lab")]
    Group(#[from] CgroupError),
    /// It does not answer.
    #[error("the operator does not answer")]
    Http(#[from] HttpError),
    /// As a process that stays it could not be started or ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// What is written down of the one that stays could not be used.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Its arguments in a lab. `listen` is where it serves its own HTTP, `cloud` where it finds Compute Engine.
pub(super) fn arguments(listen: SocketAddr, cloud: &str) -> Vec<String> {
    let listen = listen.to_string();
    let mut arguments = vec!["--listen", &listen, "--namespace", super::NAMESPACE, "--gce-endpoint", cloud];
    // A lab's patience is short, and its machines boot in seconds.
    arguments.extend(["--min-unreachable-timeout", "1s", "--min-retry-period", "1s", "--min-healthy-period", "1s"]);
    arguments.into_iter().map(str::to_owned).collect()
}

/// Its environment in a lab, on top of the starter's own. Makes the folder of backups beside the log.
///
/// # Errors
/// The folder cannot be made.
pub(super) fn environment(kubeconfig: &Path, log: &Path) -> std::io::Result<Vec<(String, String)>> {
    let backups = log.with_file_name(BACKUPS);
    std::fs::create_dir_all(&backups)?;
    let shown = |path: &Path| path.display().to_string();
    let variables =
        [("BINDER_BACKUPS_DIR", shown(&backups)), ("KUBECONFIG", shown(kubeconfig)), ("NO_COLOR", "1".to_owned())];
    Ok(variables.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

/// Builds the operator as cargo would for anybody in this checkout; gives the program.
///
/// # Errors
/// It does not build; the error shows the compiler's words.
pub async fn build() -> Result<PathBuf, OperatorError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // What cargo tells a program that it runs, it would take for a setting of the user's: `ring` is then built anew, and
    // with it everything that depends on it, each time.
    let ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"];
    for (name, _) in std::env::vars_os() {
        if ours.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            build.env_remove(name);
        }
    }
    // With the features of the whole workspace, which whoever runs this was built with too: nothing is built twice.
    let output = build
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--bin",
            "binder-operator",
            "--message-format",
            "json-render-diagnostics",
        ])
        .current_dir(super::workspace())
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(OperatorError::Cargo)?;
    if !output.status.success() {
        return Err(OperatorError::Build(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .ok_or_else(|| OperatorError::Build("cargo named no program".to_owned()))
}

/// A running operator.
#[derive(Debug)]
pub struct Operator {
    child: Child,
    log: PathBuf,
    listen: SocketAddr,
}

impl Operator {
    /// Starts it in a control group, so that it ends with the lab even when whoever started it is interrupted, and waits
    /// until it has read its objects. `cloud` is where it finds Compute Engine. What it logs is appended to `log`.
    ///
    /// # Errors
    /// It does not become ready; the error shows what it said.
    pub async fn start(
        program: &Path,
        kubeconfig: &Path,
        cloud: &str,
        log: &Path,
        group: &Cgroup,
    ) -> Result<Self, OperatorError> {
        group.create()?;
        let failed = |source| OperatorError::Start { program: program.to_owned(), source };
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log).map_err(failed)?;
        // A port that was free a moment ago. None of those that connections out are given, which many are beside another lab.
        let [port] = ports::free().map_err(failed)?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let child = Command::new(program)
            .args(arguments(listen, cloud))
            .envs(environment(kubeconfig, log).map_err(failed)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        child.id().map_or(Ok(()), |pid| group.adopt(pid))?;
        let mut operator = Self { child, log: log.to_owned(), listen };
        let until = Instant::now() + READY;
        loop {
            let ended = operator.child.try_wait().ok().flatten().is_some();
            if operator.get("/readyz").await.is_ok() {
                return Ok(operator);
            }
            if ended || Instant::now() > until {
                return Err(OperatorError::NotReady { said: operator.said() });
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// What it answers at one of its paths.
    ///
    /// # Errors
    /// It does not answer with success.
    pub async fn get(&self, path: &str) -> Result<String, OperatorError> {
        Ok(Request::get(path).text(self.listen).await?)
    }

    /// The end of its log.
    pub fn said(&self) -> String {
        tail(&self.log)
    }

    fn signal(&self, signal: Signal) -> Result<(), OperatorError> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or(OperatorError::NotRunning)?;
        kill(Pid::from_raw(pid), signal).map_err(OperatorError::Signal)
    }

    /// Ends it by SIGTERM; gives how long that took.
    ///
    /// # Errors
    /// It takes too long, or ends with an error.
    pub async fn stop(mut self) -> Result<Duration, OperatorError> {
        let began = Instant::now();
        self.signal(Signal::SIGTERM)?;
        let bad = |how: String, said| OperatorError::BadEnd { how, said };
        match timeout(ENDS_WITHIN, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(began.elapsed()),
            Ok(Ok(status)) => Err(bad(status.to_string(), self.said())),
            Ok(Err(error)) => Err(bad(error.to_string(), self.said())),
            Err(_) => Err(bad(format!("still there after {} s", ENDS_WITHIN.as_secs()), self.said())),
        }
    }

    /// Kills it where it stands.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill(mut self) -> Result<(), OperatorError> {
        self.signal(Signal::SIGKILL)?;
        let _ = self.child.wait().await;
        Ok(())
    }
}
