//! Notebook kernels as Jupyter's own client sees them: whatever the stock kernel behind one does for a frontend, it does too.
//!
//! The frontend is `tests/notebooks/kernels.py`, with jupyter_client and `jupyter_kernel_test`; JupyterLab itself is
//! driven by `scripts/test-notebooks`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Installed, is_required, processes_with, root};

/// The interpreter that has jupyter_client and `jupyter_kernel_test`.
const PYTHON: &str = "KERNELBRIDGE_TEST_PYTHON";
/// Inherited by all that the frontend starts.
const MARK: &str = "KERNELBRIDGE_TEST_NOTEBOOKS";

/// A folder with two kernelspecs: a stock kernel, and the notebook kernel in front of the same.
struct Pair {
    dir: TempDir,
    python: OsString,
    language: &'static str,
}

impl Pair {
    /// None, which it says, without the kernel or the frontend.
    fn new(language: &'static str) -> Option<Self> {
        let installed = Installed::look();
        if !installed.has(language) {
            return None;
        }
        let Some(python) = std::env::var_os(PYTHON) else {
            assert!(!is_required(language), "{PYTHON} is required");
            println!("skipped: {PYTHON} names no Python with jupyter_client and jupyter_kernel_test");
            return None;
        };
        let found = installed.languages.kernelspec_for(&installed.discovery, language).expect("it is there");
        let pair = Self { dir: tempfile::tempdir().expect("a folder"), python, language };
        let stock = pair.dir.path().join("data/kernels").join(pair.stock());
        fs::create_dir_all(&stock).expect("a folder");
        fs::copy(found.dir.join("kernel.json"), stock.join("kernel.json")).expect("copied");
        let install = ["notebook", "install", language, "--kernel", &pair.stock()];
        let output = pair.with_folders(Command::new(env!("CARGO_BIN_EXE_kernelbridge")).args(install)).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(pair)
    }

    fn stock(&self) -> String {
        format!("stock-{}", self.language)
    }

    /// Nothing of the user's is looked at or changed.
    fn with_folders<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let folder = |name: &str| self.dir.path().join(name);
        command.env("JUPYTER_DATA_DIR", folder("data")).env("JUPYTER_RUNTIME_DIR", folder("runtime"));
        command.env("JUPYTER_CONFIG_DIR", folder("config")).env("IPYTHONDIR", folder("ipython")).env(MARK, folder(""));
        command.stdin(Stdio::null())
    }

    /// What one case of the frontend found, with nobody left afterwards.
    fn ask(&self, case: &str) -> Value {
        let ours = format!("kernelbridge-notebook-{}", self.language);
        let driver = root().join("tests/notebooks/kernels.py");
        let mut command = Command::new(&self.python);
        command.arg(driver).args([case, &self.stock(), &ours, self.language]);
        let output = self.with_folders(&mut command).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{case} in {}: {stderr}", self.language);
        assert_eq!(left(self.dir.path()), [""; 0], "{case} in {}: processes are left", self.language);
        let found = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
        println!("{case} in {}: {found}", self.language);
        found
    }
}

fn left(dir: &Path) -> Vec<String> {
    let mark = format!("{MARK}={}", dir.display());
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let left = processes_with(&mark);
        if left.is_empty() || Instant::now() > until {
            return left;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// What the stock kernel passes, ours passes too. Kernels lose races of `jupyter_kernel_test`, which waits for an output
/// for 0.1 s after the reply: what ours did not pass, it may try again.
fn standard(language: &'static str) {
    let Some(pair) = Pair::new(language) else { return };
    let passed = |found: &Value| -> BTreeSet<String> {
        let found: BTreeMap<String, String> = serde_json::from_value(found.clone()).expect("outcomes");
        found.into_iter().filter(|(_, outcome)| outcome == "passed").map(|(name, _)| name).collect()
    };
    let (mut stock, mut ours) = (BTreeSet::new(), BTreeSet::new());
    for attempt in 0..3 {
        let found = pair.ask("standard");
        if attempt == 0 {
            stock = passed(&found["stock"]);
        }
        ours.extend(passed(&found["ours"]));
        if stock.is_subset(&ours) {
            break;
        }
    }
    for basics in ["kernel_info", "execute_stdout", "completion", "error"] {
        assert!(stock.contains(basics), "the stock kernel of {language} passes {stock:?}");
    }
    let missing: Vec<_> = stock.difference(&ours).collect();
    assert!(missing.is_empty(), "{language}: the stock kernel passes {missing:?}, ours does not");
}

fn conversation(language: &'static str) {
    let Some(pair) = Pair::new(language) else { return };
    let counts = pair.ask("counts");
    assert_eq!(counts["ours"], counts["stock"], "cells are counted and remembered as without us");
    let keyboard = pair.ask("keyboard");
    assert_eq!((&keyboard["status"], &keyboard["asked"]), (&json!("ok"), &json!(["name? "])));
    assert_eq!(keyboard["said"].as_str().expect("text").trim(), "Ada!");
    let frontends = pair.ask("frontends");
    assert_eq!(frontends["answered"], true, "what was asked before the kernel was there");
    let said = frontends["said"].as_array().expect("texts");
    assert!(
        said.len() == 3 && said.iter().all(|text| text.as_str().is_some_and(|text| text.trim() == "42")),
        "{said:?}"
    );
    assert_eq!(frontends["statuses"][1], "ok");
    assert_ne!(frontends["statuses"][0], "ok", "the loop was interrupted");
}

fn life(language: &'static str) {
    let Some(pair) = Pair::new(language) else { return };
    let endings = pair.ask("endings");
    assert_eq!(endings["left by a cell"], json!([]), "a cell ended the kernel");
    assert_eq!(endings["told"], true, "whoever started it sees that it has ended");
    assert_eq!(endings["left by a kill"], json!([]), "somebody killed the relay");
    let restarts = pair.ask("restarts");
    let said = restarts["said"].as_array().expect("texts");
    assert!(
        said.len() == 6 && said.iter().all(|text| text.as_str().is_some_and(|text| text.trim() == "42")),
        "{said:?}"
    );
    let counts = restarts["counts"].as_array().expect("numbers");
    assert!(counts.iter().all(|count| *count == endings["processes"]), "{counts:?} processes after each restart");
    assert_eq!(restarts["left"], json!([]));
}

fn flood(language: &'static str) {
    let Some(pair) = Pair::new(language) else { return };
    let flood = pair.ask("flood");
    let wanted = if language == "r" { 5_000 } else { 20_000 };
    assert_eq!((&flood["came"], &flood["complete"]), (&json!(wanted), &json!(true)));
}

macro_rules! languages {
    ($($language:ident),*) => {
        $(mod $language {
            #[test]
            fn passes_what_the_stock_kernel_passes() {
                super::standard(stringify!($language));
            }

            #[test]
            fn talks_to_whoever_sits_there() {
                super::conversation(stringify!($language));
            }

            #[test]
            fn ends_and_begins_again_and_leaves_nothing() {
                super::life(stringify!($language));
            }

            #[test]
            fn loses_no_output() {
                super::flood(stringify!($language));
            }
        })*
    };
}

languages!(javascript, python, r);

#[test]
fn debuggers_work_through_it() {
    let Some(pair) = Pair::new("python") else { return };
    let found = pair.ask("debugger");
    assert_eq!(found["ours"], found["stock"]);
    let text = found["ours"].to_string();
    assert!(text.contains(r#"["line",3]"#) && text.contains(r#"["y",["42"]]"#), "{text}");
}

/// The numbers are for docs/notebooks.md; the bound only shows that nothing waits for a timer.
#[test]
fn what_it_costs_is_small() {
    let Some(pair) = Pair::new("python") else { return };
    let found = pair.ask("latency");
    let ms = |who: &str| found[who].as_f64().expect("a number");
    assert!(ms("ours") < 2.0 * ms("stock") + 20.0, "{found}");
}
