//! Tables: record batches of Apache Arrow, as IPC streams, as rows of JSON, and as columns.
//!
//! Pure: where the bytes come from is the business of others.

mod columns;

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::{Array, ArrayAccessor, cast::AsArray, types};
use arrow_buffer::Buffer;
use arrow_ipc::{
    reader::{StreamDecoder, StreamReader},
    writer::StreamWriter,
};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use bytes::Bytes;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use crate::{rpc::Packed, table::columns::unpacked};

pub use arrow_array::RecordBatch;
pub use columns::{from_json, pack, to_json};

/// Why something is no table, or a table cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Arrow refuses it.
    #[error("no Arrow IPC stream: {0}")]
    Stream(#[from] ArrowError),
    /// It is broken in a way that Arrow does not expect.
    #[error("no Arrow IPC stream: it is broken")]
    Broken,
    /// A column of a type that has no JSON form here.
    #[error("column `{column}` is of type {data_type}, which has no JSON form; rows have numbers, booleans and text")]
    NoJson {
        /// The column's name.
        column: String,
        /// Its type.
        data_type: DataType,
    },
    /// Text that ends before its end.
    #[error("column `{column}` has text with U+0000, which this language cannot have")]
    Zero {
        /// The column's name.
        column: String,
    },
    /// A shim's columns that are none.
    #[error("no columns of a table: {0}")]
    Columns(String),
}

impl TableError {
    fn no_json(field: &Field) -> Self {
        Self::NoJson { column: field.name().clone(), data_type: field.data_type().clone() }
    }
}

/// The table as an Arrow IPC stream.
///
/// # Errors
///
/// - [`TableError::Stream`] when Arrow cannot write it.
pub fn write(table: &RecordBatch) -> Result<Vec<u8>, TableError> {
    let mut bytes = Vec::with_capacity(table.get_array_memory_size() + 1024);
    let mut writer = StreamWriter::try_new(&mut bytes, &table.schema())?;
    writer.write(table)?;
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

/// The table that an Arrow IPC stream holds; several batches become one. Its columns stay where the bytes are.
///
/// # Errors
///
/// - [`TableError::Stream`] and [`TableError::Broken`] when it is none.
pub fn read(bytes: impl AsRef<[u8]> + Send + 'static) -> Result<RecordBatch, TableError> {
    let bytes = Bytes::from_owner(bytes);
    // A kernel may write anything, and what Arrow checks by panicking must not end us.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let (schema, mut batches) = match decode(&bytes) {
            Some(read) => read,
            // It has no end, or is broken, and then this says how.
            None => {
                let reader = StreamReader::try_new(&*bytes, None)?;
                (reader.schema(), reader.collect::<Result<_, _>>()?)
            }
        };
        match batches.len() {
            1 => Ok(batches.remove(0)),
            _ => arrow_select::concat::concat_batches(&schema, &batches),
        }
    }));
    Ok(read.map_err(|_| TableError::Broken)??)
}

/// What a whole stream holds, nothing copied.
fn decode(bytes: &Bytes) -> Option<(SchemaRef, Vec<RecordBatch>)> {
    let (mut decoder, mut batches, mut rest) = (StreamDecoder::new(), Vec::new(), Buffer::from(bytes.clone()));
    while !rest.is_empty() {
        batches.extend(decoder.decode(&mut rest).ok()?);
    }
    decoder.finish().ok()?;
    Some((decoder.schema()?, batches))
}

/// Of each of these tables, which have the same columns, one row. `None` if they have not.
pub fn gather(rows: &[(&RecordBatch, usize)]) -> Option<RecordBatch> {
    let (first, start) = *rows.first()?;
    // As rows come that wait for nothing else.
    if rows.iter().enumerate().all(|(at, (table, row))| std::ptr::eq(*table, first) && *row == start + at) {
        return Some(first.slice(start, rows.len()));
    }
    let (mut tables, mut places) = (vec![first], Vec::with_capacity(rows.len()));
    for (table, row) in rows {
        if !tables.last().is_some_and(|last| std::ptr::eq(*last, *table)) {
            if table.schema_ref() != first.schema_ref() {
                return None;
            }
            tables.push(table);
        }
        places.push((tables.len() - 1, *row));
    }
    arrow_select::interleave::interleave_record_batch(&tables, &places).ok()
}

/// The table of `count` rows that a shim returned as columns.
///
/// # Errors
///
/// [`TableError::Columns`].
pub fn unpack(columns: &RawValue, bytes: Bytes, count: usize) -> Result<RecordBatch, TableError> {
    let packed = Packed::read(columns, bytes, count).map_err(TableError::Columns)?;
    let mut arrays = Vec::new();
    for (name, values) in packed.columns(count) {
        let array = unpacked(values).ok_or_else(|| {
            let what = format!("those of `{name}` are not all numbers, all truth values or all text");
            TableError::Columns(what)
        })?;
        arrays.push((name, array, true));
    }
    Ok(RecordBatch::try_from_iter_with_nullable(arrays)?)
}

/// The table as one JSON object for each row.
///
/// # Errors
///
/// - [`TableError::NoJson`] for columns that are neither numbers nor booleans nor text.
pub fn rows(table: &RecordBatch) -> Result<Vec<Box<RawValue>>, TableError> {
    let mut columns: Vec<_> =
        named_values(table)?.into_iter().map(|(name, values)| (name, values.into_iter())).collect();
    let mut rows = Vec::with_capacity(table.num_rows());
    for _ in 0..table.num_rows() {
        let row: serde_json::Map<String, Value> =
            columns.iter_mut().map(|(name, values)| (name.clone(), values.next().unwrap_or_default())).collect();
        // A map of JSON values can always be written.
        rows.push(to_raw_value(&row).unwrap_or_else(|_| RawValue::NULL.to_owned()));
    }
    Ok(rows)
}

/// Name and JSON values of each column.
fn named_values(table: &RecordBatch) -> Result<Vec<(String, Vec<Value>)>, TableError> {
    let schema = table.schema();
    let columns = schema.fields().iter().zip(table.columns());
    columns
        .map(|(field, column)| Ok((field.name().clone(), values(column).ok_or_else(|| TableError::no_json(field))?)))
        .collect()
}

fn values(column: &dyn Array) -> Option<Vec<Value>> {
    fn each<A: ArrayAccessor>(array: A, value: impl Fn(A::Item) -> Value) -> Vec<Value> {
        (0..array.len()).map(|at| if array.is_null(at) { Value::Null } else { value(array.value(at)) }).collect()
    }
    macro_rules! numbers {
        ($type:ident) => {
            each(column.as_primitive::<types::$type>(), Value::from)
        };
    }
    Some(match column.data_type() {
        DataType::Null => vec![Value::Null; column.len()],
        DataType::Boolean => each(column.as_boolean(), Value::from),
        DataType::Int8 => numbers!(Int8Type),
        DataType::Int16 => numbers!(Int16Type),
        DataType::Int32 => numbers!(Int32Type),
        DataType::Int64 => numbers!(Int64Type),
        DataType::UInt8 => numbers!(UInt8Type),
        DataType::UInt16 => numbers!(UInt16Type),
        DataType::UInt32 => numbers!(UInt32Type),
        DataType::UInt64 => numbers!(UInt64Type),
        DataType::Float32 => numbers!(Float32Type),
        DataType::Float64 => numbers!(Float64Type),
        DataType::Utf8 => each(column.as_string::<i32>(), Value::from),
        DataType::LargeUtf8 => each(column.as_string::<i64>(), Value::from),
        DataType::Utf8View => each(column.as_string_view(), Value::from),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{BooleanArray, Float64Array, Int64Array, ListArray, StringArray, types::Int32Type};
    use proptest::prelude::*;

    use super::*;

    fn table() -> RecordBatch {
        let columns: [(&str, Arc<dyn Array>); 4] = [
            ("id", Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)]))),
            ("text", Arc::new(StringArray::from(vec![Some("é"), Some(""), None]))),
            ("value", Arc::new(Float64Array::from(vec![0.5, f64::NAN, -0.0]))),
            ("flag", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ];
        RecordBatch::try_from_iter(columns).expect("a table")
    }

    #[test]
    fn tables_survive_a_stream_whole_and_in_parts() {
        let table = table();
        assert_eq!(read(write(&table).expect("written")).expect("read"), table);
        let part = table.slice(1, 2);
        assert_eq!(read(write(&part).expect("written")).expect("read"), part);
        let none = table.slice(0, 0);
        assert_eq!(read(write(&none).expect("written")).expect("read").num_rows(), 0);
    }

    #[test]
    fn rows_of_tables_with_the_same_columns_are_one() {
        let (table, other) = (table(), table());
        assert_eq!(gather(&[(&table, 1), (&table, 2)]).expect("one"), table.slice(1, 2));
        let mixed = gather(&[(&table, 2), (&other, 0), (&other, 1), (&table, 0)]).expect("one");
        assert_eq!((mixed.num_rows(), mixed.slice(1, 2)), (4, table.slice(0, 2)));
        assert_eq!((mixed.slice(0, 1), mixed.slice(3, 1)), (table.slice(2, 1), table.slice(0, 1)));
        let narrow = table.project(&[0]).expect("fewer columns");
        assert!(gather(&[(&table, 0), (&narrow, 1)]).is_none() && gather(&[]).is_none());
    }

    #[test]
    fn rows_are_objects() {
        let rows = rows(&table()).expect("rows");
        assert_eq!(
            rows.iter().map(|row| row.get()).collect::<Vec<_>>(),
            [
                r#"{"id":1,"text":"é","value":0.5,"flag":true}"#,
                r#"{"id":null,"text":"","value":null,"flag":null}"#,
                r#"{"id":-3,"text":null,"value":-0.0,"flag":false}"#,
            ]
        );
        let list: Arc<dyn Array> = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)])]));
        let nested = RecordBatch::try_from_iter([("l", list)]).expect("a table");
        assert!(matches!(super::rows(&nested), Err(TableError::NoJson { column, .. }) if column == "l"));
    }

    proptest! {
        #[test]
        fn broken_streams_are_errors_never_panics(cut in 0usize..2000, at in 0usize..2000, byte in any::<u8>()) {
            let mut bytes = write(&table()).expect("written");
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate(cut % length);
            drop(read(bytes));
        }
    }
}
