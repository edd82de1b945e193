//! Docker: whether it answers, its containers and images, the file system under its data, and the files in which its
//! client keeps logins.
//!
//! Everything is asked with sudo, since only root is sure to reach the socket and Docker's own folders; always the local
//! daemon, and without the client's configuration, which may be the very thing that is broken. Of a login file only the
//! size is looked at, never the content.

use super::machine::{Machine, Process};
use super::script::{prelude, script, whole};
use super::{Answer, Ask, Reason, Unknown};
use crate::sanitize;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// The section's name.
pub const NAME: &str = "docker";

/// How many containers and how many images are told at most; the oldest images first, since these are the ones to go. An
/// image takes some 300 bytes, and Docker some milliseconds.
const MOST: &str = "500";
/// The most of the client's own words that is kept, in characters.
const WORDS: usize = 160;

/// `$1` is the login's home, `$2` how many containers and images at most; the rest are the described file systems.
///
/// Asked in words that Docker has understood since 1.9 (2015): `images` and `inspect --type image`, not `image ls`; the plain
/// `info`, not a format of it. A field that a version does not have is asked for by `index`, which gives nothing where
/// `.Field` would fail.
///
/// Each call of Docker has its own limit, and `version` comes first: it needs no lock and no disk. What the client said when
/// it failed is told. Together they stay within the section's time. Whatever lies in `tmp/docker-builder*` of Docker's data is
/// the context of a build that is running; Docker itself empties that folder when it starts. For a build by BuildKit it is a
/// process of its own below `buildkit/executor`.
const SCRIPT: &str = script!(
    r#"
command -v docker >/dev/null || { code=127 words='docker: not found'; fail docker; }
take root true
root timeout -s KILL 22 sh -s -- "$HOME" "$@" 2>/dev/null <<'ROOT'
"#,
    prelude!(),
    r#"
home=$1 most=$2
shift 2
engine() { limit=$1; shift; timeout -s KILL "$limit" docker --config /nonexistent --host unix:///var/run/docker.sock "$@"; }
must() { what=$1; shift; try "$@" || fail "docker $what"; }
# Rows that Docker formats itself. One container or image that is gone, or odd, makes the client fail and costs its own row:
# the counts tell how many there should be. A client that was cut short says too little.
rows() {
  what=$1
  shift
  words=$("$@" </dev/null 2>&1 >&3 3>&-)
  code=$?
  echo
  case $code in
    0) ;;
    124 | 137) fail "docker $what" ;;
    *) printf '%s\n' "$words" | head -n 3 | cut -c1-300 | sed "s/^/odd /" ;;
  esac
}
for file in "$home/.dockercfg" "$home/.docker/config.json" /root/.dockercfg /root/.docker/config.json; do
  if [ -L "$file" ]; then printf 'config link %s\n' "$file"
  elif [ -f "$file" ]; then try stat -c %s -- "$file" && printf 'config %s %s\n' "$out" "$file"
  fi
done
apt=0
if [ -d /var/cache/apt/archives ]; then
  try find /var/cache/apt/archives -xdev -type f -name '*.deb' -exec stat -c %s '{}' + &&
    apt=$(printf '%s\n' "$out" | awk '{ sum += $1 } END { printf "%d", sum }')
fi
printf 'aptcache %s\n' "$apt"
answers=no data=
if try engine 6 version; then
  answers=yes
  printf 'answers yes\n'
  must info engine 5 info
  data=$(printf '%s\n' "$out" | sed -n -e 's/^ *Docker Root Dir: *//p' -e '/^\//p' | head -n 1)
  [ -n "$data" ] || { code=0 words='it does not tell its root dir'; fail 'docker info'; }
else
  case $code in
    124 | 137) printf 'answers hangs\n' ;;
    126 | 127) fail docker ;;
    *) printf 'answers refuses\n' ;;
  esac
  printf '%s\n' "$words" | head -n 10 | cut -c1-400 | sed 's/^/why /'
  # Where its data is, is then told by how it was started, or by its file.
  pid=
  [ ! -r /var/run/docker.pid ] || read -r pid </var/run/docker.pid || true
  [ -z "$pid" ] || [ ! -r "/proc/$pid/cmdline" ] ||
    data=$(tr '\0' '\n' <"/proc/$pid/cmdline" | awk 'next_one { print; exit } /^(-g|--graph|--data-root)$/ { next_one = 1 } sub(/^(-g|--graph|--data-root)=/, "") { print; exit }')
  if [ -z "$data" ] && [ -r /etc/docker/daemon.json ]; then
    data=$(sed -n -e 's/.*"data-root"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' -e 's/.*"graph"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' /etc/docker/daemon.json | head -n 1)
  fi
fi
[ -n "$data" ] || data=/var/lib/docker
if [ -d "$data" ]; then
  printf 'root %s\n' "$data"
  take df -P -k -- "$data"
  printf 'df %s\n' "$(printf '%s\n' "$out" | tail -n 1)"
  take stat -c %d -- "$data"
  device=$out
  for path in "$@"; do try stat -c %d -- "$path" && [ "$out" = "$device" ] && printf 'holds %s\n' "$path"; done
  for context in "$data"/tmp/docker-builder* "$data"/buildkit/executor/*/; do [ -e "$context" ] && { printf 'building\n'; break; }; done
fi
[ "$answers" = yes ] || end
must ps engine 4 ps --all --quiet --no-trunc
printf 'containers %s\n' "$(printf '%s\n' "$out" | grep -c .)"
listed=$(printf '%s\n' "$out" | tail -n "$most")
[ -z "$listed" ] ||
  rows inspect engine 5 inspect --type container --format 'container {{.Id}} {{.State.Status}} {{.Image}} {{json .Created}} {{json .State.FinishedAt}}{{with .Config}}{{with index . "Labels"}}{{if index . "com.docker.compose.project"}} compose{{end}}{{end}}{{end}}{{with index . "Mounts"}}{{range .}}{{if index . "Name"}} volume{{end}}{{end}}{{end}}' $listed
must images engine 4 images --all --quiet --no-trunc
images=$(printf '%s\n' "$out" | awk 'NF && !seen[$0]++')
printf 'images %s\n' "$(printf '%s\n' "$images" | grep -c .)"
listed=$(printf '%s\n' "$images" | tail -n "$most")
if [ -n "$listed" ]; then
  rows 'inspect of images' engine 8 inspect --type image --format 'image {{.Id}} {{with index . "Parent"}}{{.}}{{else}}-{{end}} {{json (index . "Created")}} {{with index . "Metadata"}}{{json (index . "LastTagTime")}}{{else}}-{{end}} {{json (index . "Size")}}{{range index . "RepoTags"}} {{.}}{{end}}{{range index . "RepoDigests"}} {{.}}{{end}}' $listed
  # When an image came here is nowhere but in the time of its file. What has no such file, or is gone, is not told, and
  # then its age is not known.
  for folder in "$data"/image/*/imagedb/content/sha256; do
    [ ! -d "$folder" ] || printf '%s\n' "$listed" | sed "s|^sha256:|$folder/|" | xargs stat -c 'arrived %Y %n' 2>/dev/null
  done
fi
end
ROOT
code=$? words=
case $code in 0 | 1) exit "$code" ;; esac
fail docker
"#
);

/// The section of the probe. `paths` are the described file systems.
pub fn ask(paths: Vec<String>) -> Ask {
    let args = std::iter::once(MOST.to_owned()).chain(paths).collect();
    Ask { name: NAME, script: SCRIPT, args, seconds: 24, max_bytes: 1 << 20 }
}

/// Whether Docker answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    /// It does.
    Yes,
    /// Nobody listens, or it answers with an error.
    #[default]
    Refuses,
    /// It took the question and gave no answer in 6 s.
    Hangs,
}

/// Why Docker does not answer, by what its client said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Client and daemon do not speak the same version of the API. The daemon is well.
    VersionMismatch,
    /// Nobody listens on `/var/run/docker.sock`: the daemon does not run, or listens elsewhere.
    NobodyListens,
    /// Anything else.
    Other,
}

/// Why a container that does not run is left where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It never ran: it may be there for its volumes alone, or is about to be started.
    NeverStarted,
    /// Docker was told to remove it and could not.
    Dead,
    /// It has a volume, which nobody could find again without it.
    Volume,
    /// It is a service of `docker-compose`, which is stopped.
    Service,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id: 64 hexadecimal digits.
    pub id: String,
    /// Whether it surely does not run: `created`, `exited` or `dead`.
    pub stopped: bool,
    /// Why it is left where it is even so.
    pub left: Option<Left>,
    /// The image that it was made of.
    pub image: String,
    /// When it was made, or ended if it ever ran.
    pub since: Timestamp,
    /// The time at which it ended, as Docker writes it: what tells whether it ran again meanwhile.
    pub finished: String,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its id: `sha256:` and 64 hexadecimal digits.
    pub id: String,
    /// The image that it was built upon here, if that is known.
    pub parent: Option<String>,
    /// The latest of when it was built, when it came here and when it got its name; [`Timestamp::MAX`] if it is not known when
    /// it came here, so that it is never old.
    pub since: Timestamp,
    /// When it got its name, as Docker writes it; empty if this Docker does not know (before 17.06).
    pub tagged: String,
    /// Its size, in bytes; layers that it shares with others included.
    pub size: u64,
    /// Its names, with their tags; and those by which it was fetched, with their digests.
    pub tags: Vec<String>,
}

/// The state of a file in which Docker's client keeps logins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it is.
    pub path: String,
    /// How long it is, in bytes.
    pub size: u64,
}

/// What was seen of Docker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Docker {
    /// Whether it answers.
    pub answers: Answers,
    /// What its client said where it does not: clean and short, and the same as long as the cause is.
    pub said: String,
    /// Its data's folder, if there is one.
    pub root: Option<String>,
    /// Bytes in use on the file system of its data.
    pub used: u64,
    /// Bytes that are left there for everybody.
    pub available: u64,
    /// The described file systems that are the one of its data.
    pub holds: BTreeSet<String>,
    /// Whether a build is under way.
    pub building: bool,
    /// Its containers.
    pub containers: Vec<Container>,
    /// How many containers were not told.
    pub unlisted_containers: usize,
    /// Its images, the ones between two names included.
    pub images: Vec<Image>,
    /// How many images were not told.
    pub unlisted_images: usize,
    /// Containers and images among these that Docker was told to remove and refused to, by id: told by earlier attempts, and
    /// not by the look.
    pub refused: BTreeSet<String>,
    /// Login files that are there, of the login and of root; links are not among them.
    pub configs: Vec<Config>,
    /// Bytes of packages that apt keeps though it needs them no more.
    pub apt_cache: u64,
}

impl Docker {
    /// Why it does not answer, by the words of its client (2015 to today).
    pub fn trouble(&self) -> Trouble {
        let said = self.said.to_ascii_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| said.contains(part));
        if has(&["client is newer than server", "client is too old", "is too new", "is too old", "api version"]) {
            Trouble::VersionMismatch
        } else if has(&["permission denied"]) {
            Trouble::Other
        } else if has(&["cannot connect to the docker daemon", "failed to connect to the docker api", "dial unix"]) {
            Trouble::NobodyListens
        } else {
            Trouble::Other
        }
    }

    /// Whether the file system of its data was seen, and has less than this left, in bytes.
    pub fn has_less_than(&self, bytes: u64) -> bool {
        self.root.is_some() && self.used > 0 && self.available < bytes
    }
}

/// Docker's daemon: root's, and none of a container's own.
pub fn daemon(machine: &Machine) -> Option<(u32, &Process)> {
    machine
        .processes
        .iter()
        .find(|(pid, process)| {
            let mut words = process.command.split(' ');
            let program = words.next().and_then(|program| program.rsplit('/').next()).unwrap_or_default();
            // Before 1.12: `docker daemon`, before 1.8 `docker -d`.
            let old = program == "docker" && words.next().is_some_and(|word| matches!(word, "daemon" | "-d"));
            process.uid == 0 && (program == "dockerd" || old) && !in_container(machine, **pid)
        })
        .map(|(pid, process)| (*pid, process))
}

/// Whether a process of a container is among the machine's processes: it is a child of `containerd-shim`.
pub fn containers_run(machine: &Machine) -> bool {
    machine.processes.values().any(|process| is_shim(&process.command))
}

fn in_container(machine: &Machine, pid: u32) -> bool {
    machine.lineage(pid).iter().skip(1).any(|process| is_shim(&process.command))
}

fn is_shim(command: &str) -> bool {
    let program = command.split(' ').next().and_then(|program| program.rsplit('/').next()).unwrap_or_default();
    // `docker-containerd-shim`, `containerd-shim`, `containerd-shim-runc-v2`.
    program.trim_start_matches("docker-").starts_with("containerd-shim")
}

/// What matters only when it lasts: that Docker does not answer, and how. Another daemon is another state.
pub fn marks(machine: &Machine, docker: &Docker) -> BTreeSet<String> {
    mark(machine, docker).into_iter().collect()
}

/// The mark of a Docker that does not answer.
pub fn mark(machine: &Machine, docker: &Docker) -> Option<String> {
    let how = match docker.answers {
        Answers::Yes => return None,
        Answers::Refuses => "refuses",
        Answers::Hangs => "hangs",
    };
    let who = daemon(machine).map(|(pid, process)| format!("{pid}.{}", process.started_ticks));
    Some(format!("docker {how} {}", who.unwrap_or_default()))
}

/// Reads the section. A row that cannot be read costs itself: it counts as one that was not told.
///
/// # Errors
/// [`Unknown`] when the section is not whole, or does not tell what it must.
pub fn read(answer: Option<&Answer>) -> Result<Docker, Unknown> {
    let text = whole(answer, "Docker")?;
    let garbage = |what: &str| Unknown { reason: Reason::Garbage, message: format!("Docker: {what} cannot be read") };
    let mut docker = Docker::default();
    let mut arrived = BTreeMap::new();
    let (mut answers, mut containers, mut images, mut odd) = (None, None, None, None);
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "answers" => {
                answers = match rest {
                    "yes" => Some(Answers::Yes),
                    "refuses" => Some(Answers::Refuses),
                    "hangs" => Some(Answers::Hangs),
                    _ => None,
                };
            }
            "why" if docker.said.is_empty() => docker.said = said(rest),
            "config" => docker.configs.extend(config(rest)),
            "aptcache" => docker.apt_cache = rest.parse().unwrap_or(0),
            "root" => docker.root = path(rest),
            "df" => (docker.used, docker.available) = df(rest).ok_or_else(|| garbage("the use of its disk"))?,
            "holds" => docker.holds.extend(path(rest)),
            "building" => docker.building = true,
            "containers" => containers = rest.parse::<usize>().ok(),
            "container" => docker.containers.extend(container(rest)),
            "images" => images = rest.parse::<usize>().ok(),
            "image" => docker.images.extend(image(rest)),
            "odd" => odd = odd.or(Some(rest)),
            "arrived" => arrived.extend(arrival(rest)),
            _ => {}
        }
    }
    docker.answers = answers.ok_or_else(|| garbage("whether it answers"))?;
    if docker.answers != Answers::Yes {
        return Ok(docker);
    }
    let containers = containers.ok_or_else(|| garbage("the number of its containers"))?;
    let images = images.ok_or_else(|| garbage("the number of its images"))?;
    for image in &mut docker.images {
        image.since = match (arrived.get(&image.id), image.since) {
            (Some(arrived), built) => built.max(*arrived),
            // Without a file that tells when it came, only a name that it got here says so.
            (None, built) if named_here(&image.tagged) => built,
            (None, _) => Timestamp::MAX,
        };
    }
    docker.unlisted_containers = containers.saturating_sub(docker.containers.len());
    docker.unlisted_images = images.saturating_sub(docker.images.len());
    let none = |all: usize, told: bool| all > 0 && !told;
    if none(containers, !docker.containers.is_empty()) || none(images, !docker.images.is_empty()) {
        let words = odd.map(|words| format!(": `{}`", sanitize(words.as_bytes(), WORDS))).unwrap_or_default();
        return Err(Unknown {
            reason: Reason::ProbeFailed,
            message: format!("Docker: it tells of none of its containers or images{words}"),
        });
    }
    Ok(docker)
}

/// The client's own words: the part that says why. Warnings of the client's own are not why, and neither is a figure that
/// changes by itself.
fn said(line: &str) -> String {
    let clean = sanitize(line.as_bytes(), WORDS);
    let lower = clean.to_ascii_lowercase();
    if lower.starts_with("warning") || lower.starts_with("client:") { String::new() } else { clean }
}

/// Whether a time of naming is one: the year 1 stands for never.
fn named_here(tagged: &str) -> bool {
    !tagged.is_empty() && !tagged.starts_with("0001-")
}

/// A path that may be shown and handed back as an argument.
fn path(text: &str) -> Option<String> {
    let fine = text.starts_with('/') && text.len() <= 255 && text.chars().all(|c| c.is_ascii_graphic());
    fine.then(|| text.to_owned())
}

fn config(text: &str) -> Option<Config> {
    let (size, at) = text.split_once(' ')?;
    Some(Config { path: path(at)?, size: size.parse().ok()? })
}

/// `DEVICE SIZE USED AVAILABLE USE% MOUNT`, in KiB: what is used and available stands before the sign of the percentage.
fn df(line: &str) -> Option<(u64, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let percent = words.iter().position(|word| word.len() > 1 && word.ends_with('%'))?;
    let number = |back: usize| words.get(percent.checked_sub(back)?)?.parse::<u64>().ok()?.checked_mul(1024);
    Some((number(2)?, number(1)?))
}

fn hex(text: &str) -> Option<String> {
    (text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
        .then(|| text.to_owned())
}

fn image_id(text: &str) -> Option<String> {
    hex(text.strip_prefix("sha256:")?).map(|digits| format!("sha256:{digits}"))
}

/// A time as Docker writes it into JSON: nanoseconds, and the year 1 for never.
fn time(text: &str) -> Option<(Timestamp, String)> {
    let text = text.strip_prefix('"')?.strip_suffix('"')?;
    let short = text.len() <= 40 && text.chars().all(|c| c.is_ascii_alphanumeric() || ":.+-".contains(c));
    let at = text.parse().ok().filter(|_| short)?;
    Some((at, text.to_owned()))
}

fn container(text: &str) -> Option<Container> {
    let mut words = text.split(' ');
    let (id, state, image) = (hex(words.next()?)?, words.next()?, image_id(words.next()?)?);
    let (created, finished) = (words.next()?, words.next()?);
    let marks: Vec<&str> = words.collect();
    if marks.iter().any(|mark| !matches!(*mark, "compose" | "volume")) {
        return None;
    }
    let left = match state {
        "created" => Some(Left::NeverStarted),
        "dead" => Some(Left::Dead),
        _ if marks.contains(&"compose") => Some(Left::Service),
        _ if marks.contains(&"volume") => Some(Left::Volume),
        _ => None,
    };
    let stopped = matches!(state, "created" | "exited" | "dead");
    Some(match (time(created), time(finished)) {
        (Some((created, _)), Some((ended, finished))) => {
            Container { id, stopped, left, image, since: created.max(ended), finished }
        }
        // What has no times is never old; its image is in use all the same.
        _ => Container { id, stopped, left, image, since: Timestamp::MAX, finished: String::new() },
    })
}

fn image(text: &str) -> Option<Image> {
    let mut words = text.split(' ');
    let id = image_id(words.next()?)?;
    let parent = match words.next()? {
        "-" => None,
        parent => Some(image_id(parent)?),
    };
    // Docker 25.0 wrote an empty time of building, and later ones leave it away.
    let (created, named) = (time(words.next()?), words.next()?);
    let (named, tagged) = match (time(named), named) {
        (Some((named, tagged)), _) => (Some(named), tagged),
        (None, "-" | "null" | "\"\"") => (None, String::new()),
        (None, _) => return None,
    };
    let size = words.next()?.parse().ok()?;
    // Of some versions, what has no name says `<none>:<none>`.
    let names = words.filter(|name| !name.is_empty() && !name.contains("<none>"));
    let tags: Vec<String> = names.map(tag).collect::<Option<_>>()?;
    let since = created.map(|(created, _)| created).max(named).unwrap_or(Timestamp::MAX);
    Some(Image { id, parent, since, tagged, size, tags })
}

/// When an image came here: seconds since 1970, and the path of its file, which is named by its digits.
fn arrival(text: &str) -> Option<(String, Timestamp)> {
    let (seconds, file) = text.split_once(' ')?;
    let digits = file.rsplit('/').next()?;
    Some((format!("sha256:{}", hex(digits)?), Timestamp::from_second(seconds.parse().ok()?).ok()?))
}

/// `REPOSITORY:TAG` or `REPOSITORY@DIGEST`, as Docker's own grammar has them; a registry may be an address of IPv6.
fn tag(text: &str) -> Option<String> {
    let fine = text.len() <= 400
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._/:@-[]+".contains(c));
    fine.then(|| text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests;
