//! `kernelbridge kernels`: kernels that run, whoever started them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::{
    channels::is_listening,
    cli::{Ending, args::KernelsArgs},
    connection::ConnectionInfo,
    discover::{Environment, discover, runtime_dir},
    provision::Folder,
};

/// How a kernel is doing, as far as it shows from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It listens.
    Alive,
    /// Its process is there, and does not listen yet.
    Starting,
    /// There is a file, and nothing else.
    Stale,
}

/// A kernel that runs, or did.
#[derive(Debug, Serialize)]
struct Row {
    /// The kernelspec's name, if the file has it.
    kernelspec: String,
    state: State,
    /// As its kernelspec says, if that is found here.
    language: Option<String>,
    /// The notebook that Jupyter has started it for.
    notebook: Option<String>,
    /// Since its file was written.
    age_seconds: u64,
    /// The process that was started with the file, if there is one.
    process_id: Option<u32>,
    /// Is it ours, and what for?
    ours: Option<&'static str>,
    connection_file: PathBuf,
}

/// List kernels.
pub fn kernels(args: &KernelsArgs) -> anyhow::Result<Ending> {
    let environment = Environment::capture();
    let dir = runtime_dir(&environment);
    let (mut rows, problems) = rows(files(&dir));
    let discovery = discover(&environment);
    for row in &mut rows {
        row.language = discovery.find(&row.kernelspec).ok().map(|found| found.kernelspec.language.clone());
    }
    // Those that live first, the youngest first.
    rows.sort_by_key(|row| (row.state, row.age_seconds));
    for problem in problems {
        eprintln!("warning: {problem}");
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else if rows.is_empty() {
        eprintln!("no kernel runs; Jupyter's would be in {}", dir.display());
    } else {
        println!("{}", table(&rows));
    }
    Ok(Ending::Done)
}

/// Connection files of Jupyter and of plugins, and whether they are those of plugins.
pub fn files(jupyter: &Path) -> Vec<(PathBuf, bool)> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let of_jupyter = entries(jupyter).filter(|path| name(path).starts_with("kernel-") && name(path).ends_with(".json"));
    let private = entries(&Folder::base()).filter(|path| name(path).starts_with(Folder::PREFIX));
    let of_plugins = private.map(|dir| dir.join("connection.json")).filter(|path| path.is_file());
    of_jupyter.map(|path| (path, false)).chain(of_plugins.map(|path| (path, true))).collect()
}

fn rows(files: Vec<(PathBuf, bool)>) -> (Vec<Row>, Vec<String>) {
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    for (path, is_plugins) in files {
        match row(&path, is_plugins) {
            Ok(row) => rows.push(row),
            Err(reason) => problems.push(format!("{}: {reason}", path.display())),
        }
    }
    (rows, problems)
}

fn row(path: &Path, is_plugins: bool) -> Result<Row, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let connection: ConnectionInfo =
        serde_json::from_slice(&text).map_err(|error| format!("no connection file: {error}"))?;
    let written = fs::metadata(path).and_then(|metadata| metadata.modified()).map_err(|error| error.to_string())?;
    let process = process_of(path);
    let is_notebook = connection.kernel_name.starts_with("kernelbridge")
        || process.as_ref().is_some_and(|(_, program)| program.starts_with("kernelbridge"));
    let ours = match (is_plugins, is_notebook) {
        (true, _) => Some("plugin"),
        (false, true) => Some("notebook"),
        _ => None,
    };
    let listens = is_listening(&connection).map_err(|error| format!("nobody knows who listens: {error}"))?;
    let state = match (listens, &process) {
        (true, _) => State::Alive,
        (false, Some(_)) => State::Starting,
        (false, None) => State::Stale,
    };
    Ok(Row {
        state,
        kernelspec: connection.kernel_name,
        language: None,
        notebook: process.as_ref().and_then(|(id, _)| notebook_of(*id)),
        age_seconds: SystemTime::now().duration_since(written).unwrap_or_default().as_secs(),
        process_id: process.map(|(id, _)| id),
        ours,
        connection_file: path.to_owned(),
    })
}

/// As Jupyter's server tells the kernels that it starts.
fn notebook_of(id: u32) -> Option<String> {
    let environment = fs::read(format!("/proc/{id}/environ")).ok()?;
    let mut variables = environment.split(|&byte| byte == 0);
    let session = variables.find_map(|variable| variable.strip_prefix(b"JPY_SESSION_NAME="))?;
    Some(String::from_utf8_lossy(session).into_owned()).filter(|path| !path.is_empty())
}

/// The first process with this file among its arguments, and its program's name.
pub fn process_of(file: &Path) -> Option<(u32, String)> {
    let wanted = file.to_string_lossy();
    let mut ids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    ids.sort_unstable();
    ids.into_iter().find_map(|id| {
        let line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0');
        let program = words.next()?.rsplit('/').next()?.to_owned();
        // As an argument of its own, or behind `--connection-file=`.
        words.any(|word| word == wanted || word.ends_with(&format!("={wanted}"))).then_some((id, program))
    })
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["KERNELSPEC", "LANGUAGE", "STATE", "AGE", "PROCESS", "OURS", "NOTEBOOK", "CONNECTION FILE"]);
    for row in rows {
        table.add_row([
            if row.kernelspec.is_empty() { "?".to_owned() } else { row.kernelspec.clone() },
            row.language.clone().unwrap_or_default(),
            match row.state {
                State::Alive => "alive".to_owned(),
                State::Starting => "starting".to_owned(),
                State::Stale => "stale".to_owned(),
            },
            age(Duration::from_secs(row.age_seconds)),
            row.process_id.map(|id| id.to_string()).unwrap_or_default(),
            row.ours.unwrap_or_default().to_owned(),
            row.notebook.clone().unwrap_or_default(),
            row.connection_file.display().to_string(),
        ]);
    }
    table
}

/// In the unit that says enough.
fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let shown = |seconds| age(Duration::from_secs(seconds));
        assert_eq!(["59 s", "3 min", "2 h", "3 d"], [shown(59), shown(200), shown(7_200), shown(300_000)].each_ref());
    }
}
