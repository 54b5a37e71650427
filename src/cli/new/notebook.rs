//! A new plugin's notebook, laid out as Jupyter saves one.

use serde::Serialize;
use serde_json::{Serializer, Value, json, ser::PrettyFormatter};

use crate::{
    cli::notebook::kernels::{display_name, spec_name},
    discover::{Found, LanguageFolder},
    notebook::NotebookKernelspec,
};

/// What a new notebook has beside the cell that explains.
pub struct Cells<'a> {
    /// The plugin.
    pub plugin: &'a str,
    /// A test.
    pub test: Option<&'a str>,
    /// What emits the sample events.
    pub sample: Option<&'a str>,
}

/// The kernel that a notebook in this language names: that with `bridge` in it, where there is one; else the one that
/// kernelbridge would take, or the usual one.
pub fn kernelspec(folder: &LanguageFolder, found: Option<&Found>) -> NotebookKernelspec {
    let language = &folder.language;
    if language.shim.as_ref().is_some_and(|shim| shim.cells) {
        return NotebookKernelspec {
            name: spec_name(&language.name),
            display_name: display_name(folder),
            language: language.kernelspec.languages.first().cloned(),
        };
    }
    let usual = || NotebookKernelspec {
        name: language.kernelspec.names.first().unwrap_or(&language.name).clone(),
        display_name: language.display_name.clone(),
        language: language.kernelspec.languages.first().cloned(),
    };
    found.map_or_else(usual, |Found { kernelspec, .. }| NotebookKernelspec {
        name: kernelspec.name.clone(),
        display_name: kernelspec.display_name.clone(),
        language: Some(kernelspec.language.clone()),
    })
}

/// A notebook with a cell that explains, one with the plugin, one that emits sample events and one with a test if there
/// are any.
///
/// # Errors
///
/// As writing JSON.
pub fn text(
    about: &str,
    Cells { plugin, test, sample }: Cells<'_>,
    kernelspec: &NotebookKernelspec,
) -> serde_json::Result<String> {
    let mut cells = vec![
        json!({ "cell_type": "markdown", "id": "about", "metadata": {}, "source": lines(about) }),
        code("plugin", &json!({}), plugin),
    ];
    cells.extend(sample.map(|sample| code("sample", &json!({ "tags": ["skip"] }), sample)));
    cells.extend(test.map(|test| code("test", &json!({ "tags": ["test"] }), test)));
    let NotebookKernelspec { name, display_name, language } = kernelspec;
    let notebook = json!({
        "cells": cells,
        "metadata": {
            "kernelspec": { "display_name": display_name, "language": language, "name": name },
            "language_info": { "name": language },
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    });
    let mut bytes = Vec::new();
    notebook.serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b" ")))?;
    bytes.push(b'\n');
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

fn code(id: &str, metadata: &Value, source: &str) -> Value {
    json!({
        "cell_type": "code",
        "execution_count": null,
        "id": id,
        "metadata": metadata,
        "outputs": [],
        "source": lines(source),
    })
}

/// Lines that keep their line feeds, but for the last.
fn lines(text: &str) -> Vec<&str> {
    text.trim_end().split_inclusive('\n').collect()
}
