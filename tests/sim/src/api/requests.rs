//! From an HTTP request to what is asked of the objects, and the answer.

use super::{Kind, Place, Refused, Store, Writer, merge, refused, text};
use http::{Method, Uri};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// One object.
    Get,
    /// Many.
    List,
    /// What changes from a version on.
    Watch,
    /// A new object.
    Create,
    /// A change of one object.
    Patch,
    /// The end of one object.
    Delete,
}

impl Verb {
    /// In Kubernetes' word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }

    /// Whether it changes something.
    pub fn writes(self) -> bool {
        matches!(self, Self::Create | Self::Patch | Self::Delete)
    }
}

/// A request, read.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What is to be done.
    pub verb: Verb,
    /// With what kind.
    pub kind: Kind,
    /// The namespace; empty: all.
    pub namespace: String,
    /// The object; empty for many.
    pub name: String,
    /// Whether `/status` is meant.
    pub status: bool,
    query: BTreeMap<String, String>,
    apply: bool,
    body: Value,
}

/// An answer.
pub type Answer = Result<Value, Refused>;

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                let value = std::str::from_utf8(&hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                bytes.extend(value);
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Asked {
    /// Reads a request; `None` for what this server does not have.
    pub fn read(method: &Method, uri: &Uri, content: &str, body: &[u8]) -> Option<Self> {
        let query: BTreeMap<String, String> = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), decoded(value)))
            .collect();
        let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
        match parts.next()? {
            "api" => drop(parts.next()?),
            "apis" => drop((parts.next()?, parts.next()?)),
            _ => return None,
        }
        let mut next = parts.next()?;
        let mut namespace = String::new();
        if next == "namespaces" {
            namespace = parts.next()?.to_owned();
            next = parts.next()?;
        }
        let kind = Kind::of(next)?;
        let name = parts.next().unwrap_or_default().to_owned();
        let status = parts.next() == Some("status");
        let watches = query.get("watch").is_some_and(|value| value == "true" || value == "1");
        let verb = match *method {
            Method::GET if watches => Verb::Watch,
            Method::GET if name.is_empty() => Verb::List,
            Method::GET => Verb::Get,
            Method::POST => Verb::Create,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ => return None,
        };
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(body).ok()? };
        Some(Self { verb, kind, namespace, name, status, query, apply: content.contains("apply-patch"), body })
    }

    /// What is asked in a few words: the same words for the same call, whoever makes it.
    pub fn words(&self) -> String {
        let name = match (self.verb, self.name.as_str()) {
            (Verb::Create, "") => text(&self.body, &["metadata", "name"]).unwrap_or_default(),
            (_, name) => name,
        };
        // An event is named by the time, which is no part of what is asked.
        let name = if self.kind == Kind::Event { "" } else { name };
        let status = if self.status { "/status" } else { "" };
        let selector = self.query.get("labelSelector").map(String::as_str).unwrap_or_default();
        format!("{} {} {name}{status}{selector}", self.verb.word(), self.kind.plural())
    }

    /// From which version a watch goes on.
    pub fn from_version(&self) -> Option<u64> {
        self.query.get("resourceVersion").filter(|version| *version != "0")?.parse().ok()
    }

    /// How long a watch is to last, in seconds.
    pub fn lasts(&self) -> u64 {
        self.query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(290)
    }

    /// What is written.
    pub fn body(&self) -> &Value {
        &self.body
    }

    fn place(&self) -> Place {
        (self.kind, self.namespace.clone(), self.name.clone())
    }

    /// Does what is asked.
    ///
    /// # Errors
    /// As the server refuses it.
    pub fn done(&self, store: &mut Store) -> Answer {
        let manager = self.query.get("fieldManager").map_or("unknown", String::as_str);
        let writer = Writer { manager, status: self.status };
        match self.verb {
            Verb::Get => match store.get(self.kind, &self.namespace, &self.name) {
                Some(found) => Ok(found.clone()),
                None => refused(404, "NotFound", format!("{} \"{}\" not found", self.kind.plural(), self.name)),
            },
            Verb::List => {
                let items: Vec<Value> = store.all(self.kind).filter(|object| self.selects(object)).cloned().collect();
                let (api_version, kind) = self.kind.words();
                Ok(json!({
                    "apiVersion": api_version, "kind": format!("{kind}List"),
                    "metadata": {"resourceVersion": store.version.to_string()}, "items": items,
                }))
            }
            Verb::Watch => refused(400, "BadRequest", "a watch is no single answer"),
            Verb::Create => store.create(self.kind, &self.namespace, self.body.clone(), manager),
            Verb::Patch if self.apply => store.apply(&self.place(), &self.body, writer),
            Verb::Patch => {
                let place = self.place();
                let Some(object) = store.objects.get(&place) else {
                    return refused(404, "NotFound", format!("{} \"{}\" not found", self.kind.plural(), self.name));
                };
                let mut value = object.value.clone();
                merge::merge(&mut value, &self.body);
                store.replace(&place, value, writer)
            }
            Verb::Delete => {
                let uid = text(&self.body, &["preconditions", "uid"]);
                store.delete(&self.place(), uid)
            }
        }
    }

    /// Whether an object is one of those that are asked for.
    pub fn selects(&self, object: &Value) -> bool {
        let here = self.namespace.is_empty() || object["metadata"]["namespace"] == self.namespace.as_str();
        let labels = self.query.get("labelSelector").map(String::as_str).unwrap_or_default();
        let fields = self.query.get("fieldSelector").map(String::as_str).unwrap_or_default();
        let pairs = |text: &'_ str| -> Vec<(String, String)> {
            text.split(',').filter_map(|pair| pair.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
        };
        here && pairs(labels).iter().all(|(key, value)| object["metadata"]["labels"][key] == value.as_str())
            && pairs(fields)
                .iter()
                .all(|(key, value)| key != "metadata.name" || object["metadata"]["name"] == value.as_str())
    }
}
