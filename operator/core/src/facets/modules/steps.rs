//! The steps against a module of another version: install the one that is asked for, or the one that was there before.

use crate::facets::step::{Effect, How, Later, Nature, OfModules, Recovers, Remedy, Touches, kinds_of_steps};
use crate::gate::demands::Demands;
use crate::seen::modules::{self, Found};
use crate::seen::{Reason, Unknown};
use binder_crds::text::{BadText, Checked, HostPath, ModuleName, ModuleVersion};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long npm may take to be seen in the list of processes.
const NPM_APPEARS_WITHIN: Duration = Duration::from_secs(10);

/// Has npm install one version of a module. It goes on in a session of its own, since a registry may be far away: what came of
/// it is seen by a later look, and in the file. In a folder without a `package.json` npm would take everything that it finds
/// there for superfluous and remove it.
const INSTALL_MODULE: &str = r#"
set -u
place=$1 global=$2 scripts=$3 module=$4
set -- --no-audit --no-fund --loglevel=error
if [ "$global" = yes ]; then
  root=$place/lib/node_modules
  set -- --global "$@"
else
  root=$place/node_modules
  [ -f "$place/package.json" ] || { echo "$place has no package.json: npm would remove what it does not name"; exit 66; }
  set -- --save-exact "$@"
fi
[ "$scripts" = yes ] || set -- --ignore-scripts "$@"
command -v npm >/dev/null || { echo "npm is not on the PATH"; exit 127; }
set -- timeout -k 10 270 npm install "$module" --prefix "$place" "$@"
if [ ! -w "$root" ]; then
  sudo -n true || exit 77
  set -- sudo -n env "PATH=$PATH" "$@"
fi
mkdir -p "$HOME/.binder" && log="$HOME/.binder/modules.log" || exit 1
cd /
setsid sh -c '"$@" >"$0" 2>&1 </dev/null; exit $?' "$log" "$@" </dev/null >/dev/null 2>&1 &
child=$!
i=0
while [ "$i" -lt 90 ]; do
  kill -0 "$child" 2>/dev/null || { wait "$child"; code=$?; tail -n 5 "$log"; exit "$code"; }
  sleep 0.5
  i=$((i + 1))
done
echo "npm is still at work"
"#;

/// A step against a module of another version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Install the version of a module that is asked for, in place of another.
    InstallModule {
        /// The module, as it was and as it will be.
        change: ModuleChange,
    },
    /// Install the version of a module again that was there before, since what uses it does not come up with the new one.
    RevertModule {
        /// The module, as it was and as it will be.
        change: ModuleChange,
    },
}

/// A module that is to change, with everything that it takes to change it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleChange {
    /// Its name.
    pub module: ModuleName,
    /// The folder that holds it, or npm's prefix.
    pub place: HostPath,
    /// Whether it is one of npm's global modules.
    pub global: bool,
    /// The version that was there.
    pub from: ModuleVersion,
    /// The version to install.
    pub to: ModuleVersion,
    /// Whether npm runs the module's install scripts.
    pub scripts: bool,
}

impl ModuleChange {
    /// What npm is asked to install, `NAME@VERSION`; also how its process is known.
    pub fn asked(&self) -> String {
        format!("{}@{}", self.module, self.to)
    }

    /// The change back.
    pub fn back(&self) -> Self {
        Self { from: self.to.clone(), to: self.from.clone(), ..self.clone() }
    }
}

kinds_of_steps!(Step: InstallModule, RevertModule);

impl Step {
    fn change(&self) -> &ModuleChange {
        match self {
            Self::InstallModule { change } | Self::RevertModule { change } => change,
        }
    }
}

impl Remedy for Step {
    fn words(&self) -> String {
        match self {
            Self::InstallModule { change } => format!("install {} {}", change.module, change.to),
            Self::RevertModule { change } => format!("install {} {} again", change.module, change.to),
        }
    }

    fn nature(&self) -> Nature<'_> {
        let (in_turn, recovers) = match self {
            // Two hosts that are down with the old version must not wait for each other to get the one that mends it.
            Self::InstallModule { .. } => (true, Recovers::UsersOfModule),
            // Going back to the old version waits for nobody.
            Self::RevertModule { .. } => (false, Recovers::Nothing),
        };
        Nature {
            touches: Touches::Service,
            demands: Demands::TWO_LOOKS,
            in_turn,
            parts: 1,
            modules: OfModules::Changes(self.change()),
            opens_way_in: false,
            rests_on_age: false,
            starts: false,
            recovers,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        let change = self.change();
        change.module.checked()?;
        change.place.checked()?;
        change.from.checked()?;
        change.to.checked()?;
        Ok(())
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        let (seen, age, change) = (later.seen, later.age, self.change());
        // npm that is at work may have put the version there already and not yet what goes with it.
        if modules::npm_at_work(seen.machine.get()?) {
            return Ok(Effect::NotYet("npm is at work".to_owned()));
        }
        let name = &change.module;
        let found = seen.modules.get()?.get(&name.0);
        Ok(match (found, found.and_then(Found::there)) {
            (_, Some(there)) if there.version == change.to => {
                Effect::Seen(format!("{name} {} is installed", change.to))
            }
            (_, Some(there)) => {
                let evidence = format!("npm has ended, and {name} is {}", there.version);
                if age < NPM_APPEARS_WITHIN { Effect::NotYet(evidence) } else { Effect::Failed(evidence) }
            }
            (Some(Found::Missing), None) if age >= NPM_APPEARS_WITHIN => {
                Effect::Failed(format!("npm has ended, and {name} is gone"))
            }
            (Some(Found::Missing), None) => Effect::NotYet(format!("{name} is not there")),
            _ => {
                return Err(Unknown {
                    reason: Reason::Garbage,
                    message: format!("the version of {name} cannot be read"),
                });
            }
        })
    }

    fn how(&self) -> How {
        let change = self.change();
        let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let args = vec![change.place.0.clone(), yes(change.global), yes(change.scripts), change.asked()];
        How::command("install-module", INSTALL_MODULE, args, 55)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn npm_is_asked_for_one_version_in_one_place_and_runs_no_scripts_unasked() {
        let home = std::env::temp_dir().join(format!("binder-npm-{}", std::process::id()));
        for folder in ["bin", "app/node_modules", "global/lib/node_modules", "bare/node_modules"] {
            std::fs::create_dir_all(home.join(folder)).unwrap();
        }
        std::fs::write(home.join("app/package.json"), "{}").unwrap();
        std::fs::write(home.join("bin/npm"), "#!/bin/sh\necho \"$@\"\nexit 3\n").unwrap();
        Command::new("chmod").arg("755").arg(home.join("bin/npm")).status().unwrap();
        let run = |place: &str, global: &str, scripts: &str| {
            let output = Command::new("sh")
                .args(["-c", INSTALL_MODULE, "test", &format!("{}/{place}", home.display()), global, scripts])
                .arg("binder-web@1.1.17")
                .env("HOME", &home)
                .env("PATH", format!("{}/bin:/usr/bin:/bin", home.display()))
                .output()
                .unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap().replace(&home.display().to_string(), ""))
        };
        let rest = "--no-audit --no-fund --loglevel=error";
        let app = format!("install binder-web@1.1.17 --prefix /app --ignore-scripts --save-exact {rest}\n");
        let global = format!("install binder-web@1.1.17 --prefix /global --global {rest}\n");
        let answers = [run("app", "no", "no"), run("global", "yes", "yes"), run("bare", "no", "no")];
        std::fs::remove_dir_all(&home).unwrap();
        assert_eq!(answers[0], (Some(3), app));
        assert_eq!(answers[1], (Some(3), global));
        // npm would take everything in the folder for superfluous.
        assert_eq!(answers[2].0, Some(66));
    }
}
