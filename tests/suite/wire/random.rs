//! Random values with a fixed seed.
//!
//! A failure prints what failed, and every run tries the same: `fastrand`, which the tree has anyway, is enough.

use fastrand::Rng;
use kernelbridge::wire::Header;
use serde_json::{Map, Value};

/// Text with the characters that JSON writers disagree about.
pub fn text(rng: &mut Rng) -> String {
    let length = if rng.u8(..) == 0 { 5_000 } else { rng.usize(..12) };
    (0..length).map(|_| character(rng)).collect()
}

fn character(rng: &mut Rng) -> char {
    match rng.u8(..8) {
        0 => char::from(rng.u8(..0x20)),
        1 => *rng
            .choice(&['"', '\\', '/', '\u{7f}', '\u{85}', '\u{2028}', '\u{2029}', '\u{feff}', '\u{fffd}'])
            .expect("some"),
        2 => rng.char('\u{80}'..='\u{7ff}'),
        3 => rng.char('\u{800}'..='\u{ffff}'),
        4 => rng.char('\u{10000}'..='\u{10ffff}'),
        _ => rng.char(' '..='~'),
    }
}

/// A JSON value, nested at most `depth` deep.
pub fn value(rng: &mut Rng, depth: usize) -> Value {
    match rng.u8(..if depth == 0 { 6 } else { 9 }) {
        0 => Value::Null,
        1 => rng.bool().into(),
        2 => rng.i64(..).into(),
        3 => (*rng.choice(&[0_i64, -1, 1 << 53, i64::MIN, i64::MAX]).expect("some")).into(),
        4 => number(rng).into(),
        5 | 6 => text(rng).into(),
        7 => (0..rng.usize(..4)).map(|_| value(rng, depth - 1)).collect(),
        _ => Value::Object(object(rng, depth - 1)),
    }
}

/// Any finite number, most of them with 17 digits.
fn number(rng: &mut Rng) -> f64 {
    loop {
        let number = if rng.bool() { f64::from_bits(rng.u64(..)) } else { rng.f64() * 1e3 };
        if number.is_finite() {
            return number;
        }
    }
}

/// A JSON object, its values nested at most `depth` deep.
pub fn object(rng: &mut Rng, depth: usize) -> Map<String, Value> {
    (0..rng.usize(..5)).map(|_| (text(rng), value(rng, depth))).collect()
}

/// A JSON object `depth` levels deep.
pub fn deep(depth: usize) -> Map<String, Value> {
    let value = (1..depth)
        .fold(Value::Null, |inner, level| if level % 2 == 0 { vec![inner].into() } else { wrap(inner).into() });
    wrap(value)
}

fn wrap(inner: Value) -> Map<String, Value> {
    Map::from_iter([("in".to_owned(), inner)])
}

/// Bytes, in a key or a buffer.
pub fn bytes(rng: &mut Rng, longest: usize) -> Vec<u8> {
    let length = rng.usize(..=longest);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

/// A header as we write them: any text where text belongs, a real date and version.
pub fn header(rng: &mut Rng, msg_type: &str) -> Header {
    let (day, hour) = (rng.u8(1..29), rng.u8(..24));
    // Never whole milliseconds: jupyter-protocol writes those with three digits.
    let (milliseconds, microseconds) = (rng.u16(..1_000), rng.u16(1..1_000));
    Header {
        msg_id: text(rng),
        session: text(rng),
        username: text(rng),
        date: format!("2026-02-{day:02}T{hour:02}:59:07.{milliseconds:03}{microseconds:03}Z"),
        msg_type: msg_type.to_owned(),
        version: "5.4".to_owned(),
        subshell_id: rng.bool().then(|| text(rng)),
    }
}
