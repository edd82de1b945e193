//! Backups: made before an edit and on their schedule; a lost database comes back document for document, from a directory and
//! from a bucket; without a backup nothing is edited.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use binder_crds::conditions;
use binder_lab::bucket::{ACCESS_KEY, BUCKET, Bucket, REGION};
use binder_lab::faults::database::HUNG_BUILD;
use binder_lab::stage::{NAMESPACE, owner};
use binder_lab::tools::Tools;
use binder_lab::tools::progress::{Lines, Progress};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::place::Place;
use crate::set::Set;
use crate::{Outcome, ensure, failed, trial};

const LIMIT: Duration = Duration::from_secs(180);
const SERVICES: &str = "binder-services";
/// The machines that write into the database while they run.
const WRITERS: [&str; 2] = ["binder-web-deploy", "binder-tester-2"];

/// The Secret with what the bucket needs.
const BUCKET_SECRET: &str = "bucket";
/// Larger than what is written in one piece (10 MiB), so that it goes to a bucket in several parts.
const LARGE: &str = "12";

/// Where backups go, and how a person gets at them.
struct Destination {
    /// The `to` of the owner's file.
    to: Value,
    /// The files of the services host's backups, as they really lie there.
    files: PathBuf,
    /// What `restore --from` is given.
    from: String,
    /// And with which variables.
    environment: Vec<(&'static str, String)>,
}

impl Destination {
    fn directory(set: &Set) -> Self {
        let files = set.stage.backups("binder", SERVICES);
        let from = files.display().to_string();
        Self { to: json!({"directory": "binder"}), files, from, environment: Vec::new() }
    }

    fn bucket(bucket: &Bucket) -> Self {
        let folder = format!("binder/{NAMESPACE}/{SERVICES}");
        Self {
            to: json!({"bucket": {
                "url": format!("s3://{BUCKET}/binder"), "credentialsSecretRef": {"name": BUCKET_SECRET},
            }}),
            files: bucket.folder.join(&folder),
            from: format!("s3://{BUCKET}/{folder}"),
            environment: vec![
                ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", bucket.secret.clone()),
                ("AWS_REGION", REGION.to_owned()),
                ("AWS_ENDPOINT", bucket.endpoint.clone()),
                ("SSL_CERT_FILE", bucket.authority.display().to_string()),
            ],
        }
    }
}

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "backups::a_lost_database_comes_back_document_for_document", async |set| {
        set.calm(LIMIT).await?;
        let to = Destination::directory(set);
        let result = lost(set, &to).await;
        set_free(set)?;
        result?;
        set.apply("Enforce").await?;
        set.all_healthy(LIMIT).await
    }));
    trials.push(trial(place, "backups::a_lost_database_comes_back_from_a_bucket", async |set| {
        set.calm(LIMIT).await?;
        let told = Arc::clone(&set.told);
        let lines: Arc<dyn Progress> = Arc::new(Lines::new(Duration::from_secs(20), move |line| told.tell(line)));
        let program = Tools::new(lines).map_err(failed)?.versitygw().await.map_err(failed)?;
        let mut bucket = Bucket::start(&set.stage.lab, &program).await.map_err(failed)?;
        let played = in_a_bucket(set, &mut bucket).await;
        set_free(set)?;
        bucket.stop().await.map_err(failed)?;
        played?;
        set.apply("Enforce").await?;
        set.all_healthy(LIMIT).await
    }));
    trials.push(trial(place, "backups::without_a_backup_nothing_is_edited", async |set| {
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

/// The machines that were held go on.
fn set_free(set: &Set) -> Outcome {
    for host in WRITERS {
        set.stage.lab.host(host).map_err(failed)?.thaw().map_err(failed)?;
    }
    Ok(())
}

/// The Secret with what the bucket needs, and this secret key.
async fn give(set: &Set, bucket: &Bucket, secret: &str) -> Outcome {
    let authority = std::fs::read_to_string(&bucket.authority).map_err(failed)?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
    "metadata": {"name": BUCKET_SECRET, "namespace": NAMESPACE,
        "labels": {binder_crds::PURPOSE_LABEL: binder_crds::PURPOSE_BACKUP}},
    "stringData": {
        "aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": secret, "aws_region": REGION,
        "aws_endpoint": bucket.endpoint, "ca.crt": authority,
    }});
    set.stage.kubectl.apply(&secret.to_string()).await.map(|_| ()).map_err(failed)
}

async fn in_a_bucket(set: &mut Set, bucket: &mut Bucket) -> Outcome {
    let destination = Destination::bucket(bucket);
    // A server that is away, and one that refuses, are said, and what it takes to be let in is not.
    bucket.stop().await.map_err(failed)?;
    give(set, bucket, "not-its-secret").await?;
    apply(set, &destination.to, "0 3 1 1 *", false).await?;
    let unseen = async |words: &str| {
        let what = format!("that the backups cannot be seen: {words}");
        let look = || async {
            let status = set.stage.host(SERVICES).await.map_err(|error| binder_lab::said(&error))?.status;
            let conditions = status.unwrap_or_default().conditions;
            let found = conditions.into_iter().find(|condition| condition.type_ == conditions::BACKED_UP);
            let found = found.ok_or("no such condition")?;
            let said = format!("{} {}: {}", found.status, found.reason, found.message);
            let well = found.status == "Unknown" && found.reason == "NotAnswered" && found.message.contains(words);
            if well { Ok(said) } else { Err(said) }
        };
        set.stage.until(&what, LIMIT, look).await.map_err(failed)
    };
    set.tell(unseen("Connection refused").await?);
    bucket.go_on().await.map_err(failed)?;
    let said = unseen("403 Forbidden: SignatureDoesNotMatch").await?;
    set.tell(&said);
    ensure(!said.contains("not-its-secret") && !said.contains(&bucket.secret), || said.clone())?;
    give(set, bucket, &bucket.secret).await?;
    lost(set, &destination).await?;
    // What is there now are the backups that a person sees with any other tool.
    let kept = std::fs::read_dir(&destination.files).map_err(failed)?.flatten().count();
    ensure(kept > 0, || format!("nothing lies in {}", destination.files.display()))?;
    set.stage.lab.database("forget", &["large"]).await.map_err(failed)?;
    set.stage.kubectl.run(&["-n", NAMESPACE, "delete", "secret", BUCKET_SECRET]).await.map_err(failed)?;
    Ok(())
}

async fn lost(set: &Set, destination: &Destination) -> Outcome {
    let to = &destination.to;
    let everything = || async { set.stage.lab.database("all", &[]).await.map_err(failed) };
    // Nobody else writes, so that what is there now is what must come back.
    apply(set, to, "0 3 1 1 *", true).await?;
    set.stage.condition(SERVICES, conditions::READY, "True", Some("Suspended"), LIMIT).await.map_err(failed)?;
    set.inflict("hung-build", SERVICES).await?;
    for host in WRITERS {
        set.stage.lab.host(host).map_err(failed)?.freeze().await.map_err(failed)?;
    }
    set.stage.lab.database("odd", &[]).await.map_err(failed)?;
    set.stage.lab.database("large", &[LARGE]).await.map_err(failed)?;
    let before = everything().await?;

    // The edit waits for the backup, which is made first.
    let mark = set.stage.mark(SERVICES).await.map_err(failed)?;
    apply(set, to, "0 3 1 1 *", false).await?;
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
    apply(set, to, "0 3 1 1 *", true).await?;
    set.stage.condition(SERVICES, conditions::READY, "True", Some("Suspended"), LIMIT).await.map_err(failed)?;
    let status = set.stage.host(SERVICES).await.map_err(failed)?.status.unwrap_or_default();
    let last = status.database.and_then(|database| database.last_backup).ok_or("no last backup in status")?;

    // As mongodump lays it out.
    let dump = destination.files.join(&last.name);
    for file in ["prelude.json", "binder-manifest.json", "binder/builds.bson", "binder/builds.metadata.json"] {
        ensure(dump.join(file).is_file(), || format!("{file} is missing"))?;
    }

    set.stage.lab.database("drop", &[]).await.map_err(failed)?;
    let gone = everything().await?;
    ensure(gone == json!({}), || format!("the database is not lost: {gone}"))?;

    let said = restore(set, destination, None).await?;
    ensure(said.contains("counts and checksums agree"), || said.clone())?;
    let after = everything().await?;
    ensure(before == after, || format!("--- before\n{before:#}\n--- after\n{after:#}"))?;

    // A database that holds something is left alone.
    let refused =
        restore(set, destination, None).await.err().map(|failure| failure.message().unwrap_or_default().to_owned());
    ensure(refused.as_ref().is_some_and(|words| words.contains("is not empty")), || format!("{refused:?}"))?;
    // What was altered on the way is not brought back at all.
    let file = dump.join("binder/builds.bson");
    let mut bytes = std::fs::read(&file).map_err(failed)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).map_err(failed)?;
    let refused = restore(set, destination, Some("other")).await.err();
    let refused = refused.map(|failure| failure.message().unwrap_or_default().to_owned());
    ensure(refused.as_ref().is_some_and(|words| words.contains("differs from what was written")), || {
        format!("{refused:?}")
    })?;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).map_err(failed)
}

/// `binder-operator restore`, as a person runs it.
async fn restore(set: &Set, from: &Destination, into: Option<&str>) -> Result<String, Failed> {
    let uri = set.stage.lab.status().map_err(failed)?.database;
    let mut run = set.stage.operator(None).args(["restore", "--from", &from.from, "--database", &uri]);
    for (name, value) in &from.environment {
        run = run.env(name, value);
    }
    if let Some(into) = into {
        run = run.args(["--into", into]);
    }
    run.succeed().await.map_err(failed)
}
