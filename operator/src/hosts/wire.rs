//! The stream under a connection: how it is dialled, how it is cut, and how much may come over it before a login.
//!
//! Knows TCP and bytes, nothing of SSH. The dialling is behind a trait, so that tests put a machine at the other end of
//! an in-memory pipe.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::locked;
use super::networks::Networks;
use super::target::Target;

/// What a connection runs over.
pub trait HostStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> HostStream for T {}

/// Gets a stream to a machine's sshd.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `target.address` and `target.port`, taking at most `limit`.
    fn dial<'a>(&'a self, target: &'a Target, limit: Duration)
    -> BoxFuture<'a, Result<Box<dyn HostStream>, Unreached>>;
}

/// Why there is no connection at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// The machine answers, and nothing listens there.
    #[error("the port is closed (connection refused)")]
    Refused,
    /// No way to it, as the operator's own machine or a router says.
    #[error("no route to it")]
    NoRoute,
    /// Nothing answered: down, cut off, or behind a firewall that drops.
    #[error("nothing answered within {} s", after.as_secs_f32())]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// The address is a name that does not resolve.
    #[error("its name cannot be resolved")]
    NameNotFound,
    /// The operator's administrator does not let it connect there ([`Networks`]). Nothing was sent.
    #[error("the operator does not connect to {address} (its flags --allow-network and --deny-network)")]
    NotAllowed {
        /// What the address of the description is.
        address: IpAddr,
    },
    /// Connected, and cut off by the other side at once.
    #[error("the connection was cut (reset)")]
    Reset,
    /// Anything else that the operating system says.
    #[error("{0}")]
    Other(String),
}

impl From<&io::Error> for Unreached {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
                Self::NoRoute
            }
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::Reset,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// Dials over TCP, within these networks.
#[derive(Debug, Clone, Default)]
pub struct Tcp(pub Networks);

impl Dial for Tcp {
    fn dial<'a>(
        &'a self,
        target: &'a Target,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Box<dyn HostStream>, Unreached>> {
        Box::pin(async move {
            match tokio::time::timeout(limit, dial_tcp(&target.address, target.port, &self.0)).await {
                Ok(Ok(stream)) => Ok(Box::new(stream) as Box<dyn HostStream>),
                Ok(Err(unreached)) => Err(unreached),
                Err(_) => Err(Unreached::TimedOut { after: limit }),
            }
        })
    }
}

/// Tries the addresses of a name in turn, those that are within the networks; the last failure is told.
pub(super) async fn dial_tcp(address: &str, port: u16, networks: &Networks) -> Result<TcpStream, Unreached> {
    let addresses = tokio::net::lookup_host((address, port)).await.map_err(|_| Unreached::NameNotFound)?;
    let mut failure = Unreached::NameNotFound;
    for address in addresses {
        if !networks.allow(address.ip()) {
            if failure == Unreached::NameNotFound {
                failure = Unreached::NotAllowed { address: address.ip() };
            }
            continue;
        }
        let began = Instant::now();
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Many small packets go to and fro, and each is waited for. Failure only costs time.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%address, %error, "no TCP_NODELAY");
                }
                return Ok(stream);
            }
            // The kernel's own patience may be shorter than ours.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                failure = Unreached::TimedOut { after: Duration::from_secs(began.elapsed().as_secs()) };
            }
            Err(error) => failure = Unreached::from(&error),
        }
    }
    Err(failure)
}

/// The hold on a stream that was handed to the SSH library: it can be cut at any time, and it tells what came.
///
/// The library's own task ends a connection only when it next looks, which during a key exchange that hangs is never.
#[derive(Debug, Default)]
pub(super) struct StreamGuard {
    cut: CancellationToken,
    admitted: AtomicBool,
    flooded: AtomicBool,
    received: AtomicU64,
    opening: Mutex<Vec<u8>>,
}

/// As much of a greeting is kept for a message.
const OPENING_BYTES: usize = 256;

impl StreamGuard {
    /// Ends the stream, both ways, now.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// The login is done: from here on, bytes are bounded for each use of the connection and not in total.
    pub(super) fn admit(&self) {
        self.admitted.store(true, Ordering::Relaxed);
    }

    /// Whether more came before the login than is allowed.
    pub(super) fn flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The first line that came, raw.
    pub(super) fn first_line(&self) -> Vec<u8> {
        let opening = locked(&self.opening);
        opening.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec()
    }

    fn take_in(&self, bytes: &[u8], allowed: u64) -> io::Result<()> {
        let total = self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
        if total - (bytes.len() as u64) < OPENING_BYTES as u64 {
            let mut opening = locked(&self.opening);
            let room = OPENING_BYTES.saturating_sub(opening.len()).min(bytes.len());
            opening.extend_from_slice(&bytes[..room]);
        }
        if total > allowed && !self.admitted.load(Ordering::Relaxed) {
            self.flooded.store(true, Ordering::Relaxed);
            return Err(io::Error::other("too much was sent before the login"));
        }
        Ok(())
    }
}

/// A stream with a [`StreamGuard`] on it.
pub(super) struct MeteredStream {
    inner: Box<dyn HostStream>,
    guard: Arc<StreamGuard>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    allowed: u64,
}

impl MeteredStream {
    /// `allowed` is how many bytes may come before [`StreamGuard::admit`].
    pub(super) fn new(inner: Box<dyn HostStream>, guard: Arc<StreamGuard>, allowed: u64) -> Self {
        let cut = Box::pin(guard.cut.clone().cancelled_owned());
        Self { inner, guard, cut, allowed }
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        Poll::Ready(self.guard.take_in(&buf.filled()[before..], self.allowed))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A stream that was cut counts as shut down, so that the library's task goes on to its last notes.
        if self.poll_cut(cx).is_err() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn wire(allowed: u64) -> (MeteredStream, tokio::io::DuplexStream, Arc<StreamGuard>) {
        let (near, far) = duplex(1024);
        let guard = Arc::new(StreamGuard::default());
        (MeteredStream::new(Box::new(near), Arc::clone(&guard), allowed), far, guard)
    }

    #[tokio::test]
    async fn a_name_leads_nowhere_that_is_not_allowed_and_nothing_is_sent_there() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let denied = Networks { deny: parsed(&["127.0.0.0/8", "::1/128"]), ..Networks::default() };
        let other = Networks { allow: parsed(&["10.0.0.0/8"]), ..Networks::default() };
        for networks in [denied, other] {
            for address in ["localhost", "127.0.0.1", "::ffff:127.0.0.1"] {
                let failed = dial_tcp(address, port, &networks).await.unwrap_err();
                assert!(matches!(failed, Unreached::NotAllowed { .. }), "{address}: {failed}");
            }
        }
        let waits = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
        assert!(waits.is_err(), "somebody connected");
        assert!(dial_tcp("localhost", port, &Networks::default()).await.is_ok());
    }

    #[tokio::test]
    async fn a_cut_wakes_a_reader_that_waits() {
        let (mut wire, _far, guard) = wire(10);
        let reader = tokio::spawn(async move { wire.read_u8().await });
        tokio::task::yield_now().await;
        guard.cut();
        assert_eq!(reader.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn the_flood_ends_at_the_limit_unless_admitted() {
        let (mut near, mut far, guard) = wire(10);
        far.write_all(b"0123456789A").await.unwrap();
        let mut seen = [0; 10];
        near.read_exact(&mut seen).await.unwrap();
        assert!(!guard.flooded());
        assert!(near.read_u8().await.is_err());
        assert!(guard.flooded());

        let (mut near, mut far, guard) = wire(10);
        guard.admit();
        far.write_all(&[0; 64]).await.unwrap();
        near.read_exact(&mut [0; 64]).await.unwrap();
        assert_eq!(guard.received(), 64);
    }

    #[tokio::test]
    async fn the_first_line_is_kept() {
        let (mut near, mut far, guard) = wire(1 << 20);
        far.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
        far.write_all(&[b'x'; 500]).await.unwrap();
        near.read_exact(&mut [0; 526]).await.unwrap();
        assert_eq!(guard.first_line(), b"HTTP/1.1 400 Bad Request\r");
    }
}
