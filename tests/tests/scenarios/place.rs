//! The lab of this run, set up by the first scenario that needs it. Knows no scenario.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use binder_lab::inventory::MACHINES;
use binder_lab::lab::take_down;
use binder_lab::layout::Layout;
use binder_lab::stage::{Stage, StageError, owner};
use binder_lab::{Lab, Options};
use libtest_mimic::Failed;
use tokio::runtime::Runtime;

use crate::{Outcome, failed};

/// The lab's name: one for each run, so that two checkouts can test side by side.
fn name() -> String {
    format!("test{}", std::process::id())
}

/// From a bare fleet to a healthy one, on a machine that may be compiling beside it.
const FIRST_HEALTHY: Duration = Duration::from_secs(600);

/// What a scenario needs when it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Begins {
    /// Nothing but the lab, as the one before left it: the first ones, which want it bare, or say themselves what they need.
    AsItIs,
    /// A fleet in mode `Enforce` that is healthy.
    Healthy,
}

/// Where the scenarios play.
pub(crate) struct Place {
    runtime: Runtime,
    set: Mutex<Option<Result<Set, String>>>,
}

/// A stage with the owner's file on it.
pub(crate) struct Set {
    /// The stage.
    pub(crate) stage: Stage,
}

impl Place {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { runtime: Runtime::new()?, set: Mutex::new(None) })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Result<Set, String>>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plays one scenario on a fleet that is as it needs it; when it fails, what the objects and the operator said goes with
    /// the failure. The lab then goes: what a failure leaves behind must not fail the next ones as well.
    pub(crate) fn play<F>(&self, begins: Begins, scenario: F) -> Outcome
    where
        F: AsyncFnOnce(&mut Set) -> Outcome,
    {
        let mut guard = self.lock();
        self.runtime.block_on(async {
            if guard.is_none() {
                *guard = Some(Set::up().await.map_err(|error| binder_lab::said(&error)));
            }
            let set = match guard.as_mut() {
                Some(Ok(set)) => set,
                Some(Err(error)) => return Err(Failed::from(format!("the lab could not be set: {error}"))),
                None => return Err(Failed::from("no lab")),
            };
            let ready = match begins {
                Begins::AsItIs => Ok(()),
                Begins::Healthy => set.ready().await,
            };
            let played = match ready {
                Ok(()) => scenario(set).await,
                Err(why) => Err(why),
            };
            match played {
                Ok(()) => Ok(()),
                Err(failure) => {
                    let why = failure.message().unwrap_or_default().to_owned();
                    // The harness shows it at the end of the run only, which may be far away.
                    eprintln!("  failed:   {why}");
                    let told = set.stage.told().await;
                    *guard = None;
                    if let Err(error) = gone().await {
                        *guard = Some(Err(format!("the lab of a scenario that failed is not all gone: {error}")));
                    }
                    Err(Failed::from(format!("{why}\n{told}")))
                }
            }
        })
    }

    /// Takes the lab away.
    pub(crate) fn down(&self) {
        let set = self.lock().take();
        if set.is_none() {
            return;
        }
        drop(set);
        eprintln!("taking the lab away");
        let gone = self.runtime.block_on(gone());
        if let Err(error) = gone {
            eprintln!("the lab is not all gone: {error}");
        }
    }
}

/// Takes the lab of this run away.
async fn gone() -> Result<(), String> {
    let layout = Layout::of(&name()).map_err(|error| binder_lab::said(&error))?;
    take_down(&layout).await.map_err(|error| binder_lab::said(&error))
}

impl Set {
    async fn up() -> Result<Self, StageError> {
        let began = Instant::now();
        let tell = |line: &str| eprintln!("[{:>4} s] {line}", began.elapsed().as_secs());
        tell("bringing up the lab that the scenarios share");
        // The management host too, which a lab has only when asked.
        let options =
            Options::named(&name()).owned_by_this_process().hosts(MACHINES.iter().map(|machine| machine.name));
        let lab = Lab::up(options, tell).await?;
        let mut stage = Stage::set(lab, tell).await?;
        // A new fleet only observes.
        stage.kubectl.apply(&owner::file(&stage.lab.status()?, "Observe").to_string()).await?;
        stage.start_operator().await?;
        tell("the operator runs");
        Ok(Self { stage })
    }

    /// Has the fleet as its owner wants it: acted on, and healthy. That is so after a scenario that went well; alone, or after
    /// one that failed, the lab is a new one.
    pub(crate) async fn ready(&self) -> Outcome {
        self.apply("Enforce").await?;
        self.all_healthy(FIRST_HEALTHY).await.map_err(|failure| {
            Failed::from(format!("before the scenario began: {}", failure.message().unwrap_or_default()))
        })
    }

    /// Applies the owner's file in a mode.
    pub(crate) async fn apply(&self, mode: &str) -> Result<(), Failed> {
        let file = owner::file(&self.stage.lab.status().map_err(failed)?, mode);
        self.stage.kubectl.apply(&file.to_string()).await.map_err(failed)?;
        Ok(())
    }

    /// The hosts' names.
    pub(crate) fn hosts(&self) -> Result<Vec<String>, Failed> {
        Ok(self.stage.lab.status().map_err(failed)?.hosts.into_iter().map(|host| host.name).collect())
    }

    /// Waits until every host is healthy.
    pub(crate) async fn all_healthy(&self, limit: Duration) -> Outcome {
        let hosts = self.hosts()?;
        let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
        self.stage.healthy(&names, limit).await.map_err(failed)
    }

    /// Waits until every host has been healthy for a while, so that attempts count afresh.
    pub(crate) async fn calm(&self, limit: Duration) -> Outcome {
        self.stage.calm(limit).await.map_err(failed)
    }

    /// What a process on a host says to whoever connects to its port.
    pub(crate) async fn says(&self, host: &str, port: u16) -> Result<String, String> {
        let host = self.stage.lab.host(host).map_err(|error| binder_lab::said(&error))?;
        let ask = format!("cat </dev/tcp/127.0.0.1/{port}");
        let said = host.exec(&["timeout", "5", "bash", "-c", &ask]).await.map_err(|error| binder_lab::said(&error))?;
        if said.ok() { Ok(said.stdout.trim().to_owned()) } else { Err(said.said()) }
    }

    /// Breaks something.
    pub(crate) async fn inflict(&self, fault: &str, host: &str) -> Outcome {
        let fault = self.stage.lab.fault(fault).map_err(failed)?;
        fault.break_on(&self.stage.lab, Some(host)).await.map_err(failed)
    }

    /// Takes back what is not the operator's to heal.
    pub(crate) async fn mend(&self, fault: &str, host: &str) -> Outcome {
        let fault = self.stage.lab.fault(fault).map_err(failed)?;
        fault.mend_on(&self.stage.lab, Some(host)).await.map_err(failed)
    }
}
