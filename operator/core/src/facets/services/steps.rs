//! The steps against what pm2 does not run as described: start it, delete its entries, end what pm2 has lost.

use crate::catalogue::Start;
use crate::facets::step::{
    Command, Effect, How, Later, Nature, OfModules, Recovers, Remedy, Stdin, Touches, all_plain, kinds_of_steps, plain,
};
use crate::facets::{DriftKind, Subject, process::ProcessId};
use crate::gate::demands::Demands;
use crate::seen::Unknown;
use binder_crds::text::{BadText, Checked, ProcessName};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long pm2 may take to show a process that was just started.
const APPEARS_WITHIN: Duration = Duration::from_secs(30);

/// Starts a server. The key is read from standard input and handed on in `BINDER_API_KEY`, where Binder's servers look for
/// it; as an argument, every user of the host could read it in `ps`.
const START_SERVER: &str = r#"
set -u
IFS= read -r BINDER_API_KEY || exit 64
export BINDER_API_KEY
[ -n "${2:-}" ] && PATH="$2:$PATH"
cd "$HOME" && exec binder-control "$1" start </dev/null
"#;

/// Starts a service. Its exit code is 1 on success and 2 on failure, and nobody looks at it.
const START_SERVICE: &str = r#"
set -u
cd "$HOME" && exec binder-control start-service "$1" </dev/null
"#;

/// Starts an owner's own process.
const START_COMMAND: &str = r#"
set -u
cd "$HOME" && exec "$@" </dev/null
"#;

/// Deletes entries one by one, the parent first, so that it may end its children itself. `--` would be taken for a name;
/// the names cannot begin with a dash.
const DELETE_ENTRIES: &str = r#"
set -u
for name in "$@"; do pm2 delete "$name" </dev/null || true; done
"#;

/// A step against what pm2 does not run as described.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Start a component.
    StartProcess {
        /// The component's name.
        component: String,
        /// How it is started.
        start: Start,
        /// A folder to put first on the `PATH`: where the right `kubectl.sh` lies.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// Delete a component's entries from pm2's table, which also ends them.
    DeleteEntries {
        /// The component's name.
        component: String,
        /// The names in pm2's table.
        processes: Vec<String>,
    },
    /// End a process that pm2 has lost.
    EndOrphan {
        /// The component's name.
        component: String,
        /// The process.
        orphan: ProcessId,
    },
}

kinds_of_steps!(Step: StartProcess, DeleteEntries, EndOrphan);

impl Remedy for Step {
    fn words(&self) -> String {
        match self {
            Self::StartProcess { component, start: Start::Service { .. }, .. } => {
                format!("start the service {component}")
            }
            Self::StartProcess { component, .. } => format!("start {component}"),
            Self::DeleteEntries { component, processes } if processes.len() > 1 => {
                format!("delete {component} and its children from pm2")
            }
            Self::DeleteEntries { component, .. } => format!("delete {component} from pm2"),
            Self::EndOrphan { component, orphan } => format!("end the {component} that pm2 lost (pid {})", orphan.pid),
        }
    }

    fn nature(&self) -> Nature<'_> {
        let (touches, demands, starts) = match self {
            Self::StartProcess { .. } => (Touches::Nothing, Demands::ONE_LOOK, true),
            Self::DeleteEntries { .. } | Self::EndOrphan { .. } => (Touches::Service, Demands::TWO_LOOKS, false),
        };
        Nature {
            touches,
            demands,
            in_turn: false,
            parts: 1,
            modules: OfModules::RunsIn,
            opens_way_in: false,
            rests_on_age: false,
            starts,
            recovers: Recovers::Nothing,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        match self {
            Self::StartProcess { component, start, path } => {
                plain("component", component)?;
                all_plain("path", path)?;
                match start {
                    Start::Server { name } | Start::Service { name } => plain("component", name),
                    Start::Command { argv } => all_plain("argument", argv),
                }
            }
            Self::DeleteEntries { component, processes } => {
                plain("component", component)?;
                processes.iter().try_for_each(|process| ProcessName(process.clone()).checked().map(drop))
            }
            Self::EndOrphan { component, orphan } => {
                plain("component", component)?;
                orphan.checked()
            }
        }
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        match self {
            Self::StartProcess { component, .. } => {
                later.seen.machine.get()?;
                later.seen.pm2.get()?;
                Ok(started(component, later))
            }
            Self::DeleteEntries { processes, .. } => {
                let table = later.seen.pm2.get()?;
                let left: Vec<&str> =
                    processes.iter().map(String::as_str).filter(|name| table.named(name).next().is_some()).collect();
                Ok(if left.is_empty() {
                    Effect::Seen("pm2 holds none of it any more".to_owned())
                } else {
                    Effect::NotYet(format!("pm2 still holds {}", left.join(", ")))
                })
            }
            Self::EndOrphan { orphan, .. } => orphan.ended(later.seen),
        }
    }

    fn how(&self) -> How {
        match self {
            Self::StartProcess { start: Start::Server { name }, path, .. } => How::Command(Command {
                name: "start-server",
                script: START_SERVER,
                args: vec![name.clone(), path.clone().unwrap_or_default()],
                stdin: Stdin::ApiKey,
                limit: Duration::from_secs(40),
            }),
            Self::StartProcess { start: Start::Service { name }, .. } => {
                How::command("start-service", START_SERVICE, vec![name.clone()], 40)
            }
            Self::StartProcess { component, start: Start::Command { argv }, .. } if argv.is_empty() => {
                How::Impossible(format!("{component} has no command to start it: set processes[].start"))
            }
            Self::StartProcess { start: Start::Command { argv }, .. } => {
                How::command("start-process", START_COMMAND, argv.clone(), 40)
            }
            Self::DeleteEntries { processes, .. } => {
                How::command("delete-entries", DELETE_ENTRIES, processes.clone(), 40)
            }
            Self::EndOrphan { orphan, .. } => orphan.end(),
        }
    }
}

fn started(component: &str, later: &Later<'_>) -> Effect {
    let subject = Subject::named(component);
    if let Some(drift) = later.drift(&subject) {
        let evidence = drift.evidence.clone();
        return match drift.kind {
            // pm2 shows a new process a moment late; then there is nothing more to wait for.
            DriftKind::ProcessMissing if later.age < APPEARS_WITHIN => Effect::NotYet(evidence),
            DriftKind::ChildMissing => Effect::NotYet(evidence),
            _ => Effect::Failed(evidence),
        };
    }
    match later.progressing(&subject) {
        Some(why) => Effect::NotYet(why.to_owned()),
        None => Effect::Seen(format!("{component} runs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(start: Start) -> How {
        Step::StartProcess { component: "web".to_owned(), start, path: None }.how()
    }

    #[test]
    fn only_a_server_is_started_with_the_api_key() {
        for (by, stdin) in [
            (Start::Server { name: "web".to_owned() }, Stdin::ApiKey),
            (Start::Service { name: "db".to_owned() }, Stdin::Nothing),
            (Start::Command { argv: vec!["pm2".to_owned()] }, Stdin::Nothing),
        ] {
            let how = start(by);
            assert!(matches!(&how, How::Command(command) if command.stdin == stdin), "{how:?}");
        }
    }

    #[test]
    fn what_has_no_command_cannot_be_started() {
        let how = start(Start::Command { argv: Vec::new() });
        assert_eq!(how, How::Impossible("web has no command to start it: set processes[].start".to_owned()));
    }
}
