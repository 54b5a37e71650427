//! What is there before an installation: asked of the machine, judged in `steps`.

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{
    InstallError, Options,
    debian::System,
    process::ask,
    recipe::{Marker, Recipe, marker_of_kernelspec, npm_name_and_version},
};

/// The marker's name in a managed environment.
pub(super) const MARKER: &str = "kernelbridge.json";

/// Says version, `ensurepip` (Debian packs it apart) and where this Python comes from.
const ABOUT_PYTHON: &str = "import sys, importlib.util as u; \
    print(*sys.version_info[:2], int(u.find_spec('ensurepip') is not None), sys.base_prefix)";

/// Fails unless every pin given as argument is installed at that version.
const CHECK_PINS: &str = "import sys, importlib.metadata as m\n\
    for pin in sys.argv[1:]:\n\
    \x20   name, _, version = pin.partition('==')\n\
    \x20   if m.version(name.split('[')[0].strip()) != version.strip(): sys.exit(1)\n";

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What the kernel needs of the system and is not there: programs, or what the recipe's probe looks for.
    pub missing: Vec<String>,
    /// `node` or `npm`, when the recipe needs them and they are not on PATH. No recipe brings them.
    pub missing_tools: Vec<String>,
    /// The Python for a virtual environment; asked only when one is to be made.
    pub python: Option<Python>,
    /// The Debian packages that would help; absent on other systems, and when nothing is missing.
    pub debian: Option<System>,
    /// The managed environment.
    pub environment: Environment,
    /// The registered kernelspec.
    pub kernelspec: Registered,
}

/// The Python that would make a virtual environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Python {
    /// Not on PATH, or not a Python 3.
    Missing,
    /// There.
    Found {
        /// Major and minor version.
        version: (u32, u32),
        /// Can it bring pip into a virtual environment?
        ensurepip: bool,
        /// Is it the system's own, so that the system's packages would help?
        of_system: bool,
    },
}

/// The state of a managed environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// The recipe needs none.
    NotNeeded,
    /// There is none.
    Missing,
    /// Its making was cut short.
    HalfMade,
    /// Made by another version of the recipe.
    Outdated,
    /// Complete once, but a check fails now: files are gone, or Python or Node was replaced.
    Broken,
    /// The folder holds something that we did not make.
    Foreign,
    /// As the recipe wants it.
    Ready,
}

/// The state of a registered kernelspec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// There is none.
    Missing,
    /// Ours, but not what the recipe gives now.
    Outdated,
    /// Somebody else's.
    Foreign,
    /// As the recipe wants it.
    Current,
}

impl Found {
    /// Ask the machine.
    pub async fn inspect(recipe: &Recipe, options: &Options) -> Result<Self, InstallError> {
        let install = &recipe.install;
        let environment = environment(recipe, &options.environment(recipe)).await?;
        let kernelspec = registered(recipe, options)?;
        let mut missing: Vec<String> = install
            .programs
            .iter()
            .filter(|program| !is_on_path(program))
            .map(|program| format!("the program `{program}`"))
            .collect();
        if let (true, [program, args @ ..]) = (missing.is_empty(), install.probe.as_slice()) {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            if !ask(program, &args).await.0 {
                missing.push(format!("what `{}` looks for", install.probe.join(" ")));
            }
        }
        let to_be_made = options.reinstall || environment != Environment::Ready;
        let python = match !install.pypi.is_empty() && to_be_made {
            true => Some(python(&options.python).await),
            false => None,
        };
        let missing_tools = match install.npm.is_empty() {
            true => Vec::new(),
            false => ["node", "npm"].into_iter().filter(|tool| !is_on_path(tool)).map(String::from).collect(),
        };
        let wanted = wanted(recipe, &missing, python.as_ref());
        let debian = if wanted.is_empty() { None } else { System::inspect(&wanted).await };
        Ok(Self { missing, missing_tools, python, debian, environment, kernelspec })
    }
}

/// The Debian packages that bring what is missing.
fn wanted(recipe: &Recipe, missing: &[String], python: Option<&Python>) -> Vec<String> {
    let mut wanted = match missing.is_empty() {
        true => Vec::new(),
        false => recipe.install.debian.clone(),
    };
    match python {
        Some(Python::Missing) => wanted.extend(["python3".into(), "python3-venv".into()]),
        Some(Python::Found { ensurepip: false, of_system: true, .. }) => wanted.push("python3-venv".into()),
        Some(Python::Found { .. }) | None => {}
    }
    wanted
}

fn is_on_path(program: &str) -> bool {
    let runs =
        |path: PathBuf| fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| runs(folder.join(program)))
}

async fn python(program: &str) -> Python {
    match ask(program, &["-I", "-c", ABOUT_PYTHON]).await {
        (true, answer) => about_python(&answer).unwrap_or(Python::Missing),
        (false, _) => Python::Missing,
    }
}

fn about_python(answer: &str) -> Option<Python> {
    let mut words = answer.trim_end().splitn(4, ' ');
    let version = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let ensurepip = words.next()? == "1";
    Some(Python::Found { version, ensurepip, of_system: words.next()? == "/usr" })
}

fn read(path: &Path) -> Result<Option<String>, InstallError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => Ok(None),
        Err(error) => Err(InstallError::io("read", path)(error)),
    }
}

async fn environment(recipe: &Recipe, folder: &Path) -> Result<Environment, InstallError> {
    if !recipe.has_environment() {
        return Ok(Environment::NotNeeded);
    }
    let Some(text) = read(&folder.join(MARKER))? else {
        // An empty folder is ours as well: we were stopped between making it and marking it.
        let used = folder.exists() && !fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
        return Ok(if used { Environment::Foreign } else { Environment::Missing });
    };
    Ok(match serde_json::from_str::<Marker>(&text) {
        Ok(marker) if marker == recipe.marker(true) => match is_whole(recipe, folder).await {
            true => Environment::Ready,
            false => Environment::Broken,
        },
        Ok(marker) if marker.complete => Environment::Outdated,
        Ok(_) | Err(_) => Environment::HalfMade,
    })
}

/// Does everything still run and has the version that the recipe pins?
async fn is_whole(recipe: &Recipe, folder: &Path) -> bool {
    let install = &recipe.install;
    if !install.pypi.is_empty() {
        let python = folder.join("bin/python");
        let pins = install.pypi.iter().map(String::as_str);
        let args: Vec<&str> = ["-I", "-c", CHECK_PINS].into_iter().chain(pins).collect();
        if !ask(&python.to_string_lossy(), &args).await.0 {
            return false;
        }
    }
    let npm_is_there = install.npm.iter().filter_map(|pin| npm_name_and_version(pin)).all(|(name, version)| {
        let package = read(&folder.join("node_modules").join(name).join("package.json")).ok().flatten();
        let package: Option<serde_json::Value> = package.and_then(|text| serde_json::from_str(&text).ok());
        package.is_some_and(|package| package["version"] == version)
    });
    if !npm_is_there {
        return false;
    }
    match Recipe::words(&install.check, folder).as_slice() {
        [program, args @ ..] => ask(program, &args.iter().map(String::as_str).collect::<Vec<_>>()).await.0,
        [] => true,
    }
}

fn registered(recipe: &Recipe, options: &Options) -> Result<Registered, InstallError> {
    let folder = options.kernelspec_folder(recipe);
    let Some(text) = read(&folder.join("kernel.json"))? else {
        return Ok(Registered::Missing);
    };
    Ok(match marker_of_kernelspec(&text) {
        Some(marker) if marker.language != recipe.language => Registered::Foreign,
        Some(_) if text == recipe.kernelspec(&options.environment(recipe)) => Registered::Current,
        Some(_) => Registered::Outdated,
        None => Registered::Foreign,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::recipe::tests::recipe, *};

    const NPM: &str = "[install]\nnpm = [\"@a/b@1.2\"]\ncheck = [\"test\", \"-e\", \"{env}/whole\"]";

    #[test]
    fn a_python_is_known_by_its_answer() {
        let found = |version, ensurepip, of_system| Some(Python::Found { version, ensurepip, of_system });
        assert_eq!(about_python("3 11 1 /usr\n"), found((3, 11), true, true));
        assert_eq!(about_python("3 9 0 /opt/my python\n"), found((3, 9), false, false));
        assert_eq!(about_python("Python 2.7\n"), None);
        assert_eq!(about_python(""), None);
    }

    #[test]
    fn debian_packages_are_wanted_only_for_what_is_missing() {
        let recipe = recipe("[install]\npypi = [\"x==1\"]\ndebian = [\"lua5.4\"]\nprograms = [\"lua5.4\"]");
        let missing = ["the program `lua5.4`".to_owned()];
        let python = |ensurepip, of_system| Python::Found { version: (3, 11), ensurepip, of_system };
        assert_eq!(wanted(&recipe, &[], None), [""; 0]);
        assert_eq!(wanted(&recipe, &missing, Some(&python(true, true))), ["lua5.4"]);
        assert_eq!(wanted(&recipe, &missing, Some(&python(false, true))), ["lua5.4", "python3-venv"]);
        assert_eq!(wanted(&recipe, &[], Some(&python(false, false))), [""; 0]);
        assert_eq!(wanted(&recipe, &[], Some(&Python::Missing)), ["python3", "python3-venv"]);
    }

    #[test]
    fn programs_are_looked_up_as_a_shell_does() {
        assert!(is_on_path("sh"));
        assert!(!is_on_path("no-such-program"));
        assert!(!is_on_path(""));
    }

    #[tokio::test]
    async fn an_environment_is_ready_only_when_all_of_it_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let environment_of = async |text| environment(&recipe(text), folder.path()).await.expect("readable");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        let marker = |complete| serde_json::to_string(&recipe(NPM).marker(complete)).expect("JSON");

        assert_eq!(environment_of("[install]\ndebian = [\"r\"]").await, Environment::NotNeeded);
        assert_eq!(environment_of(NPM).await, Environment::Missing);
        write("thesis.txt", "years of work");
        assert_eq!(environment_of(NPM).await, Environment::Foreign);
        write(MARKER, &marker(false));
        assert_eq!(environment_of(NPM).await, Environment::HalfMade);
        write(MARKER, "{\"lang");
        assert_eq!(environment_of(NPM).await, Environment::HalfMade);
        write(MARKER, &marker(true));
        assert_eq!(environment_of(NPM).await, Environment::Broken);
        write("node_modules/@a/b/package.json", "{\"version\": \"1.2\"}");
        assert_eq!(environment_of(NPM).await, Environment::Broken);
        write("whole", "");
        assert_eq!(environment_of(NPM).await, Environment::Ready);
        assert_eq!(environment_of(&NPM.replace("1.2", "1.3")).await, Environment::Outdated);
    }

    #[test]
    fn a_kernelspec_that_is_not_ours_is_foreign() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options::new(folder.path().join("data"), folder.path().join("jupyter"));
        let lua = recipe("[install]\npypi = [\"x==1\"]");
        let path = options.kernelspec_folder(&lua).join("kernel.json");
        let check = |text: &str, expected| {
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(&path, text).expect("a file");
            assert_eq!(registered(&lua, &options).expect("readable"), expected, "{text}");
        };
        assert_eq!(registered(&lua, &options).expect("readable"), Registered::Missing);
        let ours = lua.kernelspec(&options.environment(&lua));
        check(&ours, Registered::Current);
        check(&lua.kernelspec(Path::new("/elsewhere")), Registered::Outdated);
        check(&ours.replace("\"lua\",\n      \"recipe", "\"r\",\n      \"recipe"), Registered::Foreign);
        check(r#"{"argv": [], "display_name": "mine"}"#, Registered::Foreign);
        check("", Registered::Foreign);
    }
}
