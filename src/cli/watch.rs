//! `kernelbridge run --watch`: plugins whose files change are loaded anew.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    ffi::OsString,
    fs,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use anyhow::Context;
use indicatif::ProgressBar;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{
    cli::printer::say,
    discover::Languages,
    host::{BuildError, Host, manifest_at},
};

/// A change is acted on when nothing else has changed for so long: editors write a file in several steps.
const QUIET: Duration = Duration::from_millis(100);
/// Folders that interpreters write into.
const NOT_SOURCES: [&str; 2] = ["__pycache__", "node_modules"];

/// Watches the folders of plugins.
pub struct Watch {
    plugins: Vec<Folder>,
    /// Of the languages there are. Other files may be what a plugin writes: its folder is where it works.
    extensions: Vec<OsString>,
    /// Files and folders that the run itself reads and writes.
    own: Vec<PathBuf>,
    changes: mpsc::UnboundedReceiver<PathBuf>,
    /// What has changed and was not acted on yet.
    changed: BTreeSet<PathBuf>,
    /// Tells of changes for as long as it lives.
    _watcher: RecommendedWatcher,
}

/// A plugin's folder.
struct Folder {
    name: String,
    dir: PathBuf,
    manifest: PathBuf,
    /// What the manifest said.
    text: String,
    /// Of the entry, which may be none that a language is known for.
    extension: Option<OsString>,
}

/// A plugin that is being loaded anew.
struct Reload<'a> {
    plugin: usize,
    /// What changed.
    file: String,
    done: Pin<Box<dyn Future<Output = Result<(), BuildError>> + Send + 'a>>,
}

impl Watch {
    /// Watch the folders of these manifests for changes of the manifest and of sources, by extension. What the run itself
    /// reads and writes, `own`, does not count.
    ///
    /// # Errors
    ///
    /// When a manifest is wrong, or a folder cannot be watched.
    pub fn new(manifests: &[PathBuf], languages: &Languages, own: &[&Path]) -> anyhow::Result<Self> {
        let (sender, changes) = mpsc::unbounded_channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            if event.kind.is_create() || event.kind.is_modify() || event.kind.is_remove() {
                for path in event.paths {
                    // If nobody reads it, the run has ended.
                    let _ = sender.send(path);
                }
            }
        })
        .context("cannot watch files")?;
        let plugins = manifests.iter().map(|manifest| Folder::new(manifest)).collect::<anyhow::Result<Vec<_>>>()?;
        for folder in &plugins {
            watcher
                .watch(&folder.dir, RecursiveMode::Recursive)
                .with_context(|| format!("cannot watch {}", folder.dir.display()))?;
        }
        let own = own.iter().filter_map(|path| std::path::absolute(path).ok()).map(|path| resolved(&path)).collect();
        let extensions = languages.folders.iter().map(|folder| folder.language.extension.clone().into());
        let extensions = extensions.chain([OsString::from("ipynb")]).collect();
        Ok(Self { plugins, extensions, own, changes, changed: BTreeSet::new(), _watcher: watcher })
    }

    /// Load plugins anew when they change, for as long as this is polled.
    pub async fn run(mut self, host: &Host, bar: &ProgressBar) -> Infallible {
        let mut reloads: Vec<Reload<'_>> = Vec::new();
        loop {
            tokio::select! {
                changed = self.next() => {
                    for (plugin, file) in self.changed_plugins(&changed, bar) {
                        // The newest source is the one that counts.
                        reloads.retain(|reload| reload.plugin != plugin);
                        let name = self.plugins[plugin].name.clone();
                        reloads.push(Reload { plugin, file, done: Box::pin(async move { host.reload(&name).await }) });
                    }
                }
                (plugin, file, result) = first(&mut reloads) => {
                    say(bar, &told(&self.plugins[plugin].name, &file, result));
                }
            }
        }
    }

    /// The next changes that count, once there is quiet. Cancel safe.
    async fn next(&mut self) -> BTreeSet<PathBuf> {
        while self.changed.is_empty() {
            match self.changes.recv().await {
                Some(path) => self.note(path),
                None => std::future::pending().await,
            };
        }
        let mut quiet_at = Instant::now() + QUIET;
        while let Ok(Some(path)) = timeout_at(quiet_at, self.changes.recv()).await {
            // What plugins write all the time must not put this off for ever.
            if self.note(path) {
                quiet_at = Instant::now() + QUIET;
            }
        }
        std::mem::take(&mut self.changed)
    }

    /// Keep a change in mind, if it is one that counts.
    fn note(&mut self, path: PathBuf) -> bool {
        let is_wanted = |folder: &Folder| path == folder.manifest || folder.is_source(&path, &self.extensions);
        let counts = self.plugins.iter().any(is_wanted) && !self.own.iter().any(|own| is_part_of(&path, own));
        if counts {
            self.changed.insert(path);
        }
        counts
    }

    /// Plugins to be loaded anew, with one of the files that changed. Says what else has changed.
    fn changed_plugins(&mut self, changed: &BTreeSet<PathBuf>, bar: &ProgressBar) -> Vec<(usize, String)> {
        let mut sources = Vec::new();
        for (index, folder) in self.plugins.iter_mut().enumerate() {
            if changed.contains(&folder.manifest) && folder.manifest_changed() {
                let (name, file) = (&folder.name, folder.shown(&folder.manifest));
                say(bar, &format!("plugin `{name}`: {file} has changed, which takes effect with the next run"));
            }
            let source = changed.iter().find(|path| folder.is_source(path, &self.extensions));
            sources.extend(source.map(|path| (index, folder.shown(path))));
        }
        sources
    }
}

impl Folder {
    fn new(manifest: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        let parsed = manifest_at(manifest)?;
        // Changes are told with the path that is watched.
        let manifest = resolved(manifest);
        let dir = manifest.parent().unwrap_or(Path::new("/")).to_owned();
        let extension = parsed.entry.extension().map(ToOwned::to_owned);
        Ok(Self { name: parsed.name, dir, manifest, text, extension })
    }

    /// It is in this folder, is neither hidden nor among what programs keep there, and has the extension of code.
    fn is_source(&self, path: &Path, extensions: &[OsString]) -> bool {
        let Ok(inside) = path.strip_prefix(&self.dir) else { return false };
        let is_visible = inside.components().all(|part| {
            let part = part.as_os_str().to_string_lossy();
            !part.starts_with('.') && !NOT_SOURCES.contains(&&*part)
        });
        let same = |extension: &OsString| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension));
        is_visible && self.extension.iter().chain(extensions).any(same)
    }

    /// Does it say something else than before?
    fn manifest_changed(&mut self) -> bool {
        let now = fs::read_to_string(&self.manifest).unwrap_or_default();
        let before = std::mem::replace(&mut self.text, now);
        before != self.text
    }

    /// A path in it as its author knows it.
    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.dir).unwrap_or(path).display().to_string()
    }
}

/// Without links, if it is there.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Is it this file, in this folder, or one of those that SQLite keeps beside a database?
fn is_part_of(path: &Path, own: &Path) -> bool {
    let beside = || {
        let rest = path.to_str()?.strip_prefix(own.to_str()?)?;
        Some(["-wal", "-shm", "-journal"].contains(&rest))
    };
    path.starts_with(own) || beside().unwrap_or(false)
}

/// The first that is done.
async fn first(reloads: &mut Vec<Reload<'_>>) -> (usize, String, Result<(), BuildError>) {
    std::future::poll_fn(|context| {
        for index in 0..reloads.len() {
            if let Poll::Ready(result) = reloads[index].done.as_mut().poll(context) {
                let Reload { plugin, file, .. } = reloads.swap_remove(index);
                return Poll::Ready((plugin, file, result));
            }
        }
        Poll::Pending
    })
    .await
}

fn told(plugin: &str, file: &str, result: Result<(), BuildError>) -> String {
    let error = match result {
        Ok(()) => return format!("plugin `{plugin}` is loaded anew: {file} has changed"),
        Err(BuildError::Load { source, .. }) => source.to_string(),
        Err(error) => error.to_string(),
    };
    let error = error.strip_prefix(&format!("plugin `{plugin}`: ")).unwrap_or(&error);
    format!("plugin `{plugin}` goes on as before: {file} has changed, but {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_of_sources_count() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = resolved(dir.path());
        let manifest = "[plugin]\nname = \"p\"\nlanguage = \"ada\"\nentry = \"plugin.adb\"\n";
        fs::write(root.join("plugin.toml"), manifest).expect("written");
        let mut folder = Folder::new(&dir.path().join("plugin.toml")).expect("readable");
        let extensions = ["py", "r"].map(OsString::from);
        let check =
            |file: &str, expected| assert_eq!(folder.is_source(&root.join(file), &extensions), expected, "{file}");
        for file in ["plugin.adb", "new.py", "lib/new.R"] {
            check(file, true);
        }
        // A product, an editor's own, an interpreter's own, somebody else's.
        for file in ["out.csv", "4913", ".plugin.py", "plugin.py~", "__pycache__/x.py", ".git/x.py", "../q/plugin.py"] {
            check(file, false);
        }
        assert!(!folder.manifest_changed());
        fs::write(root.join("plugin.toml"), "").expect("written");
        assert!(folder.manifest_changed() && !folder.manifest_changed());
    }

    #[test]
    fn what_the_run_writes_itself_does_not_count() {
        let check = |path: &str, own: &str, expected| assert_eq!(is_part_of(Path::new(path), Path::new(own)), expected);
        check("/p/k.db", "/p/k.db", true);
        check("/p/k.db-wal", "/p/k.db", true);
        check("/p/plots/p-1.png", "/p/plots", true);
        check("/p/k.dbx", "/p/k.db", false);
        check("/p/plots.py", "/p/plots", false);
    }
}
