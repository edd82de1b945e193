//! Canonical Extended JSON (MongoDB's specification, version 2) for the few documents of a dump that are text: a
//! collection's options and indexes.
//!
//! Read by the BSON library. Written here: the library writes the canonical form through a JSON map, and that does not keep
//! the order of fields, which matters (an index on `a, b` is not one on `b, a`). Pure. What is read is taken for hostile:
//! nesting and size are bounded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mongodb::bson::{Bson, Document};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeSet;
use std::fmt;

/// The deepest nesting that is written; the JSON parser has a like limit of its own (128).
const DEEPEST: u32 = 100;

/// What cannot be written, or is not what was to be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtJsonError {
    /// A type that no option or index has.
    #[error("a value of type {0} cannot be written as text")]
    Type(String),
    /// Documents in documents without end.
    #[error("a document is nested too deeply")]
    Deep,
    /// No JSON, or one that means nothing.
    #[error("not Extended JSON: {0}")]
    Read(String),
}

/// Writes a document.
///
/// # Errors
/// [`ExtJsonError`] when it holds what cannot be written.
pub fn write(document: &Document) -> Result<String, ExtJsonError> {
    let mut out = String::new();
    write_document(document, &mut out, 0)?;
    Ok(out)
}

fn write_document(document: &Document, out: &mut String, depth: u32) -> Result<(), ExtJsonError> {
    if depth > DEEPEST {
        return Err(ExtJsonError::Deep);
    }
    out.push('{');
    for (at, (key, value)) in document.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_text(key, out);
        out.push(':');
        write_value(value, out, depth)?;
    }
    out.push('}');
    Ok(())
}

fn write_text(text: &str, out: &mut String) {
    // A string as JSON cannot fail: `Value` quotes it.
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn write_value(value: &Bson, out: &mut String, depth: u32) -> Result<(), ExtJsonError> {
    let mut wrapped = |key: &str, text: &str| {
        out.push_str(&format!("{{\"{key}\":"));
        write_text(text, out);
        out.push('}');
    };
    match value {
        Bson::Double(number) => wrapped("$numberDouble", &double(*number)),
        Bson::Int32(number) => wrapped("$numberInt", &number.to_string()),
        Bson::Int64(number) => wrapped("$numberLong", &number.to_string()),
        Bson::Decimal128(number) => wrapped("$numberDecimal", &number.to_string()),
        Bson::ObjectId(id) => wrapped("$oid", &id.to_hex()),
        Bson::Symbol(text) => wrapped("$symbol", text),
        Bson::JavaScriptCode(code) => wrapped("$code", code),
        Bson::String(text) => write_text(text, out),
        Bson::Boolean(is) => out.push_str(if *is { "true" } else { "false" }),
        Bson::Null => out.push_str("null"),
        Bson::Undefined => out.push_str("{\"$undefined\":true}"),
        Bson::MinKey => out.push_str("{\"$minKey\":1}"),
        Bson::MaxKey => out.push_str("{\"$maxKey\":1}"),
        Bson::DateTime(at) => {
            out.push_str(&format!("{{\"$date\":{{\"$numberLong\":\"{}\"}}}}", at.timestamp_millis()));
        }
        Bson::Timestamp(at) => {
            out.push_str(&format!("{{\"$timestamp\":{{\"t\":{},\"i\":{}}}}}", at.time, at.increment));
        }
        Bson::Binary(binary) => out.push_str(&format!(
            "{{\"$binary\":{{\"base64\":\"{}\",\"subType\":\"{:02x}\"}}}}",
            STANDARD.encode(&binary.bytes),
            u8::from(binary.subtype)
        )),
        Bson::RegularExpression(regex) => {
            out.push_str("{\"$regularExpression\":{\"pattern\":");
            write_text(regex.pattern.as_str(), out);
            out.push_str(",\"options\":");
            write_text(regex.options.as_str(), out);
            out.push_str("}}");
        }
        Bson::Array(values) => {
            if depth > DEEPEST {
                return Err(ExtJsonError::Deep);
            }
            out.push('[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_value(value, out, depth + 1)?;
            }
            out.push(']');
        }
        Bson::Document(document) => write_document(document, out, depth + 1)?,
        other => return Err(ExtJsonError::Type(format!("{:?}", other.element_type()))),
    }
    Ok(())
}

fn double(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() }
    } else {
        // `1` is `1.0` here, which is how a double is told from an integer.
        format!("{number:?}")
    }
}

/// Reads a document.
///
/// # Errors
/// [`ExtJsonError`] when it is none.
pub fn read(text: &str) -> Result<Document, ExtJsonError> {
    let unreadable = |error: serde_json::Error| ExtJsonError::Read(error.to_string());
    let OnceEach = serde_json::from_str(text).map_err(unreadable)?;
    serde_json::from_str(text).map_err(unreadable)
}

/// JSON in which no object has a field twice: the library would keep the last one, in silence.
struct OnceEach;

impl<'de> Deserialize<'de> for OnceEach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for OnceEach {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut fields = BTreeSet::new();
        while let Some((field, Self)) = map.next_entry::<String, Self>()? {
            if !fields.insert(field) {
                return Err(A::Error::custom("a field is there twice"));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::spec::BinarySubtype;
    use mongodb::bson::{Binary, DateTime, Timestamp, doc};
    use proptest::prelude::*;

    /// As mongodump 100.9 writes a collection with one index of its own.
    #[test]
    fn it_is_what_mongodump_writes() {
        let text = r#"{"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"},{"v":{"$numberInt":"2"},"key":{"z":{"$numberInt":"1"},"a":{"$numberInt":"-1"}},"name":"z-then-a","unique":true}],"uuid":"6f0c9c1ac3f04b0db1a2a4f1b9f3a0e1","collectionName":"odd","type":"collection"}"#;
        let document = read(text).unwrap();
        assert_eq!(write(&document).unwrap(), text);
        let index = document.get_array("indexes").unwrap()[1].as_document().unwrap();
        let keys: Vec<&str> = index.get_document("key").unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["z", "a"], "the order of an index is kept");
    }

    #[test]
    fn a_condition_of_an_index_is_a_document() {
        let document = doc! { "partialFilterExpression": { "z": { "$gt": 1_i32 } }, "expireAfterSeconds": 2.5 };
        let text = write(&document).unwrap();
        assert!(text.contains(r#"{"$gt":{"$numberInt":"1"}}"#), "{text}");
        assert_eq!(read(&text).unwrap(), document);
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for text in ["", "[]", "{", r#"{"a":{"$numberInt":"x"}}"#, r#"{"a":{"$oid":"1"}}"#, r#"{"a":1,"a":2}"#] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    fn value() -> impl Strategy<Value = Bson> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(Bson::Int32),
            any::<i64>().prop_map(Bson::Int64),
            proptest::num::f64::NORMAL.prop_map(Bson::Double),
            any::<bool>().prop_map(Bson::Boolean),
            ".{0,8}".prop_map(Bson::String),
            Just(Bson::Null),
            Just(Bson::MinKey),
            any::<[u8; 12]>().prop_map(|bytes| Bson::ObjectId(ObjectId::from_bytes(bytes))),
            any::<i64>().prop_map(|ms| Bson::DateTime(DateTime::from_millis(ms))),
            (any::<u32>(), any::<u32>()).prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
            any::<Vec<u8>>().prop_map(|bytes| Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes })),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
                proptest::collection::vec(("[a-z.]{0,4}", inner), 0..4)
                    .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(fields in proptest::collection::vec(("[a-z]{1,4}", value()), 0..5)) {
            let document: Document = fields.into_iter().collect();
            prop_assert_eq!(read(&write(&document).unwrap()).unwrap(), document);
        }

        #[test]
        fn any_text_is_survived(text in r#"[{}\[\]":,$a-z0-9]{0,60}"#) {
            let _ = read(&text);
        }
    }
}
