//! A notebook as the source of a plugin: its code cells, in order.
//!
//! Pure. Reads nbformat 4 and of it only what a plugin needs; outputs, attachments and widgets are passed over.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// A parsed `.ipynb`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notebook {
    /// Every code cell that is not empty.
    pub cells: Vec<Cell>,
    /// The first raw cell tagged `plugin.toml`: its manifest, if it stands alone.
    pub manifest: Option<String>,
    /// The kernelspec it was last run with, if it says so.
    pub kernelspec: Option<NotebookKernelspec>,
    /// `language_info.name`, or else the kernelspec's language.
    pub language: Option<String>,
}

/// `metadata.kernelspec`. On another machine the same name may mean another kernel, or none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NotebookKernelspec {
    /// Its directory's name: `python3`.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub display_name: String,
    /// Jupyter leaves it out at times.
    #[serde(default)]
    pub language: Option<String>,
}

/// One code cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// From 1, counting code cells that are not empty: what Jupyter shows as `In [3]` after "restart and run all".
    pub index: usize,
    /// For tracebacks: `plugin.ipynb[3]`.
    pub name: String,
    /// Its text.
    pub source: String,
    /// `metadata.tags`
    pub tags: Vec<String>,
}

/// Why a notebook was refused.
#[derive(Debug, thiserror::Error)]
#[error("`{}` {problem}", path.display())]
pub struct NotebookError {
    /// The notebook, as its path was given.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: NotebookProblem,
}

/// What is wrong with a notebook. Displays as the rest of a sentence that begins with its path.
#[derive(Debug)]
#[non_exhaustive]
pub enum NotebookProblem {
    /// Not JSON, or not of a notebook's shape.
    Shape(serde_json::Error),
    /// Made for another Jupyter.
    Version {
        /// Its `nbformat`.
        found: u64,
    },
}

impl fmt::Display for NotebookProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(source) => write!(f, "is not a notebook: {source}"),
            Self::Version { found: found @ ..4 } => {
                let convert = "jupyter nbconvert --to notebook --inplace";
                write!(f, "has notebook format {found}, only 4 is supported; convert it with `{convert}`")
            }
            Self::Version { found } => write!(f, "has notebook format {found}, only 4 is supported"),
        }
    }
}

impl Notebook {
    /// Parse the text of an `.ipynb`; `path` is for messages and the names of cells.
    ///
    /// # Errors
    ///
    /// - [`NotebookError`] with [`NotebookProblem::Shape`] or [`NotebookProblem::Version`].
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, NotebookError> {
        let path = path.as_ref();
        let refuse = |problem| NotebookError { path: path.to_owned(), problem };
        let shape = |source| refuse(NotebookProblem::Shape(source));
        // Jupyter writes no byte order mark, but editors on Windows do.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // The version first: an older notebook has another shape, and "missing field `cells`" would help nobody.
        let version: Version = serde_json::from_str(text).map_err(shape)?;
        if version.nbformat != 4 {
            return Err(refuse(NotebookProblem::Version { found: version.nbformat }));
        }
        let raw: RawNotebook = serde_json::from_str(text).map_err(shape)?;
        let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let is_manifest =
            |cell: &&RawCell| cell.cell_type == "raw" && cell.metadata.tags.iter().any(|tag| tag == "plugin.toml");
        let manifest = raw.cells.iter().find(is_manifest).map(|cell| cell.source.text());
        let sources = raw.cells.into_iter().filter(|cell| cell.cell_type == "code").filter_map(|cell| {
            let source = cell.source.text();
            (!source.trim().is_empty()).then_some((source, cell.metadata.tags))
        });
        let cells = sources.enumerate().map(|(i, (source, tags))| {
            let index = i + 1;
            Cell { index, name: format!("{file}[{index}]"), source, tags }
        });
        let kernelspec = raw.metadata.kernelspec;
        let language = raw.metadata.language_info.map(|info| info.name);
        let language = language.or_else(|| kernelspec.as_ref()?.language.clone());
        Ok(Self { cells: cells.collect(), manifest, kernelspec, language })
    }

    /// The plugin: cells tagged neither `skip` nor `test`, those tagged `setup` first, wherever they are.
    pub fn entry_cells(&self) -> impl Iterator<Item = &Cell> {
        let of = |is_setup: bool| {
            let cells = self.cells.iter().filter(|cell| !cell.has_tag("skip") && !cell.has_tag("test"));
            cells.filter(move |cell| cell.has_tag("setup") == is_setup)
        };
        of(true).chain(of(false))
    }

    /// Its tests: cells tagged `test`, unless they are tagged `skip` as well.
    pub fn test_cells(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| cell.has_tag("test") && !cell.has_tag("skip"))
    }
}

impl Cell {
    /// Is the cell tagged so?
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|found| found == tag)
    }
}

#[derive(Deserialize)]
struct Version {
    nbformat: u64,
}

#[derive(Deserialize)]
struct RawNotebook {
    cells: Vec<RawCell>,
    #[serde(default)]
    metadata: RawMetadata,
}

#[derive(Default, Deserialize)]
struct RawMetadata {
    kernelspec: Option<NotebookKernelspec>,
    language_info: Option<RawLanguageInfo>,
}

#[derive(Deserialize)]
struct RawLanguageInfo {
    name: String,
}

#[derive(Deserialize)]
struct RawCell {
    cell_type: String,
    #[serde(default)]
    metadata: RawCellMetadata,
    source: RawSource,
}

#[derive(Default, Deserialize)]
struct RawCellMetadata {
    #[serde(default)]
    tags: Vec<String>,
}

/// nbformat's "multiline string": whole, or in lines that keep their line feeds.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a cell's `source` must be a string or a list of strings")]
enum RawSource {
    Whole(String),
    Lines(Vec<String>),
}

impl RawSource {
    fn text(&self) -> String {
        match self {
            Self::Whole(text) => text.clone(),
            Self::Lines(lines) => lines.concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTEBOOK: &str = r##"{
        "nbformat": 4, "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"name": "ir", "display_name": "R", "language": "R"},
            "language_info": {"name": "r", "version": "4.4"}
        },
        "cells": [
            {"cell_type": "markdown", "metadata": {}, "source": "# Title"},
            {"cell_type": "code", "metadata": {}, "source": ["x <- 1\n", "y <- 2"], "outputs": [{"any": "thing"}]},
            {"cell_type": "code", "metadata": {}, "source": " \n"},
            {"cell_type": "code", "metadata": {"tags": ["skip"]}, "source": "plot(x)"},
            {"cell_type": "code", "id": "a", "metadata": {"tags": ["test", "slow"]}, "source": "stopifnot(x == 1)"},
            {"cell_type": "code", "metadata": {"tags": ["test", "skip"]}, "source": "stop()"},
            {"cell_type": "raw", "source": "raw"},
            {"cell_type": "code", "source": "z <- 3"}
        ]
    }"##;

    fn parse(text: &str) -> Notebook {
        Notebook::parse(text, "plugins/quake/plugin.ipynb").expect("parses")
    }

    fn shown<'a>(cells: impl Iterator<Item = &'a Cell>) -> Vec<(&'a str, &'a str)> {
        cells.map(|cell| (cell.name.as_str(), cell.source.as_str())).collect()
    }

    #[test]
    fn code_cells_come_in_order_with_the_number_jupyter_shows() {
        let notebook = parse(NOTEBOOK);
        assert_eq!(notebook.cells.iter().map(|cell| cell.index).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(
            shown(notebook.entry_cells()),
            [("plugin.ipynb[1]", "x <- 1\ny <- 2"), ("plugin.ipynb[5]", "z <- 3")]
        );
        assert_eq!(shown(notebook.test_cells()), [("plugin.ipynb[3]", "stopifnot(x == 1)")]);
    }

    #[test]
    fn it_says_what_it_ran_on() {
        let notebook = parse(NOTEBOOK);
        assert_eq!(notebook.language.as_deref(), Some("r"));
        assert_eq!(notebook.kernelspec.map(|kernelspec| kernelspec.name).as_deref(), Some("ir"));
        let notebook = parse(&NOTEBOOK.replace("language_info", "other"));
        assert_eq!(notebook.language.as_deref(), Some("R"));
        let notebook = parse("\u{feff}{\"nbformat\": 4, \"cells\": []}");
        assert_eq!(notebook, Notebook { cells: Vec::new(), manifest: None, kernelspec: None, language: None });
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let error = Notebook::parse(text, "p/plugin.ipynb").expect_err("refused");
        assert_eq!(error.to_string(), format!("`p/plugin.ipynb` {expected}"));
    }

    #[test]
    fn what_is_no_notebook_of_format_4_says_so() {
        check("", "is not a notebook: EOF while parsing a value at line 1 column 0");
        check("<<<<<<< HEAD\n{", "is not a notebook: expected value at line 1 column 1");
        check("{}", "is not a notebook: missing field `nbformat` at line 1 column 2");
        check("{\"nbformat\": 4}", "is not a notebook: missing field `cells` at line 1 column 15");
        check(
            "{\"nbformat\": 4, \"cells\": [{\"cell_type\": \"code\", \"source\": 5}]}",
            "is not a notebook: a cell's `source` must be a string or a list of strings at line 1 column 60",
        );
        check(
            "{\"nbformat\": 3, \"worksheets\": []}",
            "has notebook format 3, only 4 is supported; convert it with `jupyter nbconvert --to notebook --inplace`",
        );
        check("{\"nbformat\": 5}", "has notebook format 5, only 4 is supported");
    }
}
