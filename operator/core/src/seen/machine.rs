//! The machine itself: boot, clock, processes and who listens on which TCP port. Every facet may lean on it.

use super::script::{self, script};
use super::{Answer, Ask, Reason, Unknown};
use std::collections::BTreeMap;

/// The section's name.
pub const NAME: &str = "machine";

/// Looks at `/proc`, `ps` and `ss`. With sudo the owners of all listeners are seen, without it those of the login's own.
///
/// `ps` prints control characters as `?`, so that each process is one line; `grep` takes the first line of each `stat`, so that
/// a process whose name holds a line break loses its own row and forges no other. A process that ends meanwhile makes grep
/// complain, so what proves the list is that the look's own shell is in it. `ss` is asked without `-H`, which came with
/// iproute2 4.7 (2016): the header is passed over when it is read.
const SCRIPT: &str = script!(
    r#"
stats() { grep -aHs -m 1 '' /proc/[0-9]*/stat; [ "$?" -le 2 ]; }
run boot cat /proc/sys/kernel/random/boot_id
run uptime cat /proc/uptime
run clock date +%s
run uid id -u
printf 'self %s\n' "$$"
[ -z "${SSH_CONNECTION:-}" ] || printf 'way %s\n' "${SSH_CONNECTION##* }"
if try getconf CLK_TCK; then printf 'tick %s\n' "$out"; fi
run memory awk '$1 == "MemTotal:" || $1 == "MemAvailable:" {print $1, $2}' /proc/meminfo
run stat stats
run proc ps -e --cols 430 -o pid=,uid=,args=
if try root timeout 3 ss -ltnp; then
  run port printf '%s\n' "$out"
else
  run unseen printf '%s\n' "${words:-exit code $code}"
  run port timeout 3 ss -ltnp
fi
end
"#
);

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
    /// Processes that run, by id. One that has ended and waits for its parent (a zombie) runs no more, and is not among them.
    pub processes: BTreeMap<u32, Process>,
    /// Ids of the processes that listen, by TCP port; empty if the owner could not be seen.
    pub listeners: BTreeMap<u16, Vec<u32>>,
    /// Why listeners of other users show no owner, in the words of sudo; `None`: every owner could be seen.
    pub unseen_owners: Option<String>,
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
/// [`Unknown`] when the section was not completed, does not tell boot, clock and login, or when what must be there is not: the
/// look's own shell among the processes, the sshd that carries the look among the listeners.
pub fn read(answer: Option<&Answer>) -> Result<Machine, Unknown> {
    let text = script::whole(answer, "the machine")?;
    let garbage =
        |what: &str| Unknown { reason: Reason::Garbage, message: format!("the machine: the host did not tell {what}") };
    let mut machine = Machine { ticks: 100, ..Machine::default() };
    let (mut clock, mut uid, mut memory) = (None, None, (None, None));
    let (mut shell, mut way, mut uptime) = (None, None, None);
    let mut stats: BTreeMap<u32, Stat> = BTreeMap::new();
    let mut unseen = Vec::new();
    for line in text.lines() {
        let Some((kind, rest)) = line.split_once(' ') else { continue };
        match kind {
            "boot" => machine.boot_id = boot_id(rest).unwrap_or_default(),
            "uptime" => uptime = rest.split('.').next().and_then(|s| s.parse().ok()),
            "clock" => clock = rest.trim().parse().ok(),
            "uid" => uid = rest.trim().parse().ok(),
            "self" => shell = rest.parse::<u32>().ok(),
            "way" => way = rest.parse::<u16>().ok(),
            "tick" => machine.ticks = rest.parse().ok().filter(|ticks| (1..=10_000).contains(ticks)).unwrap_or(100),
            "memory" => match rest.split_once(' ') {
                Some(("MemTotal:", kilobytes)) => memory.0 = kilobytes.parse::<u64>().ok(),
                Some(("MemAvailable:", kilobytes)) => memory.1 = kilobytes.parse::<u64>().ok(),
                _ => {}
            },
            "stat" => stats.extend(stat(rest)),
            "proc" => {
                if let Some((pid, uid, command)) = process(rest) {
                    let Stat { parent, started_ticks, .. } = stats.get(&pid).copied().unwrap_or_default();
                    machine.processes.insert(pid, Process { parent, uid, started_ticks, command });
                }
            }
            "unseen" => unseen.push(rest),
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
        return Err(garbage("its boot id"));
    }
    machine.memory_left = match memory {
        (Some(all), Some(left)) if all > 0 && left <= all => {
            u8::try_from((u128::from(left) * 100).div_ceil(u128::from(all))).ok()
        }
        _ => None,
    };
    machine.clock = clock.ok_or_else(|| garbage("its clock"))?;
    machine.uptime = uptime.ok_or_else(|| garbage("since when it runs"))?;
    machine.uid = uid.ok_or_else(|| garbage("the login's user id"))?;
    let shell = shell.ok_or_else(|| garbage("the look's own process"))?;
    if !machine.processes.contains_key(&shell) || !stats.contains_key(&shell) {
        return Err(garbage("all of its processes: `ps` and /proc lack the look's own shell"));
    }
    match way {
        Some(way) if !machine.listeners.contains_key(&way) => {
            return Err(garbage(&format!(
                "all of its listeners: `ss -ltnp` lacks port {way}, on which its sshd carries this look"
            )));
        }
        None if machine.listeners.is_empty() => {
            return Err(garbage("its listeners: `ss -ltnp` shows none, not even its sshd"));
        }
        _ => {}
    }
    machine.unseen_owners = (!unseen.is_empty()).then(|| script::telling(&unseen));
    let listening: Vec<u32> = machine.listeners.values().flatten().copied().collect();
    machine.processes.retain(|pid, _| !stats.get(pid).is_some_and(|stat| stat.ended) || listening.contains(pid));
    Ok(machine)
}

/// What `/proc/PID/stat` tells.
#[derive(Clone, Copy, Default)]
struct Stat {
    parent: u32,
    started_ticks: u64,
    /// It has ended, and its parent has not asked how (states `Z` and `X`).
    ended: bool,
}

fn boot_id(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = (8..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    fits.then(|| text.to_owned())
}

/// `/proc/PID/stat:PID (COMMAND) STATE PPID ... STARTTIME`: the command may hold anything, so the fields are counted from its
/// last `)`. What the file's name does not agree with is no row.
fn stat(line: &str) -> Option<(u32, Stat)> {
    let (file, line) = line.strip_prefix("/proc/")?.split_once("/stat:")?;
    let pid = line.split(' ').next()?;
    if pid != file {
        return None;
    }
    let fields: Vec<&str> = line[line.rfind(')')? + 1..].split_whitespace().collect();
    let stat = Stat {
        ended: matches!(*fields.first()?, "Z" | "X" | "x"),
        parent: fields.get(1)?.parse().ok()?,
        started_ticks: fields.get(19)?.parse().ok()?,
    };
    Some((pid.parse().ok()?, stat))
}

fn process(line: &str) -> Option<(u32, u32, String)> {
    let line = line.trim_start();
    let (pid, rest) = line.split_once(char::is_whitespace)?;
    let (uid, command) = rest.trim_start().split_once(char::is_whitespace)?;
    let command: String = command.trim().chars().map(|c| if c.is_control() { '?' } else { c }).take(400).collect();
    Some((pid.parse().ok()?, uid.parse().ok()?, command))
}

/// A line of `ss -ltnp`: `LISTEN 0 511 *:3000 *:* users:(("node",pid=77,fd=18))`, with `("node",77,18)` before iproute2 4.0
/// (2015).
fn listener(line: &str) -> Option<(u16, Vec<u32>)> {
    let mut fields = line.split_whitespace();
    if fields.next()? != "LISTEN" {
        return None;
    }
    let local = fields.nth(2)?;
    let port = local.rsplit(':').next()?.parse().ok()?;
    // A process may choose its own name, so only the shape `",pid=N,fd=M)` counts; whoever forges it gains nothing,
    // because a process is never ended before its own /proc says that it is ours.
    let pids = line
        .split("\",")
        .skip(1)
        .filter_map(|rest| {
            let (pid, rest) = rest.split_once(',')?;
            let (fd, _) = rest.split_once(')')?;
            let (pid, fd) = match pid.strip_prefix("pid=") {
                Some(pid) => (pid, fd.strip_prefix("fd=")?),
                None => (pid, fd),
            };
            fd.parse::<u32>().ok()?;
            pid.parse().ok()
        })
        .take(64)
        .collect();
    Some((port, pids))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::script::stand_in::Stage;
    use proptest::prelude::*;

    fn said(text: &str) -> Answer {
        Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 }
    }

    const USUAL: &str = "boot 0c4f6c2e-9d0e-4a39-9c0f-1f2a3b4c5d6e\nuptime 120.55 80.1\nclock 1700000000\nuid 1000\nself 90\n\
        way 22\ntick 100\nmemory MemTotal: 2000\nmemory MemAvailable: 61\n\
        stat /proc/1/stat:1 (init) S 0 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0\n\
        stat /proc/77/stat:77 (a) b) (c) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9000 0 0\n\
        stat /proc/90/stat:90 (sh) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12000 0 0\n\
        proc     1     0 /sbin/init\n\
        proc    77  1000 node /usr/local/lib/binder-web/server/cli.js start\n\
        proc    90  1000 sh -c look\n\
        port State  Recv-Q Send-Q Local Address:Port Peer Address:Port Process\n\
        port LISTEN 0      511                *:3000            *:*    users:((\"node\",pid=77,fd=18))\n\
        port LISTEN 0      128             [::]:22           [::]:*\n\
        end\n";

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
    fn a_name_that_is_no_text_costs_its_own_row() {
        let odd = b"stat /proc/55/stat:55 (process-name-t\xc3) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 70 0 0\nproc 55 0 \xff\n";
        let machine = read(Some(&Answer::Said { bytes: [odd, USUAL.as_bytes()].concat(), exit: 0 })).unwrap();
        assert_eq!(machine.listeners[&3000], vec![77]);
        assert_eq!(machine.processes[&77].started_ticks, 9000);
    }

    #[test]
    fn a_name_with_a_line_break_forges_no_other_processs_row() {
        let forged = "stat /proc/66/stat:66 (evil\nstat 77 (node) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0\n";
        let machine = read(Some(&said(&format!("{forged}{USUAL}")))).unwrap();
        assert_eq!(machine.processes[&77].started_ticks, 9000);
    }

    #[test]
    fn what_must_be_there_and_is_not_makes_the_machine_unknown() {
        // The sshd that carries the look listens; the look's own shell runs.
        for (gone, what) in [
            ("port LISTEN 0      128             [::]:22           [::]:*\n", "port 22"),
            ("proc    90  1000 sh -c look\n", "own shell"),
            ("stat /proc/90/stat:90 (sh) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12000 0 0\n", "own shell"),
            ("uptime 120.55 80.1\n", "since when"),
            ("self 90\n", "own process"),
            ("end\n", "not whole"),
        ] {
            assert!(USUAL.contains(gone), "{gone}");
            let blind = read(Some(&said(&USUAL.replace(gone, "")))).unwrap_err();
            assert!(blind.message.contains(what), "{}", blind.message);
        }
        let none: String = USUAL
            .lines()
            .filter(|line| !line.starts_with("port") && !line.starts_with("way"))
            .fold(String::new(), |text, line| text + line + "\n");
        assert!(read(Some(&said(&none))).unwrap_err().message.contains("listeners"));
    }

    #[test]
    fn a_zombie_does_not_run() {
        let zombie = "stat /proc/55/stat:55 (node) Z 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 70 0 0\nproc 55 1000 [node] <defunct>\n";
        let machine = read(Some(&said(&format!("{zombie}{USUAL}")))).unwrap();
        assert!(!machine.processes.contains_key(&55) && machine.processes.contains_key(&77));
    }

    #[test]
    fn owners_are_read_as_any_ss_of_ten_years_writes_them() {
        let pids = |users: &str| listener(&format!("LISTEN 0 128 *:3000 *:* {users}"));
        assert_eq!(pids("users:((\"node\",4321,12))"), Some((3000, vec![4321])));
        assert_eq!(pids("users:((\"node\",4321,12),(\"a b\",77,13))"), Some((3000, vec![4321, 77])));
        assert_eq!(
            pids("users:((\"node\",pid=4321,fd=12),(\"PM2 v4.4.1: \",pid=9,fd=3))"),
            Some((3000, vec![4321, 9]))
        );
        assert_eq!(pids("users:((\"x\",pid=a,fd=1))"), Some((3000, vec![])));
        assert_eq!(pids(""), Some((3000, vec![])));
        assert_eq!(listener("LISTEN 0 511 [::ffff:127.0.0.1]:3000 *:*"), Some((3000, vec![])));
        assert_eq!(listener("LISTEN 0 4096 127.0.0.53%lo:53 0.0.0.0:*"), Some((53, vec![])));
        assert_eq!(listener("State Recv-Q Send-Q Local Address:Port Peer Address:Port"), None);
    }

    /// What `ss` may say in a test; the real one would tell of this machine.
    const SS: &str = "echo 'State  Recv-Q Send-Q Local Address:Port Peer Address:Port'\n\
        echo 'LISTEN 0 128 *:22 *:* users:((\"sshd\",pid=1,fd=3))'";

    #[test]
    fn the_script_tells_of_this_machine() {
        // Not busybox, whose shell prefers its own `ps`, which knows no `--cols`.
        for shell in [&["sh"][..], &["bash"]] {
            let machine = read(Some(&Stage::new().tool("ss", SS).run_with(shell, &ask()))).unwrap();
            assert!(machine.processes.len() > 2 && machine.listeners.contains_key(&22), "{shell:?}");
            assert!(machine.processes.values().any(|process| process.started_ticks > 0));
            assert_eq!(machine.unseen_owners, None);
        }
    }

    #[test]
    fn an_ss_that_refuses_or_says_nothing_is_no_machine_without_listeners() {
        for (stage, reason, words) in [
            (
                Stage::new().tool("ss", "echo \"ss: invalid option -- 'p'\" >&2; exit 255"),
                Reason::ProbeFailed,
                "invalid option",
            ),
            (Stage::new().without("ss"), Reason::NotInstalled, "ss"),
            (Stage::new().tool("ss", "exit 0"), Reason::Garbage, "ss"),
            (Stage::new().tool("ss", "exit 1"), Reason::ProbeFailed, "ss failed with exit code 1"),
            (Stage::new().tool("ps", "exit 0"), Reason::Garbage, "own shell"),
            (
                Stage::new().tool("ps", "echo 'error: unknown option' >&2; exit 1"),
                Reason::ProbeFailed,
                "unknown option",
            ),
        ] {
            let stage = if words.contains("shell") || words.contains("unknown") { stage.tool("ss", SS) } else { stage };
            let blind = read(Some(&stage.run(&ask()))).unwrap_err();
            assert_eq!(blind.reason, reason, "{}", blind.message);
            assert!(blind.message.contains(words), "{}", blind.message);
        }
    }

    #[test]
    fn a_sudo_that_refuses_leaves_the_owners_unknown_and_is_quoted() {
        let stage = Stage::new()
            .tool("ss", SS)
            .tool("sudo", "echo 'sudo: a password is required' >&2; exit 1")
            .tool("id", "echo 1000");
        let machine = read(Some(&stage.run(&ask()))).unwrap();
        assert_eq!(machine.unseen_owners.as_deref(), Some("sudo: a password is required"));
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
        assert_eq!(read(Some(&said("clock 1\nuid 0\nend\n"))).unwrap_err().reason, Reason::Garbage);
        assert_eq!(read(None).unwrap_err().reason, Reason::NotSeen);
    }

    proptest! {
        #[test]
        fn any_output_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = read(Some(&Answer::Said { bytes, exit: 0 }));
        }

        #[test]
        fn any_line_is_survived(kind in "(boot|uptime|clock|uid|self|way|tick|stat|proc|unseen|port)", rest in ".{0,80}") {
            let _ = read(Some(&said(&format!("{USUAL}{kind} {rest}\nend\n"))));
        }
    }
}
