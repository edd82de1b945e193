//! Facet `services`: pm2 runs what is described, once, and it listens.
//!
//! pm2's table alone does not tell the truth: pm2 1.x loses processes that go on running and listening (`LostByPm2`), and
//! says `online` of servers that have given up. So the table is read together with who listens.

mod climbing;
mod owner;
mod steps;
#[cfg(test)]
mod tests;

pub(super) use owner::{elsewhere, lost};
pub use steps::Step;

use super::{Check, Drift, DriftKind, Facet, Rung, Subject};
use crate::catalogue::{self, Cause, Component, KUBECTL_PROXY};
use crate::seen::machine::Machine;
use crate::seen::pm2::{Row, State, Table};
use crate::seen::settings::{self, Settings};
use crate::seen::{Ask, Fact, Observation, Reason, Unknown, crashes, pm2};
use binder_crds::desired::Server;
use binder_crds::{Desired, conditions};
use owner::{other_ports, owner, runs_another, taken, unseen};
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
        asks.extend(settings_ask(desired));
        asks
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
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
                Found::Progressing(why) => check.progressing.push((Subject::from(component), why)),
                Found::Drifted(drift) => check.drifts.push(foreign(component, table, drift)),
            }
        }
        let names: Vec<&str> = components.iter().map(|component| component.name.as_str()).collect();
        check.as_described = format!("{} under pm2, once each", names.join(", "));
        Ok(check)
    }

    fn rank(&self, desired: &Desired, drift: &Drift) -> u8 {
        rank(desired, drift)
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let Ok(components) = components(desired, seen) else { return Vec::new() };
        let Some(component) = components.iter().find(|component| drift.subject.is(component)) else {
            return Vec::new();
        };
        let (Some(machine), Some(table)) = (seen.machine.seen(), seen.pm2.seen()) else { return Vec::new() };
        match drift.kind {
            DriftKind::ProcessMissing => {
                let (component, startup_timeout) = (component.clone(), component.startup_timeout);
                let path = kubectl_folder(&component, desired);
                let start = Step::StartProcess { component: component.name, start: component.start, path };
                vec![Rung::new(start, startup_timeout)]
            }
            DriftKind::LostByPm2 => component
                .ports
                .iter()
                .filter_map(|port| lost(component, *port, machine, table))
                .map(|orphan| Step::EndOrphan { component: component.name.clone(), orphan })
                .map(|step| Rung::new(step, GONE_WITHIN))
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

/// The place of a component in the runbook's order.
pub(super) fn rank(desired: &Desired, drift: &Drift) -> u8 {
    let components = catalogue::described(desired);
    components.iter().find(|component| drift.subject.is(component)).map_or(super::LAST, |component| component.rank)
}

/// Deletes a component's entries; what is then missing is started, with the API key that the Secret holds.
pub(crate) fn clear(component: &Component) -> Vec<Rung> {
    vec![Rung::new(delete(component), GONE_WITHIN)]
}

/// Deletes a component and its children from pm2's table.
pub(super) fn delete(component: &Component) -> Step {
    let processes = component.processes().map(str::to_owned).collect();
    Step::DeleteEntries { component: component.name.clone(), processes }
}

/// Whether it is known why a component crashes: something else than the component itself.
pub(crate) fn crash_is_explained(component: &Component, seen: &Observation) -> bool {
    climbing::cause(component, seen).is_some()
}

/// Whether a component runs as described, on the port that its settings on the host say.
pub(super) fn in_place(
    component: &Component,
    desired: &Desired,
    machine: &Machine,
    table: &Table,
    seen: &Observation,
) -> bool {
    let Ok(component) = &with_port(component.clone(), seen) else { return false };
    let rows: Vec<&Row> = table.named(&component.process).collect();
    runs_another(component, &rows).is_none()
        && climbing::look(component, seen).is_none()
        && matches!(look(component, desired, machine, table, seen), Found::Fine)
}

/// The described components, with the ports that their settings on the host say.
pub(crate) fn components(desired: &Desired, seen: &Observation) -> Result<Vec<Component>, Unknown> {
    catalogue::described(desired).into_iter().map(|component| with_port(component, seen)).collect()
}

/// A component with the port that its settings on the host say, else its usual one.
///
/// # Errors
/// [`Unknown`] when the settings could not be read: its usual port is then a guess.
pub(super) fn with_port(component: Component, seen: &Observation) -> Result<Component, Unknown> {
    with_settings(component, &seen.settings)
}

/// A component with the port that these settings of its host say, else its usual one: that of whoever is asked for something,
/// and of whoever is judged by what listens.
///
/// # Errors
/// [`Unknown`] when the settings could not be read: its usual port is then a guess.
pub fn with_settings(mut component: Component, settings: &Fact<Settings>) -> Result<Component, Unknown> {
    if !component.port_setting.is_empty()
        && let Fact::Seen(_) | Fact::Unknown(_) = settings
        && let Some(port) = settings.get()?.port(component.settings_file(), component.port_setting)
    {
        component.ports = vec![port];
    }
    Ok(component)
}

/// The port on which one of Binder's servers is asked, as the settings of its host say.
///
/// # Errors
/// [`Unknown`] when the settings could not be read: what answers on its usual port may be anything.
pub fn port(server: Server, settings: &Fact<Settings>) -> Result<u16, Unknown> {
    let component = with_settings(catalogue::server(server), settings)?;
    let nowhere = || Unknown { reason: Reason::NotSeen, message: format!("{} has no port", component.name) };
    component.ports.first().copied().ok_or_else(nowhere)
}

/// The section that tells the ports of everything that a description speaks of: the same one, whoever asks.
pub(super) fn settings_ask(desired: &Desired) -> Option<Ask> {
    let components = catalogue::described(desired).into_iter().chain(catalogue::stopped(desired));
    let mut files: Vec<String> = components
        .filter(|component| !component.port_setting.is_empty())
        .map(|component| component.settings_file().to_owned())
        .collect();
    files.sort();
    files.dedup();
    (!files.is_empty()).then(|| settings::ask(files))
}

/// A drift of an entry that runs another program than the component's: whatever the entry is called, it is not ours to delete.
fn foreign(component: &Component, table: &Table, drift: Drift) -> Drift {
    let by_deletion = matches!(
        drift.kind,
        DriftKind::ProcessStopped
            | DriftKind::ProcessErrored
            | DriftKind::ProcessDoubled
            | DriftKind::ChildMissing
            | DriftKind::NotListening
            | DriftKind::StartedTooEarly
            | DriftKind::RestartsClimbing
    );
    let rows: Vec<&Row> = table.named(&component.process).collect();
    match runs_another(component, &rows).filter(|_| by_deletion) {
        Some(script) => Drift {
            kind: DriftKind::AnotherProgram,
            short: format!("{}: another program", component.name),
            evidence: format!(
                "{}; pm2 says that {} runs {script}, which is not Binder's {}: rename that process, or end it",
                drift.evidence, component.process, component.name
            ),
            ..drift
        },
        None => drift,
    }
}

/// `deploy-kubernetes` finds `kubectl.sh` through its `PATH`; the described one must be the first that it finds.
fn kubectl_folder(component: &Component, desired: &Desired) -> Option<String> {
    let proxy = desired.kubectl_proxy.as_ref().filter(|_| component.after.iter().any(|name| name == KUBECTL_PROXY))?;
    proxy.kubectl.0.rsplit_once('/').map(|(folder, _)| folder.to_owned()).filter(|folder| !folder.is_empty())
}

enum Found {
    Fine,
    Progressing(String),
    Drifted(Drift),
}

fn drifted(component: &Component, kind: DriftKind, short: &str, evidence: String) -> Found {
    Found::Drifted(Drift {
        kind,
        subject: Subject::from(component),
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
        return Found::Progressing(format!("pm2 has just started {name}"));
    }
    for port in &component.ports {
        if let Some(orphan) = lost(component, *port, machine, table) {
            if seen.lasting.age(&pm2::unheld(orphan.pid, orphan.started_ticks), seen.at) < ENDS_WITHIN {
                return Found::Progressing(format!("pm2 no longer knows the {name} on {port}, which may be ending"));
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
    // An app in cluster mode has a row for each of its processes.
    if rows.len() > 1 && !rows.iter().all(|row| row.cluster) {
        return drifted(
            component,
            DriftKind::ProcessDoubled,
            "there more than once",
            format!("pm2 holds {} {} times", component.process, rows.len()),
        );
    }
    let doubled = |process: &str| table.named(process).count() > 1 && !table.named(process).all(|row| row.cluster);
    if let Some(child) = component.children.iter().find(|child| doubled(&child.process)) {
        return drifted(
            component,
            DriftKind::ProcessDoubled,
            &format!("{} more than once", child.process),
            format!("pm2 holds {} {} times", child.process, table.named(&child.process).count()),
        );
    }
    // Of an app's processes one that runs speaks for it, the youngest first.
    let running = rows.iter().filter(|row| row.state == State::Online).max_by_key(|row| row.started_ms);
    let Some(row) = running.or(rows.first()).copied() else {
        return missing(component, machine, table, seen);
    };
    // What is given up, stopped or restarts again and again is never up for long, so somebody else's process on its port shows
    // here. The login always sees its own: a listener that shows no owner is then another user's, if not Docker's.
    let hopeless = matches!(row.state, State::Errored | State::Stopped) || climbing::climb(component, seen).is_some();
    let occupied = |port: &&u16| taken(component, &rows, **port, machine) || unseen(component, **port, machine);
    if let Some(port) = component.ports.iter().find(|port| hopeless && occupied(port)) {
        let evidence = match elsewhere(component, *port, machine, table) {
            Some(words) => format!("{} cannot listen: {words}", component.process),
            None => format!("{} cannot listen, since {} listens on {port}", component.process, owner(*port, machine)),
        };
        return drifted(component, DriftKind::PortTaken, &format!("{port} is taken"), evidence);
    }
    match row.state {
        State::Online => online(component, row, &rows, desired, machine, table),
        State::Launching => Found::Progressing(format!("{name} is being started by pm2")),
        State::Stopping => Found::Progressing(format!("{name} is being stopped by pm2")),
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
        State::Other => Found::Progressing(format!("pm2 says something about {name} that it usually does not")),
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
        let evidence = match elsewhere(component, *port, machine, table) {
            Some(words) => format!("pm2 does not hold {}: {words}", component.process),
            None => format!("pm2 does not hold {}, and {} listens on {port}", component.process, owner(*port, machine)),
        };
        return drifted(component, DriftKind::PortTaken, &format!("{port} is taken"), evidence);
    }
    let why = if table.daemon { "" } else { " (pm2's daemon does not run)" };
    drifted(
        component,
        DriftKind::ProcessMissing,
        "not running",
        format!("pm2 does not hold {}{why}", component.process),
    )
}

fn online(
    component: &Component,
    row: &Row,
    rows: &[&Row],
    desired: &Desired,
    machine: &Machine,
    table: &Table,
) -> Found {
    let name = &component.name;
    let up_for = up_for(row, machine);
    for port in &component.ports {
        match machine.listeners.get(port) {
            None => {
                if let Some(proxy) = without_proxy(component, desired, machine) {
                    return drifted(
                        component,
                        DriftKind::StartedTooEarly,
                        "was started without the kubectl proxy",
                        format!(
                            "{name} runs but does not listen on {port}: it was started while {proxy} was not served"
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
                if up_for < component.startup_timeout {
                    return Found::Progressing(format!("{name} is starting and does not listen on {port} yet"));
                }
                let others = other_ports(component, rows, machine);
                if !others.is_empty() {
                    let others: Vec<String> = others.iter().map(u16::to_string).collect();
                    let others = others.join(", ");
                    let file = component.settings_file();
                    return drifted(
                        component,
                        DriftKind::ListensElsewhere,
                        &format!("on {others}, not on {port}"),
                        format!(
                            "{} runs and listens on {others}, not on {port}: correct its port (~/.binder/{file}.conf, or \
                             `ports` of your own process), or start it anew if that was changed",
                            component.process
                        ),
                    );
                }
                return drifted(
                    component,
                    DriftKind::NotListening,
                    &format!("not on {port}"),
                    format!("pm2 says that {} is online, but nothing listens on {port}", component.process),
                );
            }
            Some(_) => {
                if taken(component, rows, *port, machine) {
                    if up_for < CHILD_MOMENT {
                        return Found::Progressing(format!("{name} is starting"));
                    }
                    return drifted(
                        component,
                        DriftKind::PortTaken,
                        &format!("{port} is taken"),
                        match elsewhere(component, *port, machine, table) {
                            Some(words) => format!("pm2 holds {} as well, but {words}", component.process),
                            None => {
                                format!("{} runs, but {} listens on {port}", component.process, owner(*port, machine))
                            }
                        },
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
                return Found::Progressing(format!("{name} is starting and has not brought up {} yet", child.process));
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

/// How long a process has been up: by the kernel's count since boot, which no change of the clock moves; where that is not
/// seen, by the host's clock. What was started in the future by that clock has just been started.
fn up_for(row: &Row, machine: &Machine) -> Duration {
    let process = row.pid.and_then(|pid| machine.processes.get(&pid)).filter(|process| process.started_ticks > 0);
    match process {
        Some(process) => Duration::from_secs(machine.age(process)),
        None => {
            let milliseconds = machine.clock.saturating_mul(1000).saturating_sub(row.started_ms);
            Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
        }
    }
}

/// The proxy's port, if the component needs the proxy and nobody serves it.
fn without_proxy(component: &Component, desired: &Desired, machine: &Machine) -> Option<u16> {
    let proxy = desired.kubectl_proxy.as_ref().filter(|_| component.after.iter().any(|name| name == KUBECTL_PROXY))?;
    (!machine.listeners.contains_key(&proxy.port)).then_some(proxy.port)
}

/// A component that was started while nobody served the proxy's port: it runs under pm2 and does not listen, or it has ended
/// and pm2 holds only its children. The runbook deletes it before it starts the proxy: it would otherwise go on with what it
/// began without one.
pub(super) fn started_without_proxy(desired: &Desired, seen: &Observation) -> Option<Component> {
    let (machine, table) = (seen.machine.seen()?, seen.pm2.seen()?);
    components(desired, seen).ok()?.into_iter().find(|component| {
        let rows: Vec<&Row> = table.named(&component.process).collect();
        without_proxy(component, desired, machine).is_some()
            && runs_another(component, &rows).is_none()
            && other_ports(component, &rows, machine).is_empty()
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
