//! The cloud of the simulated machines: what it says of an instance, and what it does to one.

use crate::api::Kind;
use crate::case::{End, Fault};
use crate::machine::Power;
use crate::outside::{Out, boots};
use crate::state::{Call, NAMESPACE, Site, State};
use binder_core::facets::{Step, machine};
use binder_core::gate::Permit;
use binder_operator::power::{
    Fault as Trouble, Instance, KeyAdded, Operation, Power as Cloud, PowerError, SshKey, State as Said,
};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// A cloud's call.
const CLOUD: Duration = Duration::from_secs(10);

/// An instance, as its cloud knows it.
pub(crate) struct InCloud {
    out: Out,
    instance: String,
}

impl InCloud {
    /// One instance, on one operator's way out.
    pub(crate) fn of(out: Out, instance: &str) -> Self {
        Self { out, instance: instance.to_owned() }
    }

    fn machine(&self) -> Option<usize> {
        self.out.sim.lock().machines.iter().position(|machine| machine.instance == self.instance)
    }

    fn error(&self, doing: Operation, fault: Trouble) -> PowerError {
        PowerError { instance: self.instance.clone(), doing, fault }
    }

    /// Gets to the cloud; what does not, ends here.
    async fn ask(&self, doing: Operation, site: Site) -> Result<(Call, usize), PowerError> {
        let call = self.out.pass(site, &format!("{doing} {}", self.instance)).await;
        let now = self.out.sim.now();
        let parted = self.out.sim.parted(End::Operator, End::Cloud).is_some();
        let silent = || Trouble::TimedOut { from: "cloud".to_owned(), limit: CLOUD };
        if parted || call.fault == Some(Fault::Hang) {
            sleep(CLOUD).await;
            return Err(self.error(doing, silent()));
        }
        let unwell = || Trouble::Unwell { status: 503, said: "backend error".to_owned() };
        if matches!(call.fault, Some(Fault::LostRequest | Fault::Refused)) {
            return Err(self.error(doing, unwell()));
        }
        let Some(machine) = self.machine() else {
            return Err(self.error(doing, Trouble::NotFound { said: "no such instance".to_owned() }));
        };
        self.out.sim.lock().note(now, || format!("cloud: {doing} {}", self.instance));
        Ok((call, machine))
    }

    /// A change of the instance's power.
    async fn change(&self, doing: Operation, step: Step, permit: Permit) -> Result<(), PowerError> {
        let (out, sim) = (&self.out, &self.out.sim);
        if let Some(machine) = self.machine() {
            let now = sim.now();
            let mut state = sim.lock();
            let kind = match (&step, permit_is_for(&state, &permit)) {
                (_, Some(recorded)) => recorded,
                (step, None) => step.clone(),
            };
            state.note(now, || format!("operator {}: {}", out.who, kind.words()));
            state.judge_step(out.who, &kind, &permit, machine, now);
            let found = !state.judge.found.is_empty();
            drop(state);
            if found {
                sim.found.notify_waiters();
            }
        }
        let (mut call, machine) = self.ask(doing, Site::Command).await?;
        let late = if call.fault == Some(Fault::Late) { call.rng.between(5, 40) } else { 0 };
        let (world, on) = (Arc::clone(sim), matches!(doing, Operation::Start));
        let works = async move {
            sleep(Duration::from_secs(late)).await;
            let off = matches!(world.lock().machines[machine].power, Power::Off(_));
            if on == off {
                boots(&world, machine);
            }
        };
        if late > 0 {
            tokio::spawn(works);
        } else {
            works.await;
        }
        sleep(Duration::from_millis(call.rng.between(300, 5_000))).await;
        out.back(&mut call).await;
        match call.fault {
            Some(Fault::LostAnswer | Fault::Late) => {
                Err(self.error(doing, Trouble::TimedOut { from: "cloud".to_owned(), limit: CLOUD }))
            }
            _ => Ok(()),
        }
    }
}

/// The step of the action that a permit is for, as it was recorded.
fn permit_is_for(state: &State, permit: &Permit) -> Option<Step> {
    let action = state.store.get(Kind::Action, NAMESPACE, permit.action())?;
    serde_json::from_value(action["spec"]["parameters"].clone()).ok()
}

impl Cloud for InCloud {
    fn instance(&self) -> &str {
        &self.instance
    }

    fn state(&self) -> BoxFuture<'_, Result<Instance, PowerError>> {
        Box::pin(async move {
            let (mut call, machine) = self.ask(Operation::Asking, Site::Question).await?;
            let (said, address) = {
                let now = self.out.sim.now();
                let state = self.out.sim.lock();
                let there = &state.machines[machine];
                let on = !matches!(there.power, Power::Off(_));
                let at = |since: Duration| {
                    let base = jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(crate::tamed::EPOCH);
                    jiff::SignedDuration::try_from(since).ok().and_then(|since| base.checked_add(since).ok())
                };
                let said = Instance {
                    state: if on { Said::Running } else { Said::Stopped },
                    // A machine of the world's beginning was started long before.
                    last_start: if there.started.is_zero() {
                        Some(jiff::Timestamp::UNIX_EPOCH)
                    } else {
                        at(there.started)
                    },
                    asked_at: at(now),
                    addresses: there.address.parse().into_iter().collect(),
                    labels: BTreeMap::new(),
                };
                (said, there.address.clone())
            };
            self.out.back(&mut call).await;
            self.out.learned(&address);
            Ok(said)
        })
    }

    fn reset(&self, permit: Permit) -> BoxFuture<'_, Result<(), PowerError>> {
        Box::pin(self.change(Operation::Reset, machine::Step::PowerCycle { boot_id: None }.into(), permit))
    }

    fn start(&self, permit: Permit) -> BoxFuture<'_, Result<(), PowerError>> {
        Box::pin(self.change(Operation::Start, machine::Step::PowerOn { boot_id: None }.into(), permit))
    }

    fn add_ssh_key(&self, permit: Permit, _: SshKey) -> BoxFuture<'_, Result<KeyAdded, PowerError>> {
        Box::pin(async move {
            if let Some(machine) = self.machine() {
                let now = self.out.sim.now();
                let mut state = self.out.sim.lock();
                if let Some(step) = permit_is_for(&state, &permit) {
                    state.judge_step(self.out.who, &step, &permit, machine, now);
                }
            }
            let (mut call, machine) = self.ask(Operation::AddSshKey, Site::Command).await?;
            self.out.sim.lock().machines[machine].refuses = false;
            self.out.back(&mut call).await;
            Ok(KeyAdded::Added)
        })
    }
}
