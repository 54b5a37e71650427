//! The language folders: those in the binary, the user's own, and those named on the command line.
//!
//! A later one replaces an earlier one of the same name. A folder that cannot be used is a problem with path and reason,
//! and what it would have replaced stays.

mod shim;

use std::{
    borrow::Cow,
    fmt, io,
    path::{Path, PathBuf},
};

use super::{Environment, Problem, did_you_mean, explain, listed, quoted};
use crate::language::{Language, nearest};

/// Files of a language folder by their path inside it.
type Embedded = &'static [(&'static str, &'static [u8])];

/// `kernelspecs/` as it was when the binary was made.
static BUILT_IN: &[(&str, Embedded)] = include!(concat!(env!("OUT_DIR"), "/kernelspecs.rs"));

/// The file every language folder has.
const LANGUAGE_TOML: &str = "language.toml";

/// All language folders.
#[derive(Debug, Clone, Default)]
pub struct Languages {
    /// Usable ones by name.
    pub folders: Vec<LanguageFolder>,
    /// What is wrong with the others.
    pub problems: Vec<Problem>,
    /// Where they were looked for, the least important first.
    pub searched: Vec<LanguageOrigin>,
}

/// One language folder.
#[derive(Debug, Clone)]
pub struct LanguageFolder {
    /// Its `language.toml`.
    pub language: Language,
    /// Where it is.
    pub origin: LanguageOrigin,
    /// Where the folder is that it replaces.
    pub replaces: Option<LanguageOrigin>,
    shim: Option<Cow<'static, str>>,
    files: Files,
}

/// Where a language folder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LanguageOrigin {
    /// In the binary.
    BuiltIn,
    /// In this directory under the user's configuration.
    User(PathBuf),
    /// In this directory, named on the command line.
    Named(PathBuf),
}

#[derive(Debug, Clone)]
enum Files {
    Embedded(Embedded),
    Dir(PathBuf),
}

/// No language of that name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LanguageNotFound {
    /// No folder has that name or alias.
    #[error(
        "no language `{word}`{}; there are {}; `kernelbridge install` can bring {}; looked in {}",
        did_you_mean(.nearest.as_deref()),
        quoted(.known),
        quoted(.installable),
        listed(.searched.iter().map(ToString::to_string))
    )]
    Unknown {
        /// What was asked for.
        word: String,
        /// Name of the language whose name or alias looks most like it.
        nearest: Option<String>,
        /// Every language there is.
        known: Vec<String>,
        /// Those with an install recipe.
        installable: Vec<String>,
        /// Where language folders were looked for.
        searched: Vec<LanguageOrigin>,
    },
    /// There is a folder, but it cannot be used.
    #[error("language `{word}` cannot be used: {}: {reason}", .path.display())]
    Unusable {
        /// What was asked for.
        word: String,
        /// The file or folder at fault.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Languages {
    /// Load all language folders: in the binary, in `$XDG_CONFIG_HOME/kernelbridge/kernelspecs`, then in each of `named`.
    pub fn load(environment: &Environment, named: &[PathBuf]) -> Self {
        let mut languages = Self::built_in();
        languages.add_dir(LanguageOrigin::User(environment.config_home().join("kernelbridge/kernelspecs")));
        for dir in named {
            languages.add_dir(LanguageOrigin::Named(environment.absolute(dir)));
        }
        languages
    }

    /// The language folders in the binary.
    pub fn built_in() -> Self {
        let mut languages = Self { searched: vec![LanguageOrigin::BuiltIn], ..Self::default() };
        for (name, files) in BUILT_IN {
            languages.add(name, Files::Embedded(files), LanguageOrigin::BuiltIn);
        }
        languages
    }

    /// Add the language folders in a directory. A missing one is fine where the user need not have made it.
    fn add_dir(&mut self, origin: LanguageOrigin) {
        self.searched.push(origin.clone());
        let (LanguageOrigin::User(root) | LanguageOrigin::Named(root)) = &origin else { return };
        let is_optional = matches!(origin, LanguageOrigin::User(_));
        let entries = std::fs::read_dir(root).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let mut entries = match entries {
            Err(error) if is_optional && error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                self.problems.push(Problem::new(root, format!("cannot be searched for language folders: {error}")));
                return;
            }
            Ok(entries) => entries,
        };
        if root.join(LANGUAGE_TOML).is_file() {
            let reason = "is a language folder itself; name the directory it is in";
            self.problems.push(Problem::new(root, reason));
            return;
        }
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for path in entries.iter().map(std::fs::DirEntry::path).filter(|path| path.is_dir()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !name.starts_with('.') {
                self.add(&name, Files::Dir(path.clone()), origin.clone());
            }
        }
    }

    fn add(&mut self, name: &str, files: Files, origin: LanguageOrigin) {
        let mut folder = match LanguageFolder::load(name, files, origin) {
            Ok(folder) => folder,
            Err(problem) => return self.problems.push(problem),
        };
        match self.folders.binary_search_by(|other| other.language.name.as_str().cmp(name)) {
            Ok(index) => {
                folder.replaces = Some(self.folders[index].origin.clone());
                self.folders[index] = folder;
            }
            Err(index) => self.folders.insert(index, folder),
        }
    }

    /// The language called `word`: by its name, else by an alias, without case.
    ///
    /// # Errors
    ///
    /// - [`LanguageNotFound::Unknown`] with every language there is, and every place that was searched.
    /// - [`LanguageNotFound::Unusable`] when there is a folder of that name that cannot be used.
    pub fn find(&self, word: &str) -> Result<&LanguageFolder, LanguageNotFound> {
        let by_name = self.folders.iter().find(|folder| folder.language.name == word.to_lowercase());
        let by_alias = || self.folders.iter().find(|folder| folder.language.is_called(word));
        if let Some(folder) = by_name.or_else(by_alias) {
            return Ok(folder);
        }
        let unusable = |problem: &&Problem| problem.unusable.as_deref() == Some(&word.to_lowercase());
        if let Some(problem) = self.problems.iter().find(unusable) {
            let (path, reason) = (problem.path.clone(), problem.reason.clone());
            return Err(LanguageNotFound::Unusable { word: word.to_owned(), path, reason });
        }
        let names = || self.folders.iter().map(|folder| &folder.language);
        Err(LanguageNotFound::Unknown {
            word: word.to_owned(),
            nearest: nearest(word, names()).map(|language| language.name.clone()),
            known: names().map(|language| language.name.clone()).collect(),
            installable: names().filter(|known| known.is_installable()).map(|known| known.name.clone()).collect(),
            searched: self.searched.clone(),
        })
    }
}

impl LanguageFolder {
    fn load(name: &str, files: Files, origin: LanguageOrigin) -> Result<Self, Problem> {
        let problem = |file: &str, reason: String| Problem {
            path: files.path_of(name, file),
            reason,
            unusable: Some(name.to_owned()),
        };
        let text = files.text(LANGUAGE_TOML).map_err(|reason| problem(LANGUAGE_TOML, reason))?;
        let language = Language::parse(&text).map_err(|error| problem(LANGUAGE_TOML, explain(&error)))?;
        if language.name != name {
            let reason = format!("`name` is `{}` but the folder is `{name}`; they must be equal", language.name);
            return Err(problem(LANGUAGE_TOML, reason));
        }
        let shim = language.shim.as_ref().map(|shim| shim::text(shim, name, &files)).transpose()?;
        Ok(Self { language, origin, replaces: None, shim, files })
    }

    /// The shim; `None` for a language that works at the basic level only.
    pub fn shim_text(&self) -> Option<&str> {
        self.shim.as_deref()
    }

    /// A file of the folder by its path inside it.
    ///
    /// # Errors
    ///
    /// As reading a file; [`io::ErrorKind::NotFound`] when there is none.
    pub fn file(&self, name: &str) -> io::Result<Cow<'static, [u8]>> {
        self.files.read(name)
    }

    /// The folder itself; `None` when it is in the binary.
    pub fn dir(&self) -> Option<&Path> {
        match &self.files {
            Files::Embedded(_) => None,
            Files::Dir(dir) => Some(dir),
        }
    }
}

impl Files {
    fn read(&self, name: &str) -> io::Result<Cow<'static, [u8]>> {
        match self {
            Self::Embedded(files) => files
                .iter()
                .find(|(path, _)| *path == name)
                .map(|(_, bytes)| Cow::Borrowed(*bytes))
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such file in the binary")),
            Self::Dir(dir) => std::fs::read(dir.join(name)).map(Cow::Owned),
        }
    }

    fn text(&self, name: &str) -> Result<Cow<'static, str>, String> {
        match self.read(name) {
            Ok(Cow::Borrowed(bytes)) => {
                std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| "not UTF-8".to_owned())
            }
            Ok(Cow::Owned(bytes)) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| "not UTF-8".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err("no such file".to_owned()),
            Err(error) => Err(format!("cannot be read: {error}")),
        }
    }

    /// Those of the folder called `name` beside this one.
    fn beside(&self, name: &str) -> Self {
        match self {
            Self::Embedded(_) => {
                let folder = BUILT_IN.iter().find(|(folder, _)| *folder == name);
                Self::Embedded(folder.map_or(&[], |(_, files)| *files))
            }
            Self::Dir(dir) => Self::Dir(dir.with_file_name(name)),
        }
    }

    /// For messages.
    fn path_of(&self, folder: &str, file: &str) -> PathBuf {
        match self {
            Self::Embedded(_) => ["(built in)", folder, file].iter().collect(),
            Self::Dir(dir) => dir.join(file),
        }
    }
}

impl fmt::Display for LanguageOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => write!(f, "the binary"),
            Self::User(dir) | Self::Named(dir) => write!(f, "{}", dir.display()),
        }
    }
}

#[cfg(test)]
mod tests;
