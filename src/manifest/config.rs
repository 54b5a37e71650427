//! `[config]`: free form, from TOML to JSON.

use serde_json::{Map, Number, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::manifest::reader::{Report, Section, to_i64};

/// Read `[config]`; what JSON cannot hold is a problem.
pub(super) fn read<'t>(document: &DeTable<'t>, report: &mut Report<'t>) -> Map<String, Value> {
    // Opened for its complaint when it is no table; nothing in it is unknown.
    drop(Section::open(document, "config", report));
    match document.get("config").map(|value| value.get_ref()) {
        Some(DeValue::Table(table)) => to_map(table, "config", report),
        _ => Map::new(),
    }
}

fn to_map<'t>(table: &DeTable<'t>, field: &str, report: &mut Report<'t>) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, value) in table {
        let key = key.get_ref().as_ref();
        let field = format!("{field}.{key}");
        map.insert(key.to_owned(), to_json(value, &field, report));
    }
    map
}

fn to_json<'t>(value: &Spanned<DeValue<'t>>, field: &str, report: &mut Report<'t>) -> Value {
    let number = match value.get_ref() {
        DeValue::String(text) => return Value::from(text.as_ref()),
        DeValue::Boolean(boolean) => return Value::from(*boolean),
        DeValue::Datetime(datetime) => return Value::from(datetime.to_string()),
        DeValue::Table(table) => return Value::Object(to_map(table, field, report)),
        DeValue::Array(items) => return items.iter().map(|item| to_json(item, field, report)).collect(),
        DeValue::Integer(integer) => to_i64(integer).map(Value::from).ok_or_else(|| integer.to_string()),
        DeValue::Float(float) => {
            let number = float.as_str().parse().ok().and_then(Number::from_f64);
            number.map(Value::Number).ok_or_else(|| float.to_string())
        }
    };
    number.unwrap_or_else(|written| {
        let message = format!("`{written}` in [config] is a number that JSON cannot hold");
        report.add(&value.span(), field.to_owned(), message, Some("write it as a string".to_owned()));
        Value::Null
    })
}
