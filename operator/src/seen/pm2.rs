//! pm2's process table, from `pm2 jlist`.
//!
//! The JSON holds each process's whole environment, the API key with it: only the few fields below are ever read out, and
//! the text itself goes nowhere.

use super::machine::Machine;
use super::{Answer, Ask, Blind, Reason, text};
use serde::Deserialize;
use std::collections::BTreeSet;

/// The section's name.
pub const NAME: &str = "pm2";

/// Asks pm2 only if its daemon is alive: the first call of any pm2 command starts the daemon, and a look changes nothing.
/// Alive means that somebody listens on its socket; the socket's file outlives the daemon, and pm2 1.x writes no pid file.
const SCRIPT: &str = r#"
set -u
command -v pm2 >/dev/null || exit 127
grep -qF -- " ${PM2_HOME:-$HOME/.pm2}/rpc.sock" /proc/net/unix || { echo none; exit 0; }
echo table
exec pm2 jlist
"#;

/// The section of the probe.
pub fn ask() -> Ask {
    Ask { name: NAME, script: SCRIPT, args: Vec::new(), seconds: 10, max_bytes: 4 << 20 }
}

/// What pm2 says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Online,
    /// It is being started, or waits to be started again.
    Launching,
    /// It is being stopped.
    Stopping,
    /// It was stopped and stays so.
    Stopped,
    /// pm2 has given it up after too many restarts.
    Errored,
    /// A word that pm2 does not use.
    Other,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// pm2's own number for it.
    pub id: u32,
    /// Its process id, if it has one.
    pub pid: Option<u32>,
    /// Its state.
    pub state: State,
    /// How often pm2 has restarted it.
    pub restarts: u64,
    /// When it was last started, milliseconds since 1970 by the host's clock.
    pub started_ms: i64,
}

/// pm2's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Whether pm2's daemon runs at all; without it, there are no rows.
    pub daemon: bool,
    /// The rows, in pm2's order.
    pub rows: Vec<Row>,
}

impl Table {
    /// The rows of one name.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.name == name)
    }

    /// Whether a process is a row's, or descends from one.
    pub fn holds(&self, machine: &Machine, process: u32) -> bool {
        self.rows.iter().filter_map(|row| row.pid).any(|row| machine.descends(process, row))
    }
}

/// The mark of a process that listens and that pm2 does not hold: one that is just being ended is such a one too, for a
/// moment.
pub fn unheld(process: u32, started_ticks: u64) -> String {
    format!("unheld by pm2: {process} {started_ticks}")
}

pub(super) fn marks(machine: &Machine, table: &Table) -> BTreeSet<String> {
    let listening = machine.listeners.values().flatten();
    let unheld = listening.filter(|process| !table.holds(machine, **process)).filter_map(|process| {
        let listener = machine.processes.get(process)?;
        (listener.uid == machine.uid).then(|| unheld(*process, listener.started_ticks))
    });
    unheld.collect()
}

/// A row as pm2 prints it. Only what a row cannot be told apart without must be there: pm2 1.x writes `null` for a number
/// that it has lost count of, and one odd row must not hide the others.
#[derive(Deserialize)]
struct RawRow {
    name: serde_json::Value,
    #[serde(default)]
    pm_id: serde_json::Value,
    #[serde(default)]
    pid: serde_json::Value,
    #[serde(default)]
    pm2_env: RawEnv,
}

#[derive(Default, Deserialize)]
struct RawEnv {
    #[serde(default)]
    status: serde_json::Value,
    #[serde(default)]
    restart_time: serde_json::Value,
    #[serde(default)]
    pm_uptime: serde_json::Value,
}

/// pm2 takes a number for a name, too.
fn name(value: &serde_json::Value) -> Option<String> {
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some(text.chars().filter(|c| !c.is_control()).take(64).collect())
}

/// Reads the section.
///
/// # Errors
/// [`Blind`] when the section was not completed, pm2 is not installed, or its table cannot be read.
pub fn read(answer: Option<&Answer>) -> Result<Table, Blind> {
    if let Some(Answer::Said { exit: super::EXIT_MISSING, .. }) = answer {
        return Err(Blind {
            reason: Reason::NotInstalled,
            message: "pm2 is not on this login's PATH: install it (npm install -g pm2) or correct the PATH".to_owned(),
        });
    }
    let text = text(answer, "pm2's table")?;
    let mut lines = text.lines();
    match lines.next() {
        Some("none") => return Ok(Table { daemon: false, rows: Vec::new() }),
        Some("table") => {}
        _ => return Err(garbage()),
    }
    // Lines of pm2's own chatter can come before and after the table, and begin with a bracket too.
    let table = lines.rev().filter(|line| line.starts_with('[')).find_map(|line| serde_json::from_str(line).ok());
    let raw: Vec<RawRow> = table.ok_or_else(garbage)?;
    let rows = raw
        .into_iter()
        .map(|row| {
            Some(Row {
                name: name(&row.name)?,
                id: row.pm_id.as_u64().and_then(|id| u32::try_from(id).ok()).unwrap_or(u32::MAX),
                pid: row.pid.as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
                state: match row.pm2_env.status.as_str() {
                    Some("online") => State::Online,
                    Some("launching" | "waiting restart" | "one-launch-status") => State::Launching,
                    Some("stopping") => State::Stopping,
                    Some("stopped") => State::Stopped,
                    Some("errored") => State::Errored,
                    _ => State::Other,
                },
                restarts: row.pm2_env.restart_time.as_u64().unwrap_or(0),
                started_ms: row.pm2_env.pm_uptime.as_f64().map_or(0, |ms| ms as i64),
            })
        })
        .collect::<Option<_>>()
        .ok_or_else(garbage)?;
    Ok(Table { daemon: true, rows })
}

fn garbage() -> Blind {
    Blind { reason: Reason::Garbage, message: "pm2's table: the answer is not what `pm2 jlist` prints".to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(text: &str) -> Answer {
        Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 }
    }

    #[test]
    fn a_table_is_read_past_the_chatter() {
        let text = "table\n[PM2] Spawning PM2 daemon\n[PM2][INFO] hello\n[{\"pid\":77,\"name\":\"binder-web-start\",\
            \"pm2_env\":{\"status\":\"online\",\"restart_time\":2,\"pm_uptime\":1700000000123,\"BINDER_API_KEY\":\"x\"},\"pm_id\":0}]\n";
        let table = read(Some(&said(text))).unwrap();
        assert!(table.daemon);
        assert_eq!(
            table.rows,
            [Row {
                name: "binder-web-start".to_owned(),
                id: 0,
                pid: Some(77),
                state: State::Online,
                restarts: 2,
                started_ms: 1_700_000_000_123
            }]
        );
    }

    #[test]
    fn no_daemon_is_an_empty_table_and_no_pm2_is_unknown() {
        assert_eq!(read(Some(&said("none\n"))).unwrap(), Table::default());
        let missing = Answer::Said { bytes: Vec::new(), exit: 127 };
        assert_eq!(read(Some(&missing)).unwrap_err().reason, Reason::NotInstalled);
        assert_eq!(read(Some(&said("table\nnonsense"))).unwrap_err().reason, Reason::Garbage);
    }

    #[test]
    fn a_row_with_odd_numbers_hides_neither_itself_nor_the_others() {
        let text = "table\n[{\"name\":\"web\",\"pid\":null,\"pm_id\":null,\"pm2_env\":{\"status\":\"online\",\"restart_time\":null,\
            \"pm_uptime\":null}},{\"name\":7},{\"name\":\"db\",\"pm2_env\":{\"status\":\"stopped\",\"restart_time\":-1}}]\n[PM2][WARN] bye\n";
        let table = read(Some(&said(text))).unwrap();
        let rows: Vec<(&str, State)> = table.rows.iter().map(|row| (row.name.as_str(), row.state)).collect();
        assert_eq!(rows, [("web", State::Online), ("7", State::Other), ("db", State::Stopped)]);
        // A row without any name could be any process: then the table is not known.
        assert!(read(Some(&said("table\n[{\"pid\":1}]"))).is_err());
    }

    #[test]
    fn names_are_cleaned() {
        let text = "table\n[{\"name\":\"a\\u001b[31m\\nb\",\"pm2_env\":{\"status\":\"online\"},\"pid\":-3}]";
        let table = read(Some(&said(text))).unwrap();
        assert_eq!(table.rows[0].name, "a[31mb");
        assert_eq!(table.rows[0].pid, None);
    }

    proptest! {
        #[test]
        fn any_output_is_survived(text in ".{0,400}") {
            let _ = read(Some(&said(&format!("table\n[{text}"))));
        }
    }
}
