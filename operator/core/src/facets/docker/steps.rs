//! The steps for Docker: start it anew, give it room, remove what is in no use.

use super::NO_ROOM;
use crate::facets::step::{
    Effect, How, Later, Nature, OfModules, Recovers, Remedy, Touches, all_plain, kinds_of_steps, plain,
};
use crate::gate::demands::Demands;
use crate::seen::docker::{Answers, Docker};
use crate::seen::{Observation, Reason, Unknown};
use binder_crds::text::BadText;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the command that removes containers or images may run.
const REMOVES_WITHIN: Duration = Duration::from_secs(60);

/// Removes containers (pairs of id and time of ending), each only if it has stopped and is still the one that was seen:
/// one that ran again has another time. Without `--force` Docker itself refuses to remove one that runs. The last line names
/// what Docker refused to remove ([`crate::plan::memory::REFUSED`]).
const REMOVE_CONTAINERS: &str = r#"
set -u
refused=
engine() { sudo -n timeout -s KILL 20 docker --config /nonexistent --host unix:///var/run/docker.sock "$@"; }
while [ $# -ge 2 ]; do
  id=$1 finished=$2
  shift 2
  state=$(engine inspect --type container --format '{{.Id}} {{.State.Running}} {{.State.Paused}} {{.State.Restarting}} {{json .State.FinishedAt}}' "$id" 2>&1) || { echo "$state"; continue; }
  [ "$state" = "$id false false false \"$finished\"" ] || { echo "not what was seen, left alone: $id"; continue; }
  words=$(engine rm "$id" 2>&1 >/dev/null)
  [ $? = 1 ] && { printf '%.150s\n' "$words"; refused="$refused $(printf %.12s "$id")"; }
done
[ -z "$refused" ] || { echo "refused$refused"; exit 1; }
"#;

/// Removes images (pairs of id and time of naming, which a Docker before 17.06 does not know), each only if no build is under way, no container was made of it or of
/// what was built upon it, and nobody has named it anew. By its id and without `--force` Docker itself refuses to remove an
/// image that is used or built upon; an image of several names loses all but one of them first, since Docker wants that. The
/// last line names what Docker refused to remove.
const REMOVE_IMAGES: &str = r#"
set -u
refused=
engine() { sudo -n timeout -s KILL 20 docker --config /nonexistent --host unix:///var/run/docker.sock "$@"; }
told=$(engine info) || exit 1
root=$(printf '%s\n' "$told" | sed -n 's/^ *Docker Root Dir: *//p' | head -n 1)
case $root in /*) ;; *) echo "Docker does not tell its root dir"; exit 1 ;; esac
building() { sudo -n sh -c 'for context in "$1"/tmp/docker-builder* "$1"/buildkit/executor/*/; do [ -e "$context" ] && exit 0; done; exit 1' sh "$root"; }
while [ $# -ge 2 ]; do
  id=$1 tagged=$2
  shift 2
  if building; then echo "a build is under way: no image is touched"; exit 0; fi
  state=$(engine inspect --type image --format '{{.Id}} {{with index . "Metadata"}}{{json (index . "LastTagTime")}}{{else}}-{{end}}' "$id" 2>&1) || { echo "$state"; continue; }
  case $state in "$id \"$tagged\"") ;; "$id -" | "$id null") [ -z "$tagged" ] ;; *) false ;; esac || { echo "not what was seen, left alone: $id"; continue; }
  users=$(engine ps --all --quiet --filter "ancestor=$id") || exit 1
  [ -z "$users" ] || { echo "in use, left alone: $id"; continue; }
  names=$(engine inspect --type image --format '{{range .RepoTags}}{{println .}}{{end}}' "$id") || continue
  for name in $(printf '%s\n' "$names" | grep . | sed 1d); do engine rmi "$name" >/dev/null; done
  words=$(engine rmi "$id" 2>&1 >/dev/null)
  [ $? = 1 ] && { printf '%.150s\n' "$words"; refused="$refused $(printf %.12s "${id#sha256:}")"; }
done
[ -z "$refused" ] || { echo "refused$refused"; exit 1; }
"#;

/// apt fetches again what it needs again.
const EMPTY_PACKAGE_CACHE: &str = "set -u; sudo -n timeout 30 apt-get clean";

/// Deletes files that are empty, files, and the login's own or root's; `find` looks at the moment of deletion, and follows
/// no link.
const DELETE_EMPTY_FILES: &str = r#"
set -u
for path in "$@"; do
  sudo -n find "$path" -maxdepth 0 -type f -empty \( -uid 0 -o -uid "$(id -u)" \) -print -delete
done
"#;

/// By whatever starts services on this machine. systemd gives up a service that ended too often; it must be told to try. One
/// that answers after all is left alone.
const RESTART_DOCKER: &str = r#"
set -u
sudo -n true || exit 77
if sudo -n timeout -s KILL 6 docker --config /nonexistent --host unix:///var/run/docker.sock version >/dev/null 2>&1; then
  echo "Docker answers: left alone"
  exit 0
fi
if [ -d /run/systemd/system ]; then
  sudo -n systemctl reset-failed docker
  exec sudo -n timeout 45 systemctl restart docker
fi
sudo -n timeout 40 service docker restart || exec sudo -n timeout 40 service docker start
"#;

/// A step for Docker, or for room on its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Remove containers that have stopped.
    RemoveContainers {
        /// Which.
        containers: Vec<StoppedContainer>,
    },
    /// Remove images that nothing uses.
    RemoveImages {
        /// Which.
        images: Vec<UnusedImage>,
    },
    /// Empty apt's cache of packages: room on a disk so full that Docker cannot start.
    EmptyPackageCache,
    /// Delete files of Docker's client that are empty.
    DeleteEmptyDockerConfig {
        /// Where they are.
        paths: Vec<String>,
    },
    /// Restart Docker.
    RestartDocker,
}

/// A container, and when it ended: one that ran again meanwhile has another time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoppedContainer {
    /// Its id.
    pub id: String,
    /// When it ended, as Docker writes it.
    pub finished: String,
}

/// An image, and when it got its name: one that was named anew meanwhile has another time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnusedImage {
    /// Its id.
    pub id: String,
    /// When it got its name, as Docker writes it.
    pub tagged: String,
}

kinds_of_steps!(Step: RemoveContainers, RemoveImages, EmptyPackageCache, DeleteEmptyDockerConfig, RestartDocker);

impl Remedy for Step {
    fn words(&self) -> String {
        match self {
            Self::RemoveContainers { containers } => match containers.len() {
                1 => "remove a stopped container".to_owned(),
                many => format!("remove {many} stopped containers"),
            },
            Self::RemoveImages { images } => match images.len() {
                1 => "remove an image in no use".to_owned(),
                many => format!("remove {many} images in no use"),
            },
            Self::EmptyPackageCache => "empty apt's package cache".to_owned(),
            Self::DeleteEmptyDockerConfig { paths } => format!("delete the empty {}", paths.join(" and ")),
            Self::RestartDocker => "restart Docker".to_owned(),
        }
    }

    fn nature(&self) -> Nature<'_> {
        let (touches, parts, rests_on_age) = match self {
            // What nothing has used for a while, some at a time.
            Self::RemoveContainers { .. } | Self::RemoveImages { .. } => (Touches::Nothing, 10, true),
            Self::EmptyPackageCache | Self::DeleteEmptyDockerConfig { .. } => (Touches::Nothing, 1, false),
            Self::RestartDocker => (Touches::Service, 1, false),
        };
        Nature {
            touches,
            demands: Demands::TWO_LOOKS,
            in_turn: false,
            parts,
            modules: OfModules::Apart,
            opens_way_in: false,
            rests_on_age,
            starts: false,
            recovers: Recovers::Nothing,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        match self {
            Self::RemoveContainers { containers } => containers.iter().try_for_each(|one| {
                plain("container", &one.id)?;
                plain("container", &one.finished)
            }),
            Self::RemoveImages { images } => images.iter().try_for_each(|one| {
                plain("image", &one.id)?;
                plain("image", &one.tagged)
            }),
            Self::DeleteEmptyDockerConfig { paths } => all_plain("path", paths),
            Self::EmptyPackageCache | Self::RestartDocker => Ok(()),
        }
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        let Later { seen, age, .. } = *later;
        match self {
            Self::RemoveContainers { containers } => {
                let docker = answering(seen)?;
                let left =
                    containers.iter().filter(|one| docker.containers.iter().any(|there| there.id == one.id)).count();
                Ok(removed(left, containers.len(), age))
            }
            Self::RemoveImages { images } => {
                let docker = answering(seen)?;
                let left = images.iter().filter(|one| docker.images.iter().any(|there| there.id == one.id)).count();
                Ok(removed(left, images.len(), age))
            }
            Self::EmptyPackageCache => {
                let docker = seen.docker.get()?;
                Ok(if docker.available >= NO_ROOM {
                    Effect::Seen(format!("{} MB are free", docker.available / 1_000_000))
                } else {
                    Effect::NotYet("there is still no room".to_owned())
                })
            }
            Self::DeleteEmptyDockerConfig { paths } => {
                let docker = seen.docker.get()?;
                let left = docker.configs.iter().find(|config| config.size == 0 && paths.contains(&config.path));
                Ok(match left {
                    Some(config) => Effect::NotYet(format!("{} is there, and empty", config.path)),
                    None => Effect::Seen("no empty file is left".to_owned()),
                })
            }
            Self::RestartDocker => {
                let docker = seen.docker.get()?;
                Ok(match docker.answers {
                    Answers::Yes => Effect::Seen("Docker answers".to_owned()),
                    Answers::Refuses => Effect::NotYet(match docker.said.as_str() {
                        "" => "Docker does not answer".to_owned(),
                        said => format!("Docker does not answer: `{said}`"),
                    }),
                    Answers::Hangs => Effect::NotYet("Docker takes questions and does not answer them".to_owned()),
                })
            }
        }
    }

    fn how(&self) -> How {
        match self {
            Self::RemoveContainers { containers } => {
                let args = containers.iter().flat_map(|one| [one.id.clone(), one.finished.clone()]).collect();
                How::command("remove-containers", REMOVE_CONTAINERS, args, 55)
            }
            Self::RemoveImages { images } => {
                let args = images.iter().flat_map(|one| [one.id.clone(), one.tagged.clone()]).collect();
                How::command("remove-images", REMOVE_IMAGES, args, 55)
            }
            Self::EmptyPackageCache => How::command("empty-package-cache", EMPTY_PACKAGE_CACHE, Vec::new(), 35),
            Self::DeleteEmptyDockerConfig { paths } => {
                How::command("delete-empty-files", DELETE_EMPTY_FILES, paths.clone(), 20)
            }
            Self::RestartDocker => How::command("restart-docker", RESTART_DOCKER, Vec::new(), 55),
        }
    }
}

/// What Docker says of its containers and images, if it does.
fn answering(seen: &Observation) -> Result<&Docker, Unknown> {
    let docker = seen.docker.get()?;
    match docker.answers {
        Answers::Yes => Ok(docker),
        Answers::Refuses | Answers::Hangs => {
            Err(Unknown { reason: Reason::ProbeFailed, message: "Docker does not answer".to_owned() })
        }
    }
}

/// What is left is what Docker would not remove, or what was found to be another thing than was seen: the rest is progress.
fn removed(left: usize, of: usize, age: Duration) -> Effect {
    match left {
        0 => Effect::Seen(format!("{of} of {of} are gone")),
        left if left < of && age > REMOVES_WITHIN => Effect::Seen(format!("{} of {of} are gone", of - left)),
        left => Effect::NotYet(format!("{left} of {of} are still there")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use std::process::Command;

    /// Images and containers, removed by a client of this text; what it was told to remove.
    fn removes(script: &str, args: &[&str], inspect: &str) -> Vec<String> {
        removes_or(script, args, inspect, "").0
    }

    /// The same with a client that does `refuses` before it removes something; and what was printed.
    fn removes_or(script: &str, args: &[&str], inspect: &str, refuses: &str) -> (Vec<String>, String) {
        let folder = tempfile::tempdir().unwrap().keep();
        let client = format!(
            "#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in --config | --host) shift 2 ;; *) break ;; esac; done\n\
             case $1 in info) echo ' Docker Root Dir: /nonexistent' ;; inspect) case $* in *RepoTags*) echo x:1 ;; *) {inspect} ;; esac ;;\n\
             rm | rmi) shift; {refuses} echo \"$@\" >>{}/removed ;; esac\n",
            folder.display()
        );
        for (name, text) in [("docker", client.as_str()), ("sudo", "#!/bin/sh\nshift\nexec \"$@\"\n")] {
            std::fs::write(folder.join(name), text).unwrap();
            Command::new("chmod").arg("755").arg(folder.join(name)).status().unwrap();
        }
        let path = format!("{}:/usr/bin:/bin", folder.display());
        let ran = Command::new("sh").args(["-c", script, "test"]).args(args).env("PATH", path).output().unwrap();
        let removed = std::fs::read_to_string(folder.join("removed")).unwrap_or_default();
        std::fs::remove_dir_all(&folder).unwrap();
        (removed.lines().map(str::to_owned).collect(), String::from_utf8_lossy(&ran.stdout).into_owned())
    }

    #[test]
    fn what_docker_refuses_to_remove_is_named_and_the_rest_is_removed() {
        let (one, other) = ("a".repeat(64), "b".repeat(64));
        let (first, second) = (format!("sha256:{one}"), format!("sha256:{other}"));
        let inspect = "for id; do :; done; echo \"$id -\"";
        let words = "Error response from daemon: conflict: unable to delete";
        let refuses = format!("case $1 in *a) echo '{words}' >&2; exit 1 ;; esac;");
        let (removed, said) = removes_or(REMOVE_IMAGES, &[&first, "", &second, ""], inspect, &refuses);
        assert_eq!(removed, [second.as_str()]);
        assert!(said.contains(words) && said.ends_with("refused aaaaaaaaaaaa\n"), "{said}");
        let inspect = "for id; do :; done; echo \"$id false false false \\\"t\\\"\"";
        let (removed, said) = removes_or(REMOVE_CONTAINERS, &[&one, "t", &other, "t"], inspect, &refuses);
        assert_eq!(removed, [other.as_str()]);
        assert!(said.ends_with("refused aaaaaaaaaaaa\n"), "{said}");
        // One that is killed at its limit has refused nothing.
        let (_, said) = removes_or(REMOVE_CONTAINERS, &[&one, "t"], inspect, "exit 137;");
        assert!(!said.contains("refused"), "{said}");
    }

    #[test]
    fn only_the_image_that_was_seen_is_removed_by_a_docker_of_today_and_of_2016() {
        let now = "2026-11-22T15:22:39.8Z";
        let today = format!("echo 'sha256:aa \"{now}\"'");
        assert_eq!(removes(REMOVE_IMAGES, &["sha256:aa", now], &today), ["sha256:aa"]);
        assert!(removes(REMOVE_IMAGES, &["sha256:aa", "2026-11-22T15:00:00Z"], &today).is_empty(), "named anew");
        assert_eq!(removes(REMOVE_IMAGES, &["sha256:aa", ""], "echo 'sha256:aa -'"), ["sha256:aa"]);
        assert!(removes(REMOVE_IMAGES, &["sha256:aa", ""], &today).is_empty(), "named since");
        assert!(removes(REMOVE_IMAGES, &["sha256:aa", now], "echo 'sha256:aa -'").is_empty());
    }
}
