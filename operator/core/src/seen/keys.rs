//! The API key as Binder's servers told it in pm2's logs when they started (` - Using API key: KEY`): how a person gets a
//! lost key back (runbook, "API key"). It is looked for only while the Secret does not have it.
//!
//! A log is written by whoever can have a line printed, and a host says what it likes: one line is no proof. What several
//! logs tell is weighed by [`together`]. A key never leaves [`FoundKey`], whose `Debug` does not show it.

use super::script::{script, whole};
use super::{Answer, Ask, Unknown};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;

/// The section's name.
pub const NAME: &str = "keys";

/// For each name in pm2 the newest of the logs that pm2 itself makes for it and that has a key; of its end, the last line with
/// one. A server tells its key when it starts, so that a log that was begun since (pm2-logrotate) has none; of eight the
/// newest is taken. The line may begin with a date (pm2's `log_date_format`), and with nothing else. The key goes through
/// pipes only: it is in no argument and no variable. A log that may not be read makes the section unseen.
const SCRIPT: &str = script!(
    r#"
dir="${PM2_HOME:-$HOME/.pm2}/logs"
[ -d "$dir" ] || end
told() {
  tail -c 33554432 -- "$1" | LC_ALL=C sed -n 's|^\([0-9][0-9TZ:.,/+ -]\{1,40\}: \)\{0,1\} - Using API key: | - Using API key: |p' | tail -n 1 | head -c 200 | tr -d '\0\n'
}
newest() {
  name=$1
  shift
  for file in "$dir/$name-out.log" "$dir/$name-out-"[0-9]*.log "$dir/$name-out__"[0-9]*.log; do
    [ ! -f "$file" ] || [ -L "$file" ] || set -- "$@" "$file"
  done
  [ $# -gt 0 ] || return 0
  take ls -td -- "$@"
  IFS=$nl
  set -f
  # Split at the ends of lines.
  set -- $out
  set +f
  unset IFS
  tried=0
  for file in "$@"; do
    [ "$tried" -lt 8 ] || return 0
    tried=$((tried + 1))
    [ -f "$file" ] || continue
    [ -r "$file" ] || { code=1 words="$file may not be read"; fail 'the log'; }
    told "$file" | grep -q . || continue
    printf 'log %s ' "$name"
    told "$file"
    echo
    return 0
  done
}
for name in "$@"; do newest "$name"; done
end
"#
);

/// What stands before the key (`binder-module`, `BinderModule.prototype.start`).
const BEFORE: &str = " - Using API key: ";
/// How long a key is that Binder made: 128 bits in hexadecimal digits (`binder-module`: `hat()`).
const DIGITS: usize = 32;

/// The section of the probe, for the servers of these names in pm2.
pub fn ask(names: Vec<String>) -> Ask {
    let max_bytes = 300 * names.len().max(1);
    Ask { name: NAME, script: SCRIPT, args: names, seconds: 10, max_bytes }
}

/// An API key that was found. Nothing shows it.
#[derive(Clone)]
pub struct FoundKey(SecretString);

impl FoundKey {
    /// Takes a key of the form that Binder gives to its own.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| Self(SecretString::from(text.to_owned())))
    }

    /// The key, for whoever uses it.
    pub fn secret(&self) -> &SecretString {
        &self.0
    }
}

impl PartialEq for FoundKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl std::fmt::Debug for FoundKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FoundKey(not shown)")
    }
}

/// What the log of one server tells.
#[derive(Clone, Debug, PartialEq)]
pub enum InLog {
    /// This key, last.
    Key(FoundKey),
    /// Something that is no key of Binder's making.
    Odd,
}

/// Reads the section: what each log tells, by the server's name in pm2. Logs that tell nothing are not in it.
///
/// # Errors
/// [`Unknown`] when the section was not completed.
pub fn read(answer: Option<&Answer>) -> Result<BTreeMap<String, InLog>, Unknown> {
    let lossy = whole(answer, "pm2's logs")?;
    let mut logs = BTreeMap::new();
    for line in lossy.lines() {
        let Some((name, told)) = line.strip_prefix("log ").and_then(|rest| rest.split_once(' ')) else { continue };
        let named = name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if let (true, Some(key)) = (named, told.strip_prefix(BEFORE)) {
            let key = FoundKey::parse(key.trim_end_matches('\r')).map_or(InLog::Odd, InLog::Key);
            logs.insert(name.to_owned(), key);
        }
    }
    Ok(logs)
}

/// What one host tells of the key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// The host's name.
    pub host: String,
    /// What its logs tell, by the server's name in pm2; or why they could not be seen.
    pub logs: BTreeMap<String, InLog>,
    /// Why its logs could not be seen, if they could not.
    pub unseen: Option<String>,
    /// The key with which its servers were asked.
    pub tried: Option<FoundKey>,
    /// Those that answered, and whether they took it.
    pub answers: BTreeMap<String, bool>,
}

/// What several hosts tell together. Servers are said as `binder-web-start on web-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Not everybody could be asked yet, in words.
    Unseen(String),
    /// No log tells a key.
    Nowhere,
    /// A log tells something that Binder did not make.
    Odd(String),
    /// They tell different keys: who tells one and who another.
    Disagree(Vec<String>),
    /// They agree, and this server, which runs, refuses what they tell.
    Refused(String),
    /// Only this log tells one, and no server runs that could prove it.
    Unproven(String),
    /// They agree, or the one there is was proven by a server that runs.
    Agreed {
        /// Whose logs.
        logs: Vec<String>,
        /// Which servers take it.
        taken_by: Vec<String>,
    },
}

/// The first few of a list, for a sentence: `a, b and c`, or `a, b, c and 5 more`.
pub fn few(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names {
        [] => String::new(),
        [one] => one.clone(),
        many if many.len() > SHOWN => format!("{} and {} more", many[..SHOWN].join(", "), many.len() - SHOWN),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The one key that every log tells, whatever the servers make of it: what to ask them with.
pub fn candidate<'t>(all: impl IntoIterator<Item = &'t Told>) -> Option<FoundKey> {
    let mut keys = all.into_iter().flat_map(|told| told.logs.values());
    let InLog::Key(first) = keys.next()? else { return None };
    keys.all(|other| *other == InLog::Key(first.clone())).then(|| first.clone())
}

/// Weighs what all hosts told.
pub fn together<'t>(all: impl IntoIterator<Item = &'t Told>) -> Found {
    let all: Vec<&Told> = all.into_iter().collect();
    if let Some((host, why)) = all.iter().find_map(|told| Some((&told.host, told.unseen.as_ref()?))) {
        return Found::Unseen(format!("the logs on {host}: {why}"));
    }
    let mut groups: Vec<(&FoundKey, Vec<String>)> = Vec::new();
    for told in &all {
        for (name, log) in &told.logs {
            let who = format!("{name} on {}", told.host);
            match log {
                InLog::Odd => return Found::Odd(who),
                InLog::Key(key) => match groups.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, members)) => members.push(who),
                    None => groups.push((key, vec![who])),
                },
            }
        }
    }
    let (Some((key, logs)), rest) = (groups.first(), groups.get(1..).unwrap_or_default()) else {
        return Found::Nowhere;
    };
    let answered = |taken: bool| {
        all.iter().filter(|told| told.tried.as_ref() == Some(*key)).flat_map(move |told| {
            let these = told.answers.iter().filter(move |(_, took)| **took == taken);
            these.map(|(server, _)| format!("{server} on {}", told.host))
        })
    };
    if !rest.is_empty() {
        return Found::Disagree(groups.iter().map(|(_, members)| few(members)).collect());
    }
    if let Some(refuses) = answered(false).next() {
        return Found::Refused(refuses);
    }
    let taken_by: Vec<String> = answered(true).collect();
    match &logs[..] {
        [only] if taken_by.is_empty() => Found::Unproven(only.clone()),
        logs => Found::Agreed { logs: logs.to_vec(), taken_by },
    }
}

/// The state of the search, as one host's look has it: there only while the Secret does not have the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySearch {
    /// The namespace of Secret and host.
    pub namespace: String,
    /// The Secret's name.
    pub secret: String,
    /// The entry that should hold the key.
    pub entry: String,
    /// Whether the Secret is there and only the entry is not.
    pub secret_is_there: bool,
    /// What was found.
    pub found: Found,
    /// Who puts it back.
    pub put: Put,
}

/// Who puts a key that was found into the Secret. The owner's word, handed down with what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// The operator may, as a step on this host.
    Here,
    /// The operator may, as a step on another host, which is named: once is enough.
    ByWayOf(String),
    /// A person, with what this command prints, which does not itself contain the key.
    ByHand(String),
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::super::script::stand_in::Stage;
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    const ONE: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn key(text: &str) -> InLog {
        InLog::Key(FoundKey::parse(text).unwrap())
    }

    fn told(host: &str, logs: &[(&str, InLog)], answers: &[(&str, bool)]) -> Told {
        Told {
            host: host.to_owned(),
            logs: logs.iter().map(|(name, log)| ((*name).to_owned(), log.clone())).collect(),
            unseen: None,
            tried: FoundKey::parse(ONE),
            answers: answers.iter().map(|(name, took)| ((*name).to_owned(), *took)).collect(),
        }
    }

    #[test]
    fn only_what_binder_makes_is_a_key_and_nothing_shows_it() {
        assert!(FoundKey::parse(ONE).is_some());
        for odd in
            ["", "$(reboot)", &ONE.to_uppercase(), &ONE[1..], &format!("{ONE}0"), "0123456789abcdef 0123456789abcde"]
        {
            assert!(FoundKey::parse(odd).is_none(), "{odd}");
        }
        let shown = format!("{:?} {:?}", key(ONE), told("web", &[("a", key(ONE))], &[]));
        assert!(!shown.contains(ONE) && shown.contains("not shown"), "{shown}");
    }

    #[test]
    fn several_logs_must_agree() {
        let web = told("web", &[("binder-web-start", key(ONE)), ("binder-health-checker-start", key(ONE))], &[]);
        let build = told("tester", &[("binder-build-start", key(ONE))], &[]);
        let logs = vec!["binder-build-start on tester".to_owned(), "binder-health-checker-start on web".to_owned()];
        let Found::Agreed { logs: whose, taken_by } = together([&build, &web]) else { panic!() };
        assert_eq!(whose[..2], logs);
        assert!(taken_by.is_empty());
        assert_eq!(candidate([&build, &web]), FoundKey::parse(ONE));

        let lies = told("tester", &[("binder-build-start", key(OTHER))], &[("build", true)]);
        let groups = "binder-health-checker-start on web and binder-web-start on web".to_owned();
        assert_eq!(together([&lies, &web]), Found::Disagree(vec!["binder-build-start on tester".to_owned(), groups]));
        assert_eq!(candidate([&lies, &web]), None);

        let odd = told("tester", &[("binder-build-start", InLog::Odd)], &[]);
        assert_eq!(together([&web, &odd]), Found::Odd("binder-build-start on tester".to_owned()));
        assert_eq!(candidate([&odd, &web]), None);
        assert_eq!(candidate([&web, &odd]), None);
    }

    #[test]
    fn a_long_list_is_told_by_its_first_few() {
        let names = |count: usize| (1..=count).map(|number| number.to_string()).collect::<Vec<String>>();
        for (count, says) in [(0, ""), (1, "1"), (2, "1 and 2"), (3, "1, 2 and 3"), (9, "1, 2, 3 and 6 more")] {
            assert_eq!(few(&names(count)), says);
        }
    }

    #[test]
    fn one_log_needs_a_server_that_takes_its_key_and_no_server_may_refuse_it() {
        let log = [("binder-build-start", key(ONE))];
        assert_eq!(together([&told("t", &log, &[])]), Found::Unproven("binder-build-start on t".to_owned()));
        let Found::Agreed { taken_by, .. } = together([&told("t", &log, &[("build", true)])]) else { panic!() };
        assert_eq!(taken_by, ["build on t"]);
        let refuses = told("web", &[], &[("health", false), ("deploy-kubernetes", true)]);
        assert_eq!(
            together([&told("t", &log, &[("build", true)]), &refuses]),
            Found::Refused("health on web".to_owned())
        );
        // What they made of another key says nothing.
        let other = Told { tried: FoundKey::parse(OTHER), ..told("t", &log, &[("build", true)]) };
        assert_eq!(together([&other]), Found::Unproven("binder-build-start on t".to_owned()));
    }

    #[test]
    fn nothing_rests_on_what_was_not_seen() {
        let web = told("web", &[("binder-web-start", key(ONE)), ("binder-build-start", key(ONE))], &[("build", true)]);
        let unseen = Told { host: "t".to_owned(), unseen: Some("too slow".to_owned()), ..Told::default() };
        assert_eq!(together([&web, &unseen]), Found::Unseen("the logs on t: too slow".to_owned()));
        assert_eq!(together([]), Found::Nowhere);
        assert_eq!(together([&told("web", &[], &[("health", true)])]), Found::Nowhere);
    }

    #[test]
    fn the_script_reads_the_last_key_of_the_newest_log_that_has_one() {
        let stage = Stage::new();
        let logs = stage.home().join(".pm2/logs");
        std::fs::create_dir_all(&logs).unwrap();
        let write = |name: &str, text: &str, minutes: u32| {
            std::fs::write(logs.join(name), text).unwrap();
            let mut touch = Command::new("touch");
            assert!(
                touch.args(["-d", &format!("{minutes} minutes ago")]).arg(logs.join(name)).status().unwrap().success()
            );
        };
        write("binder-web-start-out-0.log", &format!(" - Using API key: {OTHER}\n"), 60);
        write(
            "binder-web-start-out-3.log",
            &format!(" - Using API key: {OTHER}\n\x1b[1mx\0\n - Using API key: {ONE}\nsay - Using API key: {OTHER}\n"),
            5,
        );
        write("binder-build-start-out.log", " - Using API key: $(reboot)\n", 5);
        write("binder-health-checker-start-out-1.log", "listening\n", 5);
        // pm2's log_date_format, and pm2-logrotate: what was begun since has no key.
        write(
            "dated-out-0.log",
            &format!("2016-06-01 12:00:00:  - Using API key: {ONE}\nsay 1:  - Using API key: {OTHER}\n"),
            5,
        );
        write("turned-out-0__2016-06-01_00-00-00.log", &format!(" - Using API key: {ONE}\n"), 60);
        write("turned-out-0.log", "GET /\n", 5);
        let names =
            ["binder-web-start", "binder-build-start", "binder-health-checker-start", "gone", "dated", "turned"];
        let ask = ask(names.map(str::to_owned).to_vec());
        for shell in [&["sh"][..], &["bash"], &["busybox", "sh"]] {
            let answer = stage.run_with(shell, &ask);
            let Answer::Said { bytes, .. } = &answer else { panic!() };
            assert!(bytes.len() <= ask.max_bytes);
            let read = read(Some(&answer)).unwrap();
            for name in ["binder-web-start", "dated", "turned"] {
                assert_eq!(read[name], key(ONE), "{name} {shell:?}");
            }
            assert_eq!((&read["binder-build-start"], read.len()), (&InLog::Odd, 4));
        }
    }

    proptest! {
        #[test]
        fn any_log_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400), line in ".{0,80}") {
            let _ = read(Some(&Answer::Said { bytes, exit: 0 }));
            let said = format!("log binder-web-start {BEFORE}{line}\nend\n");
            let read = read(Some(&Answer::Said { bytes: said.into_bytes(), exit: 0 })).unwrap();
            for log in read.values() {
                if let InLog::Key(key) = log {
                    prop_assert_eq!(key.secret().expose_secret().len(), DIGITS);
                }
            }
        }
    }
}
