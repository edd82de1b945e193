//! The machine itself: boot, clock, processes and who listens on which TCP port. Every facet may lean on it.

use super::{Answer, Ask, Blind, Reason, text};
use std::collections::BTreeMap;

/// The section's name.
pub const NAME: &str = "machine";

/// Looks at `/proc`, `ps` and `ss`. With sudo the owners of all listeners are seen, without it those of the login's own.
/// `ps` prints control characters as `?`, so that each process is one line.
const SCRIPT: &str = r#"
set -u
printf 'boot %s\n' "$(cat /proc/sys/kernel/random/boot_id)"
read -r up _ </proc/uptime
printf 'uptime %s\n' "$up"
printf 'clock %s\n' "$(date +%s)"
printf 'uid %s\n' "$(id -u)"
printf 'tick %s\n' "$(getconf CLK_TCK 2>/dev/null || echo 100)"
awk '$1 == "MemTotal:" || $1 == "MemAvailable:" {print "memory " $1 " " $2}' /proc/meminfo
cat /proc/[0-9]*/stat 2>/dev/null | sed 's/^/stat /'
ps -ww -e -o pid=,uid=,args= | cut -c1-400 | sed 's/^/proc /'
{ sudo -n timeout 3 ss -Hltnp 2>/dev/null || ss -Hltnp; } | sed 's/^/port /'
"#;

/// The section of the probe.
pub fn ask() -> Ask {
    Ask { name: NAME, script: SCRIPT, args: Vec::new(), seconds: 6, max_bytes: 1 << 20 }
}

/// A process, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its parent's id.
    pub parent: u32,
    /// Its owner's user id.
    pub uid: u32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22): with the id, what tells it from a later
    /// process of the same id.
    pub started_ticks: u64,
    /// Its command line, at most 400 characters, with control characters replaced.
    pub command: String,
}

/// What was seen of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The boot's id.
    pub boot_id: String,
    /// Seconds since boot.
    pub uptime: u64,
    /// The host's clock, seconds since 1970.
    pub clock: i64,
    /// The login's user id.
    pub uid: u32,
    /// Clock ticks a second.
    pub ticks: u64,
    /// Memory that is still available, in per cent of all, rounded up (`/proc/meminfo`); `None` if it was not told.
    pub memory_left: Option<u8>,
    /// Processes by id.
    pub processes: BTreeMap<u32, Process>,
    /// Ids of the processes that listen, by TCP port; empty if the owner could not be seen.
    pub listeners: BTreeMap<u16, Vec<u32>>,
}

impl Machine {
    /// Whether a process is another one or descends from it.
    pub fn descends(&self, process: u32, ancestor: u32) -> bool {
        let mut at = process;
        // Bounded: what the host says of parents may run in a circle.
        for _ in 0..64 {
            if at == ancestor {
                return true;
            }
            match self.processes.get(&at) {
                Some(next) if next.parent != 0 && next.parent != at => at = next.parent,
                _ => return false,
            }
        }
        false
    }

    /// A process and its ancestors, nearest first, at most eight.
    pub fn lineage(&self, process: u32) -> Vec<&Process> {
        let mut line = Vec::new();
        let mut at = process;
        while let Some(next) = self.processes.get(&at).filter(|_| line.len() < 8) {
            line.push(next);
            at = next.parent;
        }
        line
    }

    /// Whole seconds since the machine was started: the age of its first process, which in a container is younger than the
    /// kernel that `/proc/uptime` speaks of.
    pub fn up_for(&self) -> u64 {
        self.processes.get(&1).filter(|first| first.started_ticks > 0).map_or(self.uptime, |first| self.age(first))
    }

    /// Whole seconds since a process started.
    pub fn age(&self, process: &Process) -> u64 {
        self.uptime.saturating_sub(process.started_ticks / self.ticks.max(1))
    }
}

/// Reads the section.
///
/// # Errors
/// [`Blind`] when the section was not completed or does not tell boot, clock and login.
pub fn read(answer: Option<&Answer>) -> Result<Machine, Blind> {
    let text = text(answer, "the machine")?;
    let garbage = |what: &str| Blind {
        reason: Reason::Garbage,
        message: format!("the machine: the host did not tell its {what}"),
    };
    let mut machine = Machine { ticks: 100, ..Machine::default() };
    let (mut clock, mut uid, mut memory) = (None, None, (None, None));
    let mut stats: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
    for line in text.lines() {
        let Some((kind, rest)) = line.split_once(' ') else { continue };
        match kind {
            "boot" => machine.boot_id = boot_id(rest).unwrap_or_default(),
            "uptime" => machine.uptime = rest.split('.').next().and_then(|s| s.parse().ok()).unwrap_or(0),
            "clock" => clock = rest.parse().ok(),
            "uid" => uid = rest.parse().ok(),
            "tick" => machine.ticks = rest.parse().ok().filter(|ticks| (1..=10_000).contains(ticks)).unwrap_or(100),
            "memory" => match rest.split_once(' ') {
                Some(("MemTotal:", kilobytes)) => memory.0 = kilobytes.parse::<u64>().ok(),
                Some(("MemAvailable:", kilobytes)) => memory.1 = kilobytes.parse::<u64>().ok(),
                _ => {}
            },
            "stat" => {
                if let Some((pid, parent, started)) = stat(rest) {
                    stats.insert(pid, (parent, started));
                }
            }
            "proc" => {
                if let Some((pid, uid, command)) = process(rest) {
                    let (parent, started_ticks) = stats.get(&pid).copied().unwrap_or((0, 0));
                    machine.processes.insert(pid, Process { parent, uid, started_ticks, command });
                }
            }
            "port" => {
                if let Some((port, pids)) = listener(rest) {
                    let known = machine.listeners.entry(port).or_default();
                    known.extend(pids);
                    known.sort_unstable();
                    known.dedup();
                }
            }
            _ => {}
        }
    }
    if machine.boot_id.is_empty() {
        return Err(garbage("boot id"));
    }
    machine.memory_left = match memory {
        (Some(all), Some(left)) if all > 0 && left <= all => {
            u8::try_from((u128::from(left) * 100).div_ceil(u128::from(all))).ok()
        }
        _ => None,
    };
    machine.clock = clock.ok_or_else(|| garbage("clock"))?;
    machine.uid = uid.ok_or_else(|| garbage("login's user id"))?;
    Ok(machine)
}

fn boot_id(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = (8..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    fits.then(|| text.to_owned())
}

/// `PID (COMMAND) STATE PPID ... STARTTIME`: the command may hold anything, so the fields are counted from its last `)`.
fn stat(line: &str) -> Option<(u32, u32, u64)> {
    let pid = line.split(' ').next()?.parse().ok()?;
    let fields: Vec<&str> = line[line.rfind(')')? + 1..].split_whitespace().collect();
    Some((pid, fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

fn process(line: &str) -> Option<(u32, u32, String)> {
    let line = line.trim_start();
    let (pid, rest) = line.split_once(char::is_whitespace)?;
    let (uid, command) = rest.trim_start().split_once(char::is_whitespace)?;
    let command: String = command.trim().chars().map(|c| if c.is_control() { '?' } else { c }).take(400).collect();
    Some((pid.parse().ok()?, uid.parse().ok()?, command))
}

fn listener(line: &str) -> Option<(u16, Vec<u32>)> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(3)?;
    let port = local.rsplit(':').next()?.parse().ok()?;
    // A process may choose its own name, so only the shape `",pid=N,fd=M)` counts; whoever forges it gains nothing,
    // because a process is never ended before its own /proc says that it is ours.
    let pids = line
        .split("\",pid=")
        .skip(1)
        .filter_map(|rest| rest.split_once(",fd="))
        .filter_map(|(pid, _)| pid.parse().ok())
        .take(64)
        .collect();
    Some((port, pids))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(text: &str) -> Answer {
        Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 }
    }

    const USUAL: &str = "boot 0c4f6c2e-9d0e-4a39-9c0f-1f2a3b4c5d6e\nuptime 120.55\nclock 1700000000\nuid 1000\ntick 100\n\
        memory MemTotal: 2000\nmemory MemAvailable: 61\n\
        stat 1 (init) S 0 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0\n\
        stat 77 (a) b) (c) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9000 0 0\n\
        proc     1     0 /sbin/init\n\
        proc    77  1000 node /usr/local/lib/binder-web/server/cli.js start\n\
        port LISTEN 0      511                *:3000            *:*    users:((\"node\",pid=77,fd=18))\n\
        port LISTEN 0      128             [::]:22           [::]:*\n";

    #[test]
    fn a_usual_machine_is_read() {
        let machine = read(Some(&said(USUAL))).unwrap();
        assert_eq!(machine.uid, 1000);
        assert_eq!(machine.memory_left, Some(4));
        assert_eq!(machine.listeners[&3000], vec![77]);
        assert!(machine.listeners[&22].is_empty());
        let process = &machine.processes[&77];
        assert_eq!((process.parent, process.started_ticks), (1, 9000));
        assert_eq!(machine.age(process), 30);
        assert!(machine.descends(77, 1));
        assert!(!machine.descends(1, 77));
    }

    #[test]
    fn parents_in_a_circle_do_not_hang() {
        let mut machine = read(Some(&said(USUAL))).unwrap();
        for (pid, parent) in [(5, 6), (6, 5)] {
            let process = Process { parent, uid: 0, started_ticks: 0, command: String::new() };
            machine.processes.insert(pid, process);
        }
        assert!(!machine.descends(5, 1));
        assert_eq!(machine.lineage(5).len(), 8);
    }

    #[test]
    fn without_a_boot_id_nothing_is_believed() {
        assert_eq!(read(Some(&said("clock 1\nuid 0\n"))).unwrap_err().reason, Reason::Garbage);
        assert_eq!(read(None).unwrap_err().reason, Reason::NotSeen);
    }

    proptest! {
        #[test]
        fn any_output_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = read(Some(&Answer::Said { bytes, exit: 0 }));
        }

        #[test]
        fn any_line_is_survived(kind in "(boot|uptime|clock|uid|tick|stat|proc|port)", rest in ".{0,80}") {
            let _ = read(Some(&said(&format!("{kind} {rest}\n"))));
        }
    }
}
