//! `kernelbridge notebook install`, `list`, `remove`: kernelspecs for Jupyter in which `bridge` is there.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write, stdout},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    cli::{Ending, install, kernel::stock},
    discover::{Environment, Found, LanguageFolder, Languages, NOTEBOOK, discover},
};

/// Pictures that Jupyter knows beside a `kernel.json`.
const LOGOS: &[&str] = &["logo-32x32.png", "logo-64x64.png"];

/// What notebook kernels are to be like.
#[derive(Debug)]
pub struct Setting {
    /// The kernelspec behind it, if not the language's.
    pub kernel: Option<String>,
    /// A running host to attach to.
    pub connect: Option<String>,
    /// For the scratch host.
    pub plugins: Vec<PathBuf>,
}

/// Register them for these languages, or for all.
pub fn install_all(wanted: &[String], mut setting: Setting, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let kernel = setting.kernel.clone();
    let kernel = kernel.as_deref();
    if kernel.is_some() && wanted.len() != 1 {
        bail!("`--kernel` is for one language; name it: `kernelbridge notebook install LANGUAGE --kernel KERNELSPEC`");
    }
    let environment = Environment::capture();
    let (discovery, languages) = (discover(&environment), Languages::load(&environment, kernelspecs));
    let plugins = setting
        .plugins
        .iter()
        .map(|path| fs::canonicalize(path).with_context(|| format!("there is no plugin {}", path.display())));
    setting.plugins = plugins.collect::<anyhow::Result<Vec<_>>>()?;
    let able = |folder: &&LanguageFolder| folder.language.shim.as_ref().is_some_and(|shim| shim.cells);
    let all: Vec<String> = languages.folders.iter().filter(able).map(|folder| folder.language.name.clone()).collect();
    let mut registered = 0;
    for language in if wanted.is_empty() { &all } else { wanted } {
        match stock(&discovery, &languages, language, kernel) {
            Ok(found) => {
                let folder = languages.find(language)?;
                let dir = register(folder, found, &setting, kernelspecs)?;
                let (name, behind) = (display_name(folder), &found.kernelspec.name);
                writeln!(stdout(), "{name}: registered in {}, with kernelspec `{behind}` behind it", dir.display())?;
                registered += 1;
            }
            Err(error) if wanted.is_empty() => eprintln!("{language}: left out, {error}"),
            Err(error) => return Err(error),
        }
    }
    if registered == 0 {
        bail!("no language is installed that could be registered; `kernelbridge install python` installs one");
    }
    Ok(Ending::Done)
}

/// The language of one of these kernelspecs.
pub fn language_of(kernelspec: &str) -> Option<&str> {
    kernelspec.strip_prefix("kernelbridge-notebook-")
}

/// What it is called in Jupyter.
pub fn display_name(folder: &LanguageFolder) -> String {
    format!("{} (kernelbridge)", folder.language.display_name)
}

/// The name of a language's kernelspec for notebooks.
pub fn spec_name(language: &str) -> String {
    format!("kernelbridge-notebook-{language}")
}

fn kernels_dir() -> anyhow::Result<PathBuf> {
    Ok(install::options()?.jupyter.join("kernels"))
}

fn register(
    folder: &LanguageFolder,
    found: &Found,
    setting: &Setting,
    kernelspecs: &[PathBuf],
) -> anyhow::Result<PathBuf> {
    let language = &folder.language.name;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut argv = vec![program.to_string_lossy().into_owned(), "kernel".into(), "--language".into(), language.clone()];
    let mut option = |name: &str, value: &Path| argv.extend([name.to_owned(), value.to_string_lossy().into_owned()]);
    setting.kernel.iter().for_each(|kernel| option("--kernel", Path::new(kernel)));
    setting.connect.iter().for_each(|host| option("--connect", Path::new(host)));
    setting.plugins.iter().for_each(|plugin| option("--plugins", plugin));
    for dir in kernelspecs {
        option("--kernelspecs", &std::path::absolute(dir)?);
    }
    argv.extend(["-f".into(), "{connection_file}".into()]);
    let mut metadata = serde_json::Map::new();
    metadata.insert(NOTEBOOK.into(), json!({ "language": language, "kernelspec": found.kernelspec.name }));
    metadata
        .extend(found.kernelspec.metadata.get("debugger").map(|debugger| ("debugger".to_owned(), debugger.clone())));
    let spec = json!({
        "argv": argv,
        "display_name": display_name(folder),
        "language": found.kernelspec.language,
        // We know what interrupts the kernel behind us.
        "interrupt_mode": "signal",
        "metadata": metadata,
    });
    let dir = kernels_dir()?.join(spec_name(language));
    if dir.exists() && ours(&dir).is_none() {
        bail!("{} is there and not ours; move it away", dir.display());
    }
    let write = |name: &str, bytes: &[u8]| {
        let file = dir.join(name);
        fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    write("logo-svg.svg", logo(&folder.language.display_name).as_bytes())?;
    for name in LOGOS {
        if let Ok(bytes) = fs::read(found.dir.join(name)) {
            write(name, &bytes)?;
        }
    }
    write("kernel.json", serde_json::to_string_pretty(&spec)?.as_bytes())?;
    Ok(dir)
}

/// Two shores, a bridge, and the language's first letters.
fn logo(language: &str) -> String {
    let letters: String = language.chars().filter(|letter| letter.is_alphanumeric()).take(2).collect();
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">
<rect width="64" height="64" rx="12" fill="#1f4e5f"/>
<path d="M4 46h56M10 46V30M54 46V30M10 32Q32 52 54 32" stroke="#f2b134" stroke-width="4" fill="none" stroke-linecap="round"/>
<text x="32" y="26" font-family="sans-serif" font-weight="bold" font-size="22" fill="#fff" text-anchor="middle">{letters}</text>
</svg>
"##
    )
}

/// A notebook kernel that is registered.
#[derive(Debug, Serialize)]
struct Registered {
    language: String,
    display_name: String,
    /// The kernelspec behind it.
    kernelspec: String,
    dir: PathBuf,
    /// Its program is not there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_program: Option<String>,
}

/// What the `kernel.json` in a folder says, if we have made it.
fn ours(dir: &Path) -> Option<Registered> {
    let spec: BTreeMap<String, Value> = serde_json::from_slice(&fs::read(dir.join("kernel.json")).ok()?).ok()?;
    let about = spec.get("metadata")?.get(NOTEBOOK)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let program = text(spec.get("argv")?.get(0)?);
    Some(Registered {
        language: text(&about["language"]),
        display_name: text(spec.get("display_name")?),
        kernelspec: text(&about["kernelspec"]),
        dir: dir.to_owned(),
        missing_program: (!Path::new(&program).is_file()).then_some(program),
    })
}

fn registered() -> anyhow::Result<Vec<Registered>> {
    let dir = kernels_dir()?;
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    let mut found: Vec<Registered> = entries.flatten().filter_map(|entry| ours(&entry.path())).collect();
    found.sort_by(|a, b| a.language.cmp(&b.language));
    Ok(found)
}

pub fn list(json: bool) -> anyhow::Result<Ending> {
    let registered = registered()?;
    if json {
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&registered)?)?;
        return Ok(Ending::Done);
    }
    if registered.is_empty() {
        writeln!(stdout(), "none; `kernelbridge notebook install` registers one for each language that is installed")?;
        return Ok(Ending::Done);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["NAME", "BEHIND IT", "FOLDER"]);
    for row in &registered {
        let folder = match &row.missing_program {
            Some(program) => format!("{} ({program} is gone: install it again)", row.dir.display()),
            None => row.dir.display().to_string(),
        };
        table.add_row([&row.display_name, &row.kernelspec, &folder]);
    }
    writeln!(stdout(), "{table}")?;
    Ok(Ending::Done)
}

pub fn remove(wanted: &[String], kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let languages = Languages::load(&Environment::capture(), kernelspecs);
    let wanted = wanted.iter().map(|word| Ok(languages.find(word)?.language.name.clone()));
    let wanted = wanted.collect::<anyhow::Result<Vec<_>>>()?;
    let all = registered()?;
    for language in &wanted {
        if !all.iter().any(|row| row.language == *language) {
            bail!("no notebook kernel for `{language}` is registered; `kernelbridge notebook list` lists them");
        }
    }
    for row in all.iter().filter(|row| wanted.is_empty() || wanted.contains(&row.language)) {
        fs::remove_dir_all(&row.dir).with_context(|| format!("cannot remove {}", row.dir.display()))?;
        writeln!(stdout(), "{}: removed", row.display_name)?;
    }
    Ok(Ending::Done)
}
