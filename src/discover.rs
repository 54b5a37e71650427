//! Which kernelspecs there are on this machine, how each was found, and what is wrong with the others.
//!
//! A native implementation of the rules of jupyter_core 5.9 and jupyter_client 8.10: the kernelspecs found are those of
//! `jupyter kernelspec list` in the same environment. Nothing is skipped in silence. Nothing here launches a kernel.

mod environment;
mod languages;
mod matching;
mod native;
mod origin;
mod paths;
mod prefix;
mod scan;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    error::Error,
    ffi::OsString,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

pub use environment::Environment;
pub use languages::{LanguageFolder, LanguageNotFound, LanguageOrigin, Languages};
pub(crate) use matching::install_hint;
pub use matching::{NOTEBOOK, NoKernelspec, Support};
pub use origin::{DataDir, Origin};
pub use prefix::{Prefix, PrefixSource};

use crate::{
    kernelspec::{Expansion, Kernelspec, NATIVE_NAME, is_bare_python},
    suggest::nearest,
};

/// Everything a search found.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The kernelspecs that can be used, in the order of the search; each name once.
    pub kernelspecs: Vec<Found>,
    /// What is wrong, with kernelspecs that can be used and with those that cannot.
    pub problems: Vec<Problem>,
    /// Kernelspecs that cannot be used because another of the same name was found before.
    pub shadowed: Vec<Shadowed>,
    /// Every directory that was searched, in order.
    pub searched: Vec<SearchedDir>,
    /// The Python environment that was searched, if there is one.
    pub prefix: Option<Prefix>,
}

/// A kernelspec and how it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What its `kernel.json` says.
    pub kernelspec: Kernelspec,
    /// Why its directory was searched.
    pub origin: Origin,
    /// Its folder.
    pub dir: PathBuf,
    /// What `{prefix}` in its `argv` stands for.
    pub prefix: Option<PathBuf>,
    /// What a bare `python` in its `argv` stands for, if that is what it starts.
    pub python: Option<PathBuf>,
    /// The program it starts, if there is no such program.
    pub missing_program: Option<String>,
}

/// Something wrong with a file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong, in words.
    pub reason: String,
    /// The name of the kernelspec or language that cannot be used because of it.
    pub unusable: Option<String>,
}

/// A kernelspec hidden by another of the same name.
#[derive(Debug, Clone, PartialEq)]
pub struct Shadowed {
    /// The hidden one.
    pub found: Found,
    /// The folder of the one that hides it.
    pub by: PathBuf,
}

/// A directory that was searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchedDir {
    /// The directory.
    pub dir: PathBuf,
    /// Why it was searched.
    pub origin: Origin,
    /// Is it there?
    pub exists: bool,
}

/// Why [`Discovery::find`] found nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoverError {
    /// No kernelspec of that name in any search directory.
    #[error(
        "no kernelspec `{name}`{}; found {}; looked in {}",
        did_you_mean(.nearest.as_deref()),
        quoted(.found),
        shown(.searched)
    )]
    NotFound {
        /// What was asked for.
        name: String,
        /// The name that looks most like it.
        nearest: Option<String>,
        /// Every name there is.
        found: Vec<String>,
        /// Every directory that was searched.
        searched: Vec<PathBuf>,
    },
    /// It is there, but its file is broken.
    #[error("kernelspec `{name}` cannot be used: {}: {reason}", .path.display())]
    Unusable {
        /// What was asked for.
        name: String,
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Search for kernelspecs.
///
/// Reads directories and files. Where `python3` on PATH is a script, that script is run to learn where it leads.
pub fn discover(environment: &Environment) -> Discovery {
    let mut problems = Vec::new();
    let prefix = Prefix::find(environment, &mut problems);
    let mut search = Search {
        environment,
        discovery: Discovery { kernelspecs: Vec::new(), problems, shadowed: Vec::new(), searched: Vec::new(), prefix },
        winners: HashMap::new(),
    };
    let mut seen = HashSet::new();
    for (dir, origin) in paths::search_dirs(environment, search.discovery.prefix.as_ref()) {
        if seen.insert(environment::resolve(&dir)) {
            search.directory(dir, origin);
        }
    }
    if !search.winners.contains_key(NATIVE_NAME) {
        let native = native::find(environment, search.discovery.prefix.as_ref());
        search.discovery.kernelspecs.extend(native);
    }
    search.discovery
}

/// A search under way.
struct Search<'a> {
    environment: &'a Environment,
    discovery: Discovery,
    /// The folder that has each name, whether or not it can be used: jupyter_client looks no further either.
    winners: HashMap<String, PathBuf>,
}

impl Search<'_> {
    fn directory(&mut self, dir: PathBuf, origin: Origin) {
        let listed = scan::list(&dir, &mut self.discovery.problems);
        let exists = match &listed {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                self.discovery.problems.push(Problem::new(dir.clone(), format!("cannot be searched: {error}")));
                dir.exists()
            }
        };
        for entry in listed.into_iter().flatten() {
            self.entry(entry, &origin);
        }
        self.discovery.searched.push(SearchedDir { dir, origin, exists });
    }

    fn entry(&mut self, entry: scan::Entry, origin: &Origin) {
        let file = entry.dir.join("kernel.json");
        let winner = self.winners.get(&entry.name).cloned();
        let parsed = match scan::read(&entry) {
            Ok(parsed) => parsed,
            Err(reason) => {
                let unusable = winner.is_none().then(|| entry.name.clone());
                self.discovery.problems.push(Problem { path: file, reason, unusable });
                self.winners.entry(entry.name).or_insert(entry.dir);
                return;
            }
        };
        let problem = |reason| Problem::new(file.clone(), reason);
        self.discovery.problems.extend(parsed.remarks.into_iter().map(problem));
        let found = self.found(parsed.kernelspec, origin.clone(), entry.dir);
        match winner {
            Some(by) => {
                if self.is_broken(&entry.name) {
                    let reason = format!("hidden by {}, which cannot be used", by.display());
                    self.discovery.problems.push(Problem::new(file, reason));
                }
                self.discovery.shadowed.push(Shadowed { found, by });
            }
            None => {
                self.winners.insert(entry.name, found.dir.clone());
                if let Some(program) = &found.missing_program {
                    let problem = Problem::new(file, format!("starts `{program}`, which is not installed"));
                    self.discovery.problems.push(problem);
                }
                self.discovery.kernelspecs.push(found);
            }
        }
    }

    fn is_broken(&self, name: &str) -> bool {
        self.discovery.problems.iter().any(|problem| problem.unusable.as_deref() == Some(name))
    }

    fn found(&self, kernelspec: Kernelspec, origin: Origin, dir: PathBuf) -> Found {
        let ours = self.discovery.prefix.as_ref();
        let owner = owner_of(&dir);
        let python = kernelspec.argv.first().filter(|program| is_bare_python(program)).and_then(|program| {
            let own =
                |prefix: &Path| Some(prefix.join("bin").join(program)).filter(|file| environment::is_executable(file));
            let any = |prefix: &Path| own(prefix).or_else(|| prefix::python_in(prefix));
            owner
                .and_then(any)
                .or_else(|| ours.and_then(|prefix| own(&prefix.dir).or_else(|| prefix.python.clone())))
                .or_else(|| self.environment.which("python3"))
        });
        let prefix = owner.or(ours.map(|prefix| prefix.dir.as_path())).map(Path::to_owned);
        let mut found = Found { kernelspec, origin, dir, prefix, python, missing_program: None };
        let program = found.argv(Path::new(""), self.environment).into_iter().next();
        found.missing_program = program
            .filter(|program| self.environment.which(program).is_none())
            .map(|program| program.to_string_lossy().into_owned());
        found
    }
}

/// The Python environment whose own kernelspec this is: `PREFIX/share/jupyter/kernels/NAME`.
fn owner_of(dir: &Path) -> Option<&Path> {
    let kernels = dir.parent()?;
    let prefix = kernels.ancestors().nth(3).filter(|_| kernels.ends_with("share/jupyter/kernels"))?;
    prefix::python_in(prefix).map(|_| prefix)
}

impl Discovery {
    /// The kernelspec called `name`, without case.
    ///
    /// # Errors
    ///
    /// - [`DiscoverError::NotFound`] with every name there is and every place that was searched.
    /// - [`DiscoverError::Unusable`] when there is one whose file is broken.
    pub fn find(&self, name: &str) -> Result<&Found, DiscoverError> {
        let wanted = name.to_lowercase();
        if let Some(found) = self.kernelspecs.iter().find(|found| found.kernelspec.name == wanted) {
            return Ok(found);
        }
        if let Some(problem) = self.problems.iter().find(|problem| problem.unusable.as_ref() == Some(&wanted)) {
            let (path, reason) = (problem.path.clone(), problem.reason.clone());
            return Err(DiscoverError::Unusable { name: wanted, path, reason });
        }
        let found: Vec<_> = self.kernelspecs.iter().map(|found| found.kernelspec.name.clone()).collect();
        let nearest = nearest(&wanted, found.iter().map(String::as_str)).map(str::to_owned);
        let searched = self.searched.iter().map(|searched| searched.dir.clone()).collect();
        Err(DiscoverError::NotFound { name: name.to_owned(), nearest, found, searched })
    }

    /// Kernelspecs that `found` hides, most important first.
    pub fn shadowed_by<'a>(&'a self, found: &'a Found) -> impl Iterator<Item = &'a Found> {
        self.shadowed.iter().filter(|shadowed| shadowed.by == found.dir).map(|shadowed| &shadowed.found)
    }
}

/// Where Jupyter keeps the connection files of kernels that run: `jupyter --runtime-dir`.
pub fn runtime_dir(environment: &Environment) -> PathBuf {
    paths::runtime_dir(environment)
}

impl Found {
    /// Program and arguments that launch the kernel. Empty when its `argv` is.
    pub fn argv(&self, connection_file: &Path, environment: &Environment) -> Vec<OsString> {
        self.kernelspec.expand_argv(&Expansion {
            connection_file,
            prefix: self.prefix.as_deref(),
            python: self.python.as_deref(),
            home: &environment.home(),
        })
    }

    /// What the kernelspec adds to the kernel's environment.
    pub fn env(&self, environment: &Environment) -> BTreeMap<String, OsString> {
        self.kernelspec.expand_env(|name| environment.var(name).map(ToOwned::to_owned))
    }
}

impl Problem {
    fn new(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into(), unusable: None }
    }
}

/// An error with its sources, in one line.
fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!(" (did you mean `{nearest}`?)")).unwrap_or_default()
}

fn quoted(names: &[String]) -> String {
    listed(names.iter().map(|name| format!("`{name}`")))
}

fn shown(paths: &[PathBuf]) -> String {
    listed(paths.iter().map(|path| path.display().to_string()))
}

fn listed(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests;
