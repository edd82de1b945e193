//! Acts on disks and Docker.

use std::time::Duration;

use binder_crds::conditions;
use jiff::{RoundMode, SignedDuration, Timestamp, Unit, ZonedRound};
use serde_json::json;

use super::{Act, Look, world};
use crate::stage::{Stage, owner};

const HOST: &str = "binder-tester-2";

pub(super) const ACTS: &[Act] = &[
    Act {
        fault: "disk-filling",
        host: HOST,
        title: "Docker's disk is over its threshold",
        condition: conditions::DISK_BELOW_THRESHOLD,
        reason: "OverThreshold",
        steps: &["RemoveContainers", "RemoveImages"],
        consequences: &[],
        world: "the disk below its threshold, and what is in use untouched",
        look: |stage| Box::pin(world::disk_below(stage)),
        in_demo: true,
    },
    Act {
        fault: "disk-full",
        host: HOST,
        title: "Docker's disk is full, and Docker is stuck",
        condition: conditions::DOCKER_READY,
        reason: "DockerConfigEmpty",
        steps: &["EmptyPackageCache", "DeleteEmptyDockerConfig", "RestartDocker", "RemoveContainers", "RemoveImages"],
        consequences: &[],
        world: "containers that run, images that build, and no empty login file",
        look: |stage| Box::pin(world::docker_works(stage)),
        in_demo: false,
    },
    Act {
        fault: "reclaim-due",
        host: HOST,
        title: "Docker's clean-up is due",
        condition: conditions::DOCKER_READY,
        reason: "ReclaimDue",
        steps: &["RemoveContainers", "RemoveImages"],
        consequences: &[],
        world: "the litter gone, what is in use untouched, and the next run in status",
        look: |stage| Box::pin(reclaimed(stage)),
        in_demo: false,
    },
];

/// What comes after a fault, before it is looked for.
pub(super) const THEN: &[(&str, Look)] = &[("reclaim-due", |stage| Box::pin(its_time_comes(stage)))];

/// From now until the clean-up is due at least: the operator must have taken the schedule in by then.
const AHEAD: SignedDuration = SignedDuration::from_secs(12);

/// Has the owner move the clean-up to the next minute, and waits until that is about to begin.
async fn its_time_comes(stage: &Stage) -> Result<String, String> {
    let soon = (Timestamp::now() + AHEAD).in_tz(owner::RECLAIM_ZONE).map_err(|error| crate::said(&error))?;
    let minute = soon
        .round(ZonedRound::new().smallest(Unit::Minute).mode(RoundMode::Ceil))
        .map_err(|error| crate::said(&error))?;
    let status = stage.lab.status().map_err(|error| crate::said(&error))?;
    let mut file = owner::file(&status, "Enforce");
    let hosts = file["spec"]["hosts"].as_array_mut().ok_or("the owner's file has no hosts")?;
    let host = hosts.iter_mut().find(|host| host["name"] == HOST).ok_or("the owner's file lacks the build host")?;
    host["docker"]["reclaim"]["schedule"] = json!(format!("{} {} * * *", minute.minute(), minute.hour()));
    stage.kubectl.apply(&file.to_string()).await.map_err(|error| crate::said(&error))?;
    let due = minute.timestamp();
    let what = format!("status names {due} as the next run, and that is a moment away");
    let taken_in = stage.until(&what, Duration::from_secs(90), || async {
        let seen = next_run(stage).await?;
        if seen != due {
            return Err(format!("the next run is at {seen}"));
        }
        let left = due.duration_since(Timestamp::now());
        if left > SignedDuration::from_secs(5) { Err(format!("{left:#} are left")) } else { Ok(()) }
    });
    taken_in.await.map_err(|error| crate::said(&error))?;
    Ok(format!("the clean-up is due at {due}"))
}

async fn next_run(stage: &Stage) -> Result<Timestamp, String> {
    let host = stage.host(HOST).await.map_err(|error| crate::said(&error))?;
    let schedules = host.status.unwrap_or_default().schedules;
    let clean_up = schedules.iter().find(|schedule| schedule.name == "docker-reclaim");
    clean_up.map(|schedule| schedule.next_run.0).ok_or_else(|| "status knows no such schedule".to_owned())
}

/// The litter is gone, the bystanders are not, and the next run is a day away.
async fn reclaimed(stage: &Stage) -> Result<String, String> {
    let gone = world::litter_gone(stage).await?;
    let next = next_run(stage).await?;
    if next.duration_since(Timestamp::now()) < SignedDuration::from_hours(20) {
        return Err(format!("the next run is at {next}"));
    }
    Ok(format!("{gone}; the next run is a day later"))
}
