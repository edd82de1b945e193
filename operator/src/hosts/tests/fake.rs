//! A machine at the other end of an in-memory pipe: the library's own SSH server, which runs commands for real with a
//! shell of this machine, unless it is told to misbehave. It notes all that it is asked.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use russh::keys::{Algorithm, PrivateKey};
use russh::server::{Auth, ChannelOpenHandle, Handle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodSet, Sig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::keys::login_key;
use crate::hosts::wire::{MeteredStream, StreamGuard};
use crate::hosts::{Dial, HostKey, HostStream, Target, Unreached, locked};

/// How a machine deals with logins.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Logins {
    #[default]
    Accepted,
    /// "publickey" stays offered.
    Refused,
    /// Nothing else is offered either.
    RefusedForGood,
    /// The key is right, and not enough.
    MoreWanted,
    /// The connection is cut when the key is shown.
    Cut,
    /// No decision comes.
    Silent,
}

/// What a machine does with a command.
#[derive(Clone, Default)]
pub(super) enum Runs {
    /// Runs it with `sh -c`, like sshd.
    #[default]
    Shell,
    /// As `Shell`, after these words, without a line feed.
    Talks(&'static str),
    /// As `Shell`, but says how it ended before it passes on what was printed.
    ExitFirst,
    /// As `Shell`, and cuts the connection when so many bytes were passed on.
    CutsAfter(usize),
    /// Accepts it, and that is all.
    Nothing,
    /// Says that it will not.
    Refuses,
    /// Sends this forever.
    Floods(&'static [u8]),
    /// Answers with what this makes of the program (from its standard input).
    Answers(fn(&str) -> String),
}

/// What a machine was asked.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) connections: AtomicUsize,
    pub(super) keys_shown: AtomicUsize,
    pub(super) commands: Mutex<Vec<String>>,
    pub(super) stdin: Mutex<Vec<u8>>,
    pub(super) signals: Mutex<Vec<String>>,
}

impl Seen {
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn keys_shown(&self) -> usize {
        self.keys_shown.load(Ordering::SeqCst)
    }

    pub(super) fn commands(&self) -> Vec<String> {
        locked(&self.commands).clone()
    }

    pub(super) fn stdin(&self) -> String {
        String::from_utf8_lossy(&locked(&self.stdin)).into_owned()
    }
}

/// A machine. Cheap to clone; clones are the same machine.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) seen: Arc<Seen>,
    pub(super) target: Target,
    config: Arc<russh::server::Config>,
    logins: Logins,
    runs: Runs,
    banner: Option<String>,
    tunnels: bool,
    /// Bytes sent before SSH begins; after them silence, or the end.
    pub(super) greeting: Option<(&'static [u8], bool)>,
    /// The grips on all connections, to cut them.
    grips: Arc<Mutex<Vec<Arc<StreamGuard>>>>,
    /// What carries the bytes of all connections, to stop them.
    relays: Arc<Mutex<Vec<CancellationToken>>>,
}

impl Machine {
    pub(super) fn new() -> Self {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
        let host_key = HostKey::parse(&key.public_key().to_openssh().unwrap()).unwrap();
        let config = russh::server::Config {
            keys: vec![key],
            auth_rejection_time: Duration::from_millis(1),
            inactivity_timeout: None,
            ..russh::server::Config::default()
        };
        let target = Target {
            id: "uid-1".to_owned(),
            name: "binder-test".to_owned(),
            address: "198.18.0.1".to_owned(),
            port: 22,
            user: "andrew".to_owned(),
            host_keys: vec![host_key],
            key: login_key("secret/1"),
        };
        Self {
            seen: Arc::default(),
            target,
            config: Arc::new(config),
            logins: Logins::default(),
            runs: Runs::default(),
            banner: None,
            tunnels: true,
            greeting: None,
            grips: Arc::default(),
            relays: Arc::default(),
        }
    }

    /// Its host key, as a description pins it.
    pub(super) fn host_key(&self) -> String {
        self.config.keys[0].public_key().to_openssh().unwrap()
    }

    pub(super) fn logins(mut self, logins: Logins) -> Self {
        self.logins = logins;
        self
    }

    pub(super) fn runs(mut self, runs: Runs) -> Self {
        self.runs = runs;
        self
    }

    pub(super) fn banner(mut self, banner: String) -> Self {
        self.banner = Some(banner);
        self
    }

    pub(super) fn without_tunnels(mut self) -> Self {
        self.tunnels = false;
        self
    }

    pub(super) fn greets(mut self, bytes: &'static [u8], then_closes: bool) -> Self {
        self.greeting = Some((bytes, then_closes));
        self
    }

    /// Announces these kinds of signature for logins, and no others.
    pub(super) fn announces(mut self, kinds: &[Algorithm]) -> Self {
        let mut config = russh::server::Config {
            keys: self.config.keys.clone(),
            auth_rejection_time: Duration::from_millis(1),
            inactivity_timeout: None,
            ..russh::server::Config::default()
        };
        config.preferred.key = kinds.to_vec().into();
        self.config = Arc::new(config);
        self
    }

    /// Cuts all its connections.
    pub(super) fn cut(&self) {
        for guard in locked(&self.grips).drain(..) {
            guard.cut();
        }
    }

    /// From now on it neither reads nor writes, and keeps its connections open.
    pub(super) fn freeze(&self) {
        for relay in locked(&self.relays).drain(..) {
            relay.cancel();
        }
    }

    pub(super) async fn connect(&self) -> crate::hosts::Session {
        crate::hosts::Session::connect_over(self, &self.target, &super::limits()).await.unwrap()
    }
}

impl Dial for Machine {
    fn dial<'a>(&'a self, _: &'a Target, _: Duration) -> BoxFuture<'a, Result<Box<dyn HostStream>, Unreached>> {
        Box::pin(async move {
            self.seen.connections.fetch_add(1, Ordering::SeqCst);
            let (ours, mut near) = tokio::io::duplex(64 * 1024);
            let (mut far, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(serve(self.clone(), theirs));
            let frozen = CancellationToken::new();
            locked(&self.relays).push(frozen.clone());
            tokio::spawn(async move {
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    () = frozen.cancelled() => std::future::pending().await,
                }
            });
            Ok(Box::new(ours) as Box<dyn HostStream>)
        })
    }
}

async fn serve(machine: Machine, mut stream: tokio::io::DuplexStream) {
    if let Some((bytes, then_closes)) = machine.greeting {
        let _ = stream.write_all(bytes).await;
        if then_closes {
            let _ = stream.shutdown().await;
        }
        // Stays until the other side goes.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        return;
    }
    let guard = Arc::new(StreamGuard::default());
    guard.admit();
    locked(&machine.grips).push(Arc::clone(&guard));
    let wire = MeteredStream::new(Box::new(stream), Arc::clone(&guard), 0);
    let config = Arc::clone(&machine.config);
    let side = Side { machine, guard, stdin: HashMap::new() };
    if let Ok(session) = russh::server::run_stream(config, wire, side).await {
        let _ = session.await;
    }
}

/// The machine's side of one connection.
struct Side {
    machine: Machine,
    guard: Arc<StreamGuard>,
    stdin: HashMap<ChannelId, mpsc::UnboundedSender<Vec<u8>>>,
}

impl Handler for Side {
    type Error = russh::Error;

    async fn authentication_banner(&mut self) -> Result<Option<String>, russh::Error> {
        Ok(self.machine.banner.clone())
    }

    async fn auth_publickey_offered(&mut self, _: &str, _: PublicKeyOffer<'_>) -> Result<Auth, russh::Error> {
        self.machine.seen.keys_shown.fetch_add(1, Ordering::SeqCst);
        let reject = |methods: MethodSet, partial_success| {
            Ok(Auth::Reject { proceed_with_methods: Some(methods), partial_success })
        };
        match self.machine.logins {
            Logins::Accepted | Logins::MoreWanted => Ok(Auth::Accept),
            Logins::Refused => reject(MethodSet::server_supported(), false),
            Logins::RefusedForGood => reject(MethodSet::empty(), false),
            Logins::Cut => {
                self.guard.cut();
                Ok(Auth::Accept)
            }
            Logins::Silent => std::future::pending().await,
        }
    }

    async fn auth_publickey(&mut self, _: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        match self.machine.logins {
            Logins::MoreWanted => {
                let methods = Some(MethodSet::from(&[russh::MethodKind::KeyboardInteractive][..]));
                Ok(Auth::Reject { proceed_with_methods: methods, partial_success: true })
            }
            _ => Ok(Auth::Accept),
        }
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        if !self.machine.tunnels {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        }
        let to = format!("{host}:{port}");
        tokio::spawn(async move {
            match TcpStream::connect(to).await {
                Ok(mut stream) => {
                    reply.accept().await;
                    let _ = copy_bidirectional(&mut stream, &mut channel.into_stream()).await;
                }
                Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
            }
        });
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let command = String::from_utf8_lossy(command).into_owned();
        locked(&self.machine.seen.commands).push(command.clone());
        if matches!(self.machine.runs, Runs::Refuses) {
            return session.channel_failure(channel);
        }
        session.channel_success(channel)?;
        let (sender, stdin) = mpsc::unbounded_channel();
        self.stdin.insert(channel, sender);
        let run = Run { channel, out: session.handle(), guard: Arc::clone(&self.guard), sent: 0 };
        match self.machine.runs.clone() {
            Runs::Nothing | Runs::Refuses => {}
            Runs::Floods(bytes) => drop(tokio::spawn(run.flood(bytes))),
            Runs::Answers(answer) => drop(tokio::spawn(run.answer(answer, stdin))),
            runs => drop(tokio::spawn(run.shell(command, stdin, runs))),
        }
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _: &mut Session) -> Result<(), russh::Error> {
        locked(&self.machine.seen.stdin).extend_from_slice(data);
        if let Some(stdin) = self.stdin.get(&channel) {
            let _ = stdin.send(data.to_vec());
        }
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), russh::Error> {
        self.stdin.remove(&channel);
        Ok(())
    }

    async fn signal(&mut self, _: ChannelId, signal: Sig, _: &mut Session) -> Result<(), russh::Error> {
        locked(&self.machine.seen.signals).push(format!("{signal:?}"));
        Ok(())
    }
}

/// One command on the machine.
struct Run {
    channel: ChannelId,
    out: Handle,
    guard: Arc<StreamGuard>,
    sent: usize,
}

impl Run {
    async fn shell(mut self, command: String, mut stdin: mpsc::UnboundedReceiver<Vec<u8>>, runs: Runs) {
        if let Runs::Talks(words) = runs {
            let _ = self.out.data(self.channel, words.as_bytes().to_vec()).await;
        }
        let mut child = Command::new("sh")
            .args(["-c", &command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        tokio::spawn(async move {
            while let Some(bytes) = stdin.recv().await {
                if input.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        });
        if matches!(runs, Runs::ExitFirst) {
            // The pipe holds what was printed.
            let status = child.wait().await.unwrap();
            let _ = self.out.exit_status_request(self.channel, u32::try_from(status.code().unwrap()).unwrap()).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (mut more_out, mut more_err) = (true, true);
        let (mut a, mut b) = (vec![0; 8192], vec![0; 8192]);
        while more_out || more_err {
            tokio::select! {
                read = stdout.read(&mut a), if more_out => {
                    let read = read.unwrap();
                    more_out = read > 0;
                    if let Runs::CutsAfter(limit) = runs && self.sent + read >= limit {
                        let _ = self.out.data(self.channel, a[..limit - self.sent].to_vec()).await;
                        // What was sent is to arrive.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        self.guard.cut();
                        return;
                    }
                    self.sent += read;
                    let _ = self.out.data(self.channel, a[..read].to_vec()).await;
                }
                read = stderr.read(&mut b), if more_err => {
                    let read = read.unwrap();
                    more_err = read > 0;
                    let _ = self.out.extended_data(self.channel, 1, b[..read].to_vec()).await;
                }
            }
        }
        if !matches!(runs, Runs::ExitFirst) {
            let status = child.wait().await.unwrap();
            let code = status.code().map_or(255, |code| u32::try_from(code).unwrap());
            let _ = self.out.exit_status_request(self.channel, code).await;
        }
        self.end().await;
    }

    async fn flood(self, bytes: &'static [u8]) {
        while self.out.data(self.channel, bytes.to_vec()).await.is_ok() {}
    }

    async fn answer(self, answer: fn(&str) -> String, mut stdin: mpsc::UnboundedReceiver<Vec<u8>>) {
        let mut program = Vec::new();
        while let Some(bytes) = stdin.recv().await {
            program.extend(bytes);
        }
        let _ = self.out.data(self.channel, answer(&String::from_utf8_lossy(&program)).into_bytes()).await;
        let _ = self.out.exit_status_request(self.channel, 0).await;
        self.end().await;
    }

    async fn end(self) {
        let _ = self.out.eof(self.channel).await;
        let _ = self.out.close(self.channel).await;
    }
}
