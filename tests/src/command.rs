//! Running programs of this machine and saying well what went wrong.
//!
//! For everything that the lab does through a program (`ip`, `mount`, `nsenter`, `npm`). Knows nothing of labs or hosts;
//! long-lived processes are not started here.

use std::ffi::{OsStr, OsString};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How much of a program's output an error repeats, in bytes: enough for the lines that matter.
const SAID: usize = 2_000;

/// How much of one argument a message repeats, in bytes.
const WORD: usize = 120;

/// A program did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started at all.
    #[error("cannot start `{command}`")]
    Start {
        /// The program and its arguments.
        command: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Its input or output broke off.
    #[error("lost the connection to `{command}`")]
    Pipe {
        /// The program and its arguments.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It was still running at the end of its time and was ended.
    #[error("`{command}` was still running after {limit:?}, and was ended")]
    TimedOut {
        /// The program and its arguments.
        command: String,
        /// The time that it had.
        limit: Duration,
    },
    /// It ended with something else than success.
    #[error("`{command}` ended with {status}: {said}")]
    Failed {
        /// The program and its arguments.
        command: String,
        /// Exit status or signal.
        status: String,
        /// The end of what it said, errors first.
        said: String,
    },
}

/// What a program that came to its end left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit status; none when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to its standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// Whether it ended with status 0.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// What it said, for an error message: errors last, and of a long text the beginning and the end.
    pub fn said(&self) -> String {
        let both = format!("{}\n{}", self.stdout.trim(), self.stderr.trim());
        shortened(both.trim(), SAID)
    }
}

/// One run of a program, described before it happens.
#[derive(Debug, Clone)]
pub struct Run {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    clear_env: bool,
    directory: Option<std::path::PathBuf>,
    stdin: Option<Vec<u8>>,
    limit: Duration,
}

impl Run {
    /// A program, without arguments, with a minute to do its work.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            clear_env: false,
            directory: None,
            stdin: None,
            limit: Duration::from_secs(60),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts with none of this process's environment.
    #[must_use]
    pub fn clear_env(mut self) -> Self {
        self.clear_env = true;
        self
    }

    /// Runs in a directory.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<std::path::PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Gives it something to read; otherwise its standard input is empty.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// How long it may take; past that it is killed.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command line, for messages; of a whole script only the beginning. Never put a secret into an argument: it
    /// would show here and in `ps`.
    pub fn line(&self) -> String {
        let word = |word: &OsString| {
            let word = word.to_string_lossy();
            let cut = word.floor_char_boundary(WORD);
            if cut < word.len() { format!("{}[...]", word[..cut].trim()) } else { word.into_owned() }
        };
        let words: Vec<_> = std::iter::once(&self.program).chain(&self.args).map(word).collect();
        words.join(" ")
    }

    /// Becomes it: this process is replaced, and its terminal, input and output are the program's. Comes back only with
    /// an error.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn replace_this_process(self) -> Result<std::convert::Infallible, CommandError> {
        let command = self.line();
        let mut program = std::process::Command::new(&self.program);
        program.args(&self.args);
        if self.clear_env {
            program.env_clear();
        }
        program.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            program.current_dir(directory);
        }
        Err(CommandError::Start { command, source: std::os::unix::process::CommandExt::exec(&mut program) })
    }

    /// Runs it to its end, whatever its status.
    ///
    /// # Errors
    /// It cannot be started, its pipes break, or its time is over.
    pub async fn output(self) -> Result<Output, CommandError> {
        let line = self.line();
        let mut command = Command::new(&self.program);
        command.args(&self.args).kill_on_drop(true);
        if self.clear_env {
            command.env_clear();
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| CommandError::Start { command: line.clone(), source })?;
        let input = child.stdin.take();
        let bytes = self.stdin.unwrap_or_default();
        // Written beside the reading: a program that answers while it reads would block both sides otherwise. One that
        // ends without reading everything is no fault of ours; its status tells.
        let feed = async move {
            if let Some(mut pipe) = input {
                let _ = pipe.write_all(&bytes).await;
            }
        };
        let work = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(self.limit, work)
            .await
            .map_err(|_| CommandError::TimedOut { command: line.clone(), limit: self.limit })?
            .map_err(|source| CommandError::Pipe { command: line, source })?;
        Ok(Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it and takes anything but success for an error; gives its standard output.
    ///
    /// # Errors
    /// As [`Run::output`], and when it ends with anything but 0.
    pub async fn succeed(self) -> Result<String, CommandError> {
        let command = self.line();
        let output = self.output().await?;
        if output.ok() {
            return Ok(output.stdout);
        }
        let status = output.code.map_or_else(|| "a signal".to_owned(), |code| format!("status {code}"));
        Err(CommandError::Failed { command, status, said: output.said() })
    }
}

/// A text of at most about `limit` bytes: programs say what went wrong at the beginning or at the end.
fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(limit / 2);
    let tail = text.ceil_char_boundary(text.len() - limit / 2);
    format!("{} [...] {}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_failure_carries_what_was_said() {
        let error = Run::new("sh").args(["-c", "echo why >&2; exit 3"]).succeed().await.unwrap_err();
        assert_eq!(error.to_string(), "`sh -c echo why >&2; exit 3` ended with status 3: why");
    }

    #[tokio::test]
    async fn time_is_limited() {
        let run = Run::new("sleep").args(["60"]).limit(Duration::from_millis(50));
        assert!(matches!(run.output().await, Err(CommandError::TimedOut { .. })));
    }

    #[tokio::test]
    async fn input_larger_than_a_pipe_goes_through() {
        let bytes = vec![b'x'; 1 << 20];
        let out = Run::new("cat").stdin(bytes.clone()).succeed().await.unwrap();
        assert_eq!(out.len(), bytes.len());
    }

    #[test]
    fn a_long_text_keeps_both_ends_whole() {
        assert_eq!(shortened("ééé", 6), "ééé");
        assert_eq!(shortened("éééé", 6), "é [...] é");
    }
}
