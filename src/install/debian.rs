//! Packages of Debian (and of systems made from it): what is there, and the commands that bring the rest.

use std::{path::Path, process::Stdio, time::Duration};

use nix::unistd::geteuid;
use tokio::sync::mpsc::Sender;

use super::{
    InstallError, Progress,
    process::{Command, ask},
};

/// Octave brings 300 packages; on a slow line that takes a while.
const DEADLINE: Duration = Duration::from_secs(45 * 60);
const LISTS: &str = "/var/lib/apt/lists";

/// Debian packages that are missing. Nothing here runs before someone says so with `--yes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// The packages, sorted.
    pub packages: Vec<String>,
    /// The package lists are missing or do not know a package, so `apt-get update` comes first.
    pub update: bool,
    /// Are we root? Nothing here calls `sudo` on its own.
    pub root: bool,
}

impl System {
    /// Which of the packages are missing; `None` when this is no Debian.
    pub(super) async fn inspect(packages: &[String]) -> Option<Self> {
        if !ask("apt-get", &["--version"]).await.0 {
            return None;
        }
        let names: Vec<&str> = packages.iter().map(String::as_str).collect();
        // dpkg-query fails as soon as one package is unknown, and still prints the others.
        let query = [&["--show", "--showformat", "${Package} ${db:Status-Status}\\n"], names.as_slice()].concat();
        let packages = not_installed(packages, &ask("dpkg-query", &query).await.1);
        let names: Vec<&str> = packages.iter().map(String::as_str).collect();
        let update = !names.is_empty()
            && (!has_lists(Path::new(LISTS))
                || !all_known(&packages, &ask("apt-cache", &[&["policy"], names.as_slice()].concat()).await.1));
        Some(Self { packages, update, root: geteuid().is_root() })
    }

    /// One installation instead of many: `apt-get` is slow to start, and asks the person once.
    pub fn merged<'a>(systems: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        systems.into_iter().cloned().reduce(|mut all, one| {
            all.packages.extend(one.packages);
            all.packages.sort();
            all.packages.dedup();
            all.update |= one.update;
            all
        })
    }

    fn update(&self) -> Command {
        let mut command = Command::new("apt-get", ["update"], DEADLINE);
        command.hint = Some("is the network there?".into());
        command
    }

    fn install(&self) -> Command {
        let options = ["install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"];
        let words = options.into_iter().map(String::from).chain(self.packages.iter().cloned());
        let mut command = Command::new("apt-get", words, DEADLINE);
        command.env.push(("DEBIAN_FRONTEND".into(), "noninteractive".into()));
        command.hint = Some(format!("run it by hand to see more: {command}"));
        command
    }

    /// Exactly what will run, in order.
    pub fn commands(&self) -> Vec<Command> {
        let update = self.update.then(|| self.update());
        update.into_iter().chain([self.install()]).collect()
    }

    /// May we?
    ///
    /// # Errors
    ///
    /// - [`InstallError::NeedsRoot`] with what the person should run.
    /// - [`InstallError::NeedsYes`] with what would run.
    pub fn permission(&self, yes: bool) -> Result<(), InstallError> {
        if self.packages.is_empty() {
            return Ok(());
        }
        if !self.root {
            let mut commands =
                vec![format!("sudo apt-get install --no-install-recommends {}", self.packages.join(" "))];
            if self.update {
                commands.insert(0, "sudo apt-get update".into());
            }
            return Err(InstallError::NeedsRoot { commands });
        }
        if !yes {
            return Err(InstallError::NeedsYes { commands: self.commands().iter().map(Command::to_string).collect() });
        }
        Ok(())
    }

    /// Install the packages.
    ///
    /// # Errors
    ///
    /// As [`permission`](Self::permission), and as [`Command::run`].
    pub async fn run(&self, yes: bool, progress: &Sender<Progress>) -> Result<(), InstallError> {
        self.permission(yes)?;
        if self.packages.is_empty() {
            return Ok(());
        }
        let commands = self.commands();
        for (index, command) in commands.iter().enumerate() {
            Progress::step(progress, index + 1, commands.len(), command.to_string()).await;
            let ended = command.run(Stdio::null(), progress).await;
            // Lists that are merely old name files that the archive no longer has.
            let stale = |tail: &str| tail.contains("404") || tail.contains("apt-get update");
            match ended {
                Err(InstallError::Failed { tail, .. }) if !self.update && stale(&tail) => {
                    for command in [self.update(), command.clone()] {
                        Progress::step(progress, index + 1, commands.len(), format!("old lists: {command}")).await;
                        command.run(Stdio::null(), progress).await?;
                    }
                }
                ended => ended?,
            }
        }
        Ok(())
    }
}

fn not_installed(packages: &[String], dpkg: &str) -> Vec<String> {
    let installed = |package: &String| dpkg.lines().any(|line| line == format!("{package} installed"));
    let mut missing: Vec<String> = packages.iter().filter(|package| !installed(package)).cloned().collect();
    missing.sort();
    missing.dedup();
    missing
}

/// Does `apt-cache policy` know a version of every package?
fn all_known(packages: &[String], policy: &str) -> bool {
    packages.iter().all(|package| {
        let mut lines = policy.lines().skip_while(|line| *line != format!("{package}:")).skip(1);
        lines.find_map(|line| line.trim().strip_prefix("Candidate: ")).is_some_and(|candidate| candidate != "(none)")
    })
}

fn has_lists(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn system(packages: &[&str], update: bool, root: bool) -> System {
        System { packages: strings(packages), update, root }
    }

    #[test]
    fn only_what_dpkg_calls_installed_is_installed() {
        let dpkg = "octave installed\njq config-files\nlua5.4 not-installed\n";
        assert_eq!(
            not_installed(&strings(&["octave", "jq", "lua5.4", "swi-prolog-nox"]), dpkg),
            ["jq", "lua5.4", "swi-prolog-nox"]
        );
    }

    #[test]
    fn a_package_without_a_candidate_is_unknown() {
        let policy = "jq:\n  Installed: (none)\n  Candidate: 1.6\noctave:\n  Installed: (none)\n  Candidate: (none)\n";
        assert!(all_known(&strings(&["jq"]), policy));
        assert!(!all_known(&strings(&["jq", "octave"]), policy));
        assert!(!all_known(&strings(&["nonesuch"]), policy));
    }

    #[test]
    fn package_lists_are_found_by_their_names() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(!has_lists(&folder.path().join("nowhere")));
        std::fs::create_dir(folder.path().join("partial")).expect("a folder");
        assert!(!has_lists(folder.path()));
        std::fs::write(folder.path().join("mirror_dists_x_main_binary-amd64_Packages.lz4"), "").expect("a file");
        assert!(has_lists(folder.path()));
    }

    #[test]
    fn nothing_runs_without_yes_and_nothing_calls_sudo() {
        let install = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o \
                       DPkg::Lock::Timeout=300 octave";
        let error = system(&["octave"], true, true).permission(false).expect_err("asks").to_string();
        assert_eq!(
            error,
            format!("Debian packages are installed only with `--yes`; this would run:\n  apt-get update\n  {install}")
        );
        let error = system(&["octave"], true, false).permission(true).expect_err("refuses").to_string();
        assert_eq!(
            error,
            "only root installs Debian packages; run this first:\n  sudo apt-get update\n  sudo apt-get install \
             --no-install-recommends octave"
        );
        assert!(system(&["octave"], false, true).permission(true).is_ok());
        assert!(system(&[], false, false).permission(false).is_ok());
    }

    #[test]
    fn many_languages_are_one_installation() {
        let all = [system(&["octave", "lua5.4"], false, true), system(&["lua5.4", "jq"], true, true)];
        assert_eq!(System::merged(&all), Some(system(&["jq", "lua5.4", "octave"], true, true)));
        assert_eq!(System::merged(&[]), None);
    }
}
