//! The kernel without a `kernel.json`: jupyter_client starts the package ipykernel as `python3` when no kernelspec is
//! called so (Debian's and `pip install --user` installations of ipykernel rely on it).
//!
//! The package is looked for where Python would look; nothing is imported.

use std::path::{Path, PathBuf};

use super::{Found, Origin, environment::Environment, paths, prefix::Prefix};
use crate::kernelspec::{InterruptMode, Kernelspec, NATIVE_NAME};

/// The native kernel of the environment, if its Python has ipykernel.
pub(super) fn find(environment: &Environment, prefix: Option<&Prefix>) -> Option<Found> {
    let prefix = prefix?;
    let python = prefix.python.as_ref()?;
    let package = search_path(environment, prefix, python)
        .into_iter()
        .map(|dir| dir.join("ipykernel"))
        .find(|package| package.join("kernelspec.py").is_file())?;
    let dir = package.join("resources");
    let program = python.to_string_lossy();
    let argv = [program.as_ref(), "-m", "ipykernel_launcher", "-f", "{connection_file}"];
    let kernelspec = Kernelspec {
        name: NATIVE_NAME.to_owned(),
        argv: argv.map(str::to_owned).to_vec(),
        env: Default::default(),
        display_name: "Python 3 (ipykernel)".to_owned(),
        language: "python".to_owned(),
        interrupt_mode: InterruptMode::Signal,
        metadata: Default::default(),
        kernel_protocol_version: None,
        resource_dir: dir.clone(),
    };
    Some(Found {
        kernelspec,
        origin: Origin::Package { prefix: prefix.dir.clone() },
        dir,
        prefix: Some(prefix.dir.clone()),
        python: Some(python.clone()),
        missing_program: None,
    })
}

/// `sys.path` as far as packages are concerned: `PYTHONPATH`, then what the module `site` adds, in its order.
fn search_path(environment: &Environment, prefix: &Prefix, python: &Path) -> Vec<PathBuf> {
    let mut dirs: Vec<_> = environment
        .non_empty("PYTHONPATH")
        .into_iter()
        .flat_map(std::env::split_paths)
        .map(|dir| environment.absolute(dir))
        .collect();
    let Some(version) = version_of(python) else { return dirs };
    let site = |dir: &Path| dir.join("lib").join(&version).join("site-packages");
    if prefix.venv.is_some() {
        dirs.push(site(&prefix.dir));
    }
    if paths::sees_user_site(environment, Some(prefix)) {
        dirs.push(site(&paths::user_base(environment)));
    }
    let base = match &prefix.venv {
        None => Some(prefix.dir.as_path()),
        Some(venv) if venv.system_site => venv.home.as_deref().and_then(Path::parent),
        Some(_) => None,
    };
    if let Some(base) = base {
        dirs.push(site(base));
        // Debian's Python keeps its own packages apart from those pip brings.
        if base == Path::new("/usr") {
            dirs.push(Path::new("/usr/local/lib").join(&version).join("dist-packages"));
            dirs.push(PathBuf::from("/usr/lib/python3/dist-packages"));
        }
    }
    dirs
}

/// The `python3.11` in the names of an interpreter's folders: the real file is called so nearly everywhere; else the
/// folder beside it tells.
fn version_of(python: &Path) -> Option<String> {
    let is_version = |name: &str| {
        let minor = name.strip_prefix("python3.").unwrap_or_default();
        !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit())
    };
    let real = python.canonicalize().ok()?;
    if let Some(name) = real.file_name()?.to_str().filter(|name| is_version(name)) {
        return Some(name.to_owned());
    }
    let lib = real.parent()?.parent()?.join("lib");
    let names = std::fs::read_dir(lib).ok()?.flatten().filter(|entry| entry.path().join("os.py").is_file());
    names.filter_map(|entry| entry.file_name().into_string().ok()).find(|name| is_version(name))
}
