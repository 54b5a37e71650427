//! What is wrong with a manifest, so that the author can mend it in one go.

use std::{fmt, path::PathBuf};

/// Everything that is wrong with one manifest.
///
/// Displays as one line for each problem, each with path and line, as compilers do, so that editors can jump there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The manifest, as its path was given.
    pub path: PathBuf,
    /// What is wrong, in the order of the lines; never empty.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, the first is 1. A missing field has the line of its section.
    pub line: usize,
    /// `section.key`; empty when the text is not TOML.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl std::error::Error for ManifestError {}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let line_feed = if i == 0 { "" } else { "\n" };
            write!(f, "{line_feed}{}:{}: {problem}", self.path.display(), problem.line)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}
