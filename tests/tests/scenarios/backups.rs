//! Backups: made before an edit and on their schedule; a lost database comes back document for document; without a backup
//! nothing is edited.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use binder_crds::conditions;
use binder_lab::faults::database::HUNG_BUILD;
use binder_lab::stage::owner;
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::place::{Place, Set};
use crate::{Outcome, ensure, failed, trial};

const LIMIT: Duration = Duration::from_secs(180);
const SERVICES: &str = "binder-services";
/// The machines that write into the database while they run.
const WRITERS: [&str; 2] = ["binder-web-deploy", "binder-tester-2"];

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "backups::a_lost_database_comes_back_document_for_document", async |set| {
        set.apply("Enforce").await?;
        set.calm(LIMIT).await?;
        let result = lost(set).await;
        for host in WRITERS {
            set.stage.lab.host(host).map_err(failed)?.thaw().map_err(failed)?;
        }
        result?;
        set.apply("Enforce").await?;
        set.all_healthy(LIMIT).await
    }));
    trials.push(trial(place, "backups::without_a_backup_nothing_is_edited", async |set| {
        set.apply("Enforce").await?;
        set.calm(LIMIT).await?;
        let place =
            json!({"bucket": {"url": "s3://nowhere/binder", "credentialsSecretRef": {"name": "no-such-secret"}}});
        apply(set, &place, "0 3 1 1 *", false).await?;
        set.inflict("hung-build", SERVICES).await?;
        let said =
            set.stage.condition(SERVICES, conditions::BACKED_UP, "False", Some("BackupPlaceUnusable"), LIMIT).await;
        let said = said.map_err(failed)?;
        ensure(said.message.contains("no-such-secret"), || said.message.clone())?;
        set.stage.condition(SERVICES, conditions::STALLED, "True", Some("NeedsPerson"), LIMIT).await.map_err(failed)?;
        let held = set.stage.condition(SERVICES, conditions::BUILDS_ADVANCING, "False", Some("HungBuild"), LIMIT).await;
        let held = held.map_err(failed)?;
        ensure(held.message.contains("waits for a fresh backup"), || held.message.clone())?;
        let build = set.stage.lab.database("build", &[HUNG_BUILD]).await.map_err(failed)?;
        ensure(build["status"] == "running", || build.to_string())?;
        // With a place for it, the backup is made first, and then the build is healed.
        let mark = set.stage.mark(SERVICES).await.map_err(failed)?;
        apply(set, &json!({"directory": "binder"}), "0 3 1 1 *", false).await?;
        set.all_healthy(LIMIT).await?;
        let done = set.stage.actions_since(SERVICES, &mark).await.map_err(failed)?;
        let kinds: Vec<&str> = done.iter().map(|action| action.spec.step.as_str()).collect();
        // An earlier scenario may have left a backup that is fresh enough.
        ensure(kinds.ends_with(&["FailBuild", "RebuildBuild"]), || format!("{kinds:?}"))?;
        set.apply("Enforce").await
    }));
}

/// The owner's file with backups on the services host; suspended if asked for.
async fn apply(set: &Set, to: &Value, schedule: &str, suspend: bool) -> Outcome {
    let mut file = owner::file(&set.stage.lab.status().map_err(failed)?, "Enforce");
    file["spec"]["suspend"] = json!(suspend);
    for host in file["spec"]["hosts"].as_array_mut().into_iter().flatten() {
        if host["name"] == SERVICES {
            host["database"]["backups"] = json!({"schedule": schedule, "to": to, "keep": 3});
        }
    }
    set.stage.kubectl.apply(&file.to_string()).await.map(|_| ()).map_err(failed)
}

async fn lost(set: &Set) -> Outcome {
    let to = json!({"directory": "binder"});
    let everything = || async { set.stage.lab.database("all", &[]).await.map_err(failed) };
    // Nobody else writes, so that what is there now is what must come back.
    apply(set, &to, "0 3 1 1 *", true).await?;
    set.stage.condition(SERVICES, conditions::READY, "True", Some("Suspended"), LIMIT).await.map_err(failed)?;
    set.inflict("hung-build", SERVICES).await?;
    for host in WRITERS {
        set.stage.lab.host(host).map_err(failed)?.freeze().await.map_err(failed)?;
    }
    set.stage.lab.database("odd", &[]).await.map_err(failed)?;
    let before = everything().await?;

    // The edit waits for the backup, which is made first.
    let mark = set.stage.mark(SERVICES).await.map_err(failed)?;
    apply(set, &to, "0 3 1 1 *", false).await?;
    let edited = || async {
        let done = set.stage.actions_since(SERVICES, &mark).await.map_err(|error| binder_lab::said(&error))?;
        let told: Vec<(String, Option<&str>)> = done
            .iter()
            // The build server's machine is held, so that this step comes to nothing for now.
            .filter(|action| action.spec.step != "RebuildBuild")
            .map(|action| {
                let outcome = action.status.as_ref().and_then(|status| status.outcome);
                (action.spec.step.clone(), outcome.map(|outcome| outcome.as_str()))
            })
            .collect();
        let well = |at: usize, step: &str| {
            told.get(at).is_some_and(|(kind, outcome)| kind == step && *outcome == Some("Succeeded"))
        };
        if well(0, "BackUp") && well(1, "FailBuild") { Ok(()) } else { Err(format!("{told:?}")) }
    };
    set.stage.until("the backup is made, then the build is edited", LIMIT, edited).await.map_err(failed)?;
    apply(set, &to, "0 3 1 1 *", true).await?;
    set.stage.condition(SERVICES, conditions::READY, "True", Some("Suspended"), LIMIT).await.map_err(failed)?;
    let status = set.stage.host(SERVICES).await.map_err(failed)?.status.unwrap_or_default();
    let last = status.database.and_then(|database| database.last_backup).ok_or("no last backup in status")?;

    // As mongodump lays it out.
    let folder = set.stage.backups("binder", SERVICES);
    let dump = folder.join(&last.name);
    for file in ["prelude.json", "binder-manifest.json", "binder/builds.bson", "binder/builds.metadata.json"] {
        ensure(dump.join(file).is_file(), || format!("{file} is missing"))?;
    }

    set.stage.lab.database("drop", &[]).await.map_err(failed)?;
    let gone = everything().await?;
    ensure(gone == json!({}), || format!("the database is not lost: {gone}"))?;

    let said = restore(set, &folder, None).await?;
    ensure(said.contains("counts and checksums agree"), || said.clone())?;
    let after = everything().await?;
    ensure(before == after, || format!("--- before\n{before:#}\n--- after\n{after:#}"))?;

    // A database that holds something is left alone.
    let refused =
        restore(set, &folder, None).await.err().map(|failure| failure.message().unwrap_or_default().to_owned());
    ensure(refused.as_ref().is_some_and(|words| words.contains("is not empty")), || format!("{refused:?}"))?;
    // What was altered on the way is not brought back at all.
    let file = dump.join("binder/builds.bson");
    let mut bytes = std::fs::read(&file).map_err(failed)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).map_err(failed)?;
    let refused = restore(set, &folder, Some("other")).await.err();
    let refused = refused.map(|failure| failure.message().unwrap_or_default().to_owned());
    ensure(refused.as_ref().is_some_and(|words| words.contains("not what was written")), || format!("{refused:?}"))?;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).map_err(failed)
}

/// `binder-operator restore`, as a person runs it.
async fn restore(set: &Set, from: &PathBuf, into: Option<&str>) -> Result<String, Failed> {
    let uri = set.stage.lab.status().map_err(failed)?.database;
    let mut run = set.stage.operator(None).args(["restore", "--from"]).args([from]).args(["--database", &uri]);
    if let Some(into) = into {
        run = run.args(["--into", into]);
    }
    run.succeed().await.map_err(failed)
}
