//! Long-lived processes: what to start, where it writes, and how to end exactly it later.
//!
//! A [`ProcessSpec`] is data, so that whoever owns the place (this computer, a lab host's namespaces) does the starting;
//! [`ProcessSpec::start`] does it on this computer. A [`Running`] can be written to a file and read by a later command:
//! it holds the start time beside the pid, so nothing is ever sent to a stranger that got the same pid.
//!
//! Knows nothing of what the programs are, and must not: no ports, no readiness.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::files::{self, FileError};

/// How often [`Running::end`] looks whether the process is gone. An end takes milliseconds or seconds, never less.
const LOOK: Duration = Duration::from_millis(20);

/// How long a killed process may take to vanish: the kernel tears it down, and that is quick unless it hangs in I/O.
const KILLED: Duration = Duration::from_secs(10);

/// How much of a log [`tail`] repeats, in bytes.
const TAIL: u64 = 4_000;

/// A process could not be started, found or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Its log could not be opened, or `/proc` not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel refused to start it.
    #[error("cannot start `{name}` (`{}`)", program.display())]
    Start {
        /// The name in the spec.
        name: String,
        /// What was to be run.
        program: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It ended before it could be looked at.
    #[error("`{name}` ended as soon as it was started; its log says:\n{said}")]
    EndedAtOnce {
        /// The name in the spec.
        name: String,
        /// The end of its log.
        said: String,
    },
    /// A signal could not be sent.
    #[error("cannot end `{name}` (pid {pid})")]
    Signal {
        /// The name in the spec.
        name: String,
        /// Its pid.
        pid: i32,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// It did not even end when it was killed.
    #[error("`{name}` (pid {pid}) is still there {KILLED:?} after it was killed")]
    Immortal {
        /// The name in the spec.
        name: String,
        /// Its pid.
        pid: i32,
    },
}

/// A process to start. The paths are as the process itself sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// What people call it; unique within its list.
    pub name: String,
    /// What to run.
    pub program: PathBuf,
    /// Its arguments, without the program's own name. Never a secret: every user of the machine can read them.
    pub args: Vec<String>,
    /// Its environment on top of the starter's own.
    pub env: Vec<(String, String)>,
    /// Where its output and its errors go, added at the end.
    pub log: PathBuf,
}

impl ProcessSpec {
    /// Starts it on this computer: in a process group of its own, so that a Ctrl-C meant for a lab command does not
    /// reach it, and without standard input. It outlives whoever starts it.
    ///
    /// # Errors
    /// Its log cannot be opened, the program cannot be run, or it ended at once.
    pub fn start(&self) -> Result<Running, ProcessError> {
        if let Some(folder) = self.log.parent() {
            files::make_dir(folder)?;
        }
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.log)
            .map_err(|source| FileError::new("open", &self.log, source))?;
        let errors = log.try_clone().map_err(|source| FileError::new("open", &self.log, source))?;

        // tokio's child, not std's: dropped, it is still reaped when it ends, so no zombies gather in a long demo.
        let child = Command::new(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(false)
            .spawn()
            .map_err(|source| ProcessError::Start { name: self.name.clone(), program: self.program.clone(), source })?;
        let seen = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(|pid| Some((pid, Stat::of(pid)?)));
        match seen {
            Some((pid, stat)) => {
                Ok(Running { name: self.name.clone(), pid, started: stat.started, log: self.log.clone() })
            }
            None => Err(ProcessError::EndedAtOnce { name: self.name.clone(), said: tail(&self.log) }),
        }
    }
}

/// A process that was started, and leads a process group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The name in its spec.
    pub name: String,
    /// Its pid, as seen from this computer.
    pub pid: i32,
    /// When it was started, in clock ticks since the computer booted (field 22 of `/proc/PID/stat`).
    pub started: u64,
    /// Its log, as seen from this computer.
    pub log: PathBuf,
}

impl Running {
    /// The process that has this pid now; none if there is none. For one that something else started.
    pub fn adopt(name: &str, pid: i32, log: &Path) -> Option<Self> {
        let started = Stat::of(pid)?.started;
        Some(Self { name: name.to_owned(), pid, started, log: log.to_owned() })
    }

    /// Whether it still runs. A zombie does not, and neither does a stranger with its pid.
    pub fn is_alive(&self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.started == self.started && !stat.is_dead())
    }

    /// The end of its log, for an error message.
    pub fn said(&self) -> String {
        tail(&self.log)
    }

    /// Ends it and its process group: SIGTERM, and after `grace` SIGKILL. With a grace of zero it is killed right away.
    /// It is no error if it is gone already.
    ///
    /// # Errors
    /// The signal is not allowed, or the process cannot even be killed.
    pub async fn end(&self, grace: Duration) -> Result<(), ProcessError> {
        if !grace.is_zero() && self.signal(Signal::SIGTERM)? && self.gone_within(grace).await {
            return Ok(());
        }
        if !self.signal(Signal::SIGKILL)? || self.gone_within(KILLED).await {
            return Ok(());
        }
        Err(ProcessError::Immortal { name: self.name.clone(), pid: self.pid })
    }

    /// Kills it and its process group without waiting, for where nothing can be awaited; false if it was gone.
    ///
    /// # Errors
    /// The signal is not allowed.
    pub fn kill(&self) -> Result<bool, ProcessError> {
        self.signal(Signal::SIGKILL)
    }

    /// Sends a signal to its group; false if it is gone.
    fn signal(&self, signal: Signal) -> Result<bool, ProcessError> {
        if !self.is_alive() {
            return Ok(false);
        }
        let pid = Pid::from_raw(self.pid);
        // One that we adopted may lead no group; then it alone is meant.
        let sent = match killpg(pid, signal) {
            Err(Errno::ESRCH) => kill(pid, signal),
            other => other,
        };
        match sent {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(source) => Err(ProcessError::Signal { name: self.name.clone(), pid: self.pid, source }),
        }
    }

    async fn gone_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }
}

/// Ends processes in the opposite order of their start. Every one is tried; the first failure is returned.
///
/// # Errors
/// Those of [`Running::end`].
pub async fn end_all(processes: &[Running], grace: Duration) -> Result<(), ProcessError> {
    let mut first = Ok(());
    for process in processes.iter().rev() {
        let ended = process.end(grace).await;
        first = first.and(ended);
    }
    first
}

/// Every process of this computer that was started with `key=value` in its environment: how a `down` finds what a lab
/// started and did not live to write down, children of children included. Those of other users are not seen.
///
/// # Errors
/// `/proc` cannot be read.
pub fn marked(key: &str, value: &str) -> Result<Vec<Running>, ProcessError> {
    let mark = format!("{key}={value}").into_bytes();
    let proc = Path::new("/proc");
    let entries = std::fs::read_dir(proc).map_err(|source| FileError::new("read", proc, source))?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A process can end between any two of these lines; then it needs no ending.
        let Some(before) = Stat::of(pid) else { continue };
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
        if before.is_dead() || !environment.split(|byte| *byte == 0).any(|variable| variable == mark) {
            continue;
        }
        let name = before.name.clone();
        found.push(Running { name, pid, started: before.started, log: PathBuf::new() });
    }
    Ok(found)
}

/// The end of a log, for an error message; says so when there is none.
pub fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut end = Vec::new();
        file.take(TAIL).read_to_end(&mut end)?;
        Ok(String::from_utf8_lossy(&end).trim().to_owned())
    };
    match read() {
        Ok(said) if said.is_empty() => format!("(`{}` is empty)", log.display()),
        Ok(said) => said,
        Err(error) => format!("(no log: `{}`: {error})", log.display()),
    }
}

/// What `/proc/PID/stat` tells.
struct Stat {
    name: String,
    state: char,
    started: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// `PID (NAME) STATE ...`; the name is the process's own choice and may hold blanks and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let started = fields.nth(18)?.parse().ok()?; // field 22, the state being field 3
        Some(Self { name: name.to_owned(), state, started })
    }

    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn shell(script: &str, log: &Path) -> ProcessSpec {
        ProcessSpec {
            name: "shell".into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("BINDER_LAB_TEST".into(), log.display().to_string())],
            log: log.to_owned(),
        }
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("binder-lab-process-{}-{name}.log", std::process::id()))
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_parser() {
        let stat = Stat::parse("7 (a) b (c)) S 1 7 7 0 -1 4 1 1 0 0 0 0 0 0 20 0 1 0 4242 9 9").unwrap();
        assert_eq!((stat.name.as_str(), stat.state, stat.started), ("a) b (c)", 'S', 4242));
        assert!(Stat::parse("7 (a").is_none());
    }

    #[tokio::test]
    async fn ends_the_whole_group_and_only_once() {
        let log = scratch("group");
        let running = shell("sleep 600 & echo child; wait", &log).start().unwrap();
        let key = log.display().to_string();
        let both = |count| {
            let key = key.clone();
            move || marked("BINDER_LAB_TEST", &key).unwrap().len() == count
        };
        eventually(both(2)).await;
        running.end(Duration::from_secs(5)).await.unwrap();
        eventually(both(0)).await;
        assert!(!running.is_alive());
        assert_eq!(running.said(), "child");
        running.end(Duration::from_secs(5)).await.unwrap();
        std::fs::remove_file(log).unwrap();
    }

    #[tokio::test]
    async fn kills_what_does_not_listen() {
        let log = scratch("deaf");
        let running = shell("trap '' TERM; echo ready; while :; do sleep 0.05; done", &log).start().unwrap();
        let saying = log.clone();
        eventually(move || tail(&saying) == "ready").await;
        running.end(Duration::from_millis(200)).await.unwrap();
        assert!(!running.is_alive());
        std::fs::remove_file(log).unwrap();
    }

    #[tokio::test]
    async fn a_stranger_with_the_same_pid_is_left_alone() {
        let log = scratch("stranger");
        let running = shell("exec sleep 600", &log).start().unwrap();
        let mistaken = Running { started: running.started - 1, ..running.clone() };
        assert!(!mistaken.is_alive());
        mistaken.end(Duration::ZERO).await.unwrap();
        assert!(running.is_alive());
        running.end(Duration::ZERO).await.unwrap();
        std::fs::remove_file(log).unwrap();
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let log = scratch("missing");
        let spec = ProcessSpec { program: "/nonexistent/program".into(), ..shell("", &log) };
        assert_eq!(spec.start().unwrap_err().to_string(), "cannot start `shell` (`/nonexistent/program`)");
        std::fs::remove_file(log).unwrap();
    }

    async fn eventually(so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !so() {
            assert!(Instant::now() < deadline, "never became so");
            sleep(LOOK).await;
        }
    }
}
