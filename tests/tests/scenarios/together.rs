//! Several faults at once: each is healed, in the runbook's order, and no step is taken twice for nothing. The short form
//! plays the first pairs and everything at once, the long campaign all pairs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use binder_crds::ActionOutcome;
use binder_lab::stage::Mark;
use binder_lab::stage::acts::{self, world};
use libtest_mimic::{Failed, Trial};

use crate::place::Place;
use crate::set::Set;
use crate::{Outcome, ensure, failed, trial};

/// From two faults to a fleet that is as described.
const LIMIT: Duration = Duration::from_secs(300);

/// So many of the pairs are in the short form.
const IN_SHORT: usize = 2;

/// Pairs on one host and on two, of causes and of their symptoms.
const PAIRS: &[(&str, &str)] = &[
    ("services-logging-stopped", "proxy-dead"),
    ("deploy-lost", "web-lost"),
    ("web-lost", "redirect-lost"),
    ("web-lost", "proxy-dead"),
    ("web-lost", "redirect-doubled"),
    ("proxy-dead", "redirect-lost"),
    ("proxy-dead", "redirect-doubled"),
    ("deploy-lost", "redirect-lost"),
    ("services-db-stopped", "redirect-lost"),
    ("services-logging-stopped", "web-lost"),
    ("services-db-stopped", "proxy-dead"),
];

/// The servers with children in pm2. One of them crashes when its proxy, the log collector or the database goes, and pm2 then loses
/// it or its children, at any moment, also while its entries are being deleted: how many steps that takes is nobody's choice.
const LOST_IN_A_CRASH: [&str; 2] = ["deploy-kubernetes", "health"];

/// Everything that can be broken at once and is the operator's to heal without a restart of a machine. A dead proxy comes first as
/// well: a server is lost while it runs, and it needs one, so `deploy-lost` brings another up before it breaks anything.
const ALL: &[&str] = &[
    "proxy-dead",
    "deploy-lost",
    "web-lost",
    "proxy-dead",
    "redirect-lost",
    "services-logging-stopped",
    "services-db-stopped",
];

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    let pairs = if crate::long() { PAIRS.len() } else { IN_SHORT };
    for (one, other) in &PAIRS[..pairs] {
        trials.push(trial(place, format!("together::{one}_and_{other}"), async move |set| {
            together(set, &[one, other]).await
        }));
    }
    trials.push(trial(place, "together::everything", async |set| together(set, ALL).await));
}

async fn together(set: &mut Set, faults: &[&str]) -> Outcome {
    set.calm(LIMIT).await?;
    let hosts: BTreeSet<&str> = faults.iter().filter_map(|fault| acts::host_of(fault)).collect();
    let mut marks: Vec<(&str, Mark)> = Vec::new();
    for host in &hosts {
        marks.push((host, set.stage.mark(host).await.map_err(failed)?));
    }
    // Nobody heals the first one while the next is being brought about.
    set.stage.stop_operator().await.map_err(failed)?;
    let broken = broken(set, faults).await;
    set.stage.start_operator().await.map_err(failed)?;
    broken?;
    let seen = set.stage.until("the whole fleet", LIMIT, || world::fleet(&set.stage)).await.map_err(failed)?;
    set.tell(seen);
    // The world may be well before the operator has looked at what its last step came to.
    set.all_healthy(LIMIT).await?;
    for (host, mark) in &marks {
        let mut done = BTreeSet::new();
        for action in set.stage.actions_since(host, mark).await.map_err(failed)? {
            let outcome = action.status.as_ref().and_then(|status| status.outcome);
            let what = format!("{} {}", action.spec.step, action.spec.subject);
            set.tell(format!("{host}: {} ({outcome:?})", action.spec.description));
            if LOST_IN_A_CRASH.iter().any(|server| action.spec.description.contains(server)) {
                let lighter = ["EndOrphan", "DeleteEntries", "StartProcess"].contains(&action.spec.step.as_str());
                ensure(lighter, || format!("{host}: {what} for a crash"))?;
                // A proxy that deploy-kubernetes has under pm2 may have been the one on 8085, and goes with its entries.
                if action.spec.step == "DeleteEntries" {
                    done.retain(|what: &String| !what.starts_with("StartKubectlProxy"));
                }
                continue;
            }
            ensure(outcome == Some(ActionOutcome::Succeeded), || format!("{host}: {what}: {outcome:?}"))?;
            ensure(done.insert(what.clone()), || format!("{host}: {what} was done twice"))?;
        }
    }
    Ok(())
}

async fn broken(set: &Set, faults: &[&str]) -> Outcome {
    for fault in faults {
        let host = acts::host_of(fault).ok_or_else(|| Failed::from(format!("{fault} is on no one host")))?;
        set.inflict(fault, host).await?;
    }
    Ok(())
}
