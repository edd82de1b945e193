//! A socket of this process that leads to a port which a machine can reach: for a library that wants an address to connect
//! to, such as a database's driver, where [`http`](super::http) would do with a stream.
//!
//! It is a Unix socket in a directory that nobody else may enter: a port on loopback would be open to every user of the
//! operator's computer, and what it leads to often asks for no password. It lives as long as one piece of work
//! ([`Session::forwarded`]): when that ends or is given up, nobody listens any more and every connection is closed. Knows
//! nothing of what is said over it but who judges that ([`Screen`]).

use std::future::Future;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::reach::leave;
use super::room::Guest;
use super::session::Session;
use super::{Endpoint, Reach};

/// Connections at once. A driver that watches a single server holds two or three.
const AT_ONCE: usize = 4;
/// So long the connections may take to end once the work is done.
const TO_DRAIN: Duration = Duration::from_secs(1);

/// How much is read at once.
const PIECE: usize = 16 * 1024;

/// Judges what comes from a server before anybody here reads it: given the bytes that have come, how many of them are one whole
/// message that may be handed on; `None` when more has to come, and in words why nothing more is taken.
pub type Screen = fn(&[u8]) -> Result<Option<usize>, String>;

/// Where a forwarded port leads, and how much may come back.
#[derive(Clone, Debug)]
pub struct Forwarding {
    /// The server, as the machine sees it: a name or an address, mostly `127.0.0.1`.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The most that is taken in over one connection, in bytes; then it ends. A server that never stops talking ends here.
    pub max_bytes: u64,
    /// Who judges what comes back; `None`: it is handed on as it comes.
    pub screen: Option<Screen>,
}

/// A Unix socket in a directory of its own, which goes with it.
struct Place {
    directory: PathBuf,
    socket: PathBuf,
}

impl Place {
    fn new() -> io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("binder-operator-{:032x}", rand::random::<u128>()));
        // Fails if it is there already: nobody can have made it before us.
        std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
        Ok(Self { socket: directory.join("tunnel"), directory })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What stays behind leads nowhere.
        let _ = std::fs::remove_file(&self.socket);
        let _ = std::fs::remove_dir(&self.directory);
    }
}

/// Why one connection was not carried to its end.
enum Broken {
    NotReached(Reach),
    Refused(String),
}

/// Why a piece of work could not be done over a forwarded port.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// This computer gives no socket in its directory for temporary files (`TMPDIR`).
    #[error("no socket in the directory for temporary files")]
    NoSocket(#[source] std::io::Error),
    /// The server sends what must not be read. The work was given up.
    #[error("{to}, seen from {from}: {why}")]
    Refused {
        /// Server and port.
        to: String,
        /// The machine.
        from: Endpoint,
        /// What it sends.
        why: String,
    },
    /// The machine could not reach the server. The work was given up.
    #[error("{to}, seen from {from}: {reach}")]
    NotReached {
        /// Server and port.
        to: String,
        /// The machine.
        from: Endpoint,
        /// What it found instead; never [`Reach::Open`].
        reach: Reach,
    },
}

/// A connection that is cut instead of left wears the session out a little.
struct Cut<'a>(Option<&'a Arc<AtomicU32>>);

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        if let Some(leaked_channels) = self.0 {
            leaked_channels.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Session {
    /// Does a piece of work that needs an address: `work` gets the path of a Unix socket, and each connection to it is carried
    /// to the server through the connection to this machine. The work decides how long it takes; dropping the future ends all
    /// of it.
    ///
    /// # Errors
    /// [`ForwardError`] when there is no socket, the machine cannot reach the server, or the server sends what must not be
    /// read: then the work is given up at once, since a driver would only try again until its time is up.
    pub async fn forwarded<T, F>(&self, to: &Forwarding, work: impl FnOnce(PathBuf) -> F) -> Result<T, ForwardError>
    where
        F: Future<Output = T>,
    {
        let place = Place::new().map_err(ForwardError::NoSocket)?;
        let listener = listen(&place.socket).map_err(ForwardError::NoSocket)?;
        let server = || (format!("port {} of {}", to.port, to.host), self.at.clone());
        let mut carried = FuturesUnordered::new();
        let result = {
            let mut work = pin!(work(place.socket.clone()));
            loop {
                tokio::select! {
                    done = &mut work => break Ok(done),
                    accepted = listener.accept(), if carried.len() < AT_ONCE => {
                        if let Ok((stream, _)) = accepted {
                            carried.push(self.carry(stream, to));
                        }
                    }
                    Some(ended) = carried.next(), if !carried.is_empty() => {
                        match ended {
                            Ok(()) => {}
                            Err(Broken::NotReached(reach)) => {
                                let (to, from) = server();
                                break Err(ForwardError::NotReached { to, from, reach });
                            }
                            Err(Broken::Refused(why)) => {
                                let (to, from) = server();
                                break Err(ForwardError::Refused { to, from, why });
                            }
                        }
                    }
                }
            }
        };
        drop(listener);
        // The work has closed its connections by now; what has not ended after a moment is cut.
        let _ = timeout(TO_DRAIN, async { while carried.next().await.is_some() {} }).await;
        result
    }

    /// Carries one connection until either end closes it.
    async fn carry(&self, mut near: UnixStream, to: &Forwarding) -> Result<(), Broken> {
        let tunnel = self.tunnel(&to.host, to.port, self.limits.reach).await.map_err(Broken::NotReached)?;
        let mut cut = Cut(Some(&self.leaked_channels));
        let (from_far, mut to_far) = tokio::io::split(tunnel);
        let (mut from_near, mut to_near) = near.split();
        let mut bounded = from_far.take(to.max_bytes);
        let ended = {
            let down = async {
                let ended = match to.screen {
                    None => copy(&mut bounded, &mut to_near).await.map(drop).or(Ok(())),
                    Some(screen) => {
                        // What is bounded as a whole may all be in somebody's hands; else what waits to be handed on.
                        let whole = to.max_bytes < u64::MAX;
                        screened(&mut bounded, &mut to_near, screen, (self.limits.room.guest(), whole)).await
                    }
                };
                let _ = to_near.shutdown().await;
                ended
            };
            let up = async {
                let _ = copy(&mut from_near, &mut to_far).await;
            };
            tokio::select! { ended = down => ended, () = up => Ok(()) }
        };
        // What was refused is cut at once, and not listened to any longer.
        ended.map_err(Broken::Refused)?;
        cut.0 = None;
        leave(bounded.into_inner().unsplit(to_far), Arc::clone(&self.leaked_channels)).await;
        Ok(())
    }
}

fn listen(at: &Path) -> io::Result<UnixListener> {
    UnixListener::bind(at)
}

/// Hands whole messages on, each only when it was judged.
async fn screened(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    screen: Screen,
    (mut room, whole): (Guest, bool),
) -> Result<(), String> {
    let mut handed_on = 0;
    let mut come: Vec<u8> = Vec::new();
    let mut piece = vec![0_u8; PIECE];
    loop {
        let mut done = 0;
        while let Some(length) = screen(&come[done..])? {
            if to.write_all(&come[done..done + length]).await.is_err() {
                return Ok(());
            }
            done += length;
        }
        come.drain(..done);
        handed_on += done;
        match from.read(&mut piece).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(read) => {
                come.extend_from_slice(&piece[..read]);
                let held = if whole { handed_on + come.len() } else { come.len() };
                room.hold(held).map_err(|no_room| no_room.to_string())?;
            }
        }
    }
}
