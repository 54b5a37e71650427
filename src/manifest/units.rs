//! Durations and sizes as people write them: `5s`, `250ms`, `1GiB`.

use std::time::Duration;

/// Why a duration or size was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// Not a number with a unit.
    #[error("`{text}` is not a {what}; write a number and {units}, such as \"{example}\"")]
    Shape {
        /// What was written.
        text: String,
        /// Duration or size.
        what: &'static str,
        /// The units there are.
        units: &'static str,
        /// A good one.
        example: &'static str,
    },
    /// Beyond what makes sense.
    #[error("`{text}` is too large; the most is {most}")]
    TooLarge {
        /// What was written.
        text: String,
        /// The largest value.
        most: &'static str,
    },
}

const DURATIONS: [(&str, f64); 5] = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
const LONGEST_SECONDS: f64 = 365.0 * 86_400.0;

const SIZES: [(&str, f64); 9] = [
    ("b", 1.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("tib", 1_099_511_627_776.0),
];
/// Every whole number up to here is exact as `f64`.
const LARGEST_BYTES: f64 = 1_125_899_906_842_624.0;

/// Parse a duration: a number and `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
///
/// - [`UnitError::Shape`], and [`UnitError::TooLarge`] beyond a year, which would overflow clocks.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let shape =
        || UnitError::Shape { text: text.to_owned(), what: "duration", units: "ms, s, m, h or d", example: "5s" };
    let seconds = parse(text, &DURATIONS).ok_or_else(shape)?;
    if seconds > LONGEST_SECONDS {
        return Err(UnitError::TooLarge { text: text.to_owned(), most: "365d" });
    }
    // By way of microseconds, so that 0.1s is not 100000000.000000005 nanoseconds.
    Ok(Duration::from_micros((seconds * 1e6).round() as u64))
}

/// Parse a size in bytes: a number and `B`, `KB`, `MB`, `GB`, `TB` (powers of 1000) or `KiB`, `MiB`, `GiB`, `TiB`
/// (powers of 1024), without case.
///
/// # Errors
///
/// - [`UnitError::Shape`], and [`UnitError::TooLarge`] beyond 1024 TiB.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let shape = || UnitError::Shape {
        text: text.to_owned(),
        what: "size",
        units: "B, KB, MB, GB, KiB, MiB or GiB",
        example: "512MiB",
    };
    let bytes = parse(&text.to_lowercase(), &SIZES).ok_or_else(shape)?;
    if bytes > LARGEST_BYTES {
        return Err(UnitError::TooLarge { text: text.to_owned(), most: "1024TiB" });
    }
    Ok(bytes.round() as u64)
}

/// A size for people: in the largest binary unit that leaves at least 1, with two digits at most.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let Some(power) = (1..=UNITS.len() as u32).rev().find(|power| bytes >= 1 << (10 * power)) else {
        return format!("{bytes} B");
    };
    let number = format!("{:.2}", bytes as f64 / f64::from(1 << 10u32).powi(power as i32));
    format!("{} {}", number.trim_end_matches('0').trim_end_matches('.'), UNITS[power as usize - 1])
}

/// Number, spaces, unit; the result in the base unit.
fn parse(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    // f64 would also take "5." and ".5", which are more likely slips.
    if number.starts_with('.') || number.ends_with('.') {
        return None;
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse() {
        let check = |text: &str, millis: u64| assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
        check("250ms", 250);
        check("5s", 5_000);
        check("0.1s", 100);
        check(" 2 m ", 120_000);
        check("1h", 3_600_000);
        check("1d", 86_400_000);
        check("0s", 0);
    }

    #[test]
    fn sizes_parse() {
        let check = |text: &str, bytes: u64| assert_eq!(parse_size(text), Ok(bytes));
        check("0B", 0);
        check("512MB", 512_000_000);
        check("512 MiB", 536_870_912);
        check("1GiB", 1 << 30);
        check("1.5gib", 3 << 29);
        check("1TiB", 1 << 40);
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        let check = |bytes: u64, expected: &str| assert_eq!(format_size(bytes), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1 KiB");
        check(1 << 30, "1 GiB");
        check(1_288_490_189, "1.2 GiB");
        check(1_100_000, "1.05 MiB");
        check(u64::MAX, "16777216 TiB");
    }

    #[test]
    fn what_is_neither_is_an_error_that_shows_how() {
        for text in ["", "5", "s", "5sec", "-5s", "5.s", ".5s", "1.2.3s", "5S", "ä", "1e3s"] {
            let error = parse_duration(text).expect_err("refused").to_string();
            let rest = "is not a duration; write a number and ms, s, m, h or d, such as \"5s\"";
            assert_eq!(error, format!("`{text}` {rest}"));
        }
        for text in ["", "5", "5G", "-5MB", "5 M B", "ä"] {
            let error = parse_size(text).expect_err("refused").to_string();
            let rest = "is not a size; write a number and B, KB, MB, GB, KiB, MiB or GiB, such as \"512MiB\"";
            assert_eq!(error, format!("`{text}` {rest}"));
        }
        let error = parse_duration("366d").expect_err("refused").to_string();
        assert_eq!(error, "`366d` is too large; the most is 365d");
        let error = parse_size(&format!("{}B", "9".repeat(400))).expect_err("refused").to_string();
        assert_eq!(error, format!("`{}B` is too large; the most is 1024TiB", "9".repeat(400)));
    }
}
