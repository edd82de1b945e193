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
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::channel::open;
use super::client::{Refusal, in_words};
use super::session::Session;

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

/// A stream from a machine to a port that it reached.
pub(super) type Tunnel = ChannelStream<Msg>;

impl Session {
    /// Whether the machine can open a TCP connection to `host` (a name or an address, as the machine sees it) and
    /// `port`, within [`Limits::reach`](super::Limits::reach). The connection is closed again at once; nothing is sent.
    pub async fn can_reach(&self, host: &str, port: u16) -> Reach {
        match self.tunnel(host, port, self.limits.reach).await {
            Ok(tunnel) => {
                tokio::spawn(leave(tunnel, Arc::clone(&self.wear)));
                Reach::Open
            }
            Err(reach) => reach,
        }
    }

    /// Whether something that greets by itself, as every sshd does, greets the machine on `host` and `port`, within
    /// [`Limits::reach`](super::Limits::reach). A frozen machine still accepts connections, since its kernel does: only a
    /// greeting is a sign of life. [`Reach::Open`] means that one came; an open port that stays silent is
    /// [`Reach::TimedOut`].
    pub async fn is_greeted(&self, host: &str, port: u16) -> Reach {
        let limit = self.limits.reach;
        let mut tunnel = match self.tunnel(host, port, limit).await {
            Ok(tunnel) => tunnel,
            Err(reach) => return reach,
        };
        let mut first = [0_u8; 4];
        let greeting = timeout(limit, tunnel.read_exact(&mut first)).await;
        tokio::spawn(leave(tunnel, Arc::clone(&self.wear)));
        match greeting {
            Ok(Ok(_)) => Reach::Open,
            // It closes at once: somebody is there, and turns us away.
            Ok(Err(_)) => Reach::Refused,
            Err(_) => Reach::TimedOut { after: limit },
        }
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
pub(super) async fn leave(mut tunnel: Tunnel, wear: Arc<AtomicU32>) {
    let closed = async {
        tunnel.shutdown().await?;
        let mut rest = (&mut tunnel).take(LEFTOVERS);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        std::io::Result::Ok(rest.limit() > 0)
    };
    match timeout(TO_CLOSE, closed).await {
        Ok(Ok(true)) => tokio::time::sleep(LAST_WORDS).await,
        _ => {
            wear.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(3);

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
