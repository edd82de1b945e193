//! What the operator must leave alone in the database: young builds, templates, names that are no names.

use std::sync::Arc;
use std::time::Duration;

use binder_crds::conditions;
use binder_lab::faults::database::HUNG_BUILD;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::place::Place;
use crate::set::Set;
use crate::{Outcome, ensure, failed, trial};

const LIMIT: Duration = Duration::from_secs(180);
const SERVICES: &str = "binder-services";
const REPOSITORY: &str = "http://github.com/binder-project/example-young";

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "database::young_builds_and_templates_stay_as_they_are", async |set| {
        set.calm(LIMIT).await?;
        let young = "binder-project-example-young";
        let started = (jiff::Timestamp::now() - jiff::SignedDuration::from_mins(170)).to_string();
        put(set, "put", &[young, REPOSITORY, &started, "running"]).await?;
        let before = (row(set, young).await?, templates(set).await?);
        set.inflict("hung-build", SERVICES).await?;
        set.stage
            .condition(SERVICES, conditions::BUILDS_ADVANCING, "False", Some("HungBuild"), LIMIT)
            .await
            .map_err(failed)?;
        set.all_healthy(LIMIT).await?;
        let mut after = (row(set, young).await?, templates(set).await?);
        // The build that was built again has registered its template, which is the build server's to do.
        after.1.retain(|template| template["name"] != HUNG_BUILD);
        let mut before = before;
        before.1.retain(|template| template["name"] != HUNG_BUILD);
        ensure(before == after, || format!("was {before:?}, is {after:?}"))?;
        put(set, "remove", &["builds", young]).await
    }));
    trials.push(trial(place, "database::a_hostile_name_is_reported_and_nothing_else", async |set| {
        set.calm(LIMIT).await?;
        let mark = set.stage.mark(SERVICES).await.map_err(failed)?;
        let names = ["$(reboot)", "a\u{1b}]0;owned\u{7}\u{1b}[2Jb\n", "../../etc/passwd"];
        for name in names {
            put(set, "put", &[name, REPOSITORY, "2016-01-01T00:00:00Z", "running"]).await?;
        }
        let stalled = set.stage.condition(SERVICES, conditions::STALLED, "True", Some("NeedsPerson"), LIMIT).await;
        let stalled = stalled.map_err(failed)?;
        ensure(stalled.message.contains("none that a repository can have"), || stalled.message.clone())?;
        let said = set.stage.kubectl.run(&["-n", "binder", "describe", "bh", SERVICES]).await.map_err(failed)?;
        ensure(said.contains("$(reboot)") && !said.contains('\u{1b}') && !said.contains('\u{7}'), || said.clone())?;
        let log = set.stage.operator_log().map_err(failed)?;
        ensure(!log.contains('\u{1b}') && !log.contains('\u{7}'), || "a control character is in the log".to_owned())?;
        let done = set.stage.actions_since(SERVICES, &mark).await.map_err(failed)?;
        ensure(done.is_empty(), || format!("{done:?}"))?;
        for name in names {
            let build = row(set, name).await?;
            ensure(build["status"] == "running", || build.to_string())?;
            put(set, "remove", &["builds", name]).await?;
        }
        set.all_healthy(LIMIT).await
    }));
}

async fn put(set: &Set, verb: &str, args: &[&str]) -> Outcome {
    set.stage.lab.database(verb, args).await.map(|_| ()).map_err(failed)
}

async fn row(set: &Set, name: &str) -> Result<Value, libtest_mimic::Failed> {
    set.stage.lab.database("build", &[name]).await.map_err(failed)
}

async fn templates(set: &Set) -> Result<Vec<Value>, libtest_mimic::Failed> {
    let all = set.stage.lab.database("templates", &[]).await.map_err(failed)?;
    Ok(all.as_array().cloned().unwrap_or_default())
}
