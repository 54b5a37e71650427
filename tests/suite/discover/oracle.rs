//! jupyter_client, asked in a process of its own.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use super::machine::Machine;

/// A Python with jupyter_client 8.10.
pub struct Oracle {
    /// Its interpreter.
    pub python: PathBuf,
    /// Its `sys.prefix`.
    pub prefix: PathBuf,
    /// The interpreter its virtual environment was made from.
    pub base_python: PathBuf,
    pub base_prefix: PathBuf,
    /// Its packages.
    pub site: PathBuf,
    /// The same packages without ipykernel.
    pub site_without_ipykernel: PathBuf,
    /// `python3.11`
    pub version: String,
    _dir: tempfile::TempDir,
}

const ABOUT: &str = r#"
import json, os, sys, sysconfig, jupyter_client, ipykernel
json.dump({
    "executable": sys.executable, "prefix": sys.prefix,
    "base_executable": os.path.realpath(getattr(sys, "_base_executable", sys.executable)), "base_prefix": sys.base_prefix,
    "site": os.path.dirname(os.path.dirname(jupyter_client.__file__)),
    "version": "python%i.%i" % sys.version_info[:2], "jupyter_client": jupyter_client.__version__,
}, sys.stdout)
"#;

const LIST: &str = r#"
import json, os, sys
from jupyter_client.kernelspec import KernelSpecManager
json.dump({"prefix": os.path.realpath(sys.prefix), "specs": KernelSpecManager().get_all_specs()}, sys.stdout)
"#;

const EXPAND: &str = r#"
import json, os, string, sys
from jupyter_client.manager import KernelManager
from jupyter_client.kernelspec import KernelSpec
answers = []
for case in json.load(sys.stdin):
    manager = KernelManager(connection_file="/nowhere/c.json")
    manager._kernel_spec = KernelSpec(argv=case["argv"], resource_dir="/kernels/x")
    answers.append({
        "argv": [os.path.expanduser(argument) for argument in manager.format_kernel_cmd()],
        "env": {name: string.Template(value).safe_substitute(os.environ) for name, value in case["env"].items()},
    })
json.dump(answers, sys.stdout)
"#;

impl Oracle {
    /// The oracle, or `None` after saying that the test is skipped.
    pub fn find() -> Option<Self> {
        let Some(python) = std::env::var_os("KERNELBRIDGE_TEST_PYTHON") else {
            let reason = "KERNELBRIDGE_TEST_PYTHON names no Python with jupyter_client 8.10";
            assert!(std::env::var_os("KERNELBRIDGE_REQUIRE").is_none(), "required, but {reason}");
            println!("skipped: {reason}");
            return None;
        };
        let about = json_of(Command::new(python).args(["-c", ABOUT]));
        let text = |key: &str| about[key].as_str().expect("a string").to_owned();
        let version = text("jupyter_client");
        assert!(version.starts_with("8.10."), "the rules are those of jupyter_client 8.10, this is {version}");
        let dir = tempfile::tempdir().expect("a folder");
        let site = PathBuf::from(text("site"));
        for entry in std::fs::read_dir(&site).expect("packages").flatten() {
            if !entry.file_name().to_string_lossy().starts_with("ipykernel") {
                std::os::unix::fs::symlink(entry.path(), dir.path().join(entry.file_name())).expect("a link");
            }
        }
        Some(Self {
            python: text("executable").into(),
            prefix: text("prefix").into(),
            base_python: text("base_executable").into(),
            base_prefix: text("base_prefix").into(),
            site,
            site_without_ipykernel: dir.path().to_owned(),
            version: text("version"),
            _dir: dir,
        })
    }

    /// Its `sys.prefix` on the machine, and what `KernelSpecManager` lists there.
    pub fn list(&self, machine: &Machine) -> (PathBuf, Value) {
        let mut answer = json_of(machine.python().args(["-c", LIST]));
        (Path::new(answer["prefix"].as_str().expect("a string")).to_owned(), answer["specs"].take())
    }

    /// What `jupyter kernelspec list --json` lists on the machine.
    pub fn command_line(&self, machine: &Machine) -> Value {
        json_of(machine.python().args(["-m", "jupyter_client.kernelspecapp", "list", "--json"]))["kernelspecs"].take()
    }

    /// The same by the script that is on PATH.
    pub fn jupyter(&self, machine: &Machine) -> Value {
        let jupyter = self.prefix.join("bin/jupyter");
        json_of(machine.command(&jupyter).args(["kernelspec", "list", "--json"]))["kernelspecs"].take()
    }

    /// What jupyter_client makes of `argv` and `env` of each case.
    pub fn expand(&self, cases: &[Value], vars: &[(&str, &str)]) -> Value {
        let mut input = tempfile::tempfile().expect("a file");
        serde_json::to_writer(&mut input, cases).expect("written");
        input.flush().expect("written");
        std::io::Seek::rewind(&mut input).expect("rewound");
        let mut command = Command::new(&self.python);
        json_of(command.args(["-c", EXPAND]).env_clear().envs(vars.iter().copied()).stdin(Stdio::from(input)))
    }
}

fn json_of(command: &mut Command) -> Value {
    let output = command.output().expect("the oracle runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{command:?}: {error}\n{stderr}"))
}
