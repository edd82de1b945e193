//! A lab with an operator in it and the owner's file on it: what one scenario plays with. Knows no scenario, and no other lab.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use binder_lab::inventory::MACHINES;
use binder_lab::stage::{Stage, StageError, owner};
use binder_lab::{Lab, Options};
use libtest_mimic::Failed;

use crate::{Outcome, failed};

/// From a bare fleet to a healthy one, on a machine that may be compiling beside it.
const FIRST_HEALTHY: Duration = Duration::from_secs(600);

/// What a scenario has to tell, line by line, with the time since it began. Other scenarios tell theirs at the same time, so that it
/// is kept until the end.
pub(crate) struct Told {
    began: Instant,
    lines: Mutex<Vec<String>>,
}

impl Told {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), lines: Mutex::new(Vec::new()) }
    }

    /// Since the scenario began.
    pub(crate) fn since(&self) -> Duration {
        self.began.elapsed()
    }

    /// Adds a line.
    pub(crate) fn tell(&self, line: impl AsRef<str>) {
        let line = format!("  {:>6.1} s  {}", self.since().as_secs_f32(), line.as_ref());
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// All of it, each line ended.
    pub(crate) fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// A stage with the owner's file on it.
pub(crate) struct Set {
    /// The stage.
    pub(crate) stage: Stage,
    /// What the scenario that plays on it tells.
    pub(crate) told: Arc<Told>,
    /// Nothing but looks has been done to it yet.
    pub(crate) bare: bool,
}

impl Set {
    /// Brings up a lab of this name, and starts the operator on a fleet that it only observes. `say` gets a line for each thing worth
    /// knowing meanwhile: the first time, that takes long.
    pub(crate) async fn up(
        name: &str,
        program: &Path,
        told: &Arc<Told>,
        say: impl Fn(&str),
    ) -> Result<Self, StageError> {
        say(&format!("bringing up the lab {name}"));
        // The management host too, which a lab has only when asked.
        let options = Options::named(name).owned_by_this_process().hosts(MACHINES.iter().map(|machine| machine.name));
        let lab = Lab::up(options, &say).await?;
        let mut stage = Stage::set_with(lab, program.to_owned(), &say).await?;
        // A new fleet only observes.
        stage.kubectl.apply(&owner::file(&stage.lab.status()?, "Observe").to_string()).await?;
        stage.start_operator().await?;
        say("the operator runs");
        Ok(Self { stage, told: Arc::clone(told), bare: true })
    }

    /// Tells a line, which is printed when the scenario has ended.
    pub(crate) fn tell(&self, line: impl AsRef<str>) {
        self.told.tell(line);
    }

    /// Has the fleet as its owner wants it: acted on, and healthy. That is so after a scenario that went well, but for one that
    /// deleted it; alone, or after one that failed, the lab is a new one.
    pub(crate) async fn ready(&mut self) -> Outcome {
        self.bare = false;
        self.stage.start_operator().await.map_err(failed)?;
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
