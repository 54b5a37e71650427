//! The manifest of a notebook that stands alone: what it says in a raw cell tagged `plugin.toml`, and what can be told
//! from the notebook itself.

use std::path::Path;

use toml::{Table, Value};

use crate::notebook::Notebook;

/// The text of the manifest; what is wrong with it shows when it is parsed.
///
/// Without such a cell, or where it leaves them out, `name` is that of the file, `language` that of the notebook, and
/// `entry` the file.
pub fn of_notebook(notebook: &Notebook, path: &Path) -> String {
    let written = notebook.manifest.as_deref().unwrap_or_default();
    let Ok(mut table) = written.parse::<Table>() else { return written.to_owned() };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let name: String = stem.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Value::Table(plugin) = table.entry("plugin").or_insert_with(|| Table::new().into()) else {
        return written.to_owned();
    };
    plugin.entry("name").or_insert_with(|| name.trim_matches('-').into());
    if let Some(language) = notebook.language.as_ref().filter(|_| !plugin.contains_key("kernel")) {
        plugin.entry("language").or_insert_with(|| language.to_lowercase().into());
    }
    plugin.entry("entry").or_insert_with(|| file.into());
    // A table of values always has a form in TOML.
    toml::to_string(&table).unwrap_or_else(|_| written.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    fn manifest(raw: &str) -> Result<Manifest, String> {
        let cell = serde_json::json!({ "cell_type": "raw", "metadata": { "tags": ["plugin.toml"] }, "source": raw });
        let text = serde_json::json!({
            "nbformat": 4, "cells": [cell], "metadata": { "language_info": { "name": "R" } }
        });
        let path = Path::new("some/Quake Rate 2.ipynb");
        let notebook = Notebook::parse(&text.to_string(), path).map_err(|error| error.to_string())?;
        Manifest::parse(&of_notebook(&notebook, path), path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_notebook_alone_is_a_plugin_and_a_raw_cell_says_more() {
        let alone = manifest("").expect("a manifest");
        assert_eq!((alone.name.as_str(), alone.language()), ("quake-rate-2", Some("r")));
        assert!(alone.is_notebook() && !alone.may_call("app.secret"));
        let more = manifest("[plugin]\nname = \"rate\"\n[permissions]\ncall = [\"app.*\"]").expect("a manifest");
        assert_eq!((more.name.as_str(), more.may_call("app.secret")), ("rate", true));
        assert!(manifest("[plugin\n").expect_err("no TOML").contains("Quake Rate 2.ipynb:1"));
        assert!(manifest("plugin = 1").is_err());
    }
}
