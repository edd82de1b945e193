//! How a section of the probe is written, so that no failure of a command in it can pass for a fact.
//!
//! A script is [`script!`] of its text: the functions of [`prelude!`] come before it. Its output is lines, each a row
//! `TAG REST`; its last line is `end`, which only the function `end` prints. Whatever a command needs to succeed is run by
//! `run` or `take`: when it does not, the script ends there, with the command's own words, its name and its exit code, and
//! [`whole`] gives a [`Unknown`] that holds them. So:
//!
//! | Function | Does |
//! |---|---|
//! | `run TAG COMMAND...` | each line that the command prints becomes a row; a failure ends the section |
//! | `take COMMAND...` | what the command prints is in `$out` (short output only); a failure ends the section |
//! | `try COMMAND...` | as `take`, but a failure is the script's to judge: `$code` and the return value, `$out`, and its words in `$words` |
//! | `fail NAME` | ends the section as a failure of NAME, with `$code` and `$words` |
//! | `root COMMAND...` | as root: by `sudo -n`, unless the login is root. For after `run`, `take` and `try` |
//! | `end` | the section is whole; ends the script |
//!
//! Pipelines, `||` and `$(...)` hide an exit status: only between these functions' results, and only for text that the
//! script made itself. A shell within the shell (`root sh -s <<'ROOT'`) begins with `prelude!` again.
//!
//! Must not know what any section is about.

use super::{Answer, EXIT_MISSING, EXIT_SUDO, Reason, Unknown};
use crate::sanitize;

/// The functions that a script of the probe is written in; see the module. Standard output is kept at 3, so that rows and
/// what tells of failure do not mix; a blank line after each command keeps an unfinished last line from the next row.
macro_rules! prelude {
    () => {
        r#"set -u
LC_ALL=C
export LC_ALL
exec 3>&1
nl='
'
code=0 words= out=
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
fail() {
  lines=0
  printf '%s\n' "$words" | while IFS= read -r line && [ "$lines" -lt 20 ]; do
    lines=$((lines + 1))
    printf 'words %.300s\n' "$line"
  done
  printf '\nfailed %s %s\n' "$1" "$code"
  exit 1
}
named() {
  name=$1
  for word in "$@"; do
    case $word in root | sudo | timeout | env | KILL | -* | [0-9]* | *=*) ;; *) name=$word; return ;; esac
  done
}
run() {
  tag=$1
  shift
  told=$({ { "$@" </dev/null 2>&5 3>&- 4>&- 5>&-; printf '\nstatus %s' "$?" >&4; } | sed "s/^/$tag /" >&3 3>&- 4>&- 5>&- || printf '\nstatus %s' 125; } 4>&1 5>&1)
  echo
  code=${told##*"${nl}status "} words=${told%"${nl}status "*}
  [ "$code" = 0 ] || { named "$@"; fail "$name"; }
}
try() {
  told=$({ words=$("$@" </dev/null 2>&1 >&4 3>&- 4>&-); printf '\nstatus %s %s' "$?" "$words"; } 4>&1)
  out=${told%"${nl}status "*} told=${told##*"${nl}status "}
  out=${out%"$nl"} code=${told%% *} words=${told#* }
  return "$code"
}
take() { try "$@" || { named "$@"; fail "$name"; }; }
end() { printf '\nend\n'; exit 0; }
"#
    };
}
pub(crate) use prelude;

/// A section's script: the functions of the module, then its own text.
macro_rules! script {
    ($($text:expr),+ $(,)?) => { concat!($crate::seen::script::prelude!(), $($text),+) };
}
pub(crate) use script;

/// The most of a tool's own words that a message holds, in characters.
const WORDS: usize = 160;

/// The rows of a section that is whole.
///
/// Text that is no UTF-8 is replaced, so that an odd row costs itself and not the section.
///
/// # Errors
/// [`Unknown`] when the section was cut short, when a command of it failed, or when its last line does not say that it is whole.
pub(crate) fn whole(answer: Option<&Answer>, what: &str) -> Result<String, Unknown> {
    let blind = |reason, message: String| Err(Unknown { reason, message });
    let (bytes, exit) = match answer {
        None => return blind(Reason::NotSeen, format!("{what}: not looked at")),
        Some(Answer::Not(not)) => {
            return Err(Unknown { reason: not.reason, message: format!("{what}: {}", not.message) });
        }
        Some(Answer::Said { bytes, exit }) => (bytes, *exit),
    };
    let text = String::from_utf8_lossy(bytes);
    let lines = || text.lines().map(|line| line.trim_end_matches('\r')).filter(|line| !line.is_empty());
    if let Some(failed) = lines().find_map(|line| line.strip_prefix("failed ")) {
        let words: Vec<&str> = lines().filter_map(|line| line.strip_prefix("words ")).collect();
        let (name, code) = failed.rsplit_once(' ').unwrap_or((failed, ""));
        return Err(failure(what, name, code.parse().unwrap_or(-1), &words));
    }
    match exit {
        EXIT_SUDO => return Err(failure(what, "sudo", 1, &["sudo: a password is required"])),
        EXIT_MISSING => return Err(failure(what, "a program", exit, &[])),
        0 => {}
        exit => return blind(Reason::ProbeFailed, format!("{what}: looking failed with exit code {exit}")),
    }
    if lines().next_back() != Some("end") {
        return blind(
            Reason::ProbeFailed,
            format!("{what}: what the host said is not whole, its last line is missing: look by hand"),
        );
    }
    Ok(lines().filter(|line| *line != "end").fold(String::with_capacity(text.len()), |mut rows, line| {
        rows.push_str(line);
        rows.push('\n');
        rows
    }))
}

/// Why a command of a section failed, by its own words.
fn failure(what: &str, name: &str, code: i32, words: &[&str]) -> Unknown {
    let name = sanitize(name.as_bytes(), 60);
    let line = telling(words);
    let said = if line.is_empty() { String::new() } else { format!(": `{line}`") };
    let has = |parts: &[&str]| parts.iter().any(|part| line.contains(part));
    let of_sudo =
        line.starts_with("sudo: ") || line.starts_with("Sorry, user ") || has(&["is not in the sudoers file"]);
    let (reason, message) = if of_sudo && has(&["must have a tty"]) {
        let advice = "give this login the line `Defaults:LOGIN !requiretty` in sudoers";
        (Reason::SudoNeedsTty, format!("{what} needs sudo, and sudo wants a terminal{said}: {advice}"))
    } else if of_sudo && has(&["password", "no askpass", "no tty present"]) {
        let advice = "give this login a NOPASSWD rule in sudoers";
        (Reason::SudoNeedsPassword, format!("{what} needs sudo, and sudo wants a password: {advice}"))
    } else if of_sudo && has(&["is not allowed to execute", "may not run sudo", "not in the sudoers file"]) {
        let advice = "allow this command in sudoers";
        (Reason::SudoNotAllowed, format!("{what} needs sudo, and sudo refuses this command{said}: {advice}"))
    } else if code == EXIT_MISSING {
        let missing =
            format!("{what}: {name} cannot be started, or a program that it needs is not on this login's PATH");
        (Reason::NotInstalled, format!("{missing}{said}"))
    } else if matches!(code, 124 | 137) {
        (Reason::ProbeTimedOut, format!("{what}: {name} did not end within its time limit{said}"))
    } else {
        (Reason::ProbeFailed, format!("{what}: {name} failed with exit code {code}{said}"))
    };
    Unknown { reason, message }
}

/// The line of a tool's words that says most: what sudo says of its own refusal, else the first that is neither a warning nor
/// a usage.
pub(crate) fn telling(words: &[&str]) -> String {
    let lines: Vec<String> = words.iter().map(|line| sanitize(line.as_bytes(), WORDS)).collect();
    let chatter = |line: &str| {
        let lower = line.to_ascii_lowercase();
        lower.is_empty()
            || ["warning", "# warning", "usage", "sudo: unable to resolve host", "sudo: setrlimit"]
                .iter()
                .any(|begin| lower.starts_with(begin))
    };
    let sudo = |line: &str| line.starts_with("sudo: ") || line.starts_with("Sorry, user ");
    let telling = lines.iter().filter(|line| !chatter(line));
    let first = telling.clone().find(|line| sudo(line)).or_else(|| telling.clone().next());
    first.or_else(|| lines.iter().find(|line| !line.is_empty())).cloned().unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod stand_in {
    //! Runs a section as the transport does, with stand-ins for the host's tools.
    #![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

    use super::Answer;
    use crate::seen::Ask;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Tools and a home of its own. Removed when dropped.
    pub(crate) struct Stage {
        folder: PathBuf,
        /// Whether this machine's own tools are found behind the stage's.
        others: bool,
    }

    static NEXT: AtomicUsize = AtomicUsize::new(0);

    /// Where this machine's own tools are.
    const TOOLS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

    impl Stage {
        /// Nothing is replaced yet.
        pub(crate) fn new() -> Self {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let folder = std::env::temp_dir().join(format!("binder-stage-{}-{number}", std::process::id()));
            std::fs::create_dir_all(folder.join("bin")).unwrap();
            std::fs::create_dir_all(folder.join("home")).unwrap();
            // The stage's login may do what root may.
            Self { folder, others: true }.tool("sudo", "[ \"$1\" = -n ] && shift\nexec \"$@\"")
        }

        /// A tool of this name is the shell script.
        pub(crate) fn tool(self, name: &str, script: &str) -> Self {
            let path = self.folder.join("bin").join(name);
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            self
        }

        /// There is no such tool. The others are linked one by one, since a search path cannot leave one out: slow.
        pub(crate) fn without(mut self, name: &str) -> Self {
            let bin = self.folder.join("bin");
            if std::mem::take(&mut self.others) {
                // On most machines two of the folders are links to the other two.
                let folders = TOOLS.iter().filter(|folder| !Path::new(folder).is_symlink());
                for entry in folders.flat_map(std::fs::read_dir).flatten().flatten() {
                    let _ = symlink(entry.path(), bin.join(entry.file_name()));
                }
            }
            let _ = std::fs::remove_file(bin.join(name));
            self
        }

        /// The login's home.
        pub(crate) fn home(&self) -> PathBuf {
            self.folder.join("home")
        }

        /// Runs a section with the shell of this name.
        pub(crate) fn run_with(&self, shell: &[&str], ask: &Ask) -> Answer {
            let own = self.folder.join("bin");
            let others = TOOLS.iter().filter(|_| self.others).map(PathBuf::from);
            let path = std::env::join_paths(std::iter::once(own).chain(others)).unwrap();
            let output = Command::new(Path::new("/usr/bin/env"))
                .args(shell)
                .args(["-c", ask.script, ask.name])
                .args(&ask.args)
                .env("PATH", path)
                .env("HOME", self.home())
                .env_remove("PM2_HOME")
                .env_remove("SSH_CONNECTION")
                .output()
                .unwrap();
            Answer::Said { bytes: output.stdout, exit: output.status.code().unwrap_or(-1) }
        }

        /// Runs a section.
        pub(crate) fn run(&self, ask: &Ask) -> Answer {
            self.run_with(&["/bin/sh"], ask)
        }
    }

    impl Drop for Stage {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::stand_in::Stage;
    use super::*;
    use crate::seen::Ask;
    use proptest::prelude::*;

    fn ask(script: &'static str) -> Ask {
        Ask { name: "test", script, args: Vec::new(), seconds: 5, max_bytes: 1 << 16 }
    }

    const SHELLS: &[&[&str]] = &[&["sh"], &["bash"], &["busybox", "sh"]];

    #[test]
    fn rows_are_told_in_every_shell() {
        let text =
            script!("run a echo hi\nrun b printf 'x\\n\\377y'\ntake printf '7\\n'\nprintf 'n %s\\n' \"$out\"\nend\n");
        let stage = Stage::new();
        for shell in SHELLS {
            let rows = whole(Some(&stage.run_with(shell, &ask(text))), "it").unwrap();
            assert_eq!(rows, "a hi\nb x\nb \u{fffd}y\nn 7\n", "{shell:?}");
        }
    }

    #[test]
    fn a_command_that_fails_ends_the_section_with_its_own_words_in_every_shell() {
        let text = script!("run port root timeout 3 ss -Hltnp\nend\n");
        let refuses = "echo LISTEN\necho 'ss: invalid option -- H' >&2\necho 'Usage: ss' >&2\nexit 255";
        let stage = Stage::new().tool("ss", refuses);
        for shell in SHELLS {
            let blind = whole(Some(&stage.run_with(shell, &ask(text))), "the machine").unwrap_err();
            assert_eq!(blind.reason, Reason::ProbeFailed, "{shell:?}");
            assert_eq!(blind.message, "the machine: ss failed with exit code 255: `ss: invalid option -- H`");
        }
        let blind = whole(Some(&Stage::new().without("ss").run(&ask(text))), "the machine").unwrap_err();
        assert!(blind.message.contains("ss"), "{}", blind.message);
        assert_ne!(blind.reason, Reason::Garbage);
    }

    #[test]
    fn what_is_tried_is_the_scripts_to_judge() {
        let text = script!(
            "try sh -c 'echo some; echo why >&2; exit 3' || printf 'got %s %s %s\\n' \"$code\" \"$out\" \"$words\"\n",
            "try true && printf 'well %s%s\\n' \"$out\" \"$words\"\nend\n"
        );
        for shell in SHELLS {
            let rows = whole(Some(&Stage::new().run_with(shell, &ask(text))), "it").unwrap();
            assert_eq!(rows, "got 3 some why\nwell \n", "{shell:?}");
        }
    }

    #[test]
    fn only_the_last_line_makes_it_whole() {
        let said = |text: &str, exit| {
            whole(Some(&Answer::Said { bytes: text.as_bytes().to_vec(), exit }), "it").map_err(|blind| blind.reason)
        };
        assert_eq!(said("a 1\n\nend\n", 0), Ok("a 1\n".to_owned()));
        assert_eq!(said("end\na 1\n", 0), Err(Reason::ProbeFailed));
        assert_eq!(said("", 0), Err(Reason::ProbeFailed));
        assert_eq!(said("a 1\nend\n", 1), Err(Reason::ProbeFailed));
        assert_eq!(said("a 1\nfailed ss 255\nend\n", 0), Err(Reason::ProbeFailed));
        assert_eq!(said("failed df 124\n", 1), Err(Reason::ProbeTimedOut));
        assert_eq!(whole(None, "it").unwrap_err().reason, Reason::NotSeen);
    }

    #[test]
    fn sudos_own_words_tell_what_it_wants() {
        for (words, reason) in [
            ("sudo: a password is required", Reason::SudoNeedsPassword),
            ("sudo: no tty present and no askpass program specified", Reason::SudoNeedsPassword),
            ("sudo: sorry, you must have a tty to run sudo", Reason::SudoNeedsTty),
            ("Sorry, user andrew is not allowed to execute '/usr/bin/ss' as root on web.", Reason::SudoNotAllowed),
            ("andrew is not in the sudoers file.  This incident will be reported.", Reason::SudoNotAllowed),
            ("sudo: unable to resolve host web\nsudo: a password is required", Reason::SudoNeedsPassword),
            ("Bad argument `3'\nTry `iptables -h' or 'iptables --help' for more information.", Reason::ProbeFailed),
        ] {
            let blind = failure("it", "ss", 1, &words.lines().collect::<Vec<_>>());
            assert_eq!(blind.reason, reason, "{words}");
        }
        let tty = failure("it", "ss", 1, &["sudo: sorry, you must have a tty to run sudo"]);
        assert!(tty.message.contains("you must have a tty") && tty.message.contains("requiretty"), "{}", tty.message);
        let odd = failure("it", "iptables", 2, &["Bad argument `3'"]);
        assert_eq!(odd.message, "it: iptables failed with exit code 2: `Bad argument `3'`");
        let node = failure("pm2's table", "pm2", 127, &["/usr/bin/env: 'node': No such file or directory"]);
        assert!(node.message.contains("'node': No such file"), "{}", node.message);
    }

    proptest! {
        #[test]
        fn any_output_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..500), exit in 0i32..130) {
            if let Err(blind) = whole(Some(&Answer::Said { bytes, exit }), "it") {
                prop_assert!(blind.message.chars().count() < 600);
            }
        }
    }
}
