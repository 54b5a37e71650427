//! `kernelbridge new`: a plugin that works, with a test.

mod notebook;

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::{
    cli::{Ending, args::NewArgs},
    discover::{Environment, LanguageFolder, Languages, discover, install_hint},
    notebook::NotebookKernelspec,
    pattern::check_plugin_name,
};

/// The plugin's name in templates.
const PLACEHOLDER: &str = "my-plugin";

/// Make a plugin's folder.
pub fn new(args: &NewArgs, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let NewArgs { language, name, dir, notebook } = args;
    check_name(name)?;
    let environment = Environment::capture();
    let languages = Languages::load(&environment, kernelspecs);
    let folder = languages.find(language)?;
    let discovery = discover(&environment);
    let found = languages.kernelspec_for(&discovery, &folder.language.name);
    let kernelspec = notebook.then(|| notebook::kernelspec(&folder.language, found.as_ref().ok().copied()));
    let files = files(folder, name, kernelspec.as_ref())?;
    let to = dir.join(name);
    if to.exists() {
        bail!(
            "{} exists; nothing was written\nhint: take another name, or another folder with --dir DIR",
            to.display()
        );
    }
    fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    for (file, text) in &files {
        let path = to.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{}", to.display());
    for (file, _) in &files {
        eprintln!("  {file}");
    }
    let shown = to.display();
    eprintln!("next:");
    if let Err(error) = found {
        let text = error.to_string();
        let problem = text.split("\nhint: ").next().unwrap_or_default();
        let hint = install_hint(&folder.language);
        eprintln!("  {}  # {problem}", hint.trim_start_matches("run `").trim_end_matches('`'));
    }
    eprintln!("  kernelbridge test {shown}");
    eprintln!("  kernelbridge call --plugins {shown} {name}.greet '\"Ada\"'");
    eprintln!("  echo '{{\"name\": \"Ada\"}}' | kernelbridge run {shown} --topic guest.arrived --events -");
    Ok(Ending::Done)
}

/// Refuse a bad name, with a good one that looks like it.
fn check_name(name: &str) -> anyhow::Result<()> {
    let Err(error) = check_plugin_name(name) else { return Ok(()) };
    let better: String = name
        .to_lowercase()
        .chars()
        .map(|character| if character.is_ascii_lowercase() || character.is_ascii_digit() { character } else { '-' })
        .collect();
    let better = better.trim_matches('-');
    if better != name && check_plugin_name(better).is_ok() {
        bail!("{error}\nhint: `{better}` would do");
    }
    bail!("{error}")
}

/// The files of a new plugin, a notebook for this kernelspec if there is one.
fn files(
    folder: &LanguageFolder,
    name: &str,
    kernelspec: Option<&NotebookKernelspec>,
) -> anyhow::Result<Vec<(String, String)>> {
    let language = &folder.language;
    let source_file = format!("plugin.{}", language.extension);
    let notebook_file = "plugin.ipynb".to_owned();
    let Some(source) = template(folder, &source_file)? else {
        if folder.shim_text().is_none() {
            bail!(
                "language `{}` has no shim: plugins for it are manifests with `turn = \"template\"` and a [template] \
                 section, which no template of ours can guess",
                language.name
            );
        }
        bail!("language `{}` has no template/{source_file}", language.name);
    };
    let (entry, other) = match kernelspec {
        Some(_) => (notebook_file, format!("source file: {source_file}")),
        None => (source_file, format!("notebook: {notebook_file}")),
    };
    let named = |text: &str| {
        text.replace(PLACEHOLDER, name)
            .replace("{language}", &language.name)
            .replace("{display_name}", &language.display_name)
            .replace("{entry}", &entry)
            .replace("{other}", &other)
    };
    let plugin = match kernelspec {
        Some(kernelspec) => {
            let about = named(include_str!("new/notebook.md"));
            let test = template(folder, &format!("test.{}", language.extension))?.map(|test| named(&test));
            notebook::text(&about, &named(&source), test.as_deref(), kernelspec).context("cannot write a notebook")?
        }
        None => named(&source),
    };
    Ok(vec![
        ("plugin.toml".into(), named(include_str!("new/plugin.toml"))),
        (entry.clone(), plugin),
        (test_file(Path::new(name)), named(include_str!("new/test.json"))),
        ("README.md".into(), named(include_str!("new/README.md"))),
    ])
}

/// A file of the language's `template/`.
fn template(folder: &LanguageFolder, file: &str) -> anyhow::Result<Option<String>> {
    match folder.file(&format!("template/{file}")) {
        Ok(bytes) => String::from_utf8(bytes.into_owned()).map(Some).context("the language's template is not UTF-8"),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => bail!("cannot read template/{file} of language `{}`: {error}", folder.language.name),
    }
}

fn test_file(name: &Path) -> String {
    format!("{}.test.json", name.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{manifest::Manifest, notebook::Notebook};

    fn made(folder: &LanguageFolder, kernelspec: Option<&NotebookKernelspec>) -> Vec<(String, String)> {
        files(folder, "some-name", kernelspec).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_language_with_a_shim_has_a_template_of_at_most_15_lines() {
        for folder in Languages::built_in().folders.iter().filter(|folder| folder.shim_text().is_some()) {
            let files = made(folder, None);
            assert!(files.iter().all(|(_, text)| !text.contains(PLACEHOLDER)
                && !text.contains("{entry}")
                && !text.contains("{other}")));
            let (entry, source) = &files[1];
            assert!(source.lines().count() <= 15, "{}: {entry} is too long", folder.language.name);
            let manifest = Manifest::parse(&files[0].1, "plugin.toml").unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(
                (manifest.name.as_str(), manifest.language()),
                ("some-name", Some(folder.language.name.as_str()))
            );
            assert_eq!(manifest.entry, Path::new(entry));
        }
    }

    #[test]
    fn a_notebook_is_the_same_plugin_with_a_test() {
        for folder in Languages::built_in().folders.iter().filter(|folder| folder.shim_text().is_some()) {
            let kernelspec = notebook::kernelspec(&folder.language, None);
            let (source, files) = (&made(folder, None)[1].1, made(folder, Some(&kernelspec)));
            let name = &folder.language.name;
            let manifest = Manifest::parse(&files[0].1, "plugin.toml").unwrap_or_else(|error| panic!("{error}"));
            assert!(manifest.is_notebook() && manifest.entry == Path::new(&files[1].0), "{name}");
            let notebook = Notebook::parse(&files[1].1, &files[1].0).unwrap_or_else(|error| panic!("{error}"));
            let cells: Vec<_> = notebook.entry_cells().map(|cell| cell.source.as_str()).collect();
            assert_eq!(cells, [source.trim_end()], "{name}");
            assert_eq!(notebook.test_cells().count(), 1, "{name}");
            assert!(folder.language.speaks(notebook.language.as_deref().unwrap_or_default()), "{name}");
            assert_eq!(notebook.kernelspec, Some(kernelspec), "{name}");
        }
    }

    #[test]
    fn bad_names_are_refused_with_a_good_one() {
        let check = |name: &str, expected: &str| {
            assert_eq!(check_name(name).expect_err("refused").to_string(), expected);
        };
        check(
            "My Plugin",
            "'M' in plugin name `My Plugin` is not allowed; use a-z, 0-9 and -\nhint: `my-plugin` would do",
        );
        check("", "a plugin name must not be empty");
        check("state", "plugin name `state` is reserved: `state.*` are functions of the host");
    }
}
