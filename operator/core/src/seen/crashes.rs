//! The last error in the log of a process that pm2 runs: why it ends again and again.
//!
//! What is taken from a log is one line that has the form of an error, and names of npm modules out of the stack below
//! it. A log may hold secrets (Binder's servers print their API key at the start, into the other log): lines that speak
//! of one are passed over, and long words that could be one are blotted out.

use super::script::{script, whole};
use super::{Answer, Ask, Unknown};
use std::collections::BTreeMap;

/// The section's name.
pub const NAME: &str = "crashes";

/// How much of the end of a log is read, in bytes; a stack has some 1,500.
const TAIL: usize = 8192;

/// Only the files that pm2 itself makes for a name, below the login's own folder of pm2: pm2's table names a path too,
/// and that one anybody on the host may have chosen. A host whose logs are quiet costs one `find`. A log that goes away
/// meanwhile, or that may not be read, tells nothing.
const SCRIPT: &str = script!(
    r#"
dir="${PM2_HOME:-$HOME/.pm2}/logs"
[ -d "$dir" ] || end
take find "$dir" -maxdepth 1 -type f -name '*-error*.log' -mmin -15
recent=$(printf '%s\n' "$out" | head -n 200)
[ -n "$recent" ] || end
for name in "$@"; do
  newest=
  for file in "$dir/$name-error.log" "$dir/$name-error-"[0-9]*.log "$dir/$name-error__"[0-9]*.log; do
    # Each start has a file of its own, which is empty at first: the last words are in an older one.
    [ -f "$file" ] && [ -s "$file" ] && [ -r "$file" ] && [ ! -L "$file" ] || continue
    if [ -z "$newest" ] || [ "$file" -nt "$newest" ]; then newest=$file; fi
  done
  [ -n "$newest" ] || continue
  printf '%s\n' "$recent" | grep -qxF -- "$newest" || continue
  try stat -c %Y -- "$newest" || continue
  written=$out
  try tail -c 8192 -- "$newest" || continue
  printf 'log %s %s\n' "$written" "$name"
  printf '%s\n' "$out" | sed 's/^/| /'
done
end
"#
);

/// The section of the probe, for the processes of these names in pm2.
pub fn ask(names: Vec<String>) -> Ask {
    // Each line gets two characters more, and a log may be of lines of one.
    let max_bytes = (TAIL * 3 + 200) * names.len().max(1);
    Ask { name: NAME, script: SCRIPT, args: names, seconds: 5, max_bytes }
}

/// The last error that a log tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crash {
    /// When the log was last written to, in seconds since 1970 by the host's clock.
    pub written: i64,
    /// The line, clean and short: `TypeError: Cannot read property 'x' of undefined`.
    pub line: String,
    /// The npm modules in the stack below it, innermost call first, each once; of nested ones each, the innermost first.
    pub modules: Vec<String>,
}

/// The most of a line that is shown, in characters.
const SHOWN: usize = 160;
/// The most modules of a stack: a stack has ten lines, and a server within `binder-control` is three deep.
const MODULES: usize = 16;

/// Reads the section: the last error by the process's name in pm2.
///
/// # Errors
/// [`Unknown`] when the section was not completed.
pub fn read(answer: Option<&Answer>) -> Result<BTreeMap<String, Crash>, Unknown> {
    let lossy = whole(answer, "pm2's logs")?;
    let mut crashes = BTreeMap::new();
    let mut log = None;
    let mut lines: Vec<&str> = Vec::new();
    for line in lossy.lines() {
        if let Some(next) = line.strip_prefix("log ").and_then(|rest| rest.split_once(' ')) {
            keep(log.replace(next), &lines, &mut crashes);
            lines.clear();
        } else if let Some(line) = line.strip_prefix("| ") {
            lines.push(line);
        }
    }
    keep(log, &lines, &mut crashes);
    Ok(crashes)
}

fn keep(log: Option<(&str, &str)>, lines: &[&str], crashes: &mut BTreeMap<String, Crash>) {
    if let (Some((written, name)), Some(crash)) = (log, last_error(lines)) {
        let name = name.chars().filter(|c| !c.is_control()).take(64).collect();
        crashes.insert(name, Crash { written: written.parse().unwrap_or(0), ..crash });
    }
}

fn last_error(lines: &[&str]) -> Option<Crash> {
    let (at, (before, line)) = lines.iter().enumerate().rev().find_map(|(at, line)| Some((at, error(line)?)))?;
    let mut modules: Vec<String> = Vec::new();
    for frame in lines[at + 1..].iter().map(|line| undated(line, before).trim_start()) {
        let stack = frame.starts_with("at ") || frame.is_empty() || frame.starts_with("Emitted ");
        if !stack {
            break;
        }
        for module in self::modules(frame) {
            if modules.len() < MODULES && !modules.contains(&module) {
                modules.push(module);
            }
        }
    }
    Some(Crash { written: 0, line, modules })
}

/// A line without what stands before the text of each line (pm2's `log_date_format`): as long as what stands before the error's
/// own, and of the same kind of characters.
fn undated<'l>(line: &'l str, before: &str) -> &'l str {
    let same = |(a, b): (char, char)| a == b || (a.is_ascii_digit() && b.is_ascii_digit());
    let dated = !before.trim().is_empty()
        && line.chars().count() >= before.chars().count()
        && line.chars().zip(before.chars()).all(same);
    if dated { line.get(before.len()..).unwrap_or(line) } else { line }
}

/// What V8 writes when it gives up; nothing else of the process comes after it but an address or two.
const FATAL: &str = "FATAL ERROR: ";

/// What stands before an error in a line, and its name and message.
fn error(line: &str) -> Option<(&str, String)> {
    let begin = if let Some(fatal) = line.find(FATAL) {
        fatal
    } else {
        let at = line.find("Error: ").or_else(|| line.find("Error ["))?;
        // The whole word: `TypeError`, `MongoNetworkError`.
        line[..at]
            .rfind(|c: char| !c.is_ascii_alphanumeric())
            .map_or(0, |before| before + line[before..].chars().next().map_or(1, char::len_utf8))
    };
    let message = &line[begin..];
    let lower = message.to_lowercase();
    let secret = ["api key", "api-key", "apikey", "authorization", "password", "token", "secret"];
    if secret.iter().any(|word| lower.contains(word)) {
        let said = format!("{} (its message is not shown: it speaks of a secret)", name_of(message));
        return Some((&line[..begin], said));
    }
    let clean: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(4 * SHOWN).collect();
    Some((&line[..begin], blot(&clean).chars().take(SHOWN).collect::<String>().trim_end().to_owned()))
}

fn name_of(message: &str) -> String {
    message.chars().take_while(char::is_ascii_alphanumeric).take(40).collect()
}

/// Replaces what could be a key: 20 characters or more in a row that are letters, digits, `_`, `-`, `+` or `=`. Paths and
/// addresses have slashes, dots and colons in them.
fn blot(text: &str) -> String {
    let part = |c: char| c.is_ascii_alphanumeric() || "_-+=".contains(c);
    let mut out = String::new();
    let mut run = String::new();
    for c in text.chars().chain(std::iter::once('\n')) {
        if part(c) {
            run.push(c);
            continue;
        }
        // A module's name may be as long; it has no digit.
        let key = run.len() >= 20 && run.chars().any(|c| c.is_ascii_digit());
        out.push_str(if key { "***" } else { &run });
        run.clear();
        if c != '\n' {
            out.push(c);
        }
    }
    out
}

/// The npm modules of a stack's line, the innermost first. Only what npm itself takes for a name; old ones may have capitals.
fn modules(frame: &str) -> Vec<String> {
    let name = |path: &str| {
        let mut parts = path.split('/');
        let first = parts.next()?;
        let name = if first.starts_with('@') { format!("{first}/{}", parts.next()?) } else { first.to_owned() };
        let fits =
            (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._@/".contains(c));
        fits.then_some(name)
    };
    let mut names: Vec<String> = frame.split("node_modules/").skip(1).filter_map(name).collect();
    names.reverse();
    names
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::super::script::stand_in::Stage;
    use super::*;
    use proptest::prelude::*;

    fn said(text: &str) -> BTreeMap<String, Crash> {
        read(Some(&Answer::Said { bytes: format!("{text}\nend\n").into_bytes(), exit: 0 })).unwrap()
    }

    /// As Node.js 20 writes it for an error that nobody handles.
    const REFUSED: &str = "log 1700000000 binder-deploy-kubernetes-start\n\
        | Error: an older one\n\
        |     at old (/usr/lib/node_modules/old-module/a.js:1:1)\n\
        | node:events:497\n\
        |       throw er; // Unhandled 'error' event\n\
        |       ^\n\
        | \n\
        | Error: connect ECONNREFUSED 127.0.0.1:8085\n\
        |     at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1607:16)\n\
        | Emitted 'error' event on Request instance at:\n\
        |     at self.callback (/usr/lib/node_modules/kube-stream/node_modules/request/request.js:198:22)\n\
        |     at Request.emit (node:events:519:28)\n\
        |     at Request.onRequestError (/usr/lib/node_modules/kube-stream/node_modules/request/request.js:810:8) {\n\
        |   errno: -111,\n\n";

    #[test]
    fn the_last_error_and_the_modules_of_its_stack_are_read() {
        let crash = &said(REFUSED)["binder-deploy-kubernetes-start"];
        assert_eq!(crash.line, "Error: connect ECONNREFUSED 127.0.0.1:8085");
        assert_eq!(crash.modules, ["request", "kube-stream"]);
        assert_eq!(crash.written, 1_700_000_000);
    }

    #[test]
    fn half_an_answer_and_a_second_callback_are_told_by_their_modules() {
        let text = "log 1 a\n| Error: Invalid JSON (Unexpected \"o\" at position 1 in state STOP)\n\
            |     at proto.charError (/usr/lib/node_modules/jsonparse/jsonparse.js:90:16)\n\
            |     at Stream.<anonymous> (/usr/lib/node_modules/JSONStream/index.js:23:12)\n\
            log 2 b\n| Error: Callback was already called.\n\
            |     at /usr/lib/node_modules/async/lib/async.js:43:36\n\
            |     at Stream.<anonymous> (/usr/lib/node_modules/kube-stream/index.js:292:14)\n";
        let crashes = said(text);
        assert_eq!(crashes["a"].modules, ["jsonparse", "JSONStream"]);
        assert_eq!(crashes["b"].modules, ["async", "kube-stream"]);
    }

    #[test]
    fn a_log_without_an_error_tells_none() {
        assert!(said("log 1 binder-web-start\n| listening\n| error: lower case is a logger's\n").is_empty());
    }

    #[test]
    fn no_secret_is_taken_from_a_log() {
        let key = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";
        for line in [
            format!("Error: bad API key {key}"),
            format!("Error: request with Authorization: {key} failed"),
            format!("Error: cannot use {key}"),
            format!("RangeError: https://host/?q={key}"),
        ] {
            let crash = said(&format!("log 1 web\n| {line}\n")).remove("web").unwrap();
            assert!(!crash.line.contains(&key[..10]), "{}", crash.line);
        }
    }

    #[test]
    fn control_characters_and_strange_modules_do_not_pass() {
        let text = "log 1 web\n| TypeError: a\u{1b}[31mb\u{7}\n|     at x (/srv/node_modules/$(reboot)/a.js)\n\
                    |     at y (/srv/node_modules/@scope/name/a.js)\n";
        let crash = said(text).remove("web").unwrap();
        assert_eq!(crash.line, "TypeError: a [31mb");
        assert_eq!(crash.modules, ["@scope/name"]);
    }

    #[test]
    fn the_script_reads_the_last_words_in_pm2s_own_recent_files_and_no_links() {
        let stage = Stage::new();
        let logs = stage.home().join(".pm2/logs");
        std::fs::create_dir_all(&logs).unwrap();
        std::fs::write(logs.join("web-error-0.log"), "Error: one\n").unwrap();
        std::fs::write(logs.join("web-error-1.log"), "").unwrap();
        std::fs::write(logs.join("old-error-0.log"), "Error: old\n").unwrap();
        std::os::unix::fs::symlink(logs.join("web-error-0.log"), logs.join("linked-error-0.log")).unwrap();
        let mut touch = std::process::Command::new("touch");
        assert!(touch.args(["-d", "2 hours ago"]).arg(logs.join("old-error-0.log")).status().unwrap().success());
        for shell in [&["sh"][..], &["bash"], &["busybox", "sh"]] {
            let ask = ask(["web", "old", "linked", "other"].map(str::to_owned).to_vec());
            let crashes = read(Some(&stage.run_with(shell, &ask))).unwrap();
            assert_eq!(crashes.keys().collect::<Vec<_>>(), ["web"], "{shell:?}");
            assert_eq!(crashes["web"].line, "Error: one");
        }
        let ask = ask(vec!["web".to_owned()]);
        let broken = Stage::new().tool("find", "echo 'find: Input/output error' >&2; exit 1");
        std::fs::create_dir_all(broken.home().join(".pm2/logs")).unwrap();
        assert!(read(Some(&broken.run(&ask))).unwrap_err().message.contains("Input/output error"));
        assert!(read(Some(&Stage::new().run(&ask))).unwrap().is_empty(), "pm2 has written no logs yet");
    }

    #[test]
    fn the_modules_of_a_server_within_binder_control_are_all_told() {
        let crash = said(
            "log 1 binder-web-start\n| Error: Max retries reached, transport in OFFLINE state\n\
             |     at x (/home/andrew/.nvm/versions/node/v5.7.1/lib/node_modules/binder-control/node_modules/winston-logstash/lib/index.js:1:1)\n",
        );
        assert_eq!(crash["binder-web-start"].modules, ["winston-logstash", "binder-control"]);
    }

    #[test]
    fn lines_that_begin_with_a_date_are_read_as_well() {
        let crash = said(
            "log 1 web\n| 2016-06-01 12:00:00: Error: connect ECONNREFUSED 10.0.0.1:9050\n\
             | 2016-06-01 12:00:01:     at x (/usr/lib/node_modules/binder-control/node_modules/mongodb/lib/a.js:1:1)\n\
             | 2016-06-01 12:00:01: \n\
             | 2016-06-01 12:00:01:     at y (/usr/lib/node_modules/other/a.js:1:1)\n| 2016-06-01 12:00:02: listening\n\
             |     at z (/usr/lib/node_modules/not-this/a.js:1:1)\n",
        );
        assert_eq!(crash["web"].modules, ["mongodb", "binder-control", "other"]);
    }

    #[test]
    fn out_of_memory_is_not_blamed_on_an_older_line() {
        let crash = said(
            "log 1 deploy\n| Error: connect ECONNREFUSED 127.0.0.1:8085\n|     at Object.exports._errnoException (util.js:870:11)\n\
             | <--- Last few GCs --->\n|   143 ms: Mark-sweep 1398.1 (1457.2) -> 1398.1 (1457.2) MB\n\
             | <--- JS stacktrace --->\n| ==== JS stack trace =========================================\n\
             | Security context: 0x3d6bd08cfb51 <JS Object>\n\
             | FATAL ERROR: CALL_AND_RETRY_LAST Allocation failed - process out of memory\n\
             |  1: node::Abort() [node]\n",
        );
        assert_eq!(crash["deploy"].line, "FATAL ERROR: CALL_AND_RETRY_LAST Allocation failed - process out of memory");
        assert!(crash["deploy"].modules.is_empty());
    }

    proptest! {
        #[test]
        fn any_output_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut text = b"log 1 web\n| Error: ".to_vec();
            text.extend(bytes);
            text.extend(b"\nend\n");
            let crashes = read(Some(&Answer::Said { bytes: text, exit: 0 })).unwrap();
            prop_assert!(crashes.values().all(|crash| !crash.line.chars().any(char::is_control)));
        }
    }
}
