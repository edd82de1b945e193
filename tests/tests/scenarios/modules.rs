//! New versions of modules: on one host at a time; of an owner's own, among npm's global ones; and one that does not come up is
//! taken back, which is said, once and not in a loop.

use std::sync::Arc;

use binder_crds::{ActionOutcome, conditions};
use binder_lab::faults::modules::{BUILD, ECHO, ECHO_PORT, ECHO_VERSIONS, WEB};
use binder_lab::stage::acts::modules::{BUILD_HOST, HOST, WITHIN, asked, runs};
use binder_lab::stage::{Mark, owner};
use jiff::Timestamp;
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::place::Place;
use crate::set::Set;
use crate::{Outcome, ensure, failed, trial};

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "modules::one_host_at_a_time", async |set| {
        set.inflict("module-old", HOST).await?;
        set.inflict("module-old-build", BUILD_HOST).await?;
        let played = in_turn(set).await;
        let unasked = set.apply("Enforce").await;
        played?;
        unasked
    }));
    trials.push(trial(place, "modules::a_global_module_of_the_owners_own_is_brought_to_its_version", async |set| {
        set.inflict("module-old-global", BUILD_HOST).await?;
        let played = global(set).await;
        let unasked = set.apply("Enforce").await;
        let mended = set.mend("module-old-global", BUILD_HOST).await;
        played?;
        unasked?;
        mended
    }));
    trials.push(trial(place, "modules::a_version_that_does_not_come_up_is_taken_back", async |set| {
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

/// The time from the first to the last that was done on a host since a mark, for a new version and for what uses it.
async fn turn(set: &Set, host: &str, mark: &Mark) -> Result<(Timestamp, Timestamp), Failed> {
    let actions = set.stage.actions_since(host, mark).await.map_err(failed)?;
    let steps: Vec<&str> = actions.iter().map(|action| action.spec.step.as_str()).collect();
    let expected = ["InstallModule", "DeleteEntries", "StartProcess"];
    ensure(steps == expected, || format!("{host}: done was {steps:?}"))?;
    let first = actions.first().and_then(|action| action.metadata.creation_timestamp.as_ref()).map(|time| time.0);
    let last = actions.last().and_then(|action| action.status.as_ref()?.finished_at.as_ref()).map(|time| time.0);
    first.zip(last).ok_or_else(|| Failed::from(format!("{host}: an action has no time")))
}

async fn in_turn(set: &Set) -> Outcome {
    let marks = (set.stage.mark(HOST).await.map_err(failed)?, set.stage.mark(BUILD_HOST).await.map_err(failed)?);
    let versions = [(HOST, WEB, WEB.current), (BUILD_HOST, BUILD, BUILD.current)];
    asked(&set.stage, &versions).await.map_err(Failed::from)?;
    for (host, module, version) in versions {
        let look = || runs(&set.stage, host, module, version);
        let seen = set.stage.until("the version that is asked for", WITHIN, look).await.map_err(failed)?;
        set.tell(format!("{host}: {seen}"));
    }
    set.stage.healthy(&[HOST, BUILD_HOST], WITHIN).await.map_err(failed)?;
    let (web, build) = (turn(set, HOST, &marks.0).await?, turn(set, BUILD_HOST, &marks.1).await?);
    let (first, then) = if web.0 < build.0 { (web, build) } else { (build, web) };
    ensure(then.0 >= first.1, || format!("one host was done at {}, and the other begun at {}", first.1, then.0))
}

async fn global(set: &Set) -> Outcome {
    let [old, new] = ECHO_VERSIONS;
    let runs = set.says(BUILD_HOST, ECHO_PORT).await?;
    ensure(runs == old, || format!("it runs in {runs:?}"))?;
    let mark = set.stage.mark(BUILD_HOST).await.map_err(failed)?;
    let root =
        set.stage.lab.host(BUILD_HOST).map_err(failed)?.script("npm root --global", &[]).await.map_err(failed)?;
    let mut file = owner::file(&set.stage.lab.status().map_err(failed)?, "Enforce");
    for host in file["spec"]["hosts"].as_array_mut().into_iter().flatten().filter(|host| host["name"] == BUILD_HOST) {
        host["processes"] = json!([{
            "name": ECHO,
            "start": ["pm2", "start", format!("{}/{ECHO}/index.js", root.trim()), "--name", ECHO],
            "ports": [ECHO_PORT],
        }]);
        host["modules"] = json!([{"name": ECHO, "version": new, "usedBy": [ECHO]}]);
    }
    set.stage.kubectl.apply(&file.to_string()).await.map_err(failed)?;
    let look = || async {
        let runs = set.says(BUILD_HOST, ECHO_PORT).await?;
        if runs == new { Ok(()) } else { Err(format!("it runs in {runs:?}")) }
    };
    set.stage.until("it runs in the new version", WITHIN, look).await.map_err(failed)?;
    set.stage.healthy(&[BUILD_HOST], WITHIN).await.map_err(failed)?;
    let done = set.stage.actions_since(BUILD_HOST, &mark).await.map_err(failed)?;
    let steps: Vec<&str> = done.iter().map(|action| action.spec.step.as_str()).collect();
    ensure(steps == ["InstallModule", "DeleteEntries", "StartProcess"], || format!("done was {steps:?}"))
}

async fn taken_back(set: &Set) -> Outcome {
    let mark = set.stage.mark(HOST).await.map_err(failed)?;
    asked(&set.stage, &[(HOST, WEB, WEB.broken)]).await.map_err(Failed::from)?;
    let stalled = set.stage.condition(HOST, conditions::STALLED, "True", Some("NeedsPerson"), WITHIN);
    stalled.await.map_err(failed)?;
    let seen =
        set.stage.until("the page in the old version", WITHIN, || runs(&set.stage, HOST, WEB, WEB.current)).await;
    set.tell(seen.map_err(failed)?);
    set.stage.condition(HOST, conditions::SERVICES_RUNNING, "True", None, WITHIN).await.map_err(failed)?;
    let host = set.stage.host(HOST).await.map_err(failed)?;
    let status = host.status.unwrap_or_default();
    let said = |kind: &str| {
        let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
        condition.map(|condition| condition.message.clone()).unwrap_or_default()
    };
    let module = said(conditions::MODULES_AT_VERSION);
    set.tell(&module);
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
