//! One directory of kernelspecs: which folders are in it, and what their `kernel.json` says.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::Problem;
use crate::kernelspec::{Kernelspec, Parsed, is_valid_name};

/// A folder that holds a `kernel.json`.
#[derive(Debug)]
pub(super) struct Entry {
    /// The folder's name in lower case.
    pub name: String,
    pub dir: PathBuf,
}

/// A `kernel.json` larger than this is not one.
const MAX_SIZE_BYTES: u64 = 1 << 20;

/// The kernelspecs in `dir` by name. Of names that differ only in case, one already in lower case comes first, so that
/// the result does not depend on the order of the file system.
pub(super) fn list(dir: &Path, problems: &mut Vec<Problem>) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let file_name = entry?.file_name();
        let path = dir.join(&file_name);
        match look_at(&path) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(reason) => {
                problems.push(Problem::new(path, reason));
                continue;
            }
        }
        let Some(text) = file_name.to_str() else {
            problems.push(Problem::new(path, "skipped: its name is not UTF-8"));
            continue;
        };
        let name = text.to_lowercase();
        if !is_valid_name(&name) {
            let reason = "its name should only hold ASCII letters, digits, `-`, `.` and `_`";
            problems.push(Problem::new(path.clone(), reason));
        }
        entries.push((name != text, Entry { name, dir: path }));
    }
    entries.sort_by(|(a_upper, a), (b_upper, b)| (&a.name, a_upper, &a.dir).cmp(&(&b.name, b_upper, &b.dir)));
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

/// Is `path` the folder of a kernelspec (`true`) or a stray file (`false`)? A folder without a `kernel.json` is an error.
fn look_at(path: &Path) -> Result<bool, String> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => return Ok(false),
        Ok(_) => {}
        Err(error) if path.is_symlink() => return Err(format!("skipped: a link that leads nowhere: {error}")),
        Err(error) => return Err(format!("skipped: {error}")),
    }
    match std::fs::metadata(path.join("kernel.json")) {
        Ok(metadata) if metadata.is_file() => Ok(true),
        Ok(_) => Err("skipped: its kernel.json is not a file".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("skipped: no kernel.json in it".to_owned()),
        Err(error) => Err(format!("skipped: kernel.json: {error}")),
    }
}

/// Read the `kernel.json` of `entry`.
pub(super) fn read(entry: &Entry) -> Result<Parsed, String> {
    let mut bytes = Vec::new();
    std::fs::File::open(entry.dir.join("kernel.json"))
        .and_then(|file| file.take(MAX_SIZE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_SIZE_BYTES {
        return Err(format!("larger than {MAX_SIZE_BYTES} bytes"));
    }
    Kernelspec::parse(&entry.name, &entry.dir, &bytes).map_err(|error| super::explain(&error))
}
