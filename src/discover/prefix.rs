//! The Python environment a Jupyter client would run in: what `sys.prefix` is to jupyter_core.
//!
//! A host has no interpreter of its own, so it takes the activated environment, else that of `python3` on PATH.
//! Nothing is run, with one exception: when `python3` is a script (a shim of pyenv or asdf), only it knows where it
//! leads, and it is asked. Where that is plain, as with most shims of pyenv, it is not: their many lines of Bash take a
//! tenth of a second, which would be most of what a host needs to start.

use std::{
    ffi::OsStr,
    fmt,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Problem,
    environment::{Environment, is_executable},
};

/// A Python environment and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// Its folder, `sys.prefix`.
    pub dir: PathBuf,
    /// How it was found.
    pub how: PrefixSource,
    /// Its interpreter, `sys.executable`; conda environments may have none.
    pub python: Option<PathBuf>,
    pub(super) venv: Option<Venv>,
}

/// How a [`Prefix`] was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrefixSource {
    /// The variable `VIRTUAL_ENV`.
    VirtualEnv,
    /// The variable `CONDA_PREFIX`.
    Conda,
    /// `python3` on PATH, this file.
    PythonOnPath(PathBuf),
}

impl fmt::Display for PrefixSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VirtualEnv => write!(f, "VIRTUAL_ENV"),
            Self::Conda => write!(f, "CONDA_PREFIX"),
            Self::PythonOnPath(python) => write!(f, "{} on PATH", python.display()),
        }
    }
}

/// What matters of a `pyvenv.cfg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Venv {
    /// Folder of the interpreter it was made from.
    pub home: Option<PathBuf>,
    /// Are the packages of that interpreter, and of the user, visible?
    pub system_site: bool,
}

impl Prefix {
    /// The environment to search: the activated one, else that of `python3` (or `python`) on PATH.
    pub fn find(environment: &Environment, problems: &mut Vec<Problem>) -> Option<Self> {
        let activated = [("VIRTUAL_ENV", PrefixSource::VirtualEnv), ("CONDA_PREFIX", PrefixSource::Conda)];
        for (variable, how) in activated {
            let Some(dir) = environment.non_empty(variable).map(|dir| environment.absolute(dir)) else { continue };
            if dir.is_dir() {
                return Some(Self { python: python_in(&dir), venv: Venv::read(&dir), dir, how });
            }
            problems.push(Problem::new(dir, format!("`{variable}` names a folder that does not exist")));
        }
        let python = ["python3", "python"].iter().find_map(|name| environment.which(name))?;
        match Self::of(&python, environment) {
            Ok(prefix) => Some(prefix),
            Err(reason) => {
                problems.push(Problem::new(python, reason));
                None
            }
        }
    }

    /// The environment of the interpreter `python`.
    fn of(python: &Path, environment: &Environment) -> Result<Self, String> {
        let how = PrefixSource::PythonOnPath(python.to_owned());
        let real = python.canonicalize().map_err(|error| format!("cannot be resolved: {error}"))?;
        if is_script(&real) {
            if let Some(python) = pyenv(&real, environment)
                && let Ok(prefix) = Self::of(&python, environment)
            {
                return Ok(Self { how, ..prefix });
            }
            let (dir, python) = ask(python, environment)?;
            return Ok(Self { venv: Venv::read(&dir), python: Some(python), dir, how });
        }
        // A virtual environment is recognised by where the link is, everything else by where it leads.
        if let Some(dir) = python.parent().and_then(Path::parent)
            && let Some(venv) = Venv::read(dir)
        {
            return Ok(Self { dir: dir.to_owned(), python: Some(python.to_owned()), venv: Some(venv), how });
        }
        let dir = match environment.non_empty("PYTHONHOME") {
            Some(home) => std::env::split_paths(home).next().map(|home| environment.absolute(home)),
            None => real
                .ancestors()
                .skip(1)
                .find(|dir| has_standard_library(dir))
                .or_else(|| real.parent()?.parent())
                .map(Path::to_owned),
        };
        let dir = dir.ok_or("no folder above it holds Python's standard library")?;
        Ok(Self { dir, python: Some(python.to_owned()), venv: None, how })
    }

    /// Does Python look for packages in the user's own folder here (`site.ENABLE_USER_SITE`)?
    pub(super) fn sees_user_site(&self) -> bool {
        self.venv.as_ref().is_none_or(|venv| venv.system_site)
    }

    /// jupyter_core's `prefer_environment_over_user` without the variable that overrides it.
    pub(super) fn is_preferred(&self, environment: &Environment) -> bool {
        let is_conda = || {
            environment.var("CONDA_PREFIX").is_some_and(|conda| {
                self.dir.as_os_str().as_bytes().starts_with(conda.as_bytes())
                    && environment.var("CONDA_DEFAULT_ENV").is_some_and(|name| name != OsStr::new("base"))
            })
        };
        (self.venv.is_some() || is_conda()) && environment.owns(&self.dir)
    }
}

impl Venv {
    /// Read `pyvenv.cfg` as Python's `site` module does.
    fn read(dir: &Path) -> Option<Self> {
        let text = std::fs::read(dir.join("pyvenv.cfg")).ok()?;
        let mut venv = Self { home: None, system_site: true };
        for (key, value) in String::from_utf8_lossy(&text).lines().filter_map(|line| line.split_once('=')) {
            match key.trim().to_lowercase().as_str() {
                "home" => venv.home = Some(PathBuf::from(value.trim())),
                "include-system-site-packages" => venv.system_site = value.trim().to_lowercase() == "true",
                _ => {}
            }
        }
        Some(venv)
    }
}

/// The interpreter in the environment `dir`.
pub(super) fn python_in(dir: &Path) -> Option<PathBuf> {
    ["bin/python3", "bin/python"].iter().map(|name| dir.join(name)).find(|python| is_executable(python))
}

fn is_script(file: &Path) -> bool {
    let mut start = [0; 2];
    std::fs::File::open(file).is_ok_and(|mut file| file.read_exact(&mut start).is_ok()) && start == *b"#!"
}

/// The interpreter that a shim of pyenv starts, if it is one and names versions that are there; pyenv itself also knows
/// abbreviations, and `system`.
fn pyenv(shim: &Path, environment: &Environment) -> Option<PathBuf> {
    let text = std::fs::read_to_string(shim).ok()?;
    let root = text.lines().find_map(|line| line.strip_prefix("export PYENV_ROOT=\"")?.strip_suffix('"'))?;
    let root = Path::new(root);
    if !text.contains("/pyenv\" exec") || !root.is_absolute() || shim.parent() != Some(&root.join("shims")) {
        return None;
    }
    let read = |file: PathBuf| std::fs::read_to_string(file).ok();
    let dir =
        environment.non_empty("PYENV_DIR").map_or_else(|| environment.absolute(""), |dir| environment.absolute(dir));
    let named = match environment.non_empty("PYENV_VERSION") {
        Some(named) => named.to_str()?.replace(':', "\n"),
        None => {
            dir.ancestors().find_map(|dir| read(dir.join(".python-version"))).or_else(|| read(root.join("version")))?
        }
    };
    let program = shim.file_name()?;
    for version in named.lines().flat_map(|line| line.split('#').next()).flat_map(str::split_whitespace) {
        let home = root.join("versions").join(version);
        if version.contains("..") || !home.is_dir() {
            return None;
        }
        let python = home.join("bin").join(program);
        if is_executable(&python) {
            return Some(python);
        }
    }
    None
}

fn has_standard_library(dir: &Path) -> bool {
    ["lib", "lib64"].iter().any(|lib| {
        std::fs::read_dir(dir.join(lib))
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.file_name().as_bytes().starts_with(b"python3.") && entry.path().join("os.py").is_file())
    })
}

/// How long a shim may take to say where it leads; pyenv's needs 0.1 s on an idle machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ask a script that passes for `python3` for `sys.prefix` and `sys.executable`.
fn ask(python: &Path, environment: &Environment) -> Result<(PathBuf, PathBuf), String> {
    let mut child = Command::new(python)
        .args(["-I", "-c", "import sys; sys.stdout.write(sys.prefix + '\\0' + sys.executable)"])
        .env_clear()
        .envs(environment.vars())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot be run: {error}"))?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                // Both may fail only because it has ended meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("did not say within {PATIENCE:?} which Python it starts"));
            }
        }
    };
    let mut answer = Vec::new();
    if let Some(stdout) = &mut child.stdout {
        stdout.read_to_end(&mut answer).map_err(|error| format!("cannot be read from: {error}"))?;
    }
    let mut paths = answer.split(|&byte| byte == 0).map(|path| PathBuf::from(OsStr::from_bytes(path)));
    match (status.success(), paths.next(), paths.next()) {
        (true, Some(prefix), Some(python)) if prefix.is_absolute() => Ok((prefix, python)),
        _ => Err(format!("is a script that starts no Python ({status})")),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_shim_of_pyenv_is_not_run_where_it_is_plain_where_it_leads() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().canonicalize().expect("there");
        let make = |file: &str, text: &str| {
            let path = root.join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
            path
        };
        let line =
            format!("export PYENV_ROOT=\"{}\"\nexec \"{0}/libexec/pyenv\" exec \"$program\" \"$@\"\n", root.display());
        let shim = make("shims/python3", &format!("#!/usr/bin/env bash\n{line}"));
        let python = |version: &str| make(&format!("versions/{version}/bin/python3"), "");
        let (old, new) = (python("3.11.7"), python("3.12.1"));
        let project = root.join("project/below");
        fs::create_dir_all(&project).expect("a folder");
        let led = |vars: &[(&str, &str)], cwd: &Path| pyenv(&shim, &Environment::new(vars.iter().copied(), cwd));

        assert_eq!(led(&[], &project), None, "no version is named: pyenv takes that of the system");
        fs::write(root.join("version"), "# what I use\n3.11.7\n").expect("written");
        assert_eq!(led(&[], &project), Some(old.clone()));
        fs::write(root.join("project/.python-version"), "3.12.1\n3.11.7\n").expect("written");
        assert_eq!(led(&[], &project), Some(new.clone()));
        assert_eq!(led(&[("PYENV_VERSION", "3.11.7:3.12.1")], &project), Some(old.clone()));
        assert_eq!(led(&[("PYENV_DIR", "/")], &project), Some(old));
        for unclear in ["system", "3.12", "3.13.0", "../versions/3.12.1"] {
            assert_eq!(led(&[("PYENV_VERSION", unclear)], &project), None, "{unclear}");
        }
        let other = make("elsewhere/python3", &format!("#!/usr/bin/env bash\n{line}"));
        assert_eq!(pyenv(&other, &Environment::new([("PYENV_VERSION", "3.12.1")], &project)), None);
    }
}
