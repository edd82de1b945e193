//! A Kubernetes API server in memory: the objects, as far as the operator can tell them from a real server's. Knows nothing of
//! machines, of faults or of who asks.
//!
//! What it does not do: field ownership by more than one manager below a list, admission by CEL, finalizers, paging.

mod merge;
mod requests;
pub mod service;

pub use requests::{Answer, Asked, Verb};

use crate::tamed::EPOCH;
use binder_crds::{BinderAction, BinderFleet, BinderHost};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// The kinds that the operator uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `BinderFleet`.
    Fleet,
    /// `BinderHost`.
    Host,
    /// `BinderAction`.
    Action,
    /// `Secret`.
    Secret,
    /// `Event` of `events.k8s.io`.
    Event,
}

impl Kind {
    /// From the plural in a path.
    pub fn of(plural: &str) -> Option<Self> {
        Some(match plural {
            "binderfleets" => Self::Fleet,
            "binderhosts" => Self::Host,
            "binderactions" => Self::Action,
            "secrets" => Self::Secret,
            "events" => Self::Event,
            _ => return None,
        })
    }

    /// Its plural.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Fleet => "binderfleets",
            Self::Host => "binderhosts",
            Self::Action => "binderactions",
            Self::Secret => "secrets",
            Self::Event => "events",
        }
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Fleet => ("fleet.binder-project.org/v1alpha1", "BinderFleet"),
            Self::Host => ("fleet.binder-project.org/v1alpha1", "BinderHost"),
            Self::Action => ("fleet.binder-project.org/v1alpha1", "BinderAction"),
            Self::Secret => ("v1", "Secret"),
            Self::Event => ("events.k8s.io/v1", "Event"),
        }
    }

    fn has_status(self) -> bool {
        matches!(self, Self::Fleet | Self::Host | Self::Action)
    }
}

/// An object's place: kind, namespace and name.
pub type Place = (Kind, String, String);

/// An object, and which of its fields somebody applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// As it is told.
    pub value: Value,
    /// The fields that each manager applied, as paths.
    pub applied: BTreeMap<String, BTreeSet<Vec<String>>>,
    /// Who has written its spec.
    pub writers: BTreeSet<String>,
}

/// One change, as a watch tells it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The version that it made.
    pub version: u64,
    /// Of which kind.
    pub kind: Kind,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub word: &'static str,
    /// The object.
    pub object: Value,
}

/// As many changes are kept for watches; what is older is compacted.
const KEPT: usize = 2000;

/// The objects.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// All of them.
    pub objects: BTreeMap<Place, Object>,
    /// The last changes.
    pub changes: VecDeque<Change>,
    /// The version of the last change.
    pub version: u64,
    /// What is older than this is no longer known.
    pub compacted: u64,
    uids: u64,
    /// Time since the world's beginning.
    pub now: Duration,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status.
    pub code: u16,
    /// Kubernetes' word for it.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

/// Refuses.
pub fn refused<T>(code: u16, reason: &'static str, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code, reason, message: message.into() })
}

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// Whether the write is to `/status`.
    pub status: bool,
}

impl Store {
    /// The server's clock, in whole seconds.
    fn stamp(&self) -> String {
        let seconds = i64::try_from(self.now.as_secs()).unwrap_or_default();
        let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(EPOCH + seconds);
        at.to_string()
    }

    /// An object.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind, namespace.to_owned(), name.to_owned())).map(|object| &object.value)
    }

    /// All objects of a kind, by name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Value> {
        let from = (kind, String::new(), String::new());
        self.objects.range(from..).take_while(move |((of, ..), _)| *of == kind).map(|(_, object)| &object.value)
    }

    /// Makes an object.
    ///
    /// # Errors
    /// It is there already, or is not what its kind is.
    pub fn create(&mut self, kind: Kind, namespace: &str, mut value: Value, manager: &str) -> Result<Value, Refused> {
        let Some(name) = text(&value, &["metadata", "name"]).map(str::to_owned) else {
            return refused(422, "Invalid", "metadata.name is missing");
        };
        let place = (kind, namespace.to_owned(), name.clone());
        if self.objects.contains_key(&place) {
            return refused(409, "AlreadyExists", format!("{} \"{name}\" already exists", kind.plural()));
        }
        self.uids += 1;
        let stamp = self.stamp();
        let uid = format!("{:08x}-0000-4000-8000-{:012x}", self.uids, self.version);
        let (api_version, word) = kind.words();
        let Some(object) = value.as_object_mut() else { return refused(400, "BadRequest", "no object") };
        object.insert("apiVersion".to_owned(), json!(api_version));
        object.insert("kind".to_owned(), json!(word));
        if kind.has_status() {
            object.remove("status");
        }
        let meta = object.entry("metadata").or_insert_with(|| json!({}));
        for (key, what) in [("namespace", json!(namespace)), ("uid", json!(uid)), ("creationTimestamp", json!(stamp))] {
            meta[key] = what;
        }
        if kind.has_status() {
            meta["generation"] = json!(1);
        }
        let value = normal(kind, value)?;
        let object = Object { value, applied: BTreeMap::new(), writers: BTreeSet::from([manager.to_owned()]) };
        Ok(self.put(place, object, "ADDED"))
    }

    /// Writes an object that is there. What changes nothing is no change, and gets no version.
    ///
    /// # Errors
    /// The new value is not what its kind is, or changes what cannot be changed.
    pub fn replace(&mut self, place: &Place, value: Value, writer: Writer<'_>) -> Result<Value, Refused> {
        let kind = place.0;
        let Some(old) = self.objects.get(place).cloned() else {
            return refused(404, "NotFound", format!("{} \"{}\" not found", kind.plural(), place.2));
        };
        let mut new = normal(kind, value)?;
        // Each way of writing leaves the other part as it is, and nobody writes what the server writes.
        if kind.has_status() {
            let keep = if writer.status { "spec" } else { "status" };
            carry(&old.value, &mut new, keep);
        }
        for key in ["uid", "creationTimestamp", "generation", "resourceVersion", "managedFields", "namespace", "name"] {
            carry(&old.value["metadata"], &mut new["metadata"], key);
        }
        if kind == Kind::Action && new["spec"] != old.value["spec"] {
            return refused(422, "Invalid", "an action's spec records an intention and cannot be changed");
        }
        let mut object = Object { value: new, ..old.clone() };
        if object.value["spec"] != old.value["spec"] {
            let generation = old.value["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
            object.value["metadata"]["generation"] = json!(generation);
            object.writers.insert(writer.manager.to_owned());
        }
        if object.value == old.value {
            return Ok(old.value);
        }
        Ok(self.put(place.clone(), object, "MODIFIED"))
    }

    /// Server-side apply, by force.
    ///
    /// # Errors
    /// As of [`Store::create`] and [`Store::replace`]; 409 when the patch is for an object of another UID.
    pub fn apply(&mut self, place: &Place, patch: &Value, writer: Writer<'_>) -> Result<Value, Refused> {
        let (kind, namespace, name) = place;
        let wanted = text(patch, &["metadata", "uid"]);
        let Some(old) = self.objects.get(place).cloned() else {
            if wanted.is_some() {
                return refused(
                    409,
                    "Conflict",
                    "uid mismatch: the provided object specified uid, and no existing object was found",
                );
            }
            if writer.status {
                return refused(404, "NotFound", format!("{} \"{name}\" not found", kind.plural()));
            }
            let made = self.create(*kind, namespace, patch.clone(), writer.manager)?;
            if let Some(object) = self.objects.get_mut(place) {
                object.applied.insert(writer.manager.to_owned(), merge::paths(patch));
            }
            return Ok(made);
        };
        if wanted.is_some_and(|wanted| old.value["metadata"]["uid"] != wanted) {
            return refused(409, "Conflict", "uid mismatch: the object was made anew");
        }
        let key = format!("{}{}", writer.manager, if writer.status { "/status" } else { "" });
        let (value, paths) = merge::apply(&old, patch, &key);
        let written = self.replace(place, value, writer)?;
        if let Some(object) = self.objects.get_mut(place) {
            object.applied.insert(key, paths);
        }
        Ok(written)
    }

    /// Deletes an object at once: nothing here has finalizers.
    ///
    /// # Errors
    /// It is not there, or is another one than was meant.
    pub fn delete(&mut self, place: &Place, uid: Option<&str>) -> Result<Value, Refused> {
        let Some(object) = self.objects.get(place) else {
            return refused(404, "NotFound", format!("{} \"{}\" not found", place.0.plural(), place.2));
        };
        if uid.is_some_and(|uid| object.value["metadata"]["uid"] != uid) {
            return refused(409, "Conflict", "the UID in the precondition does not match");
        }
        let mut gone = object.value.clone();
        self.objects.remove(place);
        self.version += 1;
        gone["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.note(place.0, "DELETED", gone.clone());
        Ok(gone)
    }

    /// What the garbage collector does: deletes what is owned by an object that is gone.
    pub fn collect(&mut self) {
        let uids: BTreeSet<String> = self
            .objects
            .iter()
            .filter(|((kind, ..), _)| kind.has_status())
            .filter_map(|(_, object)| text(&object.value, &["metadata", "uid"]).map(str::to_owned))
            .collect();
        let orphans: Vec<Place> = self
            .objects
            .iter()
            .filter(|(_, object)| {
                let owners = object.value["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
                let there = |owner: &Value| owner["uid"].as_str().is_some_and(|uid| uids.contains(uid));
                !owners.is_empty() && !owners.iter().any(there)
            })
            .map(|(place, _)| place.clone())
            .collect();
        for place in orphans {
            // It was there a moment ago, and nobody else holds the store.
            let _ = self.delete(&place, None);
        }
    }

    fn put(&mut self, place: Place, mut object: Object, word: &'static str) -> Value {
        self.version += 1;
        object.value["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if place.0 == Kind::Action {
            let managed = |writer: &String| json!({"manager": writer, "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}});
            object.value["metadata"]["managedFields"] = object.writers.iter().map(managed).collect();
        }
        let value = object.value.clone();
        let kind = place.0;
        self.objects.insert(place, object);
        self.note(kind, word, value.clone());
        value
    }

    fn note(&mut self, kind: Kind, word: &'static str, object: Value) {
        if matches!(kind, Kind::Fleet | Kind::Host) {
            self.changes.push_back(Change { version: self.version, kind, word, object });
        }
        while self.changes.len() > KEPT {
            self.compact_one();
        }
    }

    fn compact_one(&mut self) {
        if let Some(gone) = self.changes.pop_front() {
            self.compacted = gone.version;
        }
    }

    /// Forgets all changes: whoever watches from an older version must list again.
    pub fn compact(&mut self) {
        self.changes.clear();
        self.compacted = self.version;
    }
}

/// A part of one object as it was in another.
fn carry(from: &Value, to: &mut Value, key: &str) {
    let Some(to) = to.as_object_mut() else { return };
    match from.get(key) {
        Some(value) => drop(to.insert(key.to_owned(), value.clone())),
        None => drop(to.remove(key)),
    }
}

/// A text in an object.
pub fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |value, key| value.get(key))?.as_str()
}

/// An object as its kind is written: defaults filled in, unknown fields gone.
///
/// # Errors
/// It is not what its kind is.
fn normal(kind: Kind, value: Value) -> Result<Value, Refused> {
    fn through<T: Serialize + DeserializeOwned>(value: &Value) -> Result<Value, serde_json::Error> {
        serde_json::to_value(T::deserialize(value)?)
    }
    let checked = match kind {
        Kind::Fleet => through::<BinderFleet>(&value),
        Kind::Host => through::<BinderHost>(&value),
        Kind::Action => through::<BinderAction>(&value),
        Kind::Secret | Kind::Event => return Ok(value),
    };
    let mut checked = match checked {
        Ok(checked) => checked,
        Err(error) => return refused(422, "Invalid", format!("{}: {error}", kind.plural())),
    };
    if let Some(object) = checked.as_object_mut().filter(|object| object.get("status") == Some(&Value::Null)) {
        object.remove("status");
    }
    if !checked["metadata"].is_object() {
        checked["metadata"] = Value::Object(Map::new());
    }
    Ok(checked)
}
