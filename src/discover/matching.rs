//! Which kernelspec runs which language, and what to say when none does.

use std::path::PathBuf;

use serde::Serialize;

use super::{Discovery, Found, LanguageFolder, LanguageNotFound, Languages, listed, quoted, shown};
use crate::{kernelspec::Kernelspec, language::Language};

/// How far a kernel is supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Support {
    /// The language's shim is written for it.
    Full,
    /// Code can be executed; there is no shim for it.
    Basic,
    /// No kernel of the language is there; `kernelbridge install` can bring one.
    Installable,
    /// No kernel of the language is there, and no registry carries one.
    Unavailable,
}

/// Why no kernelspec can run a language.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoKernelspec {
    /// There is no such language.
    #[error(transparent)]
    Language(#[from] LanguageNotFound),
    /// No kernel of the language is installed.
    #[error("no kernelspec of language `{language}` in {}{}\nhint: {hint}", shown(.searched), and_broken(.broken))]
    NotInstalled {
        /// The language.
        language: String,
        /// Where kernelspecs were searched.
        searched: Vec<PathBuf>,
        /// Files of that name that cannot be used, and why.
        broken: Vec<String>,
        /// How to install one.
        hint: String,
    },
    /// There are kernels of the language, but the shim is written for another.
    #[error(
        "only basic support for language `{language}`: its shim runs on kernels that start {}, and there {}\nhint: {hint}",
        alternatives(.wanted),
        is_only(.found)
    )]
    OnlyBasic {
        /// The language.
        language: String,
        /// What must occur in `argv`.
        wanted: Vec<String>,
        /// The kernelspecs of the language.
        found: Vec<String>,
        /// How to install the right one, or use this one.
        hint: String,
    },
    /// The kernelspec is there, the program it starts is not.
    #[error("kernelspec `{kernelspec}` of language `{language}` starts `{program}`, which is not installed: {}\nhint: {hint}", .file.display())]
    NoProgram {
        /// The language.
        language: String,
        /// The kernelspec.
        kernelspec: String,
        /// The program.
        program: String,
        /// The file that names it.
        file: PathBuf,
        /// How to install it.
        hint: String,
    },
}

/// The key in `metadata` of a kernelspec that `kernelbridge notebook install` has made.
pub const NOTEBOOK: &str = "kernelbridge-notebook";

impl LanguageFolder {
    /// How far this language supports the kernel; `None` when it is one of another language.
    pub fn support(&self, kernelspec: &Kernelspec) -> Option<Support> {
        let language = &self.language;
        match self.shim_text() {
            // One of ours for notebooks, which starts one of the others.
            _ if kernelspec.metadata.contains_key(NOTEBOOK) => None,
            Some(_) if language.runs_on(&kernelspec.language, &kernelspec.argv) => Some(Support::Full),
            _ if language.speaks(&kernelspec.language) => Some(Support::Basic),
            _ => None,
        }
    }

    /// The kernelspecs with this support, the preferred one first; those without a program last.
    pub fn kernelspecs<'a>(&self, discovery: &'a Discovery, support: Support) -> Vec<&'a Found> {
        let names = &self.language.kernelspec.names;
        let place = |found: &Found| names.iter().position(|name| name.eq_ignore_ascii_case(&found.kernelspec.name));
        let mut all: Vec<_> =
            discovery.kernelspecs.iter().filter(|found| self.support(&found.kernelspec) == Some(support)).collect();
        all.sort_by_key(|found| (found.missing_program.is_some(), place(found).unwrap_or(names.len())));
        all
    }
}

impl Languages {
    /// The language folder for a kernel, and how far it supports it; full support goes before basic.
    pub fn for_kernelspec(&self, kernelspec: &Kernelspec) -> Option<(&LanguageFolder, Support)> {
        let supports = self.folders.iter().filter_map(|folder| Some((folder, folder.support(kernelspec)?)));
        supports.min_by_key(|(_, support)| *support)
    }

    /// The kernelspec that runs the shim of the language called `word`; for a language without a shim, any of its
    /// kernels.
    ///
    /// # Errors
    ///
    /// - [`NoKernelspec::Language`] when there is no such language.
    /// - [`NoKernelspec::NotInstalled`] and [`NoKernelspec::NoProgram`] say what is missing and how to install it.
    /// - [`NoKernelspec::OnlyBasic`] names the kernels of the language that the shim is not written for.
    pub fn kernelspec_for<'a>(&self, discovery: &'a Discovery, word: &str) -> Result<&'a Found, NoKernelspec> {
        let folder = self.find(word)?;
        let language = &folder.language;
        let basic = folder.kernelspecs(discovery, Support::Basic);
        let full = folder.kernelspecs(discovery, Support::Full);
        let usable = if folder.shim_text().is_some() { &full } else { &basic };
        let name = language.name.clone();
        match usable.first() {
            Some(found) => match &found.missing_program {
                None => Ok(found),
                Some(program) => Err(NoKernelspec::NoProgram {
                    language: name,
                    kernelspec: found.kernelspec.name.clone(),
                    program: program.clone(),
                    file: found.dir.join("kernel.json"),
                    hint: install_hint(language),
                }),
            },
            None if !basic.is_empty() => Err(NoKernelspec::OnlyBasic {
                language: name,
                wanted: language.kernelspec.argv.clone(),
                found: basic.iter().map(|found| found.kernelspec.name.clone()).collect(),
                hint: format!(
                    "{}, or write `kernel = \"{}\"` in the manifest",
                    install_hint(language),
                    basic[0].kernelspec.name
                ),
            }),
            None => Err(NoKernelspec::NotInstalled {
                searched: discovery.searched.iter().map(|searched| searched.dir.clone()).collect(),
                broken: broken(discovery, language),
                hint: install_hint(language),
                language: name,
            }),
        }
    }
}

/// Kernelspecs that would have run the language, were their files not broken.
fn broken(discovery: &Discovery, language: &Language) -> Vec<String> {
    let is_wanted = |name: &String| language.kernelspec.names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name));
    let problems = discovery.problems.iter().filter(|problem| problem.unusable.as_ref().is_some_and(is_wanted));
    problems.map(|problem| format!("{}: {}", problem.path.display(), problem.reason)).collect()
}

/// What to do about a language without a kernel.
pub(crate) fn install_hint(language: &Language) -> String {
    let by_hand = language.install.as_ref().and_then(|install| install.hint.clone());
    match by_hand {
        _ if language.is_installable() => format!("run `kernelbridge install {}`", language.name),
        Some(hint) => hint,
        None => format!("install a Jupyter kernel for {}; there is no recipe for it", language.display_name),
    }
}

fn alternatives(needles: &[String]) -> String {
    needles.iter().map(|needle| format!("`{needle}`")).collect::<Vec<_>>().join(" or ")
}

fn is_only(found: &[String]) -> String {
    format!("{} only {}", if found.len() == 1 { "is" } else { "are" }, quoted(found))
}

fn and_broken(broken: &[String]) -> String {
    if broken.is_empty() { String::new() } else { format!("; {}", listed(broken.iter().cloned())) }
}
