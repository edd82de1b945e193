//! Whose is it? Who holds a port, whether a process that pm2 does not know is ours, and whether an entry of pm2's runs what is
//! described. What cannot be seen is nobody's: neither ours, to be ended, nor somebody else's, to be blamed.

use crate::catalogue::{Component, Start};
use crate::facets::process::ProcessId;
use crate::seen::machine::{Machine, Process};
use crate::seen::pm2::{self, Row, Table};

/// The programs that hold a container's port for Docker: its proxy, the daemon itself (`--userland-proxy=false`), those of
/// rootless Docker, and the parents of containers in the host's network, under their names of ten years.
const DOCKER: &[&str] = &[
    "docker-proxy",
    "dockerd",
    "docker-containerd",
    "docker-containerd-shim",
    "containerd",
    "containerd-shim",
    "containerd-shim-runc-v1",
    "containerd-shim-runc-v2",
    "rootlesskit",
    "rootlessport",
    "slirp4netns",
];

/// A process of ours that listens on a component's port though pm2 does not know it. Ours means: it belongs to the login, its
/// command line has the component's signature, it descends from no row of pm2's table, and no other keeper of processes looks
/// after it ([`KEEPERS`], another pm2, a person's session). A script of somebody's own that starts it again and again is no
/// such keeper: what it starts is past pm2.
pub(in crate::facets) fn lost(component: &Component, port: u16, machine: &Machine, table: &Table) -> Option<ProcessId> {
    let (pid, process, signature) = unheld(component, port, machine, table)?;
    keeper(pid, machine, table).is_none().then(|| ProcessId {
        pid,
        started_ticks: process.started_ticks,
        signature: signature.to_owned(),
    })
}

/// A component that runs and listens under somebody else than this login's pm2, in words: another `PM2_HOME`, a supervisor, a
/// person's `screen`. It works, and is not ours to end.
pub(in crate::facets) fn elsewhere(
    component: &Component,
    port: u16,
    machine: &Machine,
    table: &Table,
) -> Option<String> {
    let (pid, _, _) = unheld(component, port, machine, table)?;
    let keeper = keeper(pid, machine, table)?;
    let who = if pm2::is_daemon(keeper) {
        format!(
            "another pm2 than this login's ({}): set the same PM2_HOME for shells that are not interactive",
            program(keeper, 80)
        )
    } else {
        format!("{} and not under pm2", program(keeper, 60))
    };
    Some(format!("a {} (pid {pid}) listens on {port}; it runs under {who}", component.name))
}

fn unheld<'m>(
    component: &Component,
    port: u16,
    machine: &'m Machine,
    table: &Table,
) -> Option<(u32, &'m Process, &'static str)> {
    let signature = component.signature?;
    machine.listeners.get(&port)?.iter().find_map(|pid| {
        let process = machine.processes.get(pid)?;
        let ours = process.uid == machine.uid && process.command.contains(signature);
        (ours && !table.holds(machine, *pid) && process.started_ticks > 0).then_some((*pid, process, signature))
    })
}

/// Programs that look after processes or hold them for a person: supervisors, terminal multiplexers, a login over SSH.
const KEEPERS: &[&str] = &[
    "supervisord",
    "runsv",
    "s6-supervise",
    "supervise",
    "monit",
    "circusd",
    "forever",
    "nodemon",
    "screen",
    "SCREEN",
    "tmux",
    "tmux:",
    "sshd",
    "sshd:",
    "sshd-session",
    "sshd-session:",
    "login",
];

/// Whether a process is one of [`KEEPERS`], by itself or run by an interpreter.
fn is_keeper(process: &Process) -> bool {
    let base = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    pm2::is_daemon(process) || process.command.split(' ').take(2).any(|word| KEEPERS.contains(&base(word).as_str()))
}

/// Who looks after a process, if it is not pm2's own daemon and not init.
fn keeper<'m>(pid: u32, machine: &'m Machine, table: &Table) -> Option<&'m Process> {
    let mut at = machine.processes.get(&pid)?.parent;
    // Bounded: what the host says of parents may run in a circle.
    for _ in 0..64 {
        if at <= 1 || Some(at) == table.god(machine) {
            return None;
        }
        let process = machine.processes.get(&at)?;
        let name = name_of(process);
        // What takes over orphans: a login's systemd, the init of a container.
        let init = name == "init" || name == "systemd" && process.command.contains("--user");
        if init {
            return None;
        }
        if is_keeper(process) {
            return Some(process);
        }
        at = process.parent;
    }
    None
}

/// Whether an entry of pm2 runs another program than the component's: then its name alone does not make it ours. Only what
/// pm2 says of the program counts, and only for components whose program is known.
pub(super) fn runs_another<'r>(component: &Component, rows: &[&'r Row]) -> Option<&'r str> {
    let (signature, Start::Server { .. }) = (component.signature?, &component.start) else { return None };
    rows.iter().filter_map(|row| row.script.as_deref()).find(|script| !script.is_empty() && !script.contains(signature))
}

/// Whether somebody else's process listens on a port. Without a known owner (no sudo, another user's process) the port's
/// answer has to do.
pub(super) fn taken(component: &Component, rows: &[&Row], port: u16, machine: &Machine) -> bool {
    machine.listeners.get(&port).is_some_and(|pids| {
        let seen: Vec<u32> = pids.iter().copied().filter(|pid| machine.processes.contains_key(pid)).collect();
        let own = |row: &&Row, pid: u32| {
            row.pid.is_some_and(|own| {
                machine.descends(pid, own)
                    // In cluster mode the daemon listens for the processes that it runs.
                    || row.cluster && machine.processes.get(&own).is_some_and(|process| process.parent == pid)
            })
        };
        let ours = seen.iter().any(|pid| rows.iter().any(|row| own(row, *pid)))
            || component.in_docker && seen.iter().any(|pid| is_dockers(*pid, machine));
        !ours && !seen.is_empty()
    })
}

/// Whether a port is held by somebody whom nobody can see though all owners can be seen: another network namespace's, or the
/// kernel's; not ours, and not Docker's, if it is asked for a component that may be a container.
pub(super) fn unseen(component: &Component, port: u16, machine: &Machine) -> bool {
    !component.in_docker && machine.unseen_owners.is_none() && machine.listeners.get(&port).is_some_and(Vec::is_empty)
}

/// Other ports than the described ones on which a component's processes listen: it is alive, and its port is another one.
pub(super) fn other_ports(component: &Component, rows: &[&Row], machine: &Machine) -> Vec<u16> {
    let own = |pid: &u32| rows.iter().filter_map(|row| row.pid).any(|own| machine.descends(*pid, own));
    machine
        .listeners
        .iter()
        .filter(|(port, pids)| !component.ports.contains(*port) && pids.iter().any(own))
        .map(|(port, _)| *port)
        .take(4)
        .collect()
}

/// Who listens on a port, in words.
pub(super) fn owner(port: u16, machine: &Machine) -> String {
    let seen = machine.listeners.get(&port).and_then(|pids| pids.first()).and_then(|pid| {
        machine
            .processes
            .get(pid)
            .map(|process| format!("{} (pid {pid}, user id {})", program(process, 60), process.uid))
    });
    seen.unwrap_or_else(|| match &machine.unseen_owners {
        Some(why) => format!("a process whose owner cannot be seen (`{why}`)"),
        None => "a process that cannot be seen".to_owned(),
    })
}

/// Whether Docker holds a port for a container, or a container in the host's network has it.
fn is_dockers(pid: u32, machine: &Machine) -> bool {
    let mut line = machine.lineage(pid).into_iter();
    let dockers = |process: &Process| {
        let name = name_of(process);
        // Until 2016 the daemon was `docker daemon` or `docker -d`.
        let old = name == "docker" && process.command.split(' ').skip(1).any(|word| word == "daemon" || word == "-d");
        old || DOCKER.contains(&name)
    };
    line.any(dockers)
}

/// A program's name, without its folder.
fn name_of(process: &Process) -> &str {
    let program = process.command.split(' ').next().unwrap_or_default();
    program.rsplit('/').next().unwrap_or(program)
}

fn program(process: &Process, most: usize) -> String {
    let words = if pm2::is_daemon(process) {
        process.command.as_str()
    } else {
        process.command.split(' ').next().unwrap_or_default()
    };
    words.chars().take(most).collect()
}
