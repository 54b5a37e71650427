//! What large arrays cost, language by language: `taskset -c 0 cargo bench --bench blobs [-- LANGUAGE...]`.
//!
//! A `Vec<f64>` of the application becomes an array, a plugin gets it, and its sum comes back; all of that is counted.
//! Pinned to one core, as above, the kernels are too. Processor time is that of this process and of the kernel's, and says
//! more than the clock on a machine that does other things as well. For Python name one that has numpy in
//! `KERNELBRIDGE_TEST_PYTHON`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use comfy_table::{CellAlignment, Table, presets};
use kernelbridge::{
    blob::{Array, ArrayMut},
    discover::{Environment, Languages, discover},
    host::Host,
};
use serde_json::json;

/// Sizes in bytes, and how often each is measured.
const SIZES: [(usize, usize); 3] = [(1_000_000, 21), (10_000_000, 11), (100_000_000, 5)];
const LANGUAGES: [&str; 5] = ["python", "javascript", "node", "r", "octave"];

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
    table.set_header(["LANGUAGE", "WHAT", "MB", "MS", "FASTEST", "SLOWEST", "CPU MS", "OF THE HOST"]);
    for name in LANGUAGES {
        let is_wanted = wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
        if !is_wanted || languages.kernelspec_for(&discovery, name).is_err() {
            continue;
        }
        eprintln!("{name} ...");
        if let Err(error) = language(name, &environment, &mut table).await {
            eprintln!("{name}: {error}");
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}

async fn language(name: &str, environment: &Environment, table: &mut Table) -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let conformance = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kernelspecs").join(name).join("conformance");
    for entry in fs::read_dir(conformance)?.flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), dir.path().join(entry.file_name()))?;
    }
    let file = dir.path().join("plugin.toml");
    let mut manifest: toml::Table = fs::read_to_string(&file)?.parse()?;
    let mut builder = Host::builder();
    if let (Some(plugin), Some(python)) =
        (manifest["plugin"].as_table_mut(), std::env::var_os("KERNELBRIDGE_TEST_PYTHON").filter(|_| name == "python"))
    {
        let folder = dir.path().join("kernels/with-numpy");
        fs::create_dir_all(&folder)?;
        let argv = json!([python.to_string_lossy(), "-m", "ipykernel_launcher", "-f", "{connection_file}"]);
        let kernelspec = json!({ "argv": argv, "display_name": "Python with numpy", "language": "python" });
        fs::write(folder.join("kernel.json"), kernelspec.to_string())?;
        plugin.insert("kernel".into(), "with-numpy".into());
        builder = builder.environment(environment.clone().with_kernels_in(dir.path().join("kernels")));
    }
    fs::write(&file, manifest.to_string())?;
    let host = builder.plugin(dir.path()).build().await?;
    let process = host.plugins()[0].about.process_id;
    let function = format!("conformance-{name}.sum");
    for (size, rounds) in SIZES {
        let numbers: Vec<f64> = (0..size / 8).map(|n| (n % 1000) as f64).collect();
        let expected: f64 = numbers.iter().sum();
        for what in ["from a Vec", "filled in place"] {
            let mut times = Vec::new();
            let (mut cpu, mut own) = (0.0, 0.0);
            for round in 0..=rounds {
                let before = (cpu_ms(process), cpu_ms(std::process::id()));
                let began = Instant::now();
                let array = if what == "from a Vec" {
                    Array::from(&numbers[..])
                } else {
                    let mut array = ArrayMut::<f64>::zeroed(&[numbers.len()])?;
                    array.iter_mut().enumerate().for_each(|(n, element)| *element = (n % 1000) as f64);
                    array.finish()?
                };
                let sum: f64 = host.call(&function, (array,)).await?;
                let elapsed = began.elapsed();
                assert!((sum - expected).abs() <= expected * 1e-9, "{sum}, not {expected}");
                // The first loads libraries.
                if round > 0 {
                    let host = cpu_ms(std::process::id()) - before.1;
                    times.push(elapsed.as_secs_f64() * 1000.0);
                    (cpu, own) = (cpu + host + cpu_ms(process) - before.0, own + host);
                }
            }
            times.sort_by(f64::total_cmp);
            let number = |value: f64| format!("{value:.1}");
            table.add_row([
                name.to_owned(),
                what.to_owned(),
                (size / 1_000_000).to_string(),
                number(times[rounds / 2]),
                number(times[0]),
                number(times[rounds - 1]),
                number(cpu / rounds as f64),
                number(own / rounds as f64),
            ]);
        }
    }
    host.shutdown().await;
    Ok(())
}

/// Processor time of a process and, for a wrapper kernel, of the interpreter below it.
fn cpu_ms(process: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let own: f64 = tasks.map(|task| run_ms(&task.path())).sum();
    let below = children(process).into_iter().filter(|_| process != std::process::id()).map(cpu_ms);
    own + below.sum::<f64>()
}

fn run_ms(task: &Path) -> f64 {
    let schedstat = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    let nanoseconds = schedstat.split_ascii_whitespace().next().and_then(|number| number.parse::<f64>().ok());
    nanoseconds.unwrap_or_default() / 1e6
}

fn children(process: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let text: String = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect();
    text.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect()
}
