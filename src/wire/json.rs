//! JSON as kernels really write it.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// Read JSON; where its text is not text, read it once more with U+FFFD in those places, as jupyter_client does.
///
/// IRkernel and ipykernel 7 put printed bytes that are not UTF-8 into a `stream` as they are, and ijavascript escapes
/// half a character (`"\ud83d"`) in an `execute_reply`. That is no reason to lose output, let alone a reply.
///
/// # Errors
///
/// When it is not JSON, or not the JSON of a `T`.
pub(crate) fn from_slice<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(json).or_else(|error| match text(json) {
        Cow::Owned(repaired) => serde_json::from_str(&repaired),
        Cow::Borrowed(_) => Err(error),
    })
}

/// The JSON with U+FFFD for all that is not text; borrowed when all of it is.
pub(crate) fn text(json: &[u8]) -> Cow<'_, str> {
    // What is text is found to be so in a tenth of the time.
    let text = std::str::from_utf8(json).map_or_else(|_| String::from_utf8_lossy(json), Cow::Borrowed);
    match replace_half_characters(&text) {
        Some(replaced) => Cow::Owned(replaced),
        None => text,
    }
}

/// Replace escapes of surrogates that are not a pair; `None` when there are none.
fn replace_half_characters(json: &str) -> Option<String> {
    // Every message of a plugin comes by here, and in megabytes of other escapes this is twenty times as quick.
    if !(json.contains("\\ud") || json.contains("\\uD")) {
        return None;
    }
    let mut replaced = String::new();
    // Up to where `json` is copied into `replaced`, and where to look next.
    let (mut copied, mut position) = (0, 0);
    while let Some(backslash) = json[position..].find('\\').map(|offset| position + offset) {
        position = match (code_unit(json, backslash), code_unit(json, backslash + 6)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => backslash + 12,
            (Some(0xd800..0xe000), _) => {
                replaced.push_str(&json[copied..backslash]);
                replaced.push_str("\\ufffd");
                copied = backslash + 6;
                copied
            }
            // Whatever is escaped, a backslash too, is one character.
            _ => backslash + 1 + json[backslash + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    (copied > 0).then(|| replaced + &json[copied..])
}

/// The number in `\uXXXX` at `start`.
fn code_unit(json: &str, start: usize) -> Option<u16> {
    let digits = json.get(start..start + 6)?.strip_prefix("\\u")?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_text_is_replaced() {
        let check = |json: &[u8], expected: Option<&str>| {
            assert_eq!(from_slice::<String>(json).ok().as_deref(), expected, "{}", json.escape_ascii());
        };
        check(br#""plain \ud83c\udf0d""#, Some("plain \u{1f30d}"));
        check(b"\"\xff caf\xe9\"", Some("\u{fffd} caf\u{fffd}"));
        check(br#""\ud83d""#, Some("\u{fffd}"));
        check(br#""a\udf0d\ud83c\ud83c\udf0db""#, Some("a\u{fffd}\u{fffd}\u{1f30d}b"));
        check(br#""\ud83c\n""#, Some("\u{fffd}\n"));
        check(b"\"\xe9\\uD83D\"", Some("\u{fffd}\u{fffd}"));
        // An escaped backslash starts no escape.
        check(br#""\\ud83d \ud83d""#, Some("\\ud83d \u{fffd}"));
        // Text that is text and still no JSON, and the ends of what can be cut off.
        for json in [
            br#""\ud8"#.as_slice(),
            br#""\ud83d"#,
            br#""\ud83d\"#,
            br#""\ud83d\u"#,
            b"\"\\\xff\"",
            b"\\",
            b"",
            "\"\\ud83é\"".as_bytes(),
        ] {
            check(json, None);
        }
    }

    #[test]
    fn numbers_keep_all_their_digits() {
        // Without serde_json's feature `float_roundtrip` the last digit of some is off by one.
        let number: f64 = from_slice(b"5.7434573488898695e-34").expect("a number");
        assert_eq!(number.to_bits(), 5.743_457_348_889_869_5e-34_f64.to_bits());
    }
}
