//! Docker: whether it answers, its containers and images, the file system under its data, and the files in which its
//! client keeps logins.
//!
//! Everything is asked with sudo, since only root is sure to reach the socket and Docker's own folders; always the local
//! daemon, and without the client's configuration, which may be the very thing that is broken. Of a login file only the
//! size is looked at, never the content.

use super::{Answer, Ask, Blind, Reason, text};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// The section's name.
pub const NAME: &str = "docker";

/// How many containers and how many images are told at most; the oldest images first, since these are the ones to go. An
/// image takes some 300 bytes, and Docker some milliseconds.
const MOST: &str = "500";

/// `$1` is the login's home, `$2` how many containers and images at most; the rest are the described file systems.
///
/// Each call of Docker has its own limit, and `version` comes first: it needs no lock and no disk, so that a Docker that
/// does not answer it within 6 s does not answer anything. Together they stay within the section's time. Whatever lies in
/// `tmp/docker-builder*` of Docker's data is the context of a build that is running; Docker itself empties that folder when
/// it starts. For a build by BuildKit it is a process of its own below `buildkit/executor`.
const SCRIPT: &str = r#"
set -u
command -v docker >/dev/null 2>&1 || exit 127
sudo -n true 2>/dev/null || exit 77
exec sudo -n timeout -s KILL 22 sh -s -- "$HOME" "$@" 2>/dev/null <<'ROOT'
set -u
home=$1 most=$2
shift 2
engine() { limit=$1; shift; timeout --foreground -s KILL "$limit" docker --config /nonexistent --host unix:///var/run/docker.sock "$@" </dev/null; }
for file in "$home/.dockercfg" "$home/.docker/config.json" /root/.dockercfg /root/.docker/config.json; do
  if [ -L "$file" ]; then printf 'config link %s\n' "$file"
  elif [ -f "$file" ]; then printf 'config %s %s\n' "$(stat -c %s -- "$file")" "$file"
  fi
done
printf 'aptcache %s\n' "$(find /var/cache/apt/archives -xdev -type f -name '*.deb' -printf '%s\n' | awk '{ sum += $1 } END { printf "%d", sum }')"
root=$(sed -n 's/.*"data-root"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' /etc/docker/daemon.json 2>/dev/null | head -n 1)
if version=$(engine 6 version --format '{{.Server.Version}}'); then
  printf 'answers yes\n'
  root=$(engine 4 info --format '{{.DockerRootDir}}') || exit 1
else
  case $? in 124|137) printf 'answers hangs\n' ;; *) printf 'answers refuses\n' ;; esac
fi
[ -n "$root" ] || root=/var/lib/docker
if [ -d "$root" ]; then
  printf 'root %s\n' "$root"
  df -P -B1 -- "$root" | sed -n '$s/^/df /p'
  device=$(stat -c %d -- "$root")
  for path in "$@"; do [ "$(stat -c %d -- "$path")" = "$device" ] && printf 'holds %s\n' "$path"; done
  for context in "$root"/tmp/docker-builder* "$root"/buildkit/executor/*/; do [ -e "$context" ] && { printf 'building\n'; break; }; done
fi
[ -n "${version:-}" ] || { printf 'end\n'; exit 0; }
containers=$(engine 4 ps --all --quiet --no-trunc) || exit 1
printf 'containers %s\n' "$(printf '%s' "$containers" | grep -c .)"
listed=$(printf '%s' "$containers" | tail -n "$most")
if [ -n "$listed" ]; then
  # One that goes away meanwhile makes inspect fail, and says the rest all the same. Cut short, it says too little.
  engine 5 inspect --type container --format 'container {{.Id}} {{.State.Status}} {{.Image}} {{json .Created}} {{json .State.FinishedAt}}' $listed
  case $? in 124|137) exit 1 ;; esac
fi
images=$(engine 4 image ls --all --quiet --no-trunc) || exit 1
images=$(printf '%s\n' "$images" | awk 'NF && !seen[$0]++')
printf 'images %s\n' "$(printf '%s' "$images" | grep -c .)"
listed=$(printf '%s' "$images" | tail -n "$most")
if [ -n "$listed" ]; then
  engine 8 image inspect --format 'image {{.Id}} {{if .Parent}}{{.Parent}}{{else}}-{{end}} {{json .Created}} {{json .Metadata.LastTagTime}} {{.Size}}{{range .RepoTags}} {{.}}{{end}}{{range .RepoDigests}} {{.}}{{end}}' $listed
  case $? in 124|137) exit 1 ;; esac
  # When an image came here is nowhere but in the time of its file.
  cd "$root"/image/*/imagedb/content/sha256 && printf '%s\n' "$listed" | sed 's/^sha256://' | xargs stat -c 'arrived %Y %n'
fi
printf 'end\n'
ROOT
"#;

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

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id: 64 hexadecimal digits.
    pub id: String,
    /// Whether it surely does not run: `created`, `exited` or `dead`.
    pub stopped: bool,
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
    /// The latest of when it was built, when it came here and when it got its name.
    pub since: Timestamp,
    /// When it got its name, as Docker writes it.
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
    /// Login files that are there, of the login and of root; links are not among them.
    pub configs: Vec<Config>,
    /// Bytes of packages that apt keeps though it needs them no more.
    pub apt_cache: u64,
}

/// Reads the section.
///
/// # Errors
/// [`Blind`] when the section was not completed, or tells something that Docker does not say.
pub fn read(answer: Option<&Answer>) -> Result<Docker, Blind> {
    let text = text(answer, "Docker")?;
    let garbage = |what: &str| Blind { reason: Reason::Garbage, message: format!("Docker: {what} cannot be read") };
    let mut docker = Docker::default();
    let mut arrived = BTreeMap::new();
    let (mut answers, mut complete, mut containers, mut images) = (None, false, 0usize, 0usize);
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
            "config" => docker.configs.extend(config(rest)),
            "aptcache" => docker.apt_cache = rest.parse().unwrap_or(0),
            "root" => docker.root = path(rest),
            "df" => (docker.used, docker.available) = df(rest).ok_or_else(|| garbage("the use of its disk"))?,
            "holds" => docker.holds.extend(path(rest)),
            "building" => docker.building = true,
            "containers" => containers = rest.parse().map_err(|_| garbage("the number of its containers"))?,
            "container" => docker.containers.push(container(rest).ok_or_else(|| garbage("a container"))?),
            "images" => images = rest.parse().map_err(|_| garbage("the number of its images"))?,
            "image" => docker.images.push(image(rest).ok_or_else(|| garbage("an image"))?),
            "arrived" => arrived.extend(arrival(rest)),
            "end" => complete = true,
            _ => {}
        }
    }
    docker.answers = answers.ok_or_else(|| garbage("whether it answers"))?;
    if !complete {
        return Err(Blind {
            reason: Reason::ProbeFailed,
            message: "Docker: it answered, and then not to all that it was asked".to_owned(),
        });
    }
    for image in &mut docker.images {
        image.since = arrived.get(&image.id).map_or(image.since, |arrived| image.since.max(*arrived));
    }
    docker.unlisted_containers = containers.saturating_sub(docker.containers.len());
    docker.unlisted_images = images.saturating_sub(docker.images.len());
    Ok(docker)
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

/// `DEVICE SIZE USED AVAILABLE USE% MOUNT`, in bytes: what is used and available stands before the sign of the percentage.
fn df(line: &str) -> Option<(u64, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let percent = words.iter().position(|word| word.len() > 1 && word.ends_with('%'))?;
    let number = |back: usize| words.get(percent.checked_sub(back)?)?.parse().ok();
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
    let words: Vec<&str> = text.split(' ').collect();
    let [id, state, image, created, finished] = words.as_slice() else { return None };
    let (created, (ended, finished)) = (time(created)?.0, time(finished)?);
    Some(Container {
        id: hex(id)?,
        stopped: matches!(*state, "created" | "exited" | "dead"),
        image: image_id(image)?,
        since: created.max(ended),
        finished,
    })
}

fn image(text: &str) -> Option<Image> {
    let mut words = text.split(' ');
    let id = image_id(words.next()?)?;
    let parent = match words.next()? {
        "-" => None,
        parent => Some(image_id(parent)?),
    };
    let (created, (named, tagged)) = (time(words.next()?)?.0, time(words.next()?)?);
    let size = words.next()?.parse().ok()?;
    let tags: Vec<String> = words.map(tag).collect::<Option<_>>()?;
    Some(Image { id, parent, since: created.max(named), tagged, size, tags })
}

/// When an image came here: seconds since 1970, and its digits.
fn arrival(text: &str) -> Option<(String, Timestamp)> {
    let (seconds, digits) = text.split_once(' ')?;
    Some((format!("sha256:{}", hex(digits)?), Timestamp::from_second(seconds.parse().ok()?).ok()?))
}

/// `REPOSITORY:TAG` or `REPOSITORY@DIGEST`, as Docker's own grammar has them.
fn tag(text: &str) -> Option<String> {
    let fine = text.len() <= 400
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._/:@-".contains(c));
    fine.then(|| text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(text: &str) -> Result<Docker, Blind> {
        read(Some(&Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 }))
    }

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    /// As Docker 20.10 says it.
    fn whole() -> String {
        format!(
            "config 0 /home/andrew/.dockercfg\nconfig 57 /root/.docker/config.json\naptcache 4096\nanswers yes\n\
             root /var/lib/docker\ndf /dev/loop2 390707200 386515000 0 100% /var/lib/docker\nholds /var/lib/docker\n\
             building\ncontainers 3\n\
             container {a} exited sha256:{c} \"2026-11-22T15:23:20.284876404Z\" \"2026-11-22T15:24:30.236122528Z\"\n\
             container {b} running sha256:{c} \"2026-11-22T15:23:20Z\" \"0001-01-01T00:00:00Z\"\n\
             images 702\n\
             image sha256:{c} - \"2016-05-01T00:00:00Z\" \"2026-11-22T15:22:39.8Z\" 54411062 old:1 localhost:5000/a/b:V2\n\
             image sha256:{d} sha256:{c} \"2016-05-01T01:00:00Z\" \"0001-01-01T00:00:00Z\" 7\n\
             arrived 1779999999 {d}\nend\n",
            a = id('a'),
            b = id('b'),
            c = id('c'),
            d = id('d'),
        )
    }

    #[test]
    fn docker_is_read_as_it_speaks() {
        let docker = said(&whole()).unwrap();
        assert_eq!(docker.answers, Answers::Yes);
        assert_eq!((docker.used, docker.available), (386_515_000, 0));
        assert!(docker.building && docker.holds.contains("/var/lib/docker"));
        assert_eq!(docker.configs[0], Config { path: "/home/andrew/.dockercfg".to_owned(), size: 0 });
        assert_eq!((docker.containers.len(), docker.unlisted_containers), (2, 1));
        assert_eq!(docker.containers[0].since.to_string(), "2026-11-22T15:24:30.236122528Z");
        assert!(docker.containers[0].stopped && !docker.containers[1].stopped);
        assert_eq!(docker.containers[1].since.to_string(), "2026-11-22T15:23:20Z");
        assert_eq!((docker.images.len(), docker.unlisted_images), (2, 700));
        let (old, child) = (&docker.images[0], &docker.images[1]);
        assert_eq!(old.tags, ["old:1", "localhost:5000/a/b:V2"]);
        assert_eq!(old.since.to_string(), "2026-11-22T15:22:39.8Z", "it came here later than it was built");
        assert_eq!(child.parent.as_deref(), Some(old.id.as_str()));
        assert!(child.tags.is_empty());
        assert_eq!(child.since.as_second(), 1_779_999_999, "it was fetched lately, however old it is");
    }

    #[test]
    fn what_is_not_all_there_or_not_dockers_is_unknown() {
        assert_eq!(said(whole().trim_end_matches("end\n")).unwrap_err().reason, Reason::ProbeFailed);
        for (from, to) in
            [("old:1", "$(reboot)"), ("exited", "exi ted"), ("2016-05-01T00", "yesterday"), ("sha256", "md5")]
        {
            assert_eq!(said(&whole().replace(from, to)).unwrap_err().reason, Reason::Garbage, "{to}");
        }
        // A state that nobody knows is not "stopped".
        assert!(!said(&whole().replace("exited", "resting")).unwrap().containers[0].stopped);
        assert_eq!(said("").unwrap_err().reason, Reason::Garbage);
        let stuck = said("config link /root/.dockercfg\naptcache 0\nanswers hangs\nend\n").unwrap();
        assert_eq!((stuck.answers, stuck.configs.len()), (Answers::Hangs, 0));
    }

    proptest! {
        #[test]
        fn any_output_is_survived(text in "((config|df|root|container|image|images|answers) .{0,80}\n){0,6}(end\n)?") {
            let _ = said(&text);
        }

        #[test]
        fn a_piece_of_it_is_survived(from in 0usize..900, to in 0usize..900) {
            let text = whole();
            let _ = said(text.get(from.min(to)..from.max(to)).unwrap_or_default());
        }
    }
}
