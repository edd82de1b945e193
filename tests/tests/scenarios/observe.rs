//! In `Observe` nothing is done to a host: shown on the wire, by what the hosts' own sshd was asked to run.

use std::sync::Arc;
use std::time::Duration;

use binder_crds::conditions;
use libtest_mimic::{Failed, Trial};

use crate::place::{Begins, Place};
use crate::{LOOK, ensure, failed, trial_that};

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial_that(
        Begins::Bare,
        place,
        "observe::only_looks_are_on_the_wire_and_it_is_said_what_would_be_done",
        async |set| {
            let web = "binder-web-deploy";
            let limit = Duration::from_secs(60);
            let stage = &set.stage;
            stage.condition(web, conditions::READY, "True", None, limit).await.map_err(failed)?;
            stage.condition(web, conditions::SERVICES_RUNNING, "False", None, limit).await.map_err(failed)?;
            let allowed =
                stage.condition(web, conditions::REMEDIATION_ALLOWED, "False", Some("ModeObserve"), limit).await;
            allowed.map_err(failed)?;
            // Several more looks, as the operator counts them itself.
            let before = looks(&stage.operator_says("/metrics").await.map_err(failed)?)?;
            let more = || async {
                let text = stage.operator_says("/metrics").await.map_err(|error| binder_lab::said(&error))?;
                let now = looks(&text).map_err(|_| "no count of looks".to_owned())?;
                if now >= before + 12 { Ok(()) } else { Err(format!("{now} looks")) }
            };
            stage.until("twelve more looks", limit, more).await.map_err(failed)?;
            for host in set.hosts()? {
                let asked = stage.lab.host(&host).map_err(failed)?.asked_over_ssh().map_err(failed)?;
                ensure(!asked.is_empty(), || format!("{host}: its sshd was asked for nothing at all"))?;
                for line in &asked {
                    let command =
                        line.split_once(' ').map_or("", |(_, command)| command).replace(['\\', '\'', '"'], "");
                    ensure(command == LOOK, || format!("{host}: its sshd was asked to run {line}"))?;
                }
            }
            let actions = stage.actions().list(&Default::default()).await.map_err(failed)?.items;
            ensure(actions.is_empty(), || format!("{} actions were recorded", actions.len()))?;
            let object = stage.host(web).await.map_err(failed)?;
            let plan = object.status.unwrap_or_default().plan;
            ensure(!plan.is_empty() && plan.iter().all(|step| step.waits_for == "mode Enforce"), || format!("{plan:?}"))
        },
    ));
}

/// How many looks the operator has counted.
fn looks(metrics: &str) -> Result<u64, Failed> {
    let counts: Vec<u64> = metrics
        .lines()
        .filter(|line| line.starts_with("binder_looks_total{"))
        .filter_map(|line| line.rsplit(' ').next().and_then(|count| count.parse().ok()))
        .collect();
    if counts.is_empty() { Err(Failed::from("no count of looks in /metrics")) } else { Ok(counts.iter().sum()) }
}
