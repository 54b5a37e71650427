//! `hosts`, `record`, `console` and `kernels`, beside a host that runs.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{Desk, Running, one_at_a_time};
use crate::support::Installed;

const PLUGIN: &str = r#"
seen = []

@bridge.on("quake.*")
def rate(event):
    seen.append(event.data)
    return len(seen)
"#;

/// Shows a PNG of its own making, or a part of one.
const PAINTER: &str = r#"
import struct, zlib
from IPython.display import Image, display

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

def plot(width=120, height=80, end=None):
    rows = b"".join(bytes([0, *(v for x in range(120) for v in (x * 2, y * 3, x * y % 256))]) for y in range(80))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    display(Image(data=png[:end], format="png"))

@bridge.on("quake.*")
def paint(event):
    plot()
"#;

/// Types what is between `|` at a console, each when the one before was answered by a prompt or by nothing for a while.
/// It answers, if it is told how, when it is asked what it is.
const TERMINAL: &str = r#"
import os, pty, select, sys, time
program, typed, answer, *args = sys.argv[1:]
child, terminal = pty.fork()
if child == 0:
    for name in ("TERM_PROGRAM", "LC_TERMINAL", "KITTY_WINDOW_ID", "SSH_CONNECTION", "SSH_TTY", "TMUX", "STY", "ZELLIJ"):
        os.environ.pop(name, None)
    os.environ["TERM"] = "xterm"
    os.execv(program, [program, "console", "counter", *args])
def read():
    said = b""
    until = time.time() + 30
    while time.time() < until:
        if not select.select([terminal], [], [], 1.5)[0]:
            if said:
                break
            continue
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        if b"\x1b[c" in piece:
            os.write(terminal, answer.encode().decode("unicode_escape").encode())
        said += piece
    return said
shown = read()
for keys in typed.encode().decode("unicode_escape").split("|"):
    for part in keys.partition("\t"):
        os.write(terminal, part.replace("\n", "\r").encode())
        if part == "\t":
            shown += read()
    shown += read()
_, status = os.waitpid(child, 0)
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(status))
"#;

/// Emits until its stdin is closed.
fn host<'a>(desk: &'a Desk, more: &[&str]) -> Running<'a> {
    let args =
        ["run", "counter", "--events", "-", "--topic", "quake.new", "--state", ":memory:", "--out", "out.ndjson"];
    let running = Running::start(desk, &[&args, more].concat());
    running.wait_for("it listens", |desk| {
        std::fs::read_to_string(desk.path("err")).is_ok_and(|err| err.contains("listening as"))
    });
    running
}

#[test]
fn events_of_a_running_host_are_recorded_as_run_reads_them() {
    if !Installed::look().has("python") {
        return;
    }
    let _kernels = one_at_a_time();
    let desk = Desk::new();
    desk.python("counter", "", PLUGIN);
    assert_eq!(
        desk.run(&["record", "-n", "1"]).with(2).err,
        "error: no host listens; start one with `kernelbridge run --listen`\n"
    );
    let running = host(&desk, &["--listen", "--name", "quakes"]);
    let hosts: Value = serde_json::from_str(&desk.run(&["hosts", "--json"]).with(0).out).expect("JSON");
    assert_eq!((&hosts[0]["name"], &hosts[0]["allow_console"]), (&json!("quakes"), &json!(false)));
    assert!(desk.run(&["hosts"]).with(0).out.contains("looks only"));
    let ended = desk.run(&["record", "--host", "quake", "-n", "1"]).with(2);
    assert_eq!(ended.err, "error: no running host `quake`; running: `quakes`\n");

    let recording =
        desk.command(&["record", "--topic", "quake.*", "--topic", "quake.new", "-n", "3", "-o", "three.ndjson"]);
    let mut recording = { recording }.spawn().expect("starts");
    let mut n = 0;
    while recording.try_wait().expect("a status").is_none() {
        n += 1;
        assert!(n < 600, "it records");
        running.write(&format!("{{\"n\":{n}}}\n"));
        std::thread::sleep(Duration::from_millis(50));
    }
    super::Ended::of(recording).with(0);
    let lines = desk.lines("three.ndjson");
    let first = lines[0]["data"]["n"].as_u64().expect("a number");
    let expected: Vec<_> = (first..first + 3).map(|n| json!({"topic": "quake.new", "data": {"n": n}})).collect();
    assert_eq!(lines, expected, "each once, although two patterns want it");

    // A host that ends before there were enough.
    let recording = desk.command(&["record", "--host", "quakes", "-n", "1000"]).spawn().expect("starts");
    std::thread::sleep(Duration::from_millis(300));
    running.end().with(0);
    let ended = super::Ended::of(recording).with(2);
    assert!(ended.err.contains("of 1000 came before the host ended the link: the host was shut down"), "{}", ended.err);
    assert_eq!(desk.run(&["hosts", "--json"]).with(0).out, "[]\n");

    // One that is killed says nothing, and what it leaves goes when somebody looks.
    let mut running = host(&desk, &["--listen", "--name", "quakes"]);
    let recording = desk.command(&["record", "-n", "1000"]).spawn().expect("starts");
    std::thread::sleep(Duration::from_millis(500));
    running.child.kill().expect("killed");
    running.child.wait().expect("gone");
    let ended = super::Ended::of(recording).with(2);
    assert!(ended.err.contains("before the host ended the link: the other side is gone"), "{}", ended.err);
    assert!(desk.path("run/kernelbridge/quakes").exists());
    assert_eq!(desk.run(&["hosts", "--json"]).with(0).out, "[]\n");
    assert!(!desk.path("run/kernelbridge/quakes").exists());

    let again = ["run", "counter", "--events", "three.ndjson", "--state", ":memory:"];
    let results: Vec<_> = desk.run(&again).with(0).lines().iter().map(|line| line["result"].clone()).collect();
    assert_eq!(results, [1, 2, 3]);
    desk.leaves_nothing();
}

#[test]
fn a_console_runs_code_where_events_are_served_and_they_wait_for_it() {
    if !Installed::look().has("python") {
        return;
    }
    let _kernels = one_at_a_time();
    let desk = Desk::new();
    desk.python("counter", "[limits]\ntimeout = \"1s\"\n[delivery]\nattempts = 1\n", PLUGIN);
    let running = host(&desk, &["--listen", "--allow-console"]);
    running.write("{\"n\":1}\n");
    running.wait_for("it is handled", |desk| !desk.lines("out.ndjson").is_empty());
    assert_eq!(desk.run(&["console", "counter", "-c", "seen"]).with(0).out, "[{'n': 1}]\n");

    // Longer than a handler may take: what waits for it is late, but nobody is blamed for it.
    let code = "import time\nopen('begun', 'w').close()\ntime.sleep(3)\nseen.append('console')\nprint('done')";
    desk.write("cell.py", code);
    let mut cell = desk.command(&["console", "counter"]);
    let cell = cell.stdin(std::fs::File::open(desk.path("cell.py")).expect("a file")).spawn().expect("starts");
    running.wait_for("it runs", |desk| desk.path("counter/begun").exists());
    running.write("{\"n\":2}\n{\"n\":3}\n");
    let ended = super::Ended::of(cell).with(0);
    assert_eq!(ended.out, "done\n");
    assert!(ended.err.contains(" waited up to "), "{}", ended.err);
    running.wait_for("all are handled", |desk| desk.lines("out.ndjson").len() == 3);
    let results: Vec<_> = desk.lines("out.ndjson").iter().map(|line| line["result"].clone()).collect();
    assert_eq!(results, [1, 3, 4], "none was lost, none was handled twice, and `seen` has what the console appended");

    // Errors, plots, and what is interrupted.
    let ended = desk.run(&["console", "counter", "-c", "1/0"]).with(1);
    assert!(ended.err.contains("ZeroDivisionError") && !ended.err.contains('\u{1b}'), "{}", ended.err);
    let png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
    let show = format!("from IPython.display import display\ndisplay({{'image/png': '{png}'}}, raw=True)");
    for number in [1, 2] {
        let ended = desk.run(&["console", "counter", "--outputs", "images", "-c", &show]).with(0);
        assert_eq!(ended.out, format!("saved images/counter-{number}.png\n"));
    }
    assert!(std::fs::read(desk.path("images/counter-2.png")).expect("an image").starts_with(b"\x89PNG"));
    let endless = "open('endless', 'w').close()\nwhile True: pass";
    let cell = desk.command(&["console", "counter", "-c", endless]).spawn().expect("starts");
    running.wait_for("it runs", |desk| desk.path("counter/endless").exists());
    let process = nix::unistd::Pid::from_raw(i32::try_from(cell.id()).expect("a process"));
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).expect("sent");
    assert!(super::Ended::of(cell).with(1).err.contains("KeyboardInterrupt"));
    // One whose console is killed is interrupted as well: events do not wait for it for ever.
    std::fs::remove_file(desk.path("counter/endless")).expect("removed");
    let mut cell = desk.command(&["console", "counter", "-c", endless]).spawn().expect("starts");
    running.wait_for("it runs", |desk| desk.path("counter/endless").exists());
    cell.kill().expect("killed");
    cell.wait().expect("gone");
    running.write("{\"n\":4}\n");
    running.wait_for("it is handled", |desk| desk.lines("out.ndjson").len() == 4);

    let typed = "6*7\\n|len?\\n|:state\\n|seen.app\\t(8)\\n|seen[-1]\\n|\\x04";
    let shown = at_a_terminal(&desk, "", typed, &[]);
    for expected in
        ["Tab completes", "42", "Return the number of items", "state: ready (process_id ", "> seen.append", "\n8"]
    {
        assert!(shown.contains(expected), "no {expected} in {shown}");
    }
    let summary = running.end().with(0);
    assert!(!summary.err.contains("kernel gone") && !summary.err.contains("restarts"), "{}", summary.err);
    desk.leaves_nothing();
}

/// What a console shows at a terminal that answers so.
#[track_caller]
fn at_a_terminal(desk: &Desk, answer: &str, typed: &str, args: &[&str]) -> String {
    let mut prompt = std::process::Command::new("python3");
    prompt.args(["-c", TERMINAL, super::PROGRAM, typed, answer]).args(args).current_dir(desk.path(""));
    prompt.envs(desk.env.iter().cloned()).env(super::MARK, &desk.mark);
    prompt.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    super::Ended::of(prompt.spawn().expect("starts")).with(0).out
}

#[test]
fn a_console_shows_images_where_the_terminal_does() {
    if !Installed::look().has("python") {
        return;
    }
    let _kernels = one_at_a_time();
    let desk = Desk::new();
    desk.python("counter", "", PAINTER);
    let running = host(&desk, &["--listen", "--allow-console"]);

    // A terminal that says nothing; and no terminal, whatever is said of it.
    let shown = at_a_terminal(&desk, "", "plot()\\n|\\x04", &[]);
    assert!(shown.contains("saved counter-1.png"), "{shown}");
    assert!(!["\u{1b}_G", "\u{1b}P", "\u{1b}]1337"].iter().any(|start| shown.contains(start)), "{shown}");
    let ended = desk.run(&["console", "counter", "--images", "kitty", "-c", "plot()"]).with(0);
    assert_eq!(ended.out, "saved counter-2.png\n");

    // One that the user knows, with images that are none among others: none ends the console.
    let images = "plot(); plot(end=60); plot(40000, 40000); display({'image/png': '%'}, raw=True)";
    let typed = format!("{images}\\n|6*7\\n|\\x04");
    let shown = at_a_terminal(&desk, "", &typed, &["--images", "kitty", "--outputs", "kitty"]);
    let pieces: Vec<_> = shown.split("\u{1b}_G").skip(1).filter_map(|piece| piece.split_once("\u{1b}\\")).collect();
    let sent: String = pieces.iter().filter_map(|(piece, _)| piece.split_once(';')).map(|(_, data)| data).collect();
    let saved = std::fs::read(desk.path("kitty/counter-1.png")).expect("an image");
    assert!(saved.len() > 6000, "{} bytes are more than one piece", saved.len());
    assert_eq!(BASE64_STANDARD.decode(sent).expect("base64"), saved);
    for expected in [
        "saved kitty/counter-1.png",
        "warning: the image is saved, but not shown: it is a broken PNG: ",
        "saved kitty/counter-2.png",
        "not shown: it says that it has 40000 x 40000 pixels",
        "saved kitty/counter-3.png",
        "error: plugin `counter` showed a broken image/png: ",
        "\n42\r",
    ] {
        assert!(shown.contains(expected), "no {expected} in {shown}");
    }

    // One that says so; what is typed while it does stands at the prompt.
    let shown = at_a_terminal(&desk, "6*\\x1b[?1;0;16S\\x1b[?62;4c7", "\\n|plot()\\n|\\x04", &[]);
    let (before, sixel) = shown.split_once("\u{1b}P9;1;0q\"1;1;120;80#0;2;").expect("sixels");
    let (sixel, after) = sixel.split_once("\u{1b}\\").expect("their end");
    assert!(before.contains("\n42\r"), "{before}");
    assert!(sixel.contains("#15;2;") && !sixel.contains("#16"), "as many colours as it has");
    assert!(after.contains("saved counter-3.png"), "{after}");
    running.end().with(0);
    desk.leaves_nothing();
}

#[test]
fn a_console_looks_only_unless_the_host_allows_more() {
    if !Installed::look().has("r") {
        return;
    }
    let _kernels = one_at_a_time();
    let desk = Desk::new();
    desk.write("counter/plugin.toml", "[plugin]\nname = \"counter\"\nlanguage = \"r\"\nentry = \"plugin.R\"\n");
    desk.write("counter/plugin.R", "bridge$on('quake.*', function(event) event$data$n + 1)\n");
    let running = host(&desk, &["--listen"]);
    let ended = desk.run(&["console", "counter", "-c", "1+1"]).with(2);
    assert_eq!(ended.err, "error: this host lets consoles look, but run no code; start it with `--allow-console`\n");
    let ended = desk.run(&["console", "countr", "-c", "1+1"]).with(2);
    assert_eq!(ended.err, "error: no plugin `countr` in this host; did you mean `counter`?\n");
    running.write("{\"n\":1}\n");
    running.end().with(0);
    assert_eq!(desk.lines("out.ndjson")[0]["result"], 2);

    let running = host(&desk, &["--listen", "--allow-console"]);
    // In turns of their own, between those of the events.
    assert_eq!(desk.run(&["console", "counter", "-c", "6*7"]).with(0).out, "[1] 42\n");
    running.write("{\"n\":41}\n");
    running.wait_for("it is handled", |desk| desk.lines("out.ndjson").len() == 1);
    let ended = desk.run(&["console", "counter", "-c", "stop('no')"]).with(1);
    assert!(ended.err.contains("no"), "{}", ended.err);
    running.end().with(0);
    desk.leaves_nothing();
}

#[test]
fn kernels_that_run_are_listed_and_stale_files_told() {
    if !Installed::look().has("python") {
        return;
    }
    let _kernels = one_at_a_time();
    let desk = Desk::new();
    desk.python("counter", "", PLUGIN);
    let stale = json!({"transport": "tcp", "ip": "127.0.0.1", "shell_port": 1, "iopub_port": 2, "stdin_port": 3,
        "control_port": 4, "hb_port": 5, "signature_scheme": "hmac-sha256", "key": "k", "kernel_name": "python3"});
    desk.write("runtime/kernel-1.json", &stale.to_string());
    desk.write("runtime/kernel-2.json", "{}");
    desk.write("runtime/nbserver-1.json", "{}");
    let running = host(&desk, &["--listen"]);
    let mut command = desk.command(&["kernels", "--json"]);
    command.env("JUPYTER_RUNTIME_DIR", desk.path("runtime"));
    let ended = super::Ended::of(command.spawn().expect("starts")).with(0);
    let rows: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!(rows.as_array().map(Vec::len), Some(2), "{rows}");
    assert_eq!((&rows[0]["state"], &rows[0]["ours"]), (&json!("alive"), &json!("plugin")));
    assert!(rows[0]["process_id"].is_u64(), "{rows}");
    assert_eq!((&rows[1]["state"], &rows[1]["kernelspec"]), (&json!("stale"), &json!("python3")));
    assert!(ended.err.contains("kernel-2.json: no connection file"), "{}", ended.err);
    running.end().with(0);
}
