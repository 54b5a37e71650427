//! What kernelbridge promises itself, and whether this run kept it.

use super::{
    report::Report,
    system::{Measure, Unit},
    table::{more_is_better, number},
};

/// One promise.
pub(super) struct Target {
    pub name: String,
    pub unit: Unit,
    pub ours: Option<f64>,
    /// What it is compared with, if it is.
    pub peer: Option<f64>,
    need: Need,
}

/// What is promised.
#[derive(Clone, Copy)]
enum Need {
    /// So many times better than the peer.
    Times(f64),
    /// At most so many times the peer's, of what should be little.
    Within(f64),
    /// Less than this.
    Below(f64),
    /// At least this.
    AtLeast(f64),
    /// At least this, or so many times the peer's.
    AtLeastOrTimes(f64, f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Met,
    Missed,
    NotMeasured,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::NotMeasured => "not measured",
        }
    }
}

impl Target {
    /// How many times better; for [`Need::Within`] how many times as much.
    pub fn ratio(&self) -> Option<f64> {
        let (ours, peer) = (self.ours?, self.peer?);
        Some(if more_is_better(self.unit) || matches!(self.need, Need::Within(_)) { ours / peer } else { peer / ours })
    }

    pub fn needed(&self) -> String {
        let unit = self.unit.name();
        match self.need {
            Need::Times(times) => format!("at least {times} x better"),
            Need::Within(times) => format!("at most {times} x"),
            Need::Below(limit) => format!("under {} {unit}", number(limit)),
            Need::AtLeast(limit) => format!("at least {} {unit}", number(limit)),
            Need::AtLeastOrTimes(limit, times) => format!("at least {} {unit} or {times} x", number(limit)),
        }
    }

    pub fn verdict(&self) -> Verdict {
        let is_met = match (self.need, self.ours, self.ratio()) {
            (Need::Times(times), _, Some(ratio)) => ratio >= times,
            (Need::Within(times), _, Some(ratio)) => ratio <= times,
            (Need::Below(limit), Some(ours), _) => ours < limit,
            (Need::AtLeast(limit), Some(ours), _) => ours >= limit,
            (Need::AtLeastOrTimes(limit, times), Some(ours), ratio) => {
                ours >= limit || ratio.is_some_and(|ratio| ratio >= times)
            }
            _ => return Verdict::NotMeasured,
        };
        if is_met { Verdict::Met } else { Verdict::Missed }
    }
}

/// Our ways in Python, the quickest first; a target is about the first that was measured.
const PYTHON: &[&str] = &["kernelbridge python loop", "kernelbridge python execute"];
const PYTHON_JUPYTER: &[&str] = &["kernelbridge python jupyter"];
const DENO: &[&str] = &["kernelbridge javascript loop", "kernelbridge javascript execute"];
const R: &[&str] = &["kernelbridge r comm", "kernelbridge r execute"];
const GRPC: &[&str] = &["gRPC sync", "gRPC aio"];
const GRPC_STREAM: &[&str] = &["gRPC sync, stream", "gRPC aio, stream"];
const GRPC_SYNC: &[&str] = &["gRPC sync"];
const REDPANDA: &[&str] = &["Redpanda SDK"];
const LINES: &[&str] = &["JSON lines over pipes"];

/// All promises, with this run's numbers.
pub(super) fn targets(report: &Report) -> Vec<Target> {
    let first = |section: &str, measure: &str, systems: &[&str]| {
        systems.iter().find_map(|system| report.median(section, measure, system))
    };
    // The better of several peers.
    let best = |measure: Measure, systems: &[&str]| {
        let medians = systems.iter().filter_map(|system| report.median("pinned", &measure.name(), system));
        let is_more = more_is_better(measure.unit());
        medians.reduce(if is_more { f64::max } else { f64::min })
    };
    let pinned = |name: &str, measure: Measure, ours: &[&str], peer: Option<f64>, need: Need| Target {
        name: name.into(),
        unit: measure.unit(),
        ours: first("pinned", &measure.name(), ours),
        peer,
        need,
    };
    let plain = |name: &str, section: &str, measure: &str, system: &[&str], unit: Unit, need: Need| Target {
        name: name.into(),
        unit,
        ours: first(section, measure, system),
        peer: None,
        need,
    };
    let (unary, window, thousand) = (Measure::Unary, Measure::Window, Measure::Batch(1000));
    let (hosts, events) = (Measure::HostCall, Measure::Messages(1000));
    let mut targets = vec![
        pinned("Python unary vs gRPC unary (sync)", unary, PYTHON, best(unary, GRPC_SYNC), Need::Times(10.0)),
        pinned("Python unary vs Redpanda SDK", unary, PYTHON, best(unary, REDPANDA), Need::Times(15.0)),
        pinned("Python unary vs JSON lines", unary, PYTHON, best(unary, LINES), Need::Within(1.5)),
        pinned(
            "Python batch 1000 vs Redpanda SDK, its messages",
            thousand,
            PYTHON,
            best(events, REDPANDA),
            Need::Times(5.0),
        ),
        pinned(
            "Python events 1000 vs Redpanda SDK, its messages",
            events,
            PYTHON,
            best(events, REDPANDA),
            Need::Times(5.0),
        ),
        pinned("Python batch 1000 vs gRPC, one array", thousand, PYTHON, best(thousand, GRPC), Need::Times(1.2)),
        pinned("Python 64 in flight vs gRPC unary", window, PYTHON, best(window, GRPC), Need::Times(20.0)),
        pinned("Python 64 in flight vs gRPC stream", window, PYTHON, best(window, GRPC_STREAM), Need::Times(10.0)),
    ];
    let own = first("pinned", &thousand.name(), PYTHON);
    let arrow = Measure::Arrow(1000);
    targets.push(pinned("Python Arrow 1000 vs our JSON", arrow, PYTHON, own, Need::AtLeastOrTimes(5e6, 8.0)));
    targets.push(pinned("Python host call vs gRPC callback", hosts, PYTHON, best(hosts, GRPC), Need::Times(5.0)));
    let own = first("pinned", &unary.name(), PYTHON);
    targets.push(pinned("Deno unary vs Python unary", unary, DENO, own, Need::Within(1.3)));
    targets.push(pinned("Deno batch 1000", thousand, DENO, None, Need::AtLeast(1.2e6)));
    let (records, messages) = (first("pinned", &thousand.name(), R), first("pinned", &events.name(), R));
    let columns = Measure::Columns(1000);
    targets.push(pinned("R table 1000 vs its JSON batch", arrow, R, records, Need::Times(50.0)));
    targets.push(pinned("R events as columns 1000 vs its lists of them", columns, R, messages, Need::Times(50.0)));
    let execute = best(unary, &["jupyter_client execute"]);
    let event = Measure::Event;
    targets.push(pinned(
        "Jupyter carrier, event vs jupyter_client execute",
        event,
        PYTHON_JUPYTER,
        execute,
        Need::Times(5.0),
    ));
    for (megabytes, times) in [(10, 8.0), (100, 4.0)] {
        let floats = Measure::Floats(megabytes);
        let (whole, chunked) = (best(floats, GRPC), best(floats, GRPC_STREAM));
        targets.push(pinned(&format!("{megabytes} MB vs gRPC unary"), floats, PYTHON, whole, Need::Times(times)));
        targets.push(pinned(&format!("{megabytes} MB vs gRPC chunked"), floats, PYTHON, chunked, Need::Within(1.0)));
    }
    let (ms, start) = (Unit::Millis, "start to first answer");
    let (shared, warm) = (&["kernelbridge python shared"], &["kernelbridge python warm"]);
    let further = "a further plugin in a shared kernel";
    targets.push(plain(
        &format!("{further}, time"),
        "crowd",
        "start of a further plugin",
        shared,
        ms,
        Need::Below(10.0),
    ));
    let memory = "memory of a further plugin";
    targets.push(plain(&format!("{further}, memory"), "crowd", memory, shared, Unit::Kilobytes, Need::Below(100.0)));
    targets.push(plain("warm pool, start to first answer", "start", start, warm, ms, Need::Below(15.0)));
    targets.push(plain(
        "host's share of a cold start",
        "start",
        "host's share of a start",
        PYTHON,
        ms,
        Need::Below(60.0),
    ));
    let fifty = &["kernelbridge python x 50"];
    targets.push(plain("50 idle plugins, host CPU", "crowd", "host CPU, idle", fifty, Unit::Percent, Need::Below(1.0)));
    targets.push(plain(
        "50 idle plugins, host memory",
        "crowd",
        "host memory",
        fifty,
        Unit::Megabytes,
        Need::Below(60.0),
    ));
    let (one, eight) = ("kernelbridge python x 1", "kernelbridge python x 8");
    let busy = "events of 200 us";
    targets.push(Target {
        name: "8 instances vs 1, computing".into(),
        unit: Unit::PerSecond,
        ours: report.median("scale", busy, eight),
        peer: report.median("scale", busy, one),
        need: Need::Times(0.8 * report.machine.cores.min(8) as f64),
    });
    let limit = "host's limit, batches";
    targets.push(plain("events/s that the host can do", "scale", limit, &[eight], Unit::PerSecond, Need::AtLeast(2e5)));
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let target = |unit, ours, peer, need| Target { name: String::new(), unit, ours, peer, need };
        let check = |target: &Target, ratio: Option<f64>, verdict| {
            assert_eq!((target.ratio(), target.verdict()), (ratio, verdict), "{}", target.needed());
        };
        let ten = Need::Times(10.0);
        check(&target(Unit::Micros, Some(20.0), Some(200.0), ten), Some(10.0), Verdict::Met);
        check(&target(Unit::Micros, Some(25.0), Some(200.0), ten), Some(8.0), Verdict::Missed);
        check(&target(Unit::PerSecond, Some(2000.0), Some(200.0), ten), Some(10.0), Verdict::Met);
        check(&target(Unit::Micros, Some(20.0), None, ten), None, Verdict::NotMeasured);
        check(&target(Unit::Micros, None, Some(200.0), ten), None, Verdict::NotMeasured);
        check(&target(Unit::Micros, Some(15.0), Some(10.0), Need::Within(1.5)), Some(1.5), Verdict::Met);
        check(&target(Unit::Millis, Some(15.0), None, Need::Below(15.0)), None, Verdict::Missed);
        check(&target(Unit::PerSecond, Some(6e6), None, Need::AtLeastOrTimes(5e6, 8.0)), None, Verdict::Met);
        check(&target(Unit::PerSecond, Some(8.0), Some(1.0), Need::AtLeastOrTimes(5e6, 8.0)), Some(8.0), Verdict::Met);
    }
}
