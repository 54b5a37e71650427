//! `kernelbridge notebook export`: a notebook's cells as a plugin with a source file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::{
    cli::{Ending, plugins},
    discover::{Environment, Languages},
    host::manifest_at,
    language::Language,
    manifest::{Manifest, of_notebook},
    notebook::{Cell, Notebook},
};

/// Write a folder with the manifest and the source.
pub fn export(path: &Path, dir: Option<PathBuf>, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let notebook = Notebook::parse(&text, path)?;
    // The manifest that lies beside it, else its own.
    let beside = plugins::manifests(path)?.into_iter().next().filter(|found| found != path);
    let (manifest, written) = match &beside {
        Some(file) => {
            (manifest_at(file)?, fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?)
        }
        None => (manifest_at(path)?, of_notebook(&notebook, path)),
    };
    let languages = Languages::load(&Environment::capture(), kernelspecs);
    let Some(language) = manifest.language() else {
        bail!("{}: its manifest names a kernel and no language; add `language` to [plugin]", path.display());
    };
    let language = &languages.find(language)?.language;
    let entry = format!("plugin.{}", language.extension);
    let source = source(&notebook, language)?;
    let manifest_text = with_entry(&written, &manifest, &entry)?;
    let dir = dir.unwrap_or_else(|| path.with_file_name(&manifest.name));
    if dir.exists() {
        bail!("{} exists; nothing was written\nhint: name another folder with --dir DIR", dir.display());
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for (name, text) in [("plugin.toml", &manifest_text), (entry.as_str(), &source)] {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        println!("{}", file.display());
    }
    // Tests in files go with it; they say nothing of notebooks.
    for test in beside.iter().filter_map(|file| file.parent()).flat_map(tests_in) {
        let file = dir.join(test.file_name().unwrap_or_default());
        fs::copy(&test, &file).with_context(|| format!("cannot write {}", file.display()))?;
        println!("{}", file.display());
    }
    let tests = notebook.test_cells().count();
    if tests > 0 {
        let (cells, are) = if tests == 1 { ("cell", "is") } else { ("cells", "are") };
        eprintln!("{tests} {cells} tagged `test` {are} not in it: `kernelbridge test {}` runs them", path.display());
    }
    Ok(Ending::Done)
}

fn tests_in(dir: &Path) -> Vec<PathBuf> {
    let is_test = |path: &PathBuf| path.to_string_lossy().ends_with(".test.json");
    // A folder that cannot be read has none that could be copied.
    fs::read_dir(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })
        .map(|entries| entries.flatten().map(|entry| entry.path()).filter(is_test).collect())
        .unwrap_or_default()
}

/// All cells of the plugin, in the order in which they are loaded.
fn source(notebook: &Notebook, language: &Language) -> anyhow::Result<String> {
    let cells: Vec<&Cell> = notebook.entry_cells().collect();
    for cell in &cells {
        for (number, line) in (1..).zip(cell.source.lines()) {
            if let Some(magic) = language.magics.iter().find(|magic| line.trim_start().starts_with(magic.as_str())) {
                bail!(
                    "{}, line {number}: `{}` begins with `{magic}`, which only notebooks have; tag the cell `skip`, or say \
                     it in {}",
                    cell.name,
                    line.trim(),
                    language.display_name
                );
            }
        }
    }
    let mut source: String = cells.iter().map(|cell| cell.source.trim_end()).collect::<Vec<_>>().join("\n\n");
    source.push('\n');
    Ok(source)
}

/// The manifest with another entry, its comments kept.
fn with_entry(text: &str, manifest: &Manifest, entry: &str) -> anyhow::Result<String> {
    let (old, mut found) = (manifest.entry.to_string_lossy(), false);
    let lines = text.lines().map(|line| {
        let is_entry =
            !found && line.trim_start().strip_prefix("entry").is_some_and(|rest| rest.trim_start().starts_with('='));
        found |= is_entry;
        if is_entry { line.replacen(&*old, entry, 1) } else { line.to_owned() }
    });
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    // What was written has to be what was meant.
    let parsed = Manifest::parse(&text, &manifest.path)?;
    if parsed.entry != Path::new(entry) {
        bail!("{}: cannot see where its `entry` is; write it as `entry = \"{old}\"`", manifest.path.display());
    }
    Ok(text)
}
