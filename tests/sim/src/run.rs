//! One run of one case: a fresh thread, a paused clock, the operators, what happens, the calm, the judge's word.

use crate::api::service::Service;
use crate::case::{Case, Fault};
use crate::coverage::Coverage;
use crate::judge::{End, Violation};
use crate::machine::Machine;
use crate::outside::Out;
use crate::owner::Owner;
use crate::play::play;
use crate::rng::Rng;
use crate::state::{Life, NAMESPACE, Sim};
use crate::tamed;
use binder_operator::clock::{Clock, Dice};
use binder_operator::config::{CommandLine, Config};
use binder_operator::controllers::{self, Clients, Shared};
use binder_operator::heartbeat::Heartbeat;
use binder_operator::machines::Surroundings;
use binder_operator::metrics::Metrics;
use clap::Parser;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What must not be and was; the first counts.
    pub found: Vec<Violation>,
    /// A hash of everything that passed a seam.
    pub trace: u64,
    /// How much did.
    pub passed: u64,
    /// How many looks were answered.
    pub looks: u64,
    /// How long it lasted in the world's time.
    pub lasted: Duration,
    /// What happened to calls.
    pub happened: BTreeMap<String, Fault>,
    /// What occurred.
    pub coverage: Coverage,
    /// The history, if it was wanted.
    pub history: Vec<String>,
}

/// How long the calm may take until every host has ended: longer than all pauses and boots together.
const CALM: Duration = Duration::from_secs(75 * 60);
/// Once they have ended, nothing is written for so long before it counts: the longest pause between two attempts to connect is
/// 5 min, and so is the longest `unreachableTimeout` here.
const SETTLED: Duration = Duration::from_secs(340);
/// The same where every host is well: who was not greeted by a neighbour is greeted within a minute, and the health checker's
/// verdicts are old after three.
const SETTLED_WELL: Duration = Duration::from_secs(220);
/// The same where a machine has another host key: it is asked again after 10 min.
const SETTLED_BY_KEY: Duration = Duration::from_secs(640);
/// And then nothing for so long.
const QUIET: Duration = Duration::from_secs(100);

static CONFIG: LazyLock<Option<Config>> = LazyLock::new(|| {
    let flags = [
        "--namespace",
        NAMESPACE,
        "--min-unreachable-timeout",
        "30s",
        "--min-retry-period",
        "5s",
        "--min-healthy-period",
        "30s",
    ];
    CommandLine::try_parse_from(std::iter::once("binder-operator").chain(flags)).ok().map(|line| line.config)
});

/// Runs a case on a thread of its own. `told`: with its history.
///
/// # Panics
/// When the simulation itself does: the operator's own panics are caught by it and are conditions.
pub fn run(case: &Case, told: bool) -> Outcome {
    // Outside of any world: flags are read once.
    LazyLock::force(&CONFIG);
    let case = case.clone();
    let work = move || {
        tamed::enter(case.seed);
        let start = std::cell::OnceCell::new();
        thread_local! { static START: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) } }
        let ticks = || {
            if let Some(start) = START.get() {
                tamed::tick(start.elapsed());
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_unpark(ticks)
            .build();
        let Ok(runtime) = runtime else { return None };
        let outcome = runtime.block_on(async {
            START.set(Some(*start.get_or_init(Instant::now)));
            live(case, told).await
        });
        START.set(None);
        Some(outcome)
    };
    let thread = std::thread::Builder::new().name("world".to_owned()).stack_size(16 << 20).spawn(work);
    match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(Some(outcome))) => outcome,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Ok(Ok(None)) | Err(_) => panic!("no thread or runtime for a world"),
    }
}

/// The operators' processes.
#[derive(Debug, Default)]
pub struct Operators {
    all: Mutex<Vec<Process>>,
    /// How long the next start waits.
    again: Mutex<Option<Duration>>,
}

#[derive(Debug)]
struct Process {
    who: usize,
    work: JoinHandle<()>,
    stop: CancellationToken,
}

impl Operators {
    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Process>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one; gives its number.
    pub fn start(&self, sim: &Arc<Sim>) -> usize {
        let who = {
            let now = sim.now();
            let mut state = sim.lock();
            state.lives.push(Life { alive: true, since: now });
            let who = state.lives.len() - 1;
            state.note(now, || format!("operator {who} starts"));
            who
        };
        let clock = {
            let sim = Arc::clone(sim);
            Clock::of(move || {
                let base = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(tamed::EPOCH);
                let since = SignedDuration::try_from(sim.now()).unwrap_or_default();
                base + since + SignedDuration::from_secs(sim.lock().skew)
            })
        };
        let dice = {
            let throws = Mutex::new(Rng::named(sim.lock().case.seed, &format!("dice of operator {who}")));
            Dice::of(move || throws.lock().unwrap_or_else(PoisonError::into_inner).draw())
        };
        let jitter = {
            let throws = Mutex::new(Rng::named(sim.lock().case.seed, &format!("jitter of operator {who}")));
            Arc::new(move |most: Duration| {
                let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
                let throw = throws.lock().unwrap_or_else(PoisonError::into_inner).below(millis + 1);
                Duration::from_millis(throw)
            })
        };
        let outside = Arc::new(Out { sim: Arc::clone(sim), who, clock: clock.clone() });
        let client = Client::new(Service::of(Arc::clone(sim), who), NAMESPACE);
        let stop = CancellationToken::new();
        let shared = Shared {
            metrics: Arc::new(Metrics::default()),
            ready: Arc::new(AtomicBool::new(false)),
            heartbeat: Arc::new(Heartbeat::default()),
            stop: stop.clone(),
        };
        let surroundings = Surroundings { outside, clock, dice, jitter };
        let clients = Clients::of(client.clone(), client);
        let Some(config) = CONFIG.clone() else { return who };
        let world = Arc::clone(sim);
        let work = tokio::spawn(async move {
            let ended = controllers::run(clients, config, shared, surroundings).await;
            if ended.is_err() {
                // A process whose controllers end by themselves ends, and is started again.
                world.kill(who);
            }
        });
        self.all().push(Process { who, work, stop });
        who
    }

    /// Kills one at this moment.
    pub fn kill(&self, sim: &Sim, who: usize) {
        sim.kill(who);
    }

    /// Kills all that live; the next start waits so long.
    pub fn kill_all(&self, sim: &Sim, again: Duration) {
        *self.again.lock().unwrap_or_else(PoisonError::into_inner) = Some(again);
        let living: Vec<usize> = self.all().iter().map(|process| process.who).collect();
        living.into_iter().for_each(|who| sim.kill(who));
    }

    /// Tells all that live to end.
    pub fn tell_to_end(&self) -> Vec<usize> {
        let all = self.all();
        all.iter().for_each(|process| process.stop.cancel());
        all.iter().map(|process| process.who).collect()
    }

    /// Cleans up after the dead, and starts another one where none lives.
    async fn supervise(self: Arc<Self>, sim: Arc<Sim>) {
        loop {
            let died = sim.died.notified();
            tokio::pin!(died);
            died.as_mut().enable();
            {
                let mut all = self.all();
                all.iter().filter(|process| !sim.lives(process.who)).for_each(|process| process.work.abort());
                all.retain(|process| sim.lives(process.who));
            }
            if sim.lock().living() == 0 {
                let again = self.again.lock().unwrap_or_else(PoisonError::into_inner).take();
                let drawn = {
                    let state = sim.lock();
                    Rng::named(state.case.seed, &format!("start {}", state.lives.len())).between(1, 20)
                };
                sleep(again.unwrap_or(Duration::from_secs(drawn))).await;
                if sim.lock().living() == 0 {
                    self.start(&sim);
                }
                continue;
            }
            died.await;
        }
    }
}

/// What runs beside: the garbage collector, and copies of the objects for a restore.
async fn background(sim: Arc<Sim>) {
    let copies = sim.lock().case.events.iter().any(|(_, event)| matches!(event, crate::case::Event::Restored(_)));
    loop {
        sleep(Duration::from_secs(5)).await;
        {
            let now = sim.now();
            let mut state = sim.lock();
            state.store.collect();
            if copies && !state.calm {
                let copy = state.store.clone();
                state.backups.push((now, copy));
            }
        }
        sim.changed.notify_waiters();
    }
}

async fn live(case: Case, told: bool) -> Outcome {
    let mut rng = Rng::named(case.seed, "machines");
    let machines =
        case.roles.iter().enumerate().map(|(number, role)| {
            Machine::new(number, *role, rng.percent(25), rng.between(0, 20), rng.between(15, 120))
        });
    let machines = machines.collect();
    let busy = Duration::from_secs(case.busy);
    let owner = Owner::of(&case);
    let sim = Sim::new(case, machines, told);
    let operators = Arc::new(Operators::default());
    owner.begins(&mut sim.lock());
    operators.start(&sim);
    let supervisor = tokio::spawn(Arc::clone(&operators).supervise(Arc::clone(&sim)));
    let background = tokio::spawn(background(Arc::clone(&sim)));
    let play = tokio::spawn(play(Arc::clone(&sim), Arc::clone(&operators), owner));
    let work = async {
        if play.await.is_err() {
            let now = sim.now();
            sim.lock().judge.finds(
                "recorded",
                now,
                "the simulation itself has a defect: its events panicked".to_owned(),
            );
        }
        sleep(busy.saturating_sub(sim.now())).await;
        calm(&sim).await;
    };
    tokio::pin!(work);
    loop {
        let found = sim.found.notified();
        tokio::pin!(found);
        found.as_mut().enable();
        if !sim.lock().judge.found.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            () = found => {}
            () = &mut work => break,
        }
    }
    supervisor.abort();
    background.abort();
    let lasted = sim.now();
    let mut state = sim.lock();
    state.coverage.close();
    Outcome {
        found: state.judge.found.clone(),
        trace: state.trace,
        passed: state.passed,
        looks: state.looks,
        lasted,
        happened: state.happened.clone(),
        coverage: state.coverage.clone(),
        history: state.history.clone().unwrap_or_default(),
    }
}

/// Nothing more happens; every host is to end, and then nothing is to be written.
async fn calm(sim: &Sim) {
    {
        let now = sim.now();
        let mut state = sim.lock();
        state.calm = true;
        state.cuts.clear();
        state.api_slow = Duration::ZERO;
        state.note(now, || "the calm".to_owned());
    }
    let begun = sim.now();
    let replaced = sim.lock().machines.iter().any(|machine| machine.key != 0);
    let silence = if replaced { SETTLED_BY_KEY } else { SETTLED };
    let mut settled = false;
    while sim.now().saturating_sub(begun) < CALM && !settled {
        sleep(Duration::from_secs(15)).await;
        let now = sim.now();
        let mut state = sim.lock();
        for machine in &mut state.machines {
            machine.sync(now);
        }
        let written = state.last_write.as_ref().map(|(at, _)| *at).unwrap_or_default();
        let hosts: Vec<_> = state.store.all(crate::api::Kind::Host).cloned().collect();
        let well = hosts.iter().all(|host| state.end(host) == End::Well);
        let silence = if well { SETTLED_WELL } else { silence };
        let ended =
            |end: &End| !matches!(end, End::Open(_)) && !matches!(end, End::Waits(why) if why.contains("brake"));
        settled = state.living() == 1
            && now.saturating_sub(written.max(begun)) >= silence
            && hosts.iter().all(|host| ended(&state.end(host)));
    }
    if settled {
        {
            let now = sim.now();
            let mut state = sim.lock();
            state.judge.quiet = true;
            state.note(now, || "quiet".to_owned());
        }
        let _ = timeout(QUIET, std::future::pending::<()>()).await;
    }
    let now = sim.now();
    let mut state = sim.lock();
    state.judge.quiet = false;
    state.judge_end(now);
}
