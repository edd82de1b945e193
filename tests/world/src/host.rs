//! The machine's life: what runs on it, what a step does to it, how time passes.

use crate::{docker, web};
use binder_core::catalogue::{self, Component};
use binder_core::facets::{
    Step, api_keys, backups, builds, kubectl_proxy, kubernetes_api, machine, modules, names, port_redirects,
    proxy_routes, services, stopped,
};
use binder_core::seen::backups::{Backups, Good};
use binder_core::seen::database::{Build, Database};
use binder_core::seen::docker::Docker;
use binder_core::seen::keys::KeySearch;
use binder_core::seen::machine::Process;
use binder_core::seen::pm2::{Row, State};
use binder_core::seen::routes::AppId;
use binder_crds::Desired;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// The user id of the login.
pub const LOGIN: u32 = 1000;

/// A machine that does what steps say, most of the time.
#[derive(Clone, Debug)]
pub struct World {
    /// What is described, and so what there is to start.
    pub desired: Desired,
    /// The time, by a clock that is right.
    pub now: Timestamp,
    /// Seconds since it was started.
    pub uptime: u64,
    /// The process id that was given last.
    pub next_pid: u32,
    /// What runs, by process id.
    pub processes: BTreeMap<u32, Process>,
    /// Who listens, by TCP port.
    pub listeners: BTreeMap<u16, u32>,
    /// pm2's table.
    pub rows: Vec<Row>,
    /// How often the redirect of port 80 is there.
    pub redirects: usize,
    /// How full its disk is, in per cent, where Docker does not fill it.
    pub disk: u8,
    /// Whether its rules cannot be seen.
    pub blind_nat: bool,
    /// Docker, and with it the disk that holds its data.
    pub docker: Option<Docker>,
    /// Which boot it runs.
    pub boot: u32,
    /// Why nobody can look at it, if so.
    pub silent: bool,
    /// What is found of the API key, while the Secret lacks it.
    pub key_search: Option<KeySearch>,
    /// Whether it refuses our login.
    pub refuses: bool,
    /// Processes that start and end at once, by pm2's name.
    pub broken: Vec<String>,
    /// Servers that run with another API key than the Secret's.
    pub other_key: BTreeSet<String>,
    /// When the health checker stopped going its rounds, by the host's clock.
    pub checker_stopped: Option<i64>,
    /// Whether it says down of what works.
    pub checker_wrong: bool,
    /// Routes without a namespace.
    pub orphans: BTreeSet<AppId>,
    /// A process that pm2 restarts again and again.
    pub climbing: Option<&'static str>,
    /// Steps whose command does nothing at all.
    pub deaf: bool,
    /// The database, where one is described.
    pub database: Option<Database>,
    /// Its backups, where they are described.
    pub backups: Option<Backups>,
    /// The installed version of `binder-web`, which `web` uses, and since when it is there.
    pub web_module: Option<(String, i64)>,
    /// The version of it with which `web` ends at once.
    pub bad_version: &'static str,
    /// Whether npm cannot get anything.
    pub npm_fails: bool,
    /// Whether no backup can be made.
    pub backups_fail: bool,
    /// How many seconds a component takes from its start until it listens.
    pub settles: u64,
    /// Ports that will be listened on: from which second of this boot, and by which process.
    pub progressing: Vec<(u64, u16, u32)>,
    /// By how many seconds its clock is ahead of the operator's.
    pub clock_off: i64,
}

impl World {
    /// One on which nothing runs yet, at a certain moment.
    pub fn bare() -> Self {
        Self {
            desired: web(),
            now: Timestamp::constant(1_795_316_400, 250_000_000),
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
            settles: 0,
            progressing: Vec::new(),
            clock_off: 0,
        }
    }

    /// Time passes.
    pub fn pass(&mut self, seconds: u64) {
        self.now += SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        self.uptime += seconds;
        let (ready, later) = std::mem::take(&mut self.progressing).into_iter().partition(|(at, ..)| *at <= self.uptime);
        self.progressing = later;
        let ready: Vec<(u64, u16, u32)> = ready;
        for (_, port, pid) in ready {
            if self.processes.contains_key(&pid) {
                self.listeners.entry(port).or_insert(pid);
            }
        }
    }

    /// A process of the login's begins; gives its id.
    pub fn spawn(&mut self, command: &str) -> u32 {
        self.next_pid += 1;
        let process = Process { parent: 1, uid: LOGIN, started_ticks: self.uptime * 100, command: command.to_owned() };
        self.processes.insert(self.next_pid, process);
        self.next_pid
    }

    /// pm2 takes a process into its table.
    pub fn row(&mut self, name: &str, pid: u32) {
        let id = self.rows.iter().map(|row| row.id + 1).max().unwrap_or_default();
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

    /// A component is started, with its children.
    pub fn start(&mut self, component: &Component) {
        if self.broken.contains(&component.process) {
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
            if self.settles == 0 {
                self.listeners.entry(*port).or_insert(pid);
            } else {
                self.progressing.push((self.uptime + self.settles, *port, pid));
            }
        }
    }

    /// A process ends.
    pub fn end(&mut self, pid: u32) {
        self.processes.remove(&pid);
        self.listeners.retain(|_, owner| *owner != pid);
    }

    /// pm2 ends what has a name, and forgets it.
    pub fn delete(&mut self, name: &str) {
        let (gone, kept) = std::mem::take(&mut self.rows).into_iter().partition(|row: &Row| row.name == name);
        self.rows = kept;
        let gone: Vec<Row> = gone;
        gone.iter().filter_map(|row| row.pid).for_each(|pid| self.end(pid));
    }

    /// The id of its boot.
    pub fn boot_id(&self) -> String {
        format!("boot-{:04}", self.boot)
    }

    /// Everything of the boot goes: processes, pm2's table, rules.
    pub fn restart(&mut self) {
        self.boot += 1;
        self.uptime = 1;
        self.silent = false;
        self.processes.clear();
        self.listeners.clear();
        self.rows.clear();
        self.redirects = 0;
        self.progressing.clear();
    }

    /// pm2 forgets what has a name, and it runs on.
    pub fn lose(&mut self, name: &str) {
        self.rows.retain(|row| row.name != name);
    }

    /// A component that is described here, by its name.
    pub fn component(&self, name: &str) -> Option<Component> {
        catalogue::described(&self.desired).into_iter().find(|component| component.name == name)
    }

    /// What a step does to it.
    pub fn apply(&mut self, step: &Step) {
        if self.deaf {
            return;
        }
        match step {
            Step::Services(services::Step::StartProcess { component, .. }) => {
                if let Some(component) = self.component(component) {
                    self.start(&component);
                }
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
                self.orphans.retain(|id| !routes.contains(id));
            }
            Step::PortRedirects(port_redirects::Step::InsertRedirect { .. }) => self.redirects = self.redirects.max(1),
            Step::PortRedirects(port_redirects::Step::DeleteExtraRedirects { .. }) => {
                self.redirects = self.redirects.min(1);
            }
            Step::Docker(step) => docker::apply(self, step),
            Step::Builds(builds::Step::FailBuild { name, started, .. }) => {
                let Some(database) = self.database.as_mut() else { return };
                let same = |build: &Build| build.name.plain() == Some(name) && build.started == Some(*started);
                let (hung, others) = std::mem::take(&mut database.running).into_iter().partition(same);
                database.running = others;
                let hung: Vec<Build> = hung;
                database.owed.extend(hung.into_iter().map(|build| Build { marked: true, ..build }));
            }
            Step::Builds(builds::Step::RebuildBuild { name, .. }) => {
                let now = self.now;
                let Some(database) = self.database.as_mut() else { return };
                let named = |build: &Build| build.name.plain() == Some(name);
                let (owed, others) = std::mem::take(&mut database.owed).into_iter().partition(named);
                database.owed = others;
                let owed: Vec<Build> = owed;
                database.running.extend(owed.into_iter().map(|build| Build { started: Some(now), ..build }));
            }
            Step::Backups(backups::Step::BackUp { .. }) if self.backups_fail => {}
            Step::Backups(backups::Step::BackUp { .. }) => {
                let Some(backups) = self.backups.as_mut() else { return };
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
}
