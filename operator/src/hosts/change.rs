//! Changing a machine: one command, which costs a [`Permit`].
//!
//! Knows how a command is handed over and how it ended. Does not judge whether it did what it should: exit codes lie,
//! and the caller looks again.

use std::ops::ControlFlow;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::channel::{Ended, NotStarted, OnDrop, Reader, Stop};
use super::quote::{BadArgument, check_arguments, shell_words};
use super::session::Session;
use super::target::Endpoint;
use binder_core::gate::Permit;
use binder_core::sanitize::sanitize_tail;

/// One command that changes a machine.
///
/// It runs as `sh -c SCRIPT NAME ARG...`, with the tools of administrators on the `PATH` and `LC_ALL=C`, under
/// `timeout`: TERM at the limit, KILL five seconds later, to it and to whatever it left in its process group.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its `$0`, for the machine's process list and our logs.
    pub name: &'static str,
    /// A POSIX shell script. Constant: whatever varies comes as arguments.
    pub script: &'static str,
    /// `$1` and on, each arriving as it is. The machine's other users can read them; a secret goes to `stdin`.
    pub args: Vec<String>,
    /// What the script reads from its standard input, where no other user sees it; with a line feed at its end, so
    /// that `read` succeeds.
    pub stdin: Option<SecretString>,
    /// How long it may run; cut to [`Limits::change`](super::Limits::change).
    pub limit: Duration,
    /// How much of the end of its output is kept, in characters.
    pub max_output: usize,
}

/// A command that was handed over and came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status, unless a signal ended it.
    pub exit: Option<i32>,
    /// The signal that ended it, as `TERM`.
    pub signal: Option<String>,
    /// Whether it was stopped at its limit.
    pub timed_out: bool,
    /// The end of what it printed, both streams together: one printable line, in which what came by `stdin` is
    /// replaced.
    pub output: String,
    /// From the request to the end.
    pub took: Duration,
}

/// Why a command did not come back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The permit is for another machine. Nothing was sent.
    #[error("the permit is for host {permitted}, not {host}")]
    WrongHost {
        /// The host of the permit.
        permitted: String,
        /// The host of the session.
        host: String,
    },
    /// An argument cannot be handed over. Nothing was sent.
    #[error("`{name}`: {why}")]
    BadArgument {
        /// [`Change::name`].
        name: &'static str,
        /// What is wrong with it.
        why: BadArgument,
    },
    /// The machine would not even start it.
    #[error("`{name}` was not started on {at}: {why}")]
    NotStarted {
        /// The machine.
        at: Endpoint,
        /// [`Change::name`].
        name: &'static str,
        /// What it said.
        why: String,
    },
    /// It was handed over, and its end was not seen: it may have run, in whole, in part or not at all. Look again.
    #[error("`{name}` was sent to {at}; its outcome is unknown: {why}")]
    OutcomeUnknown {
        /// The machine.
        at: Endpoint,
        /// [`Change::name`].
        name: &'static str,
        /// What was seen instead.
        why: String,
    },
}

impl ChangeError {
    /// Whether the machine may have been changed all the same.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::WrongHost { .. } | Self::BadArgument { .. } | Self::NotStarted { .. } => false,
            Self::OutcomeUnknown { .. } => true,
        }
    }
}

/// Between TERM and KILL.
const GRACE: Duration = Duration::from_secs(5);
/// For the way there and back, beyond what the command itself may take.
const ON_THE_WAY: Duration = Duration::from_secs(5);

/// Sets the stage for a command, and bounds it. `timeout` takes its place, so that no shell stands in between.
const RUNNER: &str = r#"LC_ALL=C
PATH=$PATH:/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL PATH
exec timeout -k 5 "$@"
"#;

/// What `timeout` ends with when it stopped a command by TERM, and by KILL (or it is seen to be killed itself).
const STOPPED: [i32; 2] = [124, 137];

impl Session {
    /// Changes the machine by one command. The permit is spent, whatever comes of it, and a permit for another host is
    /// refused. When the caller goes away in the middle, the command is not cut off: it goes on to its end or its
    /// limit for as long as the session lives.
    pub async fn change(&self, permit: Permit, change: Change) -> Result<Ran, ChangeError> {
        if permit.done_on() != self.host {
            return Err(ChangeError::WrongHost { permitted: permit.done_on().to_owned(), host: self.host.clone() });
        }
        let name = change.name;
        let limit = change.limit.min(self.limits.change);
        let command = command(&change, limit).map_err(|why| ChangeError::BadArgument { name, why })?;
        let stdin = change.stdin.as_ref().map(input).unwrap_or_default();
        let mut reader = Tail::new(change.max_output, change.stdin);
        let started = Instant::now();
        let deadline = started + limit + GRACE + ON_THE_WAY;
        tracing::info!(host = %self.at, action = permit.action(), command = name, "changing");
        let ended = self.run(command, stdin, deadline, OnDrop::HearOut, &mut reader).await;
        let took = started.elapsed();
        let unknown = |why: String| ChangeError::OutcomeUnknown { at: self.at.clone(), name, why };
        match ended {
            Err(
                why @ (NotStarted::Lost(_) | NotStarted::Silent(_) | NotStarted::NoChannel(_) | NotStarted::Refused),
            ) => Err(ChangeError::NotStarted { at: self.at.clone(), name, why: why.to_string() }),
            Ok(Ended::Finished { exit: None, signal: None }) => {
                Err(unknown("the machine closed the channel without saying how it ended".to_owned()))
            }
            Ok(Ended::Finished { exit, signal }) => Ok(Ran {
                timed_out: took >= limit && exit.is_none_or(|exit| STOPPED.contains(&exit)),
                exit,
                signal,
                output: reader.finish(),
                took,
            }),
            // The reader of a change never has enough, so the machine is done for another reason.
            Ok(Ended::Enough) => Err(unknown("its output was cut off".to_owned())),
            Ok(Ended::TimedOut) => Err(unknown(format!("no end was seen within {} s", took.as_secs()))),
            Ok(Ended::Lost(why)) => Err(unknown(why)),
        }
    }
}

/// The line for the login shell.
fn command(change: &Change, limit: Duration) -> Result<String, BadArgument> {
    check_arguments(&change.args)?;
    let seconds = format!("{}.{:03}", limit.as_secs(), limit.subsec_millis().max(u32::from(limit.is_zero())));
    let words = ["sh", "-c", RUNNER, "binder-change", &seconds, "sh", "-c", change.script, change.name];
    shell_words(words.into_iter().chain(change.args.iter().map(String::as_str)))
}

/// The bytes of a secret as a script reads them.
fn input(secret: &SecretString) -> Vec<u8> {
    let mut bytes = secret.expose_secret().as_bytes().to_vec();
    if bytes.last() != Some(&b'\n') {
        bytes.push(b'\n');
    }
    bytes
}

/// Stands where a secret stood.
const REDACTED: &[u8] = b"[redacted]";
/// Shorter "secrets" are not looked for: their replacement would say more than it hides.
const SHORTEST_SECRET: usize = 4;

/// The end of a command's output.
struct Tail {
    kept: Vec<u8>,
    max_chars: usize,
    /// Whether anything was dropped from the beginning.
    cut: bool,
    secret: Option<SecretString>,
}

impl Tail {
    fn new(max_chars: usize, secret: Option<SecretString>) -> Self {
        Self { kept: Vec::new(), max_chars, cut: false, secret }
    }

    /// The words of the secret that can be looked for: its lines, since a script reads and prints lines.
    fn secrets(&self) -> Vec<&[u8]> {
        let text = self.secret.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
        let mut lines: Vec<&[u8]> =
            text.lines().map(|line| line.trim().as_bytes()).filter(|line| line.len() >= SHORTEST_SECRET).collect();
        // The longest first, in case one is part of another.
        lines.sort_by_key(|line| std::cmp::Reverse(line.len()));
        lines
    }

    /// Bytes that are kept: enough for the characters shown (UTF-8 takes four at most), and for a secret that lies
    /// across the cut.
    fn capacity(&self) -> usize {
        self.max_chars.saturating_mul(4) + self.longest_secret()
    }

    fn longest_secret(&self) -> usize {
        self.secret.as_ref().map_or(0, |secret| secret.expose_secret().len())
    }

    fn take(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        let excess = self.kept.len().saturating_sub(self.capacity());
        if excess > 0 {
            self.kept.drain(..excess);
            self.cut = true;
        }
    }

    fn finish(self) -> String {
        let mut clean = self.kept.clone();
        for secret in self.secrets() {
            clean = replaced(&clean, secret, REDACTED);
        }
        // The rest of a secret that lay across the cut stands at the beginning, and was not recognised.
        if self.cut && self.longest_secret() > 0 {
            clean.drain(..self.longest_secret().min(clean.len()));
        }
        // Once more as text: an escape sequence in the middle of a secret is gone only now.
        let mut line = sanitize_tail(&clean, usize::MAX);
        for secret in self.secrets() {
            line = String::from_utf8_lossy(&replaced(line.as_bytes(), secret, REDACTED)).into_owned();
        }
        sanitize_tail(line.as_bytes(), self.max_chars)
    }
}

fn replaced(bytes: &[u8], needle: &[u8], with: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        if rest.starts_with(needle) {
            out.extend_from_slice(with);
            rest = &rest[needle.len()..];
        } else {
            out.push(rest[0]);
            rest = &rest[1..];
        }
    }
    out
}

impl Reader for Tail {
    fn output(&mut self, bytes: &[u8]) -> ControlFlow<Stop> {
        self.take(bytes);
        ControlFlow::Continue(())
    }

    fn errors(&mut self, bytes: &[u8]) -> ControlFlow<Stop> {
        self.take(bytes);
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tail(max_chars: usize, secret: &str, pieces: &[&str]) -> String {
        let mut tail = Tail::new(max_chars, Some(secret.to_owned().into()));
        for piece in pieces {
            assert!(tail.output(piece.as_bytes()).is_continue());
        }
        tail.finish()
    }

    #[test]
    fn a_secret_that_is_printed_back_is_not_shown() {
        assert_eq!(tail(80, "s3cr3t", &[" - Using API key: s3", "cr3t\nready"]), "- Using API key: [redacted] | ready");
        assert_eq!(tail(80, "s3cr3t\n", &["s3cr3ts3cr3t"]), "[redacted][redacted]");
        assert_eq!(tail(80, "s3cr3t", &["s3\u{1b}[1mcr3t\u{200b}"]), "[redacted]");
    }

    proptest! {
        #[test]
        fn no_cut_shows_the_better_part_of_a_secret(
            before in "[a-m ]{0,120}",
            after in "[a-m ]{0,120}",
            max in 1usize..20,
        ) {
            let secret = "NOPQRSTUVWXYZ0123456789";
            let shown = tail(max, secret, &[&before, secret, &after]);
            for part in secret.as_bytes().windows(4) {
                prop_assert!(!shown.contains(std::str::from_utf8(part).unwrap()), "{shown}");
            }
        }
    }
}
