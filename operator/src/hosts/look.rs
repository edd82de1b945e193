//! Looking at a machine: many sections, one command, nothing changed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::Instant;

use super::channel::{Ended, NotStarted, OnDrop, Reader, Stop};
use super::framing::{Frames, NOISE_ALLOWED, Nonce, Progress};
use super::probe::{BadProbe, COMMAND, Probe, SectionOutput};
use super::room::{Guest, NoRoom};
use super::session::Session;
use super::target::Endpoint;
use binder_core::sanitize::sanitize_tail;

/// What was seen in one look.
#[derive(Debug)]
pub struct Look {
    /// What became of each section of the probe; every one of them is here.
    pub sections: BTreeMap<&'static str, SectionOutput>,
    /// Whether the look came to its end.
    pub end: LookEnd,
    /// The end of what was printed to standard error, for a diagnosis: one printable line.
    pub complaints: String,
    /// From the request to the last frame.
    pub took: Duration,
    /// Its room, for as long as its bytes are there.
    #[allow(dead_code, reason = "dropping it is its use")]
    room: Guest,
}

/// How a look ended. Sections that ended before are whole in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookEnd {
    /// All sections had their turn.
    Complete,
    /// The time for the whole look was up.
    TimedOut {
        /// [`Limits::look`](super::Limits::look).
        after: Duration,
    },
    /// The connection broke.
    Lost {
        /// How.
        why: String,
    },
    /// The machine sent more than any honest look does.
    Flooded,
    /// There was no room for all of it beside the answers of other machines.
    NoRoom,
    /// The machine's shell ended early.
    Stopped {
        /// Its exit status, if it had one.
        exit: Option<i32>,
    },
}

/// Why nothing was seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    /// The probe itself is wrong. Nothing was sent.
    #[error(transparent)]
    BadProbe(#[from] BadProbe),
    /// The machine would not even start.
    #[error("cannot look at {at}: {why}")]
    NotStarted {
        /// The machine.
        at: Endpoint,
        /// What it said.
        why: String,
    },
    /// It took the request and gave no part of an answer.
    #[error("{at} gave no answer to a look within {} s{}", after.as_secs_f32(), with(complaints))]
    NoAnswer {
        /// The machine.
        at: Endpoint,
        /// How long was waited.
        after: Duration,
        /// What it printed to standard error.
        complaints: String,
    },
    /// The connection broke before any part of an answer.
    #[error("the connection to {at} was lost during a look: {why}")]
    Lost {
        /// The machine.
        at: Endpoint,
        /// How.
        why: String,
    },
    /// What came was no answer: the login shell does something else, or floods.
    #[error("{at} does not run commands; its login shell must be a POSIX shell{}", with(complaints))]
    NoShell {
        /// The machine.
        at: Endpoint,
        /// What it printed to standard error.
        complaints: String,
    },
}

fn with(complaints: &str) -> String {
    if complaints.is_empty() { String::new() } else { format!(" (it printed: {complaints})") }
}

impl Session {
    /// Looks, and changes nothing: runs all sections of `probe` in one command, within
    /// [`Limits::look`](super::Limits::look). Whatever of it came before something went wrong is in the answer; only
    /// when nothing did there is an error.
    pub async fn look(&self, probe: &Probe) -> Result<Look, LookError> {
        let nonce = Nonce::random();
        let program = probe.program(&nonce)?;
        let mut reader = LookReader::new(probe, nonce, self.limits.room.guest());
        let started = Instant::now();
        let deadline = started + self.limits.look;
        let at = || self.at.clone();
        let ended = self
            .run(COMMAND.to_owned(), program.into_bytes(), deadline, OnDrop::Kill, &mut reader)
            .await
            .map_err(|why: NotStarted| LookError::NotStarted { at: at(), why: why.to_string() })?;
        let took = started.elapsed();

        let begun = reader.frames.begun();
        let complaints = reader.complaints();
        let end = match ended {
            Ended::Enough if reader.flooded && !begun => return Err(LookError::NoShell { at: at(), complaints }),
            Ended::Enough if reader.flooded => LookEnd::Flooded,
            Ended::Enough if reader.no_room && !begun => {
                return Err(LookError::NotStarted { at: at(), why: NoRoom.to_string() });
            }
            Ended::Enough if reader.no_room => LookEnd::NoRoom,
            Ended::Enough => LookEnd::Complete,
            Ended::TimedOut if !begun => {
                return Err(LookError::NoAnswer { at: at(), after: self.limits.look, complaints });
            }
            Ended::TimedOut => LookEnd::TimedOut { after: self.limits.look },
            Ended::Lost(why) if !begun => return Err(LookError::Lost { at: at(), why }),
            Ended::Lost(why) => LookEnd::Lost { why },
            Ended::Finished { .. } if !begun => return Err(LookError::NoShell { at: at(), complaints }),
            Ended::Finished { exit, .. } => LookEnd::Stopped { exit },
        };
        let outputs = reader.frames.finish(probe.sections().iter().map(|section| section.limit));
        let sections = probe.sections().iter().map(|section| section.name).zip(outputs).collect();
        Ok(Look { sections, end, complaints, took, room: reader.room })
    }
}

/// Standard error is for a diagnosis only: its last bytes are kept.
const COMPLAINTS_KEPT: usize = 4 * 1024;
/// As much of it is shown.
const COMPLAINTS_SHOWN: usize = 200;

struct LookReader {
    frames: Frames,
    /// Bytes that may still come.
    budget: usize,
    flooded: bool,
    /// What came by now, in bytes, and the room for it.
    come: usize,
    room: Guest,
    no_room: bool,
    complaints: Vec<u8>,
}

impl LookReader {
    fn new(probe: &Probe, nonce: Nonce, room: Guest) -> Self {
        let max_bytes = || probe.sections().iter().map(|section| section.max_bytes);
        // What an honest machine can send at most: each section as base64 with a newline every 76 characters and its
        // frames, and noise on either stream.
        let budget = max_bytes().fold(2 * NOISE_ALLOWED, |sum, max| {
            sum.saturating_add(max.saturating_add(1).div_ceil(3).saturating_mul(4).saturating_mul(77) / 76 + 512)
        });
        let frames = Frames::new(nonce, max_bytes());
        Self { frames, budget, flooded: false, come: 0, room, no_room: false, complaints: Vec::new() }
    }

    fn spend(&mut self, bytes: &[u8]) -> ControlFlow<Stop> {
        match self.budget.checked_sub(bytes.len()) {
            Some(left) => {
                self.budget = left;
                self.come += bytes.len();
                if self.room.hold(self.come).is_err() {
                    self.no_room = true;
                    return ControlFlow::Break(Stop::NoRoom);
                }
                ControlFlow::Continue(())
            }
            None => self.flood(),
        }
    }

    fn flood(&mut self) -> ControlFlow<Stop> {
        self.flooded = true;
        ControlFlow::Break(Stop::Flooded)
    }

    fn complaints(&self) -> String {
        sanitize_tail(&self.complaints, COMPLAINTS_SHOWN)
    }
}

impl Reader for LookReader {
    fn output(&mut self, bytes: &[u8]) -> ControlFlow<Stop> {
        self.spend(bytes)?;
        match self.frames.push(bytes) {
            Progress::More => ControlFlow::Continue(()),
            Progress::Done => ControlFlow::Break(Stop::Satisfied),
            Progress::Flooded => self.flood(),
        }
    }

    fn errors(&mut self, bytes: &[u8]) -> ControlFlow<Stop> {
        self.spend(bytes)?;
        self.complaints.extend_from_slice(bytes);
        let excess = self.complaints.len().saturating_sub(COMPLAINTS_KEPT);
        self.complaints.drain(..excess);
        ControlFlow::Continue(())
    }
}
