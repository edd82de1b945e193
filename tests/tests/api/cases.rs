//! Objects that must be refused, and in which words; and odd ones that must be taken.
//!
//! A case is a good object and what is changed in it; the cases are in `refused.yaml` and `accepted.yaml`. Each is sent
//! as `kubectl apply` sends it, as a dry run with strict field validation: everything is checked and nothing is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use libtest_mimic::{Failed, Trial};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::place::{Api, NAMESPACE, Place, chart};
use crate::{Outcome, ensure, trial};

const REFUSED: &str = include_str!("refused.yaml");
const ACCEPTED: &str = include_str!("accepted.yaml");

/// Which good object a case starts from.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Of {
    Fleet,
    Host,
    Action,
}

/// One row of a table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What is wrong, or odd, in words.
    case: String,
    of: Of,
    /// Values by JSON pointer; what lies on the way is made, and `-` (or the next index) adds to a list.
    #[serde(default)]
    set: BTreeMap<String, Value>,
    /// Texts by JSON pointer: so many times the letter `a`.
    #[serde(default)]
    long: BTreeMap<String, usize>,
    /// Lists by JSON pointer: grown to so many items by copies of the first, each under a name of its own if it has one.
    #[serde(default)]
    grow: BTreeMap<String, usize>,
    /// Fields by JSON pointer that are taken away, last of all.
    #[serde(default)]
    remove: Vec<String>,
    /// What the refusal must contain: the field, and what to write instead.
    #[serde(default)]
    says: Vec<String>,
}

/// A case cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadCase {
    /// A table, or a good object, is not what it should be.
    #[error("`{file}` cannot be read")]
    File {
        /// The file.
        file: &'static str,
        /// Why not.
        #[source]
        source: serde_yaml::Error,
    },
    /// A case leads nowhere.
    #[error("case `{case}`: {why}")]
    Case {
        /// Its words.
        case: String,
        /// Why not.
        why: String,
    },
}

/// One test for each case, and one that no rule of the definitions is without a case.
pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) -> Result<(), BadCase> {
    let refused = table("refused.yaml", REFUSED)?;
    let mut names = BTreeSet::new();
    for case in &refused {
        let bad = |why: &str| BadCase::Case { case: case.case.clone(), why: why.to_owned() };
        if case.says.is_empty() {
            return Err(bad("it does not say what the refusal must contain"));
        }
        if !names.insert((case.case.clone(), format!("{:?}", case.of))) {
            return Err(bad("its name is taken"));
        }
        let object = case.object()?;
        let (name, says) = (case.name("refused"), case.says.clone());
        trials.push(trial(place, name, async move |place: &Place| {
            let said = refusal(place.api().await?, &object).await?;
            for expected in &says {
                ensure(said.contains(expected), || format!("the refusal lacks `{expected}`; it says:\n{said}"))?;
            }
            Ok(())
        }));
    }
    for case in table("accepted.yaml", ACCEPTED)? {
        let object = case.object()?;
        trials.push(trial(place, case.name("accepted"), async move |place: &Place| {
            place.api().await?.create(&object, true).await?;
            Ok(())
        }));
    }
    let objects = refused.iter().map(Case::object).collect::<Result<Vec<_>, _>>()?;
    trials.push(trial(place, "refused::every_rule_has_a_case", async move |place: &Place| {
        every_rule_has_a_case(place.api().await?, &objects).await
    }));
    Ok(())
}

/// What the API server says against an object; that it takes the object is a failure.
async fn refusal(api: &Api, object: &Value) -> Result<String, Failed> {
    match api.create(object, true).await {
        Ok(_) => Err(Failed::from("it was taken, and should have been refused")),
        // 422: by the schema or a rule. 400: a field that is not there, or text that is no value of its type.
        Err(kube::Error::Api(status)) if [400, 422].contains(&status.code) => Ok(status.message.clone()),
        Err(error) => Err(Failed::from(format!("refused, but not for what it says: {error}"))),
    }
}

/// A rule whose message no case brings out is one that may never have worked.
async fn every_rule_has_a_case(api: &Api, objects: &[Value]) -> Outcome {
    let mut messages = BTreeSet::new();
    for file in ["binderfleets.yaml", "binderhosts.yaml", "binderactions.yaml"] {
        let text = std::fs::read_to_string(chart().join("crds").join(file))?;
        let definition: CustomResourceDefinition = serde_yaml::from_str(&text)?;
        for version in definition.spec.versions {
            let schema = version.schema.and_then(|schema| schema.open_api_v3_schema);
            collect(&schema.ok_or_else(|| Failed::from(format!("{file} has no schema")))?, &mut messages);
        }
    }
    ensure(messages.len() > 20, || format!("only {} rules were found", messages.len()))?;
    // Immutability takes two writes, and has a test of its own.
    messages.retain(|message| !message.contains("cannot be changed"));
    for object in objects {
        let said = refusal(api, object).await?;
        messages.retain(|message| !said.contains(message));
    }
    ensure(messages.is_empty(), || format!("no case in refused.yaml brings out: {messages:#?}"))
}

/// The messages of every rule in a schema.
fn collect(schema: &JSONSchemaProps, messages: &mut BTreeSet<String>) {
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        // A rule without a message of its own would be told as its expression, which helps nobody.
        messages.insert(rule.message.clone().unwrap_or_else(|| format!("a rule without a message: {}", rule.rule)));
    }
    schema.properties.iter().flat_map(|properties| properties.values()).for_each(|schema| collect(schema, messages));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        collect(items, messages);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        collect(values, messages);
    }
}

fn table(file: &'static str, text: &str) -> Result<Vec<Case>, BadCase> {
    serde_yaml::from_str(text).map_err(|source| BadCase::File { file, source })
}

/// The owner's file, as people get it.
pub(crate) fn owners_file() -> Result<Value, BadCase> {
    Of::Fleet.good()
}

/// A host written by hand, with something of every facet.
pub(crate) fn by_hand() -> Result<Value, BadCase> {
    Of::Host.good()
}

/// An action as the operator writes it.
pub(crate) fn action() -> Result<Value, BadCase> {
    Of::Action.good()
}

impl Of {
    fn good(self) -> Result<Value, BadCase> {
        let (file, text) = match self {
            Self::Fleet => ("examples/fleet.yaml", include_str!("../../../examples/fleet.yaml")),
            Self::Host => ("host.yaml", include_str!("host.yaml")),
            Self::Action => ("action.yaml", include_str!("action.yaml")),
        };
        serde_yaml::from_str(text).map_err(|source| BadCase::File { file, source })
    }
}

impl Case {
    fn name(&self, verdict: &str) -> String {
        format!("{verdict}::{}: {}", format!("{:?}", self.of).to_lowercase(), self.case)
    }

    /// The good object with its changes.
    fn object(&self) -> Result<Value, BadCase> {
        let bad = |why: String| BadCase::Case { case: self.case.clone(), why };
        let mut object = self.of.good()?;
        // Under a name that no kept object has: what a dry run makes is in nobody's way.
        object["metadata"] = json!({ "name": "case", "namespace": NAMESPACE });
        let before = object.clone();
        for (pointer, value) in &self.set {
            set(&mut object, pointer, value.clone()).map_err(bad)?;
        }
        for (pointer, length) in &self.long {
            set(&mut object, pointer, Value::String("a".repeat(*length))).map_err(bad)?;
        }
        for (pointer, count) in &self.grow {
            let list = object.pointer_mut(pointer).and_then(Value::as_array_mut);
            grow(list.ok_or_else(|| bad(format!("there is no list at {pointer}")))?, *count);
        }
        for pointer in &self.remove {
            remove(&mut object, pointer).ok_or_else(|| bad(format!("there is nothing at {pointer} to remove")))?;
        }
        if object == before { Err(bad("it changes nothing".to_owned())) } else { Ok(object) }
    }
}

/// Sets what a JSON pointer leads to, making objects and adding to lists on the way.
fn set(root: &mut Value, pointer: &str, value: Value) -> Result<(), String> {
    let mut here = root;
    for part in pointer.trim_start_matches('/').split('/') {
        let part = part.replace("~1", "/").replace("~0", "~");
        if here.is_null() {
            *here = if part == "-" { json!([]) } else { json!({}) };
        }
        here = match here {
            Value::Object(map) => map.entry(part).or_insert(Value::Null),
            Value::Array(list) => {
                let index = if part == "-" { Some(list.len()) } else { part.parse().ok() };
                let index = index.ok_or_else(|| format!("{pointer}: {part} is no place in a list"))?;
                if index == list.len() {
                    list.push(Value::Null);
                }
                list.get_mut(index).ok_or_else(|| format!("{pointer}: there is no item {index}"))?
            }
            _ => return Err(format!("{pointer} leads through a text or a number")),
        };
    }
    *here = value;
    Ok(())
}

fn remove(root: &mut Value, pointer: &str) -> Option<Value> {
    let (parent, last) = pointer.rsplit_once('/')?;
    match root.pointer_mut(parent)? {
        Value::Object(map) => map.remove(last),
        Value::Array(list) => {
            let index = last.parse().ok().filter(|index| *index < list.len())?;
            Some(list.remove(index))
        }
        _ => None,
    }
}

fn grow(list: &mut Vec<Value>, count: usize) {
    let Some(first) = list.first().cloned() else { return };
    for index in list.len()..count {
        let mut copy = first.clone();
        for key in ["name", "path"] {
            if let Some(Value::String(text)) = copy.get_mut(key) {
                text.push_str(&format!("-{index}"));
            }
        }
        list.push(copy);
    }
}
