//! A host in memory, and the operator's side of it: steps really change it, it is observed and decided on again and again,
//! and time passes as data.

use crate::catalogue::{self, Component};
use crate::facets::{
    Step, api_keys, backups, builds, kubectl_proxy, kubernetes_api, machine, modules, names, port_redirects,
    proxy_routes, services, stopped,
};
use crate::plan::evidence::Demanded;
use crate::plan::memory::{FleetView, Memory, Past, Patience};
use crate::plan::{Decision, FailureKind, Finish, Host, LookFailure, Looked, Next, Run, WATCH, decide};
use crate::seen::backups::{Backups, Good};
use crate::seen::database::{Build, Database};
use crate::seen::keys::KeySearch;
use crate::seen::lasting::Lasting;
use crate::seen::machine::{Machine, Process};
use crate::seen::modules::{Found, Installed, Modules};
use crate::seen::pm2::{Row, State, Table};
use crate::seen::proxy::{Cluster, Kubectl, Proxy};
use crate::seen::restarts::Climb;
use crate::seen::routes::{AppId, Routes};
use crate::seen::servers::{Health, JUDGED, Key, Servers, Verdict};
use crate::seen::{Blind, Known, Observation, Reason, disks, docker, nat};
use crate::status;
use binder_crds::desired::{Disk, KubectlProxy, PortRedirect, Server};
use binder_crds::text::{HostPath, InterfaceName, Percent};
use binder_crds::{BinderHostSpec, BinderHostStatus, Desired, Mode, conditions};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(super) const LOGIN: u32 = 1000;

/// The public half of the login key.
pub(super) const PUBLIC_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGI";

const CLIMB: Climb = Climb {
    restarts: 5,
    lasting: SignedDuration::from_secs(60),
    quiet: SignedDuration::from_secs(1),
    every: SignedDuration::from_secs(5),
};

pub(super) fn web() -> Desired {
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
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) uptime: u64,
    pub(super) next_pid: u32,
    pub(super) processes: BTreeMap<u32, Process>,
    pub(super) listeners: BTreeMap<u16, u32>,
    pub(super) rows: Vec<Row>,
    pub(super) redirects: usize,
    pub(super) disk: u8,
    pub(super) blind_nat: bool,
    /// Docker, and with it the disk that holds its data.
    pub(super) docker: Option<docker::Docker>,
    /// Which boot it runs.
    pub(super) boot: u32,
    /// Why nobody can look at it, if so.
    pub(super) silent: bool,
    /// What is found of the API key, while the Secret lacks it.
    pub(super) key_search: Option<KeySearch>,
    /// Whether it refuses our login.
    pub(super) refuses: bool,
    /// Processes that start and end at once, by pm2's name.
    pub(super) broken: Vec<&'static str>,
    /// Servers that run with another API key than the Secret's.
    pub(super) other_key: BTreeSet<String>,
    /// When the health checker stopped going its rounds, by the host's clock.
    pub(super) checker_stopped: Option<i64>,
    /// Whether it says down of what works.
    pub(super) checker_wrong: bool,
    /// Routes without a namespace.
    pub(super) orphans: BTreeSet<AppId>,
    /// A process that pm2 restarts again and again.
    pub(super) climbing: Option<&'static str>,
    /// Steps whose command does nothing at all.
    pub(super) deaf: bool,
    /// The database, where one is described.
    pub(super) database: Option<Database>,
    /// Its backups, where they are described.
    pub(super) backups: Option<Backups>,
    /// The installed version of `binder-web`, which `web` uses, and since when it is there.
    pub(super) web_module: Option<(String, i64)>,
    /// The version of it with which `web` ends at once.
    pub(super) bad_version: &'static str,
    /// Whether npm cannot get anything.
    pub(super) npm_fails: bool,
    /// Whether no backup can be made.
    pub(super) backups_fail: bool,
    /// By how many seconds its clock is ahead of the operator's.
    pub(super) clock_off: i64,
}

impl World {
    pub(super) fn bare() -> Self {
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
            docker: None,
            boot: 1,
            silent: false,
            key_search: None,
            refuses: false,
            broken: Vec::new(),
            other_key: BTreeSet::new(),
            checker_stopped: None,
            checker_wrong: false,
            orphans: BTreeSet::new(),
            climbing: None,
            deaf: false,
            database: None,
            backups: None,
            web_module: None,
            bad_version: "",
            npm_fails: false,
            backups_fail: false,
            clock_off: 0,
        }
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now += SignedDuration::from_secs(i64::try_from(seconds).unwrap());
        self.uptime += seconds;
    }

    pub(super) fn spawn(&mut self, command: &str) -> u32 {
        self.next_pid += 1;
        let process = Process { parent: 1, uid: LOGIN, started_ticks: self.uptime * 100, command: command.to_owned() };
        self.processes.insert(self.next_pid, process);
        self.next_pid
    }

    pub(super) fn row(&mut self, name: &str, pid: u32) {
        let id = u32::try_from(self.rows.len()).unwrap();
        let started_ms = self.now.as_millisecond();
        self.rows.push(Row {
            name: name.to_owned(),
            id,
            pid: Some(pid),
            state: State::Online,
            restarts: 0,
            started_ms,
            ..Row::default()
        });
    }

    pub(super) fn start(&mut self, component: &Component) {
        if self.broken.contains(&component.process.as_str()) {
            return;
        }
        let version = self.web_module.as_ref().map(|(version, _)| version.as_str());
        if component.name == "web" && version == Some(self.bad_version) {
            let pid = self.spawn("node");
            self.row(&component.process, pid);
            if let Some(row) = self.rows.last_mut() {
                (row.state, row.pid) = (State::Errored, None);
            }
            self.end(pid);
            return;
        }
        self.other_key.remove(&component.name);
        if component.name == "health" {
            (self.checker_stopped, self.checker_wrong) = (None, false);
        }
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

    pub(super) fn end(&mut self, pid: u32) {
        self.processes.remove(&pid);
        self.listeners.retain(|_, owner| *owner != pid);
    }

    pub(super) fn delete(&mut self, name: &str) {
        let (gone, kept) = std::mem::take(&mut self.rows).into_iter().partition(|row: &Row| row.name == name);
        self.rows = kept;
        let gone: Vec<Row> = gone;
        gone.iter().filter_map(|row| row.pid).for_each(|pid| self.end(pid));
    }

    pub(super) fn boot_id(&self) -> String {
        format!("boot-{:04}", self.boot)
    }

    /// Everything of the boot goes: processes, pm2's table, rules.
    pub(super) fn restart(&mut self) {
        self.boot += 1;
        self.uptime = 1;
        self.silent = false;
        self.processes.clear();
        self.listeners.clear();
        self.rows.clear();
        self.redirects = 0;
    }

    pub(super) fn lose(&mut self, name: &str) {
        self.rows.retain(|row| row.name != name);
    }

    pub(super) fn apply(&mut self, step: &Step) {
        if self.deaf {
            return;
        }
        match step {
            Step::Services(services::Step::StartProcess { component, .. }) => {
                let component = component_named(component);
                self.start(&component);
            }
            Step::Stopped(stopped::Step::StopProcess { process, .. }) => self.delete(process),
            Step::Services(services::Step::DeleteEntries { processes, .. }) => {
                processes.iter().for_each(|name| self.delete(name));
            }
            Step::Services(services::Step::EndOrphan { orphan: process, .. })
            | Step::KubectlProxy(kubectl_proxy::Step::EndKubectlProxy { process, .. }) => {
                let same = self.processes.get(&process.pid).is_some_and(|found| {
                    found.started_ticks == process.started_ticks && found.command.contains(&process.signature)
                });
                if same {
                    self.end(process.pid);
                }
            }
            Step::KubectlProxy(kubectl_proxy::Step::StartKubectlProxy { port, .. }) => {
                let pid = self.spawn("/usr/bin/kubectl proxy --port=8085");
                self.listeners.insert(*port, pid);
            }
            Step::Machine(machine::Step::AuthorizeKey { .. }) => self.refuses = false,
            Step::ApiKeys(api_keys::Step::WriteApiKey { .. }) => self.key_search = None,
            Step::KubernetesApi(kubernetes_api::Step::RestartNode { .. }) => {}
            Step::Machine(machine::Step::Reboot { boot_id }) if *boot_id != self.boot_id() => {}
            Step::Machine(
                machine::Step::Reboot { .. } | machine::Step::PowerCycle { .. } | machine::Step::PowerOn { .. },
            ) => self.restart(),
            Step::ProxyRoutes(proxy_routes::Step::DeleteRoutes { routes, .. }) => {
                self.orphans.retain(|id| !routes.contains(id))
            }
            Step::PortRedirects(port_redirects::Step::InsertRedirect { .. }) => self.redirects = self.redirects.max(1),
            Step::PortRedirects(port_redirects::Step::DeleteExtraRedirects { .. }) => {
                self.redirects = self.redirects.min(1)
            }
            Step::Docker(step) => super::docker::apply(self, step),
            Step::Builds(builds::Step::FailBuild { name, started, .. }) => {
                let database = self.database.as_mut().unwrap();
                let same = |build: &Build| build.name.plain() == Some(name) && build.started == Some(*started);
                let (hung, others) = std::mem::take(&mut database.running).into_iter().partition(same);
                database.running = others;
                let hung: Vec<Build> = hung;
                database.owed.extend(hung.into_iter().map(|build| Build { marked: true, ..build }));
            }
            Step::Builds(builds::Step::RebuildBuild { name, .. }) => {
                let now = self.now;
                let database = self.database.as_mut().unwrap();
                let named = |build: &Build| build.name.plain() == Some(name);
                let (owed, others) = std::mem::take(&mut database.owed).into_iter().partition(named);
                database.owed = others;
                let owed: Vec<Build> = owed;
                database.running.extend(owed.into_iter().map(|build| Build { started: Some(now), ..build }));
            }
            Step::Backups(backups::Step::BackUp { .. }) if self.backups_fail => {}
            Step::Backups(backups::Step::BackUp { .. }) => {
                let backups = self.backups.as_mut().unwrap();
                backups.count += 1;
                let name = format!("backup-{}", backups.count);
                backups.last = Some(Good { name, at: self.now, documents: 1, bytes: 1 });
            }
            Step::Names(names::Step::FailUnusableBuild { .. }) => {}
            Step::Modules(_) if self.npm_fails => {}
            Step::Modules(modules::Step::InstallModule { change } | modules::Step::RevertModule { change }) => {
                self.web_module = Some((change.to.0.clone(), self.now.as_second() + 1));
            }
        }
    }

    /// How full the disk is, as `df` says it.
    fn disk(&self) -> u8 {
        match &self.docker {
            Some(docker) => u8::try_from((docker.used * 100).div_ceil(docker.used + docker.available)).unwrap(),
            None => self.disk,
        }
    }

    fn servers(&self) -> Servers {
        let mut seen = Servers::default();
        for server in web().servers {
            let (Some(route), name) = (catalogue::key_route(server), catalogue::server(server).name) else { continue };
            let key = match (self.listeners.contains_key(&route.port), self.other_key.contains(&name)) {
                (false, _) => Key::Silent("no connection to it".to_owned()),
                (true, true) => Key::Refused,
                (true, false) => Key::Accepted,
            };
            if key == Key::Accepted && server == Server::DeployKubernetes {
                seen.works.extend(["deploy".to_owned(), "build".to_owned()]);
            }
            if server == Server::Health {
                let now = self.now.as_second();
                let at = self.checker_stopped.unwrap_or(now - now % 40);
                let verdict = Verdict { running: !self.checker_wrong, at };
                let verdicts = JUDGED.iter().map(|name| ((*name).to_owned(), verdict)).collect();
                seen.health = Some(match key {
                    Key::Accepted => Ok(Health { verdicts }),
                    _ => Err("it does not answer".to_owned()),
                });
            }
            seen.keys.insert(name, key);
        }
        seen
    }

    pub(super) fn observe(&self) -> Observation {
        let redirect = "-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3000\n";
        let served = self.listeners.contains_key(&8085);
        let identity = Cluster::Identity("1b671a64-40d5-491e-99b0-da01ff1f3341".to_owned());
        Observation {
            machine: Known::Seen(Machine {
                boot_id: self.boot_id(),
                uptime: self.uptime,
                clock: self.now.as_second() + self.clock_off,
                uid: LOGIN,
                ticks: 100,
                memory_left: Some(60),
                processes: self.processes.clone(),
                listeners: self.listeners.iter().map(|(port, pid)| (*port, vec![*pid])).collect(),
                unseen_owners: None,
            }),
            pm2: Known::Seen(Table { daemon: true, rows: self.rows.clone(), ..Table::default() }),
            nat: if self.blind_nat {
                Known::Unknown(Blind { reason: Reason::ProbeTimedOut, message: "took too long".to_owned() })
            } else {
                Known::Seen(nat::said(&redirect.repeat(self.redirects)))
            },
            disks: Known::Seen(BTreeMap::from([("/".to_owned(), disks::Use::Percent(self.disk()))])),
            docker: self.docker.clone().map_or(Known::NotAsked, Known::Seen),
            proxy: Known::Seen(Proxy {
                kubectl: Kubectl::Script,
                program: None,
                files: crate::seen::proxy::Files::default(),
                cluster: if served { identity } else { Cluster::NoAnswer("refused".to_owned()) },
            }),
            servers: Known::Seen(self.servers()),
            key_search: self.key_search.clone(),
            routes: Known::Seen(Routes { live: 1, orphans: self.orphans.clone(), ..Routes::default() }),
            climbing: self.climbing.map(|name| (name.to_owned(), CLIMB)).into_iter().collect(),
            modules: self.web_module.as_ref().map_or(Known::NotAsked, |(version, since)| {
                let installed =
                    Installed { version: version.as_str().into(), place: HostPath::from("/opt/binder"), since: *since };
                Known::Seen(Modules::from([("binder-web".to_owned(), Found::Installed(installed))]))
            }),
            database: self.database.clone().map_or(Known::NotAsked, Known::Seen),
            backups: self.backups.clone().map_or(Known::NotAsked, Known::Seen),
            ..Observation::nothing(self.now)
        }
    }
}

pub(super) fn component_named(name: &str) -> Component {
    catalogue::described(&web()).into_iter().find(|component| component.name == name).unwrap()
}

/// The operator's side: what it remembers and wrote, with the API's whole seconds.
#[derive(Clone)]
pub(super) struct Operator {
    pub(super) spec: BinderHostSpec,
    pub(super) mode: Mode,
    pub(super) fleet: FleetView,
    pub(super) memory: Memory,
    pub(super) status: BinderHostStatus,
    pub(super) writes: usize,
    pub(super) ran: Vec<String>,
    pub(super) lasting: Lasting,
    pub(super) demanded: Demanded,
}

/// What was decided, with the status that is made of it.
pub(super) struct Decided {
    pub(super) status: BinderHostStatus,
    pub(super) finish: Vec<Finish>,
    pub(super) next: Next,
    pub(super) look_again: Duration,
    pub(super) demanded: Demanded,
}

impl Operator {
    pub(super) fn new(mode: Mode) -> Self {
        let patience = Patience {
            cooldown: Duration::from_secs(5),
            attempts: 3,
            refill_after: Duration::from_secs(60),
            dead_after: Duration::from_secs(60),
            // Tests restart the same machine for several reasons.
            per_day: 10,
        };
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
            lasting: Lasting::default(),
            demanded: Demanded::default(),
        }
    }

    pub(super) fn decide(&self, looked: &Looked, now: Timestamp) -> Decided {
        let host = Host {
            name: "web",
            uid: "uid-1",
            generation: 1,
            spec: &self.spec,
            mode: self.mode,
            suspended: None,
            previous: &self.status,
            demanded: &self.demanded,
        };
        let decision = decide(&host, looked, &self.memory, &self.fleet, now);
        let status = status::of(&host, looked, &decision, &self.fleet, now);
        let Decision { finish, next, look_again, demanded, .. } = decision;
        Decided { status, finish, next, look_again, demanded }
    }

    /// One pass, as the controller makes it; gives how long it would wait.
    pub(super) fn pass(&mut self, world: &mut World) -> Duration {
        self.pass_with(world, |world, step| world.apply(step))
    }

    pub(super) fn pass_with(&mut self, world: &mut World, act: impl FnOnce(&mut World, &Step)) -> Duration {
        let looked = if world.refuses {
            Looked::Failed(LookFailure {
                reason: "LoginRefused",
                message: "192.0.2.1:22 refuses the login".to_owned(),
                kind: FailureKind::Refused { public_key: PUBLIC_KEY.to_owned() },
                not_before: None,
            })
        } else if world.silent {
            Looked::Failed(LookFailure {
                reason: "Unreachable",
                message: "192.0.2.1:22 cannot be reached".to_owned(),
                kind: FailureKind::Silent,
                not_before: None,
            })
        } else {
            let mut seen = world.observe();
            self.lasting = self.lasting.carried(seen.marks(), seen.at);
            seen.lasting = self.lasting.clone();
            Looked::Seen(Box::new(seen))
        };
        let decision = self.decide(&looked, world.now);
        self.demanded = decision.demanded.clone();
        for finish in &decision.finish {
            let past = self.memory.actions.iter_mut().find(|past| past.name == finish.action).unwrap();
            past.end(finish, world.now);
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
            return WATCH;
        }
        decision.look_again
    }

    pub(super) fn record(&mut self, run: &Run, now: Timestamp) {
        let name = run.permit.action().to_owned();
        assert!(self.memory.actions.iter().all(|past| past.name != name), "{name} is recorded twice");
        assert_eq!(self.memory.open().count(), 0, "two steps at once");
        // Only a build is asked for elsewhere.
        let on = match run.step.kind() {
            "RebuildBuild" => self.fleet.build_server.as_ref().map(|build| build.uid.as_str()),
            _ => Some("uid-1"),
        };
        assert_eq!((run.permit.host(), Some(run.permit.done_on())), ("uid-1", on));
        let second = Timestamp::from_second(now.as_second()).unwrap();
        self.ran.push(run.step.kind().to_owned());
        self.memory.actions.push(Past {
            name,
            uid: String::new(),
            step: Some(run.step.clone()),
            kind: run.step.kind().to_owned(),
            subject: run.drift.subject.to_string(),
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

    pub(super) fn run(&mut self, world: &mut World, passes: usize) {
        for _ in 0..passes {
            let wait = self.pass(world);
            world.pass(wait.as_secs().max(1));
        }
    }

    pub(super) fn condition(&self, kind: &str) -> (&str, &str) {
        let found = self.status.conditions.iter().find(|condition| condition.type_ == kind);
        found.map_or(("", ""), |condition| (&condition.status, &condition.reason))
    }

    pub(super) fn healthy(&self) -> bool {
        self.condition(conditions::HEALTHY).0 == "True"
    }
}
