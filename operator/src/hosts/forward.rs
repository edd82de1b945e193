//! A port of this process that leads to a port which a machine can reach: for a library that wants an address to connect
//! to, such as a database's driver, where [`http`](super::http) would do with a stream.
//!
//! The port is on loopback, chosen by the kernel, and lives as long as one piece of work ([`Session::forwarded`]): when
//! that ends or is given up, nobody listens any more and every connection is closed. Knows nothing of what is said over it.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::reach::leave;
use super::session::Session;
use super::{Endpoint, Reach};

/// Connections at once. A driver that watches a single server holds two or three.
const AT_ONCE: usize = 4;
/// So long the connections may take to end once the work is done.
const TO_DRAIN: Duration = Duration::from_secs(1);

/// Where a forwarded port leads, and how much may come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The server, as the machine sees it: a name or an address, mostly `127.0.0.1`.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The most that is taken in over one connection, in bytes; then it ends. A server that never stops talking ends here.
    pub max_bytes: u64,
}

/// Why a piece of work could not be done over a forwarded port.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// This computer gives no port on loopback.
    #[error("no port on loopback")]
    NoPort(#[source] std::io::Error),
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
        if let Some(wear) = self.0 {
            wear.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Session {
    /// Does a piece of work that needs an address: `work` gets one on loopback, and each connection to it is carried to the
    /// server through the connection to this machine. The work decides how long it takes; dropping the future ends all of
    /// it.
    ///
    /// # Errors
    /// [`ForwardError`] when there is no port, or the machine cannot reach the server: then the work is given up at once,
    /// since a driver would only try again until its time is up.
    pub async fn forwarded<T, F>(&self, to: &Forwarding, work: impl FnOnce(SocketAddr) -> F) -> Result<T, ForwardError>
    where
        F: Future<Output = T>,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(ForwardError::NoPort)?;
        let address = listener.local_addr().map_err(ForwardError::NoPort)?;
        let mut carried = FuturesUnordered::new();
        let result = {
            let mut work = pin!(work(address));
            loop {
                tokio::select! {
                    done = &mut work => break Ok(done),
                    accepted = listener.accept(), if carried.len() < AT_ONCE => {
                        if let Ok((stream, _)) = accepted {
                            carried.push(self.carry(stream, to));
                        }
                    }
                    Some(ended) = carried.next(), if !carried.is_empty() => {
                        if let Err(reach) = ended {
                            break Err(ForwardError::NotReached {
                                to: format!("port {} of {}", to.port, to.host),
                                from: self.at.clone(),
                                reach,
                            });
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
    async fn carry(&self, mut near: TcpStream, to: &Forwarding) -> Result<(), Reach> {
        let tunnel = self.tunnel(&to.host, to.port, self.limits.reach).await?;
        let mut cut = Cut(Some(&self.wear));
        let (from_far, mut to_far) = tokio::io::split(tunnel);
        let (mut from_near, mut to_near) = near.split();
        let mut bounded = from_far.take(to.max_bytes);
        {
            let down = async {
                let _ = copy(&mut bounded, &mut to_near).await;
                let _ = to_near.shutdown().await;
            };
            let up = async {
                let _ = copy(&mut from_near, &mut to_far).await;
            };
            tokio::select! { () = down => {}, () = up => {} }
        }
        cut.0 = None;
        leave(bounded.into_inner().unsplit(to_far), Arc::clone(&self.wear)).await;
        Ok(())
    }
}
