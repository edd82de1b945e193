//! Where the scenarios play: some lanes side by side, each with a lab of its own, which the first scenario on it sets up.
//! Knows no scenario, but how long each took.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use binder_lab::lab::take_down;
use binder_lab::layout::Layout;
use binder_lab::stage::operator;
use futures::FutureExt;
use libtest_mimic::Failed;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use crate::Outcome;
use crate::set::{Set, Told};

/// After so many labs in a row that could not be set, on whichever lane, no more are tried: it is the computer.
const IN_VAIN: usize = 3;
/// How many scenarios the table at the end names.
const SLOWEST: usize = 10;

/// What a scenario needs when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    /// A lab in which nothing has been done yet but to look: a bare fleet that is only observed.
    Bare,
    /// A fleet in mode `Enforce` that is healthy.
    Healthy,
    /// That, and no other scenario beside it on this computer, of those that this process plays.
    Alone,
}

/// One lab after another; a failure takes the lab away that it happened in.
struct Lane {
    /// From 1.
    number: usize,
    set: Option<Set>,
}

impl Lane {
    /// The name of its labs: of its own in each run, so that two checkouts can test side by side.
    fn lab(&self) -> String {
        format!("test{}-{}", std::process::id(), self.number)
    }

    /// Takes its lab away, if there is one.
    async fn down(&mut self) -> Result<(), String> {
        if self.set.take().is_none() {
            return Ok(());
        }
        gone(&self.lab()).await
    }
}

/// Takes a lab away.
async fn gone(lab: &str) -> Result<(), String> {
    let layout = Layout::of(lab).map_err(|error| binder_lab::said(&error))?;
    take_down(&layout).await.map_err(|error| binder_lab::said(&error))
}

/// Where the scenarios play.
pub(crate) struct Place {
    runtime: Runtime,
    began: Instant,
    lanes: usize,
    /// Those on which nobody plays now. As many scenarios play at a time as there are lanes.
    free: Mutex<Vec<Lane>>,
    /// Held by all who play, together or [alone](Begins::Alone).
    together: RwLock<()>,
    /// The operator of this checkout, built once.
    program: OnceCell<PathBuf>,
    in_vain: AtomicUsize,
    took: Mutex<Vec<(String, Duration)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Place {
    pub(crate) fn new(lanes: usize) -> std::io::Result<Self> {
        // The last one is taken first.
        let free = (1..=lanes).rev().map(|number| Lane { number, set: None }).collect();
        Ok(Self {
            runtime: Runtime::new()?,
            began: Instant::now(),
            lanes,
            free: Mutex::new(free),
            together: RwLock::new(()),
            program: OnceCell::new(),
            in_vain: AtomicUsize::new(0),
            took: Mutex::new(Vec::new()),
        })
    }

    /// Plays one scenario on a free lane, on a fleet that is as it needs it, and prints what it told when it has ended. When it
    /// fails, what the objects and the operator said goes with the failure. The lab then goes: what a failure leaves behind must
    /// not fail the next ones as well.
    pub(crate) fn play<F>(&self, name: &str, begins: Begins, scenario: F) -> Outcome
    where
        F: AsyncFnOnce(&mut Set) -> Outcome,
    {
        // Poisoned by a panic elsewhere, it still tells who plays.
        if begins == Begins::Alone {
            let _alone = self.together.write().unwrap_or_else(PoisonError::into_inner);
            self.play_on_a_lane(name, begins, scenario)
        } else {
            let _together = self.together.read().unwrap_or_else(PoisonError::into_inner);
            self.play_on_a_lane(name, begins, scenario)
        }
    }

    fn play_on_a_lane<F>(&self, name: &str, begins: Begins, scenario: F) -> Outcome
    where
        F: AsyncFnOnce(&mut Set) -> Outcome,
    {
        // Taken in a statement of its own: the lock is not held while the scenario plays.
        let free = lock(&self.free).pop();
        let mut lane = free.ok_or_else(|| Failed::from("more scenarios at a time than lanes"))?;
        let told = Arc::new(Told::new());
        self.print(&format!("lane {} begins {name}", lane.number), "");
        let played = self.runtime.block_on(async {
            let played = AssertUnwindSafe(on(self, &mut lane, begins, &told, scenario)).catch_unwind().await;
            let failure = match played {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failure)) => failure,
                // What it said is on standard error.
                Err(_) => Failed::from("it panicked"),
            };
            let why = failure.message().unwrap_or_default().to_owned();
            // The harness shows it at the end of the run only, which may be far away.
            told.tell(format!("failed: {why}"));
            let objects = match &lane.set {
                Some(set) => set.stage.told().await,
                None => String::new(),
            };
            if let Err(error) = lane.down().await {
                told.tell(format!("the lab of the scenario that failed is not all gone: {error}"));
            }
            Err(Failed::from(format!("{why}\n{objects}")))
        });
        let took = told.since();
        let how = if played.is_ok() { "well" } else { "FAILED" };
        self.print(&format!("lane {} ended {name}: {how}, {:.0} s", lane.number, took.as_secs_f32()), &told.text());
        lock(&self.took).push((name.to_owned(), took));
        lock(&self.free).push(lane);
        played
    }

    /// Prints a title and the lines below it in one piece: other lanes print at any time.
    fn print(&self, title: &str, text: &str) {
        // The harness begins the line of a scenario before it plays when it has one lane only.
        let line = if self.lanes == 1 { "\n" } else { "" };
        print!("{line}[{:>5} s] {title}\n{text}", self.began.elapsed().as_secs());
    }

    /// Takes the labs away, and tells which scenarios took longest.
    pub(crate) fn down(&self) {
        for lane in lock(&self.free).iter_mut() {
            if let Err(error) = self.runtime.block_on(lane.down()) {
                eprintln!("the lab {} is not all gone: {error}", lane.lab());
            }
        }
        let mut took = std::mem::take(&mut *lock(&self.took));
        let all: Duration = took.iter().map(|(_, time)| *time).sum();
        took.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        if took.len() > 1 {
            println!(
                "the slowest of {} scenarios, {} s in all, {} s by the clock:",
                took.len(),
                all.as_secs(),
                self.began.elapsed().as_secs()
            );
        }
        for (name, time) in took.iter().filter(|_| took.len() > 1).take(SLOWEST) {
            println!("{:>6} s  {name}", time.as_secs());
        }
    }

    /// The operator of this checkout; the first lane that needs it builds it, and the others wait for that.
    async fn program(&self) -> Result<PathBuf, Failed> {
        let built = self.program.get_or_try_init(operator::build).await;
        built.cloned().map_err(|error| Failed::from(binder_lab::said(&error)))
    }

    /// Has a lab on a lane: the one that is there, if it will do, or a new one.
    async fn set(&self, lane: &mut Lane, begins: Begins, told: &Arc<Told>) -> Outcome {
        let will_do = |set: &Set| begins != Begins::Bare || set.bare;
        if !lane.set.as_ref().is_none_or(will_do) {
            lane.down().await.map_err(Failed::from)?;
        }
        if let Some(set) = &mut lane.set {
            set.told = Arc::clone(told);
            return Ok(());
        }
        if self.in_vain.load(Ordering::Relaxed) >= IN_VAIN {
            return Err(Failed::from(format!(
                "no lab could be set, {IN_VAIN} times; the scenarios before this one say why"
            )));
        }
        let say = |line: &str| self.print(&format!("lane {}: {line}", lane.number), "");
        match Set::up(&lane.lab(), &self.program().await?, told, say).await {
            Ok(set) => {
                self.in_vain.store(0, Ordering::Relaxed);
                lane.set = Some(set);
                Ok(())
            }
            Err(error) => {
                self.in_vain.fetch_add(1, Ordering::Relaxed);
                let left =
                    gone(&lane.lab()).await.err().map(|left| format!("; what there is of it is not all gone: {left}"));
                let why = binder_lab::said(&error);
                Err(Failed::from(format!("the lab could not be set: {why}{}", left.unwrap_or_default())))
            }
        }
    }
}

/// Plays a scenario on a lane.
async fn on<F>(place: &Place, lane: &mut Lane, begins: Begins, told: &Arc<Told>, scenario: F) -> Outcome
where
    F: AsyncFnOnce(&mut Set) -> Outcome,
{
    place.set(lane, begins, told).await?;
    let set = lane.set.as_mut().ok_or("no lab")?;
    if begins != Begins::Bare {
        set.ready().await?;
        told.tell("every host is healthy");
    }
    scenario(set).await
}
