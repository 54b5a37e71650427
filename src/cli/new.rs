//! `kernelbridge new`: a plugin that works, with a test.

mod notebook;

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::{
    cli::{Ending, args::NewArgs, notebook::kernels::spec_name},
    discover::{Environment, LanguageFolder, Languages, discover, install_hint},
    notebook::NotebookKernelspec,
    pattern::check_plugin_name,
};

/// The plugin's name in templates.
const PLACEHOLDER: &str = "my-plugin";
/// What the template's handler takes.
const EVENTS: &str = "{\"topic\":\"guest.arrived\",\"data\":{\"name\":\"Ada\"}}\n";
/// Most events in a new notebook's folder.
const SAMPLE: usize = 1000;

/// Make a plugin's folder.
pub fn new(args: &NewArgs, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let NewArgs { language, name, dir, notebook } = args;
    make(language, name, dir, *notebook, EVENTS, kernelspecs)
}

/// Make a plugin's folder with a notebook, to be tried on the events in a file.
pub fn notebook(
    language: &str,
    name: &str,
    dir: &Path,
    events: Option<&Path>,
    kernelspecs: &[PathBuf],
) -> anyhow::Result<Ending> {
    let events = events.map_or_else(|| Ok(EVENTS.to_owned()), sample)?;
    make(language, name, dir, true, &events, kernelspecs)
}

/// The first events in a file.
fn sample(file: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut sample = String::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).take(SAMPLE) {
        let event: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("{}:{number} is not JSON", file.display()))?;
        if !event["topic"].is_string() || event.get("data").is_none() {
            bail!(
                "{}:{number} is no event: it needs `topic` and `data`\nhint: `kernelbridge record` writes such files",
                file.display()
            );
        }
        sample.push_str(line.trim());
        sample.push('\n');
    }
    if sample.is_empty() {
        bail!("{} has no events", file.display());
    }
    Ok(sample)
}

fn make(
    language: &str,
    name: &str,
    dir: &Path,
    is_notebook: bool,
    events: &str,
    kernelspecs: &[PathBuf],
) -> anyhow::Result<Ending> {
    check_name(name)?;
    let environment = Environment::capture();
    let languages = Languages::load(&environment, kernelspecs);
    let folder = languages.find(language)?;
    let discovery = discover(&environment);
    let found = languages.kernelspec_for(&discovery, &folder.language.name);
    let kernelspec = is_notebook.then(|| notebook::kernelspec(folder, found.as_ref().ok().copied()));
    let files = files(folder, name, kernelspec.as_ref(), events)?;
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
    if kernelspec.is_some() && has_cells(folder) {
        if discovery.find(&spec_name(&folder.language.name)).is_err() {
            eprintln!("  kernelbridge notebook install {}", folder.language.name);
        }
        eprintln!("  jupyter lab {shown}/plugin.ipynb");
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
    events: &str,
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
            let sample = template(folder, &format!("events.{}", language.extension))?;
            let cells = notebook::Cells { plugin: &named(&source), test: test.as_deref(), sample: sample.as_deref() };
            notebook::text(&about, cells, kernelspec).context("cannot write a notebook")?
        }
        None => named(&source),
    };
    let mut files = vec![
        ("plugin.toml".into(), named(include_str!("new/plugin.toml"))),
        (entry.clone(), plugin),
        (test_file(Path::new(name)), named(include_str!("new/test.json"))),
        ("README.md".into(), named(include_str!("new/README.md"))),
    ];
    if kernelspec.is_some() && has_cells(folder) {
        files.push(("events.ndjson".into(), events.to_owned()));
    }
    Ok(files)
}

/// Can its notebooks call the host?
fn has_cells(folder: &LanguageFolder) -> bool {
    folder.language.shim.as_ref().is_some_and(|shim| shim.cells)
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
        files(folder, "some-name", kernelspec, EVENTS).unwrap_or_else(|error| panic!("{error}"))
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
            let kernelspec = notebook::kernelspec(folder, None);
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
