//! Is a value as expected? Objects may have more keys than expected; everything else must be equal.

use serde_json::Value;

use crate::{blob, cli::test::case::ExpectedEvent, host::Event};

/// How far numbers may be apart, as a part of the larger: languages print and read the last digits differently.
const TOLERANCE: f64 = 1e-9;
/// Longer values are cut in messages.
const SHOWN_CHARS: usize = 200;

/// The differences, a line each, `path` first.
pub fn differences(path: &str, expected: &Value, found: &Value) -> Vec<String> {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => expected
            .iter()
            .flat_map(|(key, value)| match found.get(key) {
                Some(found) => differences(&format!("{path}.{key}"), value, found),
                None => vec![format!("{path}.{key}: expected {}, but there is no such key", short(value))],
            })
            .collect(),
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => expected
            .iter()
            .zip(found)
            .enumerate()
            .flat_map(|(index, (expected, found))| differences(&format!("{path}[{index}]"), expected, found))
            .collect(),
        (Value::Array(all), Value::Array(items)) => {
            vec![format!("{path}: expected {} items, got {}: {}", all.len(), items.len(), short(found))]
        }
        (Value::Number(one), Value::Number(other)) if one == other => Vec::new(),
        (Value::Number(one), Value::Number(other)) => match (one.as_f64(), other.as_f64()) {
            (Some(a), Some(b)) if (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()) => Vec::new(),
            _ => vec![format!("{path}: expected {one}, got {other}")],
        },
        _ if expected == found => Vec::new(),
        _ => vec![format!("{path}: expected {}, got {}", short(expected), short(found))],
    }
}

/// The expected events must be among those found, in this order; an empty list means that there are none.
pub fn event_differences(expected: &[ExpectedEvent], found: &[Event]) -> Vec<String> {
    let topics = || found.iter().map(|event| format!("`{}`", event.topic)).collect::<Vec<_>>().join(", ");
    if expected.is_empty() && !found.is_empty() {
        return vec![format!("emitted: expected none, got {}: {}", found.len(), topics())];
    }
    let mut rest = found;
    for (index, wanted) in expected.iter().enumerate() {
        let path = format!("emitted[{index}]");
        if let Some(place) = rest.iter().position(|event| one_event(&path, wanted, event).is_empty()) {
            rest = &rest[place + 1..];
            continue;
        }
        // The nearest to it is the next one of its topic.
        return match rest.iter().find(|event| *event.topic == *wanted.topic) {
            Some(event) => one_event(&path, wanted, event),
            None if found.is_empty() => {
                vec![format!("{path}: expected topic `{}`, but nothing was emitted", wanted.topic)]
            }
            None => vec![format!("{path}: expected topic `{}`, got {}", wanted.topic, topics())],
        };
    }
    Vec::new()
}

fn one_event(path: &str, wanted: &ExpectedEvent, event: &Event) -> Vec<String> {
    if *event.topic != *wanted.topic {
        return vec![format!("{path}.topic: expected {}, got {}", wanted.topic, event.topic)];
    }
    let mut all = Vec::new();
    if let Some(data) = &wanted.data {
        let found = blob::read(event.data.get()).unwrap_or_default();
        all.extend(differences(&format!("{path}.data"), data, &found));
    }
    if let Some(key) = wanted.key.as_deref().filter(|key| event.key.as_deref() != Some(key)) {
        all.push(format!("{path}.key: expected {key}, got {}", event.key.as_deref().unwrap_or("none")));
    }
    all
}

/// A value for a message.
pub fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(expected: Value, found: Value, lines: &[&str]) {
        assert_eq!(differences("result", &expected, &found), lines);
    }

    #[test]
    fn objects_may_have_more_keys_and_nothing_else_may_differ() {
        check(json!({"a": 1}), json!({"a": 1.0, "b": 2}), &[]);
        check(json!({"a": {"b": [1, {"c": null}]}}), json!({"a": {"b": [1, {"c": null, "d": 1}]}}), &[]);
        check(json!(0.1), json!(0.100_000_000_000_01), &[]);
        check(json!(0), json!(1e-12), &["result: expected 0, got 1e-12"]);
        check(json!({"a": 1}), json!({}), &["result.a: expected 1, but there is no such key"]);
        check(json!([1, 2]), json!([1]), &["result: expected 2 items, got 1: [1]"]);
        check(json!([1, 2]), json!([1, 3]), &["result[1]: expected 2, got 3"]);
        check(json!("1"), json!(1), &["result: expected \"1\", got 1"]);
        check(json!({}), json!([]), &["result: expected {}, got []"]);
        check(json!(u64::MAX), json!(u64::MAX - 1), &[]);
    }

    #[test]
    fn events_are_found_in_order_with_others_between() {
        let event = |topic: &str, data: Value| Event::new(topic, &data).expect("an event");
        let wanted = |topic: &str, data: Value| ExpectedEvent { topic: topic.into(), data: Some(data), key: None };
        let found = [event("a", json!({"n": 1})), event("b", json!(2)), event("a", json!({"n": 3}))];
        let check = |expected: &[ExpectedEvent], lines: &[&str]| {
            assert_eq!(event_differences(expected, &found), lines);
        };
        check(&[wanted("a", json!({"n": 1})), wanted("a", json!({"n": 3}))], &[]);
        check(&[wanted("b", json!(2)), wanted("a", json!({"n": 1}))], &["emitted[1].data.n: expected 1, got 3"]);
        check(&[wanted("c", json!(0))], &["emitted[0]: expected topic `c`, got `a`, `b`, `a`"]);
        check(&[], &["emitted: expected none, got 3: `a`, `b`, `a`"]);
        let nothing = event_differences(&[wanted("c", json!(0))], &[]);
        assert_eq!(nothing, ["emitted[0]: expected topic `c`, but nothing was emitted"]);
    }
}
