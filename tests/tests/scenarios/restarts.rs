//! What must never be done about a server that ends again and again.

use std::sync::Arc;
use std::time::Duration;

use binder_crds::conditions;
use binder_lab::stage::acts::world;
use libtest_mimic::Trial;

use crate::place::Place;
use crate::{ensure, failed, trial};

const LIMIT: Duration = Duration::from_secs(180);
const WEB: &str = "binder-web-deploy";

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "restarts::a_port_in_somebody_elses_hands_is_reported_and_left_alone", async |set| {
        let since = set.stage.mark(WEB).await.map_err(failed)?;
        set.inflict("port-taken", WEB).await?;
        let said = set.stage.condition(WEB, conditions::SERVICES_RUNNING, "False", Some("PortTaken"), LIMIT).await;
        let said = said.map_err(failed)?.message;
        ensure(said.contains("user id 0") && said.contains("3000"), || format!("it does not say whose it is: {said}"))?;
        set.stage.condition(WEB, conditions::STALLED, "True", Some("NeedsPerson"), LIMIT).await.map_err(failed)?;
        let done = set.stage.actions_since(WEB, &since).await.map_err(failed)?;
        ensure(done.is_empty(), || format!("{} steps were done", done.len()))?;
        // Root's program still has it.
        let host = set.stage.lab.host(WEB).map_err(failed)?;
        host.script("[ \"$(stat -c %u /proc/$(ss -ltnpH 'sport = :3000' | grep -o 'pid=[0-9]*' | head -n 1 | cut -d= -f2))\" = 0 ]", &[]).await.map_err(failed)?;
        // Its owner ends it; then the server comes up, by pm2 or, if that has given it up, by the operator.
        set.mend("port-taken", WEB).await?;
        set.stage.healthy(&[WEB], LIMIT).await.map_err(failed)?;
        let page = || world::page(&set.stage);
        set.stage.until("the page on 3000", LIMIT, page).await.map_err(failed)?;
        Ok(())
    }));
}
