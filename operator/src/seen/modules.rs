//! Which versions of npm modules are installed, from each module's own `package.json`.
//!
//! npm itself is never run in a look: it takes seconds, and writes. Where its global modules are is found out as npm does it.
//! The file is JSON that anybody on the host may have written: one version is taken out of it, and nothing else of it goes
//! anywhere.

use super::machine::Machine;
use super::{Answer, Ask, Blind, text};
use binder_crds::text::{Checked, HostPath, ModuleVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The section's name.
pub const NAME: &str = "modules";

/// The largest `package.json` that is read, in bytes; npm writes none of its own above a few KiB.
const LARGEST: usize = 64 << 10;

/// Takes pairs of a module's name and its folder, empty for npm's global modules. Those are below npm's prefix, which is what
/// the environment says, or the login's `.npmrc`, or what is above node's folder; Debian's npm has `/usr/local`.
const SCRIPT: &str = r#"
set -u
prefixes() {
  [ -z "${NPM_CONFIG_PREFIX:-}" ] || printf '%s\n' "$NPM_CONFIG_PREFIX"
  [ -z "${npm_config_prefix:-}" ] || printf '%s\n' "$npm_config_prefix"
  if [ -f "$HOME/.npmrc" ]; then
    head -c 65536 -- "$HOME/.npmrc" | sed -n 's/^[[:space:]]*prefix[[:space:]]*=[[:space:]]*//p' | tail -n 1 |
      sed -e "s|^~/|$HOME/|" -e "s|^[$]{HOME}/|$HOME/|"
  fi
  node=$(command -v node) && node=$(readlink -f -- "$node") && node=${node%/*} && printf '%s\n' "${node%/*}"
  printf '%s\n' /usr/local /usr
}
in_folder() {
  [ -d "$2" ] || return 1
  [ -x "$2" ] || { printf 'closed %s\n' "$1"; return 0; }
  file=$2/$name/package.json
  [ -e "$file" ] || return 1
  printf 'at %s\n' "$1"
  [ -f "$file" ] && [ -r "$file" ] || return 0
  printf 'time %s\n' "$(stat -L -c '%W %Z' -- "$file")"
  printf 'json '
  head -c 65536 -- "$file" | tr '\n\r' '  '
  echo
}
while [ $# -ge 2 ]; do
  name=$1 folder=$2
  shift 2
  printf 'module %s\n' "$name"
  if [ -n "$folder" ]; then
    in_folder "$folder" "$folder/node_modules" || true
    continue
  fi
  prefixes | while IFS= read -r prefix; do
    case $prefix in /*) in_folder "$prefix" "$prefix/lib/node_modules" && break ;; esac
  done
done
exit 0
"#;

/// The section of the probe, for modules by name and folder.
pub fn ask(modules: &[(String, Option<String>)]) -> Ask {
    let args = modules.iter().flat_map(|(name, folder)| [name.clone(), folder.clone().unwrap_or_default()]).collect();
    Ask { name: NAME, script: SCRIPT, args, seconds: 4, max_bytes: (LARGEST + 2000) * modules.len().max(1) }
}

/// What was found of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is not there.
    Missing,
    /// Something is there whose version cannot be read.
    Unreadable,
    /// It is installed.
    Installed(Installed),
}

/// An installed module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Its version.
    pub version: ModuleVersion,
    /// The folder, or npm's prefix, that it is installed in.
    pub place: HostPath,
    /// Since when it has been there, in seconds since 1970 by the host's clock.
    pub since: i64,
}

/// What was found, by the module's name.
pub type Modules = BTreeMap<String, Found>;

/// Reads the section.
///
/// # Errors
/// [`Blind`] when the section was not completed.
pub fn read(answer: Option<&Answer>) -> Result<Modules, Blind> {
    let text = text(answer, "the npm modules")?;
    let mut modules = Modules::new();
    let (mut name, mut place, mut since) = (None, None, None);
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "module" => {
                (name, place, since) = (Some(rest.to_owned()), None, None);
                modules.insert(rest.to_owned(), Found::Missing);
                continue;
            }
            "at" => place = HostPath::from(rest).checked().ok().map(HostPath::from),
            "closed" => {}
            "time" => since = time(rest),
            "json" => {
                if let (Some(name), Some(place), Some(since), Some(version)) = (&name, &place, since, version(rest)) {
                    modules.insert(name.clone(), Found::Installed(Installed { version, place: place.clone(), since }));
                }
                continue;
            }
            _ => continue,
        }
        // Whatever is said of a module means that something is there; what it is comes last.
        if let Some(found) = name.as_ref().and_then(|name| modules.get_mut(name)) {
            *found = Found::Unreadable;
        }
    }
    Ok(modules)
}

/// When the file was born, or, on a file system that does not tell, when it was last changed: npm puts a new file there with
/// each version, and gives it a time of modification that says nothing.
fn time(words: &str) -> Option<i64> {
    let (born, changed) = words.split_once(' ')?;
    born.parse::<i64>().ok().filter(|born| *born > 0).or_else(|| changed.parse().ok())
}

fn version(json: &str) -> Option<ModuleVersion> {
    #[derive(Deserialize)]
    struct Package {
        version: ModuleVersion,
    }
    if json.len() > LARGEST {
        return None;
    }
    // npm leaves away what stands after a plus sign when it compares, and so do we.
    let mut version = serde_json::from_str::<Package>(json).ok()?.version;
    version.0 = version.0.split('+').next().unwrap_or_default().to_owned();
    version.checked().is_ok().then_some(version)
}

/// Whether npm is installing or removing something on the machine: a version that is seen then may be half there.
pub fn npm_at_work(machine: &Machine) -> bool {
    // npm sets its title to its command line; until it does, the shell's word for it is there.
    const VERBS: &[&str] = &["install", "i", "ci", "update", "uninstall", "rm", "prune", "dedupe"];
    machine.processes.values().any(|process| {
        let words: Vec<&str> = process.command.split_whitespace().take(12).collect();
        words.windows(2).any(|pair| {
            let program = pair[0].rsplit('/').next().unwrap_or_default();
            matches!(program, "npm" | "npm-cli.js") && VERBS.contains(&pair[1])
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::machine::Process;
    use proptest::prelude::*;
    use std::path::Path;

    fn said(text: &str) -> Modules {
        read(Some(&Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 })).unwrap()
    }

    fn installed(version: &str, place: &str, since: i64) -> Found {
        Found::Installed(Installed { version: version.into(), place: place.into(), since })
    }

    #[test]
    fn a_version_comes_with_its_place_and_its_time() {
        let modules = said(
            "module binder-web\nat /opt/binder\ntime 1700000000 1800000000\njson { \"name\": \"x\", \"version\": \"1.1.17\" }\n\
             module @a/b\nat /usr\ntime 0 1800000000\njson {\"version\":\"2.0.0-rc.1+build.7\"}\nmodule gone\n",
        );
        assert_eq!(modules["binder-web"], installed("1.1.17", "/opt/binder", 1_700_000_000));
        assert_eq!(modules["@a/b"], installed("2.0.0-rc.1", "/usr", 1_800_000_000));
        assert_eq!(modules["gone"], Found::Missing);
    }

    #[test]
    fn what_is_there_and_cannot_be_read_is_not_missing() {
        for rest in [
            "closed /opt/b",
            "at /opt/b",
            "at /opt/b\ntime - -\njson {\"version\":\"1.0.0\"}",
            "at /opt/b\ntime 1 1\njson not json",
            "at /opt/b\ntime 1 1\njson {\"version\":\"$(reboot)\"}",
            "at /opt/b\ntime 1 1\njson {\"version\":\"--registry=http://x\"}",
            "at /opt/b\ntime 1 1\njson {\"version\":[\"1.0.0\"]}",
            "at /opt/../b\ntime 1 1\njson {\"version\":\"1.0.0\"}",
        ] {
            assert_eq!(said(&format!("module m\n{rest}\n"))["m"], Found::Unreadable, "{rest}");
        }
        let deep = format!("module m\nat /b\ntime 1 1\njson {}\n", "[".repeat(60_000));
        assert_eq!(said(&deep)["m"], Found::Unreadable);
    }

    fn look(home: &Path, path: &str, args: &[&str]) -> Modules {
        let output = std::process::Command::new("sh")
            .args(["-c", SCRIPT, "probe"])
            .args(args)
            .env("HOME", home)
            .env("PATH", path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        said(&String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn modules_are_found_in_their_folder_and_among_npms_global_ones() {
        let home = std::env::temp_dir().join(format!("binder-modules-{}", std::process::id()));
        let place = |inside: &str, version: &str| {
            let folder = home.join(inside);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("package.json"), format!("{{\n  \"version\":\r\n \"{version}\"\n}}\n")).unwrap();
        };
        place("app/node_modules/binder-web", "1.1.16");
        place("mine/lib/node_modules/binder-control", "1.0.1");
        place("node/lib/node_modules/binder-control", "1.0.0");
        place("node/lib/node_modules/pm2", "1.1.3");
        std::fs::create_dir_all(home.join("node/bin")).unwrap();
        std::fs::write(home.join("node/bin/node"), "#!/bin/sh\n").unwrap();
        std::process::Command::new("chmod").arg("755").arg(home.join("node/bin/node")).status().unwrap();
        std::fs::write(home.join(".npmrc"), "; mine\nprefix = ~/mine\n").unwrap();
        let path = format!("{}/node/bin:/usr/bin:/bin", home.display());
        let app = format!("{}/app", home.display());
        let found = look(&home, &path, &["binder-web", &app, "binder-control", "", "pm2", "", "binder-web2", &app]);
        std::fs::remove_dir_all(&home).unwrap();
        let version = |name: &str| match &found[name] {
            Found::Installed(installed) => (installed.version.0.as_str(), installed.since > 1_600_000_000),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(version("binder-web"), ("1.1.16", true));
        assert_eq!(version("binder-control"), ("1.0.1", true), "the login's own prefix comes first");
        assert_eq!(version("pm2"), ("1.1.3", true));
        assert_eq!(found["binder-web2"], Found::Missing);
    }

    #[test]
    fn an_npm_that_installs_is_seen_and_one_that_runs_a_server_is_not() {
        let at_work = |command: &str| {
            let process = Process { parent: 1, uid: 1000, started_ticks: 1, command: command.to_owned() };
            npm_at_work(&Machine { processes: BTreeMap::from([(7, process)]), ..Machine::default() })
        };
        assert!(at_work("npm install binder-web@1.1.17"));
        assert!(at_work("node /usr/bin/npm install --prefix /opt/binder binder-web@1.1.17"));
        assert!(at_work("timeout -k 10 270 npm ci"));
        assert!(!at_work("npm start") && !at_work("node server.js install") && !at_work("vi npm-install.md"));
    }

    proptest! {
        #[test]
        fn any_output_is_survived(text in "(module .{0,20}\n)?(at|time|json|closed) .{0,200}\n.{0,200}") {
            let _ = said(&text);
        }
    }
}
