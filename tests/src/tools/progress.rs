//! Saying what takes long, while it does.
//!
//! The lab's parts report [`Event`]s; whoever started the lab decides what becomes of them (a line that is redrawn on a
//! terminal, plain lines in a log, nothing in a test). Knows no terminal.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Something worth telling the person who waits. Its text form is a line without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A long piece of work begins.
    Started {
        /// What is done, such as `building the control plane`. The same text marks the later events of this work.
        what: &'a str,
        /// How long it usually takes; none when nobody knows.
        usually: Option<Duration>,
    },
    /// It goes on. Comes about once a second.
    Running {
        /// What is done.
        what: &'a str,
        /// How long it usually takes.
        usually: Option<Duration>,
        /// How long it has taken so far.
        elapsed: Duration,
    },
    /// It ended well. What fails is an error of the call, not an event.
    Finished {
        /// What was done.
        what: &'a str,
        /// How long it took.
        elapsed: Duration,
    },
    /// Something to know that is no work, such as what is used in place of a part that is missing.
    Note(&'a str),
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = |usually: &Option<Duration>| match usually {
            Some(time) => format!(" (about {} the first time)", roughly(*time)),
            None => String::new(),
        };
        match self {
            Self::Started { what, usually } => write!(f, "{what}{}", usual(usually)),
            Self::Running { what, usually, elapsed } => write!(f, "{what}{}: {}", usual(usually), exactly(*elapsed)),
            Self::Finished { what, elapsed } => write!(f, "{what}: done in {}", exactly(*elapsed)),
            Self::Note(text) => f.write_str(text),
        }
    }
}

/// `9 minutes`, `40 seconds`: for a figure that nobody measured on this computer.
fn roughly(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..90 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", (seconds + 30) / 60),
    }
}

/// `3m20s`, `1.4s`.
fn exactly(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1}s", time.as_secs_f64()),
        seconds @ 10..60 => format!("{seconds}s"),
        seconds => format!("{}m{:02}s", seconds / 60, seconds % 60),
    }
}

/// Takes events. Calls come from several tasks at once and must not block for long.
pub trait Progress: Send + Sync {
    /// Takes one event.
    fn report(&self, event: Event<'_>);
}

/// Drops every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _event: Event<'_>) {}
}

/// Hands on whole lines, for a pipe or a log: of [`Event::Running`] only one in `every`.
pub struct Lines<F> {
    every: Duration,
    write: F,
    last: Mutex<HashMap<String, Duration>>,
}

impl<F: Fn(&str) + Send + Sync> Lines<F> {
    /// `write` gets each line without its end.
    pub fn new(every: Duration, write: F) -> Self {
        Self { every, write, last: Mutex::default() }
    }

    /// Whether the news that `what` goes on is due again. A panic in `write` elsewhere does not end the reports.
    fn is_due(&self, what: &str, elapsed: Duration) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let since = last.get(what).copied().unwrap_or_default();
        let due = elapsed.saturating_sub(since) >= self.every;
        if due {
            last.insert(what.to_owned(), elapsed);
        }
        due
    }

    fn forget(&self, what: &str) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }
}

impl<F: Fn(&str) + Send + Sync> Progress for Lines<F> {
    fn report(&self, event: Event<'_>) {
        match &event {
            Event::Running { what, elapsed, .. } if !self.is_due(what, *elapsed) => return,
            Event::Started { what, .. } | Event::Finished { what, .. } => self.forget(what),
            Event::Running { .. } | Event::Note(_) => {}
        }
        (self.write)(&event.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHAT: &str = "building the control plane";

    fn running(seconds: u64) -> Event<'static> {
        let usually = Some(Duration::from_secs(520));
        Event::Running { what: WHAT, usually, elapsed: Duration::from_secs(seconds) }
    }

    #[test]
    fn reads_as_a_sentence() {
        assert_eq!(running(200).to_string(), "building the control plane (about 9 minutes the first time): 3m20s");
        let finished = Event::Finished { what: WHAT, elapsed: Duration::from_millis(1_440) };
        assert_eq!(finished.to_string(), "building the control plane: done in 1.4s");
    }

    #[test]
    fn lines_are_few() {
        let lines = Mutex::new(Vec::new());
        {
            let progress = Lines::new(Duration::from_secs(30), |line: &str| {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
            });
            progress.report(Event::Started { what: WHAT, usually: None });
            for second in 0..70 {
                progress.report(running(second));
            }
            progress.report(Event::Finished { what: WHAT, elapsed: Duration::from_secs(70) });
        }
        let lines = lines.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ends: Vec<_> = lines.iter().filter_map(|line| line.rsplit(": ").next()).collect();
        assert_eq!(ends, [WHAT, "30s", "1m00s", "done in 1m10s"]);
    }
}
