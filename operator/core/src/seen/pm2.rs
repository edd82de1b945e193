//! pm2's process table, from `pm2 jlist`.
//!
//! The JSON holds each process's whole environment, the API key with it: only the few fields below are ever read out, and
//! the text itself goes nowhere.

use super::machine::{Machine, Process};
use super::script::{self, script};
use super::{Answer, Ask, Reason, Unknown};
use crate::sanitize;
use serde::Deserialize;
use std::collections::BTreeSet;

/// The section's name.
pub const NAME: &str = "pm2";

/// Asks pm2 only if its daemon is alive: the first call of any pm2 command starts the daemon, and a look changes nothing.
/// Alive means that somebody listens on its socket; the socket's file outlives the daemon, and pm2 1.x writes no pid file.
/// `ss` tells who that is, which tells this daemon from one of another `PM2_HOME`; where it cannot, that is not known.
const SCRIPT: &str = script!(
    r#"
command -v pm2 >/dev/null || { echo missing; end; }
socket=${PM2_HOME:-$HOME/.pm2}/rpc.sock
try grep -qF -- " $socket" /proc/net/unix
case $code in 0) ;; 1) echo none; end ;; *) fail grep ;; esac
if try ss -xlp; then printf '%s\n' "$out" | grep -F -- " $socket " | head -n 1 | sed 's/^/daemon /'; fi
run jlist pm2 jlist
end
"#
);

/// The section of the probe.
pub fn ask() -> Ask {
    Ask { name: NAME, script: SCRIPT, args: Vec::new(), seconds: 10, max_bytes: 4 << 20 }
}

/// What pm2 says of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    #[default]
    Other,
}

/// One row of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Whether it is one of an app's processes in pm2's cluster mode: pm2's daemon itself then holds the app's ports.
    pub cluster: bool,
    /// The program that it runs, if pm2 says it.
    pub script: Option<String>,
}

/// pm2's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Whether pm2's daemon runs at all; without it, there are no rows.
    pub daemon: bool,
    /// The daemon's process id, if it could be seen.
    pub pid: Option<u32>,
    /// The rows, in pm2's order.
    pub rows: Vec<Row>,
}

impl Table {
    /// The rows of one name.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.name == name)
    }

    /// The process id of this table's daemon: who listens on its socket, else the parent of what it runs, else the only daemon
    /// of the login's.
    pub fn god(&self, machine: &Machine) -> Option<u32> {
        if !self.daemon {
            return None;
        }
        let parents = self.rows.iter().filter_map(|row| Some(machine.processes.get(&row.pid?)?.parent));
        let known = self.pid.into_iter().chain(parents).find(|pid| machine.processes.get(pid).is_some_and(is_daemon));
        let mut own = machine.processes.iter().filter(|(_, process)| process.uid == machine.uid && is_daemon(process));
        known.or_else(|| match (own.next(), own.next()) {
            (Some((only, _)), None) => Some(*only),
            _ => None,
        })
    }

    /// Whether a process is a row's, or descends from one.
    pub fn holds(&self, machine: &Machine, process: u32) -> bool {
        self.rows.iter().filter_map(|row| row.pid).any(|row| machine.descends(process, row))
    }
}

/// Whether a process is a daemon of pm2, by the title that it gives itself: `PM2 v1.1.3: God Daemon`, with its `PM2_HOME`
/// behind it in later versions.
pub fn is_daemon(process: &Process) -> bool {
    process.command.contains("God Daemon")
}

/// Believes a table only if what must be there is: pm2 itself among the processes, and at least one of those that it says
/// are online for longer than a moment.
pub(super) fn proven(table: Table, machine: &Machine) -> Result<Table, Unknown> {
    let blind = |message: &str| Err(Unknown { reason: Reason::Garbage, message: format!("pm2's table: {message}") });
    if table.daemon && !machine.processes.values().any(|process| process.command.to_lowercase().contains("pm2")) {
        return blind("pm2 answers, and the list of processes lacks its daemon");
    }
    // The list of processes is older than the table by a moment.
    let since = machine.clock.saturating_sub(10).saturating_mul(1000);
    let mut claimed = table
        .rows
        .iter()
        .filter(|row| row.state == State::Online && row.started_ms < since)
        .filter_map(|row| row.pid)
        .peekable();
    if claimed.peek().is_some() && !claimed.any(|pid| machine.processes.contains_key(&pid)) {
        return blind("none of the processes that pm2 says are online is in the list of processes");
    }
    Ok(table)
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
    #[serde(default)]
    exec_mode: serde_json::Value,
    #[serde(default)]
    pm_exec_path: serde_json::Value,
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
/// [`Unknown`] when the section was not completed, pm2 is not installed, or its table cannot be read.
pub fn read(answer: Option<&Answer>) -> Result<Table, Unknown> {
    let text = script::whole(answer, "pm2's table")?;
    let said: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("jlist ")).collect();
    let word = |word: &str| text.lines().any(|line| line == word);
    if word("missing") {
        return Err(Unknown {
            reason: Reason::NotInstalled,
            message:
                "pm2 is not on this login's PATH: correct the PATH of shells that are not interactive (nvm's is not \
                      set there), link pm2 and node into /usr/local/bin, or install it"
                    .to_owned(),
        });
    }
    if word("none") && said.is_empty() {
        return Ok(Table::default());
    }
    let pid = text.lines().find_map(|line| daemon(line.strip_prefix("daemon ")?));
    // Lines of pm2's own chatter can come before and after the table, and begin with a bracket too.
    let table = said.iter().rev().filter(|line| line.starts_with('[')).find_map(|line| serde_json::from_str(line).ok());
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
                cluster: row.pm2_env.exec_mode.as_str() == Some("cluster_mode"),
                script: row.pm2_env.pm_exec_path.as_str().map(|path| sanitize(path.as_bytes(), 255)),
            })
        })
        .collect::<Option<_>>()
        .ok_or_else(garbage)?;
    Ok(Table { daemon: true, pid, rows })
}

/// Who listens, of a line of `ss -xlp`: `users:(("PM2 v1.1.3: God",pid=900,fd=12))`, or `("PM2",900,12)` of an old `ss`.
fn daemon(line: &str) -> Option<u32> {
    let rest = line.split_once("users:((")?.1.rsplit_once("\",")?.1;
    let pid = rest.strip_prefix("pid=").unwrap_or(rest);
    pid.split(',').next()?.parse().ok()
}

fn garbage() -> Unknown {
    Unknown { reason: Reason::Garbage, message: "pm2's table: the answer is not what `pm2 jlist` prints".to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::script::stand_in::Stage;
    use proptest::prelude::*;
    use std::os::unix::net::UnixListener;

    fn said(text: &str) -> Answer {
        Answer::Said { bytes: format!("{text}\nend\n").into_bytes(), exit: 0 }
    }

    #[test]
    fn a_table_is_read_past_the_chatter() {
        let text = "daemon u_str LISTEN 0 511 /home/a/.pm2/rpc.sock 1 * 0 users:((\"PM2 v1.1.3: God\",pid=70,fd=9))\n\
            jlist [PM2] Spawning PM2 daemon\njlist [PM2][INFO] hello\njlist [{\"pid\":77,\"name\":\"binder-web-start\",\
            \"pm2_env\":{\"status\":\"online\",\"restart_time\":2,\"pm_uptime\":1700000000123,\"BINDER_API_KEY\":\"x\",\
            \"exec_mode\":\"fork_mode\",\"pm_exec_path\":\"/opt/binder-web/server/cli.js\"},\"pm_id\":0}]\n";
        let table = read(Some(&said(text))).unwrap();
        assert_eq!((table.daemon, table.pid), (true, Some(70)));
        assert_eq!(
            table.rows,
            [Row {
                name: "binder-web-start".to_owned(),
                id: 0,
                pid: Some(77),
                state: State::Online,
                restarts: 2,
                started_ms: 1_700_000_000_123,
                cluster: false,
                script: Some("/opt/binder-web/server/cli.js".to_owned()),
            }]
        );
    }

    #[test]
    fn no_daemon_is_an_empty_table_and_no_pm2_is_unknown() {
        assert_eq!(read(Some(&said("none\n"))).unwrap(), Table::default());
        assert_eq!(read(Some(&said("missing\n"))).unwrap_err().reason, Reason::NotInstalled);
        assert_eq!(read(Some(&said("jlist nonsense"))).unwrap_err().reason, Reason::Garbage);
        assert_eq!(read(Some(&said(""))).unwrap_err().reason, Reason::Garbage);
        let cut = Answer::Said { bytes: b"none\n".to_vec(), exit: 0 };
        assert_eq!(read(Some(&cut)).unwrap_err().reason, Reason::ProbeFailed);
    }

    #[test]
    fn a_row_with_odd_numbers_hides_neither_itself_nor_the_others() {
        let text = "jlist [{\"name\":\"web\",\"pid\":null,\"pm_id\":null,\"pm2_env\":{\"status\":\"online\",\"restart_time\":null,\
            \"pm_uptime\":null}},{\"name\":7},{\"name\":\"db\",\"pm2_env\":{\"status\":\"stopped\",\"restart_time\":-1}}]\njlist [PM2][WARN] bye\n";
        let table = read(Some(&said(text))).unwrap();
        let rows: Vec<(&str, State)> = table.rows.iter().map(|row| (row.name.as_str(), row.state)).collect();
        assert_eq!(rows, [("web", State::Online), ("7", State::Other), ("db", State::Stopped)]);
        // A row without any name could be any process: then the table is not known.
        assert!(read(Some(&said("jlist [{\"pid\":1}]"))).is_err());
    }

    #[test]
    fn names_are_cleaned() {
        let text = "jlist [{\"name\":\"a\\u001b[31m\\nb\",\"pm2_env\":{\"status\":\"online\"},\"pid\":-3}]";
        let table = read(Some(&said(text))).unwrap();
        assert_eq!(table.rows[0].name, "a[31mb");
        assert_eq!(table.rows[0].pid, None);
    }

    /// A home in which somebody listens on pm2's socket, and a `ss` that says who.
    fn alive() -> (Stage, UnixListener) {
        let stage = Stage::new();
        std::fs::create_dir_all(stage.home().join(".pm2")).unwrap();
        let socket = UnixListener::bind(stage.home().join(".pm2/rpc.sock")).unwrap();
        let says = format!(
            "echo 'u_str LISTEN 0 511 {}/.pm2/rpc.sock 1 * 0 users:((\"PM2 v1.1.3: God\",pid=70,fd=9))'",
            stage.home().display()
        );
        (stage.tool("ss", &says), socket)
    }

    #[test]
    fn pm2_is_asked_only_while_its_daemon_lives() {
        let stage = Stage::new().tool("pm2", "echo '[]'");
        assert_eq!(read(Some(&stage.run(&ask()))).unwrap(), Table::default());
        let (stage, _socket) = alive();
        let stage = stage.tool("pm2", "echo '>>>> In-memory PM2 is out-of-date'; printf '[{\"name\":\"web\"}]'");
        let table = read(Some(&stage.run(&ask()))).unwrap();
        assert_eq!((table.daemon, table.pid, table.rows.len()), (true, Some(70), 1));
        // Whoever has no `ss` has no daemon's pid, and his table all the same.
        let stage = stage.tool("ss", "exit 255");
        assert_eq!(read(Some(&stage.run(&ask()))).unwrap().pid, None);
    }

    #[test]
    fn a_pm2_that_fails_is_no_empty_table_and_is_quoted() {
        for (pm2, reason, words) in [
            (
                "echo \"/usr/bin/env: 'node': No such file or directory\" >&2; exit 127",
                Reason::NotInstalled,
                "'node': No such file",
            ),
            ("exit 1", Reason::ProbeFailed, "pm2 failed with exit code 1"),
            ("exit 0", Reason::Garbage, "pm2 jlist"),
            ("printf '[{\"name\":\"web\",'", Reason::Garbage, "pm2 jlist"),
        ] {
            let (stage, _socket) = alive();
            let blind = read(Some(&stage.tool("pm2", pm2).run(&ask()))).unwrap_err();
            assert_eq!(blind.reason, reason, "{}", blind.message);
            assert!(blind.message.contains(words), "{}", blind.message);
        }
        let blind = read(Some(&Stage::new().without("pm2").run(&ask()))).unwrap_err();
        assert!(blind.message.contains("install it"), "{}", blind.message);
    }

    #[test]
    fn a_table_without_its_daemon_or_with_none_of_its_processes_is_not_believed() {
        let process = |command: &str| Process { parent: 1, uid: 1000, started_ticks: 5, command: command.to_owned() };
        let row = |pid| Row { name: "web".to_owned(), pid: Some(pid), state: State::Online, ..Row::default() };
        let mut machine = Machine { uid: 1000, clock: 1_700_000_000, ..Machine::default() };
        machine.processes.insert(40, process("node web"));
        let table =
            |pids: &[u32]| Table { daemon: true, rows: pids.iter().map(|pid| row(*pid)).collect(), ..Table::default() };
        assert!(proven(table(&[40]), &machine).is_err());
        machine.processes.insert(9, process("PM2 v1.1.3: God Daemon"));
        assert!(proven(table(&[40]), &machine).is_ok() && proven(table(&[40, 41]), &machine).is_ok());
        assert!(proven(table(&[41, 42]), &machine).is_err());
        assert!(proven(table(&[]), &machine).is_ok());
        let fresh = Row { started_ms: 1_700_000_000_000, ..row(41) };
        assert!(proven(Table { rows: vec![fresh], ..table(&[]) }, &machine).is_ok());
    }

    proptest! {
        #[test]
        fn any_output_is_survived(text in ".{0,400}") {
            let _ = read(Some(&said(&format!("jlist [{text}"))));
        }
    }
}
