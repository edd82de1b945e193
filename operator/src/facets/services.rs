//! Facet `services`: pm2 runs what is described, once, and it listens.
//!
//! pm2's table alone does not tell the truth: pm2 1.x loses processes that go on running and listening (`LostByPm2`), and
//! says `online` of servers that have given up. So the table is read together with who listens.

mod climbing;
#[cfg(test)]
mod tests;

use super::step::ProcessId;
use super::{Check, Drift, DriftKind, Facet, Rung, Step};
use crate::catalogue::{self, Cause, Component, KUBECTL_PROXY};
use crate::seen::machine::Machine;
use crate::seen::pm2::{Row, State, Table};
use crate::seen::{Ask, Blind, Observation, crashes, pm2, settings};
use binder_crds::{Desired, conditions};
use std::time::Duration;

/// The facet.
pub struct Services;

/// How long an entry of pm2 may take to go, and a process to end.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// How long before the rest of a look, in seconds, pm2 may have started what only its table shows: the clock is read in whole
/// seconds, and pm2 notes the start before the process is there.
const MEANWHILE: i64 = 3;

/// pm2 forgets a process that it deletes before that has ended, for which it gives it 1.6 s (`kill_timeout`): one that it does
/// not know is lost when it lives on.
const ENDS_WITHIN: Duration = Duration::from_secs(4);

/// A child that is gone for less than this may be on its way: its parent starts it within moments.
const CHILD_MOMENT: Duration = Duration::from_secs(20);

impl Facet for Services {
    fn condition(&self) -> &'static str {
        conditions::SERVICES_RUNNING
    }

    fn in_use(&self, desired: &Desired) -> bool {
        !catalogue::described(desired).is_empty()
    }

    fn asks(&self, desired: &Desired) -> Vec<Ask> {
        let components = catalogue::described(desired);
        let processes = components.iter().flat_map(|component| component.processes().map(str::to_owned)).collect();
        let mut asks = vec![pm2::ask(), crashes::ask(processes)];
        let files: Vec<String> = components
            .into_iter()
            .filter(|component| !component.port_setting.is_empty())
            .map(|component| component.name)
            .collect();
        if !files.is_empty() {
            asks.push(settings::ask(files));
        }
        asks
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Blind> {
        let (machine, table) = (seen.machine.get()?, seen.pm2.get()?);
        let components = components(desired, seen)?;
        let mut check = Check::default();
        for component in &components {
            let found = match look(component, desired, machine, table, seen) {
                drifted @ Found::Drifted(_) => drifted,
                other => climbing::look(component, seen).unwrap_or(other),
            };
            match found {
                Found::Fine => {}
                Found::Settling(why) => check.settling.push((component.name.clone(), why)),
                Found::Drifted(drift) => check.drifts.push(drift),
            }
        }
        let names: Vec<&str> = components.iter().map(|component| component.name.as_str()).collect();
        check.as_described = format!("{} under pm2, once each", names.join(", "));
        Ok(check)
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let Ok(components) = components(desired, seen) else { return Vec::new() };
        let Some(component) = components.iter().find(|component| component.name == drift.subject) else {
            return Vec::new();
        };
        let (Some(machine), Some(table)) = (seen.machine.seen(), seen.pm2.seen()) else { return Vec::new() };
        match drift.kind {
            DriftKind::ProcessMissing => vec![Rung {
                step: Step::StartProcess {
                    component: component.name.clone(),
                    start: component.start.clone(),
                    path: kubectl_folder(component, desired),
                },
                takes_effect: component.settle,
            }],
            DriftKind::LostByPm2 => component
                .ports
                .iter()
                .filter_map(|port| lost(component, *port, machine, table))
                .map(|orphan| Rung {
                    step: Step::EndOrphan { component: component.name.clone(), orphan },
                    takes_effect: GONE_WITHIN,
                })
                .take(1)
                .collect(),
            DriftKind::ProcessStopped
            | DriftKind::ProcessErrored
            | DriftKind::ProcessDoubled
            | DriftKind::ChildrenLeftOver
            | DriftKind::ChildMissing
            | DriftKind::NotListening
            | DriftKind::StartedTooEarly => clear(component),
            // Another start of the same ends the same; only what kube-stream left behind is cured by one.
            DriftKind::RestartsClimbing if climbing::cause(component, seen) != Some(Cause::KubeStream) => Vec::new(),
            DriftKind::RestartsClimbing => clear(component),
            // Somebody else's process is not ours to end.
            _ => Vec::new(),
        }
    }
}

/// Deletes a component's entries; what is then missing is started, with the API key that the Secret holds.
pub(crate) fn clear(component: &Component) -> Vec<Rung> {
    vec![Rung {
        step: Step::DeleteEntries {
            component: component.name.clone(),
            processes: component.processes().map(str::to_owned).collect(),
        },
        takes_effect: GONE_WITHIN,
    }]
}

/// Whether it is known why a component crashes: something else than the component itself.
pub(crate) fn crash_is_explained(component: &Component, seen: &Observation) -> bool {
    climbing::cause(component, seen).is_some()
}

/// Whether a component runs as described.
pub(super) fn in_place(
    component: &Component,
    desired: &Desired,
    machine: &Machine,
    table: &Table,
    seen: &Observation,
) -> bool {
    climbing::look(component, seen).is_none() && matches!(look(component, desired, machine, table, seen), Found::Fine)
}

/// The described components, with the ports that their settings on the host say.
pub(super) fn components(desired: &Desired, seen: &Observation) -> Result<Vec<Component>, Blind> {
    let mut components = catalogue::described(desired);
    for component in components.iter_mut().filter(|component| !component.port_setting.is_empty()) {
        if let Some(port) = seen.settings.get()?.port(&component.name, component.port_setting) {
            component.ports = vec![port];
        }
    }
    Ok(components)
}

/// `deploy-kubernetes` finds `kubectl.sh` through its `PATH`; the described one must be the first that it finds.
fn kubectl_folder(component: &Component, desired: &Desired) -> Option<String> {
    let proxy = desired.kubectl_proxy.as_ref().filter(|_| component.after.iter().any(|name| name == KUBECTL_PROXY))?;
    proxy.kubectl.0.rsplit_once('/').map(|(folder, _)| folder.to_owned()).filter(|folder| !folder.is_empty())
}

enum Found {
    Fine,
    Settling(String),
    Drifted(Drift),
}

fn drifted(component: &Component, kind: DriftKind, short: &str, evidence: String) -> Found {
    Found::Drifted(Drift {
        kind,
        subject: component.name.clone(),
        short: format!("{}: {short}", component.name),
        evidence,
    })
}

fn look(component: &Component, desired: &Desired, machine: &Machine, table: &Table, seen: &Observation) -> Found {
    let name = &component.name;
    let rows: Vec<&Row> = table.named(&component.process).collect();
    // pm2's table is read a moment after the list of processes. What pm2 has started in between is not in that list, and who
    // listened before it was pm2's own.
    let meanwhile = |row: &&Row| {
        let unseen = row.pid.is_some_and(|pid| !machine.processes.contains_key(&pid));
        unseen && row.started_ms / 1000 >= machine.clock - MEANWHILE
    };
    if rows.iter().any(meanwhile) {
        return Found::Settling(format!("pm2 has just started {name}"));
    }
    for port in &component.ports {
        if let Some(orphan) = lost(component, *port, machine, table) {
            if seen.lasting.age(&pm2::unheld(orphan.pid, orphan.started_ticks), seen.at) < ENDS_WITHIN {
                return Found::Settling(format!("pm2 no longer knows the {name} on {port}, which may be ending"));
            }
            let daemons = children_held(component, table);
            return drifted(
                component,
                DriftKind::LostByPm2,
                &format!("lost by pm2, still on {port}"),
                format!(
                    "a {name} that pm2 does not know listens on {port} (pid {}); pm2 holds {} of {}{daemons}{}",
                    orphan.pid,
                    rows.len(),
                    component.process,
                    climbing::after_kube_stream(component, seen)
                ),
            );
        }
    }
    if rows.len() > 1 {
        return drifted(
            component,
            DriftKind::ProcessDoubled,
            "there more than once",
            format!("pm2 holds {} {} times", component.process, rows.len()),
        );
    }
    if let Some(child) = component.children.iter().find(|child| table.named(&child.process).count() > 1) {
        return drifted(
            component,
            DriftKind::ProcessDoubled,
            &format!("{} more than once", child.process),
            format!("pm2 holds {} {} times", child.process, table.named(&child.process).count()),
        );
    }
    let Some(row) = rows.first() else {
        return missing(component, machine, table, seen);
    };
    // What is given up or restarts again and again is never up for long, so somebody else's process on its port shows here.
    let hopeless = row.state == State::Errored || climbing::climb(component, seen).is_some();
    // The login always sees its own: a listener that shows no owner is another user's, if not Docker's.
    let unseen = |port| !component.in_docker && machine.listeners.get(&port).is_some_and(Vec::is_empty);
    if let Some(port) =
        component.ports.iter().find(|port| hopeless && (taken(component, row, **port, machine) || unseen(**port)))
    {
        return drifted(
            component,
            DriftKind::PortTaken,
            &format!("{port} is taken"),
            format!("{} cannot listen, since {} listens on {port}", component.process, owner(*port, machine)),
        );
    }
    match row.state {
        State::Online => online(component, row, desired, machine, table),
        State::Launching => Found::Settling(format!("{name} is being started by pm2")),
        State::Stopping => Found::Settling(format!("{name} is being stopped by pm2")),
        State::Stopped => drifted(
            component,
            DriftKind::ProcessStopped,
            "stopped",
            format!("pm2 says that {} is stopped", component.process),
        ),
        State::Errored => {
            let why = climbing::why(component, seen);
            let evidence = format!("pm2 has given {} up{why}", component.process);
            drifted(component, DriftKind::ProcessErrored, "errored", evidence)
        }
        State::Other => Found::Settling(format!("pm2 says something about {name} that it usually does not")),
    }
}

fn children_held(component: &Component, table: &Table) -> String {
    component
        .children
        .iter()
        .map(|child| (child, table.named(&child.process).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(child, count)| format!(", {count} of {}", child.process))
        .collect()
}

/// A process of ours that listens on a component's port though pm2 does not know it. Ours means: it belongs to the login,
/// its command line has the component's signature, and it descends from no row of pm2's table.
pub(super) fn lost(component: &Component, port: u16, machine: &Machine, table: &Table) -> Option<ProcessId> {
    let signature = component.signature?;
    let pids = machine.listeners.get(&port)?;
    pids.iter().find_map(|pid| {
        let process = machine.processes.get(pid)?;
        let ours = process.uid == machine.uid && process.command.contains(signature);
        (ours && !table.holds(machine, *pid) && process.started_ticks > 0).then(|| ProcessId {
            pid: *pid,
            started_ticks: process.started_ticks,
            signature: signature.to_owned(),
        })
    })
}

fn missing(component: &Component, machine: &Machine, table: &Table, seen: &Observation) -> Found {
    let left: Vec<&str> = component
        .children
        .iter()
        .filter(|child| table.named(&child.process).next().is_some())
        .map(|child| child.process.as_str())
        .collect();
    if !left.is_empty() {
        return drifted(
            component,
            DriftKind::ChildrenLeftOver,
            "gone, children left over",
            format!(
                "pm2 does not hold {} but still {}{}",
                component.process,
                left.join(" and "),
                climbing::after_kube_stream(component, seen)
            ),
        );
    }
    if let Some(port) = component.ports.iter().find(|port| machine.listeners.contains_key(port)) {
        return drifted(
            component,
            DriftKind::PortTaken,
            &format!("{port} is taken"),
            format!("pm2 does not hold {}, and {} listens on {port}", component.process, owner(*port, machine)),
        );
    }
    let why = if table.daemon { "" } else { " (pm2's daemon does not run)" };
    drifted(
        component,
        DriftKind::ProcessMissing,
        "not running",
        format!("pm2 does not hold {}{why}", component.process),
    )
}

fn owner(port: u16, machine: &Machine) -> String {
    let process = machine.listeners.get(&port).and_then(|pids| pids.first()).and_then(|pid| {
        machine.processes.get(pid).map(|process| {
            let program: String = process.command.split(' ').next().unwrap_or_default().chars().take(60).collect();
            format!("{program} (pid {pid}, user id {})", process.uid)
        })
    });
    process.unwrap_or_else(|| "a process that cannot be seen".to_owned())
}

fn online(component: &Component, row: &Row, desired: &Desired, machine: &Machine, table: &Table) -> Found {
    let name = &component.name;
    let up_for = Duration::from_millis(machine.clock.saturating_mul(1000).saturating_sub(row.started_ms).max(0) as u64);
    for port in &component.ports {
        match machine.listeners.get(port) {
            None => {
                if let Some(proxy) = without_proxy(component, desired, machine) {
                    return drifted(
                        component,
                        DriftKind::StartedTooEarly,
                        "was started without the kubectl proxy",
                        format!(
                            "{name} runs but does not listen on {port}: it was started while nobody served {proxy}"
                        ),
                    );
                }
                if let Some(proxy) = started_before_proxy(component, row, desired, machine) {
                    return drifted(
                        component,
                        DriftKind::StartedTooEarly,
                        "was started before the kubectl proxy",
                        format!(
                            "{name} runs but does not listen on {port}: it was started before the kubectl proxy on {proxy}"
                        ),
                    );
                }
                if up_for < component.settle {
                    return Found::Settling(format!("{name} is starting and does not listen on {port} yet"));
                }
                return drifted(
                    component,
                    DriftKind::NotListening,
                    &format!("not on {port}"),
                    format!("pm2 says that {} is online, but nothing listens on {port}", component.process),
                );
            }
            Some(_) => {
                if taken(component, row, *port, machine) {
                    if up_for < CHILD_MOMENT {
                        return Found::Settling(format!("{name} is starting"));
                    }
                    return drifted(
                        component,
                        DriftKind::PortTaken,
                        &format!("{port} is taken"),
                        format!("{} runs, but {} listens on {port}", component.process, owner(*port, machine)),
                    );
                }
            }
        }
    }
    for child in component.children.iter().filter(|child| child.required) {
        let state = table.named(&child.process).next().map(|row| row.state);
        match state {
            Some(State::Online | State::Launching | State::Stopping | State::Other) => {}
            _ if up_for < CHILD_MOMENT.max(Duration::from_secs(30)) => {
                return Found::Settling(format!("{name} is starting and has not brought up {} yet", child.process));
            }
            Some(State::Stopped | State::Errored) | None => {
                return drifted(
                    component,
                    DriftKind::ChildMissing,
                    &format!("{} does not run", child.process),
                    format!("{} runs, but its {} does not", component.process, child.process),
                );
            }
        }
    }
    Found::Fine
}

/// Whether somebody else's process listens on a port. Without a known owner (no sudo, another user's process) the port's
/// answer has to do.
fn taken(component: &Component, row: &Row, port: u16, machine: &Machine) -> bool {
    machine.listeners.get(&port).is_some_and(|pids| {
        let ours = row.pid.is_some_and(|own| pids.iter().any(|pid| machine.descends(*pid, own)))
            || component.in_docker && pids.iter().any(|pid| is_docker_proxy(*pid, machine));
        !ours && !pids.is_empty()
    })
}

/// Whether Docker holds a port for a container.
fn is_docker_proxy(pid: u32, machine: &Machine) -> bool {
    let program = machine.processes.get(&pid).and_then(|process| process.command.split(' ').next());
    program.is_some_and(|program| program.rsplit('/').next() == Some("docker-proxy"))
}

/// The proxy's port, if the component needs the proxy and nobody serves it.
fn without_proxy(component: &Component, desired: &Desired, machine: &Machine) -> Option<u16> {
    let proxy = desired.kubectl_proxy.as_ref().filter(|_| component.after.iter().any(|name| name == KUBECTL_PROXY))?;
    (!machine.listeners.contains_key(&proxy.port)).then_some(proxy.port)
}

/// A component that was started while nobody served the proxy's port: it runs under pm2 and does not listen, or it has ended
/// and pm2 holds only its children. The runbook deletes it before it starts the proxy: it would otherwise go on with what it
/// began without one.
pub(super) fn started_without_proxy(desired: &Desired, machine: &Machine, table: &Table) -> Option<Component> {
    catalogue::described(desired).into_iter().find(|component| {
        without_proxy(component, desired, machine).is_some()
            && component.ports.iter().any(|port| !machine.listeners.contains_key(port))
            && match table.named(&component.process).next() {
                Some(_) => table.named(&component.process).any(|row| row.state == State::Online),
                None => component.children.iter().any(|child| table.named(&child.process).next().is_some()),
            }
    })
}

/// The proxy's port, if the component was started before the proxy that is there now (runbook, "Web and deploy server": if
/// `deploy-kubernetes` came before the proxy, delete its three processes and start it again).
fn started_before_proxy(component: &Component, row: &Row, desired: &Desired, machine: &Machine) -> Option<u16> {
    let proxy = desired.kubectl_proxy.as_ref().filter(|_| component.after.iter().any(|name| name == KUBECTL_PROXY))?;
    let own = machine.processes.get(&row.pid?)?;
    let pid = machine.listeners.get(&proxy.port)?.first()?;
    let process = machine.processes.get(pid)?;
    // A kubectl proxy that the component started itself is no sign of a wrong order.
    (own.started_ticks < process.started_ticks && !machine.descends(*pid, row.pid?)).then_some(proxy.port)
}
