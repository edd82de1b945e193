//! Where the Compute Engine API is: Google's own address, a private one, or the lab's on this computer.

use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;
use http::uri::Scheme;

use crate::hosts::HttpPath;

/// The base of an API: a scheme, a host and a port, and nothing else. `https`, or `http` to an address of this computer:
/// what goes there carries a token, so a network never sees it in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Uri);

/// What is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// It is no URL.
    #[error("not a URL: write one such as https://compute.googleapis.com")]
    NotAUrl,
    /// It has more than a scheme, a host and a port.
    #[error(
        "write scheme, host and port only, such as https://compute.googleapis.com: no user, path, query or fragment"
    )]
    TooMuch,
    /// A token would go through a network in the clear.
    #[error("plain http is for an address of this computer only, such as http://127.0.0.1:8443: write https")]
    InTheClear,
}

impl Endpoint {
    /// The address of one of its resources.
    pub(super) fn resource(&self, path: &HttpPath) -> Result<Uri, http::Error> {
        let mut parts = self.0.clone().into_parts();
        parts.path_and_query = Some(path.to_string().parse()?);
        Ok(Uri::from_parts(parts)?)
    }

    /// Host and port, for messages.
    pub(super) fn host(&self) -> String {
        host(&self.0)
    }

    /// Whether it is on this computer.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.0)
    }

    /// Whether a URL has the same scheme, host and port.
    pub(super) fn is_origin_of(&self, uri: &Uri) -> bool {
        let origin = |uri: &Uri| {
            let port = uri.port_u16().unwrap_or(if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 });
            (uri.scheme().cloned(), uri.host().map(str::to_ascii_lowercase), port)
        };
        origin(&self.0) == origin(uri)
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let uri: Uri = text.parse().map_err(|_| BadEndpoint::NotAUrl)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(BadEndpoint::NotAUrl);
        }
        // A fragment is not part of what was parsed.
        if has_user(&uri) || uri.path() != "/" || uri.query().is_some() || text.contains('#') {
            return Err(BadEndpoint::TooMuch);
        }
        if uri.scheme() != Some(&Scheme::HTTPS) && !is_loopback(&uri) {
            return Err(BadEndpoint::InTheClear);
        }
        Ok(Self(uri))
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.to_string().trim_end_matches('/'))
    }
}

/// Host and port of a URL, fit to be shown: never a user or password.
pub(super) fn host(uri: &Uri) -> String {
    let name = uri.host().unwrap_or_default();
    uri.port_u16().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"))
}

/// Whether a URL carries a user or a password.
pub(super) fn has_user(uri: &Uri) -> bool {
    uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
}

/// Whether a URL names an address of this computer. A name, `localhost` included, is not one: what it means is up to
/// whoever answers for names.
pub(super) fn is_loopback(uri: &Uri) -> bool {
    let name = uri.host().unwrap_or_default();
    name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_over_tls_or_stays_on_this_computer() {
        for good in [
            "https://compute.googleapis.com",
            "https://compute-mine.p.googleapis.com/",
            "https://10.0.0.2:8443",
            "http://127.0.0.1:4000",
            "http://[::1]:4000",
        ] {
            assert!(good.parse::<Endpoint>().is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://compute.googleapis.com", BadEndpoint::InTheClear),
            ("http://localhost:4000", BadEndpoint::InTheClear),
            ("http://10.0.0.2", BadEndpoint::InTheClear),
            ("http://127.0.0.1.example.org", BadEndpoint::InTheClear),
            ("http://127.0.0.1@10.0.0.2", BadEndpoint::TooMuch),
            ("https://me:secret@compute.googleapis.com", BadEndpoint::TooMuch),
            ("https://compute.googleapis.com/compute/v1", BadEndpoint::TooMuch),
            ("https://compute.googleapis.com?key=1", BadEndpoint::TooMuch),
            ("https://compute.googleapis.com#x", BadEndpoint::TooMuch),
            ("compute.googleapis.com", BadEndpoint::NotAUrl),
            ("file:///etc/passwd", BadEndpoint::NotAUrl),
            ("/compute", BadEndpoint::NotAUrl),
            ("", BadEndpoint::NotAUrl),
        ] {
            assert_eq!(bad.parse::<Endpoint>(), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_segment_cannot_leave_its_place() {
        let endpoint: Endpoint = "https://compute.googleapis.com".parse().unwrap();
        let path = HttpPath::of(["compute", "v1", "a/b?c#d", "e"]).unwrap().query("q", "1&2");
        let uri = endpoint.resource(&path).unwrap();
        assert_eq!(uri.to_string(), "https://compute.googleapis.com/compute/v1/a%2Fb%3Fc%23d/e?q=1%262");
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let endpoint: Endpoint = "https://compute.example.org".parse().unwrap();
        for (uri, same) in [
            ("https://Compute.example.org:443/token", true),
            ("http://compute.example.org/token", false),
            ("https://compute.example.org:8443/token", false),
            ("https://example.org/token", false),
        ] {
            assert_eq!(endpoint.is_origin_of(&uri.parse().unwrap()), same, "{uri}");
        }
    }
}
