//! The sections of a run, each measured in a process of its own.

use std::time::{Duration, Instant};

use super::{
    machine::{cpu_time, resident_bytes, tree_bytes},
    peers::{Grpc, Jupyter, Kit, Lines, Ours, Raw, Redpanda, Road, host},
    plan::Plan,
    rounds::rounds,
    row::Row,
    system::{Doing, System, Unit},
};

/// How long a crowd of plugins is watched doing nothing.
const IDLE: Duration = Duration::from_secs(5);

/// Systems that run and are called.
pub(super) fn exchange<'a>(section: &'a str, kit: &'a Kit, plan: &'a Plan) -> Doing<'a, Vec<Row>> {
    Box::pin(async move {
        let mut systems: Vec<Box<dyn System>> = Vec::new();
        for raw in [Raw::RustEcho, Raw::PythonEcho, Raw::PythonWork] {
            if plan.wants_system(raw.name()) {
                systems.push(raw.start(kit).await?);
            }
        }
        for starter in starters(kit, plan) {
            match starter.start(kit).await {
                Ok(Some(started)) => systems.push(started.system),
                Ok(None) => eprintln!("{section}: {} is not here", starter.name()),
                Err(error) => eprintln!("{section}: {} does not start: {error:#}", starter.name()),
            }
        }
        for stream in ["sync", "aio"] {
            if plan.wants_system(&format!("gRPC {stream}, stream")) {
                systems.push(Box::new(Grpc::start(kit, stream, true).await?));
            }
        }
        let ways = ["execute", "comm", "stdin"].map(|way| format!("jupyter_client {way}"));
        if ways.iter().any(|way| plan.wants_system(way)) {
            systems.extend(Jupyter::start(kit).await?);
        }
        let rows = rounds(section, &mut systems, plan).await?;
        for system in systems {
            system.stop().await?;
        }
        Ok(rows)
    })
}

/// Systems that are started again and again.
pub(super) fn start<'a>(kit: &'a Kit, plan: &'a Plan) -> Doing<'a, Vec<Row>> {
    Box::pin(async move {
        const SECTION: &str = "start";
        let mut starters = starters(kit, plan);
        if plan.wants_system(&Starter::Warm.name()) {
            starters.push(Starter::Warm);
        }
        let mut taken: Vec<[Vec<f64>; 3]> = starters.iter().map(|_| Default::default()).collect();
        for _ in 0..plan.rounds {
            for (starter, [first_answer, own, memory]) in starters.iter().zip(&mut taken) {
                let (began, computed) = (Instant::now(), cpu_time());
                match starter.start(kit).await {
                    Ok(Some(started)) => {
                        first_answer.push(started.began.unwrap_or(began).elapsed().as_secs_f64() * 1e3);
                        // Of one that was at hand, most was before.
                        if started.began.is_none() {
                            own.push((cpu_time() - computed).as_secs_f64() * 1e3);
                        }
                        memory.extend(started.process_id.map(|pid| tree_bytes(pid) as f64 / 1e6));
                        started.system.stop().await?;
                    }
                    Ok(None) => {}
                    Err(error) => eprintln!("{SECTION}: {} does not start: {error:#}", starter.name()),
                }
            }
        }
        let mut rows = Vec::new();
        for (index, (measure, unit)) in [
            ("start to first answer", Unit::Millis),
            ("host's share of a start", Unit::Millis),
            ("memory", Unit::Megabytes),
        ]
        .into_iter()
        .enumerate()
        {
            for (starter, taken) in starters.iter().zip(&taken) {
                if !taken[index].is_empty() {
                    rows.push(Row::new(SECTION, measure, starter.name(), unit, &taken[index]));
                }
            }
        }
        Ok(rows)
    })
}

/// Many plugins with nothing to do.
pub(super) fn crowd<'a>(kit: &'a Kit, plan: &'a Plan) -> Doing<'a, Vec<Row>> {
    Box::pin(async move {
        const SECTION: &str = "crowd";
        let road = Road { language: "python", way: "auto" };
        let mut rows = Vec::new();
        for count in &plan.crowds {
            let system = format!("{} x {count}", road.name());
            let dir = tempfile::tempdir()?;
            let dirs: Vec<_> = (0..*count).map(|number| dir.path().join(format!("bench-{number}"))).collect();
            for (number, dir) in dirs.iter().enumerate() {
                // Many start at once on few cores.
                road.plugin(dir, &format!("bench-{number}"), kit, "\n[restart]\ndeaths = 5\n")?;
                let manifest = std::fs::read_to_string(dir.join("plugin.toml"))?;
                std::fs::write(dir.join("plugin.toml"), manifest.replace("[limits]", "[limits]\nstartup = \"300s\""))?;
            }
            let began = Instant::now();
            let host = host(kit, &dirs).await?;
            let started = began.elapsed().as_secs_f64() * 1e3;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (began, computed) = (Instant::now(), cpu_time());
            tokio::time::sleep(IDLE).await;
            let idle = (cpu_time() - computed).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
            let kernels: u64 = host.plugins().iter().map(|plugin| tree_bytes(plugin.about.process_id)).sum();
            let own = resident_bytes(std::process::id()) as f64 / 1e6;
            host.shutdown().await;
            rows.extend([
                Row::new(SECTION, "start of all", &system, Unit::Millis, &[started]),
                Row::new(SECTION, "host CPU, idle", &system, Unit::Percent, &[idle]),
                Row::new(SECTION, "host memory", &system, Unit::Megabytes, &[own]),
                Row::new(
                    SECTION,
                    "memory of a plugin",
                    &system,
                    Unit::Megabytes,
                    &[kernels as f64 / 1e6 / *count as f64],
                ),
            ]);
            eprintln!("{SECTION}: {system}");
        }
        rows.extend(further(kit, SECTION, &road).await?);
        Ok(rows)
    })
}

/// What one more plugin costs in a kernel that others share.
async fn further(kit: &Kit, section: &'static str, road: &Road) -> anyhow::Result<Vec<Row>> {
    // The first ones pay for what the interpreter compiles and allocates once.
    const BEFORE: usize = 10;
    const MORE: usize = 40;
    let system = format!("kernelbridge {} shared", road.language);
    let dir = tempfile::tempdir()?;
    let dirs: Vec<_> = (0..BEFORE + MORE).map(|number| dir.path().join(format!("bench-{number}"))).collect();
    for (number, dir) in dirs.iter().enumerate() {
        road.plugin(dir, &format!("bench-{number}"), kit, "")?;
        let manifest = std::fs::read_to_string(dir.join("plugin.toml"))?;
        let shared = manifest.replacen("[plugin]\n", "[plugin]\nisolation = \"shared\"\n", 1);
        std::fs::write(dir.join("plugin.toml"), shared)?;
    }
    let host = host(kit, &dirs[..BEFORE]).await?;
    let process_id = host.plugins().first().map(|plugin| plugin.about.process_id).unwrap_or_default();
    let before = tree_bytes(process_id);
    let mut took = Vec::new();
    for dir in &dirs[BEFORE..] {
        let began = Instant::now();
        host.load(dir).await?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let each = tree_bytes(process_id).saturating_sub(before) as f64 / 1e3 / MORE as f64;
    host.shutdown().await;
    eprintln!("{section}: {system}");
    let mut rows = vec![Row::new(section, "start of a further plugin", &system, Unit::Millis, &took)];
    // Where the interpreter had room for all of them, this says nothing.
    if each > 0.0 {
        rows.push(Row::new(section, "memory of a further plugin", &system, Unit::Kilobytes, &[each]));
    }
    Ok(rows)
}

/// One plugin in several kernels.
pub(super) fn scale<'a>(kit: &'a Kit, plan: &'a Plan) -> Doing<'a, Vec<Row>> {
    Box::pin(async move {
        const SECTION: &str = "scale";
        let road = Road { language: "python", way: "auto" };
        let events = if plan.quick { 100 } else { 2000 };
        let mut rows = Vec::new();
        for count in &plan.instances {
            let system = format!("{} x {count}", road.name());
            let dir = tempfile::tempdir()?;
            road.plugin(dir.path(), "bench", kit, &format!("\n[delivery]\ninstances = {count}\n"))?;
            let host = host(kit, &[dir.path().to_owned()]).await?;
            let (mut busy, mut own, mut quick) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..plan.rounds {
                // A handler that computes for 200 microseconds.
                let (began, computed) = (Instant::now(), cpu_time());
                for number in 0..events {
                    host.emit("bench.busy", &serde_json::json!({ "id": number, "micros": 200 })).await?;
                }
                host.drain().await;
                busy.push(f64::from(events) / began.elapsed().as_secs_f64());
                own.push((cpu_time() - computed).as_secs_f64() * 1e6 / f64::from(events));
                // Handlers that do next to nothing, in batches: what is left is the road there.
                let computed = cpu_time();
                let many = events * 10;
                for number in 0..many {
                    host.emit("bench.nothing", &number).await?;
                }
                host.drain().await;
                quick.push(f64::from(many) / (cpu_time() - computed).as_secs_f64());
            }
            host.shutdown().await;
            rows.extend([
                Row::new(SECTION, "events of 200 us", &system, Unit::PerSecond, &busy),
                Row::new(SECTION, "host CPU of an event", &system, Unit::Micros, &own),
                Row::new(SECTION, "host's limit, batches", &system, Unit::PerSecond, &quick),
            ]);
            eprintln!("{SECTION}: {system}");
        }
        Ok(rows)
    })
}

/// Something that can be started.
enum Starter {
    Ours(Road),
    Warm,
    Lines,
    Grpc(&'static str),
    Redpanda,
}

struct Started {
    system: Box<dyn System>,
    process_id: Option<u32>,
    /// When the start began, if not at once.
    began: Option<Instant>,
}

impl Starter {
    fn name(&self) -> String {
        match self {
            Self::Ours(road) => road.name(),
            Self::Warm => "kernelbridge python warm".into(),
            Self::Lines => Lines::NAME.into(),
            Self::Grpc(kind) => format!("gRPC {kind}"),
            Self::Redpanda => Redpanda::NAME.into(),
        }
    }

    /// Until it has given its first answer. `None`: it is not on this machine.
    fn start<'a>(&'a self, kit: &'a Kit) -> Doing<'a, Option<Started>> {
        Box::pin(async move {
            let (system, process_id): (Box<dyn System>, _) = match self {
                Self::Warm => {
                    let (ours, began) = Ours::start_warm(kit).await?;
                    let process_id = ours.process_id();
                    return Ok(Some(Started { system: Box::new(ours), process_id, began: Some(began) }));
                }
                Self::Ours(road) => match Ours::start(kit, *road).await? {
                    Some(ours) => {
                        let process_id = ours.process_id();
                        (Box::new(ours), process_id)
                    }
                    None => return Ok(None),
                },
                Self::Lines => {
                    let lines = Lines::start(kit).await?;
                    let process_id = lines.process_id();
                    (Box::new(lines), process_id)
                }
                Self::Grpc(kind) => {
                    let grpc = Grpc::start(kit, kind, false).await?;
                    let process_id = grpc.process_id();
                    (Box::new(grpc), process_id)
                }
                Self::Redpanda => {
                    let redpanda = Redpanda::start(kit).await?;
                    let process_id = redpanda.process_id();
                    (Box::new(redpanda), process_id)
                }
            };
            Ok(Some(Started { system, process_id, began: None }))
        })
    }
}

fn starters(kit: &Kit, plan: &Plan) -> Vec<Starter> {
    let mut peers = vec![Starter::Lines, Starter::Grpc("sync"), Starter::Grpc("aio")];
    if kit.has("redpanda_connect") {
        peers.push(Starter::Redpanda);
    } else {
        eprintln!("{}: not in the peers' Python; it is for Python 3.12 and later", Redpanda::NAME);
    }
    let all = peers.into_iter().chain(Road::all().into_iter().map(Starter::Ours));
    all.filter(|starter| plan.wants_system(&starter.name())).collect()
}
