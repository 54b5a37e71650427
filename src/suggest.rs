//! The nearest valid name for something mistyped.
//!
//! Pure, and only for error messages: nothing is ever decided by a guess.

use std::cmp::Reverse;

/// The candidate that `word` was most likely meant to be, if any is close.
///
/// Close means a few slips of the keyboard (about one in three letters, without case, `_` and `-` alike), or that one
/// contains the other, as when `distance` is typed for `quake-geo.distance`.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest_few(word, candidates, 1).pop()
}

/// Up to `limit` candidates that `word` may have been meant to be, nearest first.
pub fn nearest_few<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>, limit: usize) -> Vec<&'a str> {
    let word = fold(word);
    let mut close: Vec<_> =
        candidates.into_iter().filter_map(|name| Some((distance(&word, &fold(name))?, name))).collect();
    // Stable, so that equally near names stay in the order their owner lists them.
    close.sort_by_key(|(distance, _)| *distance);
    close.truncate(limit);
    close.into_iter().map(|(_, name)| name).collect()
}

/// `; did you mean ...?` without the semicolon, for a problem's hint.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|name| format!("did you mean `{name}`?"))
}

fn fold(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

/// How far apart two folded names are, `None` when too far: slips first, then containment, longest common part first.
fn distance(word: &str, name: &str) -> Option<(u8, usize, Reverse<usize>)> {
    let (short, long) = if word.len() <= name.len() { (word, name) } else { (name, word) };
    // Below three letters nearly everything is close to everything.
    let slips_allowed = (long.chars().count() / 3).max(1);
    // Lengths first: nobody should wait for a quadratic comparison with a megabyte of pasted text.
    if long.len() - short.len() <= 4 * slips_allowed && long.len() <= 400 {
        let slips = strsim::damerau_levenshtein(word, name);
        if slips <= slips_allowed && slips < long.chars().count() {
            return Some((0, slips, Reverse(0)));
        }
    }
    // Two letters are enough for the beginning of a name.
    let is_part = short.chars().count() >= 3 && long.contains(short);
    let is_beginning = short.chars().count() >= 2 && long.starts_with(short);
    (is_part || is_beginning).then(|| (1, long.len() - short.len(), Reverse(short.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 5] = ["capacity", "when-full", "timeout", "memory", "quake-geo.distance"];

    #[track_caller]
    fn check(word: &str, expected: Option<&str>) {
        assert_eq!(nearest(word, KEYS), expected, "{word}");
    }

    #[test]
    fn slips_of_the_keyboard_find_the_name() {
        check("when-ful", Some("when-full"));
        check("when_full", Some("when-full"));
        check("WhenFull", Some("when-full"));
        check("tiemout", Some("timeout"));
        check("quake-geo.distence", Some("quake-geo.distance"));
    }

    #[test]
    fn a_part_of_the_name_finds_it() {
        check("mem", Some("memory"));
        check("distance", Some("quake-geo.distance"));
        check("timeout-ms", Some("timeout"));
    }

    #[test]
    fn something_else_altogether_finds_nothing() {
        check("", None);
        check("x", None);
        check("banana", None);
        check(&"timeout".repeat(100_000), Some("timeout"));
        check(&"ä".repeat(100_000), None);
    }

    #[test]
    fn the_nearest_comes_first_and_ties_keep_their_order() {
        assert_eq!(nearest_few("fit", ["fits", "fat", "fit2", "refit", "fit"], 4), ["fit", "fits", "fat", "fit2"]);
        assert_eq!(nearest_few("fit", ["fits"], 0), Vec::<&str>::new());
    }

    #[test]
    fn the_hint_is_a_question() {
        assert_eq!(did_you_mean("when-ful", KEYS).as_deref(), Some("did you mean `when-full`?"));
        assert_eq!(did_you_mean("banana", KEYS), None);
    }
}
