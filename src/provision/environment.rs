//! The environment of a kernel: what it needs of ours, and nothing else.
//!
//! Credentials live in environments, and a plugin is somebody else's code. So a variable is passed on only if it is
//! known to say where things are or how an interpreter is to behave; whatever else a plugin needs is named in its
//! manifest, by somebody who reads it.

use std::ffi::{OsStr, OsString};

/// Names of variables that are passed on.
const NAMES: &[&str] = &[
    // Who and where.
    "HOME LOGNAME PATH SHELL TEMP TERM TMP TMPDIR TZ TZDIR USER",
    // How to speak.
    "COLORTERM LANG LANGUAGE LOCALE_ARCHIVE LOCPATH NO_COLOR",
    // Where the programs of an environment find their own.
    "CONDA_DEFAULT_ENV CONDA_PREFIX LD_LIBRARY_PATH NIX_LD NIX_LD_LIBRARY_PATH VIRTUAL_ENV",
    // Version managers: `python3`, `node` and `ruby` on PATH may be theirs.
    "ASDF_DATA_DIR ASDF_DIR NVM_DIR PYENV_ROOT PYENV_VERSION RBENV_ROOT RBENV_VERSION VOLTA_HOME",
    // Of interpreters; no prefixes here, because of JUPYTER_TOKEN, NODE_AUTH_TOKEN and the like.
    "DENO_DIR DENO_NO_UPDATE_CHECK MPLBACKEND MPLCONFIGDIR NODE_ENV NODE_OPTIONS NODE_PATH PERL5LIB SWI_HOME_DIR",
    "CARGO_HOME CLASSPATH DOTNET_ROOT GEM_HOME GEM_PATH GOCACHE GOPATH GOROOT JAVA_HOME RUBYLIB RUBYOPT RUSTUP_HOME",
    "IPYTHONDIR JUPYTER_CONFIG_DIR JUPYTER_CONFIG_PATH JUPYTER_DATA_DIR JUPYTER_PATH JUPYTER_PLATFORM_DIRS",
    "JUPYTER_RUNTIME_DIR LUA_INIT",
    // Whom to trust: paths of public certificates.
    "CURL_CA_BUNDLE DENO_CERT DENO_TLS_CA_STORE NIX_SSL_CERT_FILE NODE_EXTRA_CA_CERTS REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR SSL_CERT_FILE",
    // The way out; see `is_open`.
    "ALL_PROXY HTTPS_PROXY HTTP_PROXY NO_PROXY all_proxy http_proxy https_proxy no_proxy",
    // Which processors to use.
    "CUDA_HOME CUDA_PATH CUDA_VISIBLE_DEVICES",
];

/// Beginnings of names that are passed on, unless they smell of a credential. By the last one tests find processes.
const PREFIXES: &[&str] = &[
    "FONTCONFIG_ JULIA_ LC_ LUA_CPATH LUA_PATH OCTAVE_ PYTHON R_ XDG_",
    "MALLOC_ MKL_ NUMEXPR_ OMP_ OPENBLAS_",
    "KERNELBRIDGE_TEST_",
];

/// Parts of names that smell.
const SMELLS: [&str; 9] =
    ["TOKEN", "SECRET", "PASSW", "CREDENTIAL", "AUTH", "APIKEY", "API_KEY", "ACCESS_KEY", "PRIVATE"];

/// Those of our variables that a kernel gets; `named` are passed whatever they are called.
pub(super) fn kept(
    ours: impl IntoIterator<Item = (OsString, OsString)>,
    named: &[String],
) -> impl Iterator<Item = (OsString, OsString)> {
    ours.into_iter().filter(|(name, value)| {
        // A name that is no UTF-8 is none of these.
        name.to_str()
            .is_some_and(|name| named.iter().any(|other| other == name) || is_allowed(name) && is_open(name, value))
    })
}

fn is_allowed(name: &str) -> bool {
    // Jupyter removes it too: under it, a virtual environment's python takes itself for another.
    if name == "PYTHONEXECUTABLE" {
        return false;
    }
    let smells = || SMELLS.iter().any(|smell| name.to_ascii_uppercase().contains(smell));
    words(NAMES).any(|known| known == name) || words(PREFIXES).any(|prefix| name.starts_with(prefix)) && !smells()
}

fn words(lines: &'static [&str]) -> impl Iterator<Item = &'static str> {
    lines.iter().flat_map(|line| line.split(' '))
}

/// A proxy's address may hold a password.
fn is_open(name: &str, value: &OsStr) -> bool {
    !name.to_ascii_lowercase().ends_with("_proxy") || !value.as_encoded_bytes().contains(&b'@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str, named: &[&str], passes: bool) {
        let named: Vec<_> = named.iter().map(|&name| name.to_owned()).collect();
        let kept: Vec<_> = kept([(name.into(), value.into())], &named).collect();
        assert_eq!(!kept.is_empty(), passes, "{name}={value}");
    }

    #[test]
    fn what_an_interpreter_needs_is_passed_on() {
        for name in ["PATH", "HOME", "LC_ALL", "XDG_RUNTIME_DIR", "R_LIBS_USER", "PYTHONPATH", "JULIA_DEPOT_PATH"] {
            check(name, "x", &[], true);
        }
    }

    #[test]
    fn what_it_does_not_need_is_not() {
        let ours = ["KERNELBRIDGE_HOST", "KERNELBRIDGE_DIR", "KERNELBRIDGE_LOG", "KERNELBRIDGE_DATA", "path", ""];
        let others = ["BASH_ENV", "DISPLAY", "EDITOR", "LD_PRELOAD", "MAIL", "OLDPWD", "PS1", "PYTHONEXECUTABLE"];
        for name in ours.into_iter().chain(others) {
            check(name, "x", &[], false);
        }
    }

    #[test]
    fn credentials_are_passed_only_by_name() {
        let names = [
            "AWS_SECRET_ACCESS_KEY",
            "DENO_AUTH_TOKENS",
            "GITHUB_TOKEN",
            "JUPYTER_TOKEN",
            "NODE_AUTH_TOKEN",
            "NPM_CONFIG__AUTH",
            "PGPASSWORD",
            "PYTHON_GITLAB_TOKEN",
            "R_API_KEY",
            "SSH_AUTH_SOCK",
            "XAUTHORITY",
        ];
        for name in names {
            check(name, "x", &[], false);
            check(name, "x", &["OTHER", name], true);
        }
    }

    #[test]
    fn proxies_with_a_password_are_passed_only_by_name() {
        check("https_proxy", "http://proxy:3128", &[], true);
        check("HTTPS_PROXY", "http://me:secret@proxy:3128", &[], false);
        check("HTTPS_PROXY", "http://me:secret@proxy:3128", &["HTTPS_PROXY"], true);
    }
}
