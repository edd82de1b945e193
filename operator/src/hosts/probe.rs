//! What a look asks: sections of constant shell, each with its own limits, and the program that runs them.
//!
//! Knows shells and coreutils. Does not know what the sections are about, and sends nothing.
//!
//! # What runs on the machine
//!
//! A look asks the machine's sshd for [`COMMAND`], always the same, and writes the program to its standard input. The
//! program is one group (`{ ...; exit; }`), so that a shell runs all of it or, when the connection breaks under it,
//! nothing. For each section it runs
//!
//! ```text
//! timeout -s KILL LIMIT sh -c RUNNER NAME MAX SCRIPT ARG...
//! ```
//!
//! and RUNNER runs `sh -c SCRIPT NAME ARG... </dev/null | head -c MAX | base64`. Why so:
//!
//! - **A section that hangs costs its limit and nothing else.** `timeout` kills its whole process group. What it cannot
//!   kill, such as a process stuck in the kernel or one that `sudo` made root's, is not waited for: it is neither a
//!   child of the program nor a holder of the program's output, only of a pipe whose reader is dead. To bound such a
//!   process itself, put the limit inside: `sudo -n timeout 5 iptables-save`.
//! - **KILL, not TERM**: a look changes nothing, so nothing needs to be tidied up, and a section that ignores TERM would
//!   outlive it.
//! - **A section that floods** is cut on the machine (`head`), and sees SIGPIPE.
//! - **No file is written**, since a look also happens in `Observe`.
//! - **The output cannot forge a frame**, as the module `framing` explains.

use std::collections::BTreeSet;
use std::time::Duration;

use super::framing::Nonce;
use super::quote::{BadArgument, LONGEST_WORD, check_arguments, shell_words};

/// What a machine's sshd is asked to run for a look: always this, whatever is looked at. Whoever wants to know whether
/// anything but looks happened to a machine can ask its sshd for anything else.
pub const COMMAND: &str = "exec /bin/sh";

/// Looked through after the login's own `PATH`: where administrators' tools are (`iptables` in `/usr/sbin`), which
/// sshd leaves out for users.
const MORE_PATH: &str = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// One section of a look: a script that only reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What the output is found under; also the script's `$0`.
    pub name: &'static str,
    /// A POSIX shell script. Constant: whatever varies comes as arguments.
    pub script: &'static str,
    /// `$1` and on, each arriving as it is.
    pub args: Vec<String>,
    /// After so long it is killed. Counted to the millisecond.
    pub limit: Duration,
    /// The most it may print to its standard output.
    pub max_bytes: usize,
}

/// The sections of one look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Probe {
    sections: Vec<Section>,
}

/// A section that cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadProbe {
    /// Two sections would be found under the same name.
    #[error("two sections are named `{name}`")]
    Duplicate {
        /// The name.
        name: &'static str,
    },
    /// An argument cannot be handed over.
    #[error("section `{name}`: {why}")]
    Argument {
        /// The section.
        name: &'static str,
        /// What is wrong with it.
        why: BadArgument,
    },
    /// A script longer than a single argument may be, or one with a NUL byte.
    #[error("section `{name}`: its script cannot be an argument of `sh -c`")]
    Script {
        /// The section.
        name: &'static str,
    },
    /// `timeout 0` means no limit at all.
    #[error("section `{name}`: its time limit is under a millisecond")]
    NoTime {
        /// The section.
        name: &'static str,
    },
}

impl Probe {
    /// The sections, to be run in this order.
    pub fn new(sections: Vec<Section>) -> Result<Self, BadProbe> {
        let mut names = BTreeSet::new();
        for section in &sections {
            let name = section.name;
            if !names.insert(name) {
                return Err(BadProbe::Duplicate { name });
            }
            if section.script.len() > LONGEST_WORD || section.script.contains('\0') || name.contains('\0') {
                return Err(BadProbe::Script { name });
            }
            if section.limit < Duration::from_millis(1) {
                return Err(BadProbe::NoTime { name });
            }
            check_arguments(&section.args).map_err(|why| BadProbe::Argument { name, why })?;
        }
        Ok(Self { sections })
    }

    /// The sections, in the order in which they run.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The program for the machine's shell.
    pub(super) fn program(&self, nonce: &Nonce) -> Result<String, BadProbe> {
        let mut program = String::from(PROLOGUE);
        for (index, section) in self.sections.iter().enumerate() {
            let words = [
                "section".to_owned(),
                index.to_string(),
                format!("{}.{:03}", section.limit.as_secs(), section.limit.subsec_millis()),
                section.name.to_owned(),
                // One byte more than allowed shows that there was more.
                section.max_bytes.saturating_add(1).to_string(),
                section.script.to_owned(),
            ];
            let line = shell_words(words.iter().chain(&section.args).map(String::as_str))
                .map_err(|why| BadProbe::Argument { name: section.name, why })?;
            program.push_str(&line);
            program.push('\n');
        }
        program.push_str(EPILOGUE);
        let quoted = |text: &str| shell_words([text]).map_err(|why| BadProbe::Argument { name: "", why });
        Ok(format!(
            "{{\nnonce={}\nrunner={}\nPATH=$PATH:{MORE_PATH}\n{program}",
            quoted(nonce.as_str())?,
            quoted(RUNNER)?
        ))
    }
}

/// Runs a section and frames it. `</dev/null` keeps a section from reading the program.
const PROLOGUE: &str = r#"LC_ALL=C
export PATH LC_ALL
section() {
  index=$1 limit=$2
  shift 2
  printf '\n%s begin %s\n' "$nonce" "$index"
  BINDER_LOOK=$nonce timeout -s KILL "$limit" sh -c "$runner" "$@" </dev/null
  printf '\n%s end %s %s\n' "$nonce" "$index" "$?"
}
"#;

const EPILOGUE: &str = r#"printf '\n%s done\n' "$nonce"
exit
}
"#;

/// Runs one script (`$2`, with the rest as its arguments), encodes what it prints, at most `$1` bytes of it, and then
/// says how it ended. The nonce comes by the environment, which other users cannot read as they can arguments, and is
/// not passed on. The script gets neither the program's output (3) nor the pipe for its status (4).
const RUNNER: &str = r#"nonce=$BINDER_LOOK max=$1 script=$2
unset BINDER_LOOK
shift 2
exec 3>&1
status=$(
  {
    { sh -c "$script" "$0" "$@" 3>&- 4>&-; echo "$?" >&4; } | head -c "$max" | base64 >&3
  } 4>&1
)
printf '%s exit %s\n' "$nonce" "$status"
"#;

/// What became of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SectionOutput {
    /// The script ran to its end.
    Complete {
        /// All that it printed.
        bytes: Vec<u8>,
        /// Its exit status; 127 when there is no such command.
        exit: i32,
    },
    /// It was killed at its limit.
    TimedOut {
        /// The limit.
        after: Duration,
    },
    /// It printed more than it may.
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The look ended before it did.
    Missing,
    /// Something talked into it, or the machine could not run it (no `timeout`, no `base64`, no memory).
    Malformed,
}

impl SectionOutput {
    /// What it printed, if it ran to its end with status 0.
    pub fn success(&self) -> Option<&[u8]> {
        match self {
            Self::Complete { bytes, exit: 0 } => Some(bytes),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &'static str) -> Section {
        Section { name, script: "true", args: vec![], limit: Duration::from_secs(1), max_bytes: 10 }
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let refused = |sections| Probe::new(sections).unwrap_err();
        assert_eq!(refused(vec![section("a"), section("a")]), BadProbe::Duplicate { name: "a" });
        assert_eq!(
            refused(vec![Section { args: vec!["\0".into()], ..section("a") }]),
            BadProbe::Argument { name: "a", why: BadArgument::Nul { position: 1 } }
        );
        assert_eq!(refused(vec![Section { script: "a\0", ..section("a") }]), BadProbe::Script { name: "a" });
        assert_eq!(
            refused(vec![Section { limit: Duration::from_micros(999), ..section("a") }]),
            BadProbe::NoTime { name: "a" }
        );
    }

    #[test]
    fn a_program_is_one_group_so_that_half_of_it_does_nothing() {
        let probe = Probe::new(vec![section("a"), section("b")]).unwrap();
        let program = probe.program(&Nonce::random()).unwrap();
        assert!(program.starts_with("{\n") && program.ends_with("exit\n}\n"));
        for cut in (0..program.len()).step_by(7) {
            let output = std::process::Command::new("sh").args(["-c", &program[..cut]]).output().unwrap();
            assert_eq!(output.stdout, b"", "cut at {cut}");
        }
    }

    #[test]
    fn the_time_limit_is_exact() {
        let probe = Probe::new(vec![Section { limit: Duration::from_millis(12_034), ..section("a") }]).unwrap();
        assert!(probe.program(&Nonce::random()).unwrap().contains("section 0 12.034 a 11 true"));
    }
}
