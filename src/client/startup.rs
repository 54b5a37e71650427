//! Where the time of a start went.

use std::{fmt, time::Duration};

use serde::Serialize;

/// How long each phase of a start took, in milliseconds. They follow each other.
///
/// A plugin that got a kernel that was there already (`warm`) has the phases up to `shim_ms` from when that kernel was
/// started, and they are no part of its own start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Startup {
    /// Kernelspecs and language folders were looked for: once for all plugins that are loaded together.
    pub discover_ms: f64,
    /// It waited for others to be started, since too many at once hinder each other.
    pub queued_ms: f64,
    /// Private folder, ports, sandbox, and the process.
    pub spawn_ms: f64,
    /// Until the kernel listened.
    pub listening_ms: f64,
    /// Its sockets were opened.
    pub connect_ms: f64,
    /// Until it answered.
    pub kernel_info_ms: f64,
    /// Until something came over iopub.
    pub iopub_ms: f64,
    /// It took the shim.
    pub shim_ms: f64,
    /// The first turn, in which the carrier is found.
    pub initialize_ms: f64,
    /// The author's source.
    pub load_ms: f64,
    /// Of all this, what was not the kernel's doing: finding, making and connecting it, and noticing that it is there.
    /// Waiting for others does not count.
    pub host_ms: f64,
    /// Was the kernel there already?
    pub warm: bool,
}

impl Startup {
    /// The phases in order, with what they are called.
    pub fn phases(&self) -> [(&'static str, f64); 10] {
        [
            ("discover", self.discover_ms),
            ("queued", self.queued_ms),
            ("spawn", self.spawn_ms),
            ("listening", self.listening_ms),
            ("connect", self.connect_ms),
            ("kernel-info", self.kernel_info_ms),
            ("iopub", self.iopub_ms),
            ("shim", self.shim_ms),
            ("initialize", self.initialize_ms),
            ("load", self.load_ms),
        ]
    }
}

/// For people: the phases that took any time.
impl fmt::Display for Startup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, ms) in self.phases().into_iter().filter(|(_, ms)| *ms > 0.0) {
            write!(f, "{name} {ms:.1}, ")?;
        }
        write!(f, "the host's share {:.1} ms", self.host_ms)
    }
}

/// Milliseconds, to the hundredth.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}
