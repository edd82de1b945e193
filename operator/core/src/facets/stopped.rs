//! Facet `stopped`: what is described as stopped does not run, under pm2 or outside of it. What is described nowhere is
//! left as it is; this is how an owner says that something must not run.

use super::services::{self, elsewhere, lost, settings_ask, with_port};
use super::step::{Effect, How, Later, Nature, OfModules, Recovers, Remedy, Touches, kinds_of_steps, plain};
use super::{Check, Drift, DriftKind, Facet, Rung, Subject};
use crate::catalogue::{self, Component, Start};
use crate::gate::demands::Demands;
use crate::seen::machine::Machine;
use crate::seen::pm2::{State, Table};
use crate::seen::{Ask, Observation, Unknown, pm2};
use binder_crds::text::{BadText, Checked, ProcessName};
use binder_crds::{Desired, conditions};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The facet.
pub struct Stopped;

/// How long a server may take to clear up and end, and pm2 to let go of it.
const GONE_WITHIN: Duration = Duration::from_secs(30);

impl Facet for Stopped {
    fn condition(&self) -> &'static str {
        conditions::SERVICES_STOPPED
    }

    fn in_use(&self, desired: &Desired) -> bool {
        !desired.stopped.is_empty()
    }

    fn asks(&self, desired: &Desired) -> Vec<Ask> {
        let mut asks = vec![pm2::ask()];
        asks.extend(settings_ask(desired));
        asks
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let (machine, table) = (seen.machine.get()?, seen.pm2.get()?);
        let components = components(desired, seen)?;
        let drifts = components
            .iter()
            .filter_map(|component| {
                let evidence = still(component, machine, table)?;
                Some(Drift {
                    kind: DriftKind::StillRunning,
                    subject: Subject::from(component),
                    short: format!("{}: still there", component.name),
                    evidence: format!("{evidence}, and {} is described as stopped", component.name),
                })
            })
            .collect();
        let names: Vec<&str> = components.iter().map(|component| component.name.as_str()).collect();
        Ok(Check { drifts, as_described: format!("nothing runs of {}", names.join(", ")), ..Check::default() })
    }

    fn rank(&self, _: &Desired, _: &Drift) -> u8 {
        super::LAST
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let (Some(machine), Some(table)) = (seen.machine.seen(), seen.pm2.seen()) else { return Vec::new() };
        let Ok(components) = components(desired, seen) else { return Vec::new() };
        let Some(component) = components.iter().find(|component| drift.subject.is(component)) else {
            return Vec::new();
        };
        let rung = |step: super::Step| Rung::new(step, GONE_WITHIN);
        let stop = Step::StopProcess {
            component: component.name.clone(),
            process: component.process.clone(),
            service: matches!(component.start, Start::Service { .. }),
        };
        let stop = rung(stop.into());
        let delete = rung(services::delete(component).into());
        let ended = |state| matches!(state, State::Stopped | State::Errored);
        let mut held = table.named(&component.process).peekable();
        if held.peek().is_some() {
            // The runbook's order: `binder-control` first, which lets a server end its children; then pm2.
            return if held.all(|row| ended(row.state)) { vec![delete] } else { vec![stop, delete] };
        }
        if component.processes().any(|process| table.named(process).next().is_some()) {
            return vec![delete];
        }
        let orphan = component.ports.iter().find_map(|port| lost(component, *port, machine, table));
        let end = |orphan| services::Step::EndOrphan { component: component.name.clone(), orphan };
        orphan.map(|orphan| rung(end(orphan).into())).into_iter().collect()
    }
}

/// What is described as stopped, with the ports that its settings on the host say.
fn components(desired: &Desired, seen: &Observation) -> Result<Vec<Component>, Unknown> {
    catalogue::stopped(desired).into_iter().map(|component| with_port(component, seen)).collect()
}

/// What still runs of it, in words.
fn still(component: &Component, machine: &Machine, table: &Table) -> Option<String> {
    let held: Vec<&str> = component.processes().filter(|process| table.named(process).next().is_some()).collect();
    if !held.is_empty() {
        return Some(format!("pm2 holds {}", held.join(" and ")));
    }
    if let Some(words) = component.ports.iter().find_map(|port| elsewhere(component, *port, machine, table)) {
        return Some(words);
    }
    let (port, orphan) =
        component.ports.iter().find_map(|port| Some((port, lost(component, *port, machine, table)?)))?;
    Some(format!("a {} that pm2 does not know listens on {port} (pid {})", component.name, orphan.pid))
}

/// Stops a server. It ends its children itself, if pm2 lets it.
const STOP_SERVER: &str = r#"
set -u
cd "$HOME" && exec binder-control "$1" stop </dev/null
"#;

/// Stops a service. Its exit code is 1 on success and 2 on failure, and nobody looks at it.
const STOP_SERVICE: &str = r#"
set -u
cd "$HOME" && exec binder-control stop-service "$1" </dev/null
"#;

/// A step against what runs and is described as stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Stop a component that must not run, as the runbook does before its entries are deleted.
    StopProcess {
        /// The component's name.
        component: String,
        /// Its name in pm2's table.
        process: String,
        /// Whether it is a service and not a server.
        service: bool,
    },
}

kinds_of_steps!(Step: StopProcess);

impl Remedy for Step {
    fn words(&self) -> String {
        match self {
            Self::StopProcess { component, service: true, .. } => format!("stop the service {component}"),
            Self::StopProcess { component, service: false, .. } => format!("stop {component}"),
        }
    }

    fn nature(&self) -> Nature<'_> {
        Nature {
            touches: Touches::Service,
            demands: Demands::TWO_LOOKS,
            in_turn: false,
            parts: 1,
            modules: OfModules::Apart,
            opens_way_in: false,
            rests_on_age: false,
            starts: false,
            recovers: Recovers::Nothing,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        let Self::StopProcess { component, process, .. } = self;
        plain("component", component)?;
        ProcessName(process.clone()).checked().map(drop)
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        let Self::StopProcess { process, .. } = self;
        Ok(match later.seen.pm2.get()?.named(process).next() {
            None => Effect::Seen(format!("pm2 does not hold {process} any more")),
            Some(_) => Effect::NotYet(format!("pm2 still holds {process}")),
        })
    }

    fn how(&self) -> How {
        match self {
            Self::StopProcess { component, service: true, .. } => {
                How::command("stop-service", STOP_SERVICE, vec![component.clone()], 40)
            }
            Self::StopProcess { component, service: false, .. } => {
                How::command("stop-server", STOP_SERVER, vec![component.clone()], 40)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;
    use crate::seen::machine::Process;
    use crate::seen::pm2::Row;
    use binder_crds::desired::{Server, Service, Stoppable};

    fn described(what: Stoppable) -> Desired {
        Desired { stopped: vec![what], ..Desired::default() }
    }

    fn seen(rows: &[(&str, State)], listener: Option<(u16, u32, &str)>) -> Observation {
        let mut machine = Machine { uid: 1000, ticks: 100, ..Machine::default() };
        if let Some((port, uid, command)) = listener {
            let process = Process { parent: 1, uid, started_ticks: 900, command: command.to_owned() };
            machine.processes.insert(70, process);
            machine.listeners.insert(port, vec![70]);
        }
        let row = |(name, state): &(&str, State)| Row {
            name: (*name).to_owned(),
            id: 0,
            pid: None,
            state: *state,
            restarts: 0,
            started_ms: 0,
            ..Row::default()
        };
        Observation {
            machine: Fact::Seen(machine),
            pm2: Fact::Seen(Table { daemon: true, rows: rows.iter().map(row).collect(), ..Table::default() }),
            ..Observation::nothing(jiff::Timestamp::UNIX_EPOCH)
        }
    }

    fn steps(what: Stoppable, seen: &Observation) -> Vec<&'static str> {
        let desired = described(what);
        let check = Stopped.check(&desired, seen).unwrap();
        check
            .drifts
            .iter()
            .flat_map(|drift| Stopped.ladder(&desired, seen, drift))
            .map(|rung| rung.step.kind())
            .collect()
    }

    #[test]
    fn what_runs_is_stopped_by_binder_control_before_pm2_deletes_it() {
        let online = seen(&[("binder-web-start", State::Online)], None);
        assert_eq!(steps(Stoppable::Web, &online), ["StopProcess", "DeleteEntries"]);
        let stopped = seen(&[("binder-web-start", State::Stopped)], None);
        assert_eq!(steps(Stoppable::Web, &stopped), ["DeleteEntries"]);
        let children = seen(&[("binder-kubernetes-daemon", State::Online)], None);
        assert_eq!(steps(Stoppable::DeployKubernetes, &children), ["DeleteEntries"]);
    }

    #[test]
    fn both_names_of_a_service_mean_the_same() {
        let online = seen(&[("binder-db-service", State::Online)], None);
        for name in [Stoppable::Db, Stoppable::BinderDbService] {
            let desired = described(name);
            let drift = &Stopped.check(&desired, &online).unwrap().drifts[0];
            let step = Stopped.ladder(&desired, &online, drift).remove(0).step;
            let stop = Step::StopProcess {
                component: "db".to_owned(),
                process: "binder-db-service".to_owned(),
                service: true,
            };
            assert_eq!(step, stop.into());
        }
    }

    #[test]
    fn one_that_pm2_lost_is_ended_and_somebody_elses_process_is_not_looked_at() {
        let own = seen(&[], Some((3000, 1000, "node /usr/lib/binder-web/server/cli.js start")));
        assert_eq!(steps(Stoppable::Web, &own), ["EndOrphan"]);
        let other = seen(&[], Some((3000, 0, "nginx")));
        assert_eq!(steps(Stoppable::Web, &other), Vec::<&str>::new());
    }

    #[test]
    fn stopped_wins_over_what_a_profile_describes() {
        let profile =
            Desired { servers: vec![Server::Web, Server::Health], services: vec![Service::Db], ..Desired::default() };
        let host = Desired { stopped: vec![Stoppable::Health, Stoppable::BinderDbService], ..Desired::default() };
        let host = host.over(&profile);
        // The rendered host must not say both: the API server would refuse it.
        assert_eq!((host.servers.as_slice(), host.services.as_slice()), (&[Server::Web][..], &[][..]));
        let names: Vec<String> = catalogue::described(&host).into_iter().map(|component| component.name).collect();
        assert_eq!(names, ["web"]);
        // And what a host itself describes wins over what its profile stops.
        let profile = described(Stoppable::Web);
        let host = Desired { servers: vec![Server::Web], ..Desired::default() }.over(&profile);
        assert_eq!(host.stopped, []);
    }
}
