use super::*;

fn write(root: &Path, file: &str, text: impl AsRef<[u8]>) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    std::fs::write(path, text).expect("a file");
}

fn toml(name: &str, extra: &str) -> String {
    format!(
        "name = '{name}'\ndisplay-name = '{name}'\nextension = 'x'\n{extra}\n[kernelspec]\nlanguages = ['{name}']\n\
         [shim]\nfile = 'shim.x'\n[turn]\npipe = 'go'\n[install]\npypi = ['{name}==1']\n"
    )
}

/// Languages of these directories only, whatever is built in.
fn load(origins: Vec<LanguageOrigin>) -> Languages {
    let mut languages = Languages::default();
    for origin in origins {
        languages.add_dir(origin);
    }
    languages
}

fn problems(languages: &Languages, root: &Path) -> Vec<String> {
    let shown = |problem: &Problem| {
        let path = problem.path.strip_prefix(root).expect("inside");
        format!("{}: {}", path.display(), problem.reason.lines().next().unwrap_or_default())
    };
    languages.problems.iter().map(shown).collect()
}

#[test]
fn what_is_built_in_is_what_is_in_the_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernelspecs");
    let folders = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut names: Vec<_> = folders
        .filter(|entry| entry.path().join(LANGUAGE_TOML).is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let languages = Languages::built_in();
    let usable = languages.folders.iter().map(|folder| folder.language.name.clone());
    let broken = languages.problems.iter().filter_map(|problem| problem.unusable.clone());
    let known: Vec<_> = usable.chain(broken).collect();
    for name in &names {
        assert!(known.contains(name), "`{name}` is not in the binary: {known:?}");
    }
}

#[test]
fn later_folders_replace_earlier_ones_unless_they_are_broken() {
    let dir = tempfile::tempdir().expect("a folder");
    for (root, shim) in [("user", "one"), ("named", "two")] {
        write(dir.path(), &format!("{root}/lua/language.toml"), toml("lua", ""));
        write(dir.path(), &format!("{root}/lua/shim.x"), shim);
    }
    write(dir.path(), "user/r/language.toml", toml("r", ""));
    write(dir.path(), "user/r/shim.x", "r");
    write(dir.path(), "named/r/language.toml", "name = ");
    let user = LanguageOrigin::User(dir.path().join("user"));
    let languages = load(vec![user.clone(), LanguageOrigin::Named(dir.path().join("named"))]);

    let lua = languages.find("lua").expect("found");
    assert_eq!(lua.shim_text(), Some("two"));
    assert_eq!(lua.file("shim.x").expect("read").as_ref(), b"two");
    assert_eq!(lua.replaces, Some(user.clone()));
    let r = languages.find("R").expect("found");
    assert_eq!((r.shim_text(), &r.origin, &r.replaces), (Some("r"), &user, &None));
    let shown = problems(&languages, dir.path());
    assert_eq!(shown, ["named/r/language.toml: not a valid language.toml: TOML parse error at line 1, column 8"]);
}

#[test]
fn every_broken_folder_is_a_problem_with_path_and_reason() {
    let dir = tempfile::tempdir().expect("a folder");
    write(dir.path(), "k/README.md", "not a folder, not a problem");
    write(dir.path(), "k/.git/x", "hidden");
    write(dir.path(), "k/empty/README.md", "");
    write(dir.path(), "k/latin/language.toml", b"name = '\xe9'");
    write(dir.path(), "k/noshim/language.toml", toml("noshim", ""));
    write(dir.path(), "k/other/language.toml", toml("another", ""));
    let languages = load(vec![LanguageOrigin::Named(dir.path().join("k"))]);
    assert!(languages.folders.is_empty());
    let expected = [
        "k/empty/language.toml: no such file",
        "k/latin/language.toml: not UTF-8",
        "k/noshim/shim.x: no such file; `shim.file` of language.toml names it",
        "k/other/language.toml: `name` is `another` but the folder is `other`; they must be equal",
    ];
    assert_eq!(problems(&languages, dir.path()), expected);

    let error = languages.find("NoShim").expect_err("unusable").to_string();
    let path = dir.path().join("k/noshim/shim.x");
    let reason = "no such file; `shim.file` of language.toml names it";
    assert_eq!(error, format!("language `NoShim` cannot be used: {}: {reason}", path.display()));
}

#[test]
fn a_directory_that_was_named_must_be_there_and_be_the_right_one() {
    let dir = tempfile::tempdir().expect("a folder");
    write(dir.path(), "lua/language.toml", toml("lua", ""));
    let missing = |name: &str| dir.path().join(name);
    let languages = load(vec![
        LanguageOrigin::User(missing("a")),
        LanguageOrigin::Named(missing("b")),
        LanguageOrigin::Named(missing("lua")),
    ]);
    let expected = [
        "b: cannot be searched for language folders: No such file or directory (os error 2)",
        "lua: is a language folder itself; name the directory it is in",
    ];
    assert_eq!(problems(&languages, dir.path()), expected);
}

#[test]
fn an_unknown_language_is_answered_with_all_that_are_known() {
    let dir = tempfile::tempdir().expect("a folder");
    write(dir.path(), "javascript/language.toml", toml("javascript", "aliases = ['js', 'deno']"));
    write(dir.path(), "javascript/shim.x", "");
    write(dir.path(), "lua/language.toml", toml("lua", "").replace("[install]\npypi = ['lua==1']", ""));
    write(dir.path(), "lua/shim.x", "");
    let languages = load(vec![LanguageOrigin::Named(dir.path().to_owned())]);
    assert_eq!(languages.find("JS").expect("an alias").language.name, "javascript");
    // Nearest is the alias `deno`.
    let expected = format!(
        "no language `denno` (did you mean `javascript`?); there are `javascript`, `lua`; \
         `kernelbridge install` can bring `javascript`; looked in {}",
        dir.path().display()
    );
    assert_eq!(languages.find("denno").expect_err("unknown").to_string(), expected);
    let expected = format!(
        "no language `cobol`; there are `javascript`, `lua`; `kernelbridge install` can bring `javascript`; \
         looked in {}",
        dir.path().display()
    );
    assert_eq!(languages.find("cobol").expect_err("unknown").to_string(), expected);
}
