//! Blobs in the text of messages.
//!
//! Nothing is parsed but the objects themselves: a text that names no blob costs one search for a word.

use std::{borrow::Cow, ops::Range, sync::Arc};

use memchr::memmem;
use serde_json::value::RawValue;

use crate::blob::{
    BlobError, Held, Outbox, Parcel, Pool, list,
    object::{Content, KEY, Object, Written, decode},
    pool::{Blob, refuse},
};

/// Is there anything in it for this module? Cheap, and sometimes true for nothing.
pub fn names_any(text: &str) -> bool {
    // One byte is found in half the time of a word, and hardly any text has it.
    let bytes = text.as_bytes();
    memchr::memchr(b'$', bytes).is_some_and(|at| memmem::find(&bytes[at..], KEY.as_bytes()).is_some())
}

/// Hold the blobs that a text of ours names.
///
/// # Errors
///
/// [`BlobError::Name`] when it names one that nobody holds, [`BlobError::Object`].
pub fn hold(text: &str) -> Result<Held, BlobError> {
    let mut held = Vec::new();
    each(text, |object, _| {
        if let Content::Name(name) = &object.content {
            held.push(live(name, &object)?);
        }
        Ok(())
    })?;
    Ok(held.into_iter().collect())
}

/// Make blobs of the files that a plugin's message names, and hold them. The text names them as we do then.
///
/// # Errors
///
/// [`BlobError`]: whatever is wrong with them; nothing that was not in the outbox is touched.
pub fn adopt(text: Box<RawValue>, outbox: Option<&Outbox>, limit_bytes: u64) -> Result<Parcel, BlobError> {
    if !names_any(text.get()) {
        return Ok(text.into());
    }
    let (mut held, mut size_bytes) = (Vec::new(), 0u64);
    let adopted = rewrite(text.get(), |object| match &object.content {
        Content::Name(name) => {
            let left = limit_bytes.saturating_sub(size_bytes);
            let blob = match outbox {
                Some(outbox) => outbox.take(name, &object, left)?,
                None => {
                    return Err(BlobError::Name { name: shown(name), why: "and this plugin has no folder for them" });
                }
            };
            size_bytes += blob.description.size_bytes();
            let text = named(&blob)?;
            held.push(blob);
            Ok(Some(text))
        }
        Content::Chunks(chunks) => {
            // Whoever gets it must not find out that it is none.
            object.description(decode(chunks)?.len() as u64)?;
            Ok(None)
        }
    });
    let changed = match adopted.map_err(refuse)? {
        Cow::Borrowed(_) => None,
        Cow::Owned(changed) => Some(raw(changed)?),
    };
    Ok(Parcel::new(changed.unwrap_or(text), held.into_iter().collect()))
}

/// The text with the blobs themselves in place of their names, in chunks, so that it means the same when they are gone.
///
/// # Errors
///
/// As [`hold`].
pub fn inline(text: &str) -> Result<Cow<'_, str>, BlobError> {
    rewrite(text, |object| match &object.content {
        Content::Name(name) => {
            let blob = live(name, &object)?;
            written(&Written::inline(blob.bytes(), &blob.description)).map(Some)
        }
        Content::Chunks(_) => Ok(None),
    })
}

/// The text as one who knows nothing of blobs reads it: numbers in lists, and `$bytes`.
///
/// # Errors
///
/// As [`hold`], and [`BlobError::ByValue`] when one of them is larger than `limit_bytes`.
pub fn by_value(text: &str, limit_bytes: u64) -> Result<Cow<'_, str>, BlobError> {
    rewrite(text, |object| {
        let (blob, decoded);
        let bytes = match &object.content {
            Content::Name(name) => {
                blob = live(name, &object)?;
                blob.bytes()
            }
            Content::Chunks(chunks) => {
                decoded = decode(chunks)?;
                &decoded
            }
        };
        let size_bytes = bytes.len() as u64;
        if size_bytes > limit_bytes {
            return Err(BlobError::ByValue { size_bytes, limit_bytes });
        }
        Ok(Some(list::write(&object.description(size_bytes)?, bytes)))
    })
}

/// The blob of ours that an object names, if it says of it what is true.
pub(super) fn live(name: &str, object: &Object<'_>) -> Result<Arc<Blob>, BlobError> {
    let pool = Pool::current();
    let blob = pool.as_ref().and_then(|pool| {
        let name = name.strip_prefix(pool.path().to_str()?)?.strip_prefix('/')?;
        pool.find(name)
    });
    match blob {
        Some(blob) if object.description(blob.description.size_bytes())? == blob.description => Ok(blob),
        Some(_) => Err(BlobError::Object { why: "it is not of that type and shape".into() }),
        None => Err(BlobError::Name {
            name: shown(name),
            why: "which is no blob that anybody holds; an `Array` has to be kept until the call that it goes with",
        }),
    }
}

/// How an error shows a name.
pub(super) fn shown(name: &str) -> String {
    format!("{name:.200}")
}

/// The object that names a blob.
pub(super) fn named(blob: &Blob) -> Result<String, BlobError> {
    written(&Written::named(blob.path().to_string_lossy(), &blob.description))
}

fn written(object: &Written<'_>) -> Result<String, BlobError> {
    serde_json::to_string(object).map_err(|error| BlobError::Object { why: error.to_string() })
}

/// A text that was changed, which is JSON still.
pub(super) fn raw(text: String) -> Result<Box<RawValue>, BlobError> {
    RawValue::from_string(text).map_err(|error| BlobError::Object { why: error.to_string() })
}

/// How many there are.
pub(super) fn count(text: &str) -> Result<usize, BlobError> {
    let mut count = 0;
    each(text, |_, _| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

/// The text with what `change` gives in place of each object.
fn rewrite<'a>(
    text: &'a str,
    mut change: impl FnMut(Object<'a>) -> Result<Option<String>, BlobError>,
) -> Result<Cow<'a, str>, BlobError> {
    let (mut changed, mut done) = (String::new(), 0);
    each(text, |object, range| {
        if let Some(instead) = change(object)? {
            changed.push_str(&text[done..range.start]);
            changed.push_str(&instead);
            done = range.end;
        }
        Ok(())
    })?;
    if done == 0 {
        return Ok(Cow::Borrowed(text));
    }
    changed.push_str(&text[done..]);
    Ok(Cow::Owned(changed))
}

/// All objects of a text that is JSON, and where they are.
fn each<'a>(
    text: &'a str,
    mut take: impl FnMut(Object<'a>, Range<usize>) -> Result<(), BlobError>,
) -> Result<(), BlobError> {
    const QUOTED: &str = "\"$blob\"";
    if !names_any(text) {
        return Ok(());
    }
    let mut end = 0;
    for key in memmem::find_iter(text.as_bytes(), QUOTED.as_bytes()) {
        let (before, after) = (&text[..key], &text[key + QUOTED.len()..]);
        // Inside of a string it would be escaped; a string of that text is no key.
        if key < end || before.ends_with('\\') || !after.trim_ascii_start().starts_with(':') {
            continue;
        }
        let before = before.trim_ascii_end();
        if !before.ends_with('{') {
            return Err(BlobError::Object { why: "another key is before it".into() });
        }
        let start = before.len() - 1;
        let (object, length) = Object::parse(&text[start..])?;
        end = start + length;
        take(object, start..end)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        let result = each(text, |object, range| {
            found.push(format!("{} {:?} {}", object.dtype, object.shape, &text[range]));
            Ok(())
        });
        result.map(|()| found).map_err(|error| error.to_string())
    }

    #[test]
    fn objects_are_found_wherever_they_are() {
        let blob = r#"{ "$blob" : "x" , "dtype":"f64","shape":[2.0,3e0]}"#;
        let all = format!(r#"[1,{blob},{{"a":{blob}}}]"#);
        let expected = format!("f64 [2, 3] {blob}");
        assert_eq!(found(&all), Ok(vec![expected.clone(), expected]));
        for none in [r#"["$blob"]"#, r#"{"a":"\"$blob\":"}"#, r#"{"a\"$blob":1}"#, r#"{"a":"{\"$blob\":1}"}"#, "[]"] {
            assert_eq!(found(none), Ok(vec![]), "{none}");
        }
    }

    #[test]
    fn what_is_no_such_object_is_an_error_that_says_why() {
        let check = |text: &str, why: &str| {
            let error = found(text).expect_err(text);
            assert!(error.contains(why), "{error}");
        };
        check(r#"{"a":1,"$blob":"x","dtype":"f64","shape":[]}"#, "another key is before it");
        check(r#"{"$blob":"x","dtype":"f65","shape":[1]}"#, "`dtype` is `f65`");
        check(r#"{"$blob":"x","dtype":"f64","shape":[-1]}"#, "`shape` has -1");
        check(r#"{"$blob":"x","dtype":"f64","shape":[0.5]}"#, "`shape` has 0.5");
        check(r#"{"$blob":"x","dtype":"f64"}"#, "missing field `shape`");
        check(r#"{"$blob":7,"dtype":"f64","shape":[]}"#, "expected a string");
        check(r#"{"$blob":"x","dtype":"f64","shape":[1],"bytes":true}"#, "`bytes` are of");
    }

    #[test]
    fn chunks_have_to_be_what_they_say() {
        let adopt = |text: &str| {
            let text = RawValue::from_string(text.into()).expect("JSON");
            adopt(text, None, 1000).map(|parcel| parcel.get().to_owned()).map_err(|error| error.to_string())
        };
        let good = r#"{"$blob":["AAAA","AAA="],"dtype":"u8","shape":[5]}"#;
        assert_eq!(adopt(good), Ok(good.to_owned()));
        let lie = adopt(&good.replace('5', "6")).expect_err("a lie");
        assert_eq!(lie, "an array of u8 of shape [6] does not have 5 bytes");
        let lie = adopt(&good.replace("[5]", "[9007199254740991,9007199254740991]")).expect_err("a lie");
        assert!(lie.contains("does not have 5 bytes"), "{lie}");
        assert!(adopt(&good.replace("AAA=", "A")).is_err());
        let name = adopt(r#"{"$blob":"/etc/passwd","dtype":"u8","shape":[5]}"#).expect_err("no folder");
        assert_eq!(name, "`$blob` names `/etc/passwd`, and this plugin has no folder for them");
    }

    #[test]
    fn by_value_it_is_numbers_in_lists() {
        let check = |text: &str, expected: &str| assert_eq!(by_value(text, 100).expect("fits"), expected);
        check(r#"{"$blob":["AQID"],"dtype":"u8","shape":[3],"bytes":true}"#, r#"{"$bytes":"AQID"}"#);
        check(r#"[{"$blob":["AQID"],"dtype":"i8","shape":[3,1]}]"#, "[[[1],[2],[3]]]");
        check(r#"{"$blob":["AQA="],"dtype":"bool","shape":[2]}"#, "[true,false]");
        check(r#"{"$blob":["AAAAAAAA+H8="],"dtype":"f64","shape":[1]}"#, "[null]");
        check(r#"{"$blob":["AAAAAAAA8D8="],"dtype":"f64","shape":[]}"#, "1.0");
        check(r#"{"$blob":[],"dtype":"f64","shape":[0,3]}"#, "[]");
        check(r#"{"$blob":[],"dtype":"f64","shape":[2,0]}"#, "[[],[]]");
        assert!(matches!(
            by_value(r#"{"$blob":["AQID"],"dtype":"u8","shape":[3]}"#, 2),
            Err(BlobError::ByValue { size_bytes: 3, limit_bytes: 2 })
        ));
    }
}
