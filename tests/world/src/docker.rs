//! Docker, and the disk that holds its data.

use crate::host::World;
use binder_core::facets::docker::Step;
use binder_core::seen::docker::Answers;

/// What a step does to this Docker.
pub(crate) fn apply(world: &mut World, step: &Step) {
    let Some(docker) = &mut world.docker else { return };
    let before: u64 = docker.images.iter().map(|image| image.size).sum();
    match step {
        Step::RemoveContainers { containers } => {
            docker.containers.retain(|there| !containers.iter().any(|one| one.id == there.id));
        }
        Step::RemoveImages { images } => {
            docker.images.retain(|there| !images.iter().any(|one| one.id == there.id));
        }
        Step::EmptyPackageCache => {
            docker.used -= docker.apt_cache;
            docker.available += docker.apt_cache;
            docker.apt_cache = 0;
        }
        Step::DeleteEmptyDockerConfig { paths } => {
            docker.configs.retain(|there| there.size > 0 || !paths.contains(&there.path));
        }
        Step::RestartDocker if docker.available > 0 => docker.answers = Answers::Yes,
        Step::RestartDocker => {}
    }
    let freed = before - docker.images.iter().map(|image| image.size).sum::<u64>();
    docker.used -= freed;
    docker.available += freed;
}
