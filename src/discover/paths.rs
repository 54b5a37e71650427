//! Where kernelspecs are searched, and in which order: jupyter_core's `jupyter_path("kernels")` and IPython's folder.
//!
//! Computes paths; whether they exist is seen by who reads them.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};

use super::{
    environment::{Environment, strip_trailing_slashes},
    origin::{DataDir, Origin},
    prefix::Prefix,
};

/// Directories of kernelspecs, the most important first; the same path may be there twice.
pub(super) fn search_dirs(environment: &Environment, prefix: Option<&Prefix>) -> Vec<(PathBuf, Origin)> {
    let mut dirs: Vec<_> = environment.extra().iter().map(|dir| (environment.absolute(dir), Origin::Extra)).collect();
    let kernels = |(dir, origin): (PathBuf, Origin)| (dir.join("kernels"), origin);
    dirs.extend(jupyter_path(environment).into_iter().map(kernels));

    let system: Vec<_> = system_dirs(environment);
    let mut user = vec![data_dir(environment)];
    if sees_user_site(environment, prefix) {
        user.push((user_base(environment).join("share/jupyter"), Origin::UserBase));
    }
    let env = prefix.map(|prefix| {
        let origin = Origin::Environment { prefix: prefix.dir.clone(), how: prefix.how.clone() };
        (prefix.dir.join("share/jupyter"), origin)
    });
    let env = env.filter(|(dir, _)| !system.contains(dir) || system.len() == 1);
    let prefers_env = environment
        .is_on("JUPYTER_PREFER_ENV_PATH")
        .unwrap_or_else(|| prefix.is_some_and(|prefix| prefix.is_preferred(environment)));
    let (first, second): (Vec<_>, Vec<_>) =
        if prefers_env { (env.into_iter().collect(), user) } else { (user, env.into_iter().collect()) };
    dirs.extend(first.into_iter().chain(second).map(kernels));
    dirs.extend(system.into_iter().map(|dir| kernels((dir, Origin::System))));
    dirs.push((ipython_dir(environment).join("kernels"), Origin::Ipython));
    dirs
}

/// An empty entry, also one after a trailing `:`, is the working directory.
fn jupyter_path(environment: &Environment) -> Vec<(PathBuf, Origin)> {
    let Some(value) = environment.non_empty("JUPYTER_PATH") else { return Vec::new() };
    let entry = |(index, entry): (usize, &[u8])| {
        let dir = environment.absolute(strip_trailing_slashes(OsStr::from_bytes(entry)));
        (dir, Origin::JupyterPath { entry: index + 1 })
    };
    value.as_bytes().split(|&byte| byte == b':').enumerate().map(entry).collect()
}

/// `jupyter_data_dir()`. `JUPYTER_NO_CONFIG` does not move it, except on Windows.
fn data_dir(environment: &Environment) -> (PathBuf, Origin) {
    if let Some(dir) = environment.non_empty("JUPYTER_DATA_DIR") {
        return (environment.absolute(dir), Origin::User { how: DataDir::Variable });
    }
    let home = Origin::User { how: DataDir::Home };
    let xdg = Origin::User { how: DataDir::Xdg };
    if uses_platform_dirs(environment) {
        return match environment.xdg_dir("XDG_DATA_HOME") {
            Some(dir) => (dir.join(APP_NAME), xdg),
            None => (environment.home().join(PLATFORM_DATA).join(APP_NAME), home),
        };
    }
    if cfg!(target_os = "macos") {
        return (environment.real_home().join("Library/Jupyter"), home);
    }
    match environment.non_empty("XDG_DATA_HOME") {
        Some(dir) => (environment.absolute(dir).join("jupyter"), xdg),
        None => (environment.real_home().join(".local/share/jupyter"), home),
    }
}

/// `jupyter_runtime_dir()`: where connection files are.
pub(super) fn runtime_dir(environment: &Environment) -> PathBuf {
    match environment.non_empty("JUPYTER_RUNTIME_DIR") {
        Some(dir) => environment.absolute(dir),
        None => data_dir(environment).0.join("runtime"),
    }
}

fn system_dirs(environment: &Environment) -> Vec<PathBuf> {
    let defaults = || vec![PathBuf::from("/usr/local/share/jupyter"), PathBuf::from("/usr/share/jupyter")];
    if !uses_platform_dirs(environment) {
        return defaults();
    }
    let listed = environment.var("XDG_DATA_DIRS").into_iter().flat_map(std::env::split_paths);
    let listed: Vec<_> = listed.filter(|dir| dir.is_absolute()).map(|dir| dir.join(APP_NAME)).collect();
    match listed.is_empty() {
        false => listed,
        true if cfg!(target_os = "macos") => vec![PathBuf::from("/Library/Application Support/Jupyter")],
        true => defaults(),
    }
}

fn uses_platform_dirs(environment: &Environment) -> bool {
    environment.is_on("JUPYTER_PLATFORM_DIRS").unwrap_or(false)
}

const APP_NAME: &str = if cfg!(target_os = "macos") { "Jupyter" } else { "jupyter" };
const PLATFORM_DATA: &str = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" };

/// Python's `site.ENABLE_USER_SITE`.
pub(super) fn sees_user_site(environment: &Environment, prefix: Option<&Prefix>) -> bool {
    environment.non_empty("PYTHONNOUSERSITE").is_none()
        && !environment.is_set_uid()
        && prefix.is_none_or(Prefix::sees_user_site)
}

/// Python's `site.getuserbase()`.
pub(super) fn user_base(environment: &Environment) -> PathBuf {
    match environment.non_empty("PYTHONUSERBASE") {
        Some(dir) => environment.absolute(dir),
        None => environment.home().join(".local"),
    }
}

/// IPython's `get_ipython_dir()`, without making it.
fn ipython_dir(environment: &Environment) -> PathBuf {
    if let Some(dir) = environment.var("IPYTHONDIR") {
        return match dir.as_bytes() {
            b"~" => environment.home(),
            [b'~', b'/', rest @ ..] => environment.home().join(OsStr::from_bytes(rest)),
            _ => environment.absolute(dir),
        };
    }
    let home = environment.real_home();
    let usual = home.join(".ipython");
    let config = environment.non_empty("XDG_CONFIG_HOME").map_or(home.join(".config"), |dir| environment.absolute(dir));
    let early = config.join("ipython");
    // IPython 1 lived under the configuration folder; it still does if it was never moved.
    let is_early = is_writable_dir(&config) && is_writable_dir(&early) && !usual.exists() && !early.is_symlink();
    if is_early { early } else { usual }
}

fn is_writable_dir(dir: &Path) -> bool {
    dir.is_dir() && access(dir, AccessFlags::W_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{super::prefix::PrefixSource, *};

    fn check(vars: &[(&str, &str)], prefix: Option<&str>, expected: &[&str]) {
        let environment = Environment::new(vars.iter().copied(), "/cwd");
        let prefix = prefix.map(|dir| Prefix {
            dir: PathBuf::from(dir),
            how: PrefixSource::VirtualEnv,
            python: None,
            venv: None,
        });
        let dirs = search_dirs(&environment, prefix.as_ref());
        let dirs: Vec<_> = dirs.iter().map(|(dir, origin)| format!("{} ({})", dir.display(), origin.kind())).collect();
        assert_eq!(dirs, expected, "{vars:?}");
    }

    const SYSTEM: [&str; 2] = ["/usr/local/share/jupyter/kernels (system)", "/usr/share/jupyter/kernels (system)"];
    const IPYTHON: &str = "/h/.ipython/kernels (ipython)";

    #[test]
    #[cfg(not(target_os = "macos"))]
    fn users_come_before_environments_unless_they_say_otherwise() {
        let user = "/h/.local/share/jupyter/kernels (user)";
        let base = "/h/.local/share/jupyter/kernels (user-base)";
        let env = "/env/share/jupyter/kernels (environment)";
        check(&[("HOME", "/h")], None, &[user, base, SYSTEM[0], SYSTEM[1], IPYTHON]);
        check(&[("HOME", "/h")], Some("/env"), &[user, base, env, SYSTEM[0], SYSTEM[1], IPYTHON]);
        check(
            &[("HOME", "/h"), ("JUPYTER_PREFER_ENV_PATH", "")],
            Some("/env"),
            &[env, user, base, SYSTEM[0], SYSTEM[1], IPYTHON],
        );
        check(&[("HOME", "/h"), ("PYTHONNOUSERSITE", "1")], Some("/env"), &[user, env, SYSTEM[0], SYSTEM[1], IPYTHON]);
        check(&[("HOME", "/h")], Some("/usr"), &[user, base, SYSTEM[0], SYSTEM[1], IPYTHON]);
    }

    #[test]
    #[cfg(not(target_os = "macos"))]
    fn variables_move_the_folders() {
        let home = ("HOME", "/h");
        check(
            &[home, ("JUPYTER_PATH", "/a//:b::/"), ("JUPYTER_DATA_DIR", "/d"), ("PYTHONUSERBASE", "/u")],
            None,
            &[
                "/a/kernels (jupyter-path)",
                "/cwd/b/kernels (jupyter-path)",
                "/cwd/kernels (jupyter-path)",
                "/cwd/kernels (jupyter-path)",
                "/d/kernels (user)",
                "/u/share/jupyter/kernels (user-base)",
                SYSTEM[0],
                SYSTEM[1],
                IPYTHON,
            ],
        );
        check(
            &[home, ("JUPYTER_PLATFORM_DIRS", "1"), ("XDG_DATA_DIRS", "/x:rel:/y"), ("XDG_DATA_HOME", "rel")],
            None,
            &[
                "/h/.local/share/jupyter/kernels (user)",
                "/h/.local/share/jupyter/kernels (user-base)",
                "/x/jupyter/kernels (system)",
                "/y/jupyter/kernels (system)",
                IPYTHON,
            ],
        );
    }

    #[test]
    fn ipython_may_be_elsewhere() {
        let check = |dir: &str, expected: &str| {
            let environment = Environment::new([("HOME", "/h"), ("IPYTHONDIR", dir)], "/cwd");
            assert_eq!(ipython_dir(&environment), Path::new(expected));
        };
        check("/i", "/i");
        check("~/i", "/h/i");
        check("~", "/h");
        check("i", "/cwd/i");
    }
}
