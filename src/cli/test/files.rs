//! The tests that belong to a plugin.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::{
    cli::test::case::{self, Case},
    manifest::Manifest,
    notebook::Notebook,
    rpc::Cell,
};

/// The tests of one plugin.
#[derive(Debug, Default)]
pub struct Tests {
    /// From files beside the manifest.
    pub cases: Vec<(PathBuf, Case)>,
    /// Cells of the notebook that are tagged `test`.
    pub cells: Vec<Cell>,
    /// The plugin's own cells, which are run before each of those.
    pub entry_cells: Vec<Cell>,
    /// The notebook.
    pub notebook: PathBuf,
}

impl Tests {
    /// Read the tests of a plugin, given its manifest's path.
    pub fn of(manifest: &Manifest, path: &Path) -> anyhow::Result<Self> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| is_test(path)).collect();
        files.sort();
        let mut tests = Self::default();
        for file in files {
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            tests.cases.extend(case::parse(&text, &file)?.into_iter().map(|case| (file.clone(), case)));
        }
        if manifest.is_notebook() {
            tests.add_notebook(manifest, dir)?;
        }
        Ok(tests)
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty() && self.cells.is_empty()
    }

    fn add_notebook(&mut self, manifest: &Manifest, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(&manifest.entry);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let notebook = Notebook::parse(&text, &path)?;
        let cell = |cell: &crate::notebook::Cell| Cell { name: cell.name.clone(), source: cell.source.clone() };
        self.cells = notebook.test_cells().map(cell).collect();
        self.entry_cells = notebook.entry_cells().map(cell).collect();
        if manifest.template().is_some() && !self.cells.is_empty() {
            bail!("{}: cells tagged `test` need a language with a shim; use *.test.json", path.display());
        }
        self.notebook = path;
        Ok(())
    }
}

fn is_test(path: &Path) -> bool {
    path.is_file() && path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".test.json"))
}
