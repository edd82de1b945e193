//! `decide` against a host in memory: a world of processes, pm2 rows and rules that steps really change, observed and
//! decided on again and again, with time passing as data.

#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

use super::memory::{FleetView, Memory, Past, Patience};
use super::{Decision, Host, LookFailure, Looked, Next, Run, decide};
use crate::catalogue::{self, Component, Start};
use crate::facets::Step;
use crate::gate::BlockedBy;
use crate::seen::machine::{Machine, Process};
use crate::seen::pm2::{Row, State, Table};
use crate::seen::proxy::{Cluster, Kubectl, Proxy};
use crate::seen::{Blind, Known, Observation, Reason, disks, nat};
use binder_crds::desired::{Disk, KubectlProxy, PortRedirect, Server};
use binder_crds::text::{HostPath, InterfaceName, Percent};
use binder_crds::{ActionOutcome, BinderHostSpec, BinderHostStatus, Desired, Mode, conditions};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

const LOGIN: u32 = 1000;

fn web() -> Desired {
    Desired {
        servers: vec![Server::Web, Server::DeployKubernetes, Server::Health],
        kubectl_proxy: Some(KubectlProxy {
            port: 8085,
            kubectl: HostPath::from("/opt/k/kubectl.sh"),
            cluster_id: None,
        }),
        port_redirects: vec![PortRedirect { interface: InterfaceName::from("eth0"), from: 80, to: 3000 }],
        disks: vec![Disk { path: HostPath::from("/"), max_used: Percent::from("85%") }],
        ..Desired::default()
    }
}

/// A machine that does what steps say, most of the time.
#[derive(Clone, Debug)]
struct World {
    now: Timestamp,
    uptime: u64,
    next_pid: u32,
    processes: BTreeMap<u32, Process>,
    listeners: BTreeMap<u16, u32>,
    rows: Vec<Row>,
    redirects: usize,
    disk: u8,
    blind_nat: bool,
    /// Steps whose command does nothing at all.
    deaf: bool,
}

impl World {
    fn bare() -> Self {
        let now: Timestamp = "2026-11-22T03:00:00.25Z".parse().unwrap();
        Self {
            now,
            uptime: 100_000,
            next_pid: 100,
            processes: BTreeMap::new(),
            listeners: BTreeMap::new(),
            rows: Vec::new(),
            redirects: 0,
            disk: 40,
            blind_nat: false,
            deaf: false,
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += SignedDuration::from_secs(i64::try_from(seconds).unwrap());
        self.uptime += seconds;
    }

    fn spawn(&mut self, command: &str) -> u32 {
        self.next_pid += 1;
        let process = Process { parent: 1, uid: LOGIN, started_ticks: self.uptime * 100, command: command.to_owned() };
        self.processes.insert(self.next_pid, process);
        self.next_pid
    }

    fn row(&mut self, name: &str, pid: u32) {
        let id = u32::try_from(self.rows.len()).unwrap();
        let started_ms = self.now.as_millisecond();
        self.rows.push(Row {
            name: name.to_owned(),
            id,
            pid: Some(pid),
            state: State::Online,
            restarts: 0,
            started_ms,
        });
    }

    fn start(&mut self, component: &Component) {
        let pid = self.spawn(&format!("node {} start", component.signature.unwrap_or("other")));
        self.row(&component.process, pid);
        for child in &component.children {
            let pid = self.spawn("node child");
            self.row(&child.process, pid);
        }
        for port in &component.ports {
            self.listeners.entry(*port).or_insert(pid);
        }
    }

    fn end(&mut self, pid: u32) {
        self.processes.remove(&pid);
        self.listeners.retain(|_, owner| *owner != pid);
    }

    fn delete(&mut self, name: &str) {
        let (gone, kept) = std::mem::take(&mut self.rows).into_iter().partition(|row: &Row| row.name == name);
        self.rows = kept;
        let gone: Vec<Row> = gone;
        gone.iter().filter_map(|row| row.pid).for_each(|pid| self.end(pid));
    }

    fn lose(&mut self, name: &str) {
        self.rows.retain(|row| row.name != name);
    }

    fn apply(&mut self, step: &Step) {
        if self.deaf {
            return;
        }
        match step {
            Step::StartProcess { component, .. } => {
                let component = component_named(component);
                self.start(&component);
            }
            Step::DeleteEntries { processes, .. } => processes.iter().for_each(|name| self.delete(name)),
            Step::EndOrphan { orphan: process, .. } | Step::EndKubectlProxy { process, .. } => {
                let same = self.processes.get(&process.pid).is_some_and(|found| {
                    found.started_ticks == process.started_ticks && found.command.contains(&process.signature)
                });
                if same {
                    self.end(process.pid);
                }
            }
            Step::StartKubectlProxy { port, .. } => {
                let pid = self.spawn("/usr/bin/kubectl proxy --port=8085");
                self.listeners.insert(*port, pid);
            }
            Step::InsertRedirect { .. } => self.redirects = self.redirects.max(1),
            Step::DeleteExtraRedirects { .. } => self.redirects = self.redirects.min(1),
        }
    }

    fn observe(&self) -> Observation {
        let redirect = nat::Redirect { interface: Some("eth0".to_owned()), from: 80, to: 3000, plain: true };
        let served = self.listeners.contains_key(&8085);
        let identity = Cluster::Identity("1b671a64-40d5-491e-99b0-da01ff1f3341".to_owned());
        Observation {
            at: self.now,
            machine: Known::Seen(Machine {
                boot_id: "boot-0001".to_owned(),
                uptime: self.uptime,
                clock: self.now.as_second(),
                uid: LOGIN,
                ticks: 100,
                processes: self.processes.clone(),
                listeners: self.listeners.iter().map(|(port, pid)| (*port, vec![*pid])).collect(),
            }),
            pm2: Known::Seen(Table { daemon: true, rows: self.rows.clone() }),
            nat: if self.blind_nat {
                Known::Unknown(Blind { reason: Reason::ProbeTimedOut, message: "took too long".to_owned() })
            } else {
                Known::Seen(vec![redirect; self.redirects])
            },
            disks: Known::Seen(BTreeMap::from([("/".to_owned(), disks::Use::Percent(self.disk))])),
            proxy: Known::Seen(Proxy {
                kubectl: Kubectl::Script,
                program: None,
                cluster: if served { identity } else { Cluster::NoAnswer("refused".to_owned()) },
            }),
        }
    }
}

fn component_named(name: &str) -> Component {
    catalogue::described(&web()).into_iter().find(|component| component.name == name).unwrap()
}

/// The operator's side: what it remembers and wrote, with the API's whole seconds.
#[derive(Clone)]
struct Operator {
    spec: BinderHostSpec,
    mode: Mode,
    fleet: FleetView,
    memory: Memory,
    status: BinderHostStatus,
    writes: usize,
    ran: Vec<String>,
}

impl Operator {
    fn new(mode: Mode) -> Self {
        let patience =
            Patience { cooldown: Duration::from_secs(5), attempts: 3, refill_after: Duration::from_secs(60) };
        let spec = BinderHostSpec {
            address: "192.0.2.1".into(),
            port: 22,
            host_keys: Vec::new(),
            domain: None,
            access: None,
            api_key_secret_ref: None,
            power: None,
            mode: None,
            suspend: false,
            interval: None,
            desired: web(),
        };
        Self {
            spec,
            mode,
            fleet: FleetView { fleet: Some("binder".to_owned()), patience, ..FleetView::default() },
            memory: Memory::default(),
            status: BinderHostStatus::default(),
            writes: 0,
            ran: Vec::new(),
        }
    }

    fn decide(&self, looked: &Looked, now: Timestamp) -> Decision {
        let host = Host {
            name: "web",
            uid: "uid-1",
            generation: 1,
            spec: &self.spec,
            mode: self.mode,
            suspended: None,
            deleted: false,
            previous: &self.status,
        };
        decide(&host, looked, &self.memory, &self.fleet, now)
    }

    /// One pass, as the controller makes it; gives how long it would wait.
    fn pass(&mut self, world: &mut World) -> Duration {
        self.pass_with(world, |world, step| world.apply(step))
    }

    fn pass_with(&mut self, world: &mut World, act: impl FnOnce(&mut World, &Step)) -> Duration {
        let decision = self.decide(&Looked::Seen(Box::new(world.observe())), world.now);
        for finish in &decision.finish {
            let past = self.memory.actions.iter_mut().find(|past| past.name == finish.action).unwrap();
            past.outcome = Some(finish.outcome);
            past.finished_at = Some(world.now);
        }
        // As the API gives it back.
        let written = serde_json::from_value(serde_json::to_value(&decision.status).unwrap()).unwrap();
        if written != self.status {
            self.writes += 1;
            self.status = written;
        }
        if let Next::Run(run) = decision.next {
            self.record(&run, world.now);
            act(world, &run.step);
            return super::WATCH;
        }
        decision.look_again
    }

    fn record(&mut self, run: &Run, now: Timestamp) {
        let name = run.permit.action().to_owned();
        assert!(self.memory.actions.iter().all(|past| past.name != name), "{name} is recorded twice");
        assert_eq!(self.memory.open().count(), 0, "two steps at once");
        let second = Timestamp::from_second(now.as_second()).unwrap();
        self.ran.push(run.step.kind().to_owned());
        self.memory.actions.push(Past {
            name,
            step: Some(run.step.clone()),
            kind: run.step.kind().to_owned(),
            subject: run.drift.subject.clone(),
            words: run.step.words(),
            attempt: run.attempt,
            created: second,
            deadline: run.deadline,
            sent_at: Some(now),
            said: String::new(),
            outcome: None,
            finished_at: None,
            message: String::new(),
        });
    }

    fn run(&mut self, world: &mut World, passes: usize) {
        for _ in 0..passes {
            let wait = self.pass(world);
            world.pass(wait.as_secs().max(1));
        }
    }

    fn condition(&self, kind: &str) -> (&str, &str) {
        let found = self.status.conditions.iter().find(|condition| condition.type_ == kind);
        found.map_or(("", ""), |condition| (&condition.status, &condition.reason))
    }

    fn healthy(&self) -> bool {
        self.condition(conditions::HEALTHY).0 == "True"
    }
}

/// A host that is as described for a while. Worked out once, since every test begins with it.
fn well() -> (Operator, World) {
    static WELL: LazyLock<(Operator, World)> = LazyLock::new(become_well);
    WELL.clone()
}

fn become_well() -> (Operator, World) {
    let (mut operator, mut world) = (Operator::new(Mode::Enforce), World::bare());
    operator.run(&mut world, 60);
    assert!(operator.healthy(), "{:#?}", operator.status);
    world.pass(300);
    operator.pass(&mut world);
    operator.ran.clear();
    (operator, world)
}

#[test]
fn a_bare_host_is_brought_up_in_the_runbooks_order() {
    let (mut operator, mut world) = (Operator::new(Mode::Enforce), World::bare());
    operator.run(&mut world, 60);
    let subjects: Vec<&str> = operator.memory.actions.iter().map(|past| past.subject.as_str()).collect();
    assert_eq!(subjects, ["web", "kubectl-proxy", "deploy-kubernetes", "health", "redirect eth0:80"]);
    assert!(operator.healthy());
}

#[test]
fn a_row_that_is_not_healthy_is_never_empty() {
    let (mut operator, mut world) = (Operator::new(Mode::Enforce), World::bare());
    let first = component_named("web");
    world.start(&first);
    world.listeners.clear();
    operator.spec.desired = Desired { servers: vec![Server::Web], ..Desired::default() };
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::HEALTHY), ("False", "Settling"));
    assert_eq!(operator.status.drift, "web is starting and does not listen on 3000 yet");
    assert_eq!(operator.status.waits_for, "it to settle");
}

#[test]
fn a_healthy_host_is_written_of_no_more() {
    let (mut operator, mut world) = well();
    let before = operator.writes;
    for _ in 0..200 {
        operator.pass(&mut world);
        world.pass(17);
    }
    assert_eq!(operator.writes, before);
    assert!(operator.ran.is_empty());
}

#[test]
fn a_server_lost_by_pm2_with_two_daemons_is_ended_cleared_and_started() {
    let (mut operator, mut world) = well();
    world.lose("binder-deploy-kubernetes-start");
    let extra = world.spawn("node child");
    world.row("binder-kubernetes-daemon", extra);
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING), ("False", "LostByPm2"));
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["EndOrphan", "DeleteEntries", "StartProcess"]);
    assert!(operator.healthy());
}

#[test]
fn somebody_elses_process_on_the_port_is_reported_and_left_alone() {
    let (mut operator, mut world) = well();
    world.delete("binder-web-start");
    let other = world.spawn("python3 -m http.server 3000");
    world.listeners.insert(3000, other);
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty());
    assert!(world.processes.contains_key(&other));
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING), ("False", "PortTaken"));
    assert_eq!(operator.condition(conditions::STALLED).1, "NeedsPerson");
}

#[test]
fn nothing_is_done_in_observe_and_it_says_what_would_be() {
    let (mut operator, mut world) = (Operator::new(Mode::Observe), World::bare());
    operator.run(&mut world, 20);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.condition(conditions::REMEDIATION_ALLOWED), ("False", "ModeObserve"));
    assert_eq!(operator.status.waits_for, "mode Enforce");
    assert_eq!(operator.status.plan.len(), 5);
}

#[test]
fn without_a_proxy_deploy_kubernetes_waits_and_says_for_what() {
    let (mut operator, mut world) = well();
    world.delete("binder-deploy-kubernetes-start");
    ["binder-kubernetes-proxy", "binder-kubernetes-daemon"].iter().for_each(|name| world.delete(name));
    let proxy = world.listeners[&8085];
    world.end(proxy);
    operator.pass(&mut world);
    assert_eq!(operator.condition(conditions::SERVICES_RUNNING), ("False", "HeldBack"));
    assert!(operator.status.summary.contains("nothing listens on 8085"), "{}", operator.status.summary);
    assert!(operator.status.summary.contains("deploy-kubernetes"), "{}", operator.status.summary);
    operator.run(&mut world, 40);
    assert_eq!(operator.ran, ["StartKubectlProxy", "StartProcess"]);
}

#[test]
fn a_remedy_that_never_helps_is_given_up_after_its_attempts() {
    let (mut operator, mut world) = well();
    world.delete("binder-web-start");
    world.deaf = true;
    operator.run(&mut world, 200);
    assert_eq!(operator.ran, ["StartProcess"; 3]);
    assert_eq!(operator.condition(conditions::STALLED).1, "AttemptsUsedUp");
    assert!(operator.status.conditions.iter().any(|condition| condition.message.contains("docs/runbook/services.md")));
    // What was deleted by a person is tried again.
    operator.memory = Memory::default();
    world.deaf = false;
    operator.run(&mut world, 20);
    assert!(operator.healthy());
}

#[test]
fn a_fault_that_comes_back_after_each_heal_ends_with_a_person() {
    let (mut operator, mut world) = well();
    for _ in 0..30 {
        if operator.healthy() {
            world.redirects = 0;
        }
        operator.run(&mut world, 1);
    }
    assert_eq!(operator.ran, ["InsertRedirect"; 3]);
    assert_eq!(operator.condition(conditions::STALLED).1, "AttemptsUsedUp");
}

#[test]
fn a_fault_that_comes_back_after_a_long_healthy_time_is_a_new_incident() {
    let (mut operator, mut world) = well();
    for _ in 0..6 {
        world.redirects = 0;
        operator.run(&mut world, 5);
        assert!(operator.healthy());
        world.pass(120);
        operator.pass(&mut world);
    }
    assert_eq!(operator.ran, ["InsertRedirect"; 6]);
}

#[test]
fn what_cannot_be_seen_is_unknown_and_nothing_is_done_about_it() {
    let (mut operator, mut world) = well();
    world.redirects = 0;
    world.blind_nat = true;
    operator.run(&mut world, 10);
    assert!(operator.ran.is_empty());
    assert_eq!(operator.condition(conditions::REDIRECT_IN_PLACE), ("Unknown", "ProbeTimedOut"));
    assert_eq!(operator.condition(conditions::HEALTHY), ("Unknown", "NotAllSeen"));
}

#[test]
fn an_intention_whose_sending_nobody_saw_is_judged_by_looking() {
    // Killed between the record and the command: nothing happened, and the attempt fails when its time is up.
    let (mut operator, mut world) = well();
    world.redirects = 0;
    operator.pass_with(&mut world, |_, _| {});
    operator.memory.actions.last_mut().unwrap().sent_at = None;
    operator.run(&mut world, 30);
    assert_eq!(operator.ran, ["InsertRedirect"; 2]);
    assert!(operator.healthy());
    // Killed after the command: its effect is there, and nothing is done twice.
    let (mut operator, mut world) = well();
    world.redirects = 0;
    operator.pass(&mut world);
    operator.memory.actions.last_mut().unwrap().sent_at = None;
    operator.run(&mut world, 30);
    assert_eq!(operator.ran, ["InsertRedirect"]);
}

#[test]
fn servers_wait_for_the_database_of_another_host() {
    let (mut operator, mut world) = (Operator::new(Mode::Enforce), World::bare());
    operator.fleet.missing.insert("db".to_owned(), "binder-services".to_owned());
    operator.run(&mut world, 30);
    assert!(!operator.ran.iter().any(|step| step == "StartProcess"));
    assert!(operator.status.plan.iter().any(|step| step.waits_for == "db on binder-services"));
    operator.fleet.missing.clear();
    operator.run(&mut world, 60);
    assert!(operator.healthy());
}

#[test]
fn a_host_that_is_not_seen_keeps_its_open_attempt_until_its_time_is_up() {
    let (mut operator, mut world) = well();
    world.redirects = 0;
    operator.pass(&mut world);
    let failure =
        LookFailure { reason: "Unreachable", message: "no route".to_owned(), needs_person: false, not_before: None };
    let early = operator.decide(&Looked::Failed(failure.clone()), world.now);
    assert!(early.finish.is_empty());
    world.pass(600);
    let late = operator.decide(&Looked::Failed(failure), world.now);
    assert_eq!(late.finish[0].outcome, ActionOutcome::Unknown);
    assert_eq!(late.next, Next::Nothing);
}

#[test]
fn an_abandoned_attempt_neither_counts_nor_takes_the_next_ones_name() {
    let (mut operator, mut world) = well();
    world.redirects = 0;
    operator.pass_with(&mut world, |_, _| {});
    operator.memory.actions.last_mut().unwrap().outcome = Some(ActionOutcome::Abandoned);
    operator.run(&mut world, 10);
    assert!(operator.healthy());
    assert_eq!(operator.memory.actions.last().unwrap().attempt, 1);
}

#[derive(Clone, Copy, Debug)]
enum Break {
    Delete(&'static str),
    Lose(&'static str),
    Stop(&'static str),
    Double(&'static str),
    KillProxy,
    Redirects(usize),
    EndProcess(u16),
}

fn breaks() -> impl Strategy<Value = Vec<Break>> {
    let name = prop::sample::select(vec![
        "binder-web-start",
        "binder-deploy-kubernetes-start",
        "binder-kubernetes-daemon",
        "binder-health-checker-start",
        "binder-health-checker",
    ]);
    let one = prop_oneof![
        name.clone().prop_map(Break::Delete),
        name.clone().prop_map(Break::Lose),
        name.clone().prop_map(Break::Stop),
        name.prop_map(Break::Double),
        Just(Break::KillProxy),
        (0usize..4).prop_map(Break::Redirects),
        prop::sample::select(vec![3000u16, 8084, 8086]).prop_map(Break::EndProcess),
    ];
    prop::collection::vec(one, 1..6)
}

fn broken(world: &mut World, fault: Break) {
    match fault {
        Break::Delete(name) => world.delete(name),
        Break::Lose(name) => world.lose(name),
        Break::Stop(name) => {
            let pids: Vec<u32> = world.rows.iter().filter(|row| row.name == name).filter_map(|row| row.pid).collect();
            pids.into_iter().for_each(|pid| world.end(pid));
            for row in world.rows.iter_mut().filter(|row| row.name == name) {
                (row.state, row.pid) = (State::Stopped, None);
            }
        }
        Break::Double(name) => {
            let pid = world.spawn("node child");
            world.row(name, pid);
        }
        Break::KillProxy => {
            if let Some(pid) = world.listeners.get(&8085).copied() {
                world.end(pid);
            }
        }
        Break::Redirects(count) => world.redirects = count,
        Break::EndProcess(port) => {
            if let Some(pid) = world.listeners.get(&port).copied() {
                world.end(pid);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever pm2, the proxy and the rules were made to be, the host ends as described, and then nothing more is done.
    #[test]
    fn any_faults_together_are_healed(faults in breaks()) {
        let (mut operator, mut world) = well();
        let bystander = world.spawn("somebody else's");
        faults.into_iter().for_each(|fault| broken(&mut world, fault));
        operator.run(&mut world, 200);
        prop_assert!(operator.healthy(), "{:#?}\n{:?}", operator.status, operator.ran);
        prop_assert!(world.processes.contains_key(&bystander));
        prop_assert_eq!(world.redirects, 1);
        let (ran, writes) = (operator.ran.len(), operator.writes);
        operator.run(&mut world, 50);
        prop_assert_eq!((operator.ran.len(), operator.writes), (ran, writes));
    }
}

#[test]
fn every_blocked_by_has_words() {
    let blocked = BlockedBy::Cooldown { until: "2026-11-22T14:02:10Z".parse().unwrap() };
    assert_eq!(crate::status::blocked_words(&blocked), "cooldown until 14:02:10Z");
    let start = Start::Service { name: "db".to_owned() };
    let step = Step::StartProcess { component: "db".to_owned(), start, path: None };
    assert_eq!(step.words(), "start the service db");
}
