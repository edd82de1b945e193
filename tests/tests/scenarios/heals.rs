//! One scenario for each fault that the operator heals, or sees and says: every act.

use std::sync::Arc;

use binder_lab::stage::acts::{self, Act};
use libtest_mimic::Trial;

use crate::place::{Begins, Place};
use crate::{evidence, failed, trial_that};

/// Takes up to the computer's own memory for the master's, and holds its API server to a beat that load beside it would change.
const ALONE: &[&str] = &["master-memory"];

/// Those that do not mind others beside them.
pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.extend(acts::all().filter(|act| !ALONE.contains(&act.fault)).map(|act| heals(Begins::Healthy, place, act)));
}

/// Those that are played while no other is.
pub(crate) fn alone(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.extend(acts::all().filter(|act| ALONE.contains(&act.fault)).map(|act| heals(Begins::Alone, place, act)));
}

fn heals(begins: Begins, place: &Arc<Place>, act: &'static Act) -> Trial {
    trial_that(begins, place, format!("heals::{}", act.fault), async move |set| {
        let report = act.play(&set.stage, |line| set.tell(line)).await.map_err(failed)?;
        set.tell(format!(
            "seen after {:.1} s, well after {:.1} s, {} attempts",
            report.seen_after.as_secs_f32(),
            report.healed_after.as_secs_f32(),
            report.attempts
        ));
        evidence::compare(act.fault, act.condition, &report.described)
    })
}
