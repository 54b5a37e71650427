//! What is measured, and of what.

use std::{future::Future, pin::Pin, time::Instant};

use serde::{Deserialize, Serialize};

/// What a system does, sooner or later.
pub(super) type Doing<'a, T> = Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send + 'a>>;

/// Calls in flight at the same time.
pub(super) const WINDOW: usize = 64;

/// Something that runs the handler on records: one of kernelbridge's ways, or a peer.
pub(super) trait System: Send {
    /// As in the table.
    fn name(&self) -> String;

    /// What it can do.
    fn measures(&self) -> Vec<Measure>;

    /// Do something so many times, checking every answer; microseconds of each.
    fn run(&mut self, measure: Measure, count: usize) -> Doing<'_, Vec<f64>>;

    /// End it, and wait for its end.
    fn stop(self: Box<Self>) -> Doing<'static, ()>;
}

/// Something that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) enum Measure {
    /// One record, one answer, one after the other.
    Unary,
    /// An event to its handler's result, one after the other.
    Event,
    /// As `Event`, to a plugin that has been idle: a turn of its own.
    IdleEvent,
    /// So many records as one array in one message.
    Batch(usize),
    /// So many messages, a record each, delivered together.
    Messages(usize),
    /// Single calls, many in flight.
    Window,
    /// Single events, emitted without waiting.
    Burst,
    /// A record whose handler calls the host once.
    Nested,
    /// One call of the host, seen from inside a handler.
    HostCall,
    /// Host and plugin call each other, so many deep.
    Nest(usize),
    /// So many megabytes of floats in, their sum back.
    Floats(usize),
    /// So many records as an Arrow table in, one out.
    Arrow(usize),
    /// So many records as columns.
    Columns(usize),
}

/// How a measurement is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Unit {
    /// Microseconds; less is better.
    #[serde(rename = "us")]
    Micros,
    /// Milliseconds; less is better.
    #[serde(rename = "ms")]
    Millis,
    /// Records, events or calls in a second; more is better.
    #[serde(rename = "1/s")]
    PerSecond,
    /// Megabytes; less is better.
    #[serde(rename = "MB")]
    Megabytes,
    /// Kilobytes; less is better.
    #[serde(rename = "KB")]
    Kilobytes,
    /// Percent of one core; less is better.
    #[serde(rename = "%")]
    Percent,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Micros => "us",
            Self::Millis => "ms",
            Self::PerSecond => "1/s",
            Self::Megabytes => "MB",
            Self::Kilobytes => "KB",
            Self::Percent => "%",
        }
    }
}

impl Measure {
    /// All that are made between running systems, in the order of the table.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Unary, Self::Event, Self::IdleEvent, Self::Window, Self::Burst];
        for count in [1, 10, 100, 1000] {
            all.push(Self::Batch(count));
        }
        for count in [1, 10, 100, 1000] {
            all.push(Self::Messages(count));
        }
        all.extend([Self::Arrow(1000), Self::Columns(1000)]);
        all.extend([Self::Nested, Self::HostCall, Self::Nest(1), Self::Nest(10), Self::Nest(50)]);
        all.extend([Self::Floats(10), Self::Floats(100)]);
        all
    }

    /// As in the table.
    pub fn name(self) -> String {
        match self {
            Self::Unary => "unary".into(),
            Self::Event => "event".into(),
            Self::IdleEvent => "event after idleness".into(),
            Self::Batch(count) => format!("batch {count}"),
            Self::Messages(count) => format!("messages {count}"),
            Self::Window => format!("{WINDOW} in flight"),
            Self::Burst => "events in a row".into(),
            Self::Nested => "unary + host call".into(),
            Self::HostCall => "host call".into(),
            Self::Nest(depth) => format!("nest {depth}"),
            Self::Floats(megabytes) => format!("{megabytes} MB floats"),
            Self::Arrow(count) => format!("Arrow {count}"),
            Self::Columns(count) => format!("columns {count}"),
        }
    }

    /// For people.
    pub fn about(self) -> &'static str {
        match self {
            Self::Unary => "one record in, one answer back, one after the other",
            Self::Event => "an event to its handler's result, one after the other",
            Self::IdleEvent => "the same, to a plugin that has been idle for longer than a turn lingers",
            Self::Batch(_) => "so many records as one array in one message",
            Self::Messages(_) => "so many messages of one record each, handed over together, an answer for each",
            Self::Window => "single calls, 64 in flight at any time",
            Self::Burst => "single events to a handler of single events, emitted without waiting, a result for each",
            Self::Nested => "one record whose handler calls a function of the host",
            Self::HostCall => "one call of the host, as a handler sees it",
            Self::Nest(_) => "plugin calls host, host calls plugin, so many deep, and back",
            Self::Floats(_) => "an array of 64-bit floats in, their sum back",
            Self::Arrow(_) => "so many records as an Arrow table in, one out, computed without a loop over them",
            Self::Columns(_) => "so many records as columns in, columns out",
        }
    }

    pub fn unit(self) -> Unit {
        match self {
            Self::Unary | Self::Event | Self::IdleEvent | Self::Nested | Self::HostCall | Self::Nest(_) => Unit::Micros,
            Self::Floats(_) => Unit::Millis,
            _ => Unit::PerSecond,
        }
    }

    /// A time as it is told.
    pub fn told(self, micros: f64) -> f64 {
        match self {
            Self::Floats(_) => micros / 1e3,
            Self::Batch(count) | Self::Messages(count) | Self::Arrow(count) | Self::Columns(count) => {
                count as f64 * 1e6 / micros
            }
            Self::Window | Self::Burst => 1e6 / micros,
            _ => micros,
        }
    }
}

/// Do it so often, one after the other: the microseconds of each. A macro, because whether an asynchronous closure's
/// future may change threads cannot be said of a parameter.
macro_rules! timed {
    ($count:expr, $once:expr) => {{
        let mut times = Vec::with_capacity($count);
        for _ in 0..$count {
            let began = std::time::Instant::now();
            $once;
            times.push($crate::cli::bench::system::micros(began));
        }
        anyhow::Ok(times)
    }};
}

pub(super) use timed;

/// Since then.
pub(super) fn micros(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}

/// What many calls together took, as the time of each.
pub(super) fn shared(began: Instant, count: usize) -> Vec<f64> {
    vec![micros(began) / count.max(1) as f64]
}
