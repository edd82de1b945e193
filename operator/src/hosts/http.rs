//! HTTP to a server as a machine sees it, through the connection to that machine: no port is opened in a firewall, no
//! `curl` is needed there, and no key appears in a process list.
//!
//! Knows HTTP/1.1 and its limits. What the servers mean by their answers is the affair of those who ask. Reading is
//! free; whatever changes something costs a [`Permit`], as a command does.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::limits::Limits;
use super::reach::{Tunnel, leave};
use super::room::NoRoom;
use super::sanitize;
use super::session::Session;
use super::tls::{unwrapped, wrapped};
use super::{Endpoint, Reach};
use binder_core::gate::Permit;

/// A `GET` request to a server that a machine can reach.
#[derive(Debug, Clone)]
pub struct LocalHttp {
    /// Where the server listens, as the machine sees it: a name or an address, mostly `127.0.0.1`.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What is asked for.
    pub path: HttpPath,
    /// Further headers. All are treated as secrets, since most are.
    pub headers: Vec<(HeaderName, SecretString)>,
}

/// A request that changes something.
#[derive(Debug, Clone)]
pub struct LocalHttpChange {
    /// Where to, and with which headers.
    pub to: LocalHttp,
    /// What is to be done.
    pub method: Method,
    /// A body of JSON, if any.
    pub json: Option<Vec<u8>>,
}

/// The methods that change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
}

impl From<Method> for http::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Post => Self::POST,
            Method::Put => Self::PUT,
            Method::Delete => Self::DELETE,
        }
    }
}

/// The path of a request, of segments that are each encoded: what is inside a segment can neither end it nor start a
/// query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpPath(String);

/// A segment that no path can hold: empty, `.` or `..`, which servers resolve before they look.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{segment}` cannot be a part of a path")]
pub struct BadPath {
    segment: String,
}

impl HttpPath {
    /// `/a/b` of `["a", "b"]`; `/` of nothing.
    pub fn of<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<Self, BadPath> {
        let mut path = String::new();
        for segment in segments {
            if matches!(segment, "" | "." | "..") {
                return Err(BadPath { segment: segment.to_owned() });
            }
            path.push('/');
            encode(segment, &mut path);
        }
        if path.is_empty() {
            path.push('/');
        }
        Ok(Self(path))
    }

    /// With a slash at its end, which Binder's servers want for a list.
    #[must_use]
    pub fn slash(mut self) -> Self {
        if !self.0.ends_with('/') {
            self.0.push('/');
        }
        self
    }

    /// With a query of one more parameter. To be called after [`HttpPath::slash`].
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        encode(name, &mut self.0);
        self.0.push('=');
        encode(value, &mut self.0);
        self
    }
}

impl fmt::Display for HttpPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All but the unreserved characters of RFC 3986 as `%XX`.
fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// What a server answered. An error status is an answer too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The permit is for another machine. Nothing was sent.
    #[error("the permit is for host {permitted}, not {host}")]
    WrongHost {
        /// The host of the permit.
        permitted: String,
        /// The host of the session.
        host: String,
    },
    /// The host's name or a header holds what HTTP cannot carry. Nothing was sent.
    #[error("the request to {to} cannot be written: {what}")]
    Unwritable {
        /// Server and path.
        to: String,
        /// Which part. Never the value.
        what: String,
    },
    /// The machine could not reach the server. Nothing was sent.
    #[error("{to}, seen from {from}: {reach}")]
    NotReached {
        /// Server and path.
        to: String,
        /// The machine.
        from: Endpoint,
        /// What it found instead.
        reach: Reach,
    },
    /// The server took too long.
    #[error("{to}, seen from {from}, gave no answer within {} s", after.as_secs_f32())]
    TimedOut {
        /// Server and path.
        to: String,
        /// The machine.
        from: Endpoint,
        /// [`Limits::http`](super::Limits::http).
        after: Duration,
    },
    /// The answer was larger than [`Limits::http_bytes`](super::Limits::http_bytes).
    #[error("{to}, seen from {from}, answers with over {limit} bytes (status {status})")]
    TooLarge {
        /// Server and path.
        to: String,
        /// The machine.
        from: Endpoint,
        /// The limit, in bytes.
        limit: usize,
        /// The status code that came first.
        status: u16,
    },
    /// There was no room for its answer beside those of other machines ([`Room`](super::Room)). It says nothing of the server.
    #[error("{to}, seen from {from}: {NoRoom}")]
    NoRoom {
        /// Server and path.
        to: String,
        /// The machine.
        from: Endpoint,
    },
    /// What came was no HTTP, or broke off.
    #[error("{to}, seen from {from}, does not answer as a web server should: {why}")]
    Broken {
        /// Server and path.
        to: String,
        /// The machine.
        from: Endpoint,
        /// What was wrong.
        why: String,
    },
}

impl HttpError {
    /// Whether the server may have acted on the request all the same.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::WrongHost { .. } | Self::Unwritable { .. } | Self::NotReached { .. } => false,
            Self::TimedOut { .. } | Self::TooLarge { .. } | Self::NoRoom { .. } | Self::Broken { .. } => true,
        }
    }
}

/// The largest head of an answer, in bytes.
const HEAD_BYTES: usize = 64 * 1024;

impl Session {
    /// Asks a server that the machine can reach. Within [`Limits::http`](super::Limits::http), all told; redirects are
    /// not followed.
    pub async fn http(&self, request: LocalHttp) -> Result<HttpAnswer, HttpError> {
        self.exchange(request, http::Method::GET, None, false).await
    }

    /// As [`Session::http`], inside TLS that proves nothing: any certificate is taken. To see whether somebody answers on the
    /// machine's own loopback address, and for nothing that anybody would have to be trusted for; no header is sent.
    pub async fn https_unproven(&self, request: LocalHttp) -> Result<HttpAnswer, HttpError> {
        self.exchange(LocalHttp { headers: Vec::new(), ..request }, http::Method::GET, None, true).await
    }

    /// Has a server change something. The permit is spent, whatever comes of it, and a permit for another host is
    /// refused.
    pub async fn http_change(&self, permit: Permit, change: LocalHttpChange) -> Result<HttpAnswer, HttpError> {
        if permit.done_on() != self.host {
            return Err(HttpError::WrongHost { permitted: permit.done_on().to_owned(), host: self.host.clone() });
        }
        tracing::info!(host = %self.at, action = permit.action(), to = %url(&change.to, false), "changing");
        self.exchange(change.to, change.method.into(), change.json, false).await
    }

    /// Has servers change several things, one after another, in one step with one permit. A permit for another host is
    /// refused.
    ///
    /// # Errors
    /// [`HttpError::WrongHost`]; nothing is sent then.
    pub fn http_changes(&self, permit: Permit) -> Result<HttpChanges<'_>, HttpError> {
        if permit.done_on() != self.host {
            return Err(HttpError::WrongHost { permitted: permit.done_on().to_owned(), host: self.host.clone() });
        }
        Ok(HttpChanges { session: self, permit })
    }

    async fn exchange(
        &self,
        request: LocalHttp,
        method: http::Method,
        json: Option<Vec<u8>>,
        tls: bool,
    ) -> Result<HttpAnswer, HttpError> {
        let to = url(&request, tls);
        let message = written(&request, method, json)
            .map_err(|what| HttpError::Unwritable { to: to.clone(), what: what.to_owned() })?;
        let from = || self.at.clone();
        let talk = async {
            let tunnel = self
                .tunnel(&request.host, request.port, self.limits.http)
                .await
                .map_err(|reach| HttpError::NotReached { to: to.clone(), from: from(), reach })?;
            let answered = if tls {
                match wrapped(tunnel, &self.leaked_channels).await {
                    Ok(tunnel) => answer(tunnel, message, &self.limits, &self.leaked_channels, unwrapped).await,
                    Err(trouble) => Err(trouble),
                }
            } else {
                answer(tunnel, message, &self.limits, &self.leaked_channels, |tunnel| tunnel).await
            };
            answered.map_err(|trouble| match trouble {
                Trouble::TooLarge { status } => {
                    HttpError::TooLarge { to: to.clone(), from: from(), limit: self.limits.http_bytes, status }
                }
                Trouble::NoRoom => HttpError::NoRoom { to: to.clone(), from: from() },
                Trouble::Broken(why) => HttpError::Broken { to: to.clone(), from: from(), why },
            })
        };
        match timeout(self.limits.http, talk).await {
            Ok(result) => result,
            Err(_) => Err(HttpError::TimedOut { to, from: from(), after: self.limits.http }),
        }
    }
}

/// The requests of one step. The permit is spent with it.
#[derive(Debug)]
pub struct HttpChanges<'s> {
    session: &'s Session,
    permit: Permit,
}

impl HttpChanges<'_> {
    /// The next one, as [`Session::http_change`].
    ///
    /// # Errors
    /// As there.
    pub async fn change(&mut self, change: LocalHttpChange) -> Result<HttpAnswer, HttpError> {
        let session = self.session;
        tracing::info!(host = %session.at, action = self.permit.action(), to = %url(&change.to, false), "changing");
        session.exchange(change.to, change.method.into(), change.json, false).await
    }
}

/// For messages. A path may hold names, never secrets.
fn url(request: &LocalHttp, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}{}", authority(request), request.path)
}

fn authority(request: &LocalHttp) -> String {
    let host = sanitize(request.host.as_bytes(), 253);
    if host.contains(':') { format!("[{host}]:{}", request.port) } else { format!("{host}:{}", request.port) }
}

fn written(
    request: &LocalHttp,
    method: http::Method,
    json: Option<Vec<u8>>,
) -> Result<Request<Full<Bytes>>, &'static str> {
    let mut message = Request::new(Full::new(Bytes::from(json.clone().unwrap_or_default())));
    *message.method_mut() = method;
    *message.uri_mut() = request.path.0.parse().map_err(|_| "its path")?;
    let headers = message.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(&authority(request)).map_err(|_| "the server's name")?);
    // One request, one tunnel: the server closes it, and nothing is left behind.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if json.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    for (name, value) in &request.headers {
        let mut value = HeaderValue::from_str(value.expose_secret().trim_end()).map_err(|_| "a header")?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(message)
}

pub(super) enum Trouble {
    TooLarge { status: u16 },
    NoRoom,
    Broken(String),
}

impl Trouble {
    pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> Self {
        // The library's outer error often says no more than "client error"; the inner one says what happened.
        let mut words = error.to_string();
        let mut inner = error.source();
        while let Some(error) = inner {
            words = format!("{words}: {error}");
            inner = error.source();
        }
        Self::Broken(sanitize(words.as_bytes(), 200))
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    tunnel: S,
    message: Request<Full<Bytes>>,
    limits: &Limits,
    leaked_channels: &Arc<AtomicU32>,
    bare: fn(S) -> Tunnel,
) -> Result<HttpAnswer, Trouble> {
    let (mut sender, mut connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(tunnel))
        .await
        .map_err(|error| Trouble::broken(&error))?;
    let worn = Arc::clone(leaked_channels);
    let task = tokio::spawn(async move {
        // Its errors reach the request as well.
        let _ = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        leave(bare(connection.into_parts().io.into_inner()), worn).await;
    });
    let mut hold = Hold { task: Some(task.abort_handle()), leaked_channels };
    let answer = sender.send_request(message).await.map_err(|error| Trouble::broken(&error))?;
    let status = answer.status().as_u16();
    let mut from = Limited::new(answer.into_body(), limits.http_bytes);
    // Whoever asked reads the answer as soon as it is whole, so its room is needed no longer than this.
    let mut room = limits.room.guest();
    let mut body = Vec::new();
    while let Some(frame) = from.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() { Trouble::TooLarge { status } } else { Trouble::broken(error.as_ref()) }
        })?;
        if let Some(bytes) = frame.data_ref() {
            body.extend_from_slice(bytes);
            room.hold(body.len()).map_err(|_| Trouble::NoRoom)?;
        }
    }
    hold.task = None;
    Ok(HttpAnswer { status, body })
}

/// Ends the exchange at once when it is given up, so that a server that never stops talking is not listened to.
struct Hold<'a> {
    task: Option<AbortHandle>,
    leaked_channels: &'a AtomicU32,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            self.leaked_channels.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_stays_one() {
        let path = HttpPath::of(["builds", "a/b?c#d%2e é"]).unwrap();
        assert_eq!(path.to_string(), "/builds/a%2Fb%3Fc%23d%252e%20%C3%A9");
        assert_eq!(HttpPath::of(["health"]).unwrap().slash().to_string(), "/health/");
        assert_eq!(HttpPath::of([]).unwrap().slash().to_string(), "/");
        let routes = HttpPath::of(["api", "routes"]).unwrap().query("inactive_since", "a&b").query("c", "=");
        assert_eq!(routes.to_string(), "/api/routes?inactive_since=a%26b&c=%3D");
        for bad in ["", ".", ".."] {
            assert!(HttpPath::of(["builds", bad]).is_err());
        }
    }

    #[test]
    fn secrets_are_not_shown_and_cannot_add_headers() {
        let mut request = LocalHttp {
            host: "127.0.0.1".into(),
            port: 8086,
            path: HttpPath::of(["health"]).unwrap().slash(),
            headers: vec![(http::header::AUTHORIZATION, "s3cr3t\n".to_owned().into())],
        };
        let message = written(&request, http::Method::GET, None).unwrap();
        assert_eq!(message.headers()["authorization"], "s3cr3t");
        assert_eq!(message.headers()["host"], "127.0.0.1:8086");
        assert!(!format!("{message:?} {request:?}").contains("s3cr3t"));
        request.headers = vec![(http::header::AUTHORIZATION, "a\r\nX-Evil: b".to_owned().into())];
        assert_eq!(written(&request, http::Method::GET, None).unwrap_err(), "a header");
    }
}
