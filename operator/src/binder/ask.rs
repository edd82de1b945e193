//! One question over HTTP through a host's connection, with its answer or, in words that do not change from look to look,
//! why there is none.

use crate::hosts::{HttpAnswer, HttpError, HttpPath, LocalHttp, Session};
use http::HeaderName;
use secrecy::SecretString;
use std::time::Duration;

/// How long a server may take. What works answers within milliseconds; a server whose database is away never does, and a
/// look must not wait for it.
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Where a question goes.
pub(crate) struct To<'a> {
    /// A name or an address, as the machine knows it.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The parts of the path.
    pub path: &'a [&'a str],
    /// Whether the path ends with a slash.
    pub slash: bool,
    /// Parameters.
    pub query: &'a [(&'a str, &'a str)],
    /// A header with a secret.
    pub secret: Option<(HeaderName, SecretString)>,
}

/// Asks.
pub(crate) async fn get(session: &Session, to: To<'_>, limit: Duration) -> Result<HttpAnswer, NoAnswer> {
    let path = HttpPath::of(to.path.iter().copied()).map_err(|bad| NoAnswer::Other(bad.to_string()))?;
    let path = if to.slash { path.slash() } else { path };
    let path = to.query.iter().fold(path, |path, (name, value)| path.query(name, value));
    let request = LocalHttp { host: to.host.to_owned(), port: to.port, path, headers: to.secret.into_iter().collect() };
    match tokio::time::timeout(limit, session.http(request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(HttpError::NotReached { .. })) => Err(NoAnswer::NotReached),
        Err(_) | Ok(Err(HttpError::TimedOut { .. })) => Err(NoAnswer::TimedOut(limit)),
        Ok(Err(HttpError::TooLarge { limit, .. })) => Err(NoAnswer::Other(format!("it says more than {limit} bytes"))),
        Ok(Err(error @ HttpError::NoRoom { .. })) => Err(NoAnswer::Other(error.to_string())),
        Ok(Err(_)) => Err(NoAnswer::Other("it does not answer as a web server should".to_owned())),
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// No connection.
    #[error("no connection to it")]
    NotReached,
    /// It takes too long.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Something else.
    #[error("{0}")]
    Other(String),
}
