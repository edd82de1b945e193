//! Can this machine reach that port? The question of the runbook's `telnet`, asked without a telnet: sshd opens the
//! connection for us, or says why it cannot.
//!
//! Also what [`http`](super::http) is built on: a stream from a machine to a port.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use russh::client::Msg;
use russh::{ChannelOpenFailure, ChannelStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::channel::open;
use super::client::{Refusal, in_words};
use super::networks::Networks;
use super::session::Session;
use super::wire::{Unreached, dial_tcp};

/// What a machine found when it tried to reach a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Something accepts connections there.
    Open,
    /// The other machine answers, and nothing listens on the port. In particular, that machine is up.
    Refused,
    /// Nothing answered in time: down, cut off, or behind a firewall that drops.
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// There is no way to it from this machine.
    NoRoute,
    /// Its name does not resolve on this machine.
    NameNotFound,
    /// Not known, and why: this machine forbids tunnels, or its own connection broke. Says nothing about the port.
    Unknown(String),
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Refused => f.write_str("closed (connection refused)"),
            Self::TimedOut { after } => write!(f, "no answer within {} s", after.as_secs_f32()),
            Self::NoRoute => f.write_str("no route to it"),
            Self::NameNotFound => f.write_str("its name does not resolve"),
            Self::Unknown(why) => write!(f, "unknown: {why}"),
        }
    }
}

/// What was heard from a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// An sshd's greeting.
    Ssh,
    /// Something else was said.
    Spoke,
    /// The connection was accepted, and nothing was said in time.
    Silent,
    /// The connection was accepted, and ended by the other side without a word.
    Ended,
    /// There was no connection; never [`Reach::Open`].
    Not(Reach),
}

/// How an sshd's greeting begins (RFC 4253, 4.2).
const SSH: &[u8; 4] = b"SSH-";

/// Says something, and hears the first bytes of what comes back. What is heard is kept from nobody and shown to nobody.
async fn hear<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, opener: &[u8], limit: Duration) -> Greeting {
    let (mut first, mut heard) = ([0_u8; 4], 0);
    let talk = async {
        if !opener.is_empty() {
            stream.write_all(opener).await?;
            stream.flush().await?;
        }
        while heard < first.len() {
            match stream.read(&mut first[heard..]).await? {
                0 => break,
                more => heard += more,
            }
        }
        std::io::Result::Ok(())
    };
    let in_time = timeout(limit, talk).await;
    match (heard, in_time) {
        (0, Ok(_)) => Greeting::Ended,
        (0, Err(_)) => Greeting::Silent,
        _ if &first == SSH => Greeting::Ssh,
        // What has begun to speak is alive, whatever it goes on with.
        _ => Greeting::Spoke,
    }
}

/// What the operator itself hears from an sshd, over a connection of its own that logs in nowhere: the last look before a
/// machine is restarted from outside. `limit` is for the connection, and again for the greeting.
pub async fn knock(address: &str, port: u16, networks: &Networks, limit: Duration) -> Greeting {
    match timeout(limit, dial_tcp(address, port, networks)).await {
        Err(_) => Greeting::Not(Reach::TimedOut { after: limit }),
        Ok(Err(unreached)) => match &unreached {
            Unreached::Refused | Unreached::Reset => Greeting::Not(Reach::Refused),
            Unreached::NoRoute => Greeting::Not(Reach::NoRoute),
            Unreached::NameNotFound => Greeting::Not(Reach::NameNotFound),
            Unreached::TimedOut { after } => Greeting::Not(Reach::TimedOut { after: *after }),
            Unreached::NotAllowed { .. } | Unreached::Other(_) => Greeting::Not(Reach::Unknown(unreached.to_string())),
        },
        Ok(Ok(mut stream)) => hear(&mut stream, &[], limit).await,
    }
}

/// A stream from a machine to a port that it reached.
pub(super) type Tunnel = ChannelStream<Msg>;

impl Session {
    /// Whether the machine can open a TCP connection to `host` (a name or an address, as the machine sees it) and
    /// `port`, within [`Limits::reach`](super::Limits::reach). The connection is closed again at once; nothing is sent.
    pub async fn can_reach(&self, host: &str, port: u16) -> Reach {
        match self.tunnel(host, port, self.limits.reach).await {
            Ok(tunnel) => {
                tokio::spawn(leave(tunnel, Arc::clone(&self.leaked_channels)));
                Reach::Open
            }
            Err(reach) => reach,
        }
    }

    /// What the machine hears from `host` and `port` after it said `opener`, within
    /// [`Limits::reach`](super::Limits::reach) for the connection and again for the answer. An sshd greets by itself, so for
    /// one nothing is said. A frozen machine still accepts connections, since its kernel does: only what is said is a sign of
    /// life.
    pub async fn greeting(&self, host: &str, port: u16, opener: &[u8]) -> Greeting {
        let limit = self.limits.reach;
        let mut tunnel = match self.tunnel(host, port, limit).await {
            Ok(tunnel) => tunnel,
            Err(reach) => return Greeting::Not(reach),
        };
        let greeting = hear(&mut tunnel, opener, limit).await;
        tokio::spawn(leave(tunnel, Arc::clone(&self.leaked_channels)));
        // What ended together with our own connection was not ended by the other side.
        if greeting == Greeting::Ended && !self.is_open() {
            return Greeting::Not(Reach::Unknown("its own connection was lost".to_owned()));
        }
        greeting
    }

    /// Whether the machine's own end of this connection answers: a round trip that asks for nothing, within
    /// [`Limits::reach`](super::Limits::reach). It is the same process there that carries tunnels.
    pub async fn is_alive(&self) -> bool {
        // A connection that ends meanwhile ends the wait for an answer too.
        timeout(self.limits.reach, self.handle.send_ping()).await.is_ok_and(|sent| sent.is_ok()) && self.is_open()
    }

    /// A stream from the machine to `host` and `port`; the error is never [`Reach::Open`].
    pub(super) async fn tunnel(&self, host: &str, port: u16, limit: Duration) -> Result<Tunnel, Reach> {
        let started = Instant::now();
        let seen = self.notes.refusals();
        let handle = Arc::clone(&self.handle);
        let to = host.to_owned();
        // The originator is for the machine's log; ours is nobody's business there.
        let opening = async move { handle.channel_open_direct_tcpip(to, u32::from(port), "127.0.0.1", 0).await };
        match open(opening, started + limit).await {
            Some(Ok(channel)) => Ok(channel.into_stream()),
            Some(Err(russh::Error::ChannelOpenFailure(code))) => {
                Err(self.why_refused(seen, code, started.elapsed()).await)
            }
            Some(Err(error)) => Err(Reach::Unknown(match self.notes.ending() {
                Some(_) => self.ending_in_words(),
                None => in_words(&error),
            })),
            None => Err(Reach::TimedOut { after: limit }),
        }
    }

    /// Finds the words that belong to a refusal. The library gives them to the connection's task, right after it woke
    /// us, without saying whose they are. If other tunnels failed meanwhile and for other reasons, nobody can tell, and
    /// the answer is that: a port that is taken for refused vouches for a machine.
    async fn why_refused(&self, seen: u64, code: ChannelOpenFailure, after: Duration) -> Reach {
        tokio::time::sleep(WORDS_FOLLOW).await;
        let mut meanings: Vec<Reach> =
            self.notes.refusals_since(seen).iter().map(|refusal| meaning(refusal, after)).collect();
        meanings.dedup();
        match meanings.as_slice() {
            [one] => one.clone(),
            [] => Reach::Unknown(code.description().to_owned()),
            _ => Reach::Unknown("several ports failed at once, for different reasons".to_owned()),
        }
    }
}

/// So soon after a refusal its words are known: they come in the same message.
const WORDS_FOLLOW: Duration = Duration::from_millis(20);

/// What sshd's words mean: those of `strerror` for a connection that failed, of `getaddrinfo` for a name.
fn meaning(refusal: &Refusal, after: Duration) -> Reach {
    let words = refusal.words.to_lowercase();
    match refusal.code {
        ChannelOpenFailure::ConnectFailed if words.contains("connection refused") => Reach::Refused,
        ChannelOpenFailure::ConnectFailed if words.contains("no route") || words.contains("unreachable") => {
            Reach::NoRoute
        }
        ChannelOpenFailure::ConnectFailed if words.contains("timed out") => Reach::TimedOut { after },
        ChannelOpenFailure::ConnectFailed
            if words.contains("not known") || words.contains("name resolution") || words.contains("unknown host") =>
        {
            Reach::NameNotFound
        }
        ChannelOpenFailure::AdministrativelyProhibited => {
            Reach::Unknown("its sshd forbids tunnels (AllowTcpForwarding, PermitOpen)".to_owned())
        }
        _ => Reach::Unknown(refusal.words.clone()),
    }
}

/// So long the other end may take to close a tunnel that we are done with.
const TO_CLOSE: Duration = Duration::from_secs(1);
/// For the machine's own goodbye after the end of the stream.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// As much is still read from a tunnel that we are done with.
const LEFTOVERS: u64 = 64 * 1024;

/// Closes a tunnel after the other end had a moment to do so first, since a channel that we close first leaves
/// something behind in the library.
pub(super) async fn leave(mut tunnel: Tunnel, leaked_channels: Arc<AtomicU32>) {
    let closed = async {
        tunnel.shutdown().await?;
        let mut rest = (&mut tunnel).take(LEFTOVERS);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        std::io::Result::Ok(rest.limit() > 0)
    };
    match timeout(TO_CLOSE, closed).await {
        Ok(Ok(true)) => tokio::time::sleep(LAST_WORDS).await,
        _ => {
            leaked_channels.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(3);

    /// A port that accepts, says `says`, and then ends the connection or holds it.
    async fn port(says: &'static [u8], holds: bool) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(says).await;
                if holds {
                    tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
                }
            }
        });
        port
    }

    #[tokio::test]
    async fn what_a_port_says_is_told_from_that_it_is_open() {
        let limit = Duration::from_millis(300);
        for (says, holds, heard) in [
            (&b"SSH-2.0-x\r\n"[..], true, Greeting::Ssh),
            (b"Not allowed at this time\r\n", false, Greeting::Spoke),
            (b"S", true, Greeting::Spoke),
            (b"", true, Greeting::Silent),
            (b"", false, Greeting::Ended),
        ] {
            let port = port(says, holds).await;
            assert_eq!(knock("127.0.0.1", port, &Networks::default(), limit).await, heard, "{says:?}");
        }
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let anywhere = Networks::default();
        assert_eq!(knock("127.0.0.1", closed, &anywhere, limit).await, Greeting::Not(Reach::Refused));
        let elsewhere = Networks { deny: vec!["127.0.0.0/8".parse().unwrap()], ..Networks::default() };
        let heard = knock("127.0.0.1", port(b"SSH-2.0-x\r\n", true).await, &elsewhere, limit).await;
        assert!(matches!(heard, Greeting::Not(Reach::Unknown(_))), "{heard:?}");
    }

    #[test]
    fn the_words_of_sshd_are_understood() {
        let meant =
            |words: &str| meaning(&Refusal { code: ChannelOpenFailure::ConnectFailed, words: words.to_owned() }, AFTER);
        assert_eq!(meant("Connection refused"), Reach::Refused);
        assert_eq!(meant("No route to host"), Reach::NoRoute);
        assert_eq!(meant("Network is unreachable"), Reach::NoRoute);
        assert_eq!(meant("Connection timed out"), Reach::TimedOut { after: AFTER });
        assert_eq!(meant("Name or service not known"), Reach::NameNotFound);
        assert_eq!(meant("Temporary failure in name resolution"), Reach::NameNotFound);
        assert!(matches!(meant("something else"), Reach::Unknown(_)));
        let forbidden =
            Refusal { code: ChannelOpenFailure::AdministrativelyProhibited, words: "connection refused".to_owned() };
        assert!(matches!(meaning(&forbidden, AFTER), Reach::Unknown(_)));
    }
}
