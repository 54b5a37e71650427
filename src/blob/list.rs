//! Arrays as lists of numbers, there and back.

use std::fmt::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use crate::blob::{Dtype, Element, object::Description};

/// The JSON of an array, or of bytes.
pub(super) fn write(description: &Description, bytes: &[u8]) -> String {
    if description.is_bytes {
        return format!("{{\"$bytes\":\"{}\"}}", BASE64_STANDARD.encode(bytes));
    }
    let mut text = String::with_capacity(bytes.len() * 2);
    let mut elements = bytes.chunks_exact(description.dtype.size_bytes());
    write_level(&mut text, &description.shape, description.dtype, &mut elements);
    text
}

fn write_level<'a>(text: &mut String, shape: &[usize], dtype: Dtype, elements: &mut impl Iterator<Item = &'a [u8]>) {
    let Some((length, inner)) = shape.split_first() else {
        return write_element(text, dtype, elements.next().unwrap_or_default());
    };
    text.push('[');
    for index in 0..*length {
        if index > 0 {
            text.push(',');
        }
        write_level(text, inner, dtype, elements);
    }
    text.push(']');
}

fn write_element(text: &mut String, dtype: Dtype, bytes: &[u8]) {
    /// Not aligned where it comes from base64.
    fn number<T: Element>(bytes: &[u8]) -> T {
        bytemuck::try_pod_read_unaligned(bytes).unwrap_or_else(|_| T::from_i64(0))
    }
    // Not-a-number and infinities are null; serde_json writes floats so that they read back as they were.
    let float = |number: serde_json::Result<String>| number.unwrap_or_else(|_| "null".into());
    // Writing into a string cannot fail.
    let _ = match dtype {
        Dtype::F64 => write!(text, "{}", float(serde_json::to_string(&number::<f64>(bytes)))),
        Dtype::F32 => write!(text, "{}", float(serde_json::to_string(&number::<f32>(bytes)))),
        Dtype::I64 => write!(text, "{}", number::<i64>(bytes)),
        Dtype::I32 => write!(text, "{}", number::<i32>(bytes)),
        Dtype::I16 => write!(text, "{}", number::<i16>(bytes)),
        Dtype::I8 => write!(text, "{}", number::<i8>(bytes)),
        Dtype::U64 => write!(text, "{}", number::<u64>(bytes)),
        Dtype::U32 => write!(text, "{}", number::<u32>(bytes)),
        Dtype::U16 => write!(text, "{}", number::<u16>(bytes)),
        Dtype::U8 => write!(text, "{}", number::<u8>(bytes)),
        Dtype::Bool => write!(text, "{}", number::<u8>(bytes) != 0),
    };
}

/// An array from a list of numbers, or from one: integers if all are, booleans if all are, else floats.
pub(super) fn read(value: &Value) -> Result<(Description, Vec<u8>), String> {
    if let Some(base64) = value.get("$bytes").and_then(Value::as_str) {
        let bytes = BASE64_STANDARD.decode(base64).map_err(|error| format!("`$bytes`: {error}"))?;
        return Ok((Description::bytes(bytes.len()), bytes));
    }
    let (mut shape, mut first) = (Vec::new(), value);
    while let Value::Array(items) = first {
        shape.push(items.len());
        first = items.first().unwrap_or(&Value::Null);
    }
    let mut numbers = Vec::new();
    flatten(value, &shape, &mut numbers)?;
    let all = |is: fn(&Value) -> bool| !numbers.is_empty() && numbers.iter().all(|number| is(number));
    let (dtype, bytes): (Dtype, Vec<u8>) = if all(Value::is_boolean) {
        (Dtype::Bool, numbers.iter().map(|number| u8::from(number.as_bool() == Some(true))).collect())
    } else if all(Value::is_i64) {
        (Dtype::I64, numbers.iter().flat_map(|number| number.as_i64().unwrap_or_default().to_le_bytes()).collect())
    } else {
        let float = |number: &&Value| number.as_f64().unwrap_or(f64::NAN).to_le_bytes();
        (Dtype::F64, numbers.iter().flat_map(float).collect())
    };
    Ok((Description { dtype, shape, is_bytes: false }, bytes))
}

fn flatten<'a>(value: &'a Value, shape: &[usize], numbers: &mut Vec<&'a Value>) -> Result<(), String> {
    match (value, shape.split_first()) {
        (Value::Array(items), Some((length, inner))) if items.len() == *length => {
            items.iter().try_for_each(|item| flatten(item, inner, numbers))
        }
        (Value::Null | Value::Bool(_) | Value::Number(_), None) => {
            numbers.push(value);
            Ok(())
        }
        (Value::Array(_), _) => Err("lists of different lengths are no array".into()),
        (other, _) => Err(format!("no array of numbers: {:.60}", other.to_string())),
    }
}
