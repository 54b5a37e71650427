//! Finding plugins in the folders that were named.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::host::manifest_at;

/// The name of a manifest.
const MANIFEST: &str = "plugin.toml";

/// The manifests that a path stands for: a manifest, a plugin's folder, a notebook, or a folder of plugin folders.
///
/// # Errors
///
/// When there is nothing of the kind, with what was expected.
pub fn manifests(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if path.is_file() {
        let beside = path.with_file_name(MANIFEST);
        // A notebook whose manifest lies beside it.
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ipynb"))
            && manifest_at(&beside).is_ok_and(|manifest| Some(manifest.entry.as_os_str()) == path.file_name())
        {
            return Ok(vec![beside]);
        }
        return Ok(vec![path.to_owned()]);
    }
    if path.join(MANIFEST).is_file() {
        return Ok(vec![path.join(MANIFEST)]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let manifest = entry.with_context(|| format!("cannot read {}", path.display()))?.path().join(MANIFEST);
        if manifest.is_file() {
            found.push(manifest);
        }
    }
    if found.is_empty() {
        bail!(
            "no plugin in {}: neither it nor a folder in it has a {MANIFEST}\nhint: `kernelbridge new python NAME` makes one",
            path.display()
        );
    }
    found.sort();
    Ok(found)
}

/// As [`manifests`], for several paths.
///
/// # Errors
///
/// As [`manifests`].
pub fn all_manifests(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(manifests(path)?);
    }
    Ok(all)
}
