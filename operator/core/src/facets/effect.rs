//! Has a step had its effect? Judged by what a later look sees, never by what the command said.

use super::docker::NO_ROOM;
use super::step::ModuleChange;
use super::{Check, DriftKind, Step, Subject};
use crate::seen::database::{Build, Cased};
use crate::seen::docker::{Answers, Docker};
use crate::seen::machine::Process;
use crate::seen::modules::{self, Found};
use crate::seen::{Blind, Observation, Reason};
use std::time::Duration;

/// How long pm2 may take to show a process that was just started.
const APPEARS_WITHIN: Duration = Duration::from_secs(30);

/// How long the command that removes containers or images may run.
const REMOVES_WITHIN: Duration = Duration::from_secs(60);

/// How long npm may take to be seen in the list of processes.
const NPM_APPEARS_WITHIN: Duration = Duration::from_secs(10);

/// What a later look says of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is seen.
    Seen(String),
    /// It may still come.
    NotYet(String),
    /// It will not come any more.
    Failed(String),
}

/// Judges a step. `checks` are the facets' results of the same look; `age` is the time since the command was sent.
///
/// # Errors
/// [`Blind`] when what it needs could not be seen.
pub fn effect(step: &Step, seen: &Observation, checks: &[&Check], age: Duration) -> Result<Effect, Blind> {
    let process_gone = |pid: u32, started_ticks: u64| {
        let machine = seen.machine.get()?;
        let same = |process: &&Process| process.started_ticks == started_ticks && !zombie(process);
        let there = machine.processes.get(&pid).as_ref().is_some_and(same);
        Ok(if there {
            Effect::NotYet(format!("pid {pid} still runs"))
        } else {
            Effect::Seen(format!("pid {pid} is gone"))
        })
    };
    match step {
        Step::StartProcess { component, .. } => {
            seen.machine.get()?;
            seen.pm2.get()?;
            Ok(started(component, checks, age))
        }
        Step::DeleteEntries { processes, .. } => {
            let table = seen.pm2.get()?;
            let left: Vec<&str> =
                processes.iter().map(String::as_str).filter(|name| table.named(name).next().is_some()).collect();
            Ok(if left.is_empty() {
                Effect::Seen("pm2 holds none of it any more".to_owned())
            } else {
                Effect::NotYet(format!("pm2 still holds {}", left.join(", ")))
            })
        }
        Step::StopProcess { process, .. } => Ok(match seen.pm2.get()?.named(process).next() {
            None => Effect::Seen(format!("pm2 does not hold {process} any more")),
            Some(_) => Effect::NotYet(format!("pm2 still holds {process}")),
        }),
        Step::EndOrphan { orphan, .. } => process_gone(orphan.pid, orphan.started_ticks),
        Step::EndKubectlProxy { process, .. } => process_gone(process.pid, process.started_ticks),
        Step::StartKubectlProxy { port, .. } => {
            seen.proxy.get()?;
            Ok(gone(&Subject::KubectlProxy, checks, format!("{port} is served")))
        }
        Step::RestartNode { node } => {
            let api = seen.kubernetes.get()?;
            let unseen = |message: &String| Blind { reason: Reason::NotAnswered, message: message.clone() };
            let nodes = api.nodes.as_ref().map_err(unseen)?;
            let all_told = nodes.not_ready.len() == usize::try_from(nodes.not_ready_count).unwrap_or(usize::MAX);
            Ok(if all_told && !nodes.not_ready.contains(node) {
                Effect::Seen(format!("{node} is Ready, {} nodes are", nodes.ready))
            } else {
                Effect::NotYet(format!("{node} is not Ready yet, {} nodes are", nodes.ready))
            })
        }
        Step::WriteApiKey { secret, .. } => Ok(match &seen.key_search {
            None => Effect::Seen(format!("the Secret {secret} has the API key")),
            Some(_) => Effect::NotYet(format!("the Secret {secret} still lacks the API key")),
        }),
        // That it was looked at at all is the effect.
        Step::AuthorizeKey { user, .. } => Ok(Effect::Seen(format!("{user} is let in"))),
        Step::Reboot { .. } | Step::PowerCycle { .. } | Step::PowerOn { .. } => {
            let machine = seen.machine.get()?;
            Ok(rebooted(step.ends_boot().flatten(), &machine.boot_id, machine.up_for(), age))
        }
        Step::DeleteRoutes { routes: asked, .. } => {
            let orphans = &seen.routes.get()?.orphans;
            let left = asked.iter().filter(|id| orphans.contains(*id)).count();
            Ok(if left == 0 {
                Effect::Seen("the proxy holds none of them without its app any more".to_owned())
            } else {
                Effect::NotYet(format!("the proxy still holds {left} of them"))
            })
        }
        Step::FailBuild { name, started, .. } => {
            let database = seen.database.get()?;
            // The running builds are listed oldest first: one as old as this cannot be beyond the end of the list.
            let there = |build: &Build| build.name.plain() == Some(name.as_str()) && build.started == Some(*started);
            Ok(if database.running.iter().any(there) {
                Effect::NotYet(format!("the build {name} is still said to be running"))
            } else {
                Effect::Seen(format!("the build {name} of that start is not running any more"))
            })
        }
        Step::RebuildBuild { name, .. } => {
            let database = seen.database.get()?;
            let owed = database.owed.iter().any(|build| build.name.plain() == Some(name.as_str()));
            Ok(if owed {
                Effect::NotYet(format!("the build {name} has not begun anew"))
            } else {
                Effect::Seen(format!("a new build of {name} has begun"))
            })
        }
        Step::FailUnusableBuild { name, .. } => {
            let database = seen.database.get()?;
            let unusable = |cased: &Cased| cased.name.plain() == Some(name.as_str());
            Ok(if database.names.as_ref().is_some_and(|names| names.builds.iter().any(unusable)) {
                Effect::NotYet(format!("the build {name} is not said to have failed"))
            } else {
                Effect::Seen(format!("the build {name} is said to have failed, and why"))
            })
        }
        Step::InstallModule { change } | Step::RevertModule { change } => module_changed(change, seen, age),
        Step::BackUp { last, .. } => {
            let backups = seen.backups.get()?;
            Ok(match &backups.last {
                Some(good) if Some(&good.name) != last.as_ref() => {
                    Effect::Seen(format!("the backup {} was verified: {} documents", good.name, good.documents))
                }
                _ => Effect::NotYet("there is no new backup that was verified".to_owned()),
            })
        }
        Step::InsertRedirect { interface, from, to } | Step::DeleteExtraRedirects { interface, from, to } => {
            seen.nat.get()?;
            Ok(gone(
                &Subject::Redirect { interface: interface.clone(), from: *from },
                checks,
                format!("{interface} {from} -> {to} is there once"),
            ))
        }
        Step::RemoveContainers { containers } => {
            let docker = answering(seen)?;
            let left = containers.iter().filter(|one| docker.containers.iter().any(|there| there.id == one.id)).count();
            Ok(removed(left, containers.len(), age))
        }
        Step::RemoveImages { images } => {
            let docker = answering(seen)?;
            let left = images.iter().filter(|one| docker.images.iter().any(|there| there.id == one.id)).count();
            Ok(removed(left, images.len(), age))
        }
        Step::EmptyPackageCache => {
            let docker = seen.docker.get()?;
            Ok(if docker.available >= NO_ROOM {
                Effect::Seen(format!("{} MB are free", docker.available / 1_000_000))
            } else {
                Effect::NotYet("there is still no room".to_owned())
            })
        }
        Step::DeleteEmptyDockerConfig { paths } => {
            let docker = seen.docker.get()?;
            let left = docker.configs.iter().find(|config| config.size == 0 && paths.contains(&config.path));
            Ok(match left {
                Some(config) => Effect::NotYet(format!("{} is there, and empty", config.path)),
                None => Effect::Seen("no empty file is left".to_owned()),
            })
        }
        Step::RestartDocker => Ok(match seen.docker.get()?.answers {
            Answers::Yes => Effect::Seen("Docker answers".to_owned()),
            Answers::Refuses => Effect::NotYet(match seen.docker.get()?.said.as_str() {
                "" => "Docker does not answer".to_owned(),
                said => format!("Docker does not answer: `{said}`"),
            }),
            Answers::Hangs => Effect::NotYet("Docker takes questions and does not answer them".to_owned()),
        }),
    }
}

/// Whether a process has ended and only waits to be reaped: it holds nothing any more. `ps` writes so after its name.
fn zombie(process: &Process) -> bool {
    process.command.starts_with('[') && process.command.ends_with(" <defunct>")
}

/// What Docker says of its containers and images, if it does.
fn answering(seen: &Observation) -> Result<&Docker, Blind> {
    let docker = seen.docker.get()?;
    match docker.answers {
        Answers::Yes => Ok(docker),
        Answers::Refuses | Answers::Hangs => {
            Err(Blind { reason: Reason::ProbeFailed, message: "Docker does not answer".to_owned() })
        }
    }
}

/// npm that is at work may have put the version there already and not yet what goes with it.
fn module_changed(change: &ModuleChange, seen: &Observation, age: Duration) -> Result<Effect, Blind> {
    if modules::npm_at_work(seen.machine.get()?) {
        return Ok(Effect::NotYet("npm is at work".to_owned()));
    }
    let name = &change.module;
    let found = seen.modules.get()?.get(&name.0);
    Ok(match (found, found.and_then(Found::there)) {
        (_, Some(there)) if there.version == change.to => Effect::Seen(format!("{name} {} is installed", change.to)),
        (_, Some(there)) => {
            let evidence = format!("npm has ended, and {name} is {}", there.version);
            if age < NPM_APPEARS_WITHIN { Effect::NotYet(evidence) } else { Effect::Failed(evidence) }
        }
        (Some(Found::Missing), None) if age >= NPM_APPEARS_WITHIN => {
            Effect::Failed(format!("npm has ended, and {name} is gone"))
        }
        (Some(Found::Missing), None) => Effect::NotYet(format!("{name} is not there")),
        _ => {
            return Err(Blind { reason: Reason::Garbage, message: format!("the version of {name} cannot be read") });
        }
    })
}

/// What is left is what Docker would not remove, or what was found to be another thing than was seen: the rest is progress.
fn removed(left: usize, of: usize, age: Duration) -> Effect {
    match left {
        0 => Effect::Seen(format!("{of} of {of} are gone")),
        left if left < of && age > REMOVES_WITHIN => Effect::Seen(format!("{} of {of} are gone", of - left)),
        left => Effect::NotYet(format!("{left} of {of} are still there")),
    }
}

/// A changed boot id is the proof. Of a machine that was never seen before, a boot younger than the step is.
fn rebooted(before: Option<&str>, now: &str, uptime: u64, age: Duration) -> Effect {
    match before {
        Some(before) if before == now => Effect::NotYet(format!("the machine still runs boot {before}")),
        None if uptime > age.as_secs() => Effect::NotYet("the machine runs since before the step".to_owned()),
        _ => Effect::Seen(format!("the machine runs boot {now}")),
    }
}

fn gone(subject: &Subject, checks: &[&Check], good: String) -> Effect {
    match checks.iter().flat_map(|check| &check.drifts).find(|drift| drift.subject == *subject) {
        Some(drift) => Effect::NotYet(drift.evidence.clone()),
        None => Effect::Seen(good),
    }
}

fn started(component: &str, checks: &[&Check], age: Duration) -> Effect {
    let subject = Subject::named(component);
    let drift = checks.iter().flat_map(|check| &check.drifts).find(|drift| drift.subject == subject);
    if let Some(drift) = drift {
        let evidence = drift.evidence.clone();
        return match drift.kind {
            // pm2 shows a new process a moment late; then there is nothing more to wait for.
            DriftKind::ProcessMissing if age < APPEARS_WITHIN => Effect::NotYet(evidence),
            DriftKind::ChildMissing => Effect::NotYet(evidence),
            _ => Effect::Failed(evidence),
        };
    }
    let settling = checks.iter().flat_map(|check| &check.settling).find(|(settling, _)| *settling == subject);
    match settling {
        Some((_, why)) => Effect::NotYet(why.clone()),
        None => Effect::Seen(format!("{component} runs")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::facets::step::ProcessId;
    use crate::seen::Known;
    use crate::seen::machine::Machine;

    #[test]
    fn a_process_that_only_waits_to_be_reaped_has_ended() {
        let orphan = ProcessId { pid: 4321, started_ticks: 9, signature: "binder-web/server/cli".to_owned() };
        let step = Step::EndOrphan { component: "web".to_owned(), orphan };
        let judge = |command: &str| {
            let process = Process { parent: 1, uid: 1000, started_ticks: 9, command: command.to_owned() };
            let machine = Machine { processes: [(4321, process)].into(), ..Machine::default() };
            let seen =
                Observation { machine: Known::Seen(machine), ..Observation::nothing(jiff::Timestamp::UNIX_EPOCH) };
            effect(&step, &seen, &[], Duration::ZERO).unwrap()
        };
        assert!(matches!(judge("[node] <defunct>"), Effect::Seen(_)));
        assert!(matches!(judge("node /usr/lib/binder-web/server/cli.js start"), Effect::NotYet(_)));
    }
}
