//! Running a program that takes minutes: its output to a log, its progress to whoever waits.
//!
//! Knows nothing of what the program does.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, interval};

use super::progress::{Event, Progress};
use crate::files::{self, FileError};

/// How often [`Event::Running`] is reported.
const TICK: Duration = Duration::from_secs(1);

/// A long piece of work that a program does.
pub(super) struct Work<'a> {
    /// What it is, such as `building the control plane`.
    pub what: &'a str,
    /// How long it usually takes.
    pub usually: Option<Duration>,
    /// What the program says goes here, in place of what an earlier run said.
    pub log: &'a Path,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

/// The program could not be run at all.
#[derive(Debug)]
pub(super) enum WorkError {
    File(FileError),
    Start(std::io::Error),
}

impl From<FileError> for WorkError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl Work<'_> {
    /// Runs it to its end. That it failed is for the caller to see from its status and its log; only success is
    /// reported as the end of the work. Dropped before the end, the program is killed.
    pub(super) async fn run(&self, command: &mut Command) -> Result<ExitStatus, WorkError> {
        let Self { what, usually, log, progress } = *self;
        let begin = Instant::now();
        progress.report(Event::Started { what, usually });

        files::write(log, "", 0o644)?;
        let open = || std::fs::OpenOptions::new().append(true).open(log).map_err(|e| FileError::new("open", log, e));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .kill_on_drop(true)
            .spawn()
            .map_err(WorkError::Start)?;

        let mut ticks = interval(TICK);
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.map_err(WorkError::Start)?,
                _ = ticks.tick() => progress.report(Event::Running { what, usually, elapsed: begin.elapsed() }),
            }
        };
        if status.success() {
            progress.report(Event::Finished { what, elapsed: begin.elapsed() });
        }
        Ok(status)
    }
}
