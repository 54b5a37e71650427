//! Each floor imports only from floors below it; the words at the bottom touch nothing of the machine.

use std::{collections::BTreeMap, fs, path::Path};

use crate::support::root;

/// Modules by floor. Adding a module is adding it here.
const FLOORS: &[&[&str]] = &[
    &[
        "chain",
        "connection",
        "kernelspec",
        "language",
        "manifest",
        "notebook",
        "pattern",
        "rpc",
        "suggest",
        "table",
        "wire",
        "zmtp",
    ],
    &["channels", "discover", "install", "link", "provision", "queue", "store"],
    &["blob", "client"],
    &["supervision"],
    &["plugin"],
    &["doctor", "host"],
    &["relay"],
    &["cli"],
];

/// What words must not know of.
const MACHINE: &[&str] = &["tokio::", "std::fs", "std::net", "std::process", "SystemTime", "zeromq", "Instant::now"];

/// Doors that know each other, and why.
const NEIGHBOURS: &[(&str, &str)] = &[];

#[test]
fn imports_go_down() {
    let floor_of: BTreeMap<&str, usize> =
        FLOORS.iter().enumerate().flat_map(|(floor, rooms)| rooms.iter().map(move |room| (*room, floor))).collect();
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    for module in lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
        assert!(floor_of.contains_key(module), "`{module}` is on no floor");
    }
    let mut wrong = Vec::new();
    for (room, floor) in &floor_of {
        for (file, text) in sources(room) {
            for used in imports(&text) {
                let Some(below) = floor_of.get(used.as_str()) else { continue };
                let is_neighbour = below == floor && (*floor == 0 || NEIGHBOURS.contains(&(*room, used.as_str())));
                if used != *room && below >= floor && !is_neighbour {
                    wrong.push(format!("{file} (floor {floor}) imports `{used}` (floor {below})"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn words_are_pure() {
    let mut wrong = Vec::new();
    for room in FLOORS[0] {
        for (file, text) in sources(room) {
            for (number, line) in text.lines().enumerate() {
                let is_code = !line.trim_start().starts_with("//");
                if let Some(word) = MACHINE.iter().find(|word| is_code && line.contains(**word)) {
                    wrong.push(format!("{file}:{}: {word}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A module's files without their tests.
fn sources(room: &str) -> Vec<(String, String)> {
    let src = root().join("src");
    let mut files = Vec::new();
    collect(&src.join(room), &mut files);
    if src.join(format!("{room}.rs")).is_file() {
        collect_file(&src.join(format!("{room}.rs")), &mut files);
    }
    assert!(!files.is_empty(), "no sources of `{room}`");
    files
}

fn collect(dir: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), files);
        } else if entry.path().extension().is_some_and(|extension| extension == "rs") && entry.file_name() != "tests.rs"
        {
            collect_file(&entry.path(), files);
        }
    }
}

fn collect_file(path: &Path, files: &mut Vec<(String, String)>) {
    let text = fs::read_to_string(path).expect("a source");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
    files.push((path.strip_prefix(root()).expect("inside").display().to_string(), code));
}

/// The modules that a source names after `crate::`.
fn imports(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let words = code.match_indices("crate::").filter(|(index, _)| !code[..*index].ends_with("kernelbridge_"));
    let mut found = Vec::new();
    for (index, _) in words {
        let rest = &code[index + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            // The first words of a group at its own depth.
            let mut depth = 0;
            let mut word = String::new();
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut word)),
                    _ if depth == 0 => word.push(character),
                    _ => {}
                }
            }
            found.push(word);
        } else {
            found.push(rest.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect());
        }
    }
    found.iter().map(|word| word.trim().split("::").next().unwrap_or_default().to_owned()).collect()
}
