//! What the clean-up of Docker waits for. What it must never touch is looked at by every act on Docker.

use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::place::Place;
use crate::{ensure, failed, trial};

const LIMIT: Duration = Duration::from_secs(120);
const BUILD: &str = "binder-tester-2";

/// Starts a build whose one step sleeps, upon an image that no container was made of, and waits until that step runs.
/// Prints the client's process.
const START: &str = r#"
folder=$(mktemp -d /tmp/build.XXXXXX)
printf 'FROM binder-lab-filling:1\nRUN ["/busybox", "sleep", "600"]\n' > "$folder/Dockerfile"
DOCKER_BUILDKIT=0 setsid docker build --network none --force-rm "$folder" </dev/null >/dev/null 2>&1 &
client=$!
for i in $(seq 60); do ls -d /var/lib/docker/tmp/docker-builder* >/dev/null 2>&1 && break; sleep 0.5; done
ls -d /var/lib/docker/tmp/docker-builder* >/dev/null
echo "$client"
"#;

/// How many of the images that fill the disk are there.
const FILLING: &str = "docker image ls --quiet binder-lab-filling | grep -c . || true";

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "docker::a_build_that_is_under_way_holds_the_images", async |set| {
        set.apply("Observe").await?;
        set.inflict("disk-filling", BUILD).await?;
        let host = set.stage.lab.host(BUILD).map_err(failed)?;
        let client = host.script(START, &[]).await.map_err(failed)?;
        let before = host.script(FILLING, &[]).await.map_err(failed)?;
        set.apply("Enforce").await?;
        let waits = || async {
            let status = set.stage.host(BUILD).await.map_err(|error| binder_lab::said(&error))?.status;
            let status = status.unwrap_or_default();
            let stopped = status.last_actions.iter().any(|action| action.step.contains("stopped container"));
            if status.waits_for == "the build that is under way" && stopped {
                Ok(())
            } else {
                Err(format!("next: {}; waits for: {}", status.next, status.waits_for))
            }
        };
        set.stage.until("the images wait for the build", LIMIT, waits).await.map_err(failed)?;
        let after = host.script(FILLING, &[]).await.map_err(failed)?;
        ensure(before == after, || format!("there were {before} images, and there are {after}"))?;
        host.script("kill \"$1\"", &[client.trim()]).await.map_err(failed)?;
        set.stage.healthy(&[BUILD], LIMIT).await.map_err(failed)
    }));
}
