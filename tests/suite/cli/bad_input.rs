//! What a user sees who got something wrong, word for word.

use kernelbridge::discover::Languages;

use crate::{
    cli::{Desk, one_at_a_time},
    support::Installed,
};

/// `a`, `b`, `c`
fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// What is said of a language that does not exist.
fn no_language(desk: &Desk, word: &str, nearest: &str) -> String {
    let languages = Languages::built_in();
    let all = || languages.folders.iter().map(|folder| &folder.language);
    format!(
        "no language `{word}` (did you mean `{nearest}`?); there are {}; `kernelbridge install` can bring {}; looked in \
         the binary, {}/config/kernelbridge/kernelspecs",
        quoted(all().map(|language| language.name.as_str())),
        quoted(all().filter(|language| language.is_installable()).map(|language| language.name.as_str())),
        desk.shown(),
    )
}

#[test]
fn a_language_that_does_not_exist() {
    let desk = Desk::new();
    let ended = desk.run(&["new", "pythn", "x"]).with(2);
    assert_eq!(ended.err, format!("error: {}\n", no_language(&desk, "pythn", "python")));
    assert!(ended.out.is_empty() && !desk.path("x").exists());

    desk.python("p", "", "");
    desk.write("p/plugin.toml", "[plugin]\nname = \"p\"\nlanguage = \"prolg\"\nentry = \"plugin.py\"\n");
    let ended = desk.run(&["run", "p"]).with(2);
    assert_eq!(ended.err, format!("error: plugin `p`: {}\n", no_language(&desk, "prolg", "prolog")));

    let ended = desk.run(&["doctor", "pythn"]).with(2);
    let beginning =
        format!("error: {}; nor is there a kernelspec of that name: found ", no_language(&desk, "pythn", "python"));
    assert!(ended.err.ends_with('\n') && ended.err.contains(&beginning), "{}", ended.err);
}

#[test]
fn a_kernelspec_whose_program_is_missing() {
    let desk = Desk::new();
    let file = desk.kernelspec("ghost", &["/nonexistent/kernel", "{connection_file}"], "ghostly");
    desk.write("p/plugin.toml", "[plugin]\nname = \"p\"\nkernel = \"ghost\"\nentry = \"plugin.x\"\n");
    desk.write("p/plugin.x", "");
    let said = format!("kernelspec `ghost` starts `/nonexistent/kernel`, which is not installed: {}", file.display());
    let ended = desk.run(&["run", "p"]).with(2);
    assert_eq!(ended.err, format!("error: plugin `p`: {said}\n"));
    let ended = desk.run(&["doctor", "ghost"]).with(1);
    let hint = format!("hint: install `/nonexistent/kernel`, or correct or remove {}", file.display());
    assert!(ended.err.ends_with(&format!("error: {said}\n{hint}\n")), "{}", ended.err);
    assert_eq!(ended.out, format!("ghostly: does not start: {said}\n"));
}

#[test]
fn a_kernel_that_dies_at_start() {
    let desk = Desk::new();
    let program = ["python3", "-c", "import sys; sys.exit('boom: no module x')", "{connection_file}"];
    desk.kernelspec("doomed", &program, "python");
    desk.write("p/plugin.toml", "[plugin]\nname = \"p\"\nkernel = \"doomed\"\nentry = \"plugin.py\"\n");
    desk.write("p/plugin.py", "");
    let said = "kernel `doomed` ended with exit code 1 before it was ready; its last output:";
    let ended = desk.run(&["run", "p"]).with(2);
    assert_eq!(
        ended.err,
        format!(
            "error: plugin `p` could not be loaded: {said}\nboom: no module x\n\
             hint: `kernelbridge doctor doomed` starts this kernel alone and says what may be missing\n"
        )
    );
    let ended = desk.run(&["doctor", "doomed"]).with(1);
    assert!(
        ended.err.ends_with(&format!(
            "python: starting\nerror: {said}\n    boom: no module x\n\
             hint: `python3` does not find the package `x`: install it there; or `kernelbridge install python` brings a \
             kernel of its own\n"
        )),
        "{}",
        ended.err
    );
    assert_eq!(ended.out, format!("python: does not start: {said}\n"));
    let ended = desk.run(&["doctor", "doomed", "--json"]).with(1);
    let report: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!(report[0]["status"], "does-not-start");
    assert_eq!(report[0]["kernelspec"], "doomed");
    desk.leaves_nothing();
}

#[test]
fn a_manifest_with_slips() {
    let desk = Desk::new();
    let text = "[plugin]\nname = \"bad\"\nlanguge = \"python\"\nentry = \"plugin.py\"\n[limit]\ntimeout = \"5s\"\n";
    let file = desk.write("bad/plugin.toml", text);
    let ended = desk.run(&["run", "bad"]).with(2);
    let said = [
        ":1: [plugin] has neither `language` nor `kernel`; add `language = \"python\"`: `kernelbridge languages` lists what is installed",
        ":3: unknown key `languge` in [plugin]; did you mean `language`?",
        ":5: unknown section [limit]; did you mean [limits]?",
    ];
    let said: Vec<_> = said.iter().map(|line| format!("{}{line}", file.display())).collect();
    assert_eq!(ended.err, format!("error: {}\n", said.join("\n")));
}

#[test]
fn a_plugin_that_is_not_there() {
    let desk = Desk::new();
    let ended = desk.run(&["run", "nowhere"]).with(2);
    assert_eq!(ended.err, "error: cannot read nowhere: No such file or directory (os error 2)\n");
    desk.write("empty/readme", "");
    let ended = desk.run(&["test", "empty"]).with(2);
    let said = "error: no plugin in empty: neither it nor a folder in it has a plugin.toml";
    assert_eq!(ended.err, format!("{said}\nhint: `kernelbridge new python NAME` makes one\n"));
}

#[test]
fn functions_and_arguments_that_do_not_fit() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", "", "@bridge.export\ndef greet(name):\n    return f'hello, {name}'\n");
    let call = |args: &[&str]| desk.run(&[&["call", "--plugins", "p", "--state", ":memory:"], args].concat());
    assert_eq!(call(&["p.greet", "\"Ada\""]).with(0).out, "\"hello, Ada\"\n");
    assert_eq!(call(&["p.greeet", "1"]).with(1).err, "error: no function `p.greeet`; did you mean `p.greet`?\n");
    assert_eq!(call(&["p.farewell"]).with(1).err, "error: no function `p.farewell`; plugin `p` exports `greet`\n");
    assert_eq!(call(&["greet"]).with(2).err, "error: `greet` is not of the form PLUGIN.FUNCTION\n");
    assert_eq!(
        call(&["p.greet", "Ada"]).with(2).err,
        "error: argument `Ada` is not JSON; a text needs double quotes inside single ones: '\"Ada\"': expected value at line 1 column 1\n"
    );
    assert_eq!(call(&["q.greet"]).with(2).err, "error: no plugin `q`; found `p`, looked in p\n");
    assert!(call(&["p.greet"]).with(1).err.starts_with("error: plugin `p`: TypeError: greet() missing 1 required"));
    desk.leaves_nothing();
}

#[test]
fn source_that_raises_at_load_is_the_plugins_fault() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", "", "x = 1\n1 / 0\n");
    let ended = desk.run(&["run", "p", "--state", ":memory:"]).with(1);
    assert_eq!(
        ended.err,
        "error: plugin `p` could not be loaded: ZeroDivisionError: division by zero\n    \
         Traceback (most recent call last):\n      File \"plugin.py\", line 2, in <module>\n        1 / 0\n        \
         ~~^~~\n    ZeroDivisionError: division by zero\n"
    );
    desk.leaves_nothing();
}
