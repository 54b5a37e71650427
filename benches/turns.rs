//! What plugins cost, language by language, carrier by carrier and activation by activation, beside their peers in the
//! same run:
//! `cargo bench --bench turns [-- LANGUAGE...]`.
//!
//! Peers: JSON lines over a subprocess's pipes, a bare `input_request` round trip with our own client, and
//! jupyter_client's silent execute (when `KERNELBRIDGE_TEST_PYTHON` names a Python that has it). Medians of several
//! rounds; the machine's noise shows in the spread, so compare within one run only.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use comfy_table::{CellAlignment, Table, presets};
use kernelbridge::{
    client::{ExecutionEvent, KernelClient, LaunchOptions},
    discover::{Environment, Languages, discover},
    host::{Host, News, runtime_for},
    language::Activation,
    plugin::launch_options,
    wire::content::ExecuteRequest,
};
use serde_json::{Value, json};

/// Events in one long turn.
const EVENTS: u32 = 1000;
/// Rounds of which the median is taken.
const ROUNDS: usize = 5;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench(&wanted));
}

async fn bench(wanted: &[String]) {
    let environment = Environment::capture();
    let (discovery, languages) = (discover(&environment), Languages::load(&environment, &[]));
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "LANGUAGE",
        "CARRIER",
        "ACTIVATION",
        "START MS",
        "RSS MB",
        "ONE-EVENT TURN MS",
        "EVENT US",
        "HOST CALL US",
        "NEST 50 MS",
    ]);
    for folder in &languages.folders {
        let language = &folder.language;
        let conformance =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kernelspecs").join(&language.name).join("conformance");
        let is_wanted = wanted.is_empty() || wanted.contains(&language.name);
        if !is_wanted || !conformance.is_dir() || languages.kernelspec_for(&discovery, &language.name).is_err() {
            continue;
        }
        for (carrier, code) in [("pipe", &language.turn.pipe), ("jupyter", &language.turn.jupyter)] {
            let has = |activation: &Activation| {
                Activation::choose(&language.turn, Some(*activation), carrier == "pipe").is_some()
            };
            for activation in Activation::ALL.into_iter().filter(|activation| code.is_some() && has(activation)) {
                let way = format!("{} over {carrier}, {activation}", language.name);
                eprintln!("{way} ...");
                match language_row(&language.name, &conformance, carrier, activation).await {
                    Ok(row) => drop(table.add_row(row)),
                    Err(error) => eprintln!("{way}: {error}"),
                }
            }
        }
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}\n");

    println!("peers, microseconds:");
    println!(
        "  JSON lines over a Python subprocess's pipes: {:.1} a round trip",
        median((0..ROUNDS).map(|_| pipes()).collect())
    );
    if let Ok(found) = languages.kernelspec_for(&discovery, "python") {
        let options = launch_options(&runtime_for(found, &languages, &environment), None);
        println!("  bare input_request in ipykernel, our client: {:.1} a round trip", bare_input(options).await);
    }
    match jupyter_client() {
        Some(micros) => println!("  jupyter_client, silent execute of `pass`:    {micros:.1} a request"),
        None => println!("  jupyter_client: not measured, KERNELBRIDGE_TEST_PYTHON is not set"),
    }
}

async fn language_row(
    name: &str,
    conformance: &Path,
    carrier: &str,
    activation: Activation,
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    for entry in fs::read_dir(conformance)?.flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), dir.path().join(entry.file_name()))?;
    }
    let file = dir.path().join("plugin.toml");
    let mut manifest: toml::Table = fs::read_to_string(&file)?.parse()?;
    if let Some(plugin) = manifest["plugin"].as_table_mut() {
        plugin.insert("carrier".into(), carrier.into());
        plugin.insert("activation".into(), activation.name().into());
    }
    fs::write(&file, manifest.to_string())?;
    let nest = move |caller: kernelbridge::host::Caller, (n,): (f64,)| async move {
        let name = caller.plugin.clone();
        let below: f64 = caller.call(&format!("{name}.nest"), (n as i64 - 1,)).await?;
        Ok::<_, kernelbridge::rpc::RpcError>(below as i64 + 1)
    };
    let host = Host::builder().plugin(dir.path()).function_with_caller("test.nest", nest).build().await?;
    let about = host.plugins()[0].about.clone();
    let mark = private_folder(about.process_id)?;
    let event: Value = serde_json::from_str(
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quakes/earthquakes.ndjson"))?
            .lines()
            .next()
            .unwrap_or("{}"),
    )?;

    let mut news = host.subscribe();
    let mut turns = Vec::new();
    for _ in 0..20 {
        // Longer than any turn lingers, so that each event opens one.
        tokio::time::sleep(Duration::from_millis(400)).await;
        let began = Instant::now();
        host.emit("conf.echo", &event).await?;
        while !matches!(news.next().await, Some(News::Handled { .. }) | None) {}
        turns.push(micros(began) / 1000.0);
    }
    drop(news);
    let mut events = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..EVENTS {
            host.emit("conf.echo", &event).await?;
        }
        host.drain().await;
        events.push(micros(began) / f64::from(EVENTS));
    }
    let (mut calls, mut nests) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        host.call::<Value>(&format!("conformance-{name}.increment"), json!(["counter", 250])).await?;
        // Each increment reads and swaps.
        calls.push(micros(began) / 500.0);
        let began = Instant::now();
        host.call::<Value>(&format!("conformance-{name}.nest"), json!([50])).await?;
        nests.push(micros(began) / 1000.0);
    }
    let memory = rss_mb(&mark);
    host.shutdown().await;
    let number = |value: f64| format!("{value:.1}");
    Ok(vec![
        name.into(),
        carrier.into(),
        activation.name().into(),
        about.startup_ms.to_string(),
        format!("{memory:.0}"),
        format!("{:.2}", median(turns)),
        number(median(events)),
        number(median(calls)),
        number(median(nests)),
    ])
}

fn micros(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn private_folder(process_id: u32) -> std::io::Result<String> {
    let environment = fs::read(format!("/proc/{process_id}/environ"))?;
    let variable = environment.split(|&byte| byte == 0).find(|variable| variable.starts_with(b"KERNELBRIDGE_DIR="));
    Ok(String::from_utf8_lossy(variable.unwrap_or_default()).into_owned())
}

/// Resident memory of the processes with this mark.
fn rss_mb(mark: &str) -> f64 {
    let mut kb = 0.0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes()) {
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let rss = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
            kb += rss.unwrap_or(0.0);
        }
    }
    kb / 1024.0
}

/// What everybody's plugin could cost at best: a script that answers lines with lines.
fn pipes() -> f64 {
    let script = "import sys, json\nfor line in sys.stdin:\n    m = json.loads(line)\n    sys.stdout.write(json.dumps({'id': m['id'], 'result': m['data']}) + '\\n')\n    sys.stdout.flush()\n";
    let child = Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else { return f64::NAN };
    let (Some(mut to), Some(from)) = (child.stdin.take(), child.stdout.take()) else { return f64::NAN };
    let mut from = BufReader::new(from);
    let event = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quakes/earthquakes.ndjson"))
        .unwrap_or_default();
    let event = event.lines().next().unwrap_or("{}");
    let mut line = String::new();
    let mut began = Instant::now();
    for id in 0..=EVENTS {
        if id == 1 {
            // The first answer came once Python was there.
            began = Instant::now();
        }
        let written = writeln!(to, "{{\"id\":{id},\"data\":{event}}}");
        line.clear();
        if written.is_err() || from.read_line(&mut line).is_err() {
            return f64::NAN;
        }
    }
    let micros = micros(began) / f64::from(EVENTS);
    drop(to);
    let _ = child.wait();
    micros
}

async fn bare_input(options: LaunchOptions) -> f64 {
    let Ok(client) = KernelClient::launch(options).await else { return f64::NAN };
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let request = ExecuteRequest {
            allow_stdin: true,
            silent: true,
            ..ExecuteRequest::new("for _ in range(501): input('?')")
        };
        let Ok(mut execution) = client.execute(&request).await else { return f64::NAN };
        let (mut asked, mut began) = (0, Instant::now());
        loop {
            match execution.next().await {
                ExecutionEvent::Input(input) => {
                    if asked == 0 {
                        began = Instant::now();
                    }
                    asked += 1;
                    if execution.reply_input(&input, "answer").await.is_err() {
                        return f64::NAN;
                    }
                }
                ExecutionEvent::Reply(_) => break,
                ExecutionEvent::Failed(_) => return f64::NAN,
                _ => {}
            }
        }
        rounds.push(micros(began) / 500.0);
    }
    client.shutdown(Duration::from_secs(2)).await;
    median(rounds)
}

fn jupyter_client() -> Option<f64> {
    let script = "
import statistics, time
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel()
times = []
for _ in range(200):
    began = time.perf_counter()
    client.execute('pass', silent=True, reply=True)
    times.append(time.perf_counter() - began)
client.stop_channels()
manager.shutdown_kernel(now=True)
print(statistics.median(times) * 1e6)
";
    let python = std::env::var_os("KERNELBRIDGE_TEST_PYTHON")?;
    let output = Command::new(python).args(["-c", script]).stderr(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}
