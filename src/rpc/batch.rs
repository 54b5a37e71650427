//! Several events in one message: what they have in common is said once, their data row by row or column by column.
//!
//! Pure, and without a tree of values: data are cut where they are JSON text already, and written again as they were.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{IgnoredAny, MapAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};
use serde_json::value::RawValue;

use crate::rpc::{ErrorKind, Outcome, Packed, Params, RpcError};
#[cfg(feature = "arrow")]
use crate::table::{self, RecordBatch};

/// The column of what is no object.
const DATA: &str = "data";
/// Most digits of a number at the end of an id: every language can count that far.
const COUNTABLE: usize = 15;

/// Parameters of `rows` and `columns`.
#[derive(Debug, Serialize)]
pub struct Batch<'a> {
    /// Which handler.
    pub handler: u64,
    /// From the root down to here.
    pub chain: &'a [String],
    /// How many events.
    pub count: usize,
    /// Their ids.
    pub ids: Ids<'a>,
    /// Their topics.
    pub topics: Runs<&'a str>,
    /// When they were emitted.
    pub times: Runs<&'a str>,
    /// 1 for the first delivery.
    pub attempts: Runs<u32>,
    /// Their keys.
    pub keys: Runs<Option<&'a str>>,
    /// Names of columns that hold values of several kinds, null aside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mixed: Vec<String>,
    /// The bytes of those columns that are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed: Option<Box<RawValue>>,
    /// Their data as an Arrow IPC stream, instead of `columns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<Box<RawValue>>,
    /// Their data, of `rows`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Vec<&'a RawValue>>,
    /// Their data, of `columns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns<'a>>,
}

impl<'a> Batch<'a> {
    /// Of `count` events for this handler, none of which is in it yet.
    pub fn new(handler: u64, chain: &'a [String], count: usize) -> Self {
        Self {
            handler,
            chain,
            count,
            ids: Ids::default(),
            topics: Runs::default(),
            times: Runs::default(),
            attempts: Runs::default(),
            keys: Runs::default(),
            mixed: Vec::new(),
            packed: None,
            table: None,
            data: None,
            columns: None,
        }
    }
}

impl Params for Batch<'_> {
    fn count(&self) -> usize {
        self.count
    }
}

/// A column of equal neighbours: `[[value, count], ...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runs<T>(Vec<(T, usize)>);

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq> Runs<T> {
    /// One more value.
    pub fn push(&mut self, value: T) {
        self.extend_by(value, 1);
    }

    /// The same value `count` times more.
    pub fn extend_by(&mut self, value: T, count: usize) {
        match self.0.last_mut() {
            Some((last, have)) if *last == value => *have += count,
            _ => self.0.push((value, count)),
        }
    }
}

impl<T: Serialize> Serialize for Runs<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Ids: `[prefix, first, count]` for those that count up, `[id]` for any other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids<'a>(Vec<(&'a str, Option<(u64, usize)>)>);

impl<'a> Ids<'a> {
    /// One more id.
    pub fn push(&mut self, id: &'a str) {
        let Some((prefix, number)) = counted(id) else { return self.0.push((id, None)) };
        match self.0.last_mut() {
            Some((last, Some((first, count)))) if *last == prefix && *first + *count as u64 == number => *count += 1,
            _ => self.0.push((prefix, Some((number, 1)))),
        }
    }
}

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut runs = serializer.serialize_seq(Some(self.0.len()))?;
        for (prefix, counted) in &self.0 {
            match counted {
                Some((first, count)) => runs.serialize_element(&(prefix, first, count))?,
                None => runs.serialize_element(&(prefix,))?,
            }
        }
        runs.end()
    }
}

/// An id as a prefix and a number that is written again as it was.
fn counted(id: &str) -> Option<(&str, u64)> {
    let digits = id.len() - id.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (prefix, number) = id.split_at(digits);
    let fits = !number.is_empty() && number.len() <= COUNTABLE && (number == "0" || !number.starts_with('0'));
    Some((prefix, number.parse().ok().filter(|_| fits)?))
}

/// The data of events, column by column.
///
/// The keys are those of all objects, in the order in which they first come; what an object does not have is null. Data
/// that are no object are in the column `data`.
#[derive(Debug, Default)]
pub struct Columns<'a> {
    pub(super) columns: Vec<Column<'a>>,
    rows: usize,
}

#[derive(Debug)]
pub(super) struct Column<'a> {
    name: Cow<'a, str>,
    pub(super) values: Vec<&'a RawValue>,
    /// How its values are packed, if they are; then they are not written as JSON.
    pub(super) packed: Option<String>,
}

/// What a value begins with tells its kind; all numbers are one kind, and so are `true` and `false`.
pub(super) fn kind(value: &RawValue) -> u8 {
    match value.get().as_bytes().first() {
        Some(b'-' | b'0'..=b'9') => b'0',
        Some(b'f') => b't',
        other => other.copied().unwrap_or(b'n'),
    }
}

impl<'a> Columns<'a> {
    /// One more row.
    pub fn push(&mut self, data: &'a RawValue) {
        if data.get().starts_with('{') {
            let mut input = serde_json::Deserializer::from_str(data.get());
            // It is JSON, so nothing can go wrong but its depth; then it is a value like any other.
            if input.deserialize_map(Row(self)).is_err() {
                self.put(0, Cow::Borrowed(DATA), data);
            }
        } else {
            self.put(0, Cow::Borrowed(DATA), data);
        }
        self.rows += 1;
        for column in &mut self.columns {
            if column.values.len() < self.rows {
                column.values.push(RawValue::NULL);
            }
        }
    }

    /// Put a value of the row that comes next into its column, which is likely to be at `place`; returns where it was.
    fn put(&mut self, place: usize, key: Cow<'a, str>, value: &'a RawValue) -> usize {
        let place = match self.columns.get(place) {
            Some(column) if column.name == key => place,
            _ => self.columns.iter().position(|column| column.name == key).unwrap_or_else(|| {
                self.columns.push(Column { name: key, values: vec![RawValue::NULL; self.rows], packed: None });
                self.columns.len() - 1
            }),
        };
        let column = &mut self.columns[place].values;
        // As everywhere, of two members with the same name the last counts.
        column.truncate(self.rows);
        column.push(value);
        place
    }

    /// Names of the columns that hold values of several kinds: not all languages have a vector for them.
    pub fn mixed(&self) -> Vec<String> {
        let is_mixed = |column: &[&RawValue]| {
            let mut kinds = column.iter().map(|value| kind(value)).filter(|kind| *kind != b'n');
            let first = kinds.next();
            kinds.any(|kind| Some(kind) != first)
        };
        let mixed = self.columns.iter().filter(|column| is_mixed(&column.values));
        mixed.map(|column| column.name.clone().into_owned()).collect()
    }

    /// Name and values of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[&'a RawValue])> {
        self.columns.iter().map(|column| (&*column.name, &*column.values))
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }
}

impl<'a> Extend<&'a RawValue> for Columns<'a> {
    fn extend<T: IntoIterator<Item = &'a RawValue>>(&mut self, rows: T) {
        for row in rows {
            self.push(row);
        }
    }
}

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.columns.len()))?;
        for Column { name, values, packed } in &self.columns {
            match packed {
                Some(packed) => map.serialize_entry(name, packed)?,
                None => map.serialize_entry(name, values)?,
            }
        }
        map.end()
    }
}

struct Row<'c, 'a>(&'c mut Columns<'a>);

impl<'a> Visitor<'a> for Row<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut members: A) -> Result<(), A::Error> {
        let mut place = 0;
        while let Some((Key(key), value)) = members.next_entry::<Key<'a>, &'a RawValue>()? {
            place = self.0.put(place, key, value) + 1;
        }
        Ok(())
    }
}

/// A key, borrowed where it holds no escape; serde's own `Cow` is always owned.
struct Key<'a>(Cow<'a, str>);

impl<'a> Deserialize<'a> for Key<'a> {
    fn deserialize<D: Deserializer<'a>>(input: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'a> Visitor<'a> for Text {
            type Value = Key<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'a str) -> Result<Key<'a>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E>(self, key: &str) -> Result<Key<'a>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        input.deserialize_str(Text)
    }
}

/// What came of a batch.
#[derive(Debug)]
pub enum Done {
    /// One outcome for each event.
    Each(Vec<Outcome>),
    /// All were handled.
    All(Results),
}

/// What the handler made of a batch that went well.
#[derive(Debug)]
pub enum Results {
    /// Nothing.
    None,
    /// One value for each event, as a JSON array.
    Rows(Box<RawValue>),
    /// For each name a JSON array of one value for each event.
    Columns(Box<RawValue>),
    /// The same, some of them as bytes.
    Packed(Packed),
    /// A table of one row for each event.
    #[cfg(feature = "arrow")]
    Table(RecordBatch),
}

#[derive(Deserialize)]
struct Answer<'a> {
    outcomes: Option<Vec<Outcome>>,
    done: Option<f64>,
    #[serde(borrow)]
    packed: Option<&'a RawValue>,
    #[serde(borrow)]
    results: Option<&'a RawValue>,
    #[serde(borrow)]
    columns: Option<&'a RawValue>,
    #[cfg(feature = "arrow")]
    #[serde(borrow)]
    table: Option<&'a RawValue>,
}

impl Done {
    /// Read the answer to a batch of `count` events; `open` gives the bytes that it names.
    ///
    /// # Errors
    ///
    /// `Invalid` when it is not one for each of them.
    pub fn read(
        answer: &RawValue,
        count: usize,
        open: impl FnOnce(&RawValue) -> serde_json::Result<Bytes>,
    ) -> Result<Self, RpcError> {
        let wrong = |what: String| RpcError::new(ErrorKind::Invalid, what);
        let unfit = |error: serde_json::Error| wrong(format!("the shim's outcomes do not fit the protocol: {error}"));
        let check = |what: &str, found: usize| match found == count {
            true => Ok(()),
            false => Err(wrong(format!("the shim gave {found} {what} for {count} events"))),
        };
        match serde_json::from_str(answer.get()).map_err(unfit)? {
            Answer { outcomes: Some(outcomes), .. } => {
                check("outcomes", outcomes.len())?;
                Ok(Self::Each(outcomes))
            }
            Answer { results: Some(results), .. } => {
                check("results", length(results).map_err(unfit)?)?;
                Ok(Self::All(Results::Rows(results.to_owned())))
            }
            Answer { columns: Some(columns), packed: Some(packed), .. } => {
                let bytes = open(packed).map_err(unfit)?;
                Ok(Self::All(Results::Packed(Packed::read(columns, bytes, count).map_err(wrong)?)))
            }
            Answer { columns: Some(columns), .. } => {
                for (name, column) in members(columns).map_err(unfit)? {
                    check(&format!("values in column `{name}`"), length(column).map_err(unfit)?)?;
                }
                Ok(Self::All(Results::Columns(columns.to_owned())))
            }
            #[cfg(feature = "arrow")]
            Answer { table: Some(bytes), .. } => {
                let table = table::read(open(bytes).map_err(unfit)?).map_err(|error| wrong(error.to_string()))?;
                check("rows", table.num_rows())?;
                // Whether each of its columns can be in a result.
                table::rows(&table.slice(0, count.min(1))).map_err(|error| wrong(error.to_string()))?;
                Ok(Self::All(Results::Table(table)))
            }
            Answer { done: Some(done), .. } => {
                check("events as done", done as usize)?;
                Ok(Self::All(Results::None))
            }
            _ => Err(wrong("the shim's outcomes do not fit the protocol: there are none".into())),
        }
    }
}

impl Results {
    /// One value for each of `count` events.
    pub fn rows(&self, count: usize) -> Vec<Box<RawValue>> {
        // It was looked at when it was read.
        match self {
            Self::None => vec![super::null(); count],
            Self::Rows(rows) => serde_json::from_str(rows.get()).unwrap_or_else(|_| vec![super::null(); count]),
            Self::Packed(packed) => packed.rows(count),
            #[cfg(feature = "arrow")]
            Self::Table(table) => table::rows(table).unwrap_or_else(|_| vec![super::null(); count]),
            Self::Columns(columns) => rows(columns).unwrap_or_else(|_| vec![super::null(); count]),
        }
    }
}

fn length(array: &RawValue) -> serde_json::Result<usize> {
    // No more than a count: nothing of a thing without a size is kept.
    serde_json::from_str::<Vec<IgnoredAny>>(array.get()).map(|items| items.len())
}

pub(super) fn members(object: &RawValue) -> serde_json::Result<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Members;
    impl<'a> Visitor<'a> for Members {
        type Value = Vec<(Cow<'a, str>, &'a RawValue)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of columns")
        }
        fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((Key(key), value)) = map.next_entry()? {
                members.push((key, value));
            }
            Ok(members)
        }
    }
    serde_json::Deserializer::from_str(object.get()).deserialize_map(Members)
}

/// Columns as rows: one object for each place.
fn rows(columns: &RawValue) -> serde_json::Result<Vec<Box<RawValue>>> {
    let columns = members(columns)?;
    let mut read = Vec::with_capacity(columns.len());
    for (name, column) in &columns {
        read.push((serde_json::to_string(name)?, serde_json::from_str::<Vec<&RawValue>>(column.get())?));
    }
    let count = read.iter().map(|(_, column)| column.len()).min().unwrap_or_default();
    let row = |index: usize| {
        let members = read.iter().map(|(name, column)| format!("{name}:{}", column[index].get()));
        RawValue::from_string(format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
    };
    (0..count).map(row).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.into()).expect("JSON")
    }

    fn columns(rows: &[&str]) -> String {
        let rows: Vec<Box<RawValue>> = rows.iter().map(|row| raw(row)).collect();
        let mut columns = Columns::default();
        columns.extend(rows.iter().map(|row| &**row));
        serde_json::to_string(&columns).expect("JSON")
    }

    #[test]
    fn what_is_missing_is_null_and_what_is_new_is_a_column() {
        let check = |rows: &[&str], expected: &str| assert_eq!(columns(rows), expected, "{rows:?}");
        check(&[r#"{"a":1,"b":"x"}"#, r#"{"b":"y","a":2.50}"#], r#"{"a":[1,2.50],"b":["x","y"]}"#);
        check(&[r#"{"a":1}"#, r#"{"b":2}"#, "{}"], r#"{"a":[1,null,null],"b":[null,2,null]}"#);
        check(&["1", r#"{"a":[1,{"b":2}]}"#, r#""x""#], r#"{"data":[1,null,"x"],"a":[null,[1,{"b":2}],null]}"#);
        check(&[r#"{"a":1,"a":2}"#, r#"{"\u0061":3}"#], r#"{"a":[2,3]}"#);
        check(&["{}", "{}"], "{}");
        check(&[], "{}");
        check(&["null", r#"{"data":1}"#], r#"{"data":[null,1]}"#);
    }

    #[test]
    fn columns_of_several_kinds_are_told() {
        let rows = [r#"{"a":1,"b":null,"c":true,"d":"x"}"#, r#"{"a":-2,"b":"y","c":false,"d":1}"#, r#"{"c":0}"#];
        let rows = rows.map(raw);
        let mut columns = Columns::default();
        columns.extend(rows.iter().map(|row| &**row));
        assert_eq!(columns.mixed(), ["c", "d"]);
    }

    #[test]
    fn heads_say_once_what_is_equal() {
        let mut ids = Ids::default();
        for id in ["run-9", "run-10", "run-11", "run-7", "x", "a-007", "9999999999999999", "42"] {
            ids.push(id);
        }
        let expected = json!([["run-", 9, 3], ["run-", 7, 1], ["x"], ["a-007"], ["9999999999999999"], ["", 42, 1]]);
        assert_eq!(serde_json::to_value(&ids).expect("JSON"), expected);
        let mut keys = Runs::default();
        for key in [None, None, Some("k"), None] {
            keys.push(key);
        }
        assert_eq!(serde_json::to_value(&keys).expect("JSON"), json!([[null, 2], ["k", 1], [null, 1]]));
    }

    #[test]
    fn the_large_value_is_the_last() {
        let row = raw(r#"{"a":1}"#);
        let chain = ["e".to_owned()];
        let mut batch = Batch { data: Some(vec![&row]), ..Batch::new(1, &chain, 1) };
        let head = r#"{"handler":1,"chain":["e"],"count":1,"ids":[],"topics":[],"times":[],"attempts":[],"keys":[],"#;
        assert_eq!(serde_json::to_string(&batch).expect("JSON"), format!(r#"{head}"data":[{{"a":1}}]}}"#));
        let mut columns = Columns::default();
        columns.push(&row);
        (batch.data, batch.columns) = (None, Some(columns));
        assert_eq!(serde_json::to_string(&batch).expect("JSON"), format!(r#"{head}"columns":{{"a":[1]}}}}"#));
    }

    #[test]
    fn answers_are_one_for_each_event_or_an_error() {
        let rows = |json: &str, count| match Done::read(&raw(json), count, |_| Ok(Bytes::new())).expect(json) {
            Done::All(results) => results.rows(count).iter().map(|row| row.get().to_owned()).collect::<Vec<_>>(),
            Done::Each(outcomes) => vec![format!("{} outcomes", outcomes.len())],
        };
        assert_eq!(rows(r#"{"done":2}"#, 2), ["null", "null"]);
        assert_eq!(rows(r#"{"done":2.0}"#, 2), ["null", "null"]);
        assert_eq!(rows(r#"{"results":[1,{"a":2}]}"#, 2), ["1", r#"{"a":2}"#]);
        assert_eq!(
            rows(r#"{"columns":{"a":[1,2],"b\"":["x",null]}}"#, 2),
            [r#"{"a":1,"b\"":"x"}"#, r#"{"a":2,"b\"":null}"#]
        );
        assert_eq!(rows(r#"{"outcomes":[{"result":1},{"error":{}}]}"#, 2), ["2 outcomes"]);
        for wrong in [
            "{}",
            "[]",
            "null",
            r#"{"done":1}"#,
            r#"{"results":[1]}"#,
            r#"{"results":7}"#,
            r#"{"columns":{"a":[1,2],"b":[1]}}"#,
            r#"{"columns":[1,2]}"#,
            r#"{"outcomes":[]}"#,
        ] {
            assert_eq!(Done::read(&raw(wrong), 2, |_| Ok(Bytes::new())).expect_err(wrong).kind, ErrorKind::Invalid);
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e300..1e300f64).prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec(("[a-c\"é]{1,2}", inner), 0..3)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn columns_back_to_rows_are_the_rows(
            data in prop::collection::vec(prop::collection::vec(("[a-d\\\\]{1,2}", value()), 0..5), 1..20),
        ) {
            let objects: Vec<Map<String, Value>> = data.into_iter().map(|row| row.into_iter().collect()).collect();
            let texts: Vec<Box<RawValue>> =
                objects.iter().map(|row| serde_json::value::to_raw_value(row).expect("JSON")).collect();
            let mut columns = Columns::default();
            columns.extend(texts.iter().map(|row| &**row));
            let text = raw(&serde_json::to_string(&columns).expect("JSON"));
            let names: Vec<&String> = objects.iter().flat_map(Map::keys).collect();
            let back = rows(&text).expect("columns");
            prop_assert_eq!(back.len(), if names.is_empty() { 0 } else { objects.len() });
            for (row, object) in back.iter().zip(&objects) {
                let row: Map<String, Value> = serde_json::from_str(row.get()).expect("an object");
                for name in &names {
                    prop_assert_eq!(&row[*name], object.get(*name).unwrap_or(&Value::Null));
                }
            }
        }

        #[test]
        fn ids_are_written_again_as_they_were(ids in prop::collection::vec("[a-b]?-?[0-9]{0,3}", 0..30)) {
            let mut runs = Ids::default();
            for id in &ids {
                runs.push(id);
            }
            let written = runs.0.iter().flat_map(|(prefix, counted)| match counted {
                None => vec![(*prefix).to_owned()],
                Some((first, count)) => (0..*count as u64).map(|n| format!("{prefix}{}", first + n)).collect(),
            });
            prop_assert_eq!(written.collect::<Vec<_>>(), ids);
        }
    }
}
