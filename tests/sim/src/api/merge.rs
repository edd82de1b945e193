//! How a patch changes an object: server-side apply with the fields that a manager applied before, and JSON merge.

use super::Object;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The fields that a patch applies, as paths; a list is one field.
pub(super) fn paths(patch: &Value) -> BTreeSet<Vec<String>> {
    fn walk(value: &Value, at: &mut Vec<String>, found: &mut BTreeSet<Vec<String>>) {
        match value.as_object() {
            Some(object) if !object.is_empty() => {
                for (key, value) in object {
                    at.push(key.clone());
                    walk(value, at, found);
                    at.pop();
                }
            }
            _ => drop(found.insert(at.clone())),
        }
    }
    let mut found = BTreeSet::new();
    for part in ["spec", "status"] {
        if let Some(value) = patch.get(part) {
            walk(value, &mut vec![part.to_owned()], &mut found);
        }
    }
    for part in ["labels", "annotations", "ownerReferences"] {
        if let Some(value) = patch["metadata"].get(part) {
            walk(value, &mut vec!["metadata".to_owned(), part.to_owned()], &mut found);
        }
    }
    if let Some(value) = patch.get("data") {
        walk(value, &mut vec!["data".to_owned()], &mut found);
    }
    found
}

/// What an object becomes, and the fields that the manager applies from now on: what it no longer applies, and nobody else
/// does, goes.
pub(super) fn apply(old: &Object, patch: &Value, manager: &str) -> (Value, BTreeSet<Vec<String>>) {
    let now = paths(patch);
    let mut value = old.value.clone();
    let others = |path: &Vec<String>| old.applied.iter().any(|(of, paths)| of != manager && paths.contains(path));
    for path in old.applied.get(manager).into_iter().flatten().filter(|path| !now.contains(*path) && !others(path)) {
        take(&mut value, path);
    }
    for path in &now {
        let wanted = path.iter().try_fold(patch, |value, key| value.get(key)).cloned().unwrap_or_default();
        set(&mut value, path, wanted);
    }
    (value, now)
}

fn set(value: &mut Value, path: &[String], wanted: Value) {
    let Some((first, rest)) = path.split_first() else {
        *value = wanted;
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    if let Some(object) = value.as_object_mut() {
        set(object.entry(first.clone()).or_insert(Value::Null), rest, wanted);
    }
}

fn take(value: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    let Some(object) = value.as_object_mut() else { return };
    if rest.is_empty() {
        object.remove(first);
    } else if let Some(inner) = object.get_mut(first) {
        take(inner, rest);
    }
}

/// JSON merge patch (RFC 7386).
pub(super) fn merge(value: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Some(object) = value.as_object_mut() else { return };
    for (key, wanted) in patch {
        if wanted.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn what_is_no_longer_applied_goes_and_what_others_added_stays() {
        let mut object = Object { value: json!({"spec": {}}), applied: BTreeMap::new(), writers: BTreeSet::new() };
        let (value, paths) = apply(&object, &json!({"spec": {"a": 1, "b": {"c": [1, 2]}}}), "us");
        object.value = value;
        object.applied.insert("us".to_owned(), paths);
        object.value["spec"]["theirs"] = json!(true);
        let (value, _) = apply(&object, &json!({"spec": {"b": {"c": [3]}}}), "us");
        assert_eq!(value, json!({"spec": {"b": {"c": [3]}, "theirs": true}}));
    }

    #[test]
    fn a_merge_takes_away_what_is_null() {
        let mut value = json!({"a": 1, "b": {"c": 1}});
        merge(&mut value, &json!({"a": null, "b": {"d": 2}}));
        assert_eq!(value, json!({"b": {"c": 1, "d": 2}}));
    }
}
