//! Against a real sshd, on a port of the loopback: that what the scripted machine does is what sshd does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A private sshd, which ends with its value.
struct Sshd {
    dir: TempDir,
    child: Child,
    target: Target,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sshd {
    /// Lets the user that runs this test in with a key of this kind.
    async fn start(login: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (login, public) = key_pair(&[login, &["-N", ""]].concat());
        let (host, host_public) = key_pair(&["-t", "ed25519", "-N", ""]);
        let (second, _) = key_pair(&["-t", "ecdsa", "-N", ""]);
        let path = |name: &str| -> PathBuf { dir.path().join(name) };
        for (name, key) in [("host", &host), ("second", &second)] {
            fs::write(path(name), secrecy::ExposeSecret::expose_secret(key)).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        fs::write(path("authorized_keys"), public).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nHostKey {0}/second\n\
             AuthorizedKeysFile {0}/authorized_keys\nStrictModes no\nPidFile none\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n",
            dir.path().display()
        );
        fs::write(path("config"), config).unwrap();
        if nobody_but_root_may("/run") {
            // Where root's sshd confines itself; its package makes it at boot.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(path("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("log")).unwrap())
            .spawn()
            .expect("an sshd at /usr/sbin/sshd (Debian's package `openssh-server`)");
        let target = Target {
            id: "uid-1".into(),
            name: "binder-test".into(),
            address: "127.0.0.1".into(),
            port,
            user: user(),
            host_keys: vec![HostKey::parse(&host_public).unwrap()],
            key: LoginKey::parse(&login, "secret/1").unwrap(),
        };
        let sshd = Self { dir, child, target };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < deadline, "sshd did not start: {}", sshd.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sshd
    }

    async fn connect(&self) -> Session {
        Session::connect(&self.target, &limits()).await.unwrap_or_else(|error| panic!("{error}: {}", self.log()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

fn nobody_but_root_may(dir: &str) -> bool {
    user() == "root" && fs::metadata(dir).is_ok()
}

fn user() -> String {
    String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn looks_and_changes() {
    let sshd = Sshd::start(&["-t", "ed25519"]).await;
    let session = sshd.connect().await;
    let probe = probe(vec![
        section("hello", "echo hello"),
        Section { limit: Duration::from_millis(300), ..section("hangs", "setsid sleep 20 & sleep 60") },
        Section { max_bytes: 100, ..section("floods", "yes") },
        section("after", "echo after"),
    ]);
    let look = session.look(&probe).await.unwrap();
    assert_eq!(look.sections["hello"], complete("hello\n"));
    assert!(matches!(look.sections["hangs"], SectionOutput::TimedOut { .. }));
    assert!(matches!(look.sections["floods"], SectionOutput::TooLarge { .. }));
    assert_eq!(look.sections["after"], complete("after\n"));
    assert!(look.took < Duration::from_secs(10), "{:?}", look.took);

    let change = Change {
        name: "test-change",
        script: r#"read -r key; printf '%s ' "$1" "$key"; echo error >&2; exit 5"#,
        args: vec!["$(reboot) 'x'".into()],
        stdin: Some("s3cr3t-key".to_owned().into()),
        limit: Duration::from_secs(5),
        max_output: 100,
    };
    let ran = session.change(permit("uid-1", "a"), change.clone()).await.unwrap();
    assert_eq!(ran.exit, Some(5));
    assert!(ran.output.contains("$(reboot) 'x' [redacted]") && ran.output.contains("error"), "{}", ran.output);

    let killed = Change { script: "kill -TERM $$; sleep 5", ..change };
    let ran = session.change(permit("uid-1", "a"), killed).await.unwrap();
    assert!((ran.exit, ran.signal.as_deref()) != (Some(0), None) && !ran.timed_out, "{ran:?}");
}

#[tokio::test]
async fn looking_does_not_wear_a_session_out() {
    let sshd = Sshd::start(&["-t", "ed25519"]).await;
    let session = sshd.connect().await;
    let probe = probe(vec![section("hello", "echo hello")]);
    for _ in 0..15 {
        assert_eq!(session.look(&probe).await.unwrap().sections["hello"], complete("hello\n"));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(session.leaked_channels.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_look_that_is_given_up_does_not_go_on() {
    let sshd = Sshd::start(&["-t", "ed25519"]).await;
    let limits = Limits { look: Duration::from_secs(3), ..limits() };
    let session = Session::connect(&sshd.target, &limits).await.unwrap();
    let mark = sshd.dir.path().join("mark");
    let probe = probe(vec![
        Section { limit: Duration::from_secs(4), ..section("slow", "sleep 8") },
        Section { args: vec![mark.display().to_string()], ..section("after", ": >\"$1\"") },
    ]);
    let look = session.look(&probe).await.unwrap();
    assert!(matches!(look.end, LookEnd::TimedOut { .. }));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!mark.exists(), "the machine went on looking");
}

#[tokio::test]
async fn a_change_whose_asker_goes_away_goes_on() {
    let sshd = Sshd::start(&["-t", "ed25519"]).await;
    let session = sshd.connect().await;
    let mark = sshd.dir.path().join("mark");
    let change = Change {
        name: "test-change",
        script: "for i in 1 2 3 4 5; do sleep 0.5; echo $i; done; : >\"$1\"",
        args: vec![mark.display().to_string()],
        stdin: None,
        limit: Duration::from_secs(10),
        max_output: 100,
    };
    let asked = session.change(permit("uid-1", "a"), change);
    assert!(tokio::time::timeout(Duration::from_millis(1200), asked).await.is_err());
    assert!(!mark.exists());
    let deadline = Instant::now() + Duration::from_secs(10);
    while !mark.exists() {
        assert!(Instant::now() < deadline, "it was cut off");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn ports_are_told_apart() {
    let sshd = Sshd::start(&["-t", "ed25519"]).await;
    let session = sshd.connect().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap().port();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let (a, b, c, d) = tokio::join!(
        session.can_reach("127.0.0.1", open),
        session.can_reach("127.0.0.1", closed),
        session.can_reach("127.0.0.1", closed),
        session.can_reach("localhost", open),
    );
    assert_eq!([a, b, c, d], [Reach::Open, Reach::Refused, Reach::Refused, Reach::Open]);
    let unknown = session.can_reach("no-such-host.invalid", 80).await;
    assert!(matches!(unknown, Reach::NameNotFound | Reach::TimedOut { .. }), "{unknown:?}");
}

#[tokio::test]
async fn rsa_and_ecdsa_keys_log_in() {
    for kind in [&["-t", "rsa", "-b", "2048"][..], &["-t", "ecdsa"]] {
        let sshd = Sshd::start(kind).await;
        sshd.connect().await;
        assert!(!sshd.log().contains("Failed publickey"), "{}", sshd.log());
    }
}

#[tokio::test]
async fn a_refused_login_is_one_attempt() {
    let mut sshd = Sshd::start(&["-t", "ed25519"]).await;
    sshd.target.key = keys::login_key("secret/2");
    let error = Session::connect(&sshd.target, &limits()).await.unwrap_err();
    assert!(matches!(error, ConnectError::LoginRefused { .. }), "{error:?}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(sshd.log().matches("Failed publickey").count(), 1, "{}", sshd.log());
    assert!(!sshd.log().contains("Failed password"), "{}", sshd.log());
}

#[tokio::test]
async fn another_host_key_is_refused_before_any_login() {
    let mut sshd = Sshd::start(&["-t", "ed25519"]).await;
    sshd.target.host_keys = vec![keys::foreign_host_key("ed25519")];
    let error = Session::connect(&sshd.target, &limits()).await.unwrap_err();
    assert!(matches!(error, ConnectError::HostKeyMismatch { .. }), "{error:?}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!sshd.log().contains("publickey"), "{}", sshd.log());
}
