//! What a database answers, before a library reads it: whole messages of MongoDB's wire protocol, bounded in size and in how
//! deep their documents are nested.
//!
//! The driver's parser calls itself for each level of a document, so that some ten thousand levels, which fit into 100 KB,
//! would overflow the stack and end the whole operator. Whoever has the database's port on a host could answer that. Nothing
//! here calls itself. Pure: bytes in, a verdict out.

/// The deepest nesting. MongoDB stores documents of up to 100 levels; Binder's have four, and the answer around them three.
pub const DEEPEST: usize = 64;

/// The largest message that a look or an edit is answered with: 5,000 names take less than 2 MB.
const SMALL: usize = 4 * 1024 * 1024;
/// The largest message of MongoDB's (`maxMessageSizeBytes`), for a backup.
const LARGE: usize = 48_000_000;

/// Length, two ids and the kind of message.
const HEADER: usize = 16;
/// `OP_MSG`: what all versions since 3.6 speak.
const OP_MSG: i32 = 2013;
/// `OP_REPLY`: the answer to the first question, of versions that still speak it.
const OP_REPLY: i32 = 1;

/// Why a message is not handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is too large.
    #[error("it sends a message of {length} bytes, and at most {most} are taken")]
    TooLarge {
        /// How large it says it is.
        length: usize,
        /// What is taken.
        most: usize,
    },
    /// It is nested too deep.
    #[error("it sends a document that is nested more than {DEEPEST} levels deep")]
    TooDeep,
    /// It is no such message.
    #[error("what it sends is not MongoDB's protocol")]
    Garbage,
}

/// How many of the bytes that have come are one whole message that may be handed on, for a look or an edit; `None`: more has
/// to come.
///
/// # Errors
/// [`Refused`].
pub fn small(come: &[u8]) -> Result<Option<usize>, Refused> {
    screen(come, SMALL)
}

/// The same for a backup.
///
/// # Errors
/// [`Refused`].
pub fn large(come: &[u8]) -> Result<Option<usize>, Refused> {
    screen(come, LARGE)
}

fn screen(come: &[u8], most: usize) -> Result<Option<usize>, Refused> {
    let Some(length) = int(come, 0) else { return Ok(None) };
    let length = usize::try_from(length).map_err(|_| Refused::Garbage)?;
    if length > most {
        return Err(Refused::TooLarge { length, most });
    }
    if length < HEADER {
        return Err(Refused::Garbage);
    }
    let Some(message) = come.get(..length) else { return Ok(None) };
    match int(message, 12) {
        Some(OP_MSG) => sections(message)?,
        // Flags, a cursor, two numbers, documents.
        Some(OP_REPLY) => documents(message, HEADER + 20, length)?,
        // Compression is not asked for, and would hide what is inside.
        _ => return Err(Refused::Garbage),
    }
    Ok(Some(length))
}

/// The parts of an `OP_MSG`.
fn sections(message: &[u8]) -> Result<(), Refused> {
    let flags = int(message, HEADER).ok_or(Refused::Garbage)?;
    let checksum = if flags & 1 == 1 { 4 } else { 0 };
    let end = message.len().checked_sub(checksum).ok_or(Refused::Garbage)?;
    let mut at = HEADER + 4;
    while at < end {
        let kind = message[at];
        at += 1;
        match kind {
            0 => at = document(message, at, end)?,
            1 => {
                let stop = at.checked_add(size(message, at)?).filter(|stop| *stop <= end).ok_or(Refused::Garbage)?;
                let name = after_zero(message, at + 4, stop)?;
                documents(message, name, stop)?;
                at = stop;
            }
            _ => return Err(Refused::Garbage),
        }
    }
    Ok(())
}

/// Documents one behind the other.
fn documents(message: &[u8], mut at: usize, end: usize) -> Result<(), Refused> {
    while at < end {
        at = document(message, at, end)?;
    }
    if at == end { Ok(()) } else { Err(Refused::Garbage) }
}

/// Walks over one document that begins at a place; gives the place behind it.
fn document(bytes: &[u8], start: usize, limit: usize) -> Result<usize, Refused> {
    // The ends of the documents that are open, the innermost last.
    let mut open: Vec<usize> = Vec::with_capacity(DEEPEST);
    let mut at = enter(bytes, start, limit, &mut open)?;
    while let Some(end) = open.last().copied() {
        let kind = *bytes.get(at).filter(|_| at < end).ok_or(Refused::Garbage)?;
        at += 1;
        if kind == 0 {
            if at != end {
                return Err(Refused::Garbage);
            }
            open.pop();
            continue;
        }
        at = after_zero(bytes, at, end)?;
        let fixed = match kind {
            0x03 | 0x04 => {
                at = enter(bytes, at, end, &mut open)?;
                continue;
            }
            // Code with a scope: a length, the code, and a document.
            0x0F => {
                let code = at.checked_add(4).ok_or(Refused::Garbage)?;
                let scope = skip(code, size_of_text(bytes, code)?, end)?;
                at = enter(bytes, scope, end, &mut open)?;
                continue;
            }
            0x02 | 0x0D | 0x0E => size_of_text(bytes, at)?,
            // A pointer to another collection: its name and an id.
            0x0C => size_of_text(bytes, at)?.checked_add(12).ok_or(Refused::Garbage)?,
            0x05 => positive(bytes, at)?.checked_add(5).ok_or(Refused::Garbage)?,
            0x0B => {
                let options = after_zero(bytes, at, end)?;
                at = after_zero(bytes, options, end)?;
                0
            }
            0x01 | 0x09 | 0x11 | 0x12 => 8,
            0x07 => 12,
            0x08 => 1,
            0x10 => 4,
            0x13 => 16,
            0x06 | 0x0A | 0x7F | 0xFF => 0,
            _ => return Err(Refused::Garbage),
        };
        at = skip(at, fixed, end)?;
    }
    Ok(at)
}

/// Begins a document: its end is noted; gives the place of its first element.
fn enter(bytes: &[u8], at: usize, limit: usize, open: &mut Vec<usize>) -> Result<usize, Refused> {
    if open.len() >= DEEPEST {
        return Err(Refused::TooDeep);
    }
    let end = skip(at, size(bytes, at)?, limit)?;
    open.push(end);
    Ok(at + 4)
}

fn skip(at: usize, bytes: usize, end: usize) -> Result<usize, Refused> {
    at.checked_add(bytes).filter(|next| *next <= end).ok_or(Refused::Garbage)
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(i32::from_le_bytes(four.try_into().ok()?))
}

fn positive(bytes: &[u8], at: usize) -> Result<usize, Refused> {
    int(bytes, at).and_then(|length| usize::try_from(length).ok()).ok_or(Refused::Garbage)
}

/// The size of a document, which counts itself and the zero at its end.
fn size(bytes: &[u8], at: usize) -> Result<usize, Refused> {
    positive(bytes, at).and_then(|length| if length >= 5 { Ok(length) } else { Err(Refused::Garbage) })
}

/// The size of a text with its length in front.
fn size_of_text(bytes: &[u8], at: usize) -> Result<usize, Refused> {
    positive(bytes, at)?.checked_add(4).ok_or(Refused::Garbage)
}

fn after_zero(bytes: &[u8], at: usize, end: usize) -> Result<usize, Refused> {
    let text = bytes.get(at..end).ok_or(Refused::Garbage)?;
    let zero = text.iter().position(|byte| *byte == 0).ok_or(Refused::Garbage)?;
    Ok(at + zero + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use mongodb::bson::{
        Binary, Bson, DateTime, Decimal128, Document, Regex, Timestamp, doc, oid::ObjectId, spec::BinarySubtype,
    };
    use proptest::prelude::*;

    fn message(document: &[u8]) -> Vec<u8> {
        let length = i32::try_from(HEADER + 5 + document.len()).unwrap();
        let mut bytes = Vec::new();
        for number in [length, 1, 2, OP_MSG, 0] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.push(0);
        bytes.extend(document);
        bytes
    }

    /// A document of so many levels, made without a library that would call itself for each.
    fn nested(levels: usize) -> Vec<u8> {
        let mut inner = vec![5, 0, 0, 0, 0];
        for _ in 1..levels {
            let length = i32::try_from(inner.len() + 8).unwrap();
            let mut outer = length.to_le_bytes().to_vec();
            outer.extend([0x03, b'a', 0]);
            outer.extend(&inner);
            outer.push(0);
            inner = outer;
        }
        inner
    }

    fn of(document: &Document) -> Vec<u8> {
        mongodb::bson::serialize_to_vec(document).unwrap()
    }

    #[test]
    fn a_document_with_every_kind_of_value_is_handed_on_whole() {
        let all = doc! {
            "text": "x", "number": 1.5, "small": 1_i32, "large": 1_i64, "yes": true, "null": Bson::Null, "in": {"a": [1, {"b": 2}]},
            "id": ObjectId::new(), "at": DateTime::from_millis(1), "bytes": Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2] },
            "stamp": Timestamp { time: 1, increment: 2 }, "min": Bson::MinKey, "max": Bson::MaxKey, "undefined": Bson::Undefined,
            "symbol": Bson::Symbol("s".to_owned()), "code": Bson::JavaScriptCode("f()".to_owned()),
            "scoped": Bson::JavaScriptCodeWithScope(mongodb::bson::JavaScriptCodeWithScope { code: "f()".to_owned(), scope: doc! {"a": 1} }),
            "regex": Regex { pattern: "a".try_into().unwrap(), options: "i".try_into().unwrap() },
            "decimal": Decimal128::from_bytes([1; 16]),
        };
        let bytes = message(&of(&all));
        assert_eq!(small(&bytes), Ok(Some(bytes.len())));
        for cut in [0, 3, 4, 20, bytes.len() - 1] {
            assert_eq!(small(&bytes[..cut]), Ok(None), "{cut}");
        }
        let mut two = bytes.clone();
        two.extend(&bytes);
        assert_eq!(small(&two), Ok(Some(bytes.len())));
    }

    #[test]
    fn what_is_nested_too_deep_is_cut_before_a_library_reads_it() {
        assert!(matches!(small(&message(&nested(DEEPEST))), Ok(Some(_))));
        assert_eq!(small(&message(&nested(DEEPEST + 1))), Err(Refused::TooDeep));
        // The real thing: under 400 KB, and the end of the process for whoever calls himself.
        assert_eq!(small(&message(&nested(20_000))), Err(Refused::TooDeep));
    }

    #[test]
    fn what_is_too_large_or_no_message_is_cut_at_its_head() {
        let head = |length: i32, kind: i32| {
            let mut bytes = Vec::new();
            [length, 1, 2, kind].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
            bytes
        };
        assert!(matches!(small(&head(5_000_000, OP_MSG)), Err(Refused::TooLarge { .. })));
        assert_eq!(large(&head(5_000_000, OP_MSG)), Ok(None));
        assert!(matches!(large(&head(i32::MAX, OP_MSG)), Err(Refused::TooLarge { .. })));
        for garbage in [head(-1, OP_MSG), head(3, OP_MSG), head(16, 2012), head(16, 7)] {
            assert_eq!(small(&garbage), Err(Refused::Garbage));
        }
        assert!(small(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n").is_err());
        assert!(small(b"HTTP/1.1 400 Bad Request\r\n\r\n").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = small(&bytes);
            let _ = small(&message(&bytes));
        }
    }
}
