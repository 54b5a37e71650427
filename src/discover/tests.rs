use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::language::Language;

/// A made-up machine: everything lies in one temporary folder, and `~` is `home` in it.
struct Machine {
    dir: tempfile::TempDir,
    vars: Vec<(&'static str, String)>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut machine = Self { dir, vars: Vec::new() };
        machine.set("HOME", "{}/home");
        machine.set("PATH", "{}/bin");
        // The machine under the test has kernelspecs of its own.
        machine.set("JUPYTER_PLATFORM_DIRS", "1");
        machine.set("XDG_DATA_DIRS", "{}/system");
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("resolves").join(path)
    }

    /// `{}` in the value stands for the machine's folder.
    fn set(&mut self, name: &'static str, value: &str) {
        self.vars.push((name, value.replace("{}", self.path("").to_string_lossy().trim_end_matches('/'))));
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    fn kernel(&self, dir: &str, argv: &[&str], language: &str) {
        let text = serde_json::json!({"argv": argv, "language": language, "display_name": language}).to_string();
        self.write(&format!("{dir}/kernel.json"), text);
    }

    fn program(&self, path: &str) {
        self.write(path, "\x7fELF");
        std::fs::set_permissions(self.path(path), std::fs::Permissions::from_mode(0o755)).expect("executable");
    }

    /// Written by a shell: were the file ever open for writing here, a process that another test starts at that moment
    /// would keep it busy, and it could not be run.
    fn script(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        let write = r#"printf '%s' "$2" > "$1" && chmod 755 "$1""#;
        let shell = std::process::Command::new("/bin/sh").args(["-c", write, "sh"]).arg(path).arg(text).status();
        assert!(shell.expect("a shell").success());
    }

    fn environment(&self) -> Environment {
        Environment::new(self.vars.iter().map(|(name, value)| (*name, value.as_str())), self.path("work"))
    }

    fn discover(&self) -> Discovery {
        discover(&self.environment())
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(self.path("")).unwrap_or(path).display().to_string()
    }

    fn found(&self, discovery: &Discovery) -> Vec<String> {
        let shown = |found: &Found| {
            format!("{} {} ({})", found.kernelspec.name, self.relative(&found.dir), found.origin.kind())
        };
        discovery.kernelspecs.iter().map(shown).collect()
    }

    fn problems(&self, discovery: &Discovery) -> Vec<String> {
        let shown = |problem: &Problem| format!("{}: {}", self.relative(&problem.path), problem.reason);
        discovery.problems.iter().map(shown).collect()
    }
}

const USER: &str = "home/.local/share/jupyter/kernels";

#[test]
fn the_first_of_a_name_wins_and_the_others_are_reported() {
    let mut machine = Machine::new();
    machine.set("JUPYTER_PATH", "{}/a:{}/b/");
    machine.program("bin/r");
    machine.kernel("b/kernels/IR", &["r"], "R");
    machine.kernel(&format!("{USER}/ir"), &["r"], "R");
    machine.kernel("system/jupyter/kernels/ir", &["r"], "R");
    machine.kernel("system/jupyter/kernels/other", &["r"], "R");
    let discovery = machine.discover();
    assert_eq!(
        machine.found(&discovery),
        ["ir b/kernels/IR (jupyter-path)", "other system/jupyter/kernels/other (system)"]
    );
    let ir = discovery.find("iR").expect("found");
    let shadowed: Vec<_> = discovery.shadowed_by(ir).map(|found| machine.relative(&found.dir)).collect();
    assert_eq!(shadowed, [format!("{USER}/ir"), "system/jupyter/kernels/ir".to_owned()]);
    assert_eq!(machine.problems(&discovery), Vec::<String>::new());
    let searched: Vec<_> = discovery.searched.iter().map(|dir| (machine.relative(&dir.dir), dir.exists)).collect();
    let expected = [
        ("a/kernels", false),
        ("b/kernels", true),
        (USER, true),
        ("system/jupyter/kernels", true),
        ("home/.ipython/kernels", false),
    ];
    assert_eq!(searched, expected.map(|(dir, exists)| (dir.to_owned(), exists)));
}

#[test]
fn nothing_is_skipped_in_silence() {
    let machine = Machine::new();
    machine.program("bin/ok");
    machine.kernel(&format!("{USER}/good"), &["ok"], "x");
    machine.kernel(&format!("{USER}/odd name"), &["ok"], "x");
    machine.kernel(&format!("{USER}/gone"), &["/no/such/program"], "x");
    machine.kernel(&format!("{USER}/lonely"), &[], "");
    machine.write(&format!("{USER}/README"), "a stray file is nobody's kernel");
    machine.write(&format!("{USER}/empty/logo.png"), "");
    machine.write(&format!("{USER}/folder/kernel.json/x"), "");
    machine.write(&format!("{USER}/broken/kernel.json"), "{\n  argv: 1}");
    machine.write(&format!("{USER}/latin/kernel.json"), b"{\"language\": \"\xe9\"}");
    symlink("/no/such/folder", machine.path(&format!("{USER}/link"))).expect("a link");
    machine.kernel("system/jupyter/kernels/broken", &["ok"], "x");
    machine.write("home/.ipython/kernels", "a file where a folder should be");
    let discovery = machine.discover();
    assert_eq!(
        machine.found(&discovery),
        ["gone", "good", "lonely", "odd name"].map(|name| format!("{name} {USER}/{name} (user)"))
    );
    let mut problems = machine.problems(&discovery);
    problems.sort();
    let mut expected = [
        "broken/kernel.json: not JSON: key must be a string at line 2 column 3",
        "empty: skipped: no kernel.json in it",
        "folder: skipped: its kernel.json is not a file",
        "gone/kernel.json: starts `/no/such/program`, which is not installed",
        "latin/kernel.json: not UTF-8: invalid utf-8 sequence of 1 bytes from index 14",
        "link: skipped: a link that leads nowhere: No such file or directory (os error 2)",
        "lonely/kernel.json: `argv` is empty, so the kernel cannot be launched",
        "lonely/kernel.json: `language` is missing, so no language folder can match it",
        "odd name: its name should only hold ASCII letters, digits, `-`, `.` and `_`",
    ]
    .map(|problem| format!("{USER}/{problem}"))
    .to_vec();
    let broken = machine.path(&format!("{USER}/broken"));
    expected.push(format!(
        "system/jupyter/kernels/broken/kernel.json: hidden by {}, which cannot be used",
        broken.display()
    ));
    expected.push("home/.ipython/kernels: cannot be searched: Not a directory (os error 20)".to_owned());
    expected.sort();
    assert_eq!(problems, expected);

    let error = discovery.find("Broken").expect_err("unusable").to_string();
    let reason = "not JSON: key must be a string at line 2 column 3";
    assert_eq!(error, format!("kernelspec `broken` cannot be used: {}/kernel.json: {reason}", broken.display()));
}

#[test]
fn names_that_differ_only_in_case_are_one_and_lower_case_wins() {
    let machine = Machine::new();
    machine.program("bin/ok");
    for name in ["Lua", "LUA", "lua"] {
        machine.kernel(&format!("{USER}/{name}"), &["ok"], "lua");
    }
    let discovery = machine.discover();
    assert_eq!(machine.found(&discovery), [format!("lua {USER}/lua (user)")]);
    let hidden: Vec<_> = discovery.shadowed.iter().map(|shadowed| machine.relative(&shadowed.found.dir)).collect();
    assert_eq!(hidden, [format!("{USER}/LUA"), format!("{USER}/Lua")]);
}

#[test]
fn an_unknown_name_is_answered_with_all_that_exist_and_where_they_were_searched() {
    let machine = Machine::new();
    machine.program("bin/ok");
    machine.kernel(&format!("{USER}/bash"), &["ok"], "bash");
    machine.kernel(&format!("{USER}/ir"), &["ok"], "R");
    let discovery = machine.discover();
    let looked = [USER, "system/jupyter/kernels", "home/.ipython/kernels"]
        .map(|dir| machine.path(dir).display().to_string())
        .join(", ");
    let message = |name: &str| discovery.find(name).expect_err("unknown").to_string();
    let rest = format!("found `bash`, `ir`; looked in {looked}");
    assert_eq!(message("Bahs"), format!("no kernelspec `Bahs` (did you mean `bash`?); {rest}"));
    assert_eq!(message("ba"), format!("no kernelspec `ba` (did you mean `bash`?); {rest}"));
    assert_eq!(message("julia"), format!("no kernelspec `julia`; {rest}"));
    let none = Machine::new().discover().find("ir").expect_err("unknown").to_string();
    assert!(none.starts_with("no kernelspec `ir`; found none; looked in /"), "{none}");
}

#[test]
fn one_directory_under_two_names_is_searched_once() {
    let mut machine = Machine::new();
    machine.set("JUPYTER_PATH", "{}/link:{}/home/.local/share/jupyter");
    machine.program("bin/ok");
    machine.kernel(&format!("{USER}/x"), &["ok"], "x");
    symlink(machine.path("home/.local/share/jupyter"), machine.path("link")).expect("a link");
    let discovery = machine.discover();
    assert_eq!(machine.found(&discovery), ["x link/kernels/x (jupyter-path)"]);
    assert_eq!(discovery.shadowed, []);
}

#[test]
fn the_environment_is_the_activated_one_else_that_of_python3_on_path() {
    let check = |vars: &[(&'static str, &str)], expected: Option<(&str, &str)>| {
        let mut machine = Machine::new();
        for dir in ["venv", "conda"] {
            machine.program(&format!("{dir}/bin/python3"));
        }
        machine.write("venv/pyvenv.cfg", "home = /usr/bin\nInclude-System-Site-Packages = FALSE\n");
        machine.program("plain/bin/python3.11");
        machine.write("plain/lib/python3.11/os.py", "");
        symlink("python3.11", machine.path("plain/bin/python3")).expect("a link");
        machine.program("links/bin/x");
        symlink(machine.path("plain/bin/python3"), machine.path("links/bin/python3")).expect("a link");
        machine.script("shim/python3", "#!/bin/sh\nprintf '/the/prefix\\000/the/prefix/bin/python3'\n");
        machine.script("broken/python3", "#!/bin/sh\nexit 3\n");
        for (name, value) in vars {
            machine.set(name, value);
        }
        let prefix = Prefix::find(&machine.environment(), &mut Vec::new());
        let shown = prefix.as_ref().map(|prefix| (machine.relative(&prefix.dir), prefix.how.to_string()));
        let shown = shown.as_ref().map(|(dir, how)| (dir.as_str(), how.rsplit('/').next().unwrap_or(how)));
        assert_eq!(shown, expected, "{vars:?}");
    };
    check(&[("VIRTUAL_ENV", "{}/venv"), ("CONDA_PREFIX", "{}/conda")], Some(("venv", "VIRTUAL_ENV")));
    check(&[("VIRTUAL_ENV", "{}/none"), ("CONDA_PREFIX", "{}/conda")], Some(("conda", "CONDA_PREFIX")));
    check(&[("VIRTUAL_ENV", ""), ("PATH", "{}/nowhere:{}/venv/bin")], Some(("venv", "python3 on PATH")));
    check(&[("PATH", "{}/plain/bin")], Some(("plain", "python3 on PATH")));
    check(&[("PATH", "{}/links/bin")], Some(("plain", "python3 on PATH")));
    check(&[("PATH", "{}/plain/bin"), ("PYTHONHOME", "{}/conda:{}/x")], Some(("conda", "python3 on PATH")));
    check(&[("PATH", "{}/shim")], Some(("/the/prefix", "python3 on PATH")));
    check(&[("PATH", "{}/broken")], None);
    check(&[("PATH", "{}/nowhere")], None);
}

#[test]
fn a_script_that_starts_no_python_is_a_problem() {
    let machine = Machine::new();
    machine.script("bin/python3", "#!/bin/sh\nexit 3\n");
    let problems = machine.problems(&machine.discover());
    assert_eq!(problems, ["bin/python3: is a script that starts no Python (exit status: 3)"]);
}

#[test]
fn a_venv_of_ones_own_goes_before_the_user_and_hides_pips_user_folder() {
    let mut machine = Machine::new();
    machine.set("VIRTUAL_ENV", "{}/venv");
    machine.set("PYTHONUSERBASE", "{}/base");
    machine.program("venv/bin/python3");
    machine.write("venv/pyvenv.cfg", "include-system-site-packages = false\n");
    let dirs = ["venv/share/jupyter/kernels", USER, "base/share/jupyter/kernels"];
    for dir in dirs {
        machine.kernel(&format!("{dir}/x"), &["python"], "x");
    }
    let winner = |machine: &Machine| machine.relative(&machine.discover().find("x").expect("found").dir);
    let seen = |machine: &Machine| machine.discover().searched.iter().filter(|dir| dir.exists).count();
    assert_eq!((winner(&machine), seen(&machine)), (format!("{}/x", dirs[0]), 2));
    machine.set("JUPYTER_PREFER_ENV_PATH", "no");
    assert_eq!(winner(&machine), format!("{}/x", dirs[1]));
    machine.write("venv/pyvenv.cfg", "include-system-site-packages = true\n");
    assert_eq!(seen(&machine), 3);
}

#[test]
fn a_bare_python_is_that_of_the_owner_of_the_kernelspec() {
    let mut machine = Machine::new();
    machine.set("VIRTUAL_ENV", "{}/venv");
    machine.set("JUPYTER_PATH", "{}/other/share/jupyter");
    machine.set("DATA", "d");
    machine.write("venv/pyvenv.cfg", "");
    for program in ["venv/bin/python3", "other/bin/python", "other/bin/python3.9", "bin/python3"] {
        machine.program(program);
    }
    let check = |dir: &str, argv: &[&str], expected: &[&str]| {
        machine.kernel(&format!("{dir}/k"), argv, "x");
        let discovery = machine.discover();
        let found = discovery.find("k").expect("found");
        let shown: Vec<_> = found.argv(Path::new("/c"), &machine.environment());
        let shown: Vec<_> = shown.iter().map(|argument| machine.relative(Path::new(argument))).collect();
        assert_eq!(shown, expected, "{argv:?}");
        std::fs::remove_dir_all(machine.path(dir)).expect("removed");
    };
    let other = "other/share/jupyter/kernels";
    check(other, &["python", "{prefix}/x"], &["other/bin/python", "other/x"]);
    check(other, &["python3.9"], &["other/bin/python3.9"]);
    check(other, &["python3"], &["other/bin/python"]);
    check(USER, &["python3", "{prefix}/x"], &["venv/bin/python3", "venv/x"]);
    check(USER, &["python3.9"], &["venv/bin/python3"]);
    check(USER, &["x", "{connection_file}", "~/x"], &["x", "/c", "home/x"]);
}

#[test]
fn ipykernel_is_python3_when_nothing_else_is() {
    let mut machine = Machine::new();
    machine.set("VIRTUAL_ENV", "{}/venv");
    machine.write("venv/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n");
    machine.program("venv/bin/python3.12");
    symlink("python3.12", machine.path("venv/bin/python3")).expect("a link");
    assert_eq!(machine.found(&machine.discover()), Vec::<String>::new());
    let package = "venv/lib/python3.12/site-packages/ipykernel";
    machine.write(&format!("{package}/kernelspec.py"), "");
    let discovery = machine.discover();
    assert_eq!(machine.found(&discovery), [format!("python3 {package}/resources (package)")]);
    let argv = discovery.kernelspecs[0].argv(Path::new("/c"), &machine.environment());
    assert_eq!(argv[0], machine.path("venv/bin/python3"));
    assert_eq!(argv[1..], ["-m", "ipykernel_launcher", "-f", "/c"]);
    machine.kernel(&format!("{USER}/python3"), &["python"], "python");
    assert_eq!(machine.found(&machine.discover()), [format!("python3 {USER}/python3 (user)")]);
}

#[test]
fn the_callers_directories_come_first() {
    let machine = Machine::new();
    machine.program("bin/ok");
    machine.kernel("mine/x", &["ok"], "x");
    machine.kernel(&format!("{USER}/x"), &["ok"], "x");
    let discovery = discover(&machine.environment().with_kernels_in(machine.path("mine")));
    assert_eq!(machine.found(&discovery), ["x mine/x (extra)"]);
}

/// A language folder in the user's configuration, with a shim.
fn language(machine: &Machine, name: &str, kernelspec: &str, install: &str) {
    let root = format!("home/.config/kernelbridge/kernelspecs/{name}");
    let text = format!(
        "name = '{name}'\ndisplay-name = '{name}'\nextension = 'x'\n[kernelspec]\n{kernelspec}\n\
         [shim]\nfile = 'shim.x'\n[turn]\njupyter = 'go'\n{install}"
    );
    Language::parse(&text).expect("parses");
    machine.write(&format!("{root}/language.toml"), text);
    machine.write(&format!("{root}/shim.x"), "");
}

#[test]
fn a_language_gets_its_preferred_kernelspec_that_can_start() {
    let machine = Machine::new();
    machine.program("bin/lua");
    language(&machine, "tlua", "languages = ['tlua']\nnames = ['second', 'first']\nargv = ['one', 'two']", "");
    let chosen = |names: &[(&str, &[&str])]| {
        for (name, argv) in names {
            machine.kernel(&format!("{USER}/{name}"), argv, "TLua");
        }
        let languages = Languages::load(&machine.environment(), &[]);
        let discovery = machine.discover();
        languages.kernelspec_for(&discovery, "tlua").map(|found| found.kernelspec.name.clone())
    };
    assert_eq!(chosen(&[("another", &["lua", "-one"])]).expect("found"), "another");
    assert_eq!(chosen(&[("first", &["lua", "two"])]).expect("found"), "first");
    assert_eq!(chosen(&[("second", &["nolua", "two"])]).expect("found"), "first");
    assert_eq!(chosen(&[("second", &["lua", "two"])]).expect("found"), "second");
    assert_eq!(chosen(&[("second", &["lua", "three"])]).expect("found"), "first");
}

#[test]
fn a_language_without_a_kernelspec_says_what_to_do() {
    let machine = Machine::new();
    machine.program("bin/lua");
    language(
        &machine,
        "tlua",
        "languages = ['tlua']\nnames = ['tlua']\nargv = ['ilua', 'i2']",
        "[install]\npypi = ['x']\n",
    );
    language(&machine, "tlisp", "languages = ['tlisp']", "");
    let message = |word: &str| {
        let languages = Languages::load(&machine.environment(), &[]);
        languages.kernelspec_for(&machine.discover(), word).expect_err("none").to_string()
    };
    let searched = [USER, "system/jupyter/kernels", "home/.ipython/kernels"]
        .map(|dir| machine.path(dir).display().to_string())
        .join(", ");
    assert_eq!(
        message("tlua"),
        format!("no kernelspec of language `tlua` in {searched}\nhint: run `kernelbridge install tlua`")
    );
    assert_eq!(
        message("tlisp"),
        format!(
            "no kernelspec of language `tlisp` in {searched}\n\
             hint: install a Jupyter kernel for tlisp; there is no recipe for it"
        )
    );
    machine.kernel(&format!("{USER}/xlua"), &["lua"], "tlua");
    assert_eq!(
        message("tlua"),
        "only basic support for language `tlua`: its shim runs on kernels that start `ilua` or `i2`, and there is only \
         `xlua`\nhint: run `kernelbridge install tlua`, or write `kernel = \"xlua\"` in the manifest"
    );
    machine.kernel(&format!("{USER}/tlua"), &["nolua", "ilua"], "tlua");
    assert_eq!(
        message("tlua"),
        format!(
            "kernelspec `tlua` of language `tlua` starts `nolua`, which is not installed: {}/kernel.json\n\
             hint: run `kernelbridge install tlua`",
            machine.path(&format!("{USER}/tlua")).display()
        )
    );
    std::fs::remove_dir_all(machine.path(&format!("{USER}/xlua"))).expect("removed");
    machine.write(&format!("{USER}/tlua/kernel.json"), "[]");
    assert_eq!(
        message("tlua"),
        format!(
            "no kernelspec of language `tlua` in {searched}; {}/kernel.json: must hold a JSON object, not a list\n\
             hint: run `kernelbridge install tlua`",
            machine.path(&format!("{USER}/tlua")).display()
        )
    );
    assert!(message("tluaa").starts_with("no language `tluaa` (did you mean `tlua`?); there are "));
}
