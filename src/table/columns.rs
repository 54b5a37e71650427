//! Tables as the plugin protocol has columns: as JSON, or as bytes.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, NullArray, RecordBatch, StringArray,
    cast::AsArray,
};
use arrow_schema::DataType;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    rpc::{Kind, NA, NO_TEXT, PackedValues, text_type},
    table::{TableError, named_values},
};

/// The table of columns of JSON values, each with as many. `None` if one of them holds anything but numbers, booleans or
/// text, or several of these, or integers above 63 bits.
pub fn from_json<'a, C: AsRef<[&'a RawValue]>>(columns: impl Iterator<Item = (&'a str, C)>) -> Option<RecordBatch> {
    let arrays: Option<Vec<_>> =
        columns.map(|(name, values)| Some((name, array(values.as_ref().iter().copied())?, true))).collect();
    RecordBatch::try_from_iter_with_nullable(arrays.filter(|arrays| !arrays.is_empty())?).ok()
}

/// JSON values as an array, with the types that pyarrow would find.
pub(crate) fn array<'a>(values: impl Iterator<Item = &'a RawValue> + Clone) -> Option<ArrayRef> {
    let known = |value: &&RawValue| value.get() != "null";
    let Some(first) = values.clone().find(known) else { return Some(Arc::new(NullArray::new(values.count()))) };
    let values = values.map(|value| Some(value.get()).filter(|json| *json != "null"));
    /// Each value that is not null, or `None` altogether when one cannot be read.
    fn each<'a, T, A: FromIterator<Option<T>>>(
        values: impl Iterator<Item = Option<&'a str>>,
        read: impl Fn(&'a str) -> Option<T>,
    ) -> Option<A> {
        values.map(|json| json.map(&read).map_or(Some(None), |read| read.map(Some))).collect()
    }
    Some(match first.get().as_bytes().first()? {
        b'-' | b'0'..=b'9' => {
            let is_whole = |json: &str| !json.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
            if values.clone().flatten().all(is_whole) {
                Arc::new(each::<i64, Int64Array>(values, |json| json.parse().ok())?)
            } else {
                Arc::new(each::<f64, Float64Array>(values, |json| serde_json::from_str(json).ok())?)
            }
        }
        b't' | b'f' => Arc::new(each::<bool, BooleanArray>(values, |json| json.parse().ok())?),
        b'"' => Arc::new(each::<String, StringArray>(values, |json| serde_json::from_str(json).ok())?),
        _ => return None,
    })
}

/// The columns as JSON arrays.
///
/// # Errors
///
/// [`TableError::NoJson`].
pub fn to_json(table: &RecordBatch) -> Result<Map<String, Value>, TableError> {
    Ok(named_values(table)?.into_iter().map(|(name, values)| (name, Value::Array(values))).collect())
}

/// The columns as bytes, one after the other, and the type of each as the protocol names it.
///
/// # Errors
///
/// [`TableError::NoJson`], [`TableError::Zero`].
pub fn pack(table: &RecordBatch) -> Result<(Map<String, Value>, Vec<u8>), TableError> {
    let (schema, mut types, mut bytes) = (table.schema(), Map::new(), Vec::new());
    for (field, column) in schema.fields().iter().zip(table.columns()) {
        let start = bytes.len();
        let name = match column.data_type() {
            DataType::Null => {
                bytes.extend(std::iter::repeat_n(i32::MIN.to_le_bytes(), column.len()).flatten());
                "bool".to_owned()
            }
            DataType::Boolean => {
                let each = column.as_boolean().iter();
                bytes.extend(each.flat_map(|value| value.map_or(i32::MIN, i32::from).to_le_bytes()));
                "bool".to_owned()
            }
            kind if kind.is_numeric() => numbers(column, &mut bytes).ok_or_else(|| TableError::no_json(field))?.into(),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                texts(column, &mut bytes).ok_or_else(|| TableError::Zero { column: field.name().clone() })?;
                text_type(&bytes[start..])
            }
            _ => return Err(TableError::no_json(field)),
        };
        types.insert(field.name().clone(), name.into());
    }
    Ok((types, bytes))
}

/// As 32-bit integers if all are, or else as floating-point numbers.
fn numbers(column: &dyn Array, bytes: &mut Vec<u8>) -> Option<&'static str> {
    use arrow_array::types::*;
    macro_rules! integers {
        ($type:ident) => {{
            let values = column.as_primitive::<$type>();
            let small = |value| i32::try_from(value).ok().filter(|value| *value != i32::MIN);
            if values.iter().flatten().all(|value| small(value).is_some()) {
                let small = |value: Option<_>| value.and_then(small).unwrap_or(i32::MIN);
                bytes.extend(values.iter().flat_map(|value| small(value).to_le_bytes()));
                "i32"
            } else {
                bytes.extend(values.iter().flat_map(|value| value.map_or(NA, |value| (value as f64).to_le_bytes())));
                "f64"
            }
        }};
    }
    macro_rules! floats {
        ($type:ident) => {{
            let values = column.as_primitive::<$type>().iter();
            bytes.extend(values.flat_map(|value| value.map_or(NA, |value| f64::from(value).to_le_bytes())));
            "f64"
        }};
    }
    Some(match column.data_type() {
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::UInt8 => integers!(UInt8Type),
        DataType::UInt16 => integers!(UInt16Type),
        DataType::UInt32 => integers!(UInt32Type),
        DataType::UInt64 => integers!(UInt64Type),
        DataType::Float32 => floats!(Float32Type),
        DataType::Float64 => floats!(Float64Type),
        _ => return None,
    })
}

/// Each ended by a zero byte.
fn texts(column: &dyn Array, bytes: &mut Vec<u8>) -> Option<()> {
    let mut put = |text: Option<&str>| {
        match text {
            Some(text) if memchr::memchr(0, text.as_bytes()).is_some() => return None,
            Some(text) => bytes.extend_from_slice(text.as_bytes()),
            None => bytes.push(NO_TEXT),
        }
        bytes.push(0);
        Some(())
    };
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().iter().try_for_each(&mut put),
        DataType::LargeUtf8 => column.as_string::<i64>().iter().try_for_each(&mut put),
        _ => column.as_string_view().iter().try_for_each(&mut put),
    }
}

/// A column that a shim sent.
pub(crate) fn unpacked(values: PackedValues<'_>) -> Option<ArrayRef> {
    Some(match values {
        PackedValues::Json(values) => return array(values.iter().map(|value| &**value)),
        PackedValues::Bytes(kind @ (Kind::I32 | Kind::Bool), bytes) => {
            let each = bytes.as_chunks().0.iter().map(|value| Some(i32::from_le_bytes(*value)));
            let each = each.map(|value| value.filter(|value| *value != i32::MIN));
            match kind {
                Kind::I32 => Arc::new(each.collect::<Int32Array>()),
                _ => Arc::new(each.map(|value| value.map(|value| value != 0)).collect::<BooleanArray>()),
            }
        }
        PackedValues::Bytes(_, bytes) => {
            let is_na = |value: &[u8; 8]| value[..4] == NA[..4] && f64::from_le_bytes(*value).is_nan();
            let each = bytes.as_chunks().0.iter().map(|value| (!is_na(value)).then_some(f64::from_le_bytes(*value)));
            Arc::new(each.collect::<Float64Array>())
        }
        PackedValues::Texts(texts) => Arc::new(StringArray::from(texts)),
    })
}

#[cfg(test)]
mod tests {
    use arrow_array::{Float32Array, Int8Array, LargeStringArray, UInt64Array};
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::table::unpack;

    fn table<const N: usize>(columns: [(&str, ArrayRef); N]) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).expect("a table")
    }

    /// As a shim that gives back what it got would answer.
    fn echoed(table: &RecordBatch) -> RecordBatch {
        let (types, bytes) = pack(table).expect("packed");
        let types: Map<String, Value> = types
            .into_iter()
            .map(|(name, kind)| (name, kind.as_str().and_then(|kind| kind.split(' ').next()).into()))
            .collect();
        let types = to_raw_value(&types).expect("JSON");
        unpack(&types, Bytes::from(bytes), table.num_rows()).expect("unpacked")
    }

    #[test]
    fn what_is_packed_comes_back_as_the_types_that_there_are() {
        let sent = table([
            ("i8", Arc::new(Int8Array::from(vec![Some(-1), None, Some(3)]))),
            ("i64", Arc::new(Int64Array::from(vec![Some(7), None, Some(-9)]))),
            ("large", Arc::new(UInt64Array::from(vec![Some(1 << 40), None, Some(3)]))),
            ("least", Arc::new(Int32Array::from(vec![i32::MIN, 0, i32::MAX]))),
            ("f32", Arc::new(Float32Array::from(vec![Some(0.5), None, Some(f32::NAN)]))),
            ("b", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("s", Arc::new(LargeStringArray::from(vec![Some("é"), None, Some("")]))),
            ("none", Arc::new(NullArray::new(3))),
        ]);
        let back = echoed(&sent);
        let expected = table([
            ("i8", Arc::new(Int32Array::from(vec![Some(-1), None, Some(3)]))),
            ("i64", Arc::new(Int32Array::from(vec![Some(7), None, Some(-9)]))),
            ("large", Arc::new(Float64Array::from(vec![Some(1_099_511_627_776.0), None, Some(3.0)]))),
            ("least", Arc::new(Float64Array::from(vec![-2_147_483_648.0, 0.0, 2_147_483_647.0]))),
            ("f32", Arc::new(Float64Array::from(vec![Some(0.5), None, Some(f64::NAN)]))),
            ("b", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("s", Arc::new(StringArray::from(vec![Some("é"), None, Some("")]))),
            ("none", Arc::new(BooleanArray::from(vec![None, None, None]))),
        ]);
        // Not-a-numbers are equal to Arrow, if their bits are.
        assert_eq!(back, expected);
        // Without the others, the large ones are small.
        let one = echoed(&sent.slice(1, 1));
        assert_eq!((one.column(6), one.column(2).data_type()), (expected.slice(1, 1).column(6), &DataType::Int32));
        assert_eq!(echoed(&sent.slice(0, 0)).num_rows(), 0);
    }

    #[test]
    fn what_has_no_place_is_refused_by_its_column() {
        let zero = table([("t", Arc::new(StringArray::from(vec!["a\0b"])) as ArrayRef)]);
        assert!(matches!(pack(&zero), Err(TableError::Zero { column }) if column == "t"));
        let list =
            arrow_array::ListArray::from_iter_primitive::<arrow_array::types::Int32Type, _, _>([Some([Some(1)])]);
        let list = table([("l", Arc::new(list) as ArrayRef)]);
        assert!(matches!(pack(&list), Err(TableError::NoJson { column, .. }) if column == "l"));
        assert!(matches!(to_json(&list), Err(TableError::NoJson { column, .. }) if column == "l"));
        let mixed = to_raw_value(&serde_json::json!({ "a": [1, "x"] })).expect("JSON");
        let error = unpack(&mixed, Bytes::new(), 2).expect_err("of two kinds").to_string();
        assert!(error.contains("`a`"), "{error}");
        let none = to_raw_value(&serde_json::json!({})).expect("JSON");
        assert!(unpack(&none, Bytes::new(), usize::MAX).is_err());
    }

    fn found(values: &[&str]) -> Option<DataType> {
        let values: Vec<Box<RawValue>> =
            values.iter().map(|json| RawValue::from_string((*json).to_owned()).expect("JSON")).collect();
        array(values.iter().map(|value| &**value)).map(|array| array.data_type().clone())
    }

    #[test]
    fn values_of_json_have_the_types_that_pyarrow_finds() {
        assert_eq!(found(&["null", "1", "-2"]), Some(DataType::Int64));
        assert_eq!(found(&["1", "null", "2.0"]), Some(DataType::Float64));
        assert_eq!(found(&["1e3"]), Some(DataType::Float64));
        assert_eq!(found(&["true", "false", "null"]), Some(DataType::Boolean));
        assert_eq!(found(&[r#""\u00e9\n""#, "null"]), Some(DataType::Utf8));
        assert_eq!(found(&["null", "null"]), Some(DataType::Null));
        assert_eq!(found(&[]), Some(DataType::Null));
        for other in
            [&["1", "\"x\""][..], &["true", "1"], &["[1]"], &["{}"], &["1", "9223372036854775808"], &[r#""\ud800""#]]
        {
            assert_eq!(found(other), None, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn columns_of_any_bytes_are_a_table_or_an_error(
            kinds in prop::collection::vec("i32|f64|bool|str|ascii", 1..4),
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            count in 0usize..9,
        ) {
            let types: Map<String, Value> =
                kinds.iter().enumerate().map(|(n, kind)| (n.to_string(), kind.clone().into())).collect();
            let types = to_raw_value(&types).expect("JSON");
            if let Ok(table) = unpack(&types, Bytes::from(bytes), count) {
                prop_assert_eq!((table.num_rows(), table.num_columns()), (count, kinds.len()));
            }
        }
    }
}
