//! `kernelbridge demo`, every number of it computed again from the data.
//!
//! What each plugin should have done is written here once more, in one language and other words. A plugin whose language
//! is not installed is left out of both, so this also tests that the demo works with any of them missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, FixedOffset};
use kernelbridge::store::Store;
use serde_json::{Value, json};

use crate::support::{Installed, processes_with, root};

const PLUGINS: [(&str, &str); 7] = [
    ("quake-clean", "python"),
    ("quake-dedup", "lua"),
    ("quake-alert", "javascript"),
    ("quake-geo", "octave"),
    ("quake-region", "prolog"),
    ("quake-rate", "r"),
    ("quake-tally", "bash"),
];
/// Inherited by all that the demo starts.
const MARK: &str = "KERNELBRIDGE_TEST_DEMO";

#[test]
fn the_report_is_what_the_data_says() {
    let installed = Installed::look();
    check(PLUGINS.iter().filter(|(_, language)| installed.has(language)).map(|(plugin, _)| *plugin).collect());
}

/// No filters, nobody to ask for distances and regions.
#[test]
fn it_works_with_half_of_the_languages() {
    let installed = Installed::look();
    let half = ["quake-alert", "quake-rate", "quake-tally"];
    check(
        PLUGINS
            .iter()
            .filter(|(name, language)| half.contains(name) && installed.has(language))
            .map(|(name, _)| *name)
            .collect(),
    );
}

#[test]
fn all_means_all() {
    let dir = tempfile::tempdir().expect("a folder");
    let nothing = without(dir.path(), &PLUGINS.map(|(_, language)| language));
    let output = demo(dir.path(), &nothing, &["--all"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for (_, language) in PLUGINS {
        assert!(stderr.contains(&format!("\n{language}: no kernelspec of language `{language}` in ")), "{stderr}");
    }
    let hint = "\nhint: run `kernelbridge install python lua javascript octave prolog r bash`\n";
    assert!(stderr.ends_with(hint), "{stderr}");

    let output = demo(dir.path(), &nothing, &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.ends_with("error: no language of the demo is installed\n"), "{stderr}");
    assert!(stderr.contains(hint), "{stderr}");
    assert!(!dir.path().join("out").exists());

    // What no recipe brings is said beside it.
    let folder = dir.path().join("kernelspecs/r/language.toml");
    let text = fs::read_to_string(&folder).expect("written before");
    fs::write(&folder, text.replace("pypi = [\"none==1\"]", "hint = \"ask the admin\"")).expect("written");
    let output = demo(dir.path(), &nothing, &["--all"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.ends_with("\nhint: ask the admin\nhint: run `kernelbridge install bash`\n"), "{stderr}");
}

#[test]
fn a_folder_with_other_things_in_it_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir(dir.path().join("out")).expect("a folder");
    fs::write(dir.path().join("out/kernelbridge.db"), "mine").expect("written");
    let installed = Installed::look();
    if !PLUGINS.iter().any(|(_, language)| installed.has(language)) {
        return;
    }
    let output = demo(dir.path(), &[], &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("out is not empty, and not of an earlier demo\nhint: name another folder"), "{stderr}");
    assert_eq!(fs::read_to_string(dir.path().join("out/kernelbridge.db")).expect("still there"), "mine");
}

/// Options that make these languages unknown to any kernel.
fn without(dir: &Path, languages: &[&str]) -> [String; 2] {
    let folders = dir.join("kernelspecs");
    for language in languages {
        let folder = folders.join(language);
        fs::create_dir_all(&folder).expect("a folder");
        let text = format!(
            "name = \"{language}\"\ndisplay-name = \"{language}\"\nextension = \"x\"\n\
             [kernelspec]\nlanguages = [\"no kernel speaks it\"]\n[install]\npypi = [\"none==1\"]\n"
        );
        fs::write(folder.join("language.toml"), text).expect("written");
    }
    fs::create_dir_all(&folders).expect("a folder");
    ["--kernelspecs".to_owned(), folders.to_string_lossy().into_owned()]
}

fn command(dir: &Path, kernelspecs: &[String], options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernelbridge"));
    command.args(kernelspecs).arg("demo").args(options).arg("--out").arg(dir.join("out"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn demo(dir: &Path, kernelspecs: &[String], options: &[&str]) -> Output {
    command(dir, kernelspecs, options).output().expect("it runs")
}

/// Run the demo with these plugins and compare all it says.
fn check(present: BTreeSet<&str>) {
    if present.is_empty() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let absent: Vec<&str> =
        PLUGINS.iter().filter(|(plugin, _)| !present.contains(plugin)).map(|(_, language)| *language).collect();
    let (report, stderr) = run(dir.path(), &without(dir.path(), &absent));
    let expected = Expected::compute(&present);
    assert_eq!(report["events"], 1707);
    assert_eq!(report["accepted"], expected.passed.len(), "{stderr}");
    assert_eq!(report["rejected"], json!(expected.rejected));
    assert_eq!(report["duplicates"], json!(expected.duplicates));
    assert_eq!(report["classes"], json!(expected.classes));
    assert_eq!(report["regions"], json!(expected.regions));
    assert_eq!(report["rules"], json!(expected.rules));
    expected.check_alerts(&report["alerts"], &present);
    expected.check_fit(&report["fit"], &present);
    expected.check_tally(&report, &present);
    expected.check_plugins(&report["plugins"], &present);
    expected.check_files(dir.path(), &report, &present);
    let left_out: Vec<_> = report["left_out"].as_array().expect("a list").iter().map(|out| &out["language"]).collect();
    assert_eq!(json!(left_out), json!(absent));
}

/// The report and what was said on stderr; no process is left.
fn run(dir: &Path, kernelspecs: &[String]) -> (Value, String) {
    let mark = format!("{MARK}={}", dir.display());
    let mut child = command(dir, kernelspecs, &["--json"]).env(MARK, dir).spawn().expect("it runs");
    let (mut stdout, mut stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let reading = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    // Else that nothing is left would prove nothing.
    let mut most = 0;
    let watching = thread::spawn({
        let mark = mark.clone();
        move || {
            while child.try_wait().expect("waited for").is_none() {
                most = most.max(processes_with(&mark).len());
                thread::sleep(Duration::from_millis(50));
            }
            (child.wait().expect("waited for"), most)
        }
    });
    let mut text = String::new();
    stdout.read_to_string(&mut text).expect("read");
    let (status, most) = watching.join().expect("no panic");
    let stderr = reading.join().expect("no panic").expect("read");
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(most > 1, "its kernels carry the mark");
    let until = Instant::now() + Duration::from_secs(3);
    let mut left = processes_with(&mark);
    while !left.is_empty() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
        left = processes_with(&mark);
    }
    assert_eq!(left, [""; 0], "processes are left");
    (serde_json::from_str(&text).expect("a report"), stderr)
}

#[derive(Debug, Clone)]
struct Quake {
    id: String,
    ids: Vec<String>,
    kind: String,
    net: String,
    place: String,
    /// In hundredths.
    mag: i64,
    time: i64,
    tz: i32,
    lon: f64,
    lat: f64,
    depth: f64,
}

fn quakes() -> Vec<Quake> {
    let text = fs::read_to_string(root().join("examples/quakes/earthquakes.ndjson")).expect("the data");
    let quake = |line| {
        let event: Value = serde_json::from_str(line).expect("JSON");
        let (properties, place) = (&event["properties"], &event["geometry"]["coordinates"]);
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let number = |value: &Value| value.as_f64().expect("a number");
        Quake {
            id: text(&event["id"]),
            ids: text(&properties["ids"]).split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect(),
            kind: text(&properties["type"]),
            net: text(&properties["net"]),
            place: text(&properties["place"]),
            mag: (number(&properties["mag"]) * 100.0).round() as i64,
            time: properties["time"].as_i64().expect("an integer"),
            tz: properties["tz"].as_i64().expect("an integer") as i32,
            lon: number(&place[0]),
            lat: number(&place[1]),
            depth: number(&place[2]),
        }
    };
    text.lines().map(quake).collect()
}

/// Along the great circle, by the angle between two vectors.
fn km(a: (f64, f64), b: (f64, f64)) -> f64 {
    let vector = |(lat, lon): (f64, f64)| {
        let (lat, lon) = (lat.to_radians(), lon.to_radians());
        [lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()]
    };
    let ([ax, ay, az], [bx, by, bz]) = (vector(a), vector(b));
    let cross = [ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx];
    let sine = cross.iter().map(|part| part * part).sum::<f64>().sqrt();
    6371.0088 * sine.atan2(ax * bx + ay * by + az * bz)
}

type Counts = BTreeMap<String, u64>;

fn counted<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Counts {
    names.into_iter().fold(Counts::new(), |mut counts, name| {
        *counts.entry(name.into()).or_default() += 1;
        counts
    })
}

/// The regions and rules of quake-region.
fn decision(quake: &Quake) -> (&'static str, &'static str) {
    let regions = [
        ("the_geysers", (38.7, 38.9), (-122.95, -122.65)),
        ("hawaii", (18.0, 23.0), (-161.0, -154.0)),
        ("california", (32.0, 42.0), (-125.0, -114.0)),
        ("alaska", (51.0, 72.0), (170.0, 230.0)),
        ("caribbean", (10.0, 22.0), (-85.0, -58.0)),
        ("taiwan", (21.5, 25.6), (119.5, 123.0)),
        ("japan", (24.0, 46.0), (123.0, 149.0)),
        ("south_pacific", (-40.0, 0.0), (140.0, 190.0)),
        ("central_america", (5.0, 20.0), (-106.0, -77.5)),
        ("indonesia", (-11.0, 8.0), (94.0, 140.0)),
        ("south_america", (-56.0, 13.0), (-82.0, -66.0)),
    ];
    let within = |(low, high): (f64, f64), x: f64| (low..=high).contains(&x);
    let is_in = |lat, lon| within(lat, quake.lat) && (within(lon, quake.lon) || within(lon, quake.lon + 360.0));
    let region = regions.iter().find(|(_, lat, lon)| is_in(*lat, *lon)).map_or("elsewhere", |(name, ..)| name);
    let has_no_coast = ["the_geysers", "california", "elsewhere"].contains(&region);
    let rule = match quake.mag {
        600.. if quake.depth <= 70.0 && !has_no_coast => "tsunami watch",
        550.. => "shaking report",
        450.. if quake.depth <= 35.0 => "shaking report",
        ..300 if region == "the_geysers" => "steam field noise",
        300.. if ["california", "hawaii", "caribbean", "taiwan"].contains(&region) => "people nearby may feel it",
        _ => "for the record",
    };
    (region, rule)
}

/// The table in quake-geo's source.
fn cities() -> Vec<(String, f64, f64)> {
    let source = fs::read_to_string(root().join("examples/quakes/plugins/quake-geo/plugin.m")).expect("the plugin");
    let (_, table) = source.split_once("all = {").expect("a table");
    let (table, _) = table.split_once('}').expect("its end");
    let city = |row: &str| {
        let (name, place) = row.trim().strip_prefix('"')?.split_once('"')?;
        let mut numbers = place.split(',').filter_map(|number| number.trim().parse().ok());
        Some((name.to_owned(), numbers.next()?, numbers.next()?))
    };
    table.split([';', '\n']).filter_map(city).collect()
}

#[derive(Default)]
struct Expected {
    passed: Vec<Quake>,
    rejected: Counts,
    duplicates: Vec<Value>,
    classes: Counts,
    regions: Counts,
    rules: Counts,
}

impl Expected {
    fn compute(present: &BTreeSet<&str>) -> Self {
        let mut expected = Self::default();
        let (mut pure, mut impure) = (quakes(), Vec::new());
        if present.contains("quake-clean") {
            (pure, impure) = pure.into_iter().partition(|quake| quake.kind == "earthquake");
        }
        expected.rejected = counted(impure.into_iter().map(|quake| quake.kind));
        for quake in pure {
            let twin = expected.passed.iter().find_map(|earlier| {
                let apart = km((quake.lat, quake.lon), (earlier.lat, earlier.lon));
                let is_near =
                    (quake.time - earlier.time).abs() <= 4000 && apart <= 30.0 && (quake.mag - earlier.mag).abs() <= 50;
                let is_same = quake.ids.iter().any(|id| earlier.ids.contains(id));
                let reason = if is_same { "shares an id" } else { "same time and place" };
                (is_same || is_near).then(|| json!({ "id": quake.id, "of": earlier.id, "reason": reason }))
            });
            match twin.filter(|_| present.contains("quake-dedup")) {
                Some(twin) => expected.duplicates.push(twin),
                None => expected.passed.push(quake),
            }
        }
        if present.contains("quake-clean") {
            expected.classes = counted(expected.passed.iter().map(|quake| match quake.mag {
                ..200 => "micro",
                200..400 => "minor",
                400..500 => "light",
                500..600 => "moderate",
                600..700 => "strong",
                700..800 => "major",
                800.. => "great",
            }));
        }
        if present.contains("quake-region") {
            expected.regions = counted(expected.passed.iter().map(|quake| decision(quake).0));
            expected.rules = counted(expected.passed.iter().map(|quake| decision(quake).1));
        }
        expected
    }

    fn alerts(&self, present: &BTreeSet<&str>) -> Vec<&Quake> {
        let is_there = present.contains("quake-alert");
        self.passed.iter().filter(|quake| is_there && quake.mag >= 450).collect()
    }

    fn check_alerts(&self, found: &Value, present: &BTreeSet<&str>) {
        let mut expected = self.alerts(present);
        expected.sort_by_key(|quake| (-quake.mag, quake.time));
        let found = found.as_array().expect("a list");
        assert_eq!(found.len(), expected.len());
        let cities = cities();
        assert_eq!(cities.len(), 45);
        for (alert, quake) in found.iter().zip(expected) {
            let zone = FixedOffset::east_opt(quake.tz * 60).expect("a time zone");
            let time = DateTime::from_timestamp_millis(quake.time).expect("a time").with_timezone(&zone);
            let local = format!("{} (UTC{zone})", time.format("%-d %b %Y, %H:%M"));
            assert_eq!(alert["id"], quake.id);
            assert_eq!(alert["mag"].as_f64(), Some(quake.mag as f64 / 100.0));
            assert_eq!(alert["place"], quake.place);
            assert_eq!(alert["local"], local);
            let mut text = format!("M {:.1} {}, {local}; ", quake.mag as f64 / 100.0, quake.place);
            if present.contains("quake-geo") {
                let distance = |city: &(String, f64, f64)| km((quake.lat, quake.lon), (city.1, city.2));
                let nearest = cities.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("a city");
                let found = alert["km"].as_f64().expect("a distance");
                assert_eq!(alert["city"], nearest.0, "{alert}");
                assert!((found - distance(nearest)).abs() < 1e-3, "{alert}: {}", distance(nearest));
                text += &format!("{:.0} km from {}", distance(nearest), nearest.0);
            } else {
                assert_eq!((&alert["city"], &alert["km"]), (&Value::Null, &Value::Null));
                text += "no distances without quake-geo";
            }
            if present.contains("quake-region") {
                let (region, rule) = decision(quake);
                assert_eq!(alert["rule"], json!({ "region": region, "rule": rule }));
                text += &format!("; {region}: {rule}");
            } else {
                assert_eq!(alert["rule"], Value::Null);
            }
            assert_eq!(alert["text"], text);
        }
    }

    fn check_fit(&self, found: &Value, present: &BTreeSet<&str>) {
        if !present.contains("quake-rate") {
            assert_eq!(*found, Value::Null);
            return;
        }
        // Tenths of a magnitude, half of one up.
        let quakes = self.passed.iter().filter(|quake| ["ci", "nc"].contains(&quake.net.as_str()));
        let tenths: Vec<i64> = quakes.map(|quake| (quake.mag + 5).div_euclid(10)).collect();
        let frequency = |tenth: i64| tenths.iter().filter(|other| **other == tenth).count();
        let (low, high) = (*tenths.iter().min().expect("some"), *tenths.iter().max().expect("some"));
        let most = (low..=high).map(frequency).max().expect("some");
        let mc = (low..=high).find(|tenth| frequency(*tenth) == most).expect("one") + 2;
        let complete: Vec<f64> =
            tenths.iter().filter(|tenth| **tenth >= mc).map(|tenth| *tenth as f64 / 10.0).collect();
        let (n, mc) = (complete.len() as f64, mc as f64 / 10.0);
        let mean = complete.iter().sum::<f64>() / n;
        let b = std::f64::consts::LOG10_E / (mean - mc + 0.05);
        let squares: f64 = complete.iter().map(|mag| (mag - mean).powi(2)).sum();
        let error = std::f64::consts::LN_10 * b * b * (squares / (n * (n - 1.0))).sqrt();
        let is = |name: &str, value: f64| {
            let found = found[name].as_f64().expect("a number");
            assert!((found - value).abs() < 1e-9, "{name}: {found}, not {value}");
        };
        is("b", b);
        is("error", error);
        is("a", n.log10() + b * mc);
        is("mc", mc);
        assert_eq!((found["n"].as_u64(), found["of"].as_u64()), (Some(n as u64), Some(tenths.len() as u64)));
        assert_eq!(found["networks"], json!(["ci", "nc"]));
        // What is known of such weeks in California, in case both are wrong in the same way.
        assert!((0.6..1.2).contains(&b) && error < 0.1, "{b} {error}");
    }

    fn check_tally(&self, report: &Value, present: &BTreeSet<&str>) {
        let store = Store::open(report["database"].as_str().expect("a path")).expect("a database");
        let keys = store.list("tally/").expect("keys");
        if !present.contains("quake-tally") {
            assert_eq!((&report["tally"], keys.len()), (&Value::Null, 0));
            return;
        }
        let tally = counted(self.passed.iter().map(|quake| quake.net.as_str()));
        assert_eq!(report["tally"], json!(tally));
        assert_eq!(keys.len(), tally.len());
        for key in keys {
            let value = store.get(&key).expect("read").expect("a value");
            assert_eq!(value.get(), tally[key.trim_start_matches("tally/")].to_string(), "{key}");
        }
    }

    /// What each plugin did.
    fn check_plugins(&self, found: &Value, present: &BTreeSet<&str>) {
        let has = |name: &str| u64::from(present.contains(name));
        let (passed, alerts) = (self.passed.len() as u64, self.alerts(present).len() as u64);
        let (rejected, duplicates) = (self.rejected.values().sum::<u64>(), self.duplicates.len() as u64);
        let found = found.as_array().expect("a list");
        let names: Vec<_> = found.iter().map(|part| &part["name"]).collect();
        let expected: Vec<_> = PLUGINS.iter().map(|(name, _)| *name).filter(|name| present.contains(name)).collect();
        assert_eq!(json!(names), json!(expected));
        for part in found {
            let name = part["name"].as_str().expect("a name");
            let numbers = ["handled", "filtered", "filtered_out", "called", "calls", "emitted"];
            let numbers = numbers.map(|number| part[number].as_u64().expect("a number"));
            let expected = match name {
                "quake-clean" => [0, passed + duplicates, rejected, 0, 0, rejected],
                "quake-dedup" => [0, passed, duplicates, 0, 0, duplicates],
                // Whether somebody is there who knows it takes a call to find out.
                "quake-alert" => [passed, 0, 0, 0, alerts * (2 + has("quake-geo")), alerts],
                "quake-geo" => [0, 0, 0, 2 * alerts, 0, 0],
                "quake-region" => [passed, 0, 0, alerts, 0, 0],
                "quake-rate" => [passed, 0, 0, 1, 0, 0],
                // How many batches there are is a matter of time.
                _ => [passed, 0, 0, 0, numbers[4], 0],
            };
            assert_eq!(numbers, expected, "{name}");
            for number in ["failed", "retried", "dropped", "waiting"] {
                assert_eq!(part[number], 0, "{name}: {number}");
            }
            let [p50, p99] = ["p50_ms", "p99_ms"].map(|number| part[number].as_f64().expect("a number"));
            assert!((0.0 < p50 && p50 <= p99) || numbers == [0; 6], "{name}: {p50} {p99}");
            if name == "quake-tally" {
                // A read and a swap for each network of each batch.
                let networks = counted(self.passed.iter().map(|quake| quake.net.as_str())).len() as u64;
                assert!(
                    numbers[4] % 2 == 0 && numbers[4] >= 2 * networks && numbers[4] <= 2 * passed,
                    "{}",
                    numbers[4]
                );
            }
        }
    }

    fn check_files(&self, dir: &Path, report: &Value, present: &BTreeSet<&str>) {
        let plots: Vec<_> = report["plots"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert_eq!(plots.len(), usize::from(present.contains("quake-rate")), "{plots:?}");
        for plot in plots {
            let bytes = fs::read(plot).expect("a plot");
            assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 5000, "{plot}: {} bytes", bytes.len());
        }
        let results = fs::read_to_string(report["results"].as_str().expect("a path")).expect("results");
        let types = counted(results.lines().map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            line["type"].as_str().expect("a type").to_owned()
        }));
        let emitted = self.alerts(present).len() + self.duplicates.len() + self.rejected.values().sum::<u64>() as usize;
        assert_eq!(types.get("event").copied().unwrap_or_default(), emitted as u64);
        assert_eq!(types.get("result").copied().unwrap_or_default(), self.regions.values().sum::<u64>());
        assert_eq!(types.get("failure"), None);
        // It can be run again by hand.
        for (plugin, _) in PLUGINS {
            assert!(dir.join("out/plugins").join(plugin).join("plugin.toml").is_file());
        }
        let ours = fs::read(root().join("examples/quakes/earthquakes.ndjson")).expect("the data");
        assert!(fs::read(dir.join("out/earthquakes.ndjson")).expect("a copy") == ours);
    }
}
