//! What a host costs that has nothing to do, and how long a start takes: `cargo bench --bench idle [-- PLUGINS [SECONDS
//! [STARTS]]]`.
//!
//! Python plugins, 50 unless told otherwise, each in a kernel of its own; processor time and memory are this process's,
//! not the kernels'. STARTS is how many kernels are started at the same time (default: what the host chooses).

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use comfy_table::{CellAlignment, Table, presets};
use kernelbridge::{
    host::{Host, PluginInfo},
    supervision::State,
};
use nix::sys::{
    resource::{UsageWho, getrusage},
    signal::{Signal, kill},
    time::TimeValLike,
};

/// Rounds of each measurement of a start from a kernel at hand.
const ROUNDS: usize = 5;

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let number = |index: usize, default| numbers.get(index).copied().unwrap_or(default);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench(number(0, 50), number(1, 30), numbers.get(2).copied()));
}

async fn bench(plugins: usize, seconds: usize, starts: Option<usize>) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut builder = Host::builder().state(dir.path().join("state.db"));
    if let Some(starts) = starts {
        builder = builder.starts(starts);
    }
    for number in 0..plugins {
        builder = builder.plugin(plugin(dir.path(), &format!("idle-{number}"), ""));
    }
    let (began, before) = (Instant::now(), cpu());
    let host = builder.build().await.expect("starts");
    let elapsed = began.elapsed();
    println!(
        "{plugins} plugins are ready after {:.2} s; the host took {:.0} ms of a processor, {:.1} ms each\n",
        elapsed.as_secs_f64(),
        1000.0 * (cpu() - before).as_secs_f64(),
        1000.0 * (cpu() - before).as_secs_f64() / plugins as f64,
    );
    println!("{}\n", phases(&host.plugins()));

    // What is left of starting settles.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (began, before) = (Instant::now(), cpu());
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    let share = (cpu() - before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("idle for {seconds} s: {:.3} % of a processor, {:.1} MB resident\n", 100.0 * share, resident_mb());
    let began = Instant::now();
    host.shutdown().await;
    println!("shut down after {:.2} s\n", began.elapsed().as_secs_f64());
    warm(dir.path()).await;
}

/// From a kernel at hand to the first answer.
async fn warm(dir: &Path) {
    // Every death is taken for the first one.
    let own = plugin(dir, "own", "[delivery]\nwarm = 1\n[restart]\nwithin = \"1ms\"\n");
    let host = Host::builder().plugin(&own).warm("python", 1).build().await.expect("starts");
    let (mut added, mut died, mut loaded) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        spares(&host, "own").await;
        let began = Instant::now();
        host.scale("own", 2).await.expect("scaled");
        added.push(began.elapsed());
        host.scale("own", 1).await.expect("scaled");

        spares(&host, "own").await;
        let State::Ready { process_id } = host.plugins()[0].instances[0] else { panic!("not ready") };
        let began = Instant::now();
        kill(nix::unistd::Pid::from_raw(process_id.cast_signed()), Signal::SIGKILL).expect("killed");
        while host.call::<u64>("own.answer", ()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        died.push(began.elapsed());
        spares(&host, "own").await;

        // The host's own pool is refilled by now, too, since spares are started one at a time.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let name = format!("late-{round}");
        let late = plugin(dir, &name, "");
        let began = Instant::now();
        host.load(&late).await.expect("loaded");
        host.call::<u64>(&format!("{name}.answer"), ()).await.expect("answered");
        loaded.push(began.elapsed());
        let about = host.plugins().into_iter().last().expect("it is there").about;
        assert!(about.startup.warm, "{about:?}");
    }
    host.shutdown().await;
    let told = |what: &str, times: &[Duration]| {
        let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        times.sort_by(f64::total_cmp);
        println!("{what}: {:.1} ms, {:.1} at most", times[times.len() / 2], times[times.len() - 1]);
    };
    told("one instance more", &added);
    told("killed, until it answers again", &died);
    told("another plugin loaded and answered", &loaded);
}

/// Until a spare is there.
async fn spares(host: &Host, plugin: &str) {
    while host.plugins().iter().any(|info| info.name == plugin && info.spares == 0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn plugin(dir: &Path, name: &str, sections: &str) -> PathBuf {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).expect("a folder");
    let manifest = format!("[plugin]\nname = \"{name}\"\nlanguage = \"python\"\nentry = \"plugin.py\"\n{sections}");
    fs::write(folder.join("plugin.toml"), manifest).expect("written");
    fs::write(folder.join("plugin.py"), "@bridge.export\ndef answer():\n    return 42\n").expect("written");
    folder
}

fn phases(plugins: &[PluginInfo]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["PHASE", "MEDIAN MS", "MOST MS"]);
    let mut row = |name: &str, of: &dyn Fn(&PluginInfo) -> f64| {
        let mut times: Vec<f64> = plugins.iter().map(of).collect();
        times.sort_by(f64::total_cmp);
        if let (Some(median), Some(most)) = (times.get(times.len() / 2), times.last()) {
            table.add_row([name.to_owned(), format!("{median:.1}"), format!("{most:.1}")]);
        }
    };
    for index in 0..plugins.first().map_or(0, |plugin| plugin.about.startup.phases().len()) {
        let name = plugins[0].about.startup.phases()[index].0;
        row(name, &|plugin| plugin.about.startup.phases()[index].1);
    }
    row("the host's share", &|plugin| plugin.about.startup.host_ms);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Processor time of this process.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("told");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

fn resident_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("told");
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    kilobytes / 1000.0
}
