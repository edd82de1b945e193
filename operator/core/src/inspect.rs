//! What a look saw, as figures: what the runbook's "Inspecting" reads off `pm2 list`, `df` and `ss` by hand. They change with
//! each look, so they go to `/metrics` and never into a status.
//!
//! Pure. Names are those of the description and of the catalogue, never what a host says: their number is bounded by the
//! schema.

use crate::catalogue;
use crate::seen::disks::Use;
use crate::seen::modules::Found;
use crate::seen::pm2::State;
use crate::seen::{Fact, Observation};
use binder_crds::Desired;
use std::collections::BTreeMap;

/// The figures of one look at one host. What was not seen has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Seconds since the machine's boot.
    pub uptime: Option<u64>,
    /// TCP ports with a listener.
    pub listeners: Option<usize>,
    /// Processes in pm2's table, by state; every state has its figure.
    pub pm2: BTreeMap<&'static str, usize>,
    /// Each process that is described, or that a described one starts, by its name in pm2.
    pub processes: BTreeMap<String, Process>,
    /// The installed version of each described module.
    pub modules: BTreeMap<String, String>,
    /// Use of each described file system, in percent.
    pub disks: BTreeMap<String, u8>,
}

/// A process of pm2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// How often it is in pm2's table: once, if all is well.
    pub entries: usize,
    /// pm2's restart count; the highest, where there are several.
    pub restarts: u64,
    /// Seconds since its last start; 0 while it does not run.
    pub uptime: u64,
}

/// The words of pm2's states.
const STATES: [(State, &str); 6] = [
    (State::Online, "online"),
    (State::Launching, "launching"),
    (State::Stopping, "stopping"),
    (State::Stopped, "stopped"),
    (State::Errored, "errored"),
    (State::Other, "other"),
];

/// Works the figures out.
pub fn figures(desired: &Desired, seen: &Observation) -> Figures {
    let machine = seen.machine.seen();
    let mut figures = Figures {
        uptime: machine.map(|machine| machine.uptime),
        listeners: machine.map(|machine| machine.listeners.len()),
        ..Figures::default()
    };
    if let (Some(table), Some(machine)) = (seen.pm2.seen(), machine) {
        for (state, word) in STATES {
            figures.pm2.insert(word, table.rows.iter().filter(|row| row.state == state).count());
        }
        for component in catalogue::described(desired) {
            for name in component.processes() {
                let process = figures.processes.entry(name.to_owned()).or_default();
                for row in table.named(name) {
                    process.entries += 1;
                    process.restarts = process.restarts.max(row.restarts);
                    if row.state == State::Online {
                        let since = machine.clock.saturating_sub(row.started_ms / 1000);
                        process.uptime = process.uptime.max(u64::try_from(since).unwrap_or(0));
                    }
                }
            }
        }
    }
    if let Fact::Seen(modules) = &seen.modules {
        let installed =
            |(name, found): (&String, &Found)| found.there().map(|there| (name.clone(), there.version.0.clone()));
        let described = |name: &str| desired.modules.iter().any(|module| module.name.0 == name);
        figures.modules = modules.iter().filter(|(name, _)| described(name)).filter_map(installed).collect();
    }
    if let Fact::Seen(disks) = &seen.disks {
        let described = |path: &str| desired.disks.iter().any(|disk| disk.path.0 == path);
        figures.disks = disks
            .iter()
            .filter(|(path, _)| described(path))
            .filter_map(|(path, used)| match used {
                Use::Percent(percent) => Some((path.clone(), *percent)),
                Use::Inodes { bytes, .. } => Some((path.clone(), *bytes)),
                Use::Unreadable(_) => None,
            })
            .collect();
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::machine::Machine;
    use crate::seen::pm2::{Row, Table};
    use binder_crds::desired::Server;

    #[test]
    fn only_what_is_described_has_figures_of_its_own() {
        let row = |name: &str, restarts, state| Row {
            name: name.to_owned(),
            id: 0,
            pid: Some(7),
            state,
            restarts,
            started_ms: 1_000_000,
            ..Row::default()
        };
        let rows = vec![
            row("binder-web-start", 3, State::Online),
            row("binder-web-start", 5, State::Errored),
            row("whatever a host calls it", 9, State::Online),
        ];
        let seen = Observation {
            machine: Fact::Seen(Machine { clock: 1060, uptime: 500, ..Machine::default() }),
            pm2: Fact::Seen(Table { daemon: true, rows, ..Table::default() }),
            ..Observation::nothing(jiff::Timestamp::UNIX_EPOCH)
        };
        let desired = Desired { servers: vec![Server::Web], ..Desired::default() };
        let figures = figures(&desired, &seen);
        let web = Process { entries: 2, restarts: 5, uptime: 60 };
        assert_eq!(figures.processes, BTreeMap::from([("binder-web-start".to_owned(), web)]));
        assert_eq!((figures.pm2["online"], figures.pm2["errored"], figures.pm2["stopped"]), (2, 1, 0));
        assert_eq!(figures.uptime, Some(500));
    }

    #[test]
    fn what_was_not_seen_has_no_figures() {
        let nothing = Observation::nothing(jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(figures(&Desired::default(), &nothing), Figures::default());
    }
}
