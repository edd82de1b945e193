//! Facet `health_status`: what `/health/` says is recent, and is so (runbook, "Status is mysteriously down").
//!
//! The health checker goes round every 40 s. It writes `down` of what it cannot reach, and of what works when it was
//! started with a wrong configuration or environment; and it stops for good, while pm2 says online, once the database was
//! away for one round (`scripts/checker.js`: no further round after an error of `getDatabase`).

use super::services;
use super::{Check, Drift, DriftKind, Facet, Rung, Subject};
use crate::catalogue;
use crate::seen::pm2::Table;
use crate::seen::proxy::Cluster;
use crate::seen::servers::{JUDGED, mark};
use crate::seen::{Ask, Observation, Reason, Unknown, pm2};
use binder_crds::desired::Server;
use binder_crds::{Desired, conditions};
use std::time::Duration;

/// The facet.
pub struct HealthStatus;

/// The longest work of one round: 30 tries a second apart for the app that it deploys, and what that takes besides
/// (`scripts/checker.js`).
const ROUND: Duration = Duration::from_secs(35);

/// From then on a verdict is stale: two rounds at their longest, with a pause of 40 s each (`conf/main.json`, `interval`).
const STALE_AFTER: Duration = Duration::from_secs(150);

/// A checker that was just started goes round at once, and then has written something.
const FIRST_ROUND: Duration = Duration::from_secs(45);

/// The checker's name under pm2.
const CHECKER: &str = "binder-health-checker";

impl Facet for HealthStatus {
    fn condition(&self) -> &'static str {
        conditions::HEALTH_STATUS_CURRENT
    }

    fn in_use(&self, desired: &Desired) -> bool {
        desired.servers.contains(&Server::Health)
    }

    fn asks(&self, _: &Desired) -> Vec<Ask> {
        vec![pm2::ask()]
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let (servers, machine, table) = (seen.servers.get()?, seen.machine.get()?, seen.pm2.get()?);
        let component = catalogue::server(Server::Health);
        let blind = |why: &str| Unknown {
            reason: Reason::NotAnswered,
            message: format!("what /health/ says is not known: {why}"),
        };
        if !services::in_place(&component, desired, machine, table, seen) {
            return Err(blind("health does not run as described"));
        }
        let health = match &servers.health {
            Some(Ok(health)) => health,
            Some(Err(why)) => return Err(blind(why)),
            None => return Err(blind("it was not asked")),
        };
        let mut check = Check {
            as_described: "the health checker goes its rounds, and what it says is so".to_owned(),
            ..Check::default()
        };
        let drift = |kind, short: String, evidence| Drift { kind, subject: Subject::from(&component), short, evidence };
        for name in JUDGED {
            let verdict = health.verdicts.get(name);
            let old = verdict.is_none_or(|verdict| seconds(machine.clock - verdict.at) > STALE_AFTER);
            if old {
                if up_for(table, machine.clock).is_none_or(|up| up < FIRST_ROUND) {
                    let why = "the health checker was started and has not been round yet".to_owned();
                    check.progressing = vec![(Subject::from(&component), why)];
                } else {
                    let limit = STALE_AFTER.as_secs();
                    check.drifts = vec![drift(
                        DriftKind::HealthStale,
                        format!("health: {name} is stale"),
                        format!(
                            "what /health/ says of {name} is older than {limit} s: the health checker does not go its rounds"
                        ),
                    )];
                }
                return Ok(check);
            }
            let wrong_for = seen.lasting.age(&mark(name), seen.at);
            let works = name != "deploy" || cluster_answers(desired, seen);
            // Said of a round that began after it was first seen to work: an earlier one may have met it down.
            let said_since = |verdict_at: i64| seconds(machine.clock - verdict_at) + ROUND <= wrong_for;
            if works && verdict.is_some_and(|verdict| !verdict.running && said_since(verdict.at)) {
                check.drifts = vec![drift(
                    DriftKind::HealthWrong,
                    format!("health: {name} works"),
                    format!(
                        "/health/ says again and again that {name} is down, while it answers as the health checker asks it"
                    ),
                )];
                return Ok(check);
            }
        }
        Ok(check)
    }

    fn rank(&self, desired: &Desired, drift: &Drift) -> u8 {
        services::rank(desired, drift)
    }

    fn ladder(&self, _: &Desired, _: &Observation, _: &Drift) -> Vec<Rung> {
        // What is then missing is started, with the key that the Secret holds.
        services::clear(&catalogue::server(Server::Health))
    }
}

fn seconds(difference: i64) -> Duration {
    Duration::from_secs(u64::try_from(difference).unwrap_or(0))
}

/// For how long the checker has been running, if pm2 knows.
fn up_for(table: &Table, clock: i64) -> Option<Duration> {
    table.named(CHECKER).next().map(|row| seconds(clock - row.started_ms / 1000))
}

/// An app needs the cluster: where the proxy is described, a cluster must answer through it.
fn cluster_answers(desired: &Desired, seen: &Observation) -> bool {
    desired.kubectl_proxy.is_none()
        || seen.proxy.seen().is_some_and(|proxy| matches!(proxy.cluster, Cluster::Identity(_)))
}
