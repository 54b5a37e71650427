//! `kernelbridge languages`: every language and kernelspec, how far each is supported, and what could be installed.
//!
//! Turns what was found into rows, and shows rows as a table or as JSON. Data goes to one writer, problems to another.

use std::{
    io::{self, Write},
    path::Path,
};

use comfy_table::{ContentArrangement, Table, presets};
use directories::BaseDirs;
use serde::Serialize;

use crate::{
    discover::{Discovery, Found, LanguageFolder, Languages, Support, install_hint},
    kernelspec::InterruptMode,
    language::Language,
};

/// Everything `kernelbridge languages` shows. Its JSON is this structure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LanguagesReport {
    /// One for each kernelspec, and one for each language that has none; best support first.
    pub languages: Vec<LanguageRow>,
    /// What is wrong with files and folders.
    pub problems: Vec<ProblemRow>,
    /// Directories that were searched for kernelspecs, in order.
    pub searched: Vec<SearchedRow>,
}

/// A kernelspec and its language, or a language without a kernelspec.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LanguageRow {
    /// What a manifest calls it; for a kernel without a language folder, what the kernel says in lower case.
    pub language: String,
    /// How far it is supported.
    pub support: Support,
    /// How RPC messages can travel: `pipe`, `jupyter`. Empty without full support.
    pub carriers: Vec<&'static str>,
    /// Why the support is not full, or what is missing, or how to install it.
    pub note: Option<String>,
    /// The language's kernelspec is this one unless the manifest names another.
    pub preferred: bool,
    /// Where the language folder is.
    pub language_folder: Option<String>,
    /// The kernelspec.
    pub kernelspec: Option<KernelspecRow>,
}

/// A kernelspec and how it was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelspecRow {
    /// Its name.
    pub name: String,
    /// What its `kernel.json` calls it.
    pub display_name: String,
    /// Its folder.
    pub resource_dir: String,
    /// Why that was searched, in one word.
    pub origin: &'static str,
    /// Why that was searched, for people.
    pub why: String,
    /// What it starts, templates not expanded.
    pub argv: Vec<String>,
    /// How it says it is interrupted.
    pub interrupt_mode: InterruptMode,
    /// The program it starts, if that is not installed.
    pub missing_program: Option<String>,
    /// Folders of kernelspecs that this one hides.
    pub shadows: Vec<String>,
}

/// Something wrong with a file or folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProblemRow {
    /// The file or folder.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

/// A directory that was searched.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchedRow {
    /// The directory.
    pub dir: String,
    /// Why, for people.
    pub why: String,
    /// Is it there?
    pub exists: bool,
}

impl LanguagesReport {
    /// Put what was found together.
    pub fn new(discovery: &Discovery, languages: &Languages) -> Self {
        let mut rows: Vec<_> =
            discovery.kernelspecs.iter().flat_map(|found| rows(discovery, languages, found)).collect();
        let lacks_kernel =
            |folder: &&LanguageFolder| !rows.iter().any(|row| row.preferred && row.language == folder.language.name);
        let missing: Vec<_> = languages.folders.iter().filter(lacks_kernel).map(without_kernelspec).collect();
        rows.extend(missing);
        rows.sort_by(|a, b| (a.support, &a.language, b.preferred).cmp(&(b.support, &b.language, a.preferred)));
        let problems = languages.problems.iter().chain(&discovery.problems);
        Self {
            languages: rows,
            problems: problems
                .map(|problem| ProblemRow { path: text(&problem.path), reason: problem.reason.clone() })
                .collect(),
            searched: discovery
                .searched
                .iter()
                .map(|dir| SearchedRow { dir: text(&dir.dir), why: dir.origin.to_string(), exists: dir.exists })
                .collect(),
        }
    }
}

/// The rows of one kernelspec: one for each language whose shim it runs, else one with basic support.
fn rows(discovery: &Discovery, languages: &Languages, found: &Found) -> Vec<LanguageRow> {
    let is_full = |folder: &&LanguageFolder| folder.support(&found.kernelspec) == Some(Support::Full);
    let full: Vec<_> = languages.folders.iter().filter(is_full).collect();
    if !full.is_empty() {
        return full.into_iter().map(|folder| row(discovery, found, Some((folder, Support::Full)))).collect();
    }
    vec![row(discovery, found, languages.for_kernelspec(&found.kernelspec))]
}

fn row(discovery: &Discovery, found: &Found, of: Option<(&LanguageFolder, Support)>) -> LanguageRow {
    let folder = of.map(|(folder, _)| folder);
    let support = of.map_or(Support::Basic, |(_, support)| support);
    let spoken = match found.kernelspec.language.to_lowercase() {
        language if language.is_empty() => "other".to_owned(),
        language => language,
    };
    let missing = found.missing_program.as_ref().map(|program| format!("`{program}` is not installed"));
    LanguageRow {
        language: folder.map_or(spoken, |folder| folder.language.name.clone()),
        support,
        carriers: if support == Support::Full { folder.map(carriers).unwrap_or_default() } else { Vec::new() },
        note: missing.or_else(|| (support == Support::Basic).then(|| why_basic(folder))),
        preferred: folder.is_some_and(|folder| is_preferred(discovery, folder, found)),
        language_folder: folder.map(|folder| folder.origin.to_string()),
        kernelspec: Some(KernelspecRow::new(discovery, found)),
    }
}

impl KernelspecRow {
    fn new(discovery: &Discovery, found: &Found) -> Self {
        Self {
            name: found.kernelspec.name.clone(),
            display_name: found.kernelspec.title().to_owned(),
            resource_dir: text(&found.dir),
            origin: found.origin.kind(),
            why: found.origin.to_string(),
            argv: found.kernelspec.argv.clone(),
            interrupt_mode: found.kernelspec.interrupt_mode,
            missing_program: found.missing_program.clone(),
            shadows: discovery.shadowed_by(found).map(|shadowed| text(&shadowed.dir)).collect(),
        }
    }
}

fn without_kernelspec(folder: &LanguageFolder) -> LanguageRow {
    let language = &folder.language;
    LanguageRow {
        language: language.name.clone(),
        support: if language.is_installable() { Support::Installable } else { Support::Unavailable },
        carriers: Vec::new(),
        // What to do by hand takes sentences; `install` says them.
        note: Some(match &language.install {
            Some(_) if !language.is_installable() => {
                format!("`kernelbridge install {}` says what to do", language.name)
            }
            _ => install_hint(language),
        }),
        preferred: false,
        language_folder: Some(folder.origin.to_string()),
        kernelspec: None,
    }
}

/// Is this the kernelspec that [`Languages::kernelspec_for`] chooses?
fn is_preferred(discovery: &Discovery, folder: &LanguageFolder, found: &Found) -> bool {
    let support = if folder.shim_text().is_some() { Support::Full } else { Support::Basic };
    let first = folder.kernelspecs(discovery, support).into_iter().next();
    first.is_some_and(|first| first.dir == found.dir && first.missing_program.is_none())
}

fn carriers(folder: &LanguageFolder) -> Vec<&'static str> {
    let turn = &folder.language.turn;
    [("pipe", &turn.pipe), ("jupyter", &turn.jupyter)]
        .into_iter()
        .filter_map(|(carrier, constant)| constant.as_ref().map(|_| carrier))
        .collect()
}

fn why_basic(folder: Option<&LanguageFolder>) -> String {
    match folder.map(|folder| (&folder.language, folder.shim_text())) {
        None => "no language folder".to_owned(),
        Some((_, None)) => "no shim".to_owned(),
        Some((Language { kernelspec, .. }, Some(_))) => format!("the shim is for {}", kernelspec.argv.join(", ")),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Show the report: the table or JSON on `out`, problems on `err`.
///
/// # Errors
///
/// As writing to either.
pub fn print(report: &LanguagesReport, json: bool, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", table(&report.languages).trim_fmt())?;
    }
    for problem in &report.problems {
        writeln!(err, "warning: {}: {}", problem.path, problem.reason)?;
    }
    out.flush()
}

fn table(rows: &[LanguageRow]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let has_shadows =
        rows.iter().filter_map(|row| row.kernelspec.as_ref()).any(|kernelspec| !kernelspec.shadows.is_empty());
    let mut header =
        vec!["LANGUAGE", "KERNELSPEC", "DISPLAY NAME", "SUPPORT", "CARRIERS", "FOUND IN", "WHY THERE", "NOTE"];
    if has_shadows {
        header.push("HIDES");
    }
    table.set_header(header);
    for row in rows {
        let kernelspec = row.kernelspec.as_ref();
        let of = |field: fn(&KernelspecRow) -> &str| kernelspec.map_or("-", field).to_owned();
        let support = serde_json::to_value(row.support).ok().and_then(|name| Some(name.as_str()?.to_owned()));
        let mut cells = vec![
            row.language.clone(),
            of(|kernelspec| &kernelspec.name),
            of(|kernelspec| &kernelspec.display_name),
            support.unwrap_or_default(),
            if row.carriers.is_empty() { "-".to_owned() } else { row.carriers.join(", ") },
            kernelspec.map_or_else(|| "-".to_owned(), found_in),
            of(|kernelspec| &kernelspec.why),
            row.note.clone().unwrap_or_default(),
        ];
        if has_shadows {
            cells.push(kernelspec.map(|kernelspec| kernelspec.shadows.join("\n")).unwrap_or_default());
        }
        table.add_row(cells);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// The folder that a kernelspec's own folder is in, as people write it; the whole path where the two names differ.
fn found_in(kernelspec: &KernelspecRow) -> String {
    let dir = Path::new(&kernelspec.resource_dir);
    let is_named = dir.file_name().is_some_and(|name| name.eq_ignore_ascii_case(&kernelspec.name));
    let dir = dir.parent().filter(|_| is_named).unwrap_or(dir);
    let home = BaseDirs::new().and_then(|dirs| Some(Path::new("~").join(dir.strip_prefix(dirs.home_dir()).ok()?)));
    text(home.as_deref().unwrap_or(dir))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::discover::{Environment, discover};

    /// Languages and kernelspecs of a made-up machine.
    fn report(root: &Path) -> LanguagesReport {
        let write = |file: &str, text: &str| {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(&path, text).expect("a file");
            path
        };
        let language = |name: &str, argv: &str, turn: &str, install: &str| {
            let text = format!(
                "name = '{name}'\ndisplay-name = '{name}'\nextension = 'x'\n\
                 [kernelspec]\nlanguages = ['{name}']\nargv = [{argv}]\n{turn}\n{install}\n"
            );
            write(&format!("config/kernelbridge/kernelspecs/{name}/language.toml"), &text);
            write(&format!("config/kernelbridge/kernelspecs/{name}/shim.x"), "");
        };
        let shim = |turn: &str| format!("[shim]\nfile = 'shim.x'\n[turn]\n{turn}");
        language("tlua", "'ilua'", &shim("pipe = 'x'"), "[install]\npypi = ['ilua==1']");
        language("tpy", "", &shim("pipe = 'x'\njupyter = 'y'"), "");
        language("tbasic", "", "", "");
        language("tcobol", "", "", "");
        write("config/kernelbridge/kernelspecs/broken/README.md", "");
        let kernel = |dir: &str, program: &str, language: &str| {
            let text = serde_json::json!({"argv": [program], "language": language, "display_name": "A kernel"});
            write(&format!("{dir}/kernel.json"), &text.to_string());
        };
        kernel("data/jupyter/kernels/two", "run", "TPy");
        kernel("data/jupyter/kernels/gone", "gone", "tpy");
        kernel("data/jupyter/kernels/xlua", "run", "tlua");
        kernel("data/jupyter/kernels/basic", "run", "tbasic");
        kernel("data/jupyter/kernels/nobody", "run", "Nobody");
        kernel("home/.ipython/kernels/two", "run", "tpy");
        let program = write("bin/run", "");
        std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let path = |dir: &str| root.join(dir).display().to_string();
        let vars = [
            ("HOME", path("home")),
            ("PATH", path("bin")),
            ("XDG_CONFIG_HOME", path("config")),
            ("XDG_DATA_HOME", path("data")),
            ("JUPYTER_PLATFORM_DIRS", "1".to_owned()),
            ("XDG_DATA_DIRS", path("none")),
        ];
        let environment = Environment::new(vars, root);
        let mut languages = Languages::load(&environment, &[]);
        languages.folders.retain(|folder| folder.dir().is_some());
        languages.problems.retain(|problem| problem.path.starts_with(root));
        LanguagesReport::new(&discover(&environment), &languages)
    }

    fn machine() -> (tempfile::TempDir, LanguagesReport) {
        let dir = tempfile::tempdir().expect("a folder");
        let report = report(&dir.path().canonicalize().expect("resolves"));
        (dir, report)
    }

    #[test]
    fn every_kernelspec_and_every_language_has_a_row_best_support_first() {
        let (_dir, report) = machine();
        let shown = |row: &LanguageRow| {
            let kernelspec = row.kernelspec.as_ref().map_or("-", |kernelspec| &kernelspec.name);
            let preferred = if row.preferred { "*" } else { "" };
            let note = row.note.as_deref().unwrap_or_default();
            format!("{} {kernelspec}{preferred} {:?} [{}] {note}", row.language, row.support, row.carriers.join(" "))
        };
        let rows: Vec<_> = report.languages.iter().map(shown).collect();
        let expected = [
            "tpy two* Full [pipe jupyter] ",
            "tpy gone Full [pipe jupyter] `gone` is not installed",
            "nobody nobody Basic [] no language folder",
            "tbasic basic* Basic [] no shim",
            "tlua xlua Basic [] the shim is for ilua",
            "tlua - Installable [] run `kernelbridge install tlua`",
            "tcobol - Unavailable [] install a Jupyter kernel for tcobol; there is no recipe for it",
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn data_goes_to_one_writer_and_problems_to_the_other() {
        let (dir, report) = machine();
        let root = dir.path().canonicalize().expect("resolves");
        let show = |json: bool| {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            print(&report, json, &mut out, &mut err).expect("written");
            (String::from_utf8(out).expect("UTF-8"), String::from_utf8(err).expect("UTF-8"))
        };
        let (out, err) = show(false);
        let header: Vec<_> = out.lines().next().expect("a header").split_whitespace().collect();
        let columns = "LANGUAGE KERNELSPEC DISPLAY NAME SUPPORT CARRIERS FOUND IN WHY THERE NOTE HIDES";
        assert_eq!(header.join(" "), columns);
        let two: Vec<_> = out.lines().nth(1).expect("a row").split_whitespace().collect();
        let expected = format!(
            "tpy two A kernel full pipe, jupyter {root}/data/jupyter/kernels user, XDG_DATA_HOME \
             {root}/home/.ipython/kernels/two",
            root = root.display()
        );
        assert_eq!(two.join(" "), expected);
        assert_eq!(out.lines().count(), 8, "{out}");
        let broken = root.join("config/kernelbridge/kernelspecs/broken/language.toml");
        let gone = root.join("data/jupyter/kernels/gone/kernel.json");
        let expected = format!(
            "warning: {}: no such file\nwarning: {}: starts `gone`, which is not installed\n",
            broken.display(),
            gone.display()
        );
        assert_eq!(err, expected);

        let (out, err_again) = show(true);
        assert_eq!(err_again, err);
        let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(json["languages"][0]["kernelspec"]["name"], "two");
        assert_eq!(json["languages"][0]["support"], "full");
        assert_eq!(json["languages"][0]["carriers"], serde_json::json!(["pipe", "jupyter"]));
        assert_eq!(json["languages"][5]["kernelspec"], serde_json::Value::Null);
        assert_eq!(json["problems"][0]["reason"], "no such file");
        assert_eq!(json["searched"][0]["why"], "user, XDG_DATA_HOME");
    }
}
