//! A new version of a module that does not come up is taken back, and that is said; once, and not in a loop.

use std::sync::Arc;

use binder_crds::{ActionOutcome, conditions};
use binder_lab::faults::modules::{BROKEN, CURRENT};
use binder_lab::stage::acts::modules::{HOST, WITHIN, asked, runs};
use libtest_mimic::{Failed, Trial};

use crate::place::{Place, Set};
use crate::{Outcome, ensure, failed, trial};

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "modules::a_version_that_does_not_come_up_is_taken_back", async |set| {
        set.apply("Enforce").await?;
        set.stage.healthy(&[HOST], crate::place::FIRST_HEALTHY).await.map_err(failed)?;
        set.inflict("module-broken", HOST).await?;
        let played = taken_back(set).await;
        // Whatever came of it: the owner asks for nothing any more, and the version of before is there.
        let unasked = set.apply("Enforce").await;
        let mended = set.mend("module-broken", HOST).await;
        played?;
        unasked?;
        mended?;
        set.stage.healthy(&[HOST], WITHIN).await.map_err(failed)
    }));
}

async fn taken_back(set: &Set) -> Outcome {
    let mark = set.stage.mark(HOST).await.map_err(failed)?;
    asked(&set.stage, BROKEN).await.map_err(Failed::from)?;
    let stalled = set.stage.condition(HOST, conditions::STALLED, "True", Some("NeedsPerson"), WITHIN);
    stalled.await.map_err(failed)?;
    let seen = set.stage.until("the page in the old version", WITHIN, || runs(&set.stage, CURRENT)).await;
    eprintln!("  {}", seen.map_err(failed)?);
    set.stage.condition(HOST, conditions::SERVICES_RUNNING, "True", None, WITHIN).await.map_err(failed)?;
    let host = set.stage.host(HOST).await.map_err(failed)?;
    let status = host.status.unwrap_or_default();
    let said = |kind: &str| {
        let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
        condition.map(|condition| condition.message.clone()).unwrap_or_default()
    };
    let module = said(conditions::MODULES_AT_VERSION);
    eprintln!("  {module}");
    let parts =
        ["1.1.17 is installed", "1.1.18 is asked for", "web did not come up with it", "1.1.17 was installed again"];
    ensure(parts.iter().all(|part| module.contains(part)), || module.clone())?;
    let done: Vec<(String, Option<ActionOutcome>)> = set
        .stage
        .actions_since(HOST, &mark)
        .await
        .map_err(failed)?
        .into_iter()
        .map(|action| (action.spec.step, action.status.and_then(|status| status.outcome)))
        .collect();
    let count = |step: &str| done.iter().filter(|(kind, _)| kind == step).count();
    ensure(count("InstallModule") == 1 && count("RevertModule") == 1, || format!("done was {done:?}"))?;
    ensure(count("Reboot") == 0, || format!("the machine was restarted: {done:?}"))
}
