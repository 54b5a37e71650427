//! What several test modules need.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kernelbridge::discover::{Discovery, Environment, Languages, discover};

/// What is installed here.
pub struct Installed {
    pub discovery: Discovery,
    pub languages: Languages,
}

impl Installed {
    pub fn look() -> Self {
        let environment = Environment::capture();
        Self { discovery: discover(&environment), languages: Languages::load(&environment, &[]) }
    }

    /// Is there a kernel that runs the language's shim? Prints why not, and fails if `KERNELBRIDGE_REQUIRE` names it.
    pub fn has(&self, language: &str) -> bool {
        let Err(error) = self.languages.kernelspec_for(&self.discovery, language) else { return true };
        assert!(!is_required(language), "`{language}` is required, but {error}");
        println!("skipped: {error}");
        false
    }
}

/// Does `KERNELBRIDGE_REQUIRE` name it?
pub fn is_required(language: &str) -> bool {
    std::env::var("KERNELBRIDGE_REQUIRE").is_ok_and(|required| required.split(',').any(|word| word.trim() == language))
}

/// The repository's folder.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Copy the files of a folder.
pub fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

/// Living processes whose environment has a variable that begins with `mark`.
pub fn processes_with(mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("procfs").flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|&byte| byte == 0).any(|variable| variable.starts_with(mark.as_bytes())) {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push(String::from_utf8_lossy(&command).replace('\0', " "));
        }
    }
    found
}

/// This process's memory.
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}
