//! The demo's data and plugins, in the binary and in the run's folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// The events: one week of the USGS feed, an event a line.
pub const EVENTS: &str = include_str!("../../../examples/quakes/earthquakes.ndjson");

/// A plugin of examples/quakes.
pub struct Embedded {
    /// Its name, and that of its folder.
    pub name: &'static str,
    entry: &'static str,
    /// Its plugin.toml.
    pub manifest: &'static str,
    source: &'static str,
}

macro_rules! plugin {
    ($name:literal, $entry:literal) => {
        Embedded {
            name: $name,
            entry: $entry,
            manifest: include_str!(concat!("../../../examples/quakes/plugins/", $name, "/plugin.toml")),
            source: include_str!(concat!("../../../examples/quakes/plugins/", $name, "/", $entry)),
        }
    };
}

/// All plugins, in the order in which an event meets them.
pub const PLUGINS: [Embedded; 7] = [
    plugin!("quake-clean", "plugin.py"),
    plugin!("quake-dedup", "plugin.lua"),
    plugin!("quake-alert", "plugin.js"),
    plugin!("quake-geo", "plugin.m"),
    plugin!("quake-region", "plugin.pl"),
    plugin!("quake-rate", "plugin.R"),
    plugin!("quake-tally", "plugin.sh"),
];

/// The run's folder.
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Make the folder with all files in it, and without what an earlier run left.
    pub fn prepare(root: &Path) -> anyhow::Result<Self> {
        let folder = Self { root: root.to_owned() };
        let is_ours = folder.manifest(&PLUGINS[0]).is_file();
        if !is_ours && fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!(
                "{} is not empty, and not of an earlier demo\nhint: name another folder with --out DIR",
                root.display()
            );
        }
        // The tally would go on where the last run ended.
        for name in ["kernelbridge.db", "kernelbridge.db-wal", "kernelbridge.db-shm"] {
            if root.join(name).exists() {
                fs::remove_file(root.join(name)).with_context(|| format!("cannot remove the last run's {name}"))?;
            }
        }
        if folder.plots().exists() {
            fs::remove_dir_all(folder.plots()).context("cannot remove the last run's plots")?;
        }
        folder.write("earthquakes.ndjson", EVENTS)?;
        for plugin in &PLUGINS {
            folder.write(&format!("plugins/{}/plugin.toml", plugin.name), plugin.manifest)?;
            folder.write(&format!("plugins/{}/{}", plugin.name, plugin.entry), plugin.source)?;
        }
        Ok(folder)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.root.join(name);
        let dir = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// A plugin's plugin.toml.
    pub fn manifest(&self, plugin: &Embedded) -> PathBuf {
        self.root.join("plugins").join(plugin.name).join("plugin.toml")
    }

    /// The shared state.
    pub fn database(&self) -> PathBuf {
        self.root.join("kernelbridge.db")
    }

    /// All that plugins emitted and returned.
    pub fn results(&self) -> PathBuf {
        self.root.join("results.ndjson")
    }

    /// Where plots go.
    pub fn plots(&self) -> PathBuf {
        self.root.join("plots")
    }
}
