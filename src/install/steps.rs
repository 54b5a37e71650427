//! What is to be done, decided from what is there. Pure.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    InstallError, Options,
    debian::System,
    found::{Environment, Found, MARKER, Python, Registered},
    process::Command,
    recipe::Recipe,
};

const VENV: Duration = Duration::from_secs(5 * 60);
const PACKAGES: Duration = Duration::from_secs(20 * 60);
const COMMAND: Duration = Duration::from_secs(10 * 60);

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Remove a managed environment of ours.
    Remove {
        /// Its folder.
        folder: PathBuf,
        /// Why it cannot stay.
        why: &'static str,
    },
    /// Write a small file, whole or not at all.
    Write {
        /// Where.
        path: PathBuf,
        /// What.
        text: String,
        /// What it is, for people.
        what: &'static str,
    },
    /// Run a command.
    Run(Command),
}

impl Step {
    /// For people: what it will do, exactly.
    pub fn describe(&self) -> String {
        match self {
            Self::Remove { folder, why } => format!("remove {} ({why})", folder.display()),
            Self::Write { path, what, .. } => format!("write {} ({what})", path.display()),
            Self::Run(command) => format!("run {command}"),
        }
    }
}

/// The Debian packages that must come first, if any.
///
/// # Errors
///
/// - [`InstallError::NotDebian`], [`InstallError::NoPython`], [`InstallError::NoVenv`] and
///   [`InstallError::StillMissing`] when something is missing that no package brings here.
/// - [`InstallError::NoProgram`] and [`InstallError::PythonTooOld`] when the person must act first.
pub fn system(recipe: &Recipe, found: &Found, options: &Options) -> Result<Option<System>, InstallError> {
    let language = || recipe.language.clone();
    if let Some(program) = found.missing_tools.first() {
        return Err(InstallError::NoProgram { language: language(), program: program.clone() });
    }
    if let (Some(needed), Some(Python::Found { version, .. })) = (&recipe.install.python, &found.python)
        && *version < version_of(needed)
    {
        return Err(InstallError::PythonTooOld {
            language: language(),
            program: options.python.clone(),
            found: format!("{}.{}", version.0, version.1),
            needed: needed.clone(),
        });
    }
    if let Some(system) = found.debian.as_ref().filter(|system| !system.packages.is_empty()) {
        return Ok(Some(system.clone()));
    }
    let program = options.python.clone();
    match found.python {
        Some(Python::Missing) => return Err(InstallError::NoPython { program }),
        Some(Python::Found { ensurepip: false, .. }) => return Err(InstallError::NoVenv { program }),
        Some(Python::Found { .. }) | None => {}
    }
    match (found.missing.join(" and "), &found.debian) {
        (needs, _) if needs.is_empty() => Ok(None),
        (needs, None) => {
            Err(InstallError::NotDebian { language: language(), needs, hint: recipe.install.hint.clone() })
        }
        (what, Some(_)) => Err(InstallError::StillMissing { what }),
    }
}

fn version_of(text: &str) -> (u32, u32) {
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    (major.parse().unwrap_or(3), minor.parse().unwrap_or(0))
}

/// What is to be done after that, in order; nothing when all is as it should be.
///
/// # Errors
///
/// [`InstallError::Foreign`] when a folder or file that we would write is somebody else's.
pub fn steps(recipe: &Recipe, found: &Found, options: &Options) -> Result<Vec<Step>, InstallError> {
    let folder = options.environment(recipe);
    let why = match found.environment {
        Environment::Foreign => return Err(InstallError::Foreign { path: folder }),
        Environment::NotNeeded | Environment::Missing => None,
        Environment::HalfMade => Some("its making was cut short"),
        Environment::Outdated => Some("made by another version of the recipe"),
        Environment::Broken => Some("it does not work any more"),
        Environment::Ready => options.reinstall.then_some("asked for"),
    };
    let kernelspec = options.kernelspec_folder(recipe).join("kernel.json");
    if found.kernelspec == Registered::Foreign {
        return Err(InstallError::Foreign { path: kernelspec });
    }
    let mut steps = Vec::new();
    if let Some(why) = why {
        steps.push(Step::Remove { folder: folder.clone(), why });
    }
    if why.is_some() || found.environment == Environment::Missing {
        make(recipe, options, &folder, &mut steps);
    }
    if found.kernelspec != Registered::Current || options.reinstall {
        steps.push(Step::Write { path: kernelspec, text: recipe.kernelspec(&folder), what: "the kernelspec" });
    }
    Ok(steps)
}

/// Make the managed environment. The marker is written first and completed last.
fn make(recipe: &Recipe, options: &Options, folder: &Path, steps: &mut Vec<Step>) {
    let install = &recipe.install;
    let write = |steps: &mut Vec<Step>, name: &str, text: &str, what| {
        steps.push(Step::Write { path: folder.join(name), text: text.into(), what });
    };
    let marker = |complete| serde_json::json!(recipe.marker(complete)).to_string();
    write(steps, MARKER, &marker(false), "begun");
    for name in ["requirements.txt", "package.json", "package-lock.json"] {
        if let Some(text) = recipe.files.get(name) {
            write(steps, name, text, "the pinned packages");
        }
    }
    if !install.pypi.is_empty() {
        steps.push(Step::Run(venv(&options.python, folder)));
        steps.push(Step::Run(pip(recipe, folder)));
    }
    if !install.npm.is_empty() {
        steps.push(Step::Run(npm(recipe, folder)));
    }
    for command in install.commands.iter().chain([&install.check]) {
        if let [program, args @ ..] = Recipe::words(command, folder).as_slice() {
            let mut command = Command::new(program, args, COMMAND);
            command.folder = Some(folder.into());
            steps.push(Step::Run(command));
        }
    }
    write(steps, MARKER, &marker(true), "complete");
}

fn venv(python: &str, folder: &Path) -> Command {
    let folder = folder.to_string_lossy().into_owned();
    let mut command = Command::new(python, ["-I", "-m", "venv", &folder], VENV);
    command.hint = Some("on Debian the package python3-venv is needed".into());
    command
}

fn pip(recipe: &Recipe, folder: &Path) -> Command {
    let python = folder.join("bin/python").to_string_lossy().into_owned();
    let mut words: Vec<String> =
        ["-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
            .map(String::from)
            .to_vec();
    if recipe.files.contains_key("requirements.txt") {
        let pins = folder.join("requirements.txt").to_string_lossy().into_owned();
        words.extend(["--constraint".into(), pins]);
    }
    words.extend(recipe.install.pypi.iter().cloned());
    let mut command = Command::new(python, words, PACKAGES);
    command.hint = Some("is the network there? PIP_INDEX_URL and PIP_CERT are passed on to pip".into());
    command
}

/// Scripts of packages never run on their own: what must be built is a command of the recipe.
fn npm(recipe: &Recipe, folder: &Path) -> Command {
    let words = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"].map(String::from);
    let words: Vec<String> = match recipe.files.contains_key("package-lock.json") {
        true => [String::from("ci")].into_iter().chain(words).collect(),
        false => [String::from("install")].into_iter().chain(words).chain(recipe.install.npm.clone()).collect(),
    };
    let mut command = Command::new("npm", words, PACKAGES);
    command.folder = Some(folder.into());
    command.hint = Some("is the network there? npm's own settings (~/.npmrc) apply".into());
    command
}

#[cfg(test)]
mod tests {
    use super::{super::recipe::tests::recipe, *};

    const LUA: &str = "[install]\npython = \"3.11\"\npypi = [\"ilua==1\"]\ndebian = [\"lua5.4\"]\nprograms = [\"lua5.4\"]\nhint = \"h\"";

    fn options() -> Options {
        Options::new("/data".into(), "/jupyter".into())
    }

    /// Everything is there.
    fn ready() -> Found {
        Found {
            missing: Vec::new(),
            missing_tools: Vec::new(),
            python: None,
            debian: None,
            environment: Environment::Ready,
            kernelspec: Registered::Current,
        }
    }

    fn python(version: (u32, u32), ensurepip: bool) -> Option<Python> {
        Some(Python::Found { version, ensurepip, of_system: true })
    }

    fn described(recipe: &Recipe, found: &Found, options: &Options) -> Vec<String> {
        steps(recipe, found, options).expect("steps").iter().map(Step::describe).collect()
    }

    #[test]
    fn nothing_is_done_when_all_is_there() {
        assert_eq!(system(&recipe(LUA), &ready(), &options()).expect("fine"), None);
        assert_eq!(described(&recipe(LUA), &ready(), &options()), [""; 0]);
    }

    #[test]
    fn a_new_environment_is_marked_first_and_completed_last() {
        let found = Found { environment: Environment::Missing, kernelspec: Registered::Missing, ..ready() };
        let expected = [
            "write /data/environments/lua/kernelbridge.json (begun)",
            "write /data/environments/lua/requirements.txt (the pinned packages)",
            "run python3 -I -m venv /data/environments/lua",
            "run /data/environments/lua/bin/python -I -m pip install --no-input --disable-pip-version-check \
             --progress-bar off --constraint /data/environments/lua/requirements.txt ilua==1",
            "write /data/environments/lua/kernelbridge.json (complete)",
            "write /jupyter/kernels/kernelbridge-lua/kernel.json (the kernelspec)",
        ];
        assert_eq!(described(&recipe(LUA), &found, &options()), expected);
    }

    #[test]
    fn what_does_not_work_is_made_anew_and_a_lost_kernelspec_is_only_written() {
        for (environment, why) in [
            (Environment::HalfMade, "its making was cut short"),
            (Environment::Outdated, "made by another version of the recipe"),
            (Environment::Broken, "it does not work any more"),
        ] {
            let steps = described(&recipe(LUA), &Found { environment, ..ready() }, &options());
            assert_eq!(steps[0], format!("remove /data/environments/lua ({why})"));
            assert!(steps[3].contains("-m venv"), "{steps:?}");
        }
        for kernelspec in [Registered::Missing, Registered::Outdated] {
            let steps = described(&recipe(LUA), &Found { kernelspec, ..ready() }, &options());
            assert_eq!(steps, ["write /jupyter/kernels/kernelbridge-lua/kernel.json (the kernelspec)"]);
        }
        let all = described(&recipe(LUA), &ready(), &Options { reinstall: true, ..options() });
        assert_eq!(all[0], "remove /data/environments/lua (asked for)");
        assert!(all[all.len() - 1].ends_with("(the kernelspec)"));
    }

    #[test]
    fn npm_follows_the_lock_and_runs_no_scripts_but_the_recipes() {
        let text =
            "[install]\nnpm = [\"a@1\"]\ncommands = [[\"npm\", \"run\", \"build\"]]\ncheck = [\"node\", \"{env}/x\"]";
        let mut recipe = recipe(text);
        let found = Found { environment: Environment::Missing, ..ready() };
        recipe.files.remove("requirements.txt");
        let flags = "--ignore-scripts --no-audit --no-fund --no-update-notifier";
        let expected = [
            format!("run npm install {flags} a@1"),
            "run npm run build".into(),
            "run node /data/environments/lua/x".into(),
        ];
        assert_eq!(described(&recipe, &found, &options())[1..4], expected);
        recipe.files.insert("package-lock.json".into(), "{}".into());
        assert_eq!(described(&recipe, &found, &options())[2], format!("run npm ci {flags}"));
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let found = Found { environment: Environment::Foreign, ..ready() };
        let error = steps(&recipe(LUA), &found, &options()).expect_err("refused").to_string();
        assert_eq!(error, "/data/environments/lua was not made by kernelbridge; it is left alone");
        let found = Found { kernelspec: Registered::Foreign, ..ready() };
        let error = steps(&recipe(LUA), &found, &options()).expect_err("refused").to_string();
        assert_eq!(
            error,
            "/jupyter/kernels/kernelbridge-lua/kernel.json was not made by kernelbridge; it is left alone"
        );
    }

    fn refused(found: Found) -> (String, Option<String>) {
        let error = system(&recipe(LUA), &found, &options()).expect_err("refused");
        (error.to_string(), error.hint())
    }

    #[test]
    fn what_no_package_brings_is_said_before_anything_runs() {
        let missing = || vec!["the program `lua5.4`".to_owned()];
        assert_eq!(
            refused(Found { missing: missing(), ..ready() }),
            ("`lua` needs the program `lua5.4` from the system".into(), Some("h".into()))
        );
        let nothing = Some(System { packages: Vec::new(), update: false, root: true });
        assert_eq!(
            refused(Found { missing: missing(), debian: nothing, ..ready() }).0,
            "the program `lua5.4` is missing, although the packages that should bring it are installed"
        );
        assert_eq!(
            refused(Found { python: python((3, 9), true), ..ready() }).0,
            "`python3` is Python 3.9; `lua` needs 3.11 or newer"
        );
        assert_eq!(
            refused(Found { python: python((3, 11), false), ..ready() }),
            (
                "`python3` cannot make virtual environments: its module `ensurepip` is missing".into(),
                Some("on Debian this is the package python3-venv".into())
            )
        );
        assert_eq!(
            refused(Found { python: Some(Python::Missing), ..ready() }).0,
            "no program `python3` that runs Python 3"
        );
        assert_eq!(
            refused(Found { missing_tools: vec!["npm".into()], ..ready() }).0,
            "`lua` needs the program `npm`, which is not on PATH"
        );
    }

    #[test]
    fn missing_packages_come_first() {
        let packages = Some(System { packages: vec!["lua5.4".into()], update: false, root: true });
        let found = Found {
            missing: vec!["the program `lua5.4`".into()],
            debian: packages.clone(),
            python: python((3, 13), false),
            ..ready()
        };
        assert_eq!(system(&recipe(LUA), &found, &options()).expect("fine"), packages);
    }
}
