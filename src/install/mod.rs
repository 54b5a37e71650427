//! Install kernels by the recipes of the language folders: one managed environment and one kernelspec a language.
//!
//! `plan` looks at what is there and says what would run; `Plan::run` does it under a lock. Every command has a
//! deadline, an environment cut short is made anew, and a second run does nothing. Starting the kernel to see that it
//! works is the caller's part: nothing here speaks to kernels, and nothing here is ever run with `sudo`.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc::Sender, time::sleep};

mod debian;
mod error;
mod found;
mod process;
mod recipe;
mod steps;

use self::found::Found;
pub use self::{
    debian::System,
    error::InstallError,
    process::Command,
    recipe::{Files, Recipe},
    steps::Step,
};
use crate::language::Language;

/// Longer than any single installation.
const LOCK_PATIENCE: Duration = Duration::from_secs(60 * 60);
const LOCK_POLL: Duration = Duration::from_millis(200);

/// Where things go, and what may be done.
#[derive(Debug, Clone)]
pub struct Options {
    /// Our own folder: environments are made in `environments/<language>` in it.
    pub data: PathBuf,
    /// The user's Jupyter data folder: kernelspecs are registered in `kernels/` in it.
    pub jupyter: PathBuf,
    /// The Python that makes virtual environments.
    pub python: String,
    /// May Debian packages be installed?
    pub yes: bool,
    /// Make the environment anew although it is complete.
    pub reinstall: bool,
}

/// What is going on, for whoever watches.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Another process installs the same language; we go on when it is done.
    Waiting {
        /// The lock file.
        path: PathBuf,
    },
    /// A step begins.
    Step {
        /// Which one, from 1.
        number: usize,
        /// Of how many.
        of: usize,
        /// What it does.
        title: String,
    },
    /// A line of a running command's output. Lost when the reader is slow.
    Line(String),
}

impl Progress {
    async fn step(progress: &Sender<Self>, number: usize, of: usize, title: String) {
        // Nobody has to watch.
        let _ = progress.send(Self::Step { number, of, title }).await;
    }
}

/// A kernel that is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Installed {
    /// The language's name.
    pub language: String,
    /// The kernelspec's name: `kernelbridge-lua`.
    pub kernelspec_name: String,
    /// The folder of its `kernel.json`.
    pub kernelspec_folder: PathBuf,
    /// The managed environment; absent when the system brings everything.
    pub environment: Option<PathBuf>,
    /// Nothing had to be done.
    pub already: bool,
    /// It was started since it was installed, and worked.
    pub verified: bool,
    #[serde(skip)]
    seal: Seal,
}

/// Remembers which installation was seen to work.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seal {
    path: PathBuf,
    text: String,
}

/// What would be done for one language.
#[derive(Debug, Clone)]
pub struct Plan {
    recipe: Recipe,
    options: Options,
    system: Option<System>,
    steps: Vec<Step>,
}

impl Options {
    /// Nothing may be done to the system, and nothing is made anew.
    pub fn new(data: PathBuf, jupyter: PathBuf) -> Self {
        Self { data, jupyter, python: "python3".into(), yes: false, reinstall: false }
    }

    /// A language's managed environment.
    pub fn environment(&self, recipe: &Recipe) -> PathBuf {
        self.data.join("environments").join(&recipe.language)
    }

    /// The folder of a language's registered `kernel.json`.
    pub fn kernelspec_folder(&self, recipe: &Recipe) -> PathBuf {
        self.jupyter.join("kernels").join(recipe.kernelspec_name())
    }

    /// A file of ours beside the environment, which may be removed as a whole.
    fn beside(&self, recipe: &Recipe, extension: &str) -> PathBuf {
        self.data.join("environments").join(format!(".{}.{extension}", recipe.language))
    }

    fn seal(&self, recipe: &Recipe) -> Seal {
        let kernelspec = recipe.kernelspec(&self.environment(recipe));
        let text = Sha256::digest(kernelspec).iter().map(|byte| format!("{byte:02x}")).collect();
        Seal { path: self.beside(recipe, "verified"), text }
    }
}

/// What must be done to have a language's kernel. Reads the machine and changes nothing.
///
/// # Errors
///
/// Everything in [`InstallError`] that can be known before the first change, such as
/// [`ByHand`](InstallError::ByHand), [`PythonTooOld`](InstallError::PythonTooOld) and
/// [`Foreign`](InstallError::Foreign). Missing Debian packages are no error yet: see [`Plan::system`].
pub async fn plan(language: &Language, files: &Files, options: &Options) -> Result<Plan, InstallError> {
    Plan::new(Recipe::new(language, files)?, options.clone()).await
}

impl Plan {
    async fn new(recipe: Recipe, options: Options) -> Result<Self, InstallError> {
        let found = Found::inspect(&recipe, &options).await?;
        let system = steps::system(&recipe, &found, &options)?;
        let steps = steps::steps(&recipe, &found, &options)?;
        Ok(Self { recipe, options, system, steps })
    }

    /// The language's name.
    pub fn language(&self) -> &str {
        &self.recipe.language
    }

    /// Debian packages that must come first. [`run`](Self::run) installs them; whoever installs many languages may
    /// run them all at once before ([`System::merged`]).
    pub fn system(&self) -> Option<&System> {
        self.system.as_ref()
    }

    /// What would be done, one line each, and exactly the commands that would run.
    pub fn describe(&self) -> Vec<String> {
        let system = self.system.iter().flat_map(System::commands).map(|command| format!("run {command}"));
        system.chain(self.steps.iter().map(Step::describe)).collect()
    }

    /// Is there nothing to do?
    pub fn is_done(&self) -> bool {
        self.system.is_none() && self.steps.is_empty()
    }

    /// Do it. Looks again first, under the lock: another process may have done it meanwhile.
    ///
    /// Dropping the future ends the running command; the next run makes what it left anew.
    ///
    /// # Errors
    ///
    /// Everything in [`InstallError`].
    pub async fn run(self, progress: &Sender<Progress>) -> Result<Installed, InstallError> {
        let Self { recipe, options, .. } = self;
        let seal = options.seal(&recipe);
        let lock = take_lock(&options.beside(&recipe, "lock"), progress).await?;
        let old = options.beside(&recipe, "old");
        delete(&old).await?;
        let mut plan = Self::new(recipe, options).await?;
        let already = plan.is_done();
        plan.system.iter().try_for_each(|system| system.permission(plan.options.yes))?;
        if !already {
            remove_file(&seal.path)?;
        }
        if let Some(system) = plan.system.take() {
            system.run(plan.options.yes, progress).await?;
            plan = Self::new(plan.recipe, plan.options).await?;
            if let Some(system) = plan.system {
                return Err(InstallError::StillMissing { what: system.packages.join(" and ") });
            }
        }
        let Self { recipe, options, steps, .. } = plan;
        for (index, step) in steps.iter().enumerate() {
            Progress::step(progress, index + 1, steps.len(), step.describe()).await;
            match step {
                // Moved away first: half a folder without its marker would look like somebody else's.
                Step::Remove { folder, .. } => {
                    fs::rename(folder, &old).map_err(InstallError::io("move", folder))?;
                    delete(&old).await?;
                }
                Step::Write { path, text, .. } => write(path, text)?,
                // The lock is the command's stdin, an empty file: should we be killed, it holds until the command ends.
                Step::Run(command) => {
                    let stdin = lock.try_clone().map_err(InstallError::io("open", command.program.clone()))?;
                    command.run(Stdio::from(stdin), progress).await?;
                }
            }
        }
        let verified = fs::read_to_string(&seal.path).is_ok_and(|text| text == seal.text);
        Ok(Installed {
            kernelspec_name: recipe.kernelspec_name(),
            kernelspec_folder: options.kernelspec_folder(&recipe),
            environment: recipe.has_environment().then(|| options.environment(&recipe)),
            language: recipe.language,
            already,
            verified,
            seal,
        })
    }
}

impl Installed {
    /// Remember that the kernel was started and worked, so that the next run need not try again.
    ///
    /// # Errors
    ///
    /// [`InstallError::Io`] when the note cannot be written.
    pub fn mark_verified(&mut self) -> Result<(), InstallError> {
        write(&self.seal.path, &self.seal.text)?;
        self.verified = true;
        Ok(())
    }
}

/// One installation of a language at a time. The lock ends with the process and its children, however they end.
async fn take_lock(path: &Path, progress: &Sender<Progress>) -> Result<Flock<File>, InstallError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(InstallError::io("make the folder", folder))?;
    }
    let open = File::options().create(true).truncate(false).read(true).write(true).open(path);
    let mut file = open.map_err(InstallError::io("open", path))?;
    let started = Instant::now();
    let mut said = false;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK)) => file = again,
            Err((_, errno)) => return Err(InstallError::io("lock", path)(errno.into())),
        }
        if !said {
            said = true;
            let _ = progress.send(Progress::Waiting { path: path.into() }).await;
        }
        if started.elapsed() > LOCK_PATIENCE {
            return Err(InstallError::Locked { path: path.into(), waited: started.elapsed() });
        }
        sleep(LOCK_POLL).await;
    }
}

/// Delete a folder; it need not be there.
async fn delete(folder: &Path) -> Result<(), InstallError> {
    match tokio::fs::remove_dir_all(folder).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(InstallError::io("remove", folder)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(InstallError::io("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Write a file whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), InstallError> {
    let attempt = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Temporary files are private unless told otherwise; a kernelspec is as readable as the umask allows.
        let permissions = Permissions::from_mode(0o666);
        let mut file =
            tempfile::Builder::new().prefix(".kernelbridge-").permissions(permissions).tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    attempt().map_err(InstallError::io("write", path))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{Receiver, channel};

    use super::{recipe::tests::*, *};

    /// Stands for Python, venv and pip, so that no network is needed: `fails` beside it makes pip fail.
    const PYTHON: &str = r#"#!/bin/sh
        case "$*" in
            *"-m venv"*) mkdir "$4/bin" && cp "$0" "$4/bin/python" ;;
            *"-m pip"*) echo pip at work; test ! -e FOLDER/fails ;;
            *ensurepip*) echo 3 11 1 /opt ;;
        esac
    "#;

    /// A plan whose programs are all pretended, in a folder of its own.
    async fn plan_in(folder: &Path, install: &str) -> Result<Plan, InstallError> {
        let mut options = Options::new(folder.join("data"), folder.join("jupyter"));
        let python = folder.join("python");
        if !python.exists() {
            fs::write(&python, PYTHON.replace("FOLDER", &folder.to_string_lossy())).expect("written");
            fs::set_permissions(&python, Permissions::from_mode(0o755)).expect("executable");
        }
        options.python = python.to_string_lossy().into_owned();
        plan(&language(install), &files(), &options).await
    }

    const PYPI: &str = "[install]\npypi = [\"ilua==1\"]";
    const SYSTEM: &str = "[install]\ndebian = [\"lua5.4\"]\nprograms = [\"sh\"]";

    fn titles(news: &mut Receiver<Progress>) -> Vec<String> {
        let mut titles = Vec::new();
        while let Ok(one) = news.try_recv() {
            if let Progress::Step { title, .. } = one {
                titles.push(title);
            }
        }
        titles
    }

    #[tokio::test]
    async fn a_second_run_does_nothing_and_remembers_the_check() {
        let folder = tempfile::tempdir().expect("a folder");
        let (progress, mut news) = channel(100);
        for install in [PYPI, SYSTEM] {
            let plan = plan_in(folder.path(), install).await.expect("a plan");
            let described = plan.describe();
            let mut first = plan.run(&progress).await.expect("installed");
            assert!(!first.already && !first.verified);
            assert_eq!(titles(&mut news), described);
            assert!(first.kernelspec_folder.join("kernel.json").is_file());
            assert_eq!(first.environment.is_some(), install == PYPI);
            first.mark_verified().expect("written");
            let second = plan_in(folder.path(), install).await.expect("a plan").run(&progress).await;
            let second = second.expect("installed");
            assert!(second.already && second.verified);
            assert_eq!(titles(&mut news), [""; 0]);
        }
    }

    #[tokio::test]
    async fn an_environment_cut_short_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let (progress, mut news) = channel(100);
        fs::write(folder.path().join("fails"), "").expect("written");
        let failed = plan_in(folder.path(), PYPI).await.expect("a plan").run(&progress).await;
        let Err(InstallError::Failed { tail, hint: Some(_), .. }) = failed else { panic!("{failed:?}") };
        assert_eq!(tail, "  pip at work");
        assert!(!folder.path().join("jupyter").exists(), "a kernel that is not there must not be registered");
        titles(&mut news);
        fs::remove_file(folder.path().join("fails")).expect("removed");
        let installed = plan_in(folder.path(), PYPI).await.expect("a plan").run(&progress).await.expect("installed");
        assert!(!installed.already);
        assert!(titles(&mut news)[0].ends_with("environments/lua (its making was cut short)"));
    }

    #[tokio::test]
    async fn two_at_once_take_turns_and_the_second_finds_it_done() {
        let folder = tempfile::tempdir().expect("a folder");
        let (progress, mut news) = channel(100);
        let held = take_lock(&folder.path().join("data/environments/.lua.lock"), &progress).await.expect("a lock");
        let both = [plan_in(folder.path(), PYPI).await, plan_in(folder.path(), PYPI).await].map(|plan| {
            let progress = progress.clone();
            tokio::spawn(async move { plan.expect("a plan").run(&progress).await.expect("installed").already })
        });
        for _ in 0..2 {
            assert!(matches!(news.recv().await, Some(Progress::Waiting { .. })));
        }
        drop(held);
        let mut already = Vec::new();
        for one in both {
            already.push(one.await.expect("no panic"));
        }
        already.sort_unstable();
        assert_eq!(already, [false, true]);
    }

    #[tokio::test]
    async fn files_are_written_whole_and_readable() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a/b/kernel.json");
        write(&path, "one").expect("written");
        write(&path, "two").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("readable"), "two");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o600, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("a/b")).expect("a folder").count(), 1);
    }
}
