//! A process that is to be ended: what tells it from any other, how it is ended, whether it has. Shared by the facets whose
//! steps end one.

use super::step::{Effect, How, plain};
use crate::seen::machine::Process;
use crate::seen::{Observation, Unknown};
use binder_crds::text::BadText;
use serde::{Deserialize, Serialize};

/// What tells a process from any other: a process id alone is used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started_ticks: u64,
    /// A part of its command line.
    pub signature: String,
}

/// Ends a process of the login's own if it still is the one that was seen: same start, same command. The kernel refuses
/// any other user's.
const END: &str = r#"
set -u
pid=$1 started=$2 signature=$3
same() {
  stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 1
  set -- ${stat##*) }
  [ "${20:-}" = "$started" ] || return 1
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$signature"
}
same || { echo "pid $pid is not that process any more"; exit 0; }
kill -TERM "$pid" || exit 1
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do same || exit 0; sleep 0.25; done
same && kill -KILL "$pid"
"#;

impl ProcessId {
    /// The command that ends it.
    pub(super) fn end(&self) -> How {
        let args = vec![self.pid.to_string(), self.started_ticks.to_string(), self.signature.clone()];
        How::command("end-process", END, args, 20)
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// [`Unknown`] when the processes could not be seen.
    pub(super) fn ended(&self, seen: &Observation) -> Result<Effect, Unknown> {
        let same = |process: &&Process| process.started_ticks == self.started_ticks && !is_zombie(process);
        let there = seen.machine.get()?.processes.get(&self.pid).as_ref().is_some_and(same);
        let pid = self.pid;
        Ok(if there {
            Effect::NotYet(format!("pid {pid} still runs"))
        } else {
            Effect::Seen(format!("pid {pid} is gone"))
        })
    }

    /// Whether its values follow their rule.
    ///
    /// # Errors
    /// [`BadText`] if not.
    pub(super) fn checked(&self) -> Result<(), BadText> {
        plain("signature", &self.signature)
    }
}

/// Whether a process has ended and only waits to be reaped: it holds nothing any more. `ps` writes so after its name.
fn is_zombie(process: &Process) -> bool {
    process.command.starts_with('[') && process.command.ends_with(" <defunct>")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::super::step::tests::run;
    use super::*;
    use crate::seen::Fact;
    use crate::seen::machine::Machine;
    use std::process::Command;

    fn started_ticks(pid: u32) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat[stat.rfind(')').unwrap() + 2..].split(' ').nth(19).unwrap().to_owned()
    }

    #[test]
    fn only_the_very_process_that_was_seen_is_ended() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id().to_string();
        let ticks = started_ticks(child.id());
        for (ticks, signature) in [("1", "sleep"), (ticks.as_str(), "binder-web"), (ticks.as_str(), "$(reboot)")] {
            let (code, said) = run(END, &[&pid, ticks, signature]);
            assert_eq!((code, said.contains("not that process")), (0, true));
            assert!(child.try_wait().unwrap().is_none(), "ended with ticks {ticks} and signature {signature}");
        }
        // Its end is reaped here, as an init would: until then the script sees it and waits.
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        assert_eq!(run(END, &[&pid, &ticks, "sleep"]).0, 0);
        assert!(!reaper.join().unwrap().success());
    }

    #[test]
    fn a_process_that_only_waits_to_be_reaped_has_ended() {
        let orphan = ProcessId { pid: 4321, started_ticks: 9, signature: "binder-web/server/cli".to_owned() };
        let judge = |command: &str| {
            let process = Process { parent: 1, uid: 1000, started_ticks: 9, command: command.to_owned() };
            let machine = Machine { processes: [(4321, process)].into(), ..Machine::default() };
            let seen =
                Observation { machine: Fact::Seen(machine), ..Observation::nothing(jiff::Timestamp::UNIX_EPOCH) };
            orphan.ended(&seen).unwrap()
        };
        assert!(matches!(judge("[node] <defunct>"), Effect::Seen(_)));
        assert!(matches!(judge("node /usr/lib/binder-web/server/cli.js start"), Effect::NotYet(_)));
    }
}
