//! Columns as bytes, for languages whose vectors are made from bytes more quickly than from JSON.
//!
//! A column of one kind is packed as `count` values: `i32` and `f64` little endian; `bool` as an `i32`, 0 or 1; `str`
//! as UTF-8, each ended by a zero byte, or `ascii` if it is no more than that. Null is the smallest `i32`, the
//! not-a-number that R calls NA, or the byte 0xff alone, none of which is a value of JSON. What does not fit stays JSON:
//! values of several kinds, arrays, objects, text with U+0000.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{
    Serialize, Serializer,
    ser::{Error, SerializeMap},
};
use serde_json::value::{RawValue, to_raw_value};

use crate::rpc::batch::{Columns, kind, members};

/// Fewer rows are read as quickly from JSON.
const FEWEST_ROWS: usize = 32;
/// What null is among text: no UTF-8.
pub(crate) const NO_TEXT: u8 = 0xff;
/// What null is among floating-point numbers: R's NA, little endian.
pub(crate) const NA: [u8; 8] = 0x7ff0_0000_0000_07a2_u64.to_le_bytes();

/// How a column is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    I32,
    F64,
    Bool,
    Str,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "i32" => Self::I32,
            "f64" => Self::F64,
            "bool" => Self::Bool,
            "str" | "ascii" => Self::Str,
            _ => return None,
        })
    }
}

impl Columns<'_> {
    /// Pack what can be packed; the bytes of all packed columns, one after the other. Empty if there is none.
    pub fn pack(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.len() >= FEWEST_ROWS {
            for column in &mut self.columns {
                column.packed = pack(&column.values, &mut bytes);
            }
        }
        bytes
    }
}

/// The column's type as the message has it; `None` and nothing written if it has to stay JSON.
fn pack(values: &[&RawValue], bytes: &mut Vec<u8>) -> Option<String> {
    let start = bytes.len();
    let first = values.iter().map(|value| kind(value)).find(|kind| *kind != b'n');
    let packed = match first {
        Some(b'0') => integers(values, bytes).map(|()| "i32".to_owned()).or_else(|| {
            bytes.truncate(start);
            floats(values, bytes).map(|()| "f64".to_owned())
        }),
        // Nothing but null is a vector of logical values.
        Some(b't') | None => booleans(values, bytes).map(|()| "bool".to_owned()),
        Some(b'"') => texts(values, bytes).map(|()| text_type(&bytes[start..])),
        Some(_) => None,
    };
    if packed.is_none() {
        bytes.truncate(start);
    }
    packed
}

/// The type of a column whose texts are these bytes.
pub(crate) fn text_type(bytes: &[u8]) -> String {
    let kind = if bytes.is_ascii() { "ascii" } else { "str" };
    format!("{kind} {}", bytes.len())
}

fn integers(values: &[&RawValue], bytes: &mut Vec<u8>) -> Option<()> {
    for value in values {
        let number = match value.get() {
            "null" => i32::MIN,
            number => number.parse().ok().filter(|number| *number != i32::MIN)?,
        };
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    Some(())
}

fn floats(values: &[&RawValue], bytes: &mut Vec<u8>) -> Option<()> {
    for value in values {
        let number = match value.get() {
            "null" => NA,
            number if kind(value) == b'0' => number.parse::<f64>().ok()?.to_le_bytes(),
            _ => return None,
        };
        bytes.extend_from_slice(&number);
    }
    Some(())
}

fn booleans(values: &[&RawValue], bytes: &mut Vec<u8>) -> Option<()> {
    for value in values {
        let number: i32 = match value.get() {
            "null" => i32::MIN,
            "true" => 1,
            "false" => 0,
            _ => return None,
        };
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    Some(())
}

fn texts(values: &[&RawValue], bytes: &mut Vec<u8>) -> Option<()> {
    for value in values {
        let json = value.get();
        match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(text) if memchr::memchr(b'\\', text.as_bytes()).is_none() => bytes.extend_from_slice(text.as_bytes()),
            Some(_) => {
                let text: String = serde_json::from_str(json).ok().filter(|text: &String| !text.contains('\0'))?;
                bytes.extend_from_slice(text.as_bytes());
            }
            None if json == "null" => bytes.push(NO_TEXT),
            None => return None,
        }
        bytes.push(0);
    }
    Some(())
}

/// Columns that a shim sent, packed or as JSON.
#[derive(Debug)]
pub struct Packed {
    columns: Vec<(String, Values)>,
    bytes: Bytes,
}

/// One of them.
#[cfg(feature = "arrow")]
pub(crate) enum PackedValues<'a> {
    /// Numbers or truth values.
    Bytes(Kind, &'a [u8]),
    /// Texts, and as many.
    Texts(Vec<Option<&'a str>>),
    /// Anything.
    Json(&'a [Box<RawValue>]),
}

#[derive(Debug)]
enum Values {
    /// Where the first begins. Text has the ends of all.
    Packed(Kind, usize, Vec<usize>),
    Json(Vec<Box<RawValue>>),
}

impl Packed {
    /// Read columns of `count` values each; says what is wrong with them.
    pub(crate) fn read(columns: &RawValue, bytes: Bytes, count: usize) -> Result<Self, String> {
        let wrong = |error: serde_json::Error| error.to_string();
        let (mut read, mut at) = (Vec::new(), 0);
        for (name, column) in members(columns).map_err(wrong)? {
            let values = if column.get().starts_with('"') {
                let kind: Cow<'_, str> = serde_json::from_str(column.get()).map_err(wrong)?;
                let kind = Kind::named(&kind).ok_or_else(|| format!("column `{name}` is of type `{kind:.20}`"))?;
                let (start, ends) = (at, strings(kind, &bytes, at, count));
                at = match kind {
                    Kind::Str => ends.last().map_or(start, |end| end + 1),
                    Kind::F64 => start.saturating_add(count.saturating_mul(8)),
                    Kind::I32 | Kind::Bool => start.saturating_add(count.saturating_mul(4)),
                };
                if at > bytes.len() || (kind == Kind::Str && ends.len() != count) {
                    return Err(format!("there are not {count} values in column `{name}`"));
                }
                let is_text = |(from, to): (usize, usize)| {
                    bytes[from..to] == [NO_TEXT] || std::str::from_utf8(&bytes[from..to]).is_ok()
                };
                if !spans(start, &ends).all(is_text) {
                    return Err(format!("a string in column `{name}` is not valid UTF-8"));
                }
                Values::Packed(kind, start, ends)
            } else {
                let values: Vec<Box<RawValue>> = serde_json::from_str(column.get()).map_err(wrong)?;
                if values.len() != count {
                    return Err(format!("the shim gave {} values in column `{name}` for {count} events", values.len()));
                }
                Values::Json(values)
            };
            read.push((name.into_owned(), values));
        }
        Ok(Self { columns: read, bytes })
    }

    /// The columns, which have `count` values each.
    #[cfg(feature = "arrow")]
    pub(crate) fn columns(&self, count: usize) -> impl Iterator<Item = (&str, PackedValues<'_>)> {
        self.columns.iter().map(move |(name, values)| {
            let values = match values {
                Values::Json(values) => PackedValues::Json(values),
                Values::Packed(Kind::Str, start, ends) => {
                    let text = |(from, to): (usize, usize)| std::str::from_utf8(&self.bytes[from..to]).ok();
                    PackedValues::Texts(spans(*start, ends).map(text).collect())
                }
                Values::Packed(kind, start, _) => {
                    let size = if *kind == Kind::F64 { 8 } else { 4 };
                    PackedValues::Bytes(*kind, &self.bytes[*start..*start + count * size])
                }
            };
            (name.as_str(), values)
        })
    }

    /// One object for each of `count` places.
    pub(super) fn rows(&self, count: usize) -> Vec<Box<RawValue>> {
        let row = |index| to_raw_value(&Row { packed: self, index }).unwrap_or_else(|_| super::null());
        (0..count).map(row).collect()
    }
}

/// Where each of `count` texts ends; fewer if there are not so many.
fn strings(kind: Kind, bytes: &[u8], start: usize, count: usize) -> Vec<usize> {
    match bytes.get(start..) {
        Some(rest) if kind == Kind::Str => memchr::memchr_iter(0, rest).take(count).map(|end| start + end).collect(),
        _ => Vec::new(),
    }
}

/// Where each text begins and ends.
fn spans(start: usize, ends: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let starts = std::iter::once(start).chain(ends.iter().map(|end| end + 1));
    starts.zip(ends.iter().copied())
}

struct Row<'a> {
    packed: &'a Packed,
    index: usize,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { packed: Packed { columns, bytes }, index } = self;
        let mut map = serializer.serialize_map(Some(columns.len()))?;
        for (name, values) in columns {
            match values {
                Values::Json(values) => map.serialize_entry(name, &values[*index])?,
                Values::Packed(Kind::Str, start, ends) => {
                    let from = if *index == 0 { *start } else { ends[index - 1] + 1 };
                    match &bytes[from..ends[*index]] {
                        [NO_TEXT] => map.serialize_entry(name, &())?,
                        text => map.serialize_entry(name, std::str::from_utf8(text).map_err(S::Error::custom)?)?,
                    }
                }
                Values::Packed(Kind::F64, start, _) => match number(bytes, *start, *index).map(f64::from_le_bytes) {
                    // As a person writes it, and as a type of integers reads it.
                    Some(whole) if whole.trunc() == whole && whole.abs() < 2f64.powi(53) => {
                        map.serialize_entry(name, &(whole as i64))?;
                    }
                    Some(other) => map.serialize_entry(name, &other)?,
                    None => map.serialize_entry(name, &())?,
                },
                Values::Packed(kind, start, _) => match (kind, number(bytes, *start, *index).map(i32::from_le_bytes)) {
                    (_, Some(i32::MIN) | None) => map.serialize_entry(name, &())?,
                    (Kind::Bool, Some(other)) => map.serialize_entry(name, &(other != 0))?,
                    (_, Some(number)) => map.serialize_entry(name, &number)?,
                },
            }
        }
        map.end()
    }
}

/// The bytes of a number, which need not be aligned.
fn number<const SIZE: usize>(bytes: &[u8], start: usize, index: usize) -> Option<[u8; SIZE]> {
    bytes.get(start + index * SIZE..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Types and bytes of columns of these rows, as a shim that gives back what it got would answer.
    fn echoed(rows: &[Value]) -> (Value, Vec<Value>) {
        let texts: Vec<Box<RawValue>> = rows.iter().map(|row| to_raw_value(row).expect("JSON")).collect();
        let mut columns = Columns::default();
        columns.extend(texts.iter().map(|row| &**row));
        let bytes = Bytes::from(columns.pack());
        let sent = serde_json::to_value(&columns).expect("JSON");
        let mut answer = sent.clone();
        for column in answer.as_object_mut().expect("columns").values_mut() {
            if let Some(kind) = column.as_str() {
                *column = kind.split(' ').next().into();
            }
        }
        let answer = to_raw_value(&answer).expect("JSON");
        let packed = Packed::read(&answer, bytes, rows.len()).expect("columns");
        let back = packed.rows(rows.len()).iter().map(|row| serde_json::from_str(row.get()).expect("JSON")).collect();
        (sent, back)
    }

    #[test]
    fn what_is_of_one_kind_is_packed_and_comes_back() {
        let mut rows: Vec<Value> = (0..40)
            .map(|n| {
                let mixed = if n == 3 { json!("x") } else { json!(n) };
                json!({ "i": n - 7, "f": (f64::from(n) + 0.5) / 7.0, "b": n % 3 == 0, "s": format!("é\"\n{n}"),
                    "none": null, "large": 3_000_000_000_i64 + i64::from(n), "list": [n], "mixed": mixed,
                    "zero": "a\0b" })
            })
            .collect();
        for name in ["i", "f", "b", "s"] {
            rows[5][name] = Value::Null;
        }
        rows[6]["s"] = "".into();
        let (sent, back) = echoed(&rows);
        assert_eq!(back, rows);
        assert_eq!((&sent["i"], &sent["f"], &sent["b"]), (&json!("i32"), &json!("f64"), &json!("bool")));
        assert_eq!((&sent["none"], &sent["large"]), (&json!("bool"), &json!("f64")));
        assert!(sent["s"].as_str().is_some_and(|kind| kind.starts_with("str ")), "{sent}");
        for name in ["list", "mixed", "zero"] {
            assert!(sent[name].is_array(), "{sent}");
        }
    }

    #[test]
    fn few_rows_and_the_smallest_integer_are_not_packed_as_such() {
        let (sent, _) = echoed(&vec![json!({ "a": 1 }); FEWEST_ROWS - 1]);
        assert!(sent["a"].is_array());
        let rows = vec![json!({ "a": i32::MIN, "b": i32::MAX, "c": -0.0, "d": 1e300 }); FEWEST_ROWS];
        let (sent, back) = echoed(&rows);
        assert_eq!(sent, json!({ "a": "f64", "b": "i32", "c": "f64", "d": "f64" }));
        assert_eq!((&back[0]["a"], &back[0]["b"], &back[0]["d"]), (&json!(i32::MIN), &json!(i32::MAX), &json!(1e300)));
    }

    #[test]
    fn what_is_not_there_is_an_error_never_a_panic() {
        let check = |columns: Value, bytes: &'static [u8], why: &str| {
            let columns = to_raw_value(&columns).expect("JSON");
            let error = Packed::read(&columns, Bytes::from_static(bytes), 2).expect_err(why);
            assert!(error.contains(why), "{error}");
        };
        check(json!({ "a": "f64" }), b"12345678", "there are not 2 values in column `a`");
        check(json!({ "a": "i32", "b": "i32" }), b"12345678", "there are not 2 values in column `b`");
        check(json!({ "a": "str" }), b"x\0y", "there are not 2 values in column `a`");
        check(json!({ "a": "str" }), b"x\0\xff\xff\0", "a string in column `a` is not valid UTF-8");
        check(json!({ "a": "u8" }), b"xx", "column `a` is of type `u8`");
        check(json!({ "a": [1] }), b"", "the shim gave 1 values in column `a` for 2 events");
        check(json!({ "a": 1 }), b"", "invalid type");
    }

    proptest! {
        #[test]
        fn numbers_and_texts_survive(
            rows in prop::collection::vec((any::<i64>(), -1e300..1e300f64, any::<Option<bool>>(), "\\PC{0,8}"), 32..60),
        ) {
            let rows: Vec<Value> =
                rows.into_iter().map(|(i, f, b, s)| json!({ "i": i >> 11, "f": f, "b": b, "s": s })).collect();
            let (_, back) = echoed(&rows);
            for (row, back) in rows.iter().zip(&back) {
                prop_assert_eq!(row["f"].as_f64(), back["f"].as_f64());
                prop_assert_eq!(&row["i"], &back["i"]);
                prop_assert_eq!((&row["b"], &row["s"]), (&back["b"], &back["s"]));
            }
        }
    }
}
