//! Values as Python's own interpreter reads and writes them best: a pickle of plain data, in a third of
//! the time of JSON.
//!
//! A format for data only, on both ways. What we write has no opcode that names a class or calls anything; of what comes
//! such an opcode is an error. Nothing is executed, looked up or kept: a pickle becomes JSON, and JSON a pickle.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{
    Serialize, Serializer,
    ser::{Error, SerializeMap},
};
use serde_json::value::{RawValue, to_raw_value};

use crate::rpc::{ErrorKind, Inbound, RpcError};

/// Smaller parameters are read as quickly from JSON.
pub const FEWEST_BYTES: usize = 4 * 1024;
/// No request with a pickle is shorter, so a shim need not look for one in every message.
const SHORTEST: usize = 512;
/// No pickle is larger, on either way: its values take up to thirty times as much while they are read.
pub const MOST_BYTES: usize = 4 << 20;
/// Values nested deeper than this are refused.
const DEEPEST: usize = 512;
/// As many keys are written once and named from then on.
const KEYS: usize = 32;
/// Longest key that is.
const KEY_BYTES: usize = 255;
/// Python itself writes no longer integer as decimal digits.
const INTEGER_BYTES: usize = 1785;
/// Stands where JSON has the parameters or the result.
const MEMBER: &str = ",\"pickled\":";

/// A request whose parameters are a pickle; `None` when they have to go as JSON: few of them, arrays by reference, and
/// integers of more than 64 bits.
pub fn write_request(id: u64, method: &str, params: &str) -> Option<Vec<u8>> {
    let fits = (FEWEST_BYTES..=MOST_BYTES).contains(&params.len());
    if !fits || memchr::memmem::find(params.as_bytes(), b"\"$b").is_some() {
        return None;
    }
    let mut message = Vec::with_capacity(params.len() + 128);
    message.extend_from_slice(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}"{MEMBER}"#).as_bytes());
    write(params.as_bytes(), &mut message)?;
    message.push(b'}');
    (message.len() >= SHORTEST).then_some(message)
}

/// A response whose result is a pickle; `None` when it is none.
pub(super) fn response(body: &[u8]) -> Option<Inbound> {
    let rest = body.strip_prefix(br#"{"jsonrpc":"2.0","id":"#)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (id, rest) = rest.split_at(digits);
    let pickle = rest.strip_prefix(MEMBER.as_bytes())?;
    let id = std::str::from_utf8(id).ok()?.parse().ok()?;
    let invalid = |why: String| RpcError::new(ErrorKind::Invalid, format!("the result cannot be read: {why}"));
    Some(Inbound::Response { id, result: read(pickle).map_err(invalid) })
}

/// Write JSON, which is compact and valid, as a pickle.
fn write(json: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.extend_from_slice(b"\x80\x04");
    let (mut at, mut open, mut keys) = (0, Vec::new(), Keys::default());
    loop {
        match *json.get(at)? {
            b'{' | b'[' => {
                let is_object = json[at] == b'{';
                out.push(if is_object { b'}' } else { b']' });
                at += 1;
                if matches!(json.get(at)?, b'}' | b']') {
                    at += 1;
                } else {
                    out.push(b'(');
                    open.push(is_object);
                    if is_object {
                        at = key(json, at, out, &mut keys)?;
                    }
                    continue;
                }
            }
            b'"' => {
                let (text, end) = string(json, at)?;
                text_to(&text, out)?;
                at = end;
            }
            b'n' => {
                out.push(b'N');
                at += 4;
            }
            b't' => {
                out.push(0x88);
                at += 4;
            }
            b'f' => {
                out.push(0x89);
                at += 5;
            }
            _ => at = number(json, at, out)?,
        }
        // A value has ended, and with it perhaps those that it is in.
        loop {
            match (json.get(at), open.last()) {
                (None, None) => {
                    out.push(b'.');
                    return Some(());
                }
                (Some(b','), Some(is_object)) => {
                    at += 1;
                    if *is_object {
                        at = key(json, at, out, &mut keys)?;
                    }
                    break;
                }
                (Some(b'}' | b']'), Some(is_object)) => {
                    out.push(if *is_object { b'u' } else { b'e' });
                    open.pop();
                    at += 1;
                }
                // It was not compact after all.
                _ => return None,
            }
        }
    }
}

/// Keys as they come in the text, which the pickle remembers in this order. The next is likely to be the one that came
/// after this one before.
#[derive(Default)]
struct Keys<'a> {
    seen: Vec<&'a [u8]>,
    next: usize,
}

/// Write a key and go beyond its colon.
fn key<'a>(json: &'a [u8], at: usize, out: &mut Vec<u8>, keys: &mut Keys<'a>) -> Option<usize> {
    let (text, end) = string(json, at)?;
    let raw = &json[at..end];
    let place = match keys.seen.get(keys.next) {
        Some(seen) if *seen == raw => Some(keys.next),
        _ => keys.seen.iter().position(|seen| *seen == raw),
    };
    match place {
        Some(place) => {
            out.extend_from_slice(&[b'h', u8::try_from(place).ok()?]);
            keys.next = place + 1;
        }
        None => {
            text_to(&text, out)?;
            if keys.seen.len() < KEYS && raw.len() <= KEY_BYTES {
                out.push(0x94);
                keys.seen.push(raw);
                keys.next = keys.seen.len();
            }
        }
    }
    (json.get(end) == Some(&b':')).then_some(end + 1)
}

/// The string that begins here, and where it ends.
fn string(json: &[u8], at: usize) -> Option<(Cow<'_, [u8]>, usize)> {
    let mut end = at + 1;
    let mut is_plain = true;
    loop {
        end += memchr::memchr2(b'"', b'\\', json.get(end..)?)?;
        if json[end] == b'"' {
            break;
        }
        is_plain = false;
        end += 2;
    }
    let text = match is_plain {
        true => Cow::Borrowed(&json[at + 1..end]),
        false => Cow::Owned(serde_json::from_slice::<String>(&json[at..=end]).ok()?.into_bytes()),
    };
    Some((text, end + 1))
}

fn text_to(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match u8::try_from(text.len()) {
        Ok(length) => out.extend_from_slice(&[0x8c, length]),
        Err(_) => {
            out.push(b'X');
            out.extend_from_slice(&u32::try_from(text.len()).ok()?.to_le_bytes());
        }
    }
    out.extend_from_slice(text);
    Some(())
}

/// The number that begins here; returns where it ends.
fn number(json: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
    let rest = &json[at..];
    let length = rest.iter().position(|byte| matches!(byte, b',' | b']' | b'}')).unwrap_or(rest.len());
    let text = std::str::from_utf8(&rest[..length]).ok()?;
    if text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        out.push(b'G');
        out.extend_from_slice(&text.parse::<f64>().ok()?.to_be_bytes());
    } else {
        let number: i64 = text.parse().ok()?;
        match (u8::try_from(number), i32::try_from(number)) {
            (Ok(small), _) => out.extend_from_slice(&[b'K', small]),
            (_, Ok(number)) => {
                out.push(b'J');
                out.extend_from_slice(&number.to_le_bytes());
            }
            _ => {
                out.extend_from_slice(&[0x8a, 8]);
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
    }
    Some(at + length)
}

/// A value of a pickle; of others it knows where they are.
enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Little endian, two's complement.
    Long(&'a [u8]),
    Float(f64),
    Text(Cow<'a, str>),
    Bytes(&'a [u8]),
    List(Vec<u32>),
    Dict(Vec<(u32, u32)>),
}

/// What is left to read.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it ends in the middle")?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], String> {
        self.take(SIZE)?.try_into().map_err(|_| "it ends in the middle".into())
    }

    /// As many bytes as a number of `SIZE` bytes says.
    fn counted<const SIZE: usize>(&mut self) -> Result<&'a [u8], String> {
        let mut count = [0; 8];
        count[..SIZE].copy_from_slice(&self.number::<SIZE>()?);
        self.take(usize::try_from(u64::from_le_bytes(count)).unwrap_or(usize::MAX))
    }
}

/// The JSON of a pickle of plain data, as Python's pickler writes it in its fast mode.
fn read(pickle: &[u8]) -> Result<Box<RawValue>, String> {
    if pickle.len() > MOST_BYTES {
        return Err(format!("a pickle of {} bytes, more than {MOST_BYTES}", pickle.len()));
    }
    let (mut values, mut stack, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    let mut source = Source(pickle);
    loop {
        let value = match source.number::<1>()?[0] {
            0x80 => {
                source.take(1)?;
                continue;
            }
            // The length of a part.
            0x95 => {
                source.take(8)?;
                continue;
            }
            b'.' => break,
            b'N' => Value::Null,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(source.number::<1>()?[0].into()),
            b'M' => Value::Int(u16::from_le_bytes(source.number()?).into()),
            b'J' => Value::Int(i32::from_le_bytes(source.number()?).into()),
            0x8a => long(source.counted::<1>()?)?,
            0x8b => long(source.counted::<4>()?)?,
            b'G' => Value::Float(f64::from_be_bytes(source.number()?)),
            0x8c => Value::Text(text(source.counted::<1>()?)),
            b'X' => Value::Text(text(source.counted::<4>()?)),
            0x8d => Value::Text(text(source.counted::<8>()?)),
            b'C' => Value::Bytes(source.counted::<1>()?),
            b'B' => Value::Bytes(source.counted::<4>()?),
            0x8e | 0x96 => Value::Bytes(source.counted::<8>()?),
            b']' => Value::List(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            b'(' => {
                marks.push(stack.len());
                continue;
            }
            b')' => Value::List(Vec::new()),
            tuple @ (b't' | 0x85..=0x87) => {
                let count = match tuple {
                    b't' => stack.len().checked_sub(marks.pop().ok_or(BROKEN)?),
                    _ => Some(usize::from(tuple - 0x84)),
                };
                let from = count.and_then(|count| stack.len().checked_sub(count)).ok_or(BROKEN)?;
                Value::List(stack.split_off(from))
            }
            append @ (b'a' | b'e' | b's' | b'u') => {
                let from = match append {
                    b'a' => stack.len().checked_sub(1),
                    b's' => stack.len().checked_sub(2),
                    _ => marks.pop().filter(|from| *from <= stack.len()),
                }
                .ok_or(BROKEN)?;
                let container = from.checked_sub(1).map(|below| stack[below]).ok_or(BROKEN)?;
                let mut items = stack.drain(from..);
                match (values.get_mut(container as usize), append) {
                    (Some(Value::List(list)), b'a' | b'e') => list.extend(items),
                    (Some(Value::Dict(members)), b's' | b'u') => {
                        while let (Some(key), Some(value)) = (items.next(), items.next()) {
                            members.push((key, value));
                        }
                    }
                    _ => return Err(BROKEN.into()),
                }
                continue;
            }
            other => return Err(format!("a value of a kind that has no JSON form (opcode {other:#04x})")),
        };
        stack.push(u32::try_from(values.len()).map_err(|_| BROKEN)?);
        values.push(value);
    }
    match stack[..] {
        [root] if marks.is_empty() => {
            to_raw_value(&At { values: &values, index: root, depth: 0 }).map_err(|error| error.to_string())
        }
        _ => Err(BROKEN.into()),
    }
}

const BROKEN: &str = "it is no pickle";

/// Text, with U+FFFD for each half of a surrogate pair, which Python writes as if it were a character.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len().saturating_sub(2) {
        if bytes[at] == 0xed && bytes[at + 1] >= 0xa0 {
            bytes[at..at + 3].copy_from_slice("\u{fffd}".as_bytes());
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn long(bytes: &[u8]) -> Result<Value<'_>, String> {
    if bytes.len() > INTEGER_BYTES {
        return Err("an integer with thousands of digits".into());
    }
    if bytes.len() > 8 {
        return Ok(Value::Long(bytes));
    }
    let is_negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut number = [if is_negative { 0xff } else { 0 }; 8];
    number[..bytes.len()].copy_from_slice(bytes);
    Ok(Value::Int(i64::from_le_bytes(number)))
}

/// Its decimal digits.
fn digits(bytes: &[u8]) -> String {
    let is_negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut rest = bytes.to_vec();
    if is_negative {
        // Two's complement: all bits turned around, and one more.
        let mut carry = true;
        for byte in &mut rest {
            let (turned, overflows) = (!*byte).overflowing_add(u8::from(carry));
            (*byte, carry) = (turned, overflows);
        }
    }
    let mut digits = Vec::new();
    while rest.iter().any(|byte| *byte != 0) {
        let mut remainder = 0u32;
        for byte in rest.iter_mut().rev() {
            let dividend = (remainder << 8) | u32::from(*byte);
            (*byte, remainder) = ((dividend / 10) as u8, dividend % 10);
        }
        digits.push(b'0' + remainder as u8);
    }
    if is_negative {
        digits.push(b'-');
    }
    digits.reverse();
    String::from_utf8(digits).ok().filter(|digits| !digits.is_empty()).unwrap_or_else(|| "0".into())
}

/// A value among the others.
struct At<'a> {
    values: &'a [Value<'a>],
    index: u32,
    depth: usize,
}

impl<'a> At<'a> {
    fn value(&self) -> &'a Value<'a> {
        self.values.get(self.index as usize).unwrap_or(&Value::Null)
    }

    fn inner<E: Error>(&self, index: u32) -> Result<Self, E> {
        match self.depth {
            DEEPEST => Err(E::custom("values are nested too deep")),
            depth => Ok(Self { values: self.values, index, depth: depth + 1 }),
        }
    }
}

impl Serialize for At<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value() {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            // Not-a-number and infinities become null.
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::Long(bytes) => RawValue::from_string(digits(bytes)).map_err(S::Error::custom)?.serialize(serializer),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Bytes(bytes) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("$bytes", &BASE64_STANDARD.encode(bytes))?;
                map.end()
            }
            Value::List(items) => {
                let items = items.iter().map(|index| self.inner(*index)).collect::<Result<Vec<_>, _>>()?;
                serializer.collect_seq(items)
            }
            Value::Dict(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    let key = match self.inner::<S::Error>(*key)?.value() {
                        Value::Text(text) => Cow::Borrowed(&**text),
                        Value::Int(number) => number.to_string().into(),
                        Value::Long(bytes) => digits(bytes).into(),
                        Value::Float(number) => serde_json::to_string(number).map_err(S::Error::custom)?.into(),
                        Value::Bool(value) => value.to_string().into(),
                        Value::Null => "null".into(),
                        _ => return Err(S::Error::custom("keys are text")),
                    };
                    map.serialize_entry(&key, &self.inner::<S::Error>(*value)?)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;

    fn pickled(json: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        write(json.as_bytes(), &mut out).map(|()| out)
    }

    /// Without what the fast mode does not write.
    fn unremembered(value: &Json) -> Vec<u8> {
        fn write(value: &Json, out: &mut Vec<u8>) {
            match value {
                Json::Array(items) => {
                    out.extend_from_slice(b"](");
                    items.iter().for_each(|item| write(item, out));
                    out.push(b'e');
                }
                Json::Object(members) => {
                    out.extend_from_slice(b"}(");
                    for (key, value) in members {
                        write(&Json::from(key.as_str()), out);
                        write(value, out);
                    }
                    out.push(b'u');
                }
                leaf => {
                    let pickle = pickled(&leaf.to_string()).expect("a leaf");
                    out.extend_from_slice(&pickle[2..pickle.len() - 1]);
                }
            }
        }
        let mut out = b"\x80\x04".to_vec();
        write(value, &mut out);
        out.push(b'.');
        out
    }

    #[test]
    fn what_is_written_is_what_python_reads() {
        let check = |json: &str, expected: &[u8]| {
            assert_eq!(pickled(json).as_deref(), Some(expected), "{json}");
        };
        check("null", b"\x80\x04N.");
        check("[]", b"\x80\x04].");
        check(
            "[1,-1,300,5000000000,true,false]",
            b"\x80\x04](K\x01J\xff\xff\xff\xffJ\x2c\x01\0\0\x8a\x08\0\xf2\x05\x2a\x01\0\0\0\x88\x89e.",
        );
        check(r#"{"a":{"a":"x"},"b":{}}"#, b"\x80\x04}(\x8c\x01a\x94}(h\0\x8c\x01xu\x8c\x01b\x94}u.");
        check("-0.5", b"\x80\x04G\xbf\xe0\0\0\0\0\0\0.");
        check(r#""\u00e9\n""#, b"\x80\x04\x8c\x03\xc3\xa9\n.");
        for not in ["123456789012345678901", "[ 1]", "", "[1", r#""x"#, r#"{"a" :1}"#] {
            assert_eq!(pickled(not), None, "{not}");
        }
    }

    #[test]
    fn small_requests_and_those_with_arrays_are_json() {
        let long = format!(r#"{{"name":"f","args":["{}"]}}"#, "x".repeat(FEWEST_BYTES));
        assert!(write_request(1, "call", r#"{"name":"f","args":[]}"#).is_none());
        assert!(write_request(1, "call", &long.replace("\"f\"", "{\"$bytes\":\"\"}")).is_none());
        assert!(write_request(1, "call", &format!("[{}null]", "null,".repeat(FEWEST_BYTES / 12))).is_none());
        let message = write_request(7, "call", &long).expect("a pickle");
        assert!(message.starts_with(b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"call\",\"pickled\":\x80\x04}("));
        assert!(message.ends_with(b".}"));
    }

    #[test]
    fn what_pythons_pickler_writes_is_read() {
        let check = |pickle: &[u8], expected: &str| match read(pickle) {
            Ok(json) => assert_eq!(json.get(), expected),
            Err(error) => assert!(error.contains(expected), "{error} is not {expected}"),
        };
        // pickle.Pickler(..., 5), fast: of (1, (2,), (), [3], {4: None, 2.5: True, None: False}).
        check(
            b"\x80\x05(K\x01K\x02\x85)]K\x03a}(K\x04NG@\x04\0\0\0\0\0\0\x88N\x89ut.",
            r#"[1,[2],[],[3],{"4":null,"2.5":true,"null":false}]"#,
        );
        check(b"\x80\x05\x95\x05\0\0\0\0\0\0\0\x8a\x09\0\0\0\0\0\0\0\0\x01.", "18446744073709551616");
        check(b"\x80\x05\x8a\x09\0\0\0\0\0\0\0\0\xff.", "-18446744073709551616");
        check(b"\x80\x05\x8a\0.", "0");
        check(b"\x80\x05C\x03abc.", r#"{"$bytes":"YWJj"}"#);
        check(b"\x80\x05\x8c\x04a\xed\xa0\xbd.", "\"a\u{fffd}\"");
        check(b"\x80\x05G\x7f\xf8\0\0\0\0\0\0.", "null");
        // What is no plain data, and what is no pickle.
        check(b"\x80\x05\x8f.", "no JSON form (opcode 0x8f)");
        check(b"cos\nsystem\n.", "no JSON form (opcode 0x63)");
        check(b"\x80\x05}(]Nu.", "keys are text");
        for broken in
            [&b""[..], b".", b"NN.", b"(N.", b"Ne.", b"a.", b"]Ns.", b"t.", b"\x86.", b"X\xff\xff\xff\xffa.", b"("]
        {
            assert!(read(broken).is_err(), "{}", broken.escape_ascii());
        }
        let deep = [b"]".repeat(DEEPEST + 2), b"a".repeat(DEEPEST + 1), b".".to_vec()].concat();
        check(&deep, "nested too deep");
        check(&vec![b'N'; MOST_BYTES + 1], "more than");
    }

    #[test]
    fn responses_say_whose_they_are_even_if_they_are_broken() {
        let Some(Inbound::Response { id: 12, result: Ok(result) }) =
            response(b"{\"jsonrpc\":\"2.0\",\"id\":12,\"pickled\":\x80\x05]K\x01a.}")
        else {
            panic!()
        };
        assert_eq!(result.get(), "[1]");
        let broken = response(b"{\"jsonrpc\":\"2.0\",\"id\":12,\"pickled\":c}");
        assert!(matches!(broken, Some(Inbound::Response { id: 12, result: Err(_) })));
        assert!(response(br#"{"jsonrpc":"2.0","id":12,"result":1}"#).is_none());
    }

    fn value() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            (-1e300..1e300f64).prop_map(Json::from),
            "\\PC{0,8}".prop_map(Json::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::vec(("[a-c\"é]{0,2}", inner), 0..4)
                    .prop_map(|members| Json::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_survive(value in value()) {
            prop_assert!(pickled(&value.to_string()).is_some());
            let back = read(&unremembered(&value)).expect("a pickle");
            prop_assert_eq!(serde_json::from_str::<Json>(back.get()).expect("JSON"), value);
        }

        #[test]
        fn nonsense_is_an_error_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), value in value()) {
            drop(read(&bytes));
            let mut broken = unremembered(&value);
            for (at, byte) in bytes.iter().enumerate().take(3) {
                let length = broken.len();
                broken[(at * 7 + usize::from(*byte)) % length] = *byte;
            }
            drop(read(&broken));
            drop(pickled(&String::from_utf8_lossy(&bytes)));
            drop(json!(null));
        }
    }
}
