//! What authors write, and what they read when it is wrong.

use super::*;

const MINIMAL: &str = "[plugin]\nname = \"quake-geo\"\nlanguage = \"r\"\nentry = \"plugin.R\"\n";

const FULL: &str = r#"
[plugin]
name = "quake-rate"
version = "0.1.0"
language = "r"
entry = "plugin.ipynb"
bridge = "1"
isolation = "own"
carrier = "pipe"
sandbox = "no-network"
env = ["MY_TOKEN"]

[permissions]
call = ["state.*", "quake-geo.distance"]
emit = ["alert.*"]

[exports]
allow = ["quake-*"]

[limits]
timeout = "5s"
startup = "250ms"
memory = "1GiB"
cpu = "1h"
open-files = 99
output = "1MiB"
result = "16MiB"
depth = 9

[queue]
capacity = 7
when-full = "coalesce"

[delivery]
attempts = 4
batch = 20
linger = "5ms"
instances = 2
warm = 1
order-by = "properties.net"
journal = true

[restart]
deaths = 2
within = "10s"

[config]
window-days = 7
nested = { list = [1, 2.5, true, "x"], when = 2026-02-01T12:00:00Z }
"#;

fn parse(text: &str) -> Manifest {
    Manifest::parse(text, "plugin.toml").expect("parses")
}

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::parse(text).expect("pattern")).collect()
}

/// The whole text the user sees.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let error = Manifest::parse(text, "plugin.toml").expect_err("refused").to_string();
    assert_eq!(error.lines().collect::<Vec<_>>(), expected);
}

/// As `check`, for lines after a good `[plugin]` section of four lines.
#[track_caller]
fn check_after(lines: &str, expected: &[&str]) {
    check(&format!("{MINIMAL}{lines}"), expected);
}

#[test]
fn the_shortest_manifest_has_defaults() {
    let manifest = parse(MINIMAL);
    assert_eq!((manifest.name.as_str(), manifest.version.as_str()), ("quake-geo", "0.0.0"));
    assert_eq!(manifest.runtime, Runtime::Language("r".to_owned()));
    assert_eq!((manifest.language(), manifest.kernelspec()), (Some("r"), None));
    assert_eq!((manifest.entry.as_path(), manifest.is_notebook()), (Path::new("plugin.R"), false));
    assert_eq!((manifest.isolation, manifest.carrier), (Isolation::Own, CarrierChoice::Auto));
    assert!(manifest.env.is_empty() && manifest.sandbox == Sandbox::default());
    assert_eq!(manifest.permissions.call, patterns(&["state.*", "log.*"]));
    assert_eq!(manifest.permissions.emit, []);
    assert_eq!(manifest.exports.allow, patterns(&["*"]));
    let limits = Limits {
        timeout: Duration::from_secs(30),
        startup: Duration::from_secs(60),
        memory_bytes: None,
        cpu: None,
        open_files: None,
        output_bytes: 16 << 20,
        result_bytes: 256 << 20,
        depth: 64,
    };
    assert_eq!(manifest.limits, limits);
    assert_eq!(manifest.queue, QueueSettings { capacity: 1024, when_full: WhenFull::Block });
    assert_eq!(
        manifest.delivery,
        Delivery {
            attempts: 3,
            batch: None,
            linger: Duration::ZERO,
            instances: 1,
            warm: 0,
            order_by: None,
            journal: false
        }
    );
    assert_eq!(manifest.restart, Restart { deaths: 5, within: Duration::from_secs(60) });
    assert!(manifest.config.is_empty() && manifest.template().is_none());
}

#[test]
fn everything_written_is_read() {
    let manifest = parse(FULL);
    assert_eq!((manifest.version.as_str(), manifest.bridge.as_str()), ("0.1.0", "1"));
    assert!(manifest.is_notebook());
    assert_eq!(manifest.carrier, CarrierChoice::Pipe);
    assert_eq!(manifest.env, ["MY_TOKEN"]);
    assert_eq!(manifest.sandbox, Sandbox { read_only: false, no_network: true });
    assert!(manifest.may_call("state.get") && manifest.may_call("quake-geo.distance"));
    assert!(!manifest.may_call("quake-geo.other") && !manifest.may_call("log.x"));
    assert!(manifest.may_emit("alert.new") && !manifest.may_emit("quake.new"));
    assert!(manifest.may_be_called_by("quake-geo") && !manifest.may_be_called_by("other"));
    let limits = Limits {
        timeout: Duration::from_secs(5),
        startup: Duration::from_millis(250),
        memory_bytes: Some(1 << 30),
        cpu: Some(Duration::from_secs(3600)),
        open_files: Some(99),
        output_bytes: 1 << 20,
        result_bytes: 16 << 20,
        depth: 9,
    };
    assert_eq!(manifest.limits, limits);
    assert_eq!(manifest.queue, QueueSettings { capacity: 7, when_full: WhenFull::Coalesce });
    let order_by = Some("properties.net".to_owned());
    assert_eq!(
        manifest.delivery,
        Delivery {
            attempts: 4,
            batch: Some(20),
            linger: Duration::from_millis(5),
            instances: 2,
            warm: 1,
            order_by,
            journal: true
        }
    );
    assert_eq!(manifest.restart, Restart { deaths: 2, within: Duration::from_secs(10) });
    let config = serde_json::json!({
        "window-days": 7,
        "nested": {"list": [1, 2.5, true, "x"], "when": "2026-02-01T12:00:00Z"},
    });
    assert_eq!(serde_json::Value::Object(manifest.config.clone()), config);
    assert_eq!((manifest.line_of("queue.capacity"), manifest.line_of("queue.nothing")), (31, 30));
}

#[test]
fn a_kernel_may_be_named() {
    let manifest = parse(&MINIMAL.replace("language = \"r\"", "kernel = \"ir\""));
    assert_eq!((manifest.language(), manifest.kernelspec()), (None, Some("ir")));
    let manifest = parse(&MINIMAL.replace("language = \"r\"", "language = \"r\"\nkernel = \"ir\""));
    assert_eq!((manifest.language(), manifest.kernelspec()), (Some("r"), Some("ir")));
}

const TEMPLATE: &str = r#"
[plugin]
name = "quake-scheme"
language = "other"
kernel = "calysto_scheme"
turn = "template"
entry = "plugin.ss"

[template]
event = '(handle {event})'
topic = ["quake.*"]
exports = { square = '(square {args})' }
"#;

#[test]
fn a_kernel_without_a_shim_gets_a_template() {
    let manifest = parse(TEMPLATE);
    assert_eq!((manifest.language(), manifest.kernelspec()), (None, Some("calysto_scheme")));
    let template = manifest.template().expect("a template");
    assert_eq!(template.event.as_deref(), Some("(handle {event})"));
    assert_eq!(template.topic, patterns(&["quake.*"]));
    assert_eq!(template.exports.get("square").map(String::as_str), Some("(square {args})"));
}

#[test]
fn templates_that_cannot_work_say_why() {
    check(
        &TEMPLATE.replace("turn = \"template\"", ""),
        &[
            "plugin.toml:2: `language = \"other\"` in [plugin] has no shim; \
             add `turn = \"template\"` and a section [template]",
            "plugin.toml:9: [template] is used at the basic level only; \
             add `turn = \"template\"` to [plugin], or remove it",
        ],
    );
    check(
        &TEMPLATE.replace("kernel = \"calysto_scheme\"", ""),
        &["plugin.toml:2: [plugin] does not say which kernel runs the template; \
           add `kernel = \"<kernelspec>\"`: `kernelbridge languages` lists what is installed"],
    );
    let (plugin, _) = TEMPLATE.split_once("[template]").expect("two sections");
    let nothing = "`turn = \"template\"` without code for events or exports; \
                   add `event = '(handle {event})'` to [template]";
    check(plugin, &[&format!("plugin.toml:1: {nothing}")]);
    check(&format!("{plugin}[template]"), &[&format!("plugin.toml:9: {nothing}")]);
    check(
        &TEMPLATE.replace("{event}", "{events}").replace("{args}", "{event}"),
        &[
            "plugin.toml:10: `{events}` means nothing in `event` of [template]; did you mean `{event}`?",
            "plugin.toml:10: `event` in [template] never uses the event; \
             write `{event}` where its JSON text is to go, as a string literal",
            "plugin.toml:12: `{event}` means nothing in `exports` of [template]; did you mean `{args}`?",
        ],
    );
    check(
        &TEMPLATE.replace("{ square = '(square {args})' }", "{ \"a b\" = '', square = 1 }"),
        &[
            "plugin.toml:12: `exports` in [template]: ' ' in function name `a b` is not allowed; \
             use anything but white space, control characters and *",
            "plugin.toml:12: `square` in [template.exports] must be a string, found a whole number; \
             write `square = '(square {args})'`",
        ],
    );
}

#[test]
fn unknown_keys_get_the_nearest_valid_one() {
    check_after(
        "[queue]\ncapacity = 5\nwhen-ful = \"block\"",
        &["plugin.toml:7: unknown key `when-ful` in [queue]; did you mean `when-full`?"],
    );
    check_after(
        "[queue]\ntimeout = \"5s\"",
        &["plugin.toml:6: unknown key `timeout` in [queue]; it belongs in [limits]"],
    );
    check_after(
        "[queue]\nbanana = 1",
        &["plugin.toml:6: unknown key `banana` in [queue]; [queue] may have `capacity`, `when-full`"],
    );
    check_after("[quue]\ncapacity = 1", &["plugin.toml:5: unknown section [quue]; did you mean [queue]?"]);
    check_after(
        "[banana]",
        &["plugin.toml:5: unknown section [banana]; there are `plugin`, `permissions`, `exports`, `limits`, `queue`, \
           `delivery`, `restart`, `config`, `template`"],
    );
    check(
        &format!("timeout = \"5s\"\nbanana = 1\n{MINIMAL}"),
        &[
            "plugin.toml:1: `timeout` is in no section; it belongs in [limits]",
            "plugin.toml:2: `banana` is in no section; put settings of your own in [config]",
        ],
    );
}

#[test]
fn wrong_types_say_what_to_write() {
    check_after(
        "[limits]\ntimeout = 5\ndepth = \"9\"",
        &[
            "plugin.toml:6: `timeout` in [limits] must be a string, found a whole number; write `timeout = \"5s\"`",
            "plugin.toml:7: `depth` in [limits] must be a whole number, found a string; write `depth = 1`",
        ],
    );
    check_after(
        "[permissions]\ncall = \"state.*\"\nemit = [\"a\",\n 1]",
        &[
            "plugin.toml:6: `call` in [permissions] must be a list of patterns, found a string; \
             write `call = [\"state.*\"]`",
            "plugin.toml:8: `emit` in [permissions] must be a list of strings, found a whole number; \
             write `emit = [\"alert.*\"]`",
        ],
    );
    check(
        &format!("queue = 5\nconfig = []\n{MINIMAL}"),
        &[
            "plugin.toml:1: `queue` must be a section, found a whole number; write [queue] on a line of its own",
            "plugin.toml:2: `config` must be a section, found a list; write [config] on a line of its own",
        ],
    );
    check(
        &MINIMAL.replace("\"quake-geo\"", "1.5").replace("\"r\"", "true"),
        &[
            "plugin.toml:2: `name` in [plugin] must be a string, found a number with a fraction; \
             write `name = \"my-plugin\"`",
            "plugin.toml:3: `language` in [plugin] must be a string, found a boolean; write `language = \"python\"`",
        ],
    );
    check(
        &format!("{MINIMAL}env = \"MY_TOKEN\""),
        &["plugin.toml:5: `env` in [plugin] must be a list of names, found a string; write `env = [\"MY_TOKEN\"]`"],
    );
}

#[test]
fn bad_values_say_what_is_allowed() {
    check_after(
        "[queue]\ncapacity = 0\nwhen-full = \"blok\"",
        &[
            "plugin.toml:6: `capacity` in [queue] is 0; it must be between 1 and 1000000",
            "plugin.toml:7: unknown value `blok` for `when-full` in [queue]; did you mean `block`?",
        ],
    );
    check_after(
        "[queue]\nwhen-full = \"wait\"\ncapacity = 99999999999999999999",
        &[
            "plugin.toml:6: unknown value `wait` for `when-full` in [queue]; \
             use one of `block`, `drop-oldest`, `drop-newest`, `coalesce`, `spill`",
            "plugin.toml:7: `capacity` in [queue] is 99999999999999999999; it must be between 1 and 1000000",
        ],
    );
    check_after(
        "[limits]\ntimeout = \"5 seconds\"\nstartup = \"0s\"\nmemory = \"1G\"",
        &[
            "plugin.toml:6: `timeout` in [limits]: `5 seconds` is not a duration; \
             write a number and ms, s, m, h or d, such as \"5s\"",
            "plugin.toml:7: `startup` in [limits]: nothing could ever be done in no time",
            "plugin.toml:8: `memory` in [limits]: `1G` is not a size; \
             write a number and B, KB, MB, GB, KiB, MiB or GiB, such as \"512MiB\"",
        ],
    );
    check_after(
        "[limits]\ncpu = \"0s\"\nopen-files = 3\noutput = \"1M\"\nresult = \"1GiB\"",
        &[
            "plugin.toml:6: `cpu` in [limits]: nothing could ever be done in no time",
            "plugin.toml:7: `open-files` in [limits] is 3; it must be between 16 and 1048576",
            "plugin.toml:8: `output` in [limits]: `1M` is not a size; \
             write a number and B, KB, MB, GB, KiB, MiB or GiB, such as \"512MiB\"",
            "plugin.toml:9: `result` in [limits]: `1GiB` is too large; the most is 256 MiB",
        ],
    );
    check_after(
        "[permissions]\nemit = [\"alert new\", \"\"]",
        &[
            "plugin.toml:6: `emit` in [permissions]: ' ' in pattern `alert new` is not allowed; \
             use anything but white space and control characters",
            "plugin.toml:6: `emit` in [permissions]: a pattern must not be empty",
        ],
    );
    check(
        "[plugin]\nname = \"Quake\"\nlanguage = \"\"\nentry = \"../plugin.py\"\nbridge = \"2\"\ncarrier = \"pip\"",
        &[
            "plugin.toml:2: `name` in [plugin]: 'Q' in plugin name `Quake` is not allowed; use a-z, 0-9 and -",
            "plugin.toml:3: `language` in [plugin]: it must not be empty",
            "plugin.toml:4: `entry` in [plugin]: `../plugin.py` is not a file in the plugin's folder",
            "plugin.toml:5: `bridge` in [plugin]: this kernelbridge does not speak protocol `2`, only `1`",
            "plugin.toml:6: unknown value `pip` for `carrier` in [plugin]; did you mean `pipe`?",
        ],
    );
    check(
        &format!("{MINIMAL}sandbox = \"readonly\""),
        &["plugin.toml:5: unknown value `readonly` for `sandbox` in [plugin]; did you mean `read-only`?"],
    );
    check(
        &format!("{MINIMAL}sandbox = [\"strict\", 1,\n\"none\", \"read-only\"]"),
        &[
            "plugin.toml:5: unknown value `strict` for `sandbox` in [plugin]; \
             use one of `none`, `read-only`, `no-network`",
            "plugin.toml:5: `sandbox` in [plugin] must be a string or a list of strings, found a whole number; \
             write `sandbox = \"no-network\"`",
            "plugin.toml:6: `none` in `sandbox` of [plugin] goes with nothing; leave out `none`, or everything else",
        ],
    );
    let both = parse(&format!("{MINIMAL}sandbox = [\"read-only\", \"no-network\"]"));
    assert_eq!(both.sandbox, Sandbox { read_only: true, no_network: true });
    assert_eq!(parse(&format!("{MINIMAL}sandbox = \"none\"")).sandbox, Sandbox::default());
    check(
        &format!("{MINIMAL}env = [\"\", \"A=B\", \"KERNELBRIDGE_HOST\", 1]"),
        &[
            "plugin.toml:5: `env` in [plugin]: a name must not be empty",
            "plugin.toml:5: `env` in [plugin]: `A=B` is not the name of a variable",
            "plugin.toml:5: `env` in [plugin]: `KERNELBRIDGE_HOST` is ours",
            "plugin.toml:5: `env` in [plugin] must be a list of strings, found a whole number; \
             write `env = [\"MY_TOKEN\"]`",
        ],
    );
    check_after(
        "[config]\na = [1, nan]\nb = { c = 99999999999999999999 }",
        &[
            "plugin.toml:6: `nan` in [config] is a number that JSON cannot hold; write it as a string",
            "plugin.toml:7: `99999999999999999999` in [config] is a number that JSON cannot hold; \
             write it as a string",
        ],
    );
}

#[test]
fn entries_stay_in_the_folder() {
    let with = |entry: &str| Manifest::parse(&MINIMAL.replace("plugin.R", entry), "plugin.toml");
    for entry in ["plugin.R", "src/plugin.R", "./plugin.R", "..plugin.R"] {
        with(entry).expect(entry);
    }
    for entry in ["", "/etc/passwd", "..", "a/../../b", "."] {
        with(entry).expect_err(entry);
    }
}

#[test]
fn what_is_missing_is_asked_for() {
    check("", &["plugin.toml:1: there is no section [plugin]; it needs at least `name`, `language` and `entry`"]);
    check(
        "# a comment\n\n[plugin]\n",
        &[
            "plugin.toml:3: [plugin] has no `name`; add `name = \"my-plugin\"`",
            "plugin.toml:3: [plugin] has no `entry`; add `entry = \"plugin.py\"`",
            "plugin.toml:3: [plugin] has neither `language` nor `kernel`; \
             add `language = \"python\"`: `kernelbridge languages` lists what is installed",
        ],
    );
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_lines() {
    check(
        "[queue]\ncapacity = -1\n[plugin]\nnam = \"x\"\nlanguage = \"r\"\nentry = \"plugin.R\"\n[limit]\n",
        &[
            "plugin.toml:2: `capacity` in [queue] is -1; it must be between 1 and 1000000",
            "plugin.toml:3: [plugin] has no `name`; add `name = \"my-plugin\"`",
            "plugin.toml:4: unknown key `nam` in [plugin]; did you mean `name`?",
            "plugin.toml:7: unknown section [limit]; did you mean [limits]?",
        ],
    );
}

#[test]
fn what_is_not_toml_names_the_line() {
    check(
        "[plugin]\nname = quake\n",
        &["plugin.toml:2: not valid TOML: string values must be quoted, expected literal string"],
    );
    check(
        "[plugin]\nname = \"a\"\nname = \"b\"\n[queue\n",
        &[
            "plugin.toml:3: not valid TOML: duplicate key",
            "plugin.toml:4: not valid TOML: unclosed table, expected `]`",
        ],
    );
}

#[test]
fn problems_name_their_field() {
    let error = Manifest::parse(&format!("{MINIMAL}[queue]\nwhen-ful = 1"), "p.toml").expect_err("refused");
    assert_eq!(
        error.problems,
        [Problem {
            line: 6,
            field: "queue.when-ful".to_owned(),
            message: "unknown key `when-ful` in [queue]".to_owned(),
            hint: Some("did you mean `when-full`?".to_owned()),
        }]
    );
    assert_eq!(error.path, Path::new("p.toml"));
}

#[test]
fn a_kernel_can_be_shared() {
    let text = FULL.replace("\"own\"", "\"shared\"");
    assert_eq!(parse(&text).isolation, Isolation::Shared);
}

#[test]
fn any_text_is_an_answer_never_a_panic() {
    for end in 0..FULL.len() {
        let _ = Manifest::parse(&FULL[..end], "plugin.toml");
        let _ = Manifest::parse(&FULL[end..], "plugin.toml");
    }
    let deep = format!("{MINIMAL}[config]\na = {}1{}", "[".repeat(10_000), "]".repeat(10_000));
    Manifest::parse(&deep, "plugin.toml").expect_err("too deep");
}
