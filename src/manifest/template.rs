//! Plugins at the basic level: a kernel without a shim, and code with a hole for the data.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::pattern::Pattern;

/// `[template]`: the code that is executed for an event or a call. Its result is what the last expression displays.
///
/// This is the one place where data is pasted into code, because a kernel without a shim knows no other way, and so it
/// exists at the basic level only. What is pasted is one string literal with the JSON text in it, see
/// [`string_literal`]; the kernel's own JSON parser makes data of it.
///
/// # Format
///
/// ```toml
/// [template]
/// event = '(handle {event})'     # becomes (handle "{\"id\":1}"): the quotes come with the data
/// topic = ["quake.*"]            # events it is for; default: all
/// exports = { distance = '(distance {args})' }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Code for each event, with `{event}` for the event object.
    pub event: Option<String>,
    /// Events it is executed for.
    pub topic: Vec<Pattern>,
    /// Code for each exported function, with `{args}` for the array of arguments.
    pub exports: BTreeMap<String, String>,
}

impl Template {
    /// The code that handles an event; none when there is no code for events.
    pub fn event_code(&self, event: &RawValue) -> Option<String> {
        self.event.as_ref().map(|code| code.replace("{event}", &string_literal(event)))
    }

    /// The code that calls an exported function; none when there is no such function.
    pub fn export_code(&self, name: &str, args: &RawValue) -> Option<String> {
        self.exports.get(name).map(|code| code.replace("{args}", &string_literal(args)))
    }
}

/// A double-quoted string literal that holds the text of a JSON value.
///
/// It needs only `\"` and `\\` to mean what they mean in nearly every language (not in Pascal, SQL and MATLAB).
/// Everything in the value's strings that some language gives a meaning inside quotes, such as `$` in Bash and Perl,
/// `#` in Ruby and a backtick, and everything beyond ASCII, is written as JSON's own `\uXXXX`, so it cannot end the
/// literal and cannot start an interpolation.
pub fn string_literal(value: &RawValue) -> String {
    let mut literal = String::with_capacity(value.get().len() + 16);
    literal.push('"');
    for character in value.get().chars() {
        match character {
            '"' => literal.push_str("\\\""),
            '\\' => literal.push_str("\\\\"),
            // Between tokens only: inside a JSON string they are escaped already.
            '\n' | '\r' | '\t' => literal.push(' '),
            'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' => literal.push(character),
            '[' | ']' | '{' | '}' | '(' | ')' | ',' | ':' | ';' | '.' | '-' | '+' | '_' | '/' | '=' | '*' | '?' => {
                literal.push(character);
            }
            // None of these can follow a backslash in JSON, so they may become an escape of their own.
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    literal.push_str(&format!("\\\\u{unit:04x}"));
                }
            }
        }
    }
    literal.push('"');
    literal
}

/// The placeholders of the form `{word}` in a template, for complaints about mistyped ones.
pub(super) fn placeholders(code: &str) -> impl Iterator<Item = &str> {
    code.split('{').skip(1).filter_map(|rest| {
        let (word, _) = rest.split_once('}')?;
        (!word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic())).then_some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[track_caller]
    fn check(value: &str, literal: &str) {
        assert_eq!(string_literal(&json(value)), literal);
    }

    #[test]
    fn the_literal_holds_the_json_text() {
        check("1", r#""1""#);
        check(r#"{"id":1}"#, r#""{\"id\":1}""#);
        check("[\n\t1]", r#""[  1]""#);
        check(r#""a\nb\"c\\d\/e""#, r#""\"a\\nb\\\"c\\\\d\\/e\"""#);
        check(r#""ä𝄞""#, r#""\"\\u00e4\\ud834\\udd1e\"""#);
    }

    #[test]
    fn nothing_in_it_can_end_the_literal_or_start_an_interpolation() {
        let hostile = r##""$(rm -rf /) `id` #{x} ${x} @x %s 'q' !! \\(x) <x> & ~ ^ |""##;
        let literal = string_literal(&json(hostile));
        for character in ['$', '`', '#', '@', '%', '\'', '!', '<', '>', '&', '~', '^', '|'] {
            assert!(!literal.contains(character), "{character} in {literal}");
        }
        // Undo the literal as any language would, then the JSON: the value is what it was.
        let text = literal[1..literal.len() - 1].replace("\\\"", "\"").replace("\\\\", "\\");
        let value: String = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value, serde_json::from_str::<String>(hostile).expect("JSON"));
    }

    #[test]
    fn code_is_filled_in() {
        let template = Template {
            event: Some("(begin {(handle {event})})".to_owned()),
            topic: Vec::new(),
            exports: [("fit".to_owned(), "(fit {args})".to_owned())].into(),
        };
        assert_eq!(template.event_code(&json("1")).as_deref(), Some(r#"(begin {(handle "1")})"#));
        assert_eq!(template.export_code("fit", &json(r#"["{args}"]"#)).as_deref(), Some(r#"(fit "[\"{args}\"]")"#));
        assert_eq!(template.export_code("fits", &json("[]")), None);
    }

    #[test]
    fn placeholders_are_found() {
        assert_eq!(placeholders("{ f({event}) {} {a b} {args").collect::<Vec<_>>(), ["event"]);
    }
}
