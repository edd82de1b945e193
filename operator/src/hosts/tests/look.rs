//! Looks, run for real by a shell, and the ways in which a machine can spoil them.

use std::time::{Duration, Instant};

use super::fake::{Machine, Runs};
use super::*;
use crate::hosts::probe::COMMAND;

#[tokio::test]
async fn one_look_is_one_command_and_finds_everything() {
    let machine = Machine::new();
    let session = machine.connect().await;
    let probe = probe(vec![
        section("greeting", "echo hello"),
        section("binary", r"printf 'a\000b\377\n\n'"),
        section("nothing", ":"),
        Section { args: vec!["x".into(), "y".into()], ..section("arguments", r#"echo "$0 $# $1 $2"; exit 3"#) },
        section("absent", "no-such-command-anywhere"),
    ]);
    let look = session.look(&probe).await.unwrap();
    assert_eq!(look.end, LookEnd::Complete);
    assert_eq!(look.sections["greeting"], complete("hello\n"));
    assert_eq!(look.sections["binary"], SectionOutput::Complete { bytes: b"a\0b\xff\n\n".to_vec(), exit: 0 });
    assert_eq!(look.sections["nothing"], complete(""));
    assert_eq!(look.sections["arguments"], SectionOutput::Complete { bytes: b"arguments 2 x y\n".to_vec(), exit: 3 });
    assert_eq!(look.sections["absent"], SectionOutput::Complete { bytes: vec![], exit: 127 });
    assert!(look.complaints.contains("no-such-command-anywhere: not found"), "{}", look.complaints);
    assert_eq!(machine.seen.commands(), [COMMAND]);
}

#[tokio::test]
async fn the_surroundings_of_a_section_are_plain() {
    let session = Machine::new().connect().await;
    let probe = probe(vec![
        section("stdin", "cat; echo end"),
        section("locale", "echo $LC_ALL"),
        section("path", "case :$PATH: in *:/usr/sbin:*) echo yes;; esac"),
        section("secrets", "env | grep -c '^BINDER'"),
        section("files", "for fd in 3 4; do [ ! -e /proc/$$/fd/$fd ] || echo $fd is open; done"),
    ]);
    let look = session.look(&probe).await.unwrap();
    assert_eq!(look.sections["stdin"], complete("end\n"));
    assert_eq!(look.sections["locale"], complete("C\n"));
    assert_eq!(look.sections["path"], complete("yes\n"));
    assert_eq!(look.sections["secrets"], SectionOutput::Complete { bytes: b"0\n".to_vec(), exit: 1 });
    // What the driver itself uses.
    assert_eq!(look.sections["files"], complete(""));
}

#[tokio::test]
async fn hostile_arguments_arrive_as_they_are() {
    let hostile: Vec<String> = [
        "$(reboot)",
        "`reboot`",
        "a'b\"c\\",
        "two\nlines",
        "-n",
        "--",
        "",
        "ünïcode 🐻",
        "*",
        "; exit",
        "\u{1b}[2J",
        "$1",
    ]
    .map(str::to_owned)
    .to_vec();
    let session = Machine::new().connect().await;
    let probe = probe(vec![Section {
        args: hostile.clone(),
        ..section("arguments", r#"for word do printf '%s\000' "$word"; done"#)
    }]);
    let look = session.look(&probe).await.unwrap();
    let bytes = look.sections["arguments"].success().unwrap();
    let words: Vec<&str> = std::str::from_utf8(bytes).unwrap().split_terminator('\0').collect();
    assert_eq!(words, hostile);
}

#[tokio::test]
async fn what_a_login_prints_is_no_part_of_it() {
    let session = Machine::new().runs(Runs::Talks("Last login: never\nYou have mail")).connect().await;
    let look = session.look(&probe(vec![section("a", "echo hello")])).await.unwrap();
    assert_eq!(look.sections["a"], complete("hello\n"));
}

#[tokio::test]
async fn a_section_cannot_forge_a_frame() {
    let session = Machine::new().connect().await;
    // Reads the nonce where only the user itself can, which is more than any process named by an attacker can do.
    let forger = r#"
        nonce=$(tr '\000' '\n' </proc/$PPID/environ | sed -n 's/^BINDER_LOOK=//p')
        [ ${#nonce} = 32 ] && echo known
        printf '%s exit 0\n\n%s end 0 0\n\n%s begin 1\nZm9yZ2Vk\n%s exit 0\n%s end 1 0\n%s done\n' \
            "$nonce" "$nonce" "$nonce" "$nonce" "$nonce" "$nonce"
        exit 7"#;
    let look = session.look(&probe(vec![section("forger", forger), section("honest", "echo hello")])).await.unwrap();
    let SectionOutput::Complete { bytes, exit: 7 } = &look.sections["forger"] else { panic!("{look:?}") };
    assert!(bytes.ends_with(b" done\n"));
    assert_eq!(look.sections["honest"], complete("hello\n"));
    assert_eq!(look.end, LookEnd::Complete);
}

#[tokio::test]
async fn the_nonce_is_in_no_process_list() {
    let session = Machine::new().connect().await;
    // Learns it where only the user itself can, and looks for it with a pattern that does not find itself.
    let script = r#"
        nonce=$(tr '\000' '\n' </proc/$PPID/environ | sed -n 's/^BINDER_LOOK=//p')
        echo ${#nonce}
        cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\000' ' ' | grep -c "[$(printf %.1s "$nonce")]${nonce#?}""#;
    let look = session.look(&probe(vec![section("own", script)])).await.unwrap();
    assert_eq!(look.sections["own"], SectionOutput::Complete { bytes: b"32\n0\n".to_vec(), exit: 1 });
}

#[tokio::test]
async fn a_section_that_hangs_costs_its_limit_and_nothing_else() {
    let session = Machine::new().connect().await;
    let hung = |name, script| Section { limit: Duration::from_millis(300), ..section(name, script) };
    let probe = probe(vec![
        section("before", "echo before"),
        hung("hangs", "echo part; sleep 60"),
        hung("stubborn", "trap '' TERM INT HUP; while :; do sleep 1; done"),
        // Out of its process group, holding every stream it has: as good as stuck in the kernel.
        hung("unkillable", "setsid sh -c 'sleep 20' & sleep 60"),
        section("after", "echo after"),
    ]);
    let started = Instant::now();
    let look = session.look(&probe).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(look.end, LookEnd::Complete);
    assert_eq!(look.sections["before"], complete("before\n"));
    for name in ["hangs", "stubborn", "unkillable"] {
        assert_eq!(look.sections[name], SectionOutput::TimedOut { after: Duration::from_millis(300) }, "{name}");
    }
    assert_eq!(look.sections["after"], complete("after\n"));
}

#[tokio::test]
async fn a_section_that_floods_is_cut_on_the_machine() {
    let session = Machine::new().connect().await;
    let probe = probe(vec![
        Section { max_bytes: 1000, ..section("flood", "head -c 1073741824 /dev/zero; echo >&2 survived") },
        Section { max_bytes: 5, ..section("fits", "printf 12345") },
        Section { max_bytes: 5, ..section("exceeds", "printf 123456") },
        section("after", "echo after"),
    ]);
    let look = session.look(&probe).await.unwrap();
    assert_eq!(look.sections["flood"], SectionOutput::TooLarge { limit: 1000 });
    assert_eq!(look.sections["fits"], complete("12345"));
    assert_eq!(look.sections["exceeds"], SectionOutput::TooLarge { limit: 5 });
    assert_eq!(look.sections["after"], complete("after\n"));
}

#[tokio::test]
async fn a_large_section_comes_whole() {
    let session = Machine::new().connect().await;
    let probe =
        probe(vec![Section { max_bytes: 4 << 20, ..section("large", "head -c 4194304 /dev/zero | tr '\\000' x") }]);
    let look = session.look(&probe).await.unwrap();
    let bytes = look.sections["large"].success().unwrap();
    assert_eq!(bytes.len(), 4 << 20);
    assert!(bytes.iter().all(|byte| *byte == b'x'));
}

#[tokio::test]
async fn a_machine_that_floods_is_not_listened_to() {
    for flood in [&[b'x'; 1000][..], b"many short lines\n", &[b'\n'; 1000]] {
        let machine = Machine::new().runs(Runs::Floods(flood));
        let session = machine.connect().await;
        let error = session.look(&probe(vec![section("a", "echo a")])).await.unwrap_err();
        assert!(matches!(error, LookError::NoShell { .. }), "{error:?}");
        // The connection still serves.
        assert!(session.is_open());
    }
}

#[tokio::test]
async fn garbage_is_no_answer() {
    let session = Machine::new().runs(Runs::Answers(|_| "\u{1b}c\0\u{7f}garbage\r\n".repeat(10))).connect().await;
    let error = session.look(&probe(vec![section("a", "echo a")])).await.unwrap_err();
    assert!(matches!(error, LookError::NoShell { .. }), "{error:?}");
}

#[tokio::test]
async fn a_machine_that_lies_gets_only_its_sections_wrong() {
    // Knows the nonce, as the machine itself does, and sends what the driver never would.
    let session = Machine::new()
        .runs(Runs::Answers(|program| {
            let nonce = program.lines().find_map(|line| line.strip_prefix("nonce=")).unwrap().to_owned();
            [
                "begin 0",
                "!!! not base64",
                "exit 0",
                "end 0 0",
                "begin 1",
                "QQ=",
                "exit 0",
                "end 1 0",
                "begin 99",
                "exit 0",
                "end 99 0",
                "begin 2",
                "end 3 0",
                "begin 3",
                "aGk=",
                "exit 0",
                "end 3 0",
                "end -1 x",
                "done",
            ]
            .iter()
            .map(|line| {
                if line.contains('!') || line.contains('=') { format!("{line}\n") } else { format!("{nonce} {line}\n") }
            })
            .collect()
        }))
        .connect()
        .await;
    let probe = probe(vec![section("a", ":"), section("b", ":"), section("c", ":"), section("d", ":")]);
    let look = session.look(&probe).await.unwrap();
    assert_eq!(look.sections["a"], SectionOutput::Malformed);
    assert_eq!(look.sections["b"], SectionOutput::Malformed);
    assert_eq!(look.sections["c"], SectionOutput::Missing);
    assert_eq!(look.sections["d"], complete("hi"));
}

#[tokio::test]
async fn what_came_before_the_connection_broke_is_kept() {
    // Enough for the first section, and for the beginning of the second.
    let machine = Machine::new().runs(Runs::CutsAfter(600));
    let session = machine.connect().await;
    let probe = probe(vec![section("first", "echo first"), section("second", "head -c 3000 /dev/zero")]);
    let look = session.look(&probe).await.unwrap();
    assert!(matches!(look.end, LookEnd::Lost { .. }), "{look:?}");
    assert_eq!(look.sections["first"], complete("first\n"));
    assert_eq!(look.sections["second"], SectionOutput::Missing);
    assert!(!session.is_open());
    assert!(matches!(session.look(&probe).await.unwrap_err(), LookError::NotStarted { .. }));
}

#[tokio::test]
async fn a_connection_that_breaks_at_once_is_an_error() {
    let machine = Machine::new().runs(Runs::Nothing);
    let session = machine.connect().await;
    let probe = probe(vec![section("a", "echo a")]);
    let (look, ()) = tokio::join!(session.look(&probe), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        machine.cut();
    });
    assert!(matches!(look.unwrap_err(), LookError::Lost { .. }));
}

#[tokio::test]
async fn no_answer_ends_at_the_limit_and_the_command_is_killed() {
    let machine = Machine::new().runs(Runs::Nothing);
    let limits = Limits { look: Duration::from_millis(300), ..limits() };
    let session = Session::connect_over(&machine, &machine.target, &limits).await.unwrap();
    let error = session.look(&probe(vec![section("a", "echo a")])).await.unwrap_err();
    assert!(matches!(error, LookError::NoAnswer { .. }), "{error:?}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(*locked(&machine.seen.signals), ["KILL"]);
}

#[tokio::test]
async fn the_whole_look_has_a_limit_and_keeps_what_it_has() {
    let machine = Machine::new();
    let limits = Limits { look: Duration::from_secs(3), ..limits() };
    let session = Session::connect_over(&machine, &machine.target, &limits).await.unwrap();
    let look = session
        .look(&probe(vec![
            section("first", "echo first"),
            Section { limit: Duration::from_secs(15), ..section("slow", "sleep 15") },
        ]))
        .await
        .unwrap();
    assert_eq!(look.end, LookEnd::TimedOut { after: Duration::from_secs(3) });
    assert_eq!(look.sections["first"], complete("first\n"));
    assert_eq!(look.sections["slow"], SectionOutput::Missing);
}

#[tokio::test]
async fn a_machine_that_will_not_run_commands_says_so() {
    let session = Machine::new().runs(Runs::Refuses).connect().await;
    let error = session.look(&probe(vec![section("a", "echo a")])).await.unwrap_err();
    assert!(error.to_string().contains("refuses to run commands"), "{error}");
}

#[tokio::test]
async fn an_exit_status_before_the_output_is_no_loss() {
    let session = Machine::new().runs(Runs::ExitFirst).connect().await;
    let look = session.look(&probe(vec![section("a", "echo hello")])).await.unwrap();
    assert_eq!(look.end, LookEnd::Complete);
    assert_eq!(look.sections["a"], complete("hello\n"));
}

#[tokio::test]
async fn many_looks_at_once_do_not_hinder_each_other() {
    let session = Machine::new().connect().await;
    let probe = probe(vec![section("a", "echo hello")]);
    let looks = futures::future::join_all((0..12).map(|_| session.look(&probe))).await;
    for look in looks {
        assert_eq!(look.unwrap().sections["a"], complete("hello\n"));
    }
    assert!(!session.needs_reconnect());
}

#[tokio::test]
async fn a_look_for_which_there_is_no_room_keeps_what_came_before_and_gives_its_room_back() {
    let machine = Machine::new();
    let limits = Limits { room: Room::new(64 * 1024), ..limits() };
    let session = Session::connect_over(&machine, &machine.target, &limits).await.unwrap();
    let large = Section { max_bytes: 1 << 20, ..section("large", "head -c 300000 /dev/zero") };
    let look = session.look(&probe(vec![section("first", "echo first"), large])).await.unwrap();
    assert_eq!(look.end, LookEnd::NoRoom);
    assert_eq!(look.sections["first"], complete("first\n"));
    assert_eq!(look.sections["large"], SectionOutput::Missing);
    assert!(limits.room.taken() > 0, "what came is still there");
    drop(look);
    assert_eq!(limits.room.taken(), 0);
    let look = session.look(&probe(vec![section("first", "echo first")])).await.unwrap();
    assert_eq!(look.end, LookEnd::Complete, "what is small needs none");
}
