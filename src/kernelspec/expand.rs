//! The templates of a `kernel.json`: `{connection_file}` and friends in `argv`, `~`, `${VAR}` in `env`.
//!
//! Pure: every value comes from outside. The rules are those of jupyter_client's `format_kernel_cmd` and `launch_kernel`
//! and of Python's `string.Template.safe_substitute`: what is not known stays as it is written.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::Path,
};

use super::Kernelspec;

/// What the templates of one kernelspec stand for.
#[derive(Debug, Clone, Copy)]
pub struct Expansion<'a> {
    /// `{connection_file}`
    pub connection_file: &'a Path,
    /// `{prefix}`, where it is known.
    pub prefix: Option<&'a Path>,
    /// Takes the place of a bare `python`, `python3` or `python3.N` in `argv[0]`.
    pub python: Option<&'a Path>,
    /// `~` at the beginning of an argument.
    pub home: &'a Path,
}

impl Kernelspec {
    /// Program and arguments as they are to be run. Empty when `argv` is.
    pub fn expand_argv(&self, expansion: &Expansion) -> Vec<OsString> {
        let argument = |(index, argument): (usize, &String)| match expansion.python {
            Some(python) if index == 0 && is_bare_python(argument) => python.as_os_str().to_owned(),
            _ => expand_home(self.expand_braces(argument, expansion), expansion.home),
        };
        self.argv.iter().enumerate().map(argument).collect()
    }

    /// What is added to the kernel's environment, `$VAR` and `${VAR}` taken from `lookup`.
    pub fn expand_env(&self, lookup: impl Fn(&str) -> Option<OsString>) -> BTreeMap<String, OsString> {
        self.env.iter().map(|(name, value)| (name.clone(), substitute(value, &lookup))).collect()
    }

    fn expand_braces(&self, text: &str, expansion: &Expansion) -> OsString {
        let mut expanded = OsString::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find('{') {
            let (before, brace) = rest.split_at(start);
            expanded.push(before);
            let known =
                brace[1..].split_once('}').and_then(|(name, after)| Some((self.template(name, expansion)?, after)));
            match known {
                Some((value, after)) => {
                    expanded.push(value);
                    rest = after;
                }
                None => {
                    expanded.push("{");
                    rest = &brace[1..];
                }
            }
        }
        expanded.push(rest);
        expanded
    }

    fn template<'a>(&'a self, name: &str, expansion: &Expansion<'a>) -> Option<&'a Path> {
        match name {
            "connection_file" => Some(expansion.connection_file),
            "resource_dir" => Some(&self.resource_dir),
            "prefix" => expansion.prefix,
            _ => None,
        }
    }
}

/// Is this `argv[0]` a Python 3 without a path, which jupyter_client replaces by the one it runs in?
pub fn is_bare_python(program: &str) -> bool {
    match program.strip_prefix("python") {
        Some("" | "3") => true,
        Some(version) => version
            .strip_prefix("3.")
            .is_some_and(|minor| !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit())),
        None => false,
    }
}

/// Python's `string.Template(text).safe_substitute(...)`: `$name`, `${name}`, `$$`; anything else stays.
pub fn substitute(text: &str, lookup: impl Fn(&str) -> Option<OsString>) -> OsString {
    let mut substituted = OsString::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        let (before, dollar) = rest.split_at(start);
        substituted.push(before);
        let after = &dollar[1..];
        if let Some(escaped) = after.strip_prefix('$') {
            substituted.push("$");
            rest = escaped;
            continue;
        }
        let (name, end) = match after.strip_prefix('{') {
            Some(braced) => match identifier(braced) {
                name if !name.is_empty() && braced[name.len()..].starts_with('}') => (name, name.len() + 3),
                _ => ("", 1),
            },
            None => (identifier(after), identifier(after).len() + 1),
        };
        match lookup(name).filter(|_| !name.is_empty()) {
            Some(value) => substituted.push(value),
            None => substituted.push(&dollar[..end]),
        }
        rest = &dollar[end..];
    }
    substituted.push(rest);
    substituted
}

/// The longest identifier at the beginning of `text`; empty when there is none.
fn identifier(text: &str) -> &str {
    let end = text.bytes().position(|byte| !(byte.is_ascii_alphanumeric() || byte == b'_')).unwrap_or(text.len());
    if text.starts_with(|first: char| first.is_ascii_digit()) { "" } else { &text[..end] }
}

/// `~` and `~/...`; `~user` stays, for looking users up is not pure and no kernel does it.
fn expand_home(argument: OsString, home: &Path) -> OsString {
    let expanded = match argument.as_encoded_bytes() {
        b"~" => Some(home.as_os_str().to_owned()),
        [b'~', b'/', ..] => argument.to_str().map(|text| {
            let mut expanded = match home.as_os_str().as_encoded_bytes() {
                b"/" => OsString::new(),
                _ => home.as_os_str().to_owned(),
            };
            expanded.push(OsStr::new(&text[1..]));
            expanded
        }),
        _ => None,
    };
    expanded.unwrap_or(argument)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn expand(argv: &[&str], python: Option<&str>) -> Vec<OsString> {
        let text = serde_json::json!({"argv": argv, "language": "x"}).to_string();
        let parsed = Kernelspec::parse("x", PathBuf::from("/kernels/x"), text.as_bytes()).expect("parses");
        parsed.kernelspec.expand_argv(&Expansion {
            connection_file: Path::new("/run/c.json"),
            prefix: Some(Path::new("/env")),
            python: python.map(Path::new),
            home: Path::new("/home/me"),
        })
    }

    #[test]
    fn templates_are_expanded_anywhere_in_an_argument() {
        let check = |argument: &str, expected: &str| assert_eq!(expand(&["x", argument], None)[1], expected);
        check("{connection_file}", "/run/c.json");
        check("--f={connection_file}", "--f=/run/c.json");
        check("{resource_dir}/a.jar:{prefix}/lib", "/kernels/x/a.jar:/env/lib");
        check("{unknown} {} {{prefix}}", "{unknown} {} {/env}");
        check("{prefix", "{prefix");
        check("{a{prefix}", "{a/env");
        check("~/k", "/home/me/k");
        check("~", "/home/me");
        check("~other/k a~/b", "~other/k a~/b");
        check("~{resource_dir}", "/home/me/kernels/x");
    }

    #[test]
    fn only_a_bare_python_3_is_replaced_and_only_as_the_program() {
        let check = |program: &str, replaced: bool| {
            let expected = if replaced { "/env/bin/python" } else { program };
            assert_eq!(expand(&[program, "python"], Some("/env/bin/python")), [expected, "python"]);
        };
        for program in ["python", "python3", "python3.11"] {
            check(program, true);
        }
        for program in ["python2", "python2.7", "python3.", "python3.x", "/usr/bin/python3", "pythonw", "R"] {
            check(program, false);
        }
        assert_eq!(expand(&["python3"], None), ["python3"]);
    }

    #[test]
    fn substitution_is_that_of_string_template() {
        let lookup = |name: &str| match name {
            "HOME" => Some(OsString::from("/h")),
            "_a1" => Some(OsString::from("$HOME")),
            _ => None,
        };
        let check = |text: &str, expected: &str| assert_eq!(substitute(text, lookup), expected, "{text}");
        check("${HOME}/x:$HOME", "/h/x:/h");
        check("$_a1", "$HOME");
        check("$$HOME $$", "$HOME $");
        check("$UNKNOWN ${UNKNOWN}", "$UNKNOWN ${UNKNOWN}");
        check("$ $1 ${ ${} ${HOME ${1} $", "$ $1 ${ ${} ${HOME ${1} $");
        check("$HOMEé $é", "$HOMEé $é".replace("$HOME", "/h").as_str());
        check("${HOME$HOME}", "${HOME/h}");
    }
}
