//! A healthy fleet is left in peace: the servers' restart counts are still, and the operator writes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use binder_lab::cluster::audit::AuditLog;
use binder_lab::stage::Stage;
use libtest_mimic::Trial;

use crate::place::{Begins, Place};
use crate::{ensure, failed, trial, trial_that};

/// How long a converged fleet is watched; five minutes in the long campaign. `BINDER_QUIET_SECONDS` says otherwise. Many
/// looks, and longer than the operator's longest pause after an error.
const QUIET: Duration = Duration::from_secs(90);
/// See [`QUIET`].
const LONG_QUIET: Duration = Duration::from_secs(300);

/// From whatever an earlier scenario left to a fleet at rest.
const LIMIT: Duration = Duration::from_secs(120);

/// A process whose restarts are no sign of anything: with a kubectl proxy that is there already it cannot bind its port, and pm2
/// gives it up or, on a busy machine where it takes its time to fail, tries for ever.
const RESTLESS: &str = "binder-kubernetes-proxy";

/// From a bare fleet to a healthy one, the whole of Binder with it.
pub(crate) fn first(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial_that(Begins::Bare, place, "converged::a_bare_fleet_becomes_healthy", async |set| {
        let began = Instant::now();
        set.ready().await?;
        set.tell(format!("healthy {:.0} s after the file was applied", began.elapsed().as_secs_f32()));
        let binder = set.stage.lab.binder().map_err(failed)?;
        binder.healthy().await.map_err(failed)?;
        let app = binder.deploy_app().await.map_err(failed)?;
        set.tell(format!("/health/ says running for deploy and build; app {app} is reached by its route"));
        set.stage
            .kubectl
            .run(&["-n", "binder", "wait", "--for=condition=Ready", "--timeout=60s", "bf/binder"])
            .await
            .map_err(failed)?;
        Ok(())
    }));
}

/// Some minutes of nothing.
pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "converged::nothing_is_written_and_nothing_restarts", async |set| {
        let seconds = std::env::var("BINDER_QUIET_SECONDS").ok().and_then(|text| text.parse().ok());
        let usual = if crate::long() { LONG_QUIET } else { QUIET };
        let quiet = seconds.map_or(usual, Duration::from_secs);
        set.calm(LIMIT).await?;
        // The fleet's summary follows its hosts' by a moment.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let log = AuditLog::at(set.stage.lab.status().map_err(failed)?.audit_log);
        let mark = log.now().map_err(failed)?;
        let before = restarts(&set.stage).await?;
        let began = Instant::now();
        while began.elapsed() < quiet {
            tokio::time::sleep(Duration::from_secs(30).min(quiet.saturating_sub(began.elapsed()))).await;
            set.tell(format!("quiet for {} s", began.elapsed().as_secs()));
        }
        let after = restarts(&set.stage).await?;
        let user = Stage::operator_user();
        let writes = log.writes_since(mark, &user).map_err(failed)?;
        let reads = log.since(mark).map_err(failed)?.iter().filter(|entry| entry.user == user).count();
        set.tell(format!(
            "{} writes and {} other requests by the operator in {} s",
            writes.len(),
            reads - writes.len(),
            quiet.as_secs()
        ));
        ensure(writes.is_empty(), || {
            let lines: Vec<String> = writes.iter().map(ToString::to_string).collect();
            format!("the operator wrote {} times:\n{}", writes.len(), lines.join("\n"))
        })?;
        ensure(before == after, || format!("restart counts went from {before:?} to {after:?}"))?;
        set.all_healthy(Duration::from_secs(30)).await
    }));
}

/// The restart counts that pm2 tells, by host and process, of what is online.
async fn restarts(stage: &Stage) -> Result<Vec<String>, libtest_mimic::Failed> {
    let mut counts = Vec::new();
    for host in ["binder-services", "binder-web-deploy", "binder-tester-2"] {
        let table = stage.lab.host(host).map_err(failed)?.exec_as_user(&["pm2", "jlist"]).await.map_err(failed)?;
        let rows = table.stdout.lines().rfind(|line| line.starts_with('[')).unwrap_or("[]").to_owned();
        let rows: serde_json::Value = serde_json::from_str(&rows).map_err(failed)?;
        for row in rows.as_array().into_iter().flatten() {
            if row["pm2_env"]["status"] == "online" && row["name"] != RESTLESS {
                counts.push(format!("{host} {}: {}", row["name"], row["pm2_env"]["restart_time"]));
            }
        }
    }
    counts.sort();
    Ok(counts)
}
