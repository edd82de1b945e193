//! What Docker refused to remove, as the BinderActions of this host tell: it is passed over, since another attempt would only
//! use up those that the rest needs. Pure, like all of `plan`.

use super::memory::History;
use crate::facets::{Step, docker};
use crate::seen::{Fact, Observation};

/// The look with what earlier attempts tell of the containers and images that are still there; `None` where they tell nothing.
pub(super) fn tell_refused(seen: &Observation, memory: &History) -> Option<Observation> {
    let removals = || {
        let removes = |step: &Step| {
            matches!(
                step,
                Step::Docker(docker::Step::RemoveContainers { .. }) | Step::Docker(docker::Step::RemoveImages { .. })
            )
        };
        memory.actions.iter().filter(move |past| past.step.as_ref().is_some_and(removes))
    };
    let docker = seen.docker.seen()?;
    let ids = docker.containers.iter().map(|one| &one.id).chain(docker.images.iter().map(|one| &one.id));
    let refused: Vec<String> = ids.filter(|id| removals().any(|past| past.refused(id))).cloned().collect();
    if refused.is_empty() {
        return None;
    }
    let mut told = seen.clone();
    if let Fact::Seen(docker) = &mut told.docker {
        docker.refused.extend(refused);
    }
    Some(told)
}
