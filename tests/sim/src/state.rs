//! The state of one simulated world: objects, machines, network, operators, and the judge that watches. One lock; nothing is
//! awaited under it.

use crate::api::Store;
use crate::case::{Case, End, Fault, Faults};
use crate::coverage::Coverage;
use crate::judge::Judge;
use crate::machine::Machine;
use crate::rng::{Rng, hash};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The namespace of everything.
pub const NAMESPACE: &str = "binder";
/// The fleet.
pub const FLEET: &str = "fleet";

/// One life of an operator's process.
#[derive(Clone, Debug)]
pub struct Life {
    /// Whether it lives: what a dead one does never arrives, and neither do answers to it.
    pub alive: bool,
    /// When it began.
    pub since: Duration,
}

/// A path on which nothing passes.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// One end.
    pub one: End,
    /// The other one; `None`: whoever.
    pub other: Option<End>,
    /// Since when.
    pub since: Duration,
    /// Until when.
    pub until: Duration,
}

/// What is behind the lock.
#[derive(Debug)]
pub struct State {
    /// The case.
    pub case: Case,
    /// The objects.
    pub store: Store,
    /// How the objects were, every ten seconds, for a restore.
    pub backups: Vec<(Duration, Store)>,
    /// The machines.
    pub machines: Vec<Machine>,
    /// Who has been parted.
    pub cuts: Vec<Cut>,
    /// The operators, dead ones too.
    pub lives: Vec<Life>,
    /// By how many seconds the operators' clocks are ahead.
    pub skew: i64,
    /// Until when the API server is slow.
    pub api_slow: Duration,
    /// From now on nothing happens to calls.
    pub calm: bool,
    /// How often each call was made.
    calls: BTreeMap<String, u64>,
    /// What happened to calls.
    pub happened: BTreeMap<String, Fault>,
    /// The judge.
    pub judge: Judge,
    /// What occurred.
    pub coverage: Coverage,
    /// A hash of everything that passed a seam.
    pub trace: u64,
    /// How much passed the seams.
    pub passed: u64,
    /// Looks that were answered.
    pub looks: u64,
    /// The same in words, if somebody wants to read it.
    pub history: Option<Vec<String>>,
    /// Writes of operators, by what and when the last one was.
    pub last_write: Option<(Duration, String)>,
}

/// A simulated world.
#[derive(Debug)]
pub struct Sim {
    state: Mutex<State>,
    start: Instant,
    /// Something changed in the API.
    pub changed: Notify,
    /// The judge has found something.
    pub found: Notify,
    /// An operator died.
    pub died: Notify,
}

/// Where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// A call to the API.
    Api,
    /// A watch.
    Watch,
    /// A connection, or a question over one.
    Question,
    /// A look.
    Look,
    /// A command, or what a cloud is to change.
    Command,
}

const API: &[(Fault, u64)] = &[
    (Fault::LostRequest, 10),
    (Fault::LostAnswer, 12),
    (Fault::Conflict, 8),
    (Fault::TooMany, 8),
    (Fault::Broken, 8),
    (Fault::BrokenAfter, 8),
    (Fault::Doubled, 8),
    (Fault::Slow, 14),
    (Fault::Hang, 8),
    (Fault::KillBefore, 8),
    (Fault::KillAfter, 8),
];
const WATCH: &[(Fault, u64)] = &[(Fault::Cut, 3), (Fault::Stall, 3), (Fault::Expired, 2), (Fault::LostRequest, 2)];
const QUESTION: &[(Fault, u64)] = &[(Fault::LostRequest, 5), (Fault::Slow, 3), (Fault::Hang, 2)];
const LOOK: &[(Fault, u64)] = &[
    (Fault::LostRequest, 3),
    (Fault::Slow, 4),
    (Fault::Hang, 2),
    (Fault::Unknown, 5),
    (Fault::KillBefore, 1),
    (Fault::KillAfter, 1),
];
// There are few commands, and each is where harm is done: they have ten times the chance.
const COMMAND: &[(Fault, u64)] = &[
    (Fault::LostRequest, 4),
    (Fault::LostAnswer, 6),
    (Fault::Refused, 5),
    (Fault::Late, 5),
    (Fault::Slow, 4),
    (Fault::KillBefore, 4),
    (Fault::KillAfter, 4),
];

/// What is to happen to one call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its own chance.
    pub rng: Rng,
    /// The fault, if any.
    pub fault: Option<Fault>,
}

impl Call {
    /// How long the way there or back takes: a network's.
    pub fn way(&mut self) -> Duration {
        Duration::from_micros(self.rng.between(1_000, 20_000))
    }
}

impl Sim {
    /// A world that begins now.
    pub fn new(case: Case, machines: Vec<Machine>, told: bool) -> Arc<Self> {
        let state = State {
            judge: Judge::new(&case),
            case,
            store: Store::default(),
            backups: Vec::new(),
            machines,
            cuts: Vec::new(),
            lives: Vec::new(),
            skew: 0,
            api_slow: Duration::ZERO,
            calm: false,
            calls: BTreeMap::new(),
            happened: BTreeMap::new(),
            coverage: Coverage::default(),
            trace: 0,
            passed: 0,
            looks: 0,
            history: told.then(Vec::new),
            last_write: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            start: Instant::now(),
            changed: Notify::new(),
            found: Notify::new(),
            died: Notify::new(),
        })
    }

    /// Time since the world's beginning.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The state, with its clocks set.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        state.store.now = now;
        state
    }

    /// Whether an operator lives.
    pub fn lives(&self, who: usize) -> bool {
        self.lock().lives.get(who).is_some_and(|life| life.alive)
    }

    /// Goes on only for who lives: a dead process waits for ever.
    pub async fn fence(&self, who: usize) {
        if !self.lives(who) {
            std::future::pending::<()>().await;
        }
    }

    /// A call passes a seam; gives what is to happen to it.
    pub fn call(&self, who: usize, site: Site, words: &str) -> Call {
        let now = self.now();
        let mut state = self.lock();
        let count = state.calls.entry(words.to_owned()).or_default();
        *count += 1;
        let key = format!("{words} #{count}");
        // Whether something happens to it has dice of its own: a fault from a list moves no latency.
        let mut dice = Rng::named(!state.case.seed, &key);
        let rng = Rng::named(state.case.seed, &key);
        let fault = match &state.case.faults {
            _ if state.calm => None,
            Faults::Listed(list) => list.get(&key).copied(),
            Faults::Drawn(rate) => {
                let (of, times) = match site {
                    Site::Api => (API, 1),
                    Site::Watch => (WATCH, 3),
                    Site::Question => (QUESTION, 1),
                    Site::Look => (LOOK, 1),
                    Site::Command => (COMMAND, 10),
                };
                let chance = dice.one_in_million(rate * times);
                let mut at = dice.below(of.iter().map(|(_, weight)| weight).sum());
                let chosen = of.iter().find(|(_, weight)| {
                    let here = at < *weight;
                    at = at.saturating_sub(*weight);
                    here
                });
                chosen.filter(|_| chance).map(|(fault, _)| *fault)
            }
        };
        state.note(now, || format!("operator {who}: {key}{}", fault.map(|f| format!(" [{f:?}]")).unwrap_or_default()));
        if let Some(fault) = fault {
            state.coverage.fault(&format!("{fault:?}"));
            state.happened.insert(key, fault);
        }
        Call { rng, fault }
    }

    /// An operator dies at this moment.
    pub fn kill(&self, who: usize) {
        let now = self.now();
        let mut state = self.lock();
        if let Some(life) = state.lives.get_mut(who) {
            life.alive = false;
        }
        state.note(now, || format!("operator {who} is dead"));
        drop(state);
        self.changed.notify_waiters();
        self.died.notify_waiters();
    }

    /// Whether nothing passes between two ends now, and since when.
    pub fn parted(&self, one: End, other: End) -> Option<Duration> {
        let now = self.now();
        self.lock().parted(one, other, now)
    }
}

impl State {
    /// See [`Sim::parted`].
    pub fn parted(&self, one: End, other: End, now: Duration) -> Option<Duration> {
        let between = |cut: &&Cut| {
            cut.since <= now
                && now < cut.until
                && match cut.other {
                    None => cut.one == one || cut.one == other,
                    Some(end) => (cut.one, end) == (one, other) || (cut.one, end) == (other, one),
                }
        };
        self.cuts.iter().filter(between).map(|cut| cut.since).min()
    }

    /// Something passed a seam: it is part of the trace, and is told if somebody wants to read it.
    pub fn note(&mut self, now: Duration, words: impl FnOnce() -> String) {
        let words = words();
        self.passed += 1;
        self.trace =
            hash(words.as_bytes()) ^ self.trace.rotate_left(5) ^ u64::try_from(now.as_nanos()).unwrap_or_default();
        if let Some(history) = &mut self.history {
            history.push(format!("{:>9.3} {words}", now.as_secs_f64()));
        }
    }

    /// How many operators live.
    pub fn living(&self) -> usize {
        self.lives.iter().filter(|life| life.alive).count()
    }

    /// The machine at an address.
    pub fn at(&self, address: &str) -> Option<usize> {
        self.machines.iter().position(|machine| machine.address == address)
    }
}
