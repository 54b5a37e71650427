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
fn the_common_text_of_shims_takes_the_place_of_its_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let common = |name: &str, path: &str| toml(name, "").replace("[turn]", &format!("common = '{path}'\n[turn]"));
    write(dir.path(), "k/a/language.toml", common("a", "parts/common.x"));
    write(dir.path(), "k/a/shim.x", "one // no #common\n  //#common\nthree\n");
    write(dir.path(), "k/a/parts/common.x", "two\n");
    write(dir.path(), "k/b/language.toml", common("b", "../a/parts/common.x"));
    write(dir.path(), "k/b/shim.x", "-- #common\nlast");
    write(dir.path(), "k/c/language.toml", toml("c", ""));
    write(dir.path(), "k/c/shim.x", "#common\n");
    let root = LanguageOrigin::Named(dir.path().join("k"));
    let texts = || {
        let languages = load(vec![root.clone()]);
        assert_eq!(problems(&languages, dir.path()), [""; 0]);
        let text = |name: &str| languages.find(name).expect("found").shim_text().map(ToOwned::to_owned);
        ["a", "b", "c"].map(text).map(Option::unwrap_or_default)
    };
    assert_eq!(texts(), ["one // no #common\ntwo\nthree\n", "two\nlast", "#common\n"]);
    write(dir.path(), "k/a/parts/common.x", "2");
    assert_eq!(texts(), ["one // no #common\n2\nthree\n", "2\nlast", "#common\n"]);
}

#[test]
fn a_mistake_with_a_common_text_is_answered_with_file_field_and_fix() {
    let dir = tempfile::tempdir().expect("a folder");
    let add = |name: &str, common: &str, shim: &str| {
        let common = toml(name, "").replace("[turn]", &format!("common = '{common}'\n[turn]"));
        write(dir.path(), &format!("k/{name}/language.toml"), common);
        write(dir.path(), &format!("k/{name}/shim.x"), shim);
    };
    write(dir.path(), "outside.x", "secret");
    write(dir.path(), "k/outside.x", "no language's");
    add("absolute", dir.path().join("outside.x").to_str().expect("UTF-8"), "#common");
    add("escapes", "../../outside.x", "#common");
    add("hides", "../hides/../../outside.x", "#common");
    add("loose", "../outside.x", "#common");
    add("missing", "../other/common.x", "#common");
    add("own", "common.x", "#common");
    add("twice", "shim.x", "#common\n//#common");
    add("unmarked", "shim.x", "no #common");
    let languages = load(vec![LanguageOrigin::Named(dir.path().join("k"))]);
    let outside = |name: &str, path: &str| {
        let fix =
            "name a file of this folder (`common.js`) or of a language folder beside it (`../javascript/common.js`)";
        format!("k/{name}/language.toml: `shim.common` is `{path}`; {fix}")
    };
    let missing = |name: &str, file: &str| {
        let field = format!("`shim.common` of {name}/language.toml names it");
        format!("k/{file}: no such file; {field}: put it there, or name another")
    };
    let marks = |name: &str, what: &str| {
        let field = "whose place `shim.common` of language.toml (`shim.x`) takes";
        format!("k/{name}/shim.x: {what} that is a comment saying `#common`, {field}; there must be one")
    };
    let expected = [
        outside("absolute", &dir.path().join("outside.x").display().to_string()),
        outside("escapes", "../../outside.x"),
        outside("hides", "../hides/../../outside.x"),
        outside("loose", "../outside.x"),
        missing("missing", "other/common.x"),
        missing("own", "own/common.x"),
        marks("twice", "there are 2 lines"),
        marks("unmarked", "there is no line"),
    ];
    assert_eq!(problems(&languages, dir.path()), expected);
    assert_eq!(languages.problems[4].unusable.as_deref(), Some("missing"));
}

#[test]
fn built_in_shims_are_those_of_the_folders() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernelspecs");
    let (built_in, on_disk) = (Languages::built_in(), load(vec![LanguageOrigin::Named(root)]));
    assert_eq!((&built_in.problems, &on_disk.problems), (&vec![], &vec![]));
    let mut joined = 0;
    for folder in &on_disk.folders {
        let name = folder.language.name.as_str();
        assert_eq!(built_in.find(name).expect("built in").shim_text(), folder.shim_text(), "{name}");
        let Some(common) = folder.language.shim.as_ref().and_then(|shim| shim.common.as_deref()) else { continue };
        let common = std::fs::read_to_string(folder.dir().expect("on disk").join(common)).expect("common text");
        assert!(folder.shim_text().is_some_and(|text| text.contains(&common)), "{name}");
        joined += 1;
    }
    assert_eq!(joined, 2, "Deno's and Node's");
    const LOST: &[(&str, &[u8])] = &[
        (
            LANGUAGE_TOML,
            b"name='x'\ndisplay-name='x'\nextension='x'\nkernelspec.languages=['x']\nturn.pipe='go'\n\
            [shim]\nfile='shim.js'\ncommon='../javascript/lost.js'",
        ),
        ("shim.js", b"//#common"),
    ];
    let problem = LanguageFolder::load("x", Files::Embedded(LOST), LanguageOrigin::BuiltIn).expect_err("no such file");
    let reason = "no such file; `shim.common` of x/language.toml names it: put it there, or name another";
    assert_eq!((problem.path.as_path(), problem.reason.as_str()), (Path::new("(built in)/javascript/lost.js"), reason));
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
