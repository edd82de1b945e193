//! Which versions of npm modules are installed, from each module's own `package.json`.
//!
//! npm itself is never run in a look: it takes seconds, and writes. Where its global modules are is found out as npm does it,
//! and where that is not known for sure, nothing is known of them.
//! The file is JSON that anybody on the host may have written: one version is taken out of it, and nothing else of it goes
//! anywhere.

use super::machine::Machine;
use super::script::{script, whole};
use super::{Answer, Ask, Blind};
use crate::hosts::sanitize;
use binder_crds::text::{Checked, HostPath, ModuleVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The section's name.
pub const NAME: &str = "modules";

/// The largest `package.json` that is read, in bytes; npm writes none of its own above a few KiB.
const LARGEST: usize = 64 << 10;

/// Takes pairs of a module's name and its folder, empty for npm's global modules.
///
/// Those are below npm's prefix, which is the first that is said of: the environment, the login's `.npmrc`, the global
/// `npmrc`, the one beside npm itself, `/etc/npmrc`; else it is what is above node's folder (npm's own order). The files are
/// read as npm reads them (its module `ini`: quotes, `${NAME}` of the environment, `~/`, comments, carriage returns; lines
/// below a `[section]` do not count, and a later line wins), and of a file nothing but the lines of `prefix` is looked at: it
/// may hold logins. A prefix that cannot be told for sure, or a node that is a launcher of other nodes, makes every global
/// module unknown. Debian's node has `/usr` above it and its npm `/usr/local`; a module that is not below the prefix is also
/// looked for in both.
const SCRIPT: &str = script!(
    r#"
ini='
BEGIN { key = "^[ \t]*[\"\047]?prefix[\"\047]?[ \t]*=" }
{ sub(/\r$/, "") }
/^[ \t]*\[/ { exit }
$0 ~ key { value = $0; sub(/^[^=]*=/, "", value); stated = 1 }
END {
  if (!stated) exit
  gsub(/^[ \t]+|[ \t]+$/, "", value)
  if (value ~ /\\/) { print "? it has a backslash in its prefix"; exit }
  if (value ~ /^".*"$/ || value ~ /^\047.*\047$/) value = substr(value, 2, length(value) - 2)
  else { sub(/[;#].*$/, "", value); gsub(/[ \t]+$/, "", value) }
  while (match(value, /[$][{][^}]*[}]/)) {
    name = substr(value, RSTART + 2, RLENGTH - 3)
    if (!(name in ENVIRON)) { print "? it names ${" name "}, which is not set"; exit }
    value = substr(value, 1, RSTART - 1) ENVIRON[name] substr(value, RSTART + RLENGTH)
  }
  if (value ~ /^~\//) value = ENVIRON["HOME"] substr(value, 2)
  if (value !~ /^\//) { print "? its prefix is no whole path"; exit }
  sub(/\/+$/, "", value)
  print (value == "" ? "/" : value)
}'
first= above= unknown=
# What a file says of the prefix, in $first, or why that is not known, in $unknown; nothing once it is settled.
stated() {
  [ -z "$first$unknown" ] || return 0
  if [ ! -e "$1" ]; then
    hidden "$1" && unknown="$1 cannot be looked at"
    return 0
  fi
  [ -f "$1" ] || return 0
  [ -r "$1" ] || { unknown="$1 cannot be read"; return 0; }
  take awk "$ini" "$1"
  case $out in
    '') ;;
    '? '*) unknown="$1: ${out#??}" ;;
    *) first=$out ;;
  esac
}
# Whether a path that does not seem to be there may lie in a folder that this login may not enter.
hidden() {
  at=$1
  while [ -n "$at" ] && [ ! -e "$at" ]; do at=${at%/*}; done
  [ -d "${at:-/}" ] && [ ! -x "${at:-/}" ]
}
prefixes() {
  for said in "${npm_config_prefix:-}" "${NPM_CONFIG_PREFIX:-}"; do
    [ -z "$first$unknown" ] || break
    case $said in '') ;; /*) first=$said ;; '~/'*) first=$HOME/${said#??} ;; *) unknown='NPM_CONFIG_PREFIX is no whole path' ;; esac
  done
  stated "${npm_config_userconfig:-${NPM_CONFIG_USERCONFIG:-$HOME/.npmrc}}"
  if node=$(command -v node || command -v nodejs) && try readlink -f -- "$node"; then
    case ${out##*/} in node | nodejs | node[0-9]*) above=${out%/*} above=${above%/*} ;; esac
    # A launcher of other nodes has no modules beside it.
    [ -d "$above/lib/node_modules" ] || [ "$above" = /usr ] || above=
  fi
  said=${npm_config_globalconfig:-${NPM_CONFIG_GLOBALCONFIG:-}}
  [ -n "$said" ] || [ -z "$above" ] || said=$above/etc/npmrc
  [ -z "$said" ] || stated "$said"
  if npm=$(command -v npm) && try readlink -f -- "$npm"; then
    case $out in */bin/*) stated "${out%/bin/*}/npmrc" ;; esac
  fi
  stated /etc/npmrc
  [ -n "$first$above$unknown" ] || unknown="node is not on this login's PATH, or no node itself"
}
in_folder() {
  [ -d "$2" ] || { hidden "$2" && printf 'closed %s\n' "$1"; return; }
  [ -x "$2" ] || { printf 'closed %s\n' "$1"; return 0; }
  file=$2/$name/package.json
  [ -e "$file" ] || [ -L "$2/$name" ] || { hidden "$file" && printf 'closed %s\n' "$1"; return; }
  printf 'at %s\n' "$1"
  [ ! -L "$2/$name" ] || printf 'link\n'
  [ -f "$file" ] && [ -r "$file" ] || return 0
  try stat -L -c '%W %Z' -- "$file" || return 0
  printf 'time %s\n' "$out"
  try head -c 65536 -- "$file" || return 0
  printf 'json '
  printf '%s' "$out" | tr '\n\r' '  '
  echo
}
asked=
while [ $# -ge 2 ]; do
  name=$1 folder=$2
  shift 2
  printf 'module %s\n' "$name"
  if [ -n "$folder" ]; then
    in_folder "$folder" "$folder/node_modules"
    continue
  fi
  [ -n "$asked" ] || prefixes
  asked=yes
  if [ -n "$unknown" ]; then
    printf 'unknown %s\n' "$unknown"
    continue
  fi
  for prefix in "$first" "$above" /usr/local /usr; do
    [ -z "$prefix" ] || ! in_folder "$prefix" "${prefix%/}/lib/node_modules" || break
  done
done
end
"#
);

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
    /// It is not known where it would be, and why.
    Unknown(String),
    /// It is installed.
    Installed(Installed),
    /// It is a link to somewhere else (`npm link`), where somebody works on it.
    Linked(Installed),
}

impl Found {
    /// What is there, installed or linked.
    pub fn there(&self) -> Option<&Installed> {
        match self {
            Self::Installed(there) | Self::Linked(there) => Some(there),
            Self::Missing | Self::Unreadable | Self::Unknown(_) => None,
        }
    }
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
    let text = whole(answer, "the npm modules")?;
    let mut modules = Modules::new();
    let (mut name, mut place, mut since, mut link) = (None, None, None, false);
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "module" => {
                (name, place, since, link) = (Some(rest.to_owned()), None, None, false);
                modules.insert(rest.to_owned(), Found::Missing);
                continue;
            }
            "at" => place = HostPath::from(rest).checked().ok().map(HostPath::from),
            "closed" => {}
            "link" => link = true,
            "unknown" => {
                if let Some(found) = name.as_ref().and_then(|name| modules.get_mut(name)) {
                    *found = Found::Unknown(sanitize(rest.as_bytes(), 200));
                }
                continue;
            }
            "time" => since = time(rest),
            "json" => {
                if let (Some(name), Some(place), Some(since), Some(version)) = (&name, &place, since, version(rest)) {
                    let there = Installed { version, place: place.clone(), since };
                    modules.insert(name.clone(), if link { Found::Linked(there) } else { Found::Installed(there) });
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

/// What an npm that was started so long ago, in seconds, and does not tell its task, is: one that runs a server. Our own is
/// ended after 4½ minutes.
const NPM_ENDS_WITHIN: u64 = 30 * 60;

/// Whether npm, or another program that installs modules, is at work on the machine: a version that is seen then may be half
/// there. What is surely no such work is told by npm's first word; everything else may be.
pub fn npm_at_work(machine: &Machine) -> bool {
    machine.processes.values().any(|process| match npm(&process.command) {
        Some(Npm::Installs) => true,
        // npm up to 6 overwrites its command line with its name.
        Some(Npm::DoesNotSay) => machine.age(process) < NPM_ENDS_WITHIN,
        Some(Npm::Harmless) | None => false,
    })
}

enum Npm {
    Installs,
    Harmless,
    DoesNotSay,
}

/// What a command line says of npm, if it is npm's.
fn npm(command: &str) -> Option<Npm> {
    // What starts another program that stands in its arguments.
    const LAUNCHERS: &[&str] = &[
        "sudo", "env", "timeout", "nice", "ionice", "nohup", "setsid", "time", "sh", "bash", "dash", "ash", "zsh",
        "busybox", "node", "nodejs", "su", "runuser", "xargs", "script", "screen", "SCREEN", "tmux",
    ];
    const PROGRAMS: &[&str] = &[
        "npm",
        "npm-cli.js",
        "npx",
        "npx-cli.js",
        "yarn",
        "yarnpkg",
        "yarn.js",
        "pnpm",
        "pnpm.cjs",
        "pnpm.js",
        "cnpm",
    ];
    const HARMLESS: &[&str] = &[
        "start",
        "stop",
        "restart",
        "test",
        "t",
        "run",
        "run-script",
        "exec",
        "x",
        "ls",
        "list",
        "ll",
        "la",
        "view",
        "info",
        "show",
        "v",
        "outdated",
        "root",
        "prefix",
        "bin",
        "config",
        "get",
        "help",
        "search",
        "s",
        "se",
        "whoami",
        "ping",
        "pack",
        "publish",
        "version",
        "versions",
        "doctor",
        "docs",
        "home",
        "repo",
        "bugs",
        "explain",
        "fund",
        "login",
        "logout",
        "audit-report",
    ];
    // Their value is the next word.
    const WITH_VALUE: &[&str] =
        &["--prefix", "-C", "--loglevel", "--cache", "--userconfig", "--globalconfig", "--registry", "--cwd"];
    let base = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    let words: Vec<&str> = command.split_whitespace().take(40).collect();
    let launched = words.first().is_some_and(|first| LAUNCHERS.contains(&base(first).as_str()));
    let at = words.iter().position(|word| PROGRAMS.contains(&base(word).as_str()))?;
    if at > 0 && !launched {
        return None;
    }
    let mut rest = words[at + 1..].iter();
    let mut versions_only = false;
    while let Some(word) = rest.next() {
        if WITH_VALUE.contains(word) {
            rest.next();
        } else if matches!(*word, "-v" | "--version" | "-h" | "--help" | "-l") {
            versions_only = true;
        } else if !word.starts_with('-') {
            return Some(if HARMLESS.contains(word) { Npm::Harmless } else { Npm::Installs });
        }
    }
    let installs_alone = ["yarn", "yarnpkg", "yarn.js"].contains(&base(words[at]).as_str());
    Some(match (versions_only, installs_alone) {
        (true, _) => Npm::Harmless,
        (false, true) => Npm::Installs,
        (false, false) => Npm::DoesNotSay,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::super::script::stand_in::Stage;
    use super::*;
    use crate::seen::machine::Process;
    use proptest::prelude::*;

    fn said(text: &str) -> Modules {
        read(Some(&Answer::Said { bytes: format!("{text}\nend\n").into_bytes(), exit: 0 })).unwrap()
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

    /// A home with modules: `mine` and `other` are prefixes, `node` is the node's own.
    fn stage() -> Stage {
        let stage = Stage::new().without("node").without("nodejs").without("npm");
        let place = |inside: &str, version: &str| {
            let folder = stage.home().join(inside);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("package.json"), format!("{{\n  \"version\":\r\n \"{version}\"\n}}\n")).unwrap();
        };
        place("app/node_modules/binder-web", "1.1.16");
        place("mine/lib/node_modules/binder-control", "2.0.0");
        place("node/lib/node_modules/binder-control", "1.0.0");
        place("node/lib/node_modules/pm2", "1.1.3");
        stage
    }

    /// The same with a node of its own on the `PATH`.
    fn with_node() -> Stage {
        let stage = stage();
        std::fs::create_dir_all(stage.home().join("node/bin")).unwrap();
        std::fs::write(stage.home().join("node/bin/node"), "#!/bin/sh\n").unwrap();
        let node = stage.home().join("node/bin/node");
        std::fs::set_permissions(&node, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&node, stage.home().join("../bin/node")).unwrap();
        stage
    }

    fn look(stage: &Stage, shell: &[&str], modules: &[(&str, Option<&str>)]) -> Modules {
        let modules: Vec<_> =
            modules.iter().map(|(name, folder)| ((*name).to_owned(), folder.map(str::to_owned))).collect();
        read(Some(&stage.run_with(shell, &ask(&modules)))).unwrap()
    }

    fn global(stage: &Stage, shell: &[&str]) -> Found {
        look(stage, shell, &[("binder-control", None)]).remove("binder-control").unwrap()
    }

    const SHELLS: &[&[&str]] = &[&["sh"], &["bash"], &["busybox", "sh"]];

    fn version(found: &Found) -> &str {
        match found {
            Found::Installed(installed) if installed.since > 1_600_000_000 => installed.version.0.as_str(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn modules_are_found_in_their_folder_and_among_npms_global_ones() {
        let stage = with_node();
        std::fs::write(stage.home().join(".npmrc"), "; mine\nprefix = ~/mine\n").unwrap();
        let app = stage.home().join("app").display().to_string();
        let asked = [
            ("binder-web", Some(app.as_str())),
            ("binder-control", None),
            ("pm2", None),
            ("binder-web2", Some(app.as_str())),
            ("binder-web3", None),
        ];
        for shell in SHELLS {
            let found = look(&stage, shell, &asked);
            assert_eq!(version(&found["binder-web"]), "1.1.16");
            assert_eq!(version(&found["binder-control"]), "2.0.0", "the login's own prefix comes first");
            assert_eq!(version(&found["pm2"]), "1.1.3");
            assert_eq!((&found["binder-web2"], &found["binder-web3"]), (&Found::Missing, &Found::Missing));
        }
    }

    #[test]
    fn npms_prefix_is_read_as_npm_reads_it() {
        // What `npm config get prefix` says is .../mine for each of them.
        for npmrc in [
            "prefix = \"HOME/mine\"\n",
            "prefix=\"${HOME}/mine\"\n",
            "prefix='${HOME}/mine'",
            "prefix=HOME/mine \n",
            "prefix=HOME/mine\r\n",
            "  \"prefix\"=HOME/mine/ ; where mine are\nregistry=https://x/\n",
            "prefix=/nowhere\nprefix=${HOME}/mine\n",
            "prefix=~/mine\n[other]\nprefix=/nowhere\n",
            "//registry.npmjs.org/:_authToken=secret\nprefix=~/mine",
        ] {
            let stage = with_node();
            let home = stage.home().display().to_string();
            std::fs::write(
                stage.home().join(".npmrc"),
                npmrc.replace("HOME/", &format!("{home}/")).replace("${HOME}", "${HOME}"),
            )
            .unwrap();
            for shell in SHELLS {
                assert_eq!(version(&global(&stage, shell)), "2.0.0", "{npmrc:?} {shell:?}");
            }
        }
        let stage = with_node();
        std::fs::create_dir_all(stage.home().join("node/etc")).unwrap();
        std::fs::write(stage.home().join("node/etc/npmrc"), "prefix=${HOME}/mine\n").unwrap();
        assert_eq!(version(&global(&stage, &["sh"])), "2.0.0", "the global file");
        std::fs::remove_file(stage.home().join("node/etc/npmrc")).unwrap();
        assert_eq!(version(&global(&stage, &["sh"])), "1.0.0", "above node's folder");
    }

    #[test]
    fn a_prefix_that_is_not_known_makes_nothing_missing() {
        for npmrc in ["prefix=${NOT_SET_HERE}/mine", "prefix=mine", "prefix=", "prefix=\"/a\\u002fb\""] {
            let stage = with_node();
            std::fs::write(stage.home().join(".npmrc"), npmrc).unwrap();
            for shell in SHELLS {
                let found = global(&stage, shell);
                assert!(matches!(&found, Found::Unknown(why) if why.contains(".npmrc: ")), "{npmrc}: {found:?}");
            }
        }
        // nvm's node is on the PATH of an interactive shell only.
        assert!(matches!(global(&stage(), &["sh"]), Found::Unknown(why) if why.starts_with("node is not on")));
        // A launcher of other nodes.
        let shim = stage();
        std::os::unix::fs::symlink("/bin/true", shim.home().join("../bin/node")).unwrap();
        assert!(matches!(global(&shim, &["sh"]), Found::Unknown(_)));
    }

    #[test]
    fn a_module_that_is_a_link_is_told_as_one() {
        let stage = with_node();
        std::fs::create_dir_all(stage.home().join("src/binder-web")).unwrap();
        std::fs::write(stage.home().join("src/binder-web/package.json"), r#"{"version": "1.2.0-dev"}"#).unwrap();
        let modules = stage.home().join("node/lib/node_modules");
        std::os::unix::fs::symlink(stage.home().join("src/binder-web"), modules.join("binder-web")).unwrap();
        std::os::unix::fs::symlink(stage.home().join("src/gone"), modules.join("gone")).unwrap();
        let found = look(&stage, &["sh"], &[("binder-web", None), ("gone", None)]);
        assert!(matches!(&found["binder-web"], Found::Linked(there) if there.version.0 == "1.2.0-dev"), "{found:?}");
        assert_eq!(found["gone"], Found::Unreadable, "it leads nowhere, and is there");
    }

    #[test]
    fn an_npm_that_installs_is_seen_in_every_spelling_and_one_that_runs_a_server_is_not() {
        let at_work = |command: &str, up: u64| {
            let process = Process { parent: 1, uid: 1000, started_ticks: 1, command: command.to_owned() };
            let processes = BTreeMap::from([(7, process)]);
            npm_at_work(&Machine { processes, uptime: up, ticks: 1, ..Machine::default() })
        };
        for command in [
            "npm install binder-web@1.1.17",
            "npm i",
            "npm -g install binder-web",
            "sudo npm install -g binder-web",
            "sudo -u andrew npm -g install binder-web",
            "npm --prefix /opt/binder install",
            "npm add x",
            "npm up",
            "npm link",
            "npm rebuild",
            "npm un x",
            "npm",
            "yarn global add x",
            "yarn",
            "pnpm add x",
            "node /usr/bin/npm install --prefix /opt/binder binder-web@1.1.17",
            "/usr/bin/node /usr/share/nodejs/npm/bin/npm-cli.js ci",
            "timeout -k 10 270 npm ci",
            "sudo -n env PATH=/usr/bin timeout -k 10 270 npm install x --prefix /opt/binder",
            "sh -c cd /opt/binder && npm install",
        ] {
            assert!(at_work(command, 60), "{command}");
        }
        for command in [
            "npm start",
            "npm --prefix /srv/app start",
            "npm run build",
            "npm -v",
            "npm ls -g",
            "yarn start",
            "node server.js install",
            "vi npm-install.md",
            "man npm",
            "grep npm install",
            "",
        ] {
            assert!(!at_work(command, 60), "{command}");
        }
        // npm 3 overwrites its command line: one that has been so for an hour runs a server.
        assert!(!at_work("npm", 3600));
    }

    proptest! {
        #[test]
        fn any_output_is_survived(text in "(module .{0,20}\n)?(at|time|json|closed|link|unknown) .{0,200}\n.{0,200}") {
            let _ = said(&text);
        }
    }
}
