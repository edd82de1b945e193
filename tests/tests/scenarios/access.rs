//! What only the world can tell: hosts that are gone, hang, changed their key, refuse the login, or answer nonsense. Each
//! is a condition with a reason of its own, and the other hosts go on undisturbed.

use std::sync::Arc;
use std::time::Duration;

use binder_crds::conditions;
use jiff::Timestamp;
use libtest_mimic::Trial;

use crate::place::Place;
use crate::set::Set;
use crate::{Outcome, ensure, failed, trial};

const LIMIT: Duration = Duration::from_secs(120);
const VICTIM: &str = "binder-tester-2";
const OTHER: &str = "binder-web-deploy";
const MASTER: &str = "kubernetes-master";
/// Longer than a cluster may be silent before its machine is restarted: a blip, two questions, the lab's `unreachableTimeout`.
const SILENT_FOR: i64 = 45;

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    for (fault, reasons) in [
        // A pulled cable shows as a lost connection first, and then as no answer to any attempt; on one link, the operator's
        // own kernel soon says that there is no way.
        ("host-cut", &["Unreachable", "NoRoute"][..]),
        ("host-hung", &["Hung", "NoAnswer", "ConnectionLost"]),
        ("host-key-changed", &["HostKeyMismatch"]),
    ] {
        trials.push(trial(place, format!("access::{fault}"), async move |set| {
            set.inflict(fault, VICTIM).await?;
            let seen = reachable(set, reasons).await;
            let undisturbed = match &seen {
                Ok(()) => others_are_healed_meanwhile(set).await,
                Err(_) => Ok(()),
            };
            set.mend(fault, VICTIM).await?;
            seen?;
            undisturbed?;
            no_heavier_step(set, VICTIM).await?;
            if fault == "host-key-changed" {
                // Looked at again after ten minutes, or at once when the owner's file changes.
                set.apply("Observe").await?;
                touch_address(set).await?;
                set.apply("Enforce").await?;
            }
            set.all_healthy(LIMIT).await
        }));
    }
    trials.push(trial(place, "access::ssh-permission", async |set| {
        set.inflict("ssh-permission", VICTIM).await?;
        // A login that is there already stays; a new one is asked for when the operator starts anew.
        set.stage.stop_operator().await.map_err(failed)?;
        set.stage.start_operator().await.map_err(failed)?;
        let seen = reachable(set, &["LoginRefused"]).await;
        let said = what_to_paste(set).await;
        let host = set.stage.lab.host(VICTIM).map_err(failed)?;
        let refusals = |text: String| {
            text.lines()
                .filter(|line| {
                    line.contains("Failed publickey") || line.contains("Connection closed by authenticating user")
                })
                .count()
        };
        let count = || async {
            host.script("cat /var/log/sshd.log /var/log/auth.log 2>/dev/null || true", &[]).await.map(refusals)
        };
        let first = count().await.map_err(failed)?;
        let undisturbed = others_are_healed_meanwhile(set).await;
        let later = count().await.map_err(failed)?;
        set.mend("ssh-permission", VICTIM).await?;
        seen?;
        said?;
        undisturbed?;
        ensure(later == first, || format!("the refused login was tried again: {first} refusals, then {later}"))?;
        no_heavier_step(set, VICTIM).await?;
        // Tried again when the Secret changes.
        let annotation = format!("touched={}", Timestamp::now().as_second());
        set.stage
            .kubectl
            .run(&["-n", "binder", "annotate", "--overwrite", "secret", "binder-ssh", &annotation])
            .await
            .map_err(failed)?;
        set.all_healthy(LIMIT).await
    }));
    trials.push(trial(place, "access::ssh-hung", async |set| {
        // The cluster is seen through this machine. While it hangs, nothing is known of the cluster, and nothing is done
        // about it: neither here, since everything else on it answers, nor there.
        set.calm(LIMIT).await?;
        let mut marks = Vec::new();
        for host in [OTHER, MASTER] {
            marks.push((host, set.stage.mark(host).await.map_err(failed)?));
        }
        set.inflict("ssh-hung", OTHER).await?;
        let held = held(set).await;
        set.mend("ssh-hung", OTHER).await?;
        held?;
        set.all_healthy(LIMIT).await?;
        for (host, mark) in &marks {
            let done = set.stage.actions_since(host, mark).await.map_err(failed)?;
            let words: Vec<&str> = done.iter().map(|action| action.spec.description.as_str()).collect();
            ensure(words.is_empty(), || format!("{host}: {words:?}"))?;
        }
        Ok(())
    }));
    trials.push(trial(place, "access::probe-hung", async |set| {
        // One section hangs; the others of the same look are seen, and nothing is done about what is not.
        set.inflict("probe-hung", OTHER).await?;
        let blind = set.stage.condition(OTHER, conditions::HEALTHY, "Unknown", Some("NotAllSeen"), LIMIT).await;
        let reachable = set.stage.condition(OTHER, conditions::REACHABLE, "True", None, LIMIT).await;
        let since = set.stage.mark(OTHER).await.map_err(failed)?;
        set.mend("probe-hung", OTHER).await?;
        blind.map_err(failed)?;
        reachable.map_err(failed)?;
        set.all_healthy(LIMIT).await?;
        let done = set.stage.actions_since(OTHER, &since).await.map_err(failed)?;
        ensure(done.is_empty(), || format!("{} steps were done about what could not be seen", done.len()))
    }));
    trials.push(trial(place, "access::sudo-password", async |set| {
        set.inflict("sudo-password", OTHER).await?;
        let kind = conditions::REDIRECT_IN_PLACE;
        let seen = set.stage.condition(OTHER, kind, "Unknown", Some("SudoNeedsPassword"), LIMIT).await;
        set.mend("sudo-password", OTHER).await?;
        let seen = seen.map_err(failed)?;
        ensure(seen.message.contains("NOPASSWD"), || seen.message.clone())?;
        set.all_healthy(LIMIT).await
    }));
    trials.push(trial(place, "access::pm2-gone", async |set| {
        set.inflict("pm2-gone", VICTIM).await?;
        let kind = conditions::SERVICES_RUNNING;
        let seen = set.stage.condition(VICTIM, kind, "Unknown", Some("NotInstalled"), LIMIT).await;
        set.mend("pm2-gone", VICTIM).await?;
        seen.map_err(failed)?;
        set.all_healthy(LIMIT).await
    }));
    trials.push(trial(place, "access::login-noise", async |set| {
        // A login shell that chatters changes nothing of what is seen.
        let since = set.stage.mark(VICTIM).await.map_err(failed)?;
        set.inflict("login-noise", VICTIM).await?;
        let watched = stays_healthy(set, VICTIM).await;
        set.mend("login-noise", VICTIM).await?;
        watched?;
        let done = set.stage.actions_since(VICTIM, &since).await.map_err(failed)?;
        ensure(done.is_empty(), || format!("{} steps were done", done.len()))
    }));
    trials.push(trial(place, "access::no-such-secret", async |set| {
        // Another Secret's name in the owner's file: said, and nothing lost.
        let status = set.stage.lab.status().map_err(failed)?;
        let mut file = binder_lab::stage::owner::file(&status, "Enforce");
        file["spec"]["access"]["keySecretRef"]["name"] = "not-there".into();
        set.stage.kubectl.apply(&file.to_string()).await.map_err(failed)?;
        let seen = set
            .stage
            .condition(VICTIM, conditions::STALLED, "True", Some("SecretMissing"), LIMIT)
            .await
            .map_err(failed)?;
        ensure(seen.message.contains("not-there") && seen.message.contains("kubectl create secret"), || seen.message)?;
        set.apply("Enforce").await?;
        set.all_healthy(LIMIT).await
    }));
}

async fn reachable(set: &Set, reasons: &[&str]) -> Outcome {
    let stage = &set.stage;
    let what = format!("{VICTIM} is not reachable, because of {reasons:?}");
    let look = || async {
        let object = stage.host(VICTIM).await.map_err(|error| binder_lab::said(&error))?;
        let conditions = object.status.unwrap_or_default().conditions;
        let found = conditions.iter().find(|condition| condition.type_ == conditions::REACHABLE);
        match found {
            Some(found) if found.status == "False" && reasons.contains(&found.reason.as_str()) => Ok(()),
            Some(found) => Err(format!("{} {}: {}", found.status, found.reason, found.message)),
            None => Err("no such condition".to_owned()),
        }
    };
    stage.until(&what, LIMIT, look).await.map_err(failed)
}

/// A person is told which line to put where: this machine has no cloud that the operator could ask.
async fn what_to_paste(set: &Set) -> Outcome {
    let public = set.stage.lab.layout().login_key().with_extension("pub");
    let public = std::fs::read_to_string(&public).map_err(failed)?;
    let key: Vec<&str> = public.split_whitespace().take(2).collect();
    let paste = format!("put this line into ~andrew/.ssh/authorized_keys on the machine: {}", key.join(" "));
    let stalled = set.stage.condition(VICTIM, conditions::STALLED, "True", Some("LoginRefused"), LIMIT).await;
    let stalled = stalled.map_err(failed)?;
    ensure(stalled.message.ends_with(&paste), || stalled.message.clone())
}

/// While one host is in trouble, another one is broken and healed.
async fn others_are_healed_meanwhile(set: &Set) -> Outcome {
    set.inflict("redirect-lost", OTHER).await?;
    let kind = conditions::REDIRECT_IN_PLACE;
    set.stage.condition(OTHER, kind, "False", None, LIMIT).await.map_err(failed)?;
    set.stage.condition(OTHER, kind, "True", None, LIMIT).await.map_err(failed)?;
    set.stage.healthy(&[OTHER], LIMIT).await.map_err(failed)
}

/// Nothing was done to a host that could not be entered: it is in the same boot, and no step but an ordinary one is known.
async fn no_heavier_step(set: &Set, host: &str) -> Outcome {
    let status = set.stage.lab.status().map_err(failed)?;
    ensure(status.host(host).is_some_and(|host| host.powered), || format!("{host} is off"))
}

/// The pins of a host change: what was learnt of its key is forgotten.
async fn touch_address(set: &Set) -> Outcome {
    let status = set.stage.lab.status().map_err(failed)?;
    let mut file = binder_lab::stage::owner::file(&status, "Observe");
    let hosts = file["spec"]["hosts"].as_array_mut().into_iter().flatten();
    for host in hosts.filter(|host| host["name"] == VICTIM) {
        // A second pin, of another machine: harmless, and a change.
        let other = status.hosts.iter().find(|other| other.name == OTHER).map(|other| other.host_key.clone());
        if let (Some(keys), Some(other)) = (host["hostKeys"].as_array_mut(), other) {
            keys.push(other.into());
        }
    }
    set.stage.kubectl.apply(&file.to_string()).await.map_err(failed)?;
    set.stage.condition(VICTIM, conditions::REACHABLE, "True", None, LIMIT).await.map_err(failed)?;
    Ok(())
}

/// A host is looked at several times and stays healthy.
async fn stays_healthy(set: &Set, host: &str) -> Outcome {
    let until = tokio::time::Instant::now() + Duration::from_secs(15);
    while tokio::time::Instant::now() < until {
        set.stage.healthy(&[host], Duration::from_secs(1)).await.map_err(failed)?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// Waits until the machine in between has been out of reach for long, and the cluster unknown with it.
async fn held(set: &Set) -> Outcome {
    let stage = &set.stage;
    stage.condition(OTHER, conditions::REACHABLE, "False", None, LIMIT).await.map_err(failed)?;
    let unknown = conditions::KUBERNETES_API_ANSWERING;
    stage.condition(MASTER, unknown, "Unknown", None, LIMIT).await.map_err(failed)?;
    let long = || async {
        let status = stage.host(OTHER).await.map_err(|error| binder_lab::said(&error))?.status.unwrap_or_default();
        let reachable = status.conditions.iter().find(|condition| condition.type_ == conditions::REACHABLE);
        let since = reachable.filter(|condition| condition.status != "True").map(|it| it.last_transition_time.0);
        let since = since.ok_or_else(|| format!("{OTHER} is reached again"))?;
        let seconds = Timestamp::now().duration_since(since).as_secs();
        if seconds >= SILENT_FOR { Ok(()) } else { Err(format!("out of reach for {seconds} s")) }
    };
    stage.until("it has been out of reach for long", LIMIT, long).await.map_err(failed)?;
    stage.condition(MASTER, unknown, "Unknown", None, LIMIT).await.map(|_| ()).map_err(failed)
}
