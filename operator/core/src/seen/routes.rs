//! The routes of Binder's proxy (configurable-http-proxy) against the namespaces of its cluster.
//!
//! An app has both, named by its id: the namespace comes first and goes first, the route comes last and goes last
//! (`binder-deploy-kubernetes`, `lib/state/app.js`). A route that outlives its namespace is stale.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// As many odd routes are shown.
const SHOWN: usize = 5;

/// The id of an app: exactly 32 lower-case hexadecimal digits. Nothing else is ever put into a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct AppId(String);

/// What is no app's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an app's id has exactly 32 lower-case hexadecimal digits")]
pub struct NoAppId;

impl AppId {
    /// The id as text: 32 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AppId {
    type Error = NoAppId;

    fn try_from(text: String) -> Result<Self, NoAppId> {
        let digits = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if digits { Ok(Self(text)) } else { Err(NoAppId) }
    }
}

/// What was seen of the routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// How many routes lead to an app whose namespace is there.
    pub live: u32,
    /// Routes to apps whose namespace is not there.
    pub orphans: BTreeSet<AppId>,
    /// Some routes under `/user/` that no app can have, as a person can be shown them.
    pub odd: Vec<String>,
    /// How many there are of those.
    pub odd_count: u32,
}

/// Reads an answer to `GET /api/routes` together with the names of all namespaces, which must have been read after it: then
/// a route whose namespace is missing is not that of an app which was being made meanwhile. Routes that do not lead under
/// `/user/` are somebody else's and are passed over.
///
/// # Errors
/// It is not what the proxy says.
pub fn routes(body: &[u8], namespaces: &BTreeSet<String>) -> Result<Routes, String> {
    #[derive(Deserialize)]
    struct Route {
        #[allow(dead_code, reason = "a row without a target is not a route")]
        target: String,
    }
    let all: BTreeMap<String, Route> =
        serde_json::from_slice(body).map_err(|_| "its answer is not a table of routes".to_owned())?;
    let mut seen = Routes::default();
    for path in all.into_keys() {
        let Some(name) = path.strip_prefix("/user/") else { continue };
        match AppId::try_from(name.to_owned()) {
            Ok(id) if namespaces.contains(id.as_str()) => seen.live += 1,
            Ok(id) => {
                seen.orphans.insert(id);
            }
            Err(NoAppId) => {
                seen.odd_count += 1;
                if seen.odd.len() < SHOWN {
                    seen.odd.push(shown(&path));
                }
            }
        }
    }
    Ok(seen)
}

fn shown(path: &str) -> String {
    let clean = |c: char| if c.is_ascii_graphic() && !matches!(c, '`' | '"' | '\'') { c } else { '?' };
    path.chars().map(clean).take(60).collect()
}

/// How a route without a namespace is marked.
pub fn mark(id: &AppId) -> String {
    format!("route {}", id.as_str())
}

/// Routes without a namespace: how long that lasts matters.
pub(super) fn marks(routes: &Routes) -> BTreeSet<String> {
    routes.orphans.iter().map(mark).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "0123456789abcdef0123456789abcdef";
    const B: &str = "ffffffffffffffffffffffffffffffff";

    fn read(paths: &[&str], namespaces: &[&str]) -> Routes {
        let route = serde_json::json!({"target": "http://198.19.0.1:8888", "last_activity": "2016-06-01T12:00:00Z"});
        let all: BTreeMap<&str, _> = paths.iter().map(|path| (*path, &route)).collect();
        let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
        routes(serde_json::to_string(&all).unwrap().as_bytes(), &namespaces).unwrap()
    }

    #[test]
    fn a_route_is_an_orphan_only_without_its_namespace() {
        let (a, b) = (format!("/user/{A}"), format!("/user/{B}"));
        let seen = read(&[&a, &b, "/", "/hub"], &["default", "kube-system", A]);
        assert_eq!((seen.live, seen.odd_count), (1, 0));
        assert_eq!(seen.orphans.iter().map(AppId::as_str).collect::<Vec<_>>(), [B]);
    }

    #[test]
    fn odd_names_are_shown_cleanly_and_are_never_ids() {
        let upper = format!("/user/{}", B.to_uppercase());
        let below = format!("/user/{A}/tree");
        let long = format!("/user/{A}0");
        let odd = [
            "/user/..",
            "/user/../../pods",
            "/user/",
            "/user/%2e%2e",
            "/user/$(reboot)",
            "/user/\u{1b}[2J",
            &upper,
            &below,
            &long,
        ];
        let seen = read(&odd, &[]);
        assert!(seen.orphans.is_empty());
        assert_eq!((seen.odd_count, seen.odd.len()), (9, 5));
        assert!(seen.odd.iter().all(|path| path.chars().all(|c| c.is_ascii_graphic())));
        for name in ["..", "", A.to_uppercase().as_str(), &format!("{A}\n"), "0123456789abcdef0123456789abcde/"] {
            assert!(AppId::try_from(name.to_owned()).is_err());
            assert!(serde_json::from_value::<AppId>(serde_json::json!(name)).is_err());
        }
    }

    #[test]
    fn what_is_no_table_of_routes_is_none() {
        for body in [r#"{"/user/a": 7}"#, "[]", "Forbidden", r#"{"kind": "Status"}"#] {
            assert!(routes(body.as_bytes(), &BTreeSet::new()).is_err(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn only_ids_come_out(paths in proptest::collection::vec("(/user/)?[0-9a-fA-F./]{0,40}", 0..8)) {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            for id in read(&paths, &[]).orphans {
                prop_assert!(id.as_str().len() == 32 && !id.as_str().contains(['.', '/']));
            }
        }

        #[test]
        fn any_answer_is_survived(body in ".{0,300}") {
            let _ = routes(body.as_bytes(), &BTreeSet::new());
        }
    }
}
