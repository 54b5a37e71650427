//! The text of a language's shim: one file, or one with what it has in common with another language's shim.
//!
//! A kernel is given one text either way. Nothing outside of the folder of language folders is read as common text.

use std::{
    borrow::Cow,
    path::{Component, Path, PathBuf},
};

use super::{Files, LANGUAGE_TOML, Problem};
use crate::language::Shim;

/// What a line of the shim says, as a comment and nothing else, where the common text goes: `//#common`.
const MARK: &str = "#common";

/// The text of the shim in the folder called `name`.
pub(super) fn text(shim: &Shim, name: &str, files: &Files) -> Result<Cow<'static, str>, Problem> {
    let problem = |path: PathBuf, reason: String| Problem { path, reason, unusable: Some(name.to_owned()) };
    let text = files.text(&shim.file).map_err(|reason| {
        let reason = format!("{reason}; `shim.file` of {LANGUAGE_TOML} names it");
        problem(files.path_of(name, &shim.file), reason)
    })?;
    let Some(common) = &shim.common else { return Ok(text) };
    let Some((beside, file)) = parts(common) else {
        let reason = format!(
            "`shim.common` is `{common}`; name a file of this folder (`common.js`) or of a language folder beside it \
             (`../javascript/common.js`)"
        );
        return Err(problem(files.path_of(name, LANGUAGE_TOML), reason));
    };
    let (folder, its_files) = match beside {
        Some(folder) => (folder, files.beside(folder)),
        None => (name, files.clone()),
    };
    let inner = its_files.text(file).map_err(|reason| {
        let reason =
            format!("{reason}; `shim.common` of {name}/{LANGUAGE_TOML} names it: put it there, or name another");
        problem(its_files.path_of(folder, file), reason)
    })?;
    join(&text, &inner).map(Cow::Owned).map_err(|found| {
        let what = if found == 0 { "there is no line".to_owned() } else { format!("there are {found} lines") };
        let reason = format!(
            "{what} that is a comment saying `{MARK}`, whose place `shim.common` of {LANGUAGE_TOML} (`{common}`) \
             takes; there must be one"
        );
        problem(files.path_of(name, &shim.file), reason)
    })
}

/// The folder beside this one, if it names one, and the file in it; `None` for any other path.
fn parts(path: &str) -> Option<(Option<&str>, &str)> {
    let (folder, file) = match path.strip_prefix("../") {
        Some(rest) => rest.split_once('/').map(|(folder, file)| (Some(folder), file))?,
        None => (None, path),
    };
    let is_plain = |path: &str| {
        !path.is_empty() && Path::new(path).components().all(|component| matches!(component, Component::Normal(_)))
    };
    (folder.is_none_or(is_plain) && is_plain(file)).then_some((folder, file))
}

/// `text` with `common` in the place of its one line that is marked; else how many of them there are.
fn join(text: &str, common: &str) -> Result<String, usize> {
    let is_marked = |line: &str| {
        line.trim().strip_suffix(MARK).is_some_and(|comment| !comment.contains(|c: char| c.is_alphanumeric()))
    };
    let (mut whole, mut found) = (String::with_capacity(text.len() + common.len()), 0);
    for line in text.split_inclusive('\n') {
        if is_marked(line) {
            found += 1;
            whole.push_str(common.trim_end());
            whole.push('\n');
        } else {
            whole.push_str(line);
        }
    }
    if found == 1 { Ok(whole) } else { Err(found) }
}
