//! Names and patterns: topics of events, names of plugins and functions, and `*` over them.
//!
//! Pure. A pattern has one special character: `*` matches any run of characters, dots too, also none.

use std::{fmt, str::FromStr};

/// The longest name or pattern, in bytes.
pub const MAX_NAME_BYTES: usize = 200;

/// First parts of function names that are the host's own, so no plugin may be called that.
pub const RESERVED_PLUGIN_NAMES: [&str; 3] = ["host", "log", "state"];

/// A pattern over topics or function names: `quake.*`, `state.get`, `*`.
///
/// # Format
///
/// ```text
/// *            everything
/// quake.*      quake.new, quake.new.big; not quake
/// *.done       any topic that ends with .done
/// a*b*c        and so on
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Box<str>,
    shape: Shape,
}

/// What the text turned out to be, so that the usual patterns are one comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Shape {
    /// `*`
    Everything,
    /// No `*` at all.
    Literal,
    /// One `*`, at the end.
    Prefix,
    /// Anything else.
    Wild,
}

/// Why a name or pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing there.
    #[error("a {what} must not be empty")]
    Empty {
        /// Topic, plugin name, function name or pattern.
        what: &'static str,
    },
    /// More than [`MAX_NAME_BYTES`].
    #[error("this {what} is {found} bytes long; at most {MAX_NAME_BYTES} are allowed")]
    TooLong {
        /// Topic, plugin name, function name or pattern.
        what: &'static str,
        /// Its length in bytes.
        found: usize,
    },
    /// A character that does not belong there.
    #[error("{character:?} in {what} `{name}` is not allowed; use {allowed}")]
    Character {
        /// Topic, plugin name, function name or pattern.
        what: &'static str,
        /// The name as it was given.
        name: String,
        /// The first bad character.
        character: char,
        /// What is allowed.
        allowed: &'static str,
    },
    /// `state`, `log` and `host` are the host's own functions.
    #[error("plugin name `{name}` is reserved: `{name}.*` are functions of the host")]
    Reserved {
        /// The name as it was given.
        name: String,
    },
}

impl Pattern {
    /// Parse a pattern. Everything but `*` is literal.
    ///
    /// # Errors
    ///
    /// - [`NameError::Empty`] and [`NameError::TooLong`].
    /// - [`NameError::Character`] for white space and control characters, which no name can hold.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_name("pattern", text, PRINTABLE_OR_STAR, |c| !c.is_whitespace() && !c.is_control())?;
        let shape = match text.find('*') {
            None => Shape::Literal,
            Some(0) if text.len() == 1 => Shape::Everything,
            Some(first) if first == text.len() - 1 => Shape::Prefix,
            Some(_) => Shape::Wild,
        };
        Ok(Self { text: text.into(), shape })
    }

    /// Does the pattern match the whole of `name`?
    pub fn matches(&self, name: &str) -> bool {
        match self.shape {
            Shape::Everything => true,
            Shape::Literal => *self.text == *name,
            Shape::Prefix => name.starts_with(&self.text[..self.text.len() - 1]),
            Shape::Wild => matches_wild(&self.text, name),
        }
    }

    /// Does the pattern match exactly one name, because it holds no `*`?
    pub fn is_literal(&self) -> bool {
        self.shape == Shape::Literal
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl FromStr for Pattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

/// Check a topic: 1 to 200 bytes of `[A-Za-z0-9._/-]`.
///
/// # Errors
///
/// - [`NameError::Empty`], [`NameError::TooLong`], [`NameError::Character`].
pub fn check_topic(topic: &str) -> Result<(), NameError> {
    check_name("topic", topic, "letters, digits and . _ / -", |c| c.is_ascii_alphanumeric() || "._/-".contains(c))
}

/// Check a plugin's name: 1 to 200 bytes of `[a-z0-9-]`, and not one of [`RESERVED_PLUGIN_NAMES`].
///
/// # Errors
///
/// - [`NameError::Empty`], [`NameError::TooLong`], [`NameError::Character`], [`NameError::Reserved`].
pub fn check_plugin_name(name: &str) -> Result<(), NameError> {
    check_name("plugin name", name, "a-z, 0-9 and -", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')?;
    if RESERVED_PLUGIN_NAMES.contains(&name) {
        return Err(NameError::Reserved { name: name.to_owned() });
    }
    Ok(())
}

/// Check the name of a function: 1 to 200 bytes without white space, control characters and `*`.
///
/// No narrower, because Julia exports `fit!`, R `.fit` and both `β`. A plugin's name holds no dot, so the first dot of
/// `quake-geo.distance` always ends it.
///
/// # Errors
///
/// - [`NameError::Empty`], [`NameError::TooLong`], [`NameError::Character`].
pub fn check_function_name(name: &str) -> Result<(), NameError> {
    check_name("function name", name, PRINTABLE, |c| !c.is_whitespace() && !c.is_control() && c != '*')
}

const PRINTABLE: &str = "anything but white space, control characters and *";
const PRINTABLE_OR_STAR: &str = "anything but white space and control characters";

fn check_name(
    what: &'static str,
    name: &str,
    allowed: &'static str,
    is_allowed: impl Fn(char) -> bool,
) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong { what, found: name.len() });
    }
    match name.chars().find(|c| !is_allowed(*c)) {
        None => Ok(()),
        Some(character) => Err(NameError::Character { what, name: name.to_owned(), character, allowed }),
    }
}

/// The pieces between stars must occur in order, the first at the start and the last at the end; taking each at its
/// first place is never wrong, so there is no backtracking and no pattern that takes exponential time.
fn matches_wild(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut name) = name.strip_prefix(first).and_then(|name| name.strip_suffix(last)) else { return false };
    middle.split('*').filter(|piece| !piece.is_empty()).all(|piece| match name.split_once(piece) {
        None => false,
        Some((_, after)) => {
            name = after;
            true
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let parsed = Pattern::parse(pattern).expect("parses");
        assert_eq!(parsed.to_string(), pattern);
        for name in matching {
            assert!(parsed.matches(name), "{pattern} should match {name}");
        }
        for name in others {
            assert!(!parsed.matches(name), "{pattern} should not match {name}");
        }
    }

    #[test]
    fn a_star_matches_any_run_of_characters() {
        check("*", &["", "a", "a.b.c"], &[]);
        check("**", &["", "a"], &[]);
        check("quake.*", &["quake.", "quake.new", "quake.new.big"], &["quake", "quakes.new", "a.quake.new"]);
        check("*.done", &[".done", "a.done", "a.b.done"], &["done", "a.done.b"]);
        check("a*c", &["ac", "abc", "a.b.c"], &["a", "c", "abcd", "xac"]);
        check("a*b*c", &["abc", "aXbXc", "abbbc", "abcabc"], &["ac", "acb", "abcd"]);
        check("*b*", &["b", "abc", "ab", "bc"], &["", "ac"]);
        check("aa*aa", &["aaaa", "aabaa"], &["aa", "aaa"]);
        check("a*ab*b", &["aabb", "aXabXb"], &["aab", "abb", "ab"]);
        check("β*", &["β", "βγ"], &["b"]);
    }

    #[test]
    fn everything_else_is_literal() {
        check("quake.new", &["quake.new"], &["quakeXnew", "quake.new2", "", "QUAKE.NEW"]);
        check("a?[b]+", &["a?[b]+"], &["ab", "a"]);
    }

    #[test]
    fn wild_patterns_take_no_exponential_time() {
        let pattern = Pattern::parse(&"a*".repeat(100)).expect("parses");
        assert!(!pattern.matches(&format!("b{}", "a".repeat(100_000))));
        let pattern = Pattern::parse(&format!("{}b", "a*".repeat(99))).expect("parses");
        assert!(!pattern.matches(&"a".repeat(100_000)));
    }

    #[test]
    fn the_fast_paths_agree_with_the_general_one() {
        let names = ["", "a", "b", "ab", "ba", "aab", "a.b", "abab"];
        for pattern in ["*", "a", "a*", "*a", "ab*", "a*b", "**", "a**", "*a*", "a*b*"] {
            let parsed = Pattern::parse(pattern).expect("parses");
            for name in names {
                assert_eq!(parsed.matches(name), matches_wild(pattern, name), "{pattern} on {name}");
            }
        }
    }

    #[track_caller]
    fn refused(result: Result<(), NameError>, expected: &str) {
        assert_eq!(result.expect_err("refused").to_string(), expected);
    }

    #[test]
    fn bad_names_say_what_is_allowed() {
        refused(check_topic(""), "a topic must not be empty");
        refused(check_topic(&"x".repeat(201)), "this topic is 201 bytes long; at most 200 are allowed");
        refused(check_topic("quake new"), "' ' in topic `quake new` is not allowed; use letters, digits and . _ / -");
        refused(check_topic("quake.*"), "'*' in topic `quake.*` is not allowed; use letters, digits and . _ / -");
        refused(check_plugin_name("Quake"), "'Q' in plugin name `Quake` is not allowed; use a-z, 0-9 and -");
        refused(check_plugin_name("state"), "plugin name `state` is reserved: `state.*` are functions of the host");
        refused(
            check_function_name("fit*"),
            "'*' in function name `fit*` is not allowed; use anything but white space, control characters and *",
        );
        refused(
            Pattern::parse("a b").map(drop),
            "' ' in pattern `a b` is not allowed; use anything but white space and control characters",
        );
        refused(Pattern::parse("").map(drop), "a pattern must not be empty");
    }

    #[test]
    fn good_names_pass() {
        for topic in ["quake", "quake.new", "a/b_c-D.9", &"x".repeat(200)] {
            check_topic(topic).expect(topic);
        }
        for name in ["quake-geo", "q2"] {
            check_plugin_name(name).expect(name);
        }
        for name in ["fit!", ".fit", "β", "distance"] {
            check_function_name(name).expect(name);
        }
    }
}
