//! The operator is ended, well and badly, in the middle of a remedy; started again, it goes on where it was.

use std::sync::Arc;
use std::time::Duration;

use binder_crds::ActionOutcome;
use binder_lab::stage::Mark;
use binder_lab::stage::acts::world;
use libtest_mimic::Trial;

use crate::place::Place;
use crate::set::Set;
use crate::{Outcome, ensure, failed, trial};

const LIMIT: Duration = Duration::from_secs(180);
const WEB: &str = "binder-web-deploy";

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "crash::killed_in_the_middle_of_a_remedy", async |set| {
        let since = set.stage.mark(WEB).await.map_err(failed)?;
        set.inflict("web-lost", WEB).await?;
        an_attempt_is_open(set, &since).await?;
        set.stage.kill_operator().await.map_err(failed)?;
        set.stage.start_operator().await.map_err(failed)?;
        healed_once(set, &since).await
    }));
    trials.push(trial(place, "crash::ended_in_the_middle_of_a_remedy", async |set| {
        let since = set.stage.mark(WEB).await.map_err(failed)?;
        set.inflict("web-lost", WEB).await?;
        an_attempt_is_open(set, &since).await?;
        let took = set.stage.stop_operator().await.map_err(failed)?;
        set.tell(format!("it ended {:.1} s after SIGTERM", took.as_secs_f32()));
        set.stage.start_operator().await.map_err(failed)?;
        healed_once(set, &since).await
    }));
}

async fn an_attempt_is_open(set: &Set, since: &Mark) -> Outcome {
    let stage = &set.stage;
    let look = || async {
        let actions = stage.actions_since(WEB, since).await.map_err(|error| binder_lab::said(&error))?;
        let open = actions.iter().any(|action| action.status.as_ref().and_then(|status| status.outcome).is_none());
        if open { Ok(()) } else { Err(format!("{} attempts", actions.len())) }
    };
    stage.until("an attempt is under way", LIMIT, look).await.map_err(failed)
}

/// The page is served again, every attempt has an outcome, and pm2 holds one web server: nothing was done twice.
async fn healed_once(set: &Set, since: &Mark) -> Outcome {
    set.all_healthy(LIMIT).await?;
    let seen = set.stage.until("the page", LIMIT, || world::page(&set.stage)).await.map_err(failed)?;
    set.tell(seen);
    let actions = set.stage.actions_since(WEB, since).await.map_err(failed)?;
    let outcomes: Vec<Option<ActionOutcome>> =
        actions.iter().map(|action| action.status.as_ref().and_then(|status| status.outcome)).collect();
    ensure(outcomes.iter().all(Option::is_some), || format!("an attempt has no outcome: {outcomes:?}"))?;
    ensure(outcomes.last() == Some(&Some(ActionOutcome::Succeeded)), || format!("{outcomes:?}"))?;
    let host = set.stage.lab.host(WEB).map_err(failed)?;
    let rows =
        host.script_as_user("pm2 jlist | grep -o '\"name\":\"binder-web-start\",\"pm2_env\"' | wc -l", &[]).await;
    let rows = rows.map_err(failed)?;
    ensure(rows.trim().ends_with('1'), || format!("pm2 holds the web server {} times", rows.trim()))
}
