//! Which versions of npm modules are installed, from each module's own `package.json`.
//!
//! npm itself is never run in a look: it takes seconds, and writes. Where its global modules are is found out as npm does it,
//! and where that is not known for sure, nothing is known of them.
//! The file is JSON that anybody on the host may have written: one version is taken out of it, and nothing else of it goes
//! anywhere.

use super::machine::Machine;
use super::script::{script, whole};
use super::{Answer, Ask, Unknown};
use crate::sanitize;
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
  if (value !~ /^\//) { print "? its prefix is not an absolute path"; exit }
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
/// [`Unknown`] when the section was not completed.
pub fn read(answer: Option<&Answer>) -> Result<Modules, Unknown> {
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
mod tests;
