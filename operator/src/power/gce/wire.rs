//! One HTTP request and its whole answer, bounded in time and size; and what Google's APIs mean by their statuses.

use std::sync::OnceLock;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderValue};
use http::{Method, StatusCode, Uri};
use jiff::Timestamp;
use reqwest::{Client, RequestBuilder, redirect, retry};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::timeout;

use super::endpoint::host;
use crate::hosts::sanitize;
use crate::power::Fault;

/// As whom this operator introduces itself.
const AGENT: &str = concat!("binder-operator/", env!("CARGO_PKG_VERSION"));

/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(60);

/// From the first packet to a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// More than any answer that is asked for, in bytes: an instance's metadata is at most 512 KiB.
pub(super) const MAX_ANSWER: usize = 2 << 20;

/// How much of what a cloud says in an error is told, in characters.
const SAID_CHARS: usize = 300;

/// What a request has in its body.
#[derive(Clone)]
pub(super) enum Body {
    /// Nothing.
    None,
    /// JSON.
    Json(Value),
    /// A form, encoded already. It is a secret.
    Form(SecretString),
}

/// A request.
pub(super) struct Ask<'a> {
    /// How.
    pub(super) method: Method,
    /// What.
    pub(super) uri: Uri,
    /// In whose name.
    pub(super) bearer: Option<&'a SecretString>,
    /// With what.
    pub(super) body: Body,
    /// How long the whole of it may take.
    pub(super) limit: Duration,
}

/// A client for HTTPS. Made when it is first needed: without a machine in a cloud, root certificates need not be there.
pub(super) struct Wire {
    client: OnceLock<Result<Client, String>>,
    /// Whether plain HTTP is spoken too, to this computer.
    loopback: bool,
}

impl Wire {
    /// `loopback`: everything that is asked is on this computer, so that it may be asked without TLS.
    pub(super) fn new(loopback: bool) -> Self {
        Self { client: OnceLock::new(), loopback }
    }

    /// Sends a request, and reads the answer as JSON if it is a good one; with the other side's clock, if it tells it.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<(Value, Option<Timestamp>), Fault> {
        let (from, limit) = (host(&ask.uri), ask.limit);
        let whole = timeout(limit, self.converse(ask));
        let (status, date, bytes) = whole.await.map_err(|_| Fault::TimedOut { from: from.clone(), limit })??;
        if !status.is_success() {
            return Err(refusal(status, &bytes));
        }
        let json = serde_json::from_slice(&bytes).map_err(|_| Fault::Unreadable { from, what: "it is not JSON" })?;
        Ok((json, date))
    }

    async fn converse(&self, ask: Ask<'_>) -> Result<(StatusCode, Option<Timestamp>, Vec<u8>), Fault> {
        let from = host(&ask.uri);
        let client = self.client.get_or_init(|| client(self.loopback)).as_ref();
        let client = client.map_err(|why| Fault::Tls { why: why.clone() })?;
        let request = request(client, ask).map_err(|source| Fault::Unwritable { to: from.clone(), source })?;
        let unreachable = |error: reqwest::Error| Fault::Unreachable {
            from: from.clone(),
            sent: !error.is_connect() && !error.is_builder(),
            // The address has been told already.
            source: Box::new(error.without_url()),
        };
        let mut answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok()).and_then(clock);
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + piece.len() > MAX_ANSWER {
                return Err(Fault::TooLong { from, limit: MAX_ANSWER });
            }
            body.extend_from_slice(&piece);
        }
        Ok((status, date, body))
    }
}

/// A time as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn clock(date: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()
}

fn request(client: &Client, ask: Ask<'_>) -> Result<RequestBuilder, http::Error> {
    let mut request = client.request(ask.method, ask.uri.to_string());
    if let Some(bearer) = ask.bearer {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", bearer.expose_secret()))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    Ok(match ask.body {
        Body::None => request,
        Body::Json(json) => request.header(CONTENT_TYPE, "application/json").body(json.to_string()),
        Body::Form(form) => {
            request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.expose_secret().to_owned())
        }
    })
}

/// A client that trusts what the system trusts, goes nowhere that it was not sent, and sends nothing twice by itself: what
/// may be repeated is the caller's to say.
fn client(loopback: bool) -> Result<Client, String> {
    // `main` has done so already; a program of somebody else's may not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(AGENT)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .https_only(!loopback)
        .tcp_nodelay(true)
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .build()
        .map_err(|error| crate::chain::chain(&error))
}

/// What a status other than success means.
fn refusal(status: StatusCode, body: &[u8]) -> Fault {
    let (reason, said) = told(body);
    let code = status.as_u16();
    // Compute Engine says 403 to an account that asks too often, and gives the reason beside it.
    let too_many = matches!(reason.as_str(), "rateLimitExceeded" | "userRateLimitExceeded" | "quotaExceeded");
    match code {
        429 => Fault::TooMany { status: code, said },
        403 if too_many => Fault::TooMany { status: code, said },
        401 => Fault::NotAccepted { said },
        403 => Fault::Forbidden { said },
        404 => Fault::NotFound { said },
        409 | 412 => Fault::Conflict { status: code, said },
        400 if reason == "resourceNotReady" => Fault::NotReady { said },
        500..=599 => Fault::Unwell { status: code, said },
        _ => Fault::Refused { status: code, said },
    }
}

/// The reason and the words of an error, of either of Google's two shapes: `{"error": {"message", "errors": [{"reason"}]}}`
/// for APIs, `{"error", "error_description"}` for tokens.
fn told(body: &[u8]) -> (String, String) {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &json["error"];
    let reason = error["errors"][0]["reason"].as_str().or(error.as_str()).unwrap_or_default();
    let words = error["message"].as_str().or(json["error_description"].as_str());
    let said = match words {
        Some(words) if error.is_string() => format!("{reason}: {words}"),
        Some(words) => words.to_owned(),
        None if !reason.is_empty() => reason.to_owned(),
        None => "it does not say why".to_owned(),
    };
    (sanitize(reason.as_bytes(), 64), sanitize(said.as_bytes(), SAID_CHARS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::Retryability;
    use proptest::prelude::*;
    use serde_json::json;

    fn of(status: u16, reason: &str) -> Fault {
        let body = json!({"error": {"code": status, "message": "said\u{1b}[2J so", "errors": [{"reason": reason}]}});
        refusal(StatusCode::from_u16(status).unwrap(), body.to_string().as_bytes())
    }

    #[test]
    fn statuses_are_told_apart_by_what_helps() {
        for (status, reason, cure) in [
            (400, "invalid", Retryability::Person),
            (400, "resourceNotReady", Retryability::Later),
            (401, "authError", Retryability::Person),
            (403, "forbidden", Retryability::Person),
            (403, "accessNotConfigured", Retryability::Person),
            (403, "rateLimitExceeded", Retryability::Later),
            (404, "notFound", Retryability::Person),
            (409, "alreadyExists", Retryability::Later),
            (412, "conditionNotMet", Retryability::Later),
            (429, "", Retryability::Later),
            (500, "backendError", Retryability::Later),
            (503, "", Retryability::Later),
            (302, "", Retryability::Person),
        ] {
            let fault = of(status, reason);
            assert_eq!(fault.retryability(), cure, "{status} {reason}");
            assert!(!fault.to_string().contains('\u{1b}') && fault.to_string().contains("said so"), "{fault}");
        }
    }

    #[test]
    fn the_clock_of_the_other_side_is_read() {
        assert_eq!(clock("Sun, 06 Nov 1994 08:49:37 GMT").unwrap().to_string(), "1994-11-06T08:49:37Z");
        assert!(clock("Sunday").is_none());
    }

    #[test]
    fn both_shapes_of_an_error_are_read() {
        let body = br#"{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}"#;
        assert_eq!(told(body), ("invalid_grant".into(), "invalid_grant: Invalid JWT Signature.".into()));
        assert_eq!(told(b"<html>"), (String::new(), "it does not say why".into()));
    }

    proptest! {
        #[test]
        fn any_body_is_survived(status in 100u16..600, body in any::<Vec<u8>>()) {
            let fault = refusal(StatusCode::from_u16(status).unwrap(), &body);
            prop_assert!(fault.to_string().chars().count() < SAID_CHARS + 120);
        }
    }
}
