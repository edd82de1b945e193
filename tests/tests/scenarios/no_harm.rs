//! What must lead to no step, or to none that disrupts: tools that refuse or are slow, witnesses that hang, logins and
//! clocks that are wrong, files that name something else. Each is really brought about on a healthy fleet in `Enforce`.
//! The operator looks again and again, does nothing, and says what a person can do; what it did not do is seen in the
//! hosts' own record of SSH commands, in their boots and in the cloud's record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use binder_crds::{BinderHost, conditions};
use binder_lab::faults::tools::{FRESH_BUILD, MOVED_TO, OWN_KUBECTL};
use binder_lab::stage::{Mark, acts::world, owner};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{WatchEvent, WatchParams};
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::place::Place;
use crate::set::Set;
use crate::{LOOK, Outcome, ensure, failed, trial};

const LIMIT: Duration = Duration::from_secs(120);
/// Three starts without an effect, each given half a minute, and the pauses between them.
const GIVES_UP: Duration = Duration::from_secs(240);
const WEB: &str = "binder-web-deploy";
const SERVICES: &str = "binder-services";
const BUILD: &str = "binder-tester-2";
const MASTER: &str = "kubernetes-master";

/// So many looks show that nothing is done: a step that does not disrupt takes one, one that disrupts a service two, and
/// the operator's ladder of three attempts has begun by then.
const LOOKS: usize = 5;
/// Seconds for which a machine must have been out of reach, or a cluster ill: longer than the lab's `unreachableTimeout` (10 s), a
/// blip (10 s) and two questions.
const SILENT_FOR: i64 = 35;
/// Looks that take at least as long.
const LOOKS_OF_SILENCE: usize = 12;
/// How often the operator is started anew.
const STARTS: usize = 20;

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "no_harm::ss-refuses", async |set| {
        harmless(set, "ss-refuses", WEB, async |set| {
            looked(set, WEB, LOOKS).await?;
            // It is asked in words that an old one knows.
            set.stage.healthy(&[WEB], LIMIT).await.map_err(failed)
        })
        .await?;
        // One that cannot be asked at all: nothing is known of who listens.
        harmless(set, "ss-broken", WEB, async |set| {
            let kind = conditions::SERVICES_RUNNING;
            let said = set.stage.condition(WEB, kind, "Unknown", None, LIMIT).await.map_err(failed)?;
            ensure(said.message.contains("ss") && !said.reason.is_empty(), || said.message)?;
            looked(set, WEB, LOOKS).await
        })
        .await
    }));
    trials.push(trial(place, "no_harm::address-wrong", async |set| {
        harmless(set, "address-wrong", SERVICES, async |set| {
            silent(set, SERVICES).await?;
            // The cloud knows its instance by another address.
            let said = says(set, SERVICES, |condition| {
                [&condition.type_, &condition.reason].iter().any(|word| word.as_str() == "InstanceMismatch")
            });
            let said = said.await?;
            ensure(said.message.contains(".99"), || format!("it does not name the address: {}", said.message))
        })
        .await
    }));
    trials.push(trial(place, "no_harm::api-forbidden", async |set| {
        harmless(set, "api-forbidden", WEB, async |set| {
            let said = says(set, WEB, |condition| condition.status != "True" && condition.message.contains("401"));
            let said = said.await?;
            ensure(said.type_ == conditions::PROXY_SERVING, || format!("{} {}", said.type_, said.message))?;
            looked(set, MASTER, LOOKS_OF_SILENCE).await
        })
        .await
    }));
    trials.push(trial(place, "no_harm::wrong-cluster-proxy-and-sick-neighbour", async |set| {
        // The wrong proxy is the operator's to heal, which would end all this at once: on its host, it only looks.
        let mut file = file(set)?;
        member(&mut file, WEB, |host| host["mode"] = json!("Observe"));
        apply(set, &file).await?;
        harmless(set, "wrong-cluster-proxy-and-sick-neighbour", WEB, async |set| {
            let kind = conditions::PROXY_SERVING;
            set.stage.condition(WEB, kind, "False", Some("WrongCluster"), LIMIT).await.map_err(failed)?;
            looked(set, MASTER, LOOKS_OF_SILENCE).await?;
            // What another cluster says is not said of this one.
            let master = set.stage.host(MASTER).await.map_err(failed)?.status.unwrap_or_default();
            let of_it = master.conditions.iter().find(|found| found.type_ == conditions::KUBERNETES_API_ANSWERING);
            ensure(of_it.is_some_and(|found| found.status != "False"), || format!("{of_it:?}"))
        })
        .await
    }));
    trials.push(trial(place, "no_harm::witness-hangs", async |set| {
        harmless(set, "witness-hangs", SERVICES, async |set| silent(set, SERVICES).await).await
    }));
    trials.push(trial(place, "no_harm::docker-slow", async |set| {
        harmless(set, "docker-slow", BUILD, async |set| {
            // A question that had no answer in time is said, and waited out.
            let said =
                says(set, BUILD, |condition| condition.type_ == conditions::DOCKER_READY && condition.status != "True");
            let said = said.await?;
            ensure(said.message.contains("Docker"), || said.message.clone())?;
            looked(set, BUILD, LOOKS).await
        })
        .await
    }));
    trials.push(trial(place, "no_harm::clock-behind", async |set| {
        harmless(set, "clock-behind", BUILD, async |set| {
            let said = says(set, BUILD, |condition| condition.type_ == "ClockInSync" && condition.status != "True");
            let said = said.await?;
            ensure(said.message.contains("clock"), || said.message.clone())?;
            looked(set, SERVICES, LOOKS).await?;
            looked(set, BUILD, LOOKS).await?;
            let row = set.stage.lab.database("build", &[FRESH_BUILD]).await.map_err(failed)?;
            ensure(row["status"] == "running", || format!("the build that has just begun is {row}"))
        })
        .await
    }));
    trials.push(trial(place, "no_harm::port-moved", async |set| {
        harmless(set, "port-moved", WEB, async |set| {
            looked(set, WEB, LOOKS).await?;
            set.stage.healthy(&[WEB], LIMIT).await.map_err(failed)?;
            world::connects(&set.stage, WEB, MOVED_TO).await.map(|_| ()).map_err(Failed::from)
        })
        .await
    }));
    trials.push(trial(place, "no_harm::kubectl-replaced", async |set| {
        // Described by the path of the program itself, and not of the script that starts one.
        let mut own = file(set)?;
        own["spec"]["profiles"]["web"]["kubectlProxy"]["kubectl"] = json!(OWN_KUBECTL);
        set.calm(LIMIT).await?;
        // Between the description and the program that is described, nothing is to be done.
        set.apply("Observe").await?;
        let broken = set.inflict("kubectl-replaced", WEB).await;
        let watched = async {
            broken?;
            let before = Before::of(set).await?;
            apply(set, &own).await?;
            looked(set, WEB, LOOKS).await?;
            before.nothing_was_done(set).await?;
            set.stage.healthy(&[WEB], LIMIT).await.map_err(failed)
        };
        let watched = watched.await;
        set.apply("Observe").await?;
        set.mend("kubectl-replaced", WEB).await?;
        set.apply("Enforce").await?;
        watched?;
        set.all_healthy(LIMIT).await
    }));
    trials.push(trial(place, "no_harm::start-impossible", async |set| {
        set.calm(LIMIT).await?;
        let before = Before::of(set).await?;
        let broken = set.inflict("start-impossible", WEB).await;
        let watched = async {
            broken?;
            set.stage.condition(WEB, conditions::STALLED, "True", None, GIVES_UP).await.map_err(failed)?;
            let said = says(set, WEB, |condition| {
                condition.status != "True"
                    && ["binder-control", "127"].iter().any(|word| condition.message.contains(word))
                    || condition.type_ == conditions::STALLED && condition.message.contains("start")
            });
            let said = said.await?;
            set.tell(format!("{} {}: {}", said.type_, said.reason, said.message));
            looked(set, WEB, LOOKS).await?;
            for action in set.stage.actions_since(WEB, &before.marks[WEB]).await.map_err(failed)? {
                let outcome = action.status.as_ref().and_then(|status| status.outcome);
                set.tell(format!("{}: {outcome:?}", action.spec.description));
                ensure(action.spec.step == "StartProcess", || format!("{} was tried", action.spec.description))?;
            }
            before.no_machine_was_restarted(set)
        };
        let watched = watched.await;
        set.mend("start-impossible", WEB).await?;
        watched?;
        set.all_healthy(LIMIT).await
    }));
    trials.push(trial(place, "no_harm::operator-restarted", async |set| {
        set.calm(LIMIT).await?;
        let before = Before::of(set).await?;
        let drifts = Arc::new(Mutex::new(Vec::new()));
        let watching = tokio::spawn(watch(set.stage.hosts(), Arc::clone(&drifts)));
        let restarted = restarted(set).await;
        set.stage.start_operator().await.map_err(failed)?;
        watching.abort();
        restarted?;
        let drifts = drifts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure(drifts.is_empty(), || format!("said in {STARTS} starts: {drifts:?}"))?;
        before.nothing_was_done(set).await?;
        set.all_healthy(LIMIT).await
    }));
}

/// Brings a fault about on a calm fleet, watches, and sees that nothing was done; then takes it back, whatever was seen, and
/// waits until all is well.
async fn harmless(set: &Set, fault: &str, host: &str, watch: impl AsyncFnOnce(&Set) -> Outcome) -> Outcome {
    set.calm(LIMIT).await?;
    let before = Before::of(set).await?;
    let broken = set.inflict(fault, host).await;
    let watched = match broken {
        Ok(()) => watch(set).await,
        Err(failure) => Err(failure),
    };
    let quiet = before.nothing_was_done(set).await;
    set.mend(fault, host).await?;
    set.apply("Enforce").await?;
    // What was done first: it is why something else was not seen.
    quiet?;
    watched?;
    set.all_healthy(LIMIT).await
}

/// What there was of every host before the fault.
struct Before {
    marks: BTreeMap<String, Mark>,
    asked: BTreeMap<String, usize>,
    boots: BTreeMap<String, Option<String>>,
    operations: BTreeMap<String, usize>,
}

impl Before {
    async fn of(set: &Set) -> Result<Self, Failed> {
        let mut before = Self {
            marks: BTreeMap::new(),
            asked: BTreeMap::new(),
            boots: BTreeMap::new(),
            operations: BTreeMap::new(),
        };
        for status in set.stage.lab.status().map_err(failed)?.hosts {
            let name = status.name;
            let host = set.stage.lab.host(&name).map_err(failed)?;
            before.marks.insert(name.clone(), set.stage.mark(&name).await.map_err(failed)?);
            before.asked.insert(name.clone(), host.asked_over_ssh().map_err(failed)?.len());
            before.operations.insert(name.clone(), host.asked_of_the_cloud().map_err(failed)?.len());
            before.boots.insert(name, status.boot_id);
        }
        Ok(before)
    }

    /// No attempt was recorded, no sshd was asked for anything but looks, no machine was restarted.
    async fn nothing_was_done(&self, set: &Set) -> Outcome {
        for (name, mark) in &self.marks {
            let done = set.stage.actions_since(name, mark).await.map_err(failed)?;
            let words: Vec<&str> = done.iter().map(|action| action.spec.description.as_str()).collect();
            ensure(words.is_empty(), || format!("{name}: done was {words:?}"))?;
            let asked = set.stage.lab.host(name).map_err(failed)?.asked_over_ssh().map_err(failed)?;
            for line in asked.iter().skip(self.asked.get(name).copied().unwrap_or_default()) {
                let command = line.split_once(' ').map_or("", |(_, command)| command).replace(['\\', '\'', '"'], "");
                ensure(command == LOOK, || format!("{name}: its sshd was asked to run {line}"))?;
            }
        }
        self.no_machine_was_restarted(set)
    }

    /// Every machine is in the same boot, and the cloud was asked to do nothing.
    fn no_machine_was_restarted(&self, set: &Set) -> Outcome {
        for status in set.stage.lab.status().map_err(failed)?.hosts {
            let name = status.name;
            ensure(status.powered, || format!("{name} is off"))?;
            ensure(self.boots.get(&name) == Some(&status.boot_id), || format!("{name} has been restarted"))?;
            let operations = set.stage.lab.host(&name).map_err(failed)?.asked_of_the_cloud().map_err(failed)?;
            let known = self.operations.get(&name).copied().unwrap_or_default();
            let new: Vec<&String> = operations.iter().skip(known).collect();
            ensure(new.is_empty(), || format!("{name}: the cloud was asked for {new:?}"))?;
        }
        Ok(())
    }
}

/// Waits for so many more looks at a host, as its own sshd counts them.
async fn looked(set: &Set, host: &str, more: usize) -> Outcome {
    let count = || -> Result<usize, String> {
        let host = set.stage.lab.host(host).map_err(|error| binder_lab::said(&error))?;
        Ok(host.asked_over_ssh().map_err(|error| binder_lab::said(&error))?.len())
    };
    let before = count().map_err(Failed::from)?;
    let look = || async {
        let now = count()?.saturating_sub(before);
        if now >= more { Ok(()) } else { Err(format!("{now} looks")) }
    };
    set.stage.until(&format!("{more} more looks at {host}"), LIMIT, look).await.map_err(failed)
}

/// Waits until a host's status says something that is not a word about the whole.
async fn says(set: &Set, host: &str, fits: impl Fn(&Condition) -> bool) -> Result<Condition, Failed> {
    let look = || async {
        let status = set.stage.host(host).await.map_err(|error| binder_lab::said(&error))?.status.unwrap_or_default();
        let of_the_whole = [conditions::READY, conditions::HEALTHY, conditions::RECONCILING];
        let mut found = status.conditions.iter().filter(|condition| !of_the_whole.contains(&condition.type_.as_str()));
        match found.find(|condition| fits(condition)) {
            Some(condition) => Ok(condition.clone()),
            None => {
                let all: Vec<String> = status
                    .conditions
                    .iter()
                    .filter(|condition| condition.status != "True")
                    .map(|found| format!("{} {} {}: {}", found.type_, found.status, found.reason, found.message))
                    .collect();
                Err(all.join("; "))
            }
        }
    };
    set.stage.until(&format!("{host} says so"), LIMIT, look).await.map_err(failed)
}

/// Waits until a host has been out of the operator's reach for long.
async fn silent(set: &Set, host: &str) -> Outcome {
    let stage = &set.stage;
    let said = stage.condition(host, conditions::REACHABLE, "False", None, LIMIT).await.map_err(failed)?;
    ensure(!said.message.is_empty() && !said.reason.is_empty(), || "it does not say why".to_owned())?;
    let long = || async {
        let status = stage.host(host).await.map_err(|error| binder_lab::said(&error))?.status.unwrap_or_default();
        let reachable = status.conditions.iter().find(|condition| condition.type_ == conditions::REACHABLE);
        let since = reachable.filter(|condition| condition.status != "True").map(|it| it.last_transition_time.0);
        let since = since.ok_or_else(|| format!("{host} is reached again"))?;
        let seconds = Timestamp::now().duration_since(since).as_secs();
        if seconds >= SILENT_FOR { Ok(()) } else { Err(format!("out of reach for {seconds} s")) }
    };
    stage.until("it has been out of reach for long", LIMIT, long).await.map_err(failed)
}

/// The owner's file, in `Enforce`.
fn file(set: &Set) -> Result<serde_json::Value, Failed> {
    Ok(owner::file(&set.stage.lab.status().map_err(failed)?, "Enforce"))
}

/// Changes one host of the owner's file.
fn member(file: &mut serde_json::Value, name: &str, change: impl Fn(&mut serde_json::Value)) {
    let hosts = file["spec"]["hosts"].as_array_mut().into_iter().flatten();
    hosts.filter(|host| host["name"] == name).for_each(change);
}

async fn apply(set: &Set, file: &serde_json::Value) -> Outcome {
    set.stage.kubectl.apply(&file.to_string()).await.map(|_| ()).map_err(failed)
}

/// Ends the operator and starts it, again and again; each time it judges every host.
async fn restarted(set: &mut Set) -> Outcome {
    let hosts = set.hosts()?.len();
    for start in 1..=STARTS {
        set.stage.stop_operator().await.map_err(failed)?;
        set.stage.start_operator().await.map_err(failed)?;
        let judged = || async {
            let text = set.stage.operator_says("/metrics").await.map_err(|error| binder_lab::said(&error))?;
            let judged = text.lines().filter(|line| line.starts_with("binder_host_healthy{")).count();
            if judged >= hosts { Ok(()) } else { Err(format!("{judged} hosts")) }
        };
        set.stage.until(&format!("every host is judged after start {start}"), LIMIT, judged).await.map_err(failed)?;
    }
    Ok(())
}

/// Keeps every drift that any status of a host tells.
async fn watch(hosts: kube::Api<BinderHost>, drifts: Arc<Mutex<Vec<String>>>) {
    let keep = |said: String| drifts.lock().unwrap_or_else(PoisonError::into_inner).push(said);
    let mut version = match hosts.list(&Default::default()).await {
        Ok(list) => list.metadata.resource_version.unwrap_or_default(),
        Err(error) => return keep(format!("the hosts cannot be read: {}", binder_lab::said(&error))),
    };
    loop {
        let mut events = match hosts.watch(&WatchParams::default(), &version).await {
            Ok(events) => events.boxed(),
            Err(error) => return keep(format!("the hosts cannot be watched: {}", binder_lab::said(&error))),
        };
        while let Ok(Some(event)) = events.try_next().await {
            match event {
                WatchEvent::Added(host) | WatchEvent::Modified(host) => {
                    version = host.metadata.resource_version.clone().unwrap_or(version);
                    if let Some(said) = false_word(&host) {
                        keep(said);
                    }
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Deleted(host) => keep(format!("{:?} was deleted", host.metadata.name)),
                WatchEvent::Error(error) => return keep(format!("the watch ended: {error}")),
            }
        }
    }
}

/// What a status says is not as described, on a fleet on which all is. What could not be seen yet (Unknown) is no such word.
fn false_word(host: &BinderHost) -> Option<String> {
    let status = host.status.as_ref()?;
    let name = host.metadata.name.clone().unwrap_or_default();
    let wrong: Vec<String> = status
        .conditions
        .iter()
        .filter(|condition| {
            condition.status == "False"
                && ![conditions::RECONCILING, conditions::STALLED].contains(&condition.type_.as_str())
        })
        .map(|condition| format!("{} {}: {}", condition.type_, condition.reason, condition.message))
        .collect();
    (!wrong.is_empty()).then(|| format!("{name}: {}", wrong.join("; ")))
}
