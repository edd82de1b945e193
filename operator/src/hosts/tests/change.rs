//! Changes: what reaches the machine, and what is said when its end is not seen.

use std::time::{Duration, Instant};

use super::fake::{Machine, Runs};
use super::*;
use binder_core::gate::Permit;

fn permit() -> Permit {
    super::permit("uid-1", "action-1")
}

fn change(script: &'static str) -> Change {
    Change { name: "test-change", script, args: vec![], stdin: None, limit: Duration::from_secs(10), max_output: 200 }
}

#[tokio::test]
async fn a_change_runs_and_says_how_it_ended() {
    let session = Machine::new().connect().await;
    let ran = session.change(permit(), change("echo out; echo \"$0\" >&2; exit 3")).await.unwrap();
    assert_eq!((ran.exit, ran.signal.as_deref(), ran.timed_out), (Some(3), None, false));
    assert!(ran.output.contains("out") && ran.output.contains("test-change"), "{}", ran.output);
}

#[tokio::test]
async fn a_permit_for_another_machine_sends_nothing() {
    let machine = Machine::new();
    let session = machine.connect().await;
    let error = session.change(super::permit("uid-2", "action-1"), change("echo out")).await.unwrap_err();
    assert!(matches!(error, ChangeError::WrongHost { .. }));
    assert!(!error.may_have_run());
    assert_eq!(machine.seen.commands(), [""; 0]);
}

#[tokio::test]
async fn a_step_by_way_of_another_machine_is_done_there_and_not_here() {
    let (here, there) = (Machine::new(), Machine::new());
    let permit = |host: &str, via: &str| super::permit_by_way_of(host, Some(via), "action-1");
    let refused = here.connect().await.change(permit("uid-1", "uid-2"), change("echo out")).await.unwrap_err();
    assert!(matches!(refused, ChangeError::WrongHost { .. }));
    assert_eq!(here.seen.commands(), [""; 0]);
    // The machine of these tests is the host with the UID uid-1.
    let ran = there.connect().await.change(permit("uid-2", "uid-1"), change("echo out")).await.unwrap();
    assert_eq!(ran.output.trim(), "out");
}

#[tokio::test]
async fn hostile_arguments_arrive_as_they_are() {
    let session = Machine::new().connect().await;
    let hostile = ["$(reboot)", "`reboot`", "a'b\"c\\", "-rf", "", "ünï 🐻", "; reboot #", "$1"].map(str::to_owned);
    let ran = session
        .change(permit(), Change { args: hostile.to_vec(), ..change(r#"for word do printf '<%s>' "$word"; done"#) })
        .await
        .unwrap();
    assert_eq!(ran.output, hostile.iter().map(|word| format!("<{word}>")).collect::<String>());
}

#[tokio::test]
async fn nul_in_an_argument_sends_nothing() {
    let machine = Machine::new();
    let session = machine.connect().await;
    let error = session.change(permit(), Change { args: vec!["a\0".into()], ..change(":") }).await.unwrap_err();
    assert!(!error.may_have_run(), "{error}");
    assert_eq!(machine.seen.commands(), [""; 0]);
}

#[tokio::test]
async fn a_secret_goes_by_standard_input_and_is_seen_nowhere() {
    let machine = Machine::new();
    let session = machine.connect().await;
    let script = r#"
        IFS= read -r key || exit 9
        [ ${#key} = 15 ] || exit 8
        if cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\000' ' ' | grep -q "$1"; then
            exit 7
        fi
        echo "Using API key: $key""#;
    // A pattern that finds the key and does not find itself.
    let args = vec!["[o]pen-sesame-423".to_owned()];
    let ran = session
        .change(permit(), Change { args, stdin: Some("open-sesame-423".to_owned().into()), ..change(script) })
        .await
        .unwrap();
    assert_eq!((ran.exit, ran.output.as_str()), (Some(0), "Using API key: [redacted]"));
    assert!(machine.seen.commands().iter().all(|command| !command.contains("open-sesame")));
    assert_eq!(machine.seen.stdin(), "open-sesame-423\n");
}

#[tokio::test]
async fn output_is_bounded_and_printable() {
    let session = Machine::new().connect().await;
    let ran = session
        .change(permit(), change(r"head -c 5000000 /dev/zero | tr '\000' x; printf '\033[31m\nthe end\n'"))
        .await
        .unwrap();
    assert!(ran.output.starts_with('…') && ran.output.ends_with("x | the end"), "{}", ran.output);
    assert_eq!(ran.output.chars().count(), 200);
}

#[tokio::test]
async fn a_change_that_hangs_is_stopped_on_the_machine() {
    let session = Machine::new().connect().await;
    let started = Instant::now();
    let ran = session
        .change(permit(), Change { limit: Duration::from_millis(400), ..change("echo begun; sleep 60") })
        .await
        .unwrap();
    assert!(started.elapsed() < Duration::from_secs(15));
    assert!(ran.timed_out);
    assert_eq!((ran.exit, ran.output.as_str()), (Some(124), "begun"));
}

#[tokio::test]
async fn what_is_left_running_does_not_hold_a_change() {
    let session = Machine::new().connect().await;
    let started = Instant::now();
    // Holds the output, as a service does that was started without care. (sshd says how the command ended; here the
    // machine that says so first does.)
    let session_first = Machine::new().runs(Runs::ExitFirst).connect().await;
    let ran = session_first.change(permit(), change("sleep 20 & echo started")).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!((ran.exit, ran.output.as_str()), (Some(0), "started"));
    drop(session);
}

#[tokio::test]
async fn an_exit_status_before_the_output_is_no_loss() {
    let session = Machine::new().runs(Runs::ExitFirst).connect().await;
    let ran = session.change(permit(), change("echo the last words; exit 4")).await.unwrap();
    assert_eq!((ran.exit, ran.output.as_str()), (Some(4), "the last words"));
}

#[tokio::test]
async fn a_broken_connection_leaves_the_outcome_open() {
    let machine = Machine::new().runs(Runs::Nothing);
    let session = machine.connect().await;
    let (ran, ()) = tokio::join!(session.change(permit(), change(":")), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        machine.cut();
    });
    let error = ran.unwrap_err();
    assert!(matches!(error, ChangeError::OutcomeUnknown { .. }) && error.may_have_run(), "{error}");
}

#[tokio::test]
async fn what_was_not_started_did_not_run() {
    let session = Machine::new().runs(Runs::Refuses).connect().await;
    let error = session.change(permit(), change(":")).await.unwrap_err();
    assert!(matches!(error, ChangeError::NotStarted { .. }) && !error.may_have_run(), "{error}");
}
