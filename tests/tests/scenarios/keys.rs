//! A lost API key where nobody may put it back, where the API server forbids it, where only the Secret's entry is lost, and where
//! the servers' logs disagree. That it is put back where that is allowed is an act.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use binder_crds::conditions;
use binder_lab::command::Run;
use binder_lab::host::enter::ssh_options;
use binder_lab::stage::acts::world;
use binder_lab::stage::{API_KEY_SECRET, Mark, NAMESPACE, owner};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::described::no_secret_is_shown;
use crate::place::Place;
use crate::set::Set;
use crate::{Outcome, ensure, failed, trial};

const LIMIT: Duration = Duration::from_secs(180);
const BUILD: &str = "binder-tester-2";
const WEB: &str = "binder-web-deploy";
/// The operator's release, which names its rights.
const OPERATOR: &str = "binder-operator";

/// Adds a line with another key to the end of the newest log of the health server, as a start with that key does.
const OTHER_KEY: &str = "printf ' - Using API key: %s\\n' 0123456789abcdef0123456789abcdef \
    >>\"$(ls -t ~/.pm2/logs/binder-health-checker-start-out*.log | head -n 1)\"";

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "keys::used_but_not_written_where_that_is_not_allowed", async |set| {
        not_allowed(set).await?;
        let marks = marks(set).await?;
        set.inflict("key-unknown", BUILD).await?;
        let used = used_not_written(set, &marks).await;
        let put = match &used {
            Ok(command) => by_a_person(set, command).await,
            Err(_) => set.stage.secrets().await.map_err(failed),
        };
        used?;
        put?;
        set.all_healthy(LIMIT).await?;
        let back = set.stage.until("the key is back", LIMIT, || world::key_is_back(&set.stage)).await;
        set.apply("Enforce").await?;
        back.map_err(failed)?;
        no_secret_is_shown(set).await
    }));
    trials.push(trial(place, "keys::an_entry_that_is_missing_is_added_beside_the_others", async |set| {
        let marks = marks(set).await?;
        let lost = json!({"stringData": {"note": "kept"}, "data": {"api-key": null}});
        patch(set, "secret", API_KEY_SECRET, &lost).await?;
        let back = set.stage.until("the key is back", LIMIT, || world::key_is_back(&set.stage)).await;
        let note = ["-n", NAMESPACE, "get", "secret", API_KEY_SECRET, "-o", "jsonpath={.data.note}"];
        let note = set.stage.kubectl.run(&note).await;
        set.stage.secrets().await.map_err(failed)?;
        patch(set, "secret", API_KEY_SECRET, &json!({"data": {"note": null}})).await?;
        set.tell(back.map_err(failed)?);
        let mut written = Vec::new();
        for (host, mark) in &marks {
            let done = set.stage.actions_since(host, mark).await.map_err(failed)?;
            written.extend(done.into_iter().map(|action| action.spec.step));
        }
        ensure(written == ["WriteApiKey"], || format!("done was {written:?}"))?;
        // "kept", as Secrets show it.
        ensure(note.as_deref().is_ok_and(|note| note.trim() == "a2VwdA=="), || format!("the other entry: {note:?}"))?;
        set.all_healthy(LIMIT).await?;
        no_secret_is_shown(set).await
    }));
    trials.push(trial(place, "keys::a_write_that_the_api_server_forbids_is_said", async |set| {
        let role = set.stage.kubectl.run(&["get", "clusterrole", OPERATOR, "-o", "json"]).await.map_err(failed)?;
        let role: Value = serde_json::from_str(&role).map_err(failed)?;
        let rules = role["rules"].as_array().cloned().unwrap_or_default();
        let (right, others): (Vec<Value>, Vec<Value>) =
            rules.iter().cloned().partition(|rule| rule["resourceNames"] == json!([API_KEY_SECRET]));
        ensure(right.len() == 1, || format!("the chart gives that right {} times", right.len()))?;
        patch(set, "clusterrole", OPERATOR, &json!({"rules": others})).await?;
        let broken = set.inflict("key-unknown", BUILD).await;
        let said = forbidden(set).await;
        patch(set, "clusterrole", OPERATOR, &json!({"rules": rules})).await?;
        set.stage.secrets().await.map_err(failed)?;
        broken?;
        said?;
        set.all_healthy(LIMIT).await?;
        no_secret_is_shown(set).await
    }));
    trials.push(trial(place, "keys::logs_that_disagree_are_believed_by_nobody", async |set| {
        let web = set.stage.lab.host(WEB).map_err(failed)?;
        let marks = marks(set).await?;
        web.script_as_user(OTHER_KEY, &[]).await.map_err(failed)?;
        set.inflict("key-unknown", BUILD).await?;
        let said = disagree(set, &marks).await;
        set.stage.secrets().await.map_err(failed)?;
        set.all_healthy(LIMIT).await?;
        // Started anew it has a log that tells the right one again.
        let health = ["pm2", "delete", "binder-health-checker-start", "binder-health-checker"];
        web.exec_as_user(&health).await.map_err(failed)?;
        set.stage.condition(WEB, conditions::SERVICES_RUNNING, "False", None, LIMIT).await.map_err(failed)?;
        set.all_healthy(LIMIT).await?;
        said
    }));
}

/// Changes an object as `kubectl patch` does; an entry that is null goes.
async fn patch(set: &Set, kind: &str, name: &str, change: &Value) -> Outcome {
    let change = change.to_string();
    let words = ["-n", NAMESPACE, "patch", kind, name, "--type=merge", "-p", &change];
    set.stage.kubectl.run(&words).await.map(|_| ()).map_err(failed)
}

/// The attempts come to an end, and the owner is told which value of the chart gives the right.
async fn forbidden(set: &Set) -> Outcome {
    let look = || async {
        let mut seen = Vec::new();
        for host in [BUILD, WEB] {
            let status =
                set.stage.host(host).await.map_err(|error| binder_lab::said(&error))?.status.unwrap_or_default();
            let stalled =
                status.conditions.into_iter().find(|it| it.type_ == conditions::STALLED && it.status == "True");
            seen.push(stalled.map_or_else(|| status.summary, |it| format!("{}: {}", it.reason, it.message)));
        }
        if seen.iter().any(|said| said.contains("apiKeySecrets")) { Ok(seen.join("; ")) } else { Err(seen.join("; ")) }
    };
    let said = set.stage.until("the chart's value is named", LIMIT, look).await.map_err(failed)?;
    set.tell(said);
    ensure(!secret(set).await?, || "the Secret was written where that is forbidden".to_owned())
}

/// What was recorded of the hosts with servers until now.
type Marks = [(&'static str, Mark); 2];

async fn marks(set: &Set) -> Result<Marks, Failed> {
    let mark = async |host| set.stage.mark(host).await.map_err(failed);
    Ok([(BUILD, mark(BUILD).await?), (WEB, mark(WEB).await?)])
}

/// The owner's file without the permission to put a key back.
async fn not_allowed(set: &Set) -> Outcome {
    let mut file = owner::file(&set.stage.lab.status().map_err(failed)?, "Enforce");
    file["spec"]["access"]["mayWriteApiKey"] = false.into();
    set.stage.kubectl.apply(&file.to_string()).await.map_err(failed)?;
    Ok(())
}

/// Whether the Secret is there.
async fn secret(set: &Set) -> Result<bool, Failed> {
    let name = format!("secret/{API_KEY_SECRET}");
    let asked = set.stage.kubectl.ask(&["-n", NAMESPACE, "get", &name, "-o", "name"], None).await.map_err(failed)?;
    Ok(asked.ok())
}

/// A person is asked for with a command; meanwhile a server that is gone is started with the key from the logs. Gives the
/// command.
async fn used_not_written(set: &Set, marks: &Marks) -> Result<String, Failed> {
    let stage = &set.stage;
    let stalled = stage.condition(BUILD, conditions::STALLED, "True", Some("NeedsPerson"), LIMIT).await;
    let stalled = stalled.map_err(failed)?.message;
    let command = stalled.split_once("put it there: ").and_then(|(_, rest)| rest.split_once(". No step is allowed"));
    let Some((command, _)) = command else { return Err(Failed::from(format!("no command: {stalled}"))) };

    let build = stage.lab.host(BUILD).map_err(failed)?;
    build.exec_as_user(&["pm2", "delete", "binder-build-start"]).await.map_err(failed)?;
    stage.condition(BUILD, conditions::SERVICES_RUNNING, "False", None, LIMIT).await.map_err(failed)?;
    stage.condition(BUILD, conditions::SERVICES_RUNNING, "True", None, LIMIT).await.map_err(failed)?;
    let takes = stage.until("it takes the key", LIMIT, || world::build_takes_the_key(stage)).await;
    takes.map_err(failed)?;
    ensure(!secret(set).await?, || "the Secret was written where that is not allowed".to_owned())?;
    for (host, mark) in marks {
        let all = stage.actions_since(host, mark).await.map_err(failed)?;
        let steps: Vec<&str> = all.iter().map(|action| action.spec.step.as_str()).collect();
        ensure(!steps.contains(&"WriteApiKey"), || format!("{host}: {steps:?}"))?;
    }
    no_secret_is_shown(set).await?;
    Ok(command.to_owned())
}

/// Runs the command as a person would, with an `ssh` and a `kubectl` that find their way around the lab.
async fn by_a_person(set: &Set, command: &str) -> Outcome {
    let status = set.stage.lab.status().map_err(failed)?;
    let folder = set.stage.lab.layout().dir().join("person");
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let host = set.stage.lab.host(BUILD).map_err(failed)?;
    let about = status.host(BUILD).ok_or("the lab has no such host")?;
    let options = ssh_options(about, &host.known_hosts(about).map_err(failed)?);
    // The last one is the login, which the command says itself.
    let options: Vec<String> =
        options.iter().rev().skip(1).rev().map(|option| option.to_string_lossy().into_owned()).collect();
    let options = shlex::try_join(options.iter().map(String::as_str)).map_err(failed)?;
    let kubectl = set.stage.kubectl.program().display().to_string();
    let config = status.kubeconfig.display().to_string();
    for (name, script) in [
        ("ssh", format!("#!/bin/sh\nexec /usr/bin/ssh {options} \"$@\"\n")),
        ("kubectl", format!("#!/bin/sh\nKUBECONFIG={config} exec {kubectl} \"$@\"\n")),
    ] {
        let file = folder.join(name);
        std::fs::write(&file, script).map_err(failed)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    }
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    Run::new("sh").args(["-c", command]).env("PATH", path).limit(LIMIT).succeed().await.map_err(failed)?;
    Ok(())
}

/// It is said who tells which, and nothing is written or done.
async fn disagree(set: &Set, marks: &Marks) -> Outcome {
    let stage = &set.stage;
    for (host, mark) in marks {
        let kind = conditions::API_KEY_ACCEPTED;
        let said = stage.condition(host, kind, "False", Some("KeysDisagree"), LIMIT).await.map_err(failed)?;
        let message = said.message;
        ensure(
            message.contains("; binder-health-checker-start on binder-web-deploy. Find out which is right"),
            || message.clone(),
        )?;
        stage.condition(host, conditions::STALLED, "True", Some("NeedsPerson"), LIMIT).await.map_err(failed)?;
        let done = stage.actions_since(host, mark).await.map_err(failed)?;
        ensure(done.is_empty(), || format!("{host}: {} steps were done", done.len()))?;
    }
    ensure(!secret(set).await?, || "the Secret was written though the logs disagree".to_owned())?;
    no_secret_is_shown(set).await
}
