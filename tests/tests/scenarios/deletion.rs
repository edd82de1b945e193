//! A host, and then the whole fleet, is deleted with a remedy under way: the objects go, nothing is asked of the machine any
//! more, and what was tried stays on record.

use std::sync::Arc;
use std::time::Duration;

use binder_crds::BinderAction;
use binder_lab::stage::owner;
use libtest_mimic::Trial;

use crate::place::Place;
use crate::set::Set;
use crate::{Outcome, ensure, failed, trial};

const LIMIT: Duration = Duration::from_secs(180);
/// The longest that a step may take to show its effect, and a moment to say that nobody saw it.
const RECORDED: Duration = Duration::from_secs(330);
const WEB: &str = "binder-web-deploy";
/// So long after its deletion a host is watched: several looks would have been made in it.
const WATCHED: Duration = Duration::from_secs(12);

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "deletion::a_host_that_is_no_longer_listed_is_asked_nothing_more", async |set| {
        begin_a_remedy(set).await?;
        let status = set.stage.lab.status().map_err(failed)?;
        let mut file = owner::file(&status, "Enforce");
        if let Some(hosts) = file["spec"]["hosts"].as_array_mut() {
            hosts.retain(|host| host["name"] != WEB);
        }
        set.stage.kubectl.apply(&file.to_string()).await.map_err(failed)?;
        gone(set, &[WEB]).await?;
        nothing_more_is_asked(set, &[WEB]).await?;
        // Listed again, it is taken up again where it is.
        set.apply("Enforce").await?;
        set.all_healthy(LIMIT).await
    }));
    trials.push(trial(place, "deletion::a_deleted_fleet_leaves_nothing_and_asks_nothing_more", async |set| {
        begin_a_remedy(set).await?;
        set.stage.kubectl.run(&["-n", "binder", "delete", "bf", owner::FLEET, "--wait=false"]).await.map_err(failed)?;
        let hosts = set.hosts()?;
        let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
        gone(set, &names).await?;
        nothing_more_is_asked(set, &names).await?;
        let stage = &set.stage;
        let ended = || async {
            let left = stage.actions().list(&Default::default()).await.map_err(|error| binder_lab::said(&error))?.items;
            let is_open = |action: &&BinderAction| action.status.as_ref().is_none_or(|status| status.outcome.is_none());
            let open = left.iter().filter(is_open).count();
            if !left.is_empty() && open == 0 { Ok(()) } else { Err(format!("{open} of {} are open", left.len())) }
        };
        stage.until("what was tried stays on record, with an outcome", RECORDED, ended).await.map_err(failed)?;
        let took = set.stage.stop_operator().await.map_err(failed)?;
        set.tell(format!("the operator ended {:.1} s after SIGTERM", took.as_secs_f32()));
        Ok(())
    }));
}

/// `deploy-kubernetes` takes a while to start: time enough to delete in the middle of it.
async fn begin_a_remedy(set: &Set) -> Outcome {
    let since = set.stage.mark(WEB).await.map_err(failed)?;
    set.inflict("deploy-lost", WEB).await?;
    let stage = &set.stage;
    let look = || async {
        let actions = stage.actions_since(WEB, &since).await.map_err(|error| binder_lab::said(&error))?;
        if actions.is_empty() { Err("no attempt yet".to_owned()) } else { Ok(()) }
    };
    stage.until("a remedy is under way", LIMIT, look).await.map_err(failed)
}

async fn gone(set: &Set, hosts: &[&str]) -> Outcome {
    let stage = &set.stage;
    let look = || async {
        let there = stage.hosts().list(&Default::default()).await.map_err(|error| binder_lab::said(&error))?.items;
        let left: Vec<String> = there
            .into_iter()
            .filter_map(|host| host.metadata.name)
            .filter(|name| hosts.contains(&name.as_str()))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("still there: {left:?}")) }
    };
    stage.until("the hosts' objects are gone", LIMIT, look).await.map_err(failed)
}

/// What was under way when the object went may still end; after that, the machine's sshd is asked for nothing.
async fn nothing_more_is_asked(set: &Set, hosts: &[&str]) -> Outcome {
    // A command that was sent is heard out, for its own time limit at most.
    let asked = |host: &str| -> Result<usize, libtest_mimic::Failed> {
        Ok(set.stage.lab.host(host).map_err(failed)?.asked_over_ssh().map_err(failed)?.len())
    };
    let quiet = || async {
        let before: Vec<usize> = hosts.iter().filter_map(|host| asked(host).ok()).collect();
        tokio::time::sleep(WATCHED).await;
        let after: Vec<usize> = hosts.iter().filter_map(|host| asked(host).ok()).collect();
        if before.len() == hosts.len() && before == after { Ok(()) } else { Err(format!("{before:?} then {after:?}")) }
    };
    set.stage.until("nothing more is asked of the machines", Duration::from_secs(60), quiet).await.map_err(failed)?;
    ensure(!hosts.is_empty(), || "no host was watched".to_owned())
}
