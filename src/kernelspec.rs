//! `kernel.json`: how one kernel is started.
//!
//! Pure: parses text and expands templates. Finding the file, and the programs it names, is the work of `discover`.
//! Exactly what jupyter_client refuses is refused here, so that both list the same kernelspecs; what it lists but cannot
//! start is kept with a remark.

mod expand;

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

pub use expand::{Expansion, is_bare_python, substitute};

/// The name jupyter_client gives the kernel of the Python it runs in; it exists even without a `kernel.json`.
pub const NATIVE_NAME: &str = "python3";

/// The one provisioner there is: a process on this machine.
pub const LOCAL_PROVISIONER: &str = "local-provisioner";

/// One `kernel.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kernelspec {
    /// The folder's name in lower case; what `kernel = "..."` in a manifest says.
    pub name: String,
    /// Program and arguments, templates not yet expanded.
    pub argv: Vec<String>,
    /// Added to the kernel's environment, `${VAR}` not yet substituted.
    pub env: BTreeMap<String, String>,
    /// For people; may be empty.
    pub display_name: String,
    /// The language as the kernel spells it (`R`, `typescript`); may be empty.
    pub language: String,
    /// How the kernel says it is interrupted; `language.toml` may know better.
    pub interrupt_mode: InterruptMode,
    /// Free form.
    pub metadata: Map<String, Value>,
    /// Since jupyter_client 8.8; most kernels do not say.
    pub kernel_protocol_version: Option<String>,
    /// The folder `{resource_dir}` stands for.
    pub resource_dir: PathBuf,
}

/// How a kernel says it is interrupted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InterruptMode {
    /// SIGINT to its process group.
    #[default]
    Signal,
    /// `interrupt_request` on control.
    Message,
}

/// A kernelspec, and what is odd about its file although it can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The kernelspec.
    pub kernelspec: Kernelspec,
    /// One sentence each, for the user; usually empty.
    pub remarks: Vec<String>,
}

/// Why a `kernel.json` was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelspecError {
    /// Not UTF-8, as JSON must be.
    #[error("not UTF-8")]
    NotUtf8(#[source] std::str::Utf8Error),
    /// Not JSON; the source names line and column.
    #[error("not JSON")]
    NotJson(#[source] serde_json::Error),
    /// JSON, but a list, a string, ...
    #[error("must hold a JSON object, not {found}")]
    NotAnObject {
        /// What it holds: `a list`.
        found: &'static str,
    },
    /// A known field has a value of the wrong type.
    #[error("`{field}` must be {expected}, not {found}")]
    WrongType {
        /// The field.
        field: &'static str,
        /// What it must be: `a string`.
        expected: &'static str,
        /// What it is: `null`.
        found: &'static str,
    },
    /// `interrupt_mode` is neither of the two.
    #[error("`interrupt_mode` must be \"signal\" or \"message\", not {value:?}")]
    InterruptMode {
        /// What it says.
        value: String,
    },
    /// The folder decides where the resources are; jupyter_client refuses this key too.
    #[error("`resource_dir` must not be set: it is always the folder of kernel.json")]
    ResourceDir,
    /// `metadata.kernel_provisioner` names something that does not run a process on this machine.
    #[error("needs the kernel provisioner {name}, and only `{LOCAL_PROVISIONER}` is available")]
    Provisioner {
        /// Its name as JSON.
        name: String,
    },
}

impl Kernelspec {
    /// Parse the bytes of the `kernel.json` in `resource_dir`.
    ///
    /// # Errors
    ///
    /// - [`KernelspecError::NotUtf8`], [`KernelspecError::NotJson`], [`KernelspecError::NotAnObject`] for the whole file.
    /// - [`KernelspecError::WrongType`], [`KernelspecError::InterruptMode`], [`KernelspecError::ResourceDir`] name the field.
    /// - [`KernelspecError::Provisioner`] when the kernel is not meant to run as a process on this machine.
    pub fn parse(name: &str, resource_dir: impl Into<PathBuf>, bytes: &[u8]) -> Result<Parsed, KernelspecError> {
        let text = std::str::from_utf8(bytes).map_err(KernelspecError::NotUtf8)?;
        let mut fields = match serde_json::from_str(text).map_err(KernelspecError::NotJson)? {
            Value::Object(fields) => fields,
            other => return Err(KernelspecError::NotAnObject { found: kind(&other) }),
        };
        if fields.contains_key("resource_dir") {
            return Err(KernelspecError::ResourceDir);
        }
        // Unused here, but jupyter_client checks them.
        take_string(&mut fields, "name")?;
        take_string(&mut fields, "mimetype")?;
        let mut remarks = Vec::new();
        let kernelspec = Self {
            name: name.to_owned(),
            argv: take_argv(&mut fields, &mut remarks)?,
            env: take_env(&mut fields, &mut remarks)?,
            display_name: take_string(&mut fields, "display_name")?.unwrap_or_default(),
            language: take_string(&mut fields, "language")?.unwrap_or_default(),
            interrupt_mode: take_interrupt_mode(&mut fields)?,
            metadata: take_object(&mut fields, "metadata")?.unwrap_or_default(),
            kernel_protocol_version: take_string(&mut fields, "kernel_protocol_version")?,
            resource_dir: resource_dir.into(),
        };
        check_provisioner(&kernelspec.metadata)?;
        if kernelspec.argv.is_empty() {
            remarks.push("`argv` is empty, so the kernel cannot be launched".to_owned());
        }
        if kernelspec.language.is_empty() {
            remarks.push("`language` is missing, so no language folder can match it".to_owned());
        }
        Ok(Parsed { kernelspec, remarks })
    }

    /// The display name, or the name where there is none.
    pub fn title(&self) -> &str {
        if self.display_name.is_empty() { &self.name } else { &self.display_name }
    }
}

/// Names outside this pattern work in jupyter_client with a warning, and so they do here.
pub fn is_valid_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn take_string(fields: &mut Map<String, Value>, field: &'static str) -> Result<Option<String>, KernelspecError> {
    match fields.remove(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(KernelspecError::WrongType { field, expected: "a string", found: kind(&other) }),
    }
}

fn take_object(
    fields: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<Map<String, Value>>, KernelspecError> {
    match fields.remove(field) {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => Err(KernelspecError::WrongType { field, expected: "an object", found: kind(&other) }),
    }
}

fn take_argv(fields: &mut Map<String, Value>, remarks: &mut Vec<String>) -> Result<Vec<String>, KernelspecError> {
    let items = match fields.remove("argv") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        // traitlets makes a list of a lone string.
        Some(Value::String(program)) => {
            remarks.push("`argv` is a string; it is taken as the program without arguments".to_owned());
            return Ok(vec![program]);
        }
        Some(other) => {
            return Err(KernelspecError::WrongType { field: "argv", expected: "a list", found: kind(&other) });
        }
    };
    let argument = |(index, item): (usize, Value)| match item {
        Value::String(text) => text,
        other => {
            let text = other.to_string();
            remarks.push(format!("`argv[{index}]` is {}; it is passed as the text `{text}`", kind(&other)));
            text
        }
    };
    Ok(items.into_iter().enumerate().map(argument).collect())
}

fn take_env(
    fields: &mut Map<String, Value>,
    remarks: &mut Vec<String>,
) -> Result<BTreeMap<String, String>, KernelspecError> {
    let variable = |(name, value)| match value {
        Value::String(text) => (name, text),
        other => {
            let text = other.to_string();
            remarks.push(format!("`env.{name}` is {}; it is passed as the text `{text}`", kind(&other)));
            (name, text)
        }
    };
    Ok(take_object(fields, "env")?.unwrap_or_default().into_iter().map(variable).collect())
}

fn take_interrupt_mode(fields: &mut Map<String, Value>) -> Result<InterruptMode, KernelspecError> {
    let Some(value) = take_string(fields, "interrupt_mode")? else { return Ok(InterruptMode::default()) };
    match value.to_lowercase().as_str() {
        "signal" => Ok(InterruptMode::Signal),
        "message" => Ok(InterruptMode::Message),
        _ => Err(KernelspecError::InterruptMode { value }),
    }
}

/// jupyter_client leaves out a kernelspec whose provisioner is not installed.
fn check_provisioner(metadata: &Map<String, Value>) -> Result<(), KernelspecError> {
    let provisioner = match metadata.get("kernel_provisioner") {
        None | Some(Value::String(_) | Value::Array(_)) => return Ok(()),
        Some(Value::Object(provisioner)) => provisioner,
        Some(other) => {
            let field = "metadata.kernel_provisioner";
            return Err(KernelspecError::WrongType { field, expected: "an object", found: kind(other) });
        }
    };
    match provisioner.get("provisioner_name") {
        None => Ok(()),
        Some(Value::String(name)) if name == LOCAL_PROVISIONER => Ok(()),
        Some(name) => Err(KernelspecError::Provisioner { name: name.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Parsed, KernelspecError> {
        Kernelspec::parse("ir", "/kernels/ir", text.as_bytes())
    }

    fn refused(text: &str, message: &str) {
        assert_eq!(parse(text).expect_err(text).to_string(), message, "{text}");
    }

    fn remarked(text: &str, argv: &[&str], remarks: &[&str]) {
        let parsed = parse(text).expect(text);
        assert_eq!(parsed.kernelspec.argv, argv, "{text}");
        assert_eq!(parsed.remarks, remarks, "{text}");
    }

    #[test]
    fn a_usual_file_parses_without_remarks() {
        let text = r#"{"argv": ["R", "{connection_file}"], "display_name": "R", "language": "R", "env": {"A": "${B}"},
                       "interrupt_mode": "MESSAGE", "metadata": {"x": 1}, "codemirror_mode": "r"}"#;
        let parsed = parse(text).expect("parses");
        assert_eq!(parsed.remarks, Vec::<String>::new());
        let kernelspec = parsed.kernelspec;
        assert_eq!(kernelspec.argv, ["R", "{connection_file}"]);
        assert_eq!(kernelspec.env["A"], "${B}");
        assert_eq!(kernelspec.interrupt_mode, InterruptMode::Message);
        assert_eq!(kernelspec.metadata["x"], 1);
        assert_eq!(kernelspec.kernel_protocol_version, None);
        assert_eq!(kernelspec.title(), "R");
    }

    #[test]
    fn what_jupyter_client_refuses_is_refused_by_field() {
        refused("{", "not JSON");
        refused("\u{feff}{}", "not JSON");
        refused("[]", "must hold a JSON object, not a list");
        refused(r#"{"argv": null}"#, "`argv` must be a list, not null");
        refused(r#"{"argv": {}}"#, "`argv` must be a list, not an object");
        refused(r#"{"env": []}"#, "`env` must be an object, not a list");
        refused(r#"{"metadata": null}"#, "`metadata` must be an object, not null");
        refused(r#"{"display_name": 1}"#, "`display_name` must be a string, not a number");
        refused(r#"{"language": true}"#, "`language` must be a string, not a boolean");
        refused(r#"{"name": {}}"#, "`name` must be a string, not an object");
        refused(r#"{"kernel_protocol_version": 5.3}"#, "`kernel_protocol_version` must be a string, not a number");
        refused(r#"{"interrupt_mode": "sigint"}"#, r#"`interrupt_mode` must be "signal" or "message", not "sigint""#);
        refused(r#"{"resource_dir": "/x"}"#, "`resource_dir` must not be set: it is always the folder of kernel.json");
        refused(
            r#"{"metadata": {"kernel_provisioner": {"provisioner_name": "yarn"}}}"#,
            r#"needs the kernel provisioner "yarn", and only `local-provisioner` is available"#,
        );
        refused(
            r#"{"metadata": {"kernel_provisioner": null}}"#,
            "`metadata.kernel_provisioner` must be an object, not null",
        );
        let error = Kernelspec::parse("x", "/x", b"{\"a\": \"\xff\"}").expect_err("refused");
        assert_eq!(error.to_string(), "not UTF-8");
    }

    #[test]
    fn what_jupyter_client_lists_is_kept_with_a_remark() {
        remarked(r#"{"argv": ["a"], "language": "b"}"#, &["a"], &[]);
        remarked(
            r#"{"argv": ["a", 1, null], "language": "b"}"#,
            &["a", "1", "null"],
            &[
                "`argv[1]` is a number; it is passed as the text `1`",
                "`argv[2]` is null; it is passed as the text `null`",
            ],
        );
        remarked(
            r#"{"argv": "a", "language": "b"}"#,
            &["a"],
            &["`argv` is a string; it is taken as the program without arguments"],
        );
        remarked(
            r#"{"argv": ["a"], "language": "b", "env": {"N": 3}}"#,
            &["a"],
            &["`env.N` is a number; it is passed as the text `3`"],
        );
        remarked(
            "{}",
            &[],
            &[
                "`argv` is empty, so the kernel cannot be launched",
                "`language` is missing, so no language folder can match it",
            ],
        );
        let local = r#"{"argv": ["a"], "language": "b", "metadata":
                        {"kernel_provisioner": {"provisioner_name": "local-provisioner", "config": {}}}}"#;
        remarked(local, &["a"], &[]);
    }

    #[test]
    fn names_hold_letters_digits_dot_hyphen_and_underscore() {
        for name in ["python3", "julia-1.10", "x_Y"] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in ["", "a b", "ünï", "a/b", "a\n"] {
            assert!(!is_valid_name(name), "{name:?}");
        }
    }
}
