//! What discovery asks of its surroundings: variables, working directory, user.
//!
//! Captured once and handed in, so that nothing else in `discover` reads the environment of the process and a test can
//! make up its own.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Component, Path, PathBuf},
};

use nix::unistd::{AccessFlags, Uid, User, access, geteuid, getuid};

/// Variables, working directory and user, as one process would see them.
#[derive(Debug, Clone)]
pub struct Environment {
    vars: BTreeMap<OsString, OsString>,
    cwd: PathBuf,
    extra: Vec<PathBuf>,
    passwd_home: Option<PathBuf>,
    user: u32,
    is_set_uid: bool,
}

impl Environment {
    /// The environment of this process.
    pub fn capture() -> Self {
        // An unreadable working directory matters only for relative entries of `JUPYTER_PATH`.
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        Self::new(std::env::vars_os(), cwd)
    }

    /// An environment of these variables, for the user of this process.
    pub fn new<K, V>(vars: impl IntoIterator<Item = (K, V)>, cwd: impl Into<PathBuf>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        Self {
            vars: vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            cwd: cwd.into(),
            extra: Vec::new(),
            passwd_home: User::from_uid(getuid()).ok().flatten().map(|user| user.dir),
            user: login_uid().unwrap_or_else(|| geteuid().as_raw()),
            is_set_uid: geteuid() != getuid(),
        }
    }

    /// Search this directory of kernelspecs too, before all others.
    #[must_use]
    pub fn with_kernels_in(mut self, dir: impl Into<PathBuf>) -> Self {
        self.extra.push(dir.into());
        self
    }

    /// A variable, as `os.environ.get` would give it.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.vars.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// A variable that is set and not empty.
    pub fn non_empty(&self, name: &str) -> Option<&OsStr> {
        self.var(name).filter(|value| !value.is_empty())
    }

    /// All variables.
    pub fn vars(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.vars.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Directories given to [`Environment::with_kernels_in`].
    pub(super) fn extra(&self) -> &[PathBuf] {
        &self.extra
    }

    /// A truth value by jupyter_core's rule: anything but these words is true, the empty string too.
    pub(super) fn is_on(&self, name: &str) -> Option<bool> {
        let value = self.var(name)?.to_string_lossy().to_lowercase();
        Some(!["no", "n", "false", "off", "0", "0.0"].contains(&value.as_str()))
    }

    /// The home directory as Python's `expanduser("~")` gives it.
    pub fn home(&self) -> PathBuf {
        let home = match self.var("HOME") {
            Some(home) => Some(strip_trailing_slashes(home)).filter(|home| !home.as_os_str().is_empty()),
            None => self.passwd_home.clone(),
        };
        self.absolute(home.unwrap_or_else(|| PathBuf::from("/")))
    }

    /// The home directory with symbolic links resolved, which is where jupyter_core looks.
    pub(super) fn real_home(&self) -> PathBuf {
        resolve(&self.home())
    }

    /// Where the XDG specification puts this user's configuration.
    pub fn config_home(&self) -> PathBuf {
        self.xdg_dir("XDG_CONFIG_HOME").unwrap_or_else(|| self.home().join(".config"))
    }

    /// A variable of the XDG specification; relative paths are invalid there.
    pub(super) fn xdg_dir(&self, name: &str) -> Option<PathBuf> {
        self.var(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// `path` seen from the working directory.
    pub(super) fn absolute(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        if path.as_os_str().is_empty() { self.cwd.clone() } else { self.cwd.join(path) }
    }

    /// The file that runs when `program` is launched; a name without `/` is looked up on PATH.
    pub fn which(&self, program: impl AsRef<OsStr>) -> Option<PathBuf> {
        let program = program.as_ref();
        if program.as_bytes().contains(&b'/') {
            return Some(self.absolute(program)).filter(|path| is_executable(path));
        }
        let path = self.var("PATH").unwrap_or(OsStr::new("/bin:/usr/bin"));
        std::env::split_paths(path).map(|dir| self.absolute(dir).join(program)).find(|path| is_executable(path))
    }

    /// Does the user own `path`? jupyter_core asks before it trusts an environment more than the user's own folder.
    pub(super) fn owns(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|metadata| metadata.uid() == self.user)
    }

    /// Python ignores the user's packages in a set-uid program.
    pub(super) fn is_set_uid(&self) -> bool {
        self.is_set_uid
    }
}

/// The user who logged in, where that is known: `os.getlogin()` reads the same file, and so differs from the effective
/// user under sudo.
fn login_uid() -> Option<u32> {
    let uid = std::fs::read_to_string("/proc/self/loginuid").ok()?.trim().parse().ok()?;
    (uid != u32::MAX && User::from_uid(Uid::from_raw(uid)).ok().flatten().is_some()).then_some(uid)
}

/// Is this a file that may be executed?
pub(super) fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

/// `path` without slashes at its end; `/` becomes empty, as with Python's `rstrip`.
pub(super) fn strip_trailing_slashes(path: &OsStr) -> PathBuf {
    let bytes = path.as_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    PathBuf::from(OsStr::from_bytes(&bytes[..end]))
}

/// Symbolic links resolved as far as the path exists; the rest is kept.
pub(super) fn resolve(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.components().next_back()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(Component::Normal(name))) => resolve(parent).join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(vars: &[(&str, &str)]) -> Environment {
        Environment::new(vars.iter().copied(), "/cwd")
    }

    #[test]
    fn home_is_that_of_expanduser() {
        let check = |home: &str, expected: &str| assert_eq!(environment(&[("HOME", home)]).home(), Path::new(expected));
        check("/home/me", "/home/me");
        check("/home/me//", "/home/me");
        check("/", "/");
        check("", "/");
        check("me", "/cwd/me");
        assert!(environment(&[]).home().is_absolute());
    }

    #[test]
    fn truth_is_jupyter_cores() {
        let check = |value: &str, expected: bool| {
            assert_eq!(environment(&[("X", value)]).is_on("X"), Some(expected), "{value:?}");
        };
        for value in ["1", "", "yes", " 0", "maybe"] {
            check(value, true);
        }
        for value in ["0", "No", "FALSE", "off", "n", "0.0"] {
            check(value, false);
        }
        assert_eq!(environment(&[]).is_on("X"), None);
    }

    #[test]
    fn programs_are_found_on_the_path_given_not_on_ours() {
        assert_eq!(environment(&[("PATH", "/nowhere:/bin")]).which("sh"), Some(PathBuf::from("/bin/sh")));
        assert_eq!(environment(&[("PATH", "/nowhere")]).which("sh"), None);
        assert_eq!(environment(&[("PATH", "/nowhere")]).which("/bin/sh"), Some(PathBuf::from("/bin/sh")));
        assert_eq!(environment(&[]).which("/etc/passwd"), None);
    }

    #[test]
    fn paths_resolve_as_far_as_they_exist() {
        let dir = tempfile::tempdir().expect("a folder");
        let real = dir.path().canonicalize().expect("resolves");
        std::os::unix::fs::symlink(&real, real.join("link")).expect("a link");
        assert_eq!(resolve(&real.join("link/a/b")), real.join("a/b"));
    }
}
