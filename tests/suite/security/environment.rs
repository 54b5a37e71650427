//! What kernels get of our environment, and that keys are nowhere but in their files.

use std::{collections::BTreeMap, fs, process::Stdio, time::Duration};

use serde_json::Value;

use crate::{
    cli::{Desk, Ended, kernel_folders, one_at_a_time, until},
    support::Installed,
};

const SHOWS: &str = "import os\n@bridge.export\ndef environment():\n    return dict(os.environ)\n";

fn environment_of(desk: &Desk, plugin: &str) -> BTreeMap<String, String> {
    let function = format!("{plugin}.environment");
    let mut command = desk.command(&["call", "--plugins", plugin, "--state", ":memory:", &function]);
    command.env("GITHUB_TOKEN", "a secret").env("MY_TOKEN", "a token").env("R_API_KEY", "another").env("LC_TEST", "x");
    command.env("https_proxy", "http://me:secret@localhost:1").env("http_proxy", "http://localhost:1");
    let ended = Ended::of(command.spawn().expect("starts")).with(0);
    serde_json::from_str(&ended.out).expect("an object of strings")
}

#[test]
fn kernels_get_what_they_need_of_the_environment_and_nothing_else() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("plain", "", SHOWS);
    desk.python("named", "env = [\"MY_TOKEN\", \"NOT_SET\"]\n", SHOWS);
    let plain = environment_of(&desk, "plain");
    for name in ["PATH", "HOME", "LC_TEST", "http_proxy", "KERNELBRIDGE_DIR", "JPY_PARENT_PID"] {
        assert!(plain.contains_key(name), "{name} is not in {plain:?}");
    }
    for name in ["GITHUB_TOKEN", "MY_TOKEN", "R_API_KEY", "https_proxy", "CARGO_MANIFEST_DIR"] {
        assert!(!plain.contains_key(name), "{name} is in {plain:?}");
    }
    // What a killed kernel leaves there, as ilua does, goes with its folder.
    for name in ["TMPDIR", "JUPYTER_RUNTIME_DIR"] {
        assert!(plain[name].contains("/kernelbridge-"), "{name} is {}", plain[name]);
    }
    let named = environment_of(&desk, "named");
    assert_eq!(named.get("MY_TOKEN").map(String::as_str), Some("a token"));
    assert!(!named.contains_key("GITHUB_TOKEN") && !named.contains_key("NOT_SET"));
    desk.leaves_nothing();
}

/// Neither in arguments, which everybody may read, nor in the fullest log.
#[test]
fn the_key_is_in_no_argument_and_in_no_log() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    let source = "import subprocess\n@bridge.on('go')\ndef go(event):\n    print('went')\n    \
                  subprocess.run(['sleep', '1'])\n    raise ValueError('no')\n";
    desk.python("p", "", source);
    let mut command = desk.command(&["run", "p", "--state", ":memory:", "--topic", "go", "--events", "-"]);
    let log = fs::File::create(desk.path("log")).expect("a file");
    command.env("KERNELBRIDGE_LOG", "trace").stdin(Stdio::piped()).stdout(log.try_clone().expect("a file")).stderr(log);
    let mut child = command.spawn().expect("starts");
    until("the kernel runs", Duration::from_secs(60), || {
        kernel_folders(&desk).iter().any(|folder| folder.join("connection.json").is_file())
    });
    let connection = fs::read_to_string(kernel_folders(&desk)[0].join("connection.json")).expect("readable");
    let connection: Value = serde_json::from_str(&connection).expect("JSON");
    let key = connection["key"].as_str().expect("a key").to_owned();
    assert!(key.len() > 30);
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), b"1\n2\n").expect("written");
    let mut most = 0;
    while child.try_wait().expect("waited for").is_none() {
        let commands = desk.alive();
        assert!(!commands.iter().any(|command| command.contains(&key)), "{commands:?}");
        most = most.max(commands.len());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(most >= 3, "the program, its kernel and what that started were looked at");
    let log = fs::read_to_string(desk.path("log")).expect("readable");
    assert!(log.contains("DEBUG") && log.contains("went") && log.contains("ValueError"), "{log}");
    assert!(!log.contains(&key), "{log}");
    desk.leaves_nothing();
}
