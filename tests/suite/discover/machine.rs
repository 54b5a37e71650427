//! A machine made up at random: folders of kernelspecs, a Python environment and variables that lead there.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use kernelbridge::discover::Environment;
use serde_json::{Value, json};

use super::{oracle::Oracle, rng::Rng};

pub struct Machine {
    pub cwd: PathBuf,
    /// Nothing on it makes the command line of Jupyter move kernelspecs about.
    pub is_for_command_line: bool,
    python: PathBuf,
    vars: Vec<(&'static str, String)>,
}

const NAMES: &[&str] = &[
    "python3",
    "Python3",
    "ir",
    "IR",
    "julia-1.10",
    "Lua5.4",
    "bash",
    "deno",
    "x_y",
    "with space",
    "ünï",
    "ÀB",
    "a+b",
    ".hidden",
    "-dash",
    "\u{212a}elvin",
];

impl Machine {
    /// The oracle's own environment with an empty home.
    pub fn activated(oracle: &Oracle, home: &Path) -> Self {
        let path = format!("{}:/usr/bin:/bin", oracle.prefix.join("bin").display());
        let vars = vec![
            ("HOME", home.display().to_string()),
            ("PATH", path),
            ("VIRTUAL_ENV", oracle.prefix.display().to_string()),
        ];
        Self { cwd: home.to_owned(), is_for_command_line: true, python: oracle.python.clone(), vars }
    }

    pub fn random(rng: &mut Rng, oracle: &Oracle, dir: &Path, is_for_command_line: bool) -> Self {
        fs::create_dir_all(dir.join("work")).expect("a folder");
        let dir = &dir.canonicalize().expect("resolves");
        let mut machine = Self { cwd: dir.join("work"), is_for_command_line, python: PathBuf::new(), vars: Vec::new() };
        machine.home(rng, dir);
        let prefix = machine.prefix(rng, oracle, dir);
        machine.variables(rng, dir);
        machine.set("TMPDIR", dir);
        let site = if rng.percent(70) { &oracle.site } else { &oracle.site_without_ipykernel };
        machine.set("PYTHONPATH", site);
        let mut kernels = vec![prefix.join("share/jupyter/kernels"), dir.join("home/.ipython/kernels")];
        kernels.extend(JUPYTER_DIRS.iter().map(|name| dir.join(name).join("kernels")));
        for kernels in &kernels {
            // The prefix of the base interpreter is no business of ours.
            if kernels.starts_with(dir) && rng.percent(80) {
                fill(rng, kernels, dir);
            }
        }
        machine
    }

    pub fn environment(&self) -> Environment {
        Environment::new(self.vars.iter().map(|(name, value)| (*name, value.as_str())), &self.cwd)
    }

    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let vars = self.vars.iter().map(|(name, value)| (name, value));
        command.env_clear().envs(vars).current_dir(&self.cwd).stdin(Stdio::null());
        command
    }

    /// The Python a Jupyter client would run in here.
    pub fn python(&self) -> Command {
        self.command(&self.python)
    }

    pub fn describe(&self) -> String {
        let vars = self.vars.iter().map(|(name, value)| format!("{name}={value}"));
        format!("cd {}; {} {}", self.cwd.display(), vars.collect::<Vec<_>>().join(" "), self.python.display())
    }

    fn set(&mut self, name: &'static str, value: impl AsRef<OsStr>) {
        self.vars.push((name, value.as_ref().to_str().expect("UTF-8").to_owned()));
    }

    fn home(&mut self, rng: &mut Rng, dir: &Path) {
        // Says that there is nothing to move.
        fs::create_dir_all(dir.join("home/.jupyter")).expect("a folder");
        fs::write(dir.join("home/.jupyter/migrated"), "").expect("a file");
        let home = if rng.percent(20) {
            symlink("home", dir.join("home-link")).expect("a link");
            dir.join("home-link")
        } else {
            dir.join("home")
        };
        let slash = if rng.percent(10) { "/" } else { "" };
        self.set("HOME", format!("{}{slash}", home.display()));
    }

    /// Make a Python environment of some kind; the result is its folder.
    fn prefix(&mut self, rng: &mut Rng, oracle: &Oracle, dir: &Path) -> PathBuf {
        let prefix = dir.join("prefix");
        let bin = prefix.join("bin");
        fs::create_dir_all(&bin).expect("a folder");
        let stale = dir.join("stale");
        let kind = rng.below(6);
        let mut path = bin.clone();
        match kind {
            0 | 1 => {
                venv(rng, oracle, &prefix);
                if rng.percent(30) {
                    symlink("prefix", dir.join("prefix-link")).expect("a link");
                    path = dir.join("prefix-link/bin");
                }
                if rng.percent(60) {
                    self.set("VIRTUAL_ENV", path.parent().expect("a parent"));
                } else if rng.percent(30) {
                    self.set("VIRTUAL_ENV", stale);
                }
            }
            2 => {
                venv(rng, oracle, &prefix);
                path = dir.join("shims");
                let python = bin.join("python3");
                script(&path.join("python3"), &format!("#!/bin/sh\nexec {} \"$@\"\n", python.display()));
            }
            3 => {
                copy(oracle, &prefix);
                if rng.percent(60) {
                    self.set("CONDA_PREFIX", &prefix);
                } else if rng.percent(30) {
                    self.set("CONDA_PREFIX", "");
                }
                if rng.percent(70) {
                    self.set("CONDA_DEFAULT_ENV", rng.choose(&["base", "base", "mine", ""]));
                }
            }
            4 => {
                symlink(&oracle.base_python, bin.join("python3")).expect("a link");
                library(oracle, &prefix);
                self.set("PYTHONHOME", &prefix);
            }
            _ => path = oracle.base_python.parent().expect("a parent").to_owned(),
        }
        self.set("PATH", format!("{}:/usr/bin:/bin", path.display()));
        let python = path.join("python3");
        self.python = if python.exists() { python } else { oracle.base_python.clone() };
        // Only root can give folders away.
        if kind < 4 && rng.percent(25) {
            let _ = chown(&prefix, Some(12_345), None);
        }
        if kind == 5 { oracle.base_prefix.clone() } else { prefix }
    }

    fn variables(&mut self, rng: &mut Rng, dir: &Path) {
        let path = |name: &str| dir.join(name).display().to_string();
        let entries = [
            path("jp-a"),
            path("jp-b/"),
            path("jp-c//"),
            path("jp-a"),
            path("none"),
            path("data"),
            "relative".to_owned(),
            String::new(),
            path("home/.local/share/jupyter"),
        ];
        if rng.percent(70) {
            let list: Vec<_> = (0..rng.below(5)).map(|_| rng.choose(&entries).as_str()).collect();
            self.set("JUPYTER_PATH", list.join(":"));
        }
        let is_for_command_line = self.is_for_command_line;
        let mut maybe = |percent: usize, name: &'static str, values: &[&str]| {
            if rng.percent(percent) {
                self.set(name, rng.choose(values));
            }
        };
        maybe(25, "JUPYTER_DATA_DIR", &[&path("data"), &path("data/"), "", "relative"]);
        maybe(35, "XDG_DATA_HOME", &[&path("xdg"), "", "relative-xdg"]);
        maybe(35, "PYTHONUSERBASE", &[&path("base"), "", "relative-base"]);
        maybe(20, "PYTHONNOUSERSITE", &["1", "", "no"]);
        maybe(30, "JUPYTER_PREFER_ENV_PATH", &["1", "0", "no", "False", "", "yes", "OFF", "0.0", " 0"]);
        maybe(30, "JUPYTER_PLATFORM_DIRS", &["1", "0", "", "n"]);
        let both = format!("{}:relative:{}", path("system-a"), path("system-b"));
        maybe(40, "XDG_DATA_DIRS", &[&path("system-a"), &both, "", "relative"]);
        maybe(20, "IPYTHONDIR", &[&path("ipython"), "~/ipython", "relative"]);
        maybe(30, "XDG_CONFIG_HOME", &[&path("config"), ""]);
        if is_for_command_line {
            // With another one the command line moves ~/.ipython/kernels on its first run.
            maybe(100, "JUPYTER_CONFIG_DIR", &[&path("home/.jupyter")]);
        } else {
            maybe(20, "JUPYTER_NO_CONFIG", &["1", ""]);
            maybe(10, "JUPYTER_CONFIG_DIR", &[&path("config-dir")]);
        }
    }
}

/// Folders whose `kernels` some variable may lead to.
const JUPYTER_DIRS: &[&str] = &[
    "jp-a",
    "jp-b",
    "jp-c",
    "data",
    "xdg/jupyter",
    "base/share/jupyter",
    "system-a/jupyter",
    "system-b/jupyter",
    "ipython",
    "home/ipython",
    "home/.local/share/jupyter",
    "config/ipython",
    "home/.config/ipython",
    "work",
    "work/relative",
    "work/relative-xdg/jupyter",
    "work/relative-base/share/jupyter",
];

fn venv(rng: &mut Rng, oracle: &Oracle, prefix: &Path) {
    symlink(&oracle.base_python, prefix.join("bin/python3")).expect("a link");
    let home = oracle.base_python.parent().expect("a parent").display();
    let extra = *rng.choose(&[
        "",
        "include-system-site-packages = false",
        "include-system-site-packages=true",
        "Include-System-Site-Packages = FALSE",
        "include-system-site-packages = no",
        "include-system-site-packages = false\ninclude-system-site-packages = True",
    ]);
    fs::write(prefix.join("pyvenv.cfg"), format!("home = {home}\n{extra}\nversion = 3\n")).expect("a file");
}

/// A Python that takes `prefix` for its own, as conda's do.
fn copy(oracle: &Oracle, prefix: &Path) {
    let python = prefix.join("bin").join(&oracle.version);
    // By another process, for a file open for writing here could not be run while another test starts a process.
    assert!(Command::new("cp").arg(&oracle.base_python).arg(&python).status().expect("cp").success());
    symlink(&oracle.version, prefix.join("bin/python3")).expect("a link");
    library(oracle, prefix);
}

fn library(oracle: &Oracle, prefix: &Path) {
    fs::create_dir_all(prefix.join("lib")).expect("a folder");
    let of = |prefix: &Path| prefix.join("lib").join(&oracle.version);
    symlink(of(&oracle.base_prefix), of(prefix)).expect("a link");
}

fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    let write = r#"printf '%s' "$2" > "$1" && chmod 755 "$1""#;
    assert!(Command::new("/bin/sh").args(["-c", write, "sh"]).arg(path).arg(text).status().expect("a shell").success());
}

/// Put some kernelspecs, and some things that look like them, into `kernels`.
fn fill(rng: &mut Rng, kernels: &Path, root: &Path) {
    if rng.percent(4) {
        fs::create_dir_all(kernels.parent().expect("a parent")).expect("a folder");
        fs::write(kernels, "a file where a folder should be").expect("a file");
        return;
    }
    fs::create_dir_all(kernels).expect("a folder");
    // One name nearly everywhere, so that the order of the search is seen.
    if rng.percent(80) {
        fs::create_dir_all(kernels.join("clash")).expect("a folder");
        fs::write(kernels.join("clash/kernel.json"), usual(rng).to_string()).expect("a file");
    }
    let mut used = HashSet::new();
    for _ in 0..rng.below(6) {
        let names = if rng.percent(70) { &NAMES[..5] } else { NAMES };
        let name = *rng.choose(names);
        // Which of two names that differ in case wins depends on the file system, in jupyter_client.
        if !used.insert(name.to_lowercase()) {
            continue;
        }
        let dir = kernels.join(name);
        let file = dir.join("kernel.json");
        let make = || fs::create_dir_all(&dir).expect("a folder");
        match rng.below(16) {
            0 => make(),
            1 => fs::write(&dir, "a stray file").expect("a file"),
            2 => symlink("/no/such/folder", &dir).expect("a link"),
            3 => fs::create_dir_all(&file).expect("a folder"),
            4 => {
                // Root can read it all the same, and so can the oracle then.
                make();
                fs::write(&file, kernel_json(rng)).expect("a file");
                fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).expect("permissions");
            }
            5 => {
                let elsewhere = root.join("elsewhere").join(name);
                fs::create_dir_all(&elsewhere).expect("a folder");
                fs::write(elsewhere.join("kernel.json"), kernel_json(rng)).expect("a file");
                symlink(elsewhere, &dir).expect("a link");
            }
            6 => {
                make();
                symlink("loop.json", dir.join("loop.json")).expect("a link");
                symlink("loop.json", &file).expect("a link");
            }
            _ => {
                make();
                fs::write(&file, kernel_json(rng)).expect("a file");
            }
        }
    }
}

fn kernel_json(rng: &mut Rng) -> Vec<u8> {
    if rng.percent(35) { rng.choose(ODD).to_vec() } else { usual(rng).to_string().into_bytes() }
}

fn usual(rng: &mut Rng) -> Value {
    let mut spec = json!({
        "argv": [rng.choose(&["python", "python3", "R", "/no/such/program", "sh"]), "-f", "{connection_file}"],
        "display_name": rng.choose(&["R", "Ünï ☃", ""]),
        "language": rng.choose(&["python", "R", "typescript", ""]),
    });
    let mut maybe = |percent: usize, name: &str, values: &[Value]| {
        if rng.percent(percent) {
            spec[name] = rng.choose(values).clone();
        }
    };
    let modes = ["signal", "message", "SIGNAL", "Message"].map(Value::from);
    maybe(50, "interrupt_mode", &modes);
    maybe(40, "env", &[json!({}), json!({"A": "${HOME}/x", "B": ""}), json!({"N": 1, "T": true, "O": {"a": [1]}})]);
    let local = json!({"kernel_provisioner": {"provisioner_name": "local-provisioner", "config": {}}});
    let remote = json!({"kernel_provisioner": {"provisioner_name": "yarn", "config": {}}});
    let number = json!({"kernel_provisioner": {"provisioner_name": 7, "config": {}}});
    let odd = json!({"kernel_provisioner": {"config": {}}});
    let free = json!({"debugger": true, "x": [1, 2.5, null, {"é": "ü"}]});
    maybe(60, "metadata", &[json!({}), free, local, remote, number, odd]);
    maybe(30, "kernel_protocol_version", &[json!("5.5"), json!("5.3.0")]);
    maybe(20, "codemirror_mode", &[json!({"name": "r"})]);
    maybe(10, "name", &[json!("another")]);
    spec
}

/// Files with something odd in them; some are refused, some are not.
const ODD: &[&[u8]] = &[
    b"",
    b"{",
    b"[]",
    b"null",
    b"\"x\"",
    b"{}",
    b"\xef\xbb\xbf{}",
    b"{\"language\": \"\xe9\"}",
    b"{} x",
    b"{\"argv\": [\"a\"],}",
    b"{'argv': []}",
    b"{\"argv\": [\"a\"], \"argv\": [\"b\"]}",
    b"{\"argv\": null}",
    b"{\"argv\": {}}",
    b"{\"argv\": \"sh\"}",
    b"{\"argv\": \"\"}",
    b"{\"argv\": [1, null, {\"a\": 1.5}]}",
    b"{\"argv\": []}",
    b"{\"env\": []}",
    b"{\"env\": null}",
    b"{\"env\": {\"A\": null}}",
    b"{\"display_name\": 1}",
    b"{\"language\": null}",
    b"{\"interrupt_mode\": \"sigint\"}",
    b"{\"interrupt_mode\": null}",
    b"{\"interrupt_mode\": \"\"}",
    b"{\"metadata\": []}",
    b"{\"metadata\": {\"kernel_provisioner\": null}}",
    b"{\"metadata\": {\"kernel_provisioner\": 3}}",
    b"{\"metadata\": {\"kernel_provisioner\": \"x\"}}",
    b"{\"metadata\": {\"kernel_provisioner\": [\"x\"]}}",
    b"{\"metadata\": {\"kernel_provisioner\": {\"provisioner_name\": null, \"config\": {}}}}",
    b"{\"kernel_protocol_version\": 5.3}",
    b"{\"name\": 1}",
    b"{\"mimetype\": null}",
    b"{\"mimetype\": \"text/x-r\"}",
    b"{\"resource_dir\": \"/x\"}",
    b"{\"observe\": 1, \"parent\": 2}",
];
