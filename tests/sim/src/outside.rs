//! The operator's way out into the simulated world: connections to machines, the cloud, what the network says. Everything that
//! the operator learns or does beyond the API passes here, and so does everything that can happen to it on the way.

use crate::api::Kind;
use crate::case::{End, Fault};
use crate::cloud::InCloud;
use crate::machine::Power;
use crate::state::{Call, Sim, Site};
use binder_core::facets::{Step, machine};
use binder_core::gate::Permit;
use binder_core::plan::outage::Addressed;
use binder_core::plan::{FailureKind, LookFailure, Looked};
use binder_core::seen::kubernetes::{Answers, Identified, Proxied};
use binder_core::seen::{Fact, Observation, Reason, Unknown};
use binder_crds::Desired;
use binder_crds::desired::{BackupPlace, KubernetesApi};
use binder_crds::references::GceHost;
use binder_operator::backup::BackupError;
use binder_operator::backup::store::Store;
use binder_operator::clock::Clock;
use binder_operator::execute::{CannotExecute, Hands, Sent, With};
use binder_operator::hosts::{
    Connect, ConnectError, Endpoint, Greeting, Kept, Presented, Reach, Stage, Target, Unreached,
};
use binder_operator::machines::{Machine, Outside};
use binder_operator::observe::kubernetes::{Through, Way};
use binder_operator::observe::{Eyes, FleetContext};
use binder_operator::power::{Power as Cloud, PowerError};
use futures::future::BoxFuture;
use secrecy::SecretString;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// `Limits::connect`.
const CONNECT: Duration = Duration::from_secs(10);
/// `Limits::handshake`.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// `Limits::look`.
const LOOK: Duration = Duration::from_secs(30);
/// `Limits::change`.
const CHANGE: Duration = Duration::from_secs(60);
/// `Limits::reach`.
const REACH: Duration = Duration::from_secs(5);
/// So long after a path broke, a connection is known to be dead: `Limits::keepalive`, three times and a bit.
const KEEPALIVE: Duration = Duration::from_secs(50);

/// One operator's way out.
#[derive(Clone, Debug)]
pub struct Out {
    /// The world.
    pub sim: Arc<Sim>,
    /// Which operator.
    pub who: usize,
    /// Its clock.
    pub clock: Clock,
}

/// What one machine, or the operator, finds at another.
enum Found {
    Answers,
    Refused,
    Accepts,
    Nothing,
}

impl Out {
    /// What is found at a machine's sshd from somewhere.
    fn finds(&self, from: End, machine: usize) -> Found {
        let now = self.sim.now();
        let state = self.sim.lock();
        if state.parted(from, End::Machine(machine), now).is_some() {
            return Found::Nothing;
        }
        match state.machines[machine].power {
            Power::On => Found::Answers,
            Power::Frozen(_) => Found::Accepts,
            Power::Hung(_) | Power::Off(_) => Found::Nothing,
            // The kernel is up before sshd is.
            Power::Booting { until, .. } if until.saturating_sub(now) < Duration::from_secs(5) => Found::Refused,
            Power::Booting { .. } => Found::Nothing,
        }
    }

    async fn log_in(&self, target: &Target) -> Result<Arc<dyn Machine>, ConnectError> {
        let at = target.endpoint();
        let words = format!("connect {}", target.name);
        let mut call = self.pass(Site::Question, &words).await;
        let machine = self.sim.lock().at(&target.address);
        let silent =
            |at: &Endpoint| ConnectError::Unreachable { at: at.clone(), why: Unreached::TimedOut { after: CONNECT } };
        let Some(machine) = machine else {
            sleep(CONNECT).await;
            return Err(silent(&at));
        };
        match (call.fault, self.finds(End::Operator, machine)) {
            (Some(Fault::LostRequest), _) => {
                return Err(ConnectError::Closed { at, stage: Stage::KeyExchange, said: String::new() });
            }
            (_, Found::Nothing) => {
                sleep(CONNECT).await;
                return Err(silent(&at));
            }
            (_, Found::Refused) => {
                return Err(ConnectError::Unreachable { at, why: Unreached::Refused });
            }
            (Some(Fault::Hang), _) | (_, Found::Accepts) => {
                sleep(HANDSHAKE).await;
                return Err(ConnectError::Hung { at, stage: Stage::Greeting, after: HANDSHAKE });
            }
            (_, Found::Answers) => {}
        }
        sleep(call.way() * 4).await;
        self.sim.fence(self.who).await;
        let now = self.sim.now();
        let state = self.sim.lock();
        let there = &state.machines[machine];
        if there.key != 0 {
            let pinned = target.host_keys.iter().map(ToString::to_string).collect();
            return Err(ConnectError::HostKeyMismatch {
                at,
                presented: Presented::Kinds(vec!["ssh-rsa".to_owned()]),
                pinned,
            });
        }
        if there.refuses {
            return Err(ConnectError::LoginRefused {
                at,
                user: target.user.clone(),
                fingerprint: target.key.fingerprint().to_owned(),
                key_version: target.key.version().to_owned(),
            });
        }
        Ok(Arc::new(Connection {
            out: self.clone(),
            host: target.id.clone(),
            name: target.name.clone(),
            machine,
            started: there.started,
            made: now,
            opened: Instant::now(),
            closed: AtomicBool::new(false),
        }))
    }

    /// A call passes on its way out.
    pub(crate) async fn pass(&self, site: Site, words: &str) -> Call {
        self.sim.fence(self.who).await;
        let mut call = self.sim.call(self.who, site, words);
        sleep(call.way()).await;
        match call.fault {
            Some(Fault::Slow) => sleep(Duration::from_millis(call.rng.between(500, 9_000))).await,
            Some(Fault::KillBefore) => self.sim.kill(self.who),
            _ => {}
        }
        self.sim.fence(self.who).await;
        call
    }

    /// A call is done, and its answer is on its way back.
    pub(crate) async fn back(&self, call: &mut Call) {
        if call.fault == Some(Fault::KillAfter) {
            self.sim.kill(self.who);
        }
        sleep(call.way()).await;
        self.sim.fence(self.who).await;
    }

    /// What is heard from a place, and for how long it is waited.
    async fn hears(&self, from: End, address: &str, port: u16, limit: Duration) -> Greeting {
        let silent = || Greeting::Not(Reach::TimedOut { after: limit });
        let Some(machine) = self.sim.lock().at(address) else {
            sleep(limit).await;
            return silent();
        };
        match self.finds(from, machine) {
            Found::Nothing => {
                sleep(limit).await;
                silent()
            }
            Found::Refused => Greeting::Not(Reach::Refused),
            Found::Accepts => {
                sleep(limit).await;
                Greeting::Silent
            }
            Found::Answers if port == 22 => Greeting::Ssh,
            Found::Answers => {
                let now = self.sim.now();
                let mut state = self.sim.lock();
                state.machines[machine].sync(now);
                if state.machines[machine].world.listeners.contains_key(&port) {
                    Greeting::Spoke
                } else {
                    Greeting::Not(Reach::Refused)
                }
            }
        }
    }

    /// Somebody told something about a silent host at this address.
    pub(crate) fn learned(&self, address: &str) {
        let now = self.sim.now();
        let mut state = self.sim.lock();
        let of: Vec<String> = state
            .store
            .all(Kind::Host)
            .filter(|host| host["spec"]["address"] == address)
            .filter_map(|host| host["metadata"]["uid"].as_str().map(str::to_owned))
            .collect();
        for host in of {
            state.judge.learned(self.who, &host, now);
        }
    }
}

impl Connect<dyn Machine> for Out {
    fn connect<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Arc<dyn Machine>, ConnectError>> {
        Box::pin(async move {
            let made = self.log_in(target).await;
            if let Err(error) = &made {
                // Who cannot be entered is not seen, and that is known now.
                let now = self.sim.now();
                let mut state = self.sim.lock();
                state.note(now, || format!("operator {}: {error}", self.who));
                if let ConnectError::LoginRefused { key_version, .. } = error {
                    state.judge.login_refused(self.who, &target.id, key_version, now);
                }
                if let Some(machine) = state.at(&target.address) {
                    state.judge.looked(self.who, &target.id, machine, None, now);
                }
                state.judge.learned(self.who, &target.id, now);
            }
            made
        })
    }
}

impl Outside for Out {
    fn knock<'a>(&'a self, address: &'a str, port: u16, limit: Duration) -> BoxFuture<'a, Greeting> {
        Box::pin(async move {
            let mut call = self.pass(Site::Question, &format!("knock {address}")).await;
            if call.fault == Some(Fault::LostRequest) {
                sleep(limit).await;
                return Greeting::Not(Reach::TimedOut { after: limit });
            }
            let heard = self.hears(End::Operator, address, port, limit).await;
            self.back(&mut call).await;
            heard
        })
    }

    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Addressed> {
        let found = address.parse().map_or(Addressed::Unresolved, |literal| Addressed::At(BTreeSet::from([literal])));
        Box::pin(async move { found })
    }

    fn cloud(&self, described: &GceHost, _: &SecretString) -> Result<Box<dyn Cloud>, PowerError> {
        Ok(Box::new(InCloud::of(self.clone(), &described.instance.0)))
    }

    fn store(
        &self,
        _: &BackupPlace,
        _: &str,
        _: &str,
        _: &BTreeMap<String, SecretString>,
    ) -> Result<Store, BackupError> {
        Err(BackupError::Place("there is no place for backups in this world".to_owned()))
    }
}

/// A login on a machine.
#[derive(Debug)]
struct Connection {
    out: Out,
    host: String,
    name: String,
    machine: usize,
    /// When the boot began in which it was made.
    started: Duration,
    made: Duration,
    opened: Instant,
    closed: AtomicBool,
}

/// How the other end of a connection is.
enum Line {
    Alive,
    /// Nothing comes back; since then.
    Dead(Duration),
    /// The other end knows nothing of it.
    Gone,
}

impl Connection {
    fn line(&self) -> Line {
        let now = self.out.sim.now();
        let state = self.out.sim.lock();
        let machine = &state.machines[self.machine];
        let parted = state.parted(End::Operator, End::Machine(self.machine), now);
        if self.closed.load(Ordering::Relaxed) {
            return Line::Gone;
        }
        match machine.power {
            _ if parted.is_some() => Line::Dead(parted.unwrap_or_default()),
            Power::On if machine.started != self.started || machine.key != 0 => Line::Gone,
            Power::On => Line::Alive,
            Power::Frozen(since) | Power::Hung(since) | Power::Off(since) | Power::Booting { since, .. } => {
                Line::Dead(since)
            }
        }
    }

    fn failed(reason: &'static str, message: String) -> Looked {
        Looked::Failed(LookFailure { reason, message, kind: FailureKind::Silent, not_before: None })
    }

    async fn look(&self, around: &FleetContext) -> Looked {
        let out = &self.out;
        let mut call = out.pass(Site::Look, &format!("look {}", self.name)).await;
        // A look takes as long as its slowest section.
        sleep(Duration::from_millis(call.rng.between(100, 900))).await;
        out.sim.fence(out.who).await;
        match (call.fault, self.line()) {
            (Some(Fault::LostRequest), _) | (_, Line::Gone) => {
                self.close();
                return Self::failed("ConnectionLost", format!("{}: the connection was lost", self.name));
            }
            (Some(Fault::Hang), _) | (_, Line::Dead(_)) => {
                sleep(LOOK).await;
                out.sim.fence(out.who).await;
                self.close();
                return Self::failed("NoAnswer", format!("{}: no answer within {} s", self.name, LOOK.as_secs()));
            }
            (_, Line::Alive) => {}
        }
        let mut seen = self.seen(around);
        out.back(&mut call).await;
        if call.fault == Some(Fault::Slow) {
            sleep(Duration::from_millis(call.rng.between(1_000, 12_000))).await;
        }
        if call.fault == Some(Fault::Unknown) {
            blind(&mut seen, &mut call);
        }
        out.sim.fence(out.who).await;
        seen.at = out.clock.now();
        Looked::Seen(Box::new(seen))
    }

    /// What is so on the machine at this moment.
    fn seen(&self, around: &FleetContext) -> Observation {
        let now = self.out.sim.now();
        let mut state = self.out.sim.lock();
        state.machines[self.machine].sync(now);
        let mut seen = state.machines[self.machine].world.observe();
        if let Some(Err(why)) = &around.api_key {
            seen.servers = Fact::Unknown(Unknown { reason: Reason::KeyUnknown, message: why.clone() });
        }
        let well = state.machines[self.machine].well_since.is_some();
        state.judge.looked(self.out.who, &self.host, self.machine, Some(well), now);
        state.looks += 1;
        state.note(now, || format!("operator {} looked at {} (as described: {well})", self.out.who, self.name));
        seen
    }

    async fn do_step(&self, step: &Step, permit: Permit) -> Sent {
        let out = &self.out;
        let words = format!("{} on {}", step.kind(), self.name);
        out.sim.fence(out.who).await;
        {
            let now = out.sim.now();
            let mut state = out.sim.lock();
            state.note(now, || format!("operator {}: {}", out.who, step.words()));
            state.judge_step(out.who, step, &permit, self.machine, now);
            let found = !state.judge.found.is_empty();
            drop(state);
            if found {
                out.sim.found.notify_waiters();
            }
        }
        let mut call = out.pass(Site::Command, &words).await;
        match (call.fault, self.line()) {
            (_, Line::Gone) => {
                self.close();
                return Sent { may_have_run: false, said: "the connection was lost".to_owned() };
            }
            (_, Line::Dead(_)) => {
                sleep(CHANGE).await;
                self.close();
                return Sent { may_have_run: true, said: "no end was seen within 60 s".to_owned() };
            }
            (Some(Fault::LostRequest), _) => {
                self.close();
                return Sent { may_have_run: true, said: "the connection was lost".to_owned() };
            }
            (Some(Fault::Refused), _) => return Sent { may_have_run: true, said: "exit code 1: no".to_owned() },
            (Some(Fault::Late), _) => {
                let (sim, machine, step) = (Arc::clone(&out.sim), self.machine, step.clone());
                let (boot, late) = (self.started, Duration::from_millis(call.rng.between(5_000, 50_000)));
                tokio::spawn(async move {
                    sleep(late).await;
                    let same = sim.lock().machines[machine].started == boot;
                    if same {
                        runs(&sim, machine, &step);
                    }
                });
                sleep(Duration::from_millis(call.rng.between(1_000, 4_000))).await;
                self.close();
                return Sent { may_have_run: true, said: "the connection was lost".to_owned() };
            }
            (_, Line::Alive) => {}
        }
        sleep(Duration::from_millis(call.rng.between(50, 2_500))).await;
        runs(&out.sim, self.machine, step);
        out.back(&mut call).await;
        if matches!(step, Step::Machine(machine::Step::Reboot { .. })) || call.fault == Some(Fault::LostAnswer) {
            self.close();
            return Sent { may_have_run: true, said: "the connection was lost".to_owned() };
        }
        Sent { may_have_run: true, said: "exit code 0".to_owned() }
    }
}

/// A command runs on a machine, if the machine still runs.
fn runs(sim: &Arc<Sim>, machine: usize, step: &Step) {
    let now = sim.now();
    let mut state = sim.lock();
    let there = &mut state.machines[machine];
    if there.power != Power::On {
        return;
    }
    there.sync(now);
    if let Step::Machine(machine::Step::Reboot { boot_id }) = step {
        let deaf = there.world.deaf || there.world.boot_id() != *boot_id;
        drop(state);
        if !deaf {
            boots(sim, machine);
        }
        return;
    }
    there.apply(step, now);
    state.note(now, || format!("machine {machine} did {}", step.words()));
}

/// A machine begins to boot.
pub fn boots(sim: &Arc<Sim>, machine: usize) {
    let now = sim.now();
    let mut state = sim.lock();
    let until = state.machines[machine].boots(now);
    state.note(now, || format!("machine {machine} boots until {:.0} s", until.as_secs_f64()));
    drop(state);
    let sim = Arc::clone(sim);
    tokio::spawn(async move {
        sleep(until.saturating_sub(now)).await;
        let now = sim.now();
        let mut state = sim.lock();
        // Unless it was switched off or started again meanwhile.
        if matches!(state.machines[machine].power, Power::Booting { until: known, .. } if known == until) {
            state.machines[machine].booted(now);
            state.note(now, || format!("machine {machine} is up"));
        }
    });
}

/// Some sections of a look ran out of time.
fn blind(seen: &mut Observation, call: &mut Call) {
    let unseen = || Unknown { reason: Reason::ProbeTimedOut, message: "looking took longer than 10 s".to_owned() };
    let which = call.rng.between(1, 127);
    let mut parts = (0..).map(|bit| which & (1 << bit) != 0);
    let mut hidden = || parts.next().unwrap_or_default();
    if hidden() {
        seen.pm2 = Fact::Unknown(unseen());
    }
    if hidden() {
        seen.nat = Fact::Unknown(unseen());
    }
    if hidden() {
        seen.disks = Fact::Unknown(unseen());
    }
    if hidden() {
        seen.proxy = Fact::Unknown(unseen());
    }
    if hidden() {
        seen.servers = Fact::Unknown(unseen());
    }
    if hidden() {
        seen.docker = Fact::Unknown(unseen());
    }
    if hidden() {
        seen.machine = Fact::Unknown(unseen());
    }
}

impl Kept for Connection {
    fn is_open(&self) -> bool {
        match self.line() {
            Line::Alive => true,
            // Nobody has noticed yet that the other end forgot it.
            Line::Gone => !self.closed.load(Ordering::Relaxed),
            Line::Dead(since) => self.out.sim.now().saturating_sub(since.max(self.made)) < KEEPALIVE,
        }
    }

    fn needs_reconnect(&self) -> bool {
        false
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn opened(&self) -> Instant {
        self.opened
    }

    fn ending_in_words(&self) -> String {
        "the connection was lost".to_owned()
    }
}

impl Eyes for Connection {
    fn look<'a>(&'a self, _: &'a Desired, around: &'a FleetContext) -> BoxFuture<'a, Looked> {
        Box::pin(async move {
            let looked = Connection::look(self, around).await;
            let now = self.out.sim.now();
            let mut state = self.out.sim.lock();
            if let Looked::Failed(_) = looked {
                state.judge.looked(self.out.who, &self.host, self.machine, None, now);
            }
            state.judge.learned(self.out.who, &self.host, now);
            looked
        })
    }

    fn ask_servers<'a>(
        &'a self,
        _: &'a Desired,
        around: &'a FleetContext,
        seen: &'a mut Observation,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // A question of its own; what a world says of its servers, it says in a look.
            if let Looked::Seen(now) = Connection::look(self, around).await {
                seen.servers = now.servers;
            }
        })
    }

    fn cluster<'a>(&'a self, way: &'a Way, _: &'a KubernetesApi) -> BoxFuture<'a, Through> {
        Box::pin(async move {
            let nothing = "no cluster is simulated".to_owned();
            let proxied = Proxied {
                via: way.host.clone(),
                answer: Answers::Unclear(nothing.clone()),
                cluster: Identified::Never,
            };
            (proxied, Err(nothing), None)
        })
    }

    fn greeting<'a>(&'a self, address: &'a str, port: u16, _: &'a [u8]) -> BoxFuture<'a, Greeting> {
        Box::pin(async move {
            let words = format!("{} asks {address}:{port}", self.name);
            let mut call = self.out.pass(Site::Question, &words).await;
            match (call.fault, self.line()) {
                (Some(Fault::LostRequest), _) | (_, Line::Gone) => {
                    return Greeting::Not(Reach::Unknown("its own connection was lost".to_owned()));
                }
                (Some(Fault::Hang), _) | (_, Line::Dead(_)) => {
                    sleep(REACH).await;
                    return Greeting::Not(Reach::TimedOut { after: REACH });
                }
                (_, Line::Alive) => {}
            }
            let heard = self.out.hears(End::Machine(self.machine), address, port, REACH).await;
            self.out.back(&mut call).await;
            self.out.learned(address);
            heard
        })
    }

    fn is_alive(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let mut call = self.out.pass(Site::Question, &format!("{} lives", self.name)).await;
            match self.line() {
                Line::Alive if call.fault != Some(Fault::LostRequest) => {
                    self.out.back(&mut call).await;
                    true
                }
                Line::Dead(_) => {
                    sleep(REACH).await;
                    false
                }
                Line::Alive | Line::Gone => false,
            }
        })
    }
}

impl Hands for Connection {
    fn host(&self) -> &str {
        &self.host
    }

    fn carry_out<'a>(&'a self, step: &'a Step, permit: Permit, _: With) -> BoxFuture<'a, Result<Sent, CannotExecute>> {
        Box::pin(async move { Ok(self.do_step(step, permit).await) })
    }
}

impl Machine for Connection {}
