//! A language folder's recipe, read and checked. Pure.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::InstallError;
use crate::language::{Install, Language};

/// The text files of a language folder by name: `kernel.json`, `requirements.txt`, `package-lock.json`.
pub type Files = BTreeMap<String, String>;

/// Raised when managed environments are made in another way than before, so that the old ones are made anew.
const LAYOUT: u32 = 1;

/// What `install` knows about one language.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The language's name.
    pub language: String,
    /// Its `[install]` table.
    pub install: Install,
    /// The other files of its folder.
    pub files: Files,
    /// `kernel.json`, still with `{env}` in it.
    kernelspec: Value,
}

/// What a managed environment and a registered kernelspec say about themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The language they are for.
    pub language: String,
    /// [`Recipe::hash`] of the recipe that they were made by.
    pub recipe: String,
    /// Written last: false in an environment whose making was cut short.
    pub complete: bool,
}

impl Recipe {
    /// The recipe of a language.
    ///
    /// # Errors
    ///
    /// - [`InstallError::NoRecipe`] without an `[install]` table.
    /// - [`InstallError::ByHand`] when that table only says what to do by hand.
    /// - [`InstallError::BadRecipe`] when a file of the folder is missing or is not what it should be.
    pub fn new(language: &Language, files: &Files) -> Result<Self, InstallError> {
        let name = language.name.clone();
        let Some(install) = language.install.clone() else {
            return Err(InstallError::NoRecipe { language: name });
        };
        let brings_nothing = install.pypi.is_empty() && install.npm.is_empty() && install.debian.is_empty();
        if let (true, Some(hint)) = (brings_nothing, &install.hint) {
            return Err(InstallError::ByHand { language: name, hint: hint.clone() });
        }
        let bad = |why: String| InstallError::BadRecipe { language: name.clone(), why };
        // The name becomes a folder that may be removed later.
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
            return Err(bad(format!("the name `{name}` may hold only a-z, 0-9 and `-`")));
        }
        let text = files.get("kernel.json").ok_or_else(|| bad("there is no kernel.json to register".into()))?;
        let kernelspec: Value = serde_json::from_str(text).map_err(|error| bad(format!("kernel.json: {error}")))?;
        if !kernelspec["argv"].is_array() {
            return Err(bad("kernel.json: no list `argv`".into()));
        }
        if let Some(npm) = install.npm.iter().find(|pin| npm_name_and_version(pin).is_none()) {
            return Err(bad(format!("npm package `{npm}` is not pinned (`name@1.2.3`)")));
        }
        if let Some(pypi) = install.pypi.iter().find(|pin| !pin.contains("==")) {
            return Err(bad(format!("PyPI requirement `{pypi}` is not pinned (`name==1.2.3`)")));
        }
        if let Some(empty) = install.commands.iter().find(|command| command.is_empty()) {
            return Err(bad(format!("an empty command: {empty:?}")));
        }
        Ok(Self { language: language.name.clone(), install, files: files.clone(), kernelspec })
    }

    /// Does it need a folder of its own, or does the system bring everything (R)?
    pub fn has_environment(&self) -> bool {
        !(self.install.pypi.is_empty() && self.install.npm.is_empty())
    }

    /// The kernelspec's name. Never one that a person's own kernel may have, such as `python3` or `ir`.
    pub fn kernelspec_name(&self) -> String {
        format!("kernelbridge-{}", self.language)
    }

    /// Changes whenever the managed environment must be made anew, and not when only words about it change.
    pub fn hash(&self) -> String {
        let Install { pypi, npm, commands, .. } = &self.install;
        let files = ["requirements.txt", "package.json", "package-lock.json"].map(|name| self.files.get(name));
        let whole = json!([LAYOUT, pypi, npm, commands, files]).to_string();
        Sha256::digest(whole).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// What an environment or a kernelspec made by this recipe says about itself.
    pub fn marker(&self, complete: bool) -> Marker {
        Marker { language: self.language.clone(), recipe: self.hash(), complete }
    }

    /// The `kernel.json` to register, with the environment's folder in place of `{env}`, and our marker.
    pub fn kernelspec(&self, environment: &Path) -> String {
        let mut kernelspec = self.kernelspec.clone();
        for part in ["argv", "env"] {
            if let Some(part) = kernelspec.get_mut(part) {
                fill_in(part, environment);
            }
        }
        if !kernelspec["metadata"].is_object() {
            kernelspec["metadata"] = json!({});
        }
        kernelspec["metadata"]["kernelbridge"] = json!(self.marker(true));
        format!("{kernelspec:#}\n")
    }

    /// A command of the recipe, with the environment's folder in place of `{env}`.
    pub fn words(command: &[String], environment: &Path) -> Vec<String> {
        command.iter().map(|word| word.replace("{env}", &environment.to_string_lossy())).collect()
    }
}

/// Replace `{env}` in every string, after parsing: a folder's name may hold what JSON would have to escape.
fn fill_in(value: &mut Value, environment: &Path) {
    match value {
        Value::String(text) => *text = text.replace("{env}", &environment.to_string_lossy()),
        Value::Array(items) => items.iter_mut().for_each(|item| fill_in(item, environment)),
        Value::Object(fields) => fields.values_mut().for_each(|item| fill_in(item, environment)),
        _ => {}
    }
}

/// The marker in the text of a `kernel.json`, if it is one of ours.
pub fn marker_of_kernelspec(text: &str) -> Option<Marker> {
    let kernelspec: Value = serde_json::from_str(text).ok()?;
    serde_json::from_value(kernelspec.get("metadata")?.get("kernelbridge")?.clone()).ok()
}

/// `@scope/name@1.2.3` in two.
pub fn npm_name_and_version(pin: &str) -> Option<(&str, &str)> {
    pin.rsplit_once('@').filter(|(name, version)| !name.is_empty() && !version.is_empty())
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A language with this `[install]` table and `kernel.json`.
    pub fn language(install: &str) -> Language {
        let text = format!(
            "name = \"lua\"\ndisplay-name = \"Lua\"\nextension = \"lua\"\n[kernelspec]\nlanguages = [\"lua\"]\n{install}"
        );
        Language::parse(&text).expect("a language")
    }

    pub fn files() -> Files {
        let kernel = r#"{"argv": ["{env}/bin/python", "{connection_file}"], "language": "lua", "env": {"A": "{env}"}}"#;
        Files::from([("kernel.json".into(), kernel.into()), ("requirements.txt".into(), "ilua==1\n".into())])
    }

    pub fn recipe(install: &str) -> Recipe {
        Recipe::new(&language(install), &files()).expect("a recipe")
    }

    fn refused(install: &str, files: &Files) -> String {
        Recipe::new(&language(install), files).expect_err("refused").to_string()
    }

    #[test]
    fn recipes_that_cannot_work_are_refused_with_the_reason() {
        let pinned = "[install]\npypi = [\"ilua==1\"]";
        assert_eq!(refused("", &files()), "language `lua` has no install recipe");
        assert_eq!(refused("[install]\nhint = \"buy it\"", &files()), "`lua` is installed by hand");
        assert_eq!(refused(pinned, &Files::new()), "the recipe of `lua` is wrong: there is no kernel.json to register");
        assert_eq!(
            refused(pinned, &Files::from([("kernel.json".into(), "{}".into())])),
            "the recipe of `lua` is wrong: kernel.json: no list `argv`"
        );
        assert_eq!(
            refused("[install]\npypi = [\"ilua\"]", &files()),
            "the recipe of `lua` is wrong: PyPI requirement `ilua` is not pinned (`name==1.2.3`)"
        );
        assert_eq!(
            refused("[install]\nnpm = [\"@a/b\"]", &files()),
            "the recipe of `lua` is wrong: npm package `@a/b` is not pinned (`name@1.2.3`)"
        );
        let mut outside = language(pinned);
        outside.name = "../lua".into();
        assert!(matches!(Recipe::new(&outside, &files()), Err(InstallError::BadRecipe { .. })));
    }

    #[test]
    fn the_environment_is_filled_in_whatever_its_name() {
        let folder = PathBuf::from("/home/o\"neill/{connection_file}");
        let text = recipe("[install]\npypi = [\"ilua==1\"]").kernelspec(&folder);
        let kernelspec: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(kernelspec["argv"][0], "/home/o\"neill/{connection_file}/bin/python");
        assert_eq!(kernelspec["argv"][1], "{connection_file}");
        assert_eq!(kernelspec["env"]["A"], "/home/o\"neill/{connection_file}");
    }

    #[test]
    fn a_kernelspec_of_ours_is_recognised_and_no_other() {
        let recipe = recipe("[install]\npypi = [\"ilua==1\"]");
        assert_eq!(marker_of_kernelspec(&recipe.kernelspec(Path::new("/e"))), Some(recipe.marker(true)));
        for foreign in ["", "[]", "{}", r#"{"metadata": {"debugger": true}}"#, r#"{"metadata": {"kernelbridge": 1}}"#] {
            assert_eq!(marker_of_kernelspec(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_hash_follows_what_the_environment_is_made_of() {
        let one = recipe("[install]\npypi = [\"ilua==1\"]");
        assert_eq!(one.hash(), recipe("[install]\npypi = [\"ilua==1\"]\nhint = \"h\"\nprograms = [\"lua\"]").hash());
        assert_ne!(one.hash(), recipe("[install]\npypi = [\"ilua==2\"]").hash());
        let mut files = files();
        files.insert("requirements.txt".into(), "ilua==1\nx==2\n".into());
        let other = Recipe::new(&language("[install]\npypi = [\"ilua==1\"]"), &files).expect("a recipe");
        assert_ne!(one.hash(), other.hash());
    }

    #[test]
    fn npm_pins_may_have_a_scope() {
        assert_eq!(npm_name_and_version("@a/b@1.2"), Some(("@a/b", "1.2")));
        assert_eq!(npm_name_and_version("b"), None);
        assert_eq!(npm_name_and_version("@a/b"), None);
    }

    /// The `[install]` tables of this repository, with the other files of each folder.
    fn repository() -> Vec<(Install, Files)> {
        #[derive(Deserialize)]
        struct Folder {
            install: Option<Install>,
        }
        let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/kernelspecs")).expect("a folder");
        let read = |folder: PathBuf| {
            let files = std::fs::read_dir(folder).expect("a folder").flatten();
            let files: Files = files
                .filter_map(|file| {
                    let text = std::fs::read_to_string(file.path()).ok()?;
                    Some((file.file_name().to_string_lossy().into_owned(), text))
                })
                .collect();
            let tables = ["language.toml", "install.part.toml"].into_iter().filter_map(|name| files.get(name));
            let install = tables.filter_map(|text| toml::from_str::<Folder>(text).expect("TOML").install).next();
            install.map(|install| (install, files))
        };
        folders.flatten().filter_map(|folder| read(folder.path())).collect()
    }

    #[test]
    fn every_recipe_of_this_repository_is_pinned_to_the_last_package() {
        let recipes = repository();
        assert!(recipes.len() >= 9, "{}", recipes.len());
        for (install, files) in recipes {
            let normal = |pin: &str| pin.to_lowercase().replace('_', "-");
            let pins: Vec<String> = files
                .get("requirements.txt")
                .map_or_else(Vec::new, |text| text.lines().filter(|line| !line.starts_with('#')).map(normal).collect());
            assert!(pins.iter().all(|pin| pin.contains("==")), "{pins:?}");
            for pin in &install.pypi {
                assert!(pins.contains(&normal(pin)), "{pin} is not in requirements.txt");
            }
            let lock: Value = files.get("package-lock.json").map_or(Value::Null, |text| text.parse().expect("JSON"));
            assert!(!lock.to_string().contains("://"), "package-lock.json names a registry");
            for pin in &install.npm {
                let (name, version) = npm_name_and_version(pin).expect("pinned");
                assert_eq!(lock["packages"][format!("node_modules/{name}")]["version"], version);
            }
        }
    }

    #[test]
    fn every_recipe_of_this_repository_can_be_registered() {
        for (install, files) in repository() {
            let mut language = language("");
            language.install = Some(install);
            match Recipe::new(&language, &files) {
                Ok(recipe) => {
                    let kernelspec = recipe.kernelspec(Path::new("/env"));
                    assert!(kernelspec.contains("\"{connection_file}\""), "{kernelspec}");
                    assert!(!kernelspec.contains("{env}"), "{kernelspec}");
                    assert_eq!(kernelspec.contains("/env/"), recipe.has_environment(), "{kernelspec}");
                }
                Err(InstallError::ByHand { hint, .. }) => assert!(!hint.is_empty()),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn every_kernelspec_of_this_repository_is_one_that_its_shim_was_written_for() {
        let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/kernelspecs")).expect("a folder");
        let read = |folder: &Path, name: &str| std::fs::read_to_string(folder.join(name)).ok();
        for folder in folders.flatten().map(|folder| folder.path()) {
            let (Some(text), Some(kernelspec)) = (read(&folder, "language.toml"), read(&folder, "kernel.json")) else {
                continue;
            };
            let language = Language::parse(&text).expect("a language");
            let kernelspec: Value = kernelspec.parse().expect("JSON");
            let argv: Vec<String> = serde_json::from_value(kernelspec["argv"].clone()).expect("strings");
            assert!(folder.ends_with(&language.name), "{}", folder.display());
            assert!(language.runs_on(kernelspec["language"].as_str().expect("text"), &argv), "{kernelspec}");
        }
    }
}
