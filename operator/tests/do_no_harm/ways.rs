//! The ways in which a tool fails, each as the script that stands in its place.

/// One way.
pub(crate) struct Way {
    /// For the table.
    pub(crate) name: &'static str,
    /// The script in the tool's place; `None`: there is no such tool.
    pub(crate) script: Option<String>,
    /// Whether the sections' limits are short, so that a tool that hangs costs little.
    pub(crate) hangs: bool,
}

const HEAD: &str = "#!/bin/sh\n# shellcheck disable=SC2154\ntool=${0##*/}\n";

/// Keeps what the tool says in a file, `$said`, with its exit code in `$code`.
const KEEP: &str = "said=$TMP/said.$$\n\"$WELL/$tool\" \"$@\" >\"$said\"\ncode=$?\n";

fn way(name: &'static str, text: &str) -> Way {
    Way { name, script: Some(format!("{HEAD}{text}\n")), hangs: false }
}

/// Every way that any tool can fail in.
pub(crate) fn common() -> Vec<Way> {
    let keep = |name, text: &str| way(name, &format!("{KEEP}{text}\n\"$REAL/rm\" -f \"$said\"\nexit \"$code\""));
    vec![
        Way { name: "is missing", script: None, hangs: false },
        way("refuses an option", "echo \"$tool: invalid option -- 'H'\nUsage: $tool [ OPTIONS ]\" >&2\nexit 255"),
        way("fails with output", "\"$WELL/$tool\" \"$@\"\necho \"$tool: input/output error\" >&2\nexit 1"),
        way("fails without a word", "exit 1"),
        way("says nothing", "exit 0"),
        keep(
            "is killed in the middle",
            "half=$(($(\"$REAL/wc\" -c <\"$said\") / 2))\n\"$REAL/head\" -c \"$half\" \"$said\"\ncode=137",
        ),
        keep(
            "has a bad row",
            "\"$REAL/sed\" 1q \"$said\"\nif [ -s \"$said\" ]; then printf '\\303\\050 \\377\\376 \\342\\202 9 9 9\\n'; fi\n\"$REAL/sed\" 1d \"$said\"",
        ),
        way(
            "says garbage",
            "printf '\\000\\001\\377\\376 \\303\\050\\n<html><body>502 Bad Gateway</body></html>\\n}{\\n'",
        ),
        Way { hangs: true, ..way("hangs", "exec \"$REAL/sleep\" 6") },
        way("is slow", "\"$REAL/sleep\" 0.08\nexec \"$WELL/$tool\" \"$@\""),
        way(
            "speaks German",
            "echo \"$tool: Ungültige Option -- »H«\n„$tool --help“ liefert weitere Informationen.\" >&2\nexit 1",
        ),
        way("may not be executed", "echo \"sh: 1: $tool: Permission denied\" >&2\nexit 126"),
        way("warns", "echo \"$tool: warning: the configuration is old\" >&2\nexec \"$WELL/$tool\" \"$@\""),
    ]
}

/// Ways of one tool alone: its older versions, and its own words.
pub(crate) fn special() -> Vec<(&'static str, Way)> {
    let old_ss = "for word do
  case $word in
    -*H*) echo \"ss: invalid option -- 'H'\nUsage: ss [ OPTIONS ]\" >&2; exit 255 ;;
  esac
done
\"$WELL/ss\" \"$@\" | \"$REAL/sed\" 's/,pid=\\([0-9]*\\),fd=/,\\1,/'";
    let old_iptables = "before=
for word do
  if [ \"$before\" = -w ]; then
    case $word in [0-9]*) echo \"Bad argument \\`$word'
Try \\`iptables -h' or 'iptables --help' for more information.\" >&2; exit 2 ;; esac
  fi
  before=$word
done
exec \"$WELL/iptables\" \"$@\"";
    let old_docker = "words=\"$*\"
case \" $words \" in
  *' image ls '* | *' image inspect '* | *' container ls '* | *' container inspect '*) echo \"docker: 'image' is not a docker command.
See 'docker --help'.\" >&2; exit 1 ;;
  *' info '*--format*) echo 'flag provided but not defined: --format' >&2; exit 125 ;;
  *' version '*) echo 1.11.2; exit 0 ;;
esac
exec \"$WELL/docker\" \"$@\"";
    let words = |text: &str| format!("echo \"{text}\" >&2\nexit 1");
    vec![
        ("ss", way("is of 2016", old_ss)),
        ("ss", way("has no users without root", "\"$WELL/ss\" \"$@\" | \"$REAL/sed\" 's/users:.*//'")),
        (
            "ss",
            way(
                "finds nobody",
                "case \"$*\" in *H*) ;; *) echo 'State Recv-Q Send-Q Local Address:Port Peer Address:Port' ;; esac",
            ),
        ),
        ("iptables", way("is 1.4.21", old_iptables)),
        (
            "iptables",
            way(
                "finds its lock held",
                "echo 'Another app is currently holding the xtables lock; waiting for it to exit...' >&2\nexit 4",
            ),
        ),
        (
            "iptables",
            way(
                "has no nat table",
                "echo \"iptables v1.8.9 (legacy): can't initialize iptables table \\`nat': Table does not exist\" >&2\nexit 3",
            ),
        ),
        (
            "iptables",
            way(
                "warns of another back end",
                "echo '# Warning: iptables-legacy tables present, use iptables-legacy to see them' >&2\nexec \"$WELL/iptables\" \"$@\"",
            ),
        ),
        ("docker", way("is 1.11", old_docker)),
        (
            "docker",
            way(
                "is too new for the daemon",
                &words(
                    "Error response from daemon: client version 1.41 is too old. Minimum supported API version is 1.44",
                ),
            ),
        ),
        (
            "docker",
            way(
                "is too new and ends with 0",
                "echo; echo 'Error response from daemon: client version 1.41 is too old' >&2",
            ),
        ),
        (
            "docker",
            way(
                "finds no socket",
                &words(
                    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
                ),
            ),
        ),
        (
            "docker",
            way(
                "may not reach the socket",
                &words("Got permission denied while trying to connect to the Docker daemon socket"),
            ),
        ),
        (
            "docker",
            way("lists nothing", "case \"$*\" in *' ps '*|*' ls '*) exit 0 ;; esac\nexec \"$WELL/docker\" \"$@\""),
        ),
        (
            "pm2",
            way(
                "talks before its table",
                "printf '\\n>>>> In-memory PM2 is out-of-date, do:\\n>>>> $ pm2 update\\nIn memory PM2 version: 1.1.3\\n'\nexec \"$WELL/pm2\" \"$@\"",
            ),
        ),
        (
            "pm2",
            way(
                "has just spawned a daemon",
                "echo '[PM2] Spawning PM2 daemon'\necho '[PM2] PM2 Successfully daemonized'\necho '[]'",
            ),
        ),
        ("pm2", way("has an empty table", "echo '[]'")),
        ("pm2", way("is 0.x", "echo 'pm2: unknown command jlist' >&2\nexit 0")),
        ("pm2", way("has no node", "echo \"/usr/bin/env: 'node': No such file or directory\" >&2\nexit 127")),
        ("pm2", way("throws", "echo 'events.js:141' >&2\necho '      throw er; // Unhandled event' >&2\nexit 8")),
        ("pm2", way("says null", "echo null")),
        ("sudo", way("wants a password", &words("sudo: a password is required"))),
        ("sudo", way("wants a terminal", &words("sudo: sorry, you must have a tty to run sudo"))),
        (
            "sudo",
            way("refuses the command", &words("Sorry, user andrew is not allowed to execute '$*' as root on web.")),
        ),
        ("sudo", way("knows nobody", &words("andrew is not in the sudoers file.  This incident will be reported."))),
        (
            "sudo",
            way("does not know its host", "echo 'sudo: unable to resolve host web' >&2\nexec \"$WELL/sudo\" \"$@\""),
        ),
        ("sudo", way("wants a password in German", &words("sudo: Ein Passwort ist notwendig"))),
        (
            "df",
            way(
                "has German headings",
                "\"$WELL/df\" \"$@\" | \"$REAL/sed\" 's/^Filesystem.*/Dateisystem    1B-Blöcke   Benutzt Verfügbar Verw% Eingehängt auf/'",
            ),
        ),
        ("df", way("knows no such path", "echo \"df: /: Datei oder Verzeichnis nicht gefunden\" >&2\nexit 1")),
        ("df", way("has a stale handle", "echo 'df: /: Stale file handle' >&2\nexit 1")),
        (
            "df",
            way(
                "has no figures",
                "echo 'Filesystem 1-blocks Used Available Capacity Mounted on'\necho 'none - - - - /'",
            ),
        ),
        ("ps", way("is busybox", "echo 'ps: unrecognized option: w' >&2\nexit 1")),
        ("ps", way("finds only itself", "echo \"      $$    1000 ps\"")),
        ("ps", way("hides others (hidepid)", "\"$WELL/ps\" \"$@\" | \"$REAL/awk\" '$2 == 1000'")),
        ("id", way("speaks of nobody", "echo 65534")),
        ("getconf", way("says undefined", "echo undefined")),
        ("date", way("says words", "echo 'Mi 25. Nov 12:30:00 CET 2026'")),
        (
            "timeout",
            way("is an old busybox", "case $1 in -t) ;; *) echo 'timeout: applet not found' >&2; exit 127 ;; esac"),
        ),
        (
            "cat",
            way(
                "reads no /proc (hidepid)",
                "for word do case $word in /proc/[0-9]*) echo \"cat: $word: No such file or directory\" >&2; exit 1 ;; esac; done\nexec \"$WELL/cat\" \"$@\"",
            ),
        ),
        (
            "readlink",
            way(
                "may not read",
                "for word do case $word in /proc/*) exit 1 ;; esac; done\nexec \"$WELL/readlink\" \"$@\"",
            ),
        ),
        (
            "stat",
            way(
                "is busybox",
                "for word do case $word in *%W*) echo \"stat: bad format\" >&2; exit 1 ;; esac; done\nexec \"$WELL/stat\" \"$@\"",
            ),
        ),
        ("node", way("is below nvm, unseen", "exit 127")),
    ]
}
