//! One scenario for each fault that the operator heals, or sees and says: every act.

use std::sync::Arc;

use binder_lab::stage::acts;
use libtest_mimic::Trial;

use crate::place::Place;
use crate::{evidence, failed, trial};

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    for act in acts::all() {
        trials.push(trial(place, format!("heals::{}", act.fault), async move |set| {
            let report = act.play(&set.stage, |line| eprintln!("  {line}")).await.map_err(failed)?;
            eprintln!(
                "  seen after {:.1} s, well after {:.1} s, {} attempts",
                report.seen_after.as_secs_f32(),
                report.healed_after.as_secs_f32(),
                report.attempts
            );
            evidence::compare(act.fault, act.condition, &report.described)
        }));
    }
}
