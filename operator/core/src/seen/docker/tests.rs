//! Docker as its versions of ten years speak, and as they fail.

use super::super::script::stand_in::Stage;
use super::*;
use proptest::prelude::*;

fn said(text: &str) -> Result<Docker, Unknown> {
    read(Some(&Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 }))
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// As Docker 20.10 says it.
fn whole() -> String {
    format!(
        "config 0 /home/andrew/.dockercfg\nconfig 57 /root/.docker/config.json\naptcache 4096\nanswers yes\n\
         root /var/lib/docker\ndf /dev/loop2 390700 386515 0 100% /var/lib/docker\nholds /var/lib/docker\n\
         building\ncontainers 3\n\
         container {a} exited sha256:{c} \"2026-11-22T15:23:20.284876404Z\" \"2026-11-22T15:24:30.236122528Z\"\n\
         container {b} running sha256:{c} \"2026-11-22T15:23:20Z\" \"0001-01-01T00:00:00Z\"\n\
         images 702\n\
         image sha256:{c} - \"2016-05-01T00:00:00Z\" \"2026-11-22T15:22:39.8Z\" 54411062 old:1 localhost:5000/a/b:V2\n\
         image sha256:{d} sha256:{c} \"2016-05-01T01:00:00Z\" \"0001-01-01T00:00:00Z\" 7\n\
         arrived 1779999999 /var/lib/docker/image/overlay2/imagedb/content/sha256/{d}\nend\n",
        a = id('a'),
        b = id('b'),
        c = id('c'),
        d = id('d'),
    )
}

#[test]
fn docker_is_read_as_it_speaks() {
    let docker = said(&whole()).unwrap();
    assert_eq!(docker.answers, Answers::Yes);
    assert_eq!((docker.used, docker.available), (386_515 * 1024, 0));
    assert!(docker.building && docker.holds.contains("/var/lib/docker"));
    assert_eq!(docker.configs[0], Config { path: "/home/andrew/.dockercfg".to_owned(), size: 0 });
    assert_eq!((docker.containers.len(), docker.unlisted_containers), (2, 1));
    assert_eq!(docker.containers[0].since.to_string(), "2026-11-22T15:24:30.236122528Z");
    assert!(docker.containers[0].stopped && !docker.containers[1].stopped);
    assert_eq!(docker.containers[1].since.to_string(), "2026-11-22T15:23:20Z");
    assert_eq!((docker.images.len(), docker.unlisted_images), (2, 700));
    let (old, child) = (&docker.images[0], &docker.images[1]);
    assert_eq!(old.tags, ["old:1", "localhost:5000/a/b:V2"]);
    assert_eq!(old.since.to_string(), "2026-11-22T15:22:39.8Z", "it came here later than it was built");
    assert_eq!(child.parent.as_deref(), Some(old.id.as_str()));
    assert!(child.tags.is_empty());
    assert_eq!(child.since.as_second(), 1_779_999_999, "it was fetched lately, however old it is");
}

#[test]
fn what_is_not_all_there_is_unknown_and_an_odd_row_costs_itself() {
    assert_eq!(said(whole().trim_end_matches("end\n")).unwrap_err().reason, Reason::ProbeFailed);
    for (from, to, containers, images) in
        [("old:1", "$(reboot)", 2, 1), ("exited", "exi ted", 1, 2), ("2026-11-22T15:22:39.8Z", "yesterday", 2, 1)]
    {
        let docker = said(&whole().replace(from, to)).unwrap();
        assert_eq!((docker.containers.len(), docker.images.len()), (containers, images), "{to}");
        assert_eq!(docker.unlisted_containers, 3 - containers, "{to}");
    }
    // A state that nobody knows is not "stopped".
    assert!(!said(&whole().replace("exited", "resting")).unwrap().containers[0].stopped);
    assert_eq!(said("end\n").unwrap_err().reason, Reason::Garbage);
    let of_none = said("answers yes\ncontainers 3\nodd Template parsing error: no such field\nimages 0\nend\n");
    assert!(of_none.unwrap_err().message.contains("`Template parsing error: no such field`"));
    let stuck = said("config link /root/.dockercfg\naptcache 0\nanswers hangs\nend\n").unwrap();
    assert_eq!((stuck.answers, stuck.configs.len()), (Answers::Hangs, 0));
    assert!(!stuck.has_less_than(u64::MAX), "a disk that was not seen is not full");
}

#[test]
fn an_image_without_a_time_or_of_an_odd_registry_costs_no_more_than_itself() {
    // moby#47368 (25.0.0), moby#47450 (left away since), and an address of IPv6.
    for created in ["\"\"", "null"] {
        let row = format!("image sha256:{} - {created} \"0001-01-01T00:00:00Z\" 7 hivemq/hivemq-swarm:4.25.0", id('c'));
        let docker = said(&format!("answers yes\ncontainers 0\nimages 1\n{row}\nend\n")).unwrap();
        assert_eq!(docker.images[0].since, Timestamp::MAX, "never old");
        let arrived = format!("arrived 1779999999 /d/image/aufs/imagedb/content/sha256/{}", id('c'));
        let docker = said(&format!("answers yes\ncontainers 0\nimages 1\n{row}\n{arrived}\nend\n")).unwrap();
        assert_eq!(docker.images[0].since.as_second(), 1_779_999_999);
    }
    let registry = said(&whole().replace("old:1", "[fd00::1]:5000/a:1")).unwrap();
    assert_eq!(registry.images[0].tags[0], "[fd00::1]:5000/a:1");
    // Docker of 2016 does not know when a name was given; that it came here long ago must be known.
    let old = said(&whole().replace("\"2026-11-22T15:22:39.8Z\"", "-")).unwrap();
    assert_eq!((old.images[0].tagged.as_str(), old.images[0].since), ("", Timestamp::MAX));
}

#[test]
fn a_container_that_is_more_than_it_runs_is_told() {
    let left = |state: &str, marks: &str| {
        let row = format!(
            "container {} {state} sha256:{} \"2016-01-01T00:00:00Z\" \"0001-01-01T00:00:00Z\"{marks}",
            id('a'),
            id('c')
        );
        said(&format!("answers yes\ncontainers 1\n{row}\nimages 0\nend\n")).unwrap().containers[0].left
    };
    assert_eq!(left("exited", ""), None);
    // docker-gc#23, docker-gc#13: "bye-bye mariadb-data".
    assert_eq!(left("created", ""), Some(Left::NeverStarted));
    assert_eq!(left("exited", " volume volume"), Some(Left::Volume));
    assert_eq!(left("exited", " compose volume"), Some(Left::Service));
    assert_eq!(left("dead", ""), Some(Left::Dead));
}

/// A Docker of 2016 or of today, as far as the section asks it.
const CLIENT: &str = r#"
while [ $# -gt 0 ]; do case $1 in --config | --host) shift 2 ;; *) break ;; esac; done
case "$1 $2" in
  "version "*) echo "Server version: 1.11.2" ;;
  "info "*) [ "$#" -eq 1 ] || { echo "flag provided but not defined: $2" >&2; exit 1; }; printf 'Images: 1\n Docker Root Dir: /\n' ;;
  "ps "*) echo CID ;;
  "images "*) printf 'sha256:IID\nsha256:IID\n' ;;
  "inspect --type") case $3 in
    container) echo 'container CID exited sha256:IID "2016-01-01T00:00:00Z" "2016-01-02T00:00:00Z"' ;;
    *) echo 'image sha256:IID - "2016-01-01T00:00:00Z" - 7 old:1' ;;
  esac ;;
  *) echo "docker: '$1' is not a docker command" >&2; exit 1 ;;
esac
"#;

fn look(stage: &Stage, shell: &[&str]) -> Result<Docker, Unknown> {
    read(Some(&stage.run_with(shell, &ask(vec!["/".to_owned()]))))
}

#[test]
fn docker_of_2016_is_asked_in_words_that_it_understands_in_every_shell() {
    let stage = Stage::new().tool("docker", &CLIENT.replace("CID", &id('a')).replace("IID", &id('c')));
    for shell in [&["sh"][..], &["bash"], &["busybox", "sh"]] {
        let docker = look(&stage, shell).unwrap();
        assert_eq!((docker.answers, docker.root.as_deref()), (Answers::Yes, Some("/")), "{shell:?}");
        assert_eq!((docker.containers.len(), docker.images.len(), docker.unlisted_images), (1, 1, 0));
        assert!(docker.used > 1024 && docker.holds.contains("/"));
    }
}

#[test]
fn why_docker_does_not_answer_is_told_in_its_clients_words() {
    for (says, trouble) in [
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
            Trouble::NobodyListens,
        ),
        ("Cannot connect to the Docker daemon. Is the docker daemon running on this host?", Trouble::NobodyListens),
        (
            "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if the daemon \
             is running: dial unix /var/run/docker.sock: connect: no such file or directory",
            Trouble::NobodyListens,
        ),
        (
            "Error response from daemon: client is newer than server (client API version: 1.23, server API version: 1.21)",
            Trouble::VersionMismatch,
        ),
        (
            "Error response from daemon: client version 1.41 is too old. Minimum supported API version is 1.44, please \
             upgrade your client to a newer version",
            Trouble::VersionMismatch,
        ),
        (
            "Got permission denied while trying to connect to the Docker daemon socket at unix:///x: dial unix",
            Trouble::Other,
        ),
    ] {
        let script = format!("echo\necho 'Client:'\necho \"WARNING: no config\" >&2\necho \"{says}\" >&2\nexit 1");
        let docker = look(&Stage::new().tool("docker", &script), &["sh"]).unwrap();
        assert_eq!((docker.answers, docker.trouble()), (Answers::Refuses, trouble), "{says}");
        assert!(docker.said.starts_with(&says[..60.min(says.len())]), "{}", docker.said);
    }
}

#[test]
fn a_call_that_fails_after_the_first_makes_the_section_unknown_with_its_words() {
    let fails = |what: &str, with: &str| {
        let client = CLIENT.replace("CID", &id('a')).replace("IID", &id('c'));
        let client = client.replacen("case \"$1 $2\" in", &format!("case \"$1 $2\" in\n  \"{what} \"*) {with} ;;"), 1);
        look(&Stage::new().tool("docker", &client), &["sh"])
    };
    for what in ["info", "ps", "images"] {
        let blind = fails(what, "echo 'Error response from daemon: database is locked' >&2; exit 1").unwrap_err();
        assert_eq!(
            (blind.reason, blind.message.as_str()),
            (
                Reason::ProbeFailed,
                format!(
                    "Docker: docker {what} failed with exit code 1: `Error response from daemon: database is locked`"
                )
                .as_str()
            )
        );
        assert!(fails(what, "exit 137").is_err(), "{what}");
    }
    assert!(fails("inspect", "exit 0").is_err(), "it tells of none");
    assert!(look(&Stage::new().without("docker"), &["sh"]).is_err_and(|blind| blind.reason == Reason::NotInstalled));
    let tty = Stage::new().tool("sudo", "echo 'sudo: sorry, you must have a tty to run sudo' >&2; exit 1");
    // Root asks nobody.
    if tty.run_with(&["sh"], &Ask { script: "[ \"$(id -u)\" != 0 ]", ..ask(Vec::new()) })
        == (Answer::Said { bytes: Vec::new(), exit: 0 })
    {
        assert_eq!(look(&tty, &["sh"]).unwrap_err().reason, Reason::SudoNeedsTty);
    }
}

proptest! {
    #[test]
    fn any_output_is_survived(text in "((config|df|root|container|image|images|answers|why|odd) .{0,80}\n){0,6}(end\n)?") {
        let _ = said(&text);
    }

    #[test]
    fn a_piece_of_it_is_survived(from in 0usize..900, to in 0usize..900) {
        let text = whole();
        let _ = said(text.get(from.min(to)..from.max(to)).unwrap_or_default());
    }
}
