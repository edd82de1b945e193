//! One HTTP request at a time, from this computer: to the Binder servers, the users' proxy, the cloud stand-in.
//!
//! Knows no API.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// From connecting to the last byte.
const LIMIT: Duration = Duration::from_secs(10);

/// More than any answer of Binder's, in bytes.
const MAX_BODY: usize = 8 << 20;

/// No answer, or none that could be read.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody accepts the connection.
    #[error("cannot reach {to}")]
    Connect {
        /// The address.
        to: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The request cannot be put into words.
    #[error("not a request")]
    Request(#[from] http::Error),
    /// The conversation broke off.
    #[error("{to} did not answer in full")]
    Broken {
        /// The address.
        to: SocketAddr,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("{to} did not answer within {LIMIT:?}")]
    TimedOut {
        /// The address.
        to: SocketAddr,
    },
    /// The answer is not what was asked for.
    #[error("{to} answered {status}: {body}")]
    Status {
        /// The address.
        to: SocketAddr,
        /// The status.
        status: u16,
        /// What it said.
        body: String,
    },
    /// The answer is no JSON.
    #[error("{to} answered with something else than JSON: {body}")]
    NotJson {
        /// The address.
        to: SocketAddr,
        /// What it said.
        body: String,
    },
}

/// An answer in full.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body; bytes that are no UTF-8 are replaced.
    pub body: String,
}

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `GET`, `POST`, `DELETE`.
    pub method: &'a str,
    /// The path with its query.
    pub path: &'a str,
    /// The value of the `Authorization` header.
    pub authorization: Option<&'a str>,
    /// A JSON body.
    pub json: Option<&'a serde_json::Value>,
}

impl<'a> Request<'a> {
    /// A plain `GET`.
    pub fn get(path: &'a str) -> Self {
        Self { method: "GET", path, authorization: None, json: None }
    }

    /// With an `Authorization` header.
    #[must_use]
    pub fn authorized(mut self, value: &'a str) -> Self {
        self.authorization = Some(value);
        self
    }

    /// Sends it and takes the answer, whatever its status.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn send(self, to: SocketAddr) -> Result<Answer, HttpError> {
        tokio::time::timeout(LIMIT, self.converse(to)).await.map_err(|_| HttpError::TimedOut { to })?
    }

    /// Sends it and takes anything but a 2xx for an error.
    ///
    /// # Errors
    /// As [`Request::send`], and when the status is another.
    pub async fn text(self, to: SocketAddr) -> Result<String, HttpError> {
        let Answer { status, body } = self.send(to).await?;
        if (200..300).contains(&status) { Ok(body) } else { Err(HttpError::Status { to, status, body }) }
    }

    /// Sends it and takes anything but a 2xx with JSON for an error.
    ///
    /// # Errors
    /// As [`Request::text`], and when the answer is no JSON.
    pub async fn json(self, to: SocketAddr) -> Result<serde_json::Value, HttpError> {
        let body = self.text(to).await?;
        serde_json::from_str(&body).map_err(|_| HttpError::NotJson { to, body })
    }

    async fn converse(self, to: SocketAddr) -> Result<Answer, HttpError> {
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| HttpError::Broken { to, source };
        let stream = TcpStream::connect(to).await.map_err(|source| HttpError::Connect { to, source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| broken(error.into()))?;
        let conversation = tokio::spawn(connection);
        let mut request = http::Request::builder().method(self.method).uri(self.path).header("host", to.to_string());
        if let Some(value) = self.authorization {
            request = request.header("authorization", value);
        }
        let body = match self.json {
            Some(json) => {
                request = request.header("content-type", "application/json");
                json.to_string()
            }
            None => String::new(),
        };
        let request = request.body(Full::new(Bytes::from(body)))?;
        let answer = sender.send_request(request).await.map_err(|error| broken(error.into()))?;
        let status = answer.status().as_u16();
        let bytes = Limited::new(answer.into_body(), MAX_BODY).collect().await.map_err(broken)?.to_bytes();
        conversation.abort();
        Ok(Answer { status, body: String::from_utf8_lossy(&bytes).into_owned() })
    }
}
