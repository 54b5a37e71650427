//! Plugins come into a host and leave it, and share their work among more kernels or fewer.

use std::{
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::{
    host::{
        BuildError, GRACE, Host,
        keeper::{Keeper, Recipe},
        landscape::{Landscape, read_manifest},
        lane::{Entry, Lane},
        lanes::Lanes,
        ledger::{Ledger, work_off},
        lock,
        pool::Pool,
        worker::Worker,
    },
    manifest::Manifest,
    queue::Queue,
    store::Store,
    supervision::State,
};

/// As many as a manifest may ask for.
pub(super) const MOST_INSTANCES: usize = 1000;
/// How often an instance that is to end is looked at.
const ENDING: Duration = Duration::from_millis(5);

impl Host {
    /// Load one more plugin: its folder or its `plugin.toml`. Its handlers get the events that are emitted from then on.
    ///
    /// # Errors
    ///
    /// [`BuildError`], with the host as it was before.
    pub async fn load(&self, path: impl AsRef<Path>) -> Result<(), BuildError> {
        // One after the other, so that two of one name cannot both be added.
        let _turn = self.adding.acquire().await;
        let (manifest, file) = read_manifest(path.as_ref())?;
        if let Some(other) = self.shared.entries().iter().find(|entry| *entry.name == *manifest.name) {
            return Err(same_name(&other.manifest, &file));
        }
        let (kernelspecs, environment) = &self.kernelspecs;
        let mut landscape = Landscape::survey(environment.clone(), kernelspecs);
        let recipe = landscape.recipe(&Arc::new(manifest), &file, &self.shared)?;
        let (entry, keepers) = start(recipe).await?;
        {
            let mut entries = self.shared.entries.write().unwrap_or_else(PoisonError::into_inner);
            let more = entries.iter().cloned().chain([entry.clone()]).collect();
            *entries = Arc::new(more);
        }
        self.begin(&entry, keepers)
    }

    /// Take a plugin out: it gets no further events and calls, does what waits for it, its `on_shutdown` functions run,
    /// and its kernel ends, unless others share that.
    ///
    /// # Errors
    ///
    /// [`BuildError::NoPlugin`].
    pub async fn unload(&self, plugin: &str) -> Result<(), BuildError> {
        let _turn = self.adding.acquire().await;
        let entry = self.entry(plugin).map_err(|error| BuildError::NoPlugin { message: error.message })?;
        let _alone = entry.scaling.acquire().await;
        {
            let mut entries = self.shared.entries.write().unwrap_or_else(PoisonError::into_inner);
            *entries = Arc::new(entries.iter().filter(|other| !Arc::ptr_eq(other, &entry)).cloned().collect());
        }
        if let Some(stand_in) = entry.stand_in() {
            stand_in.dismiss("its plugin was taken out of the host");
        }
        let kept: Vec<_> = lock(&self.pools).extract_if(.., |(pool, _)| Arc::ptr_eq(pool, &entry.pool)).collect();
        for (pool, _) in &kept {
            pool.close();
        }
        join_all(entry.lanes.iter().map(|lane| async {
            while !lane.is_done() || entry.ledger.stored() > 0 {
                sleep(ENDING).await;
            }
            lane.queue.close();
            lane.instance.stop(GRACE).await;
        }))
        .await;
        entry.ledger.end();
        for (_, keeping) in kept {
            // Ended by itself.
            let _ = keeping.await;
        }
        Ok(())
    }

    /// Let so many kernels share a plugin's work, whatever `instances` in its manifest says, until the host ends.
    ///
    /// Further ones are loaded before they get anything; what waits for those there are stays with them. Those that are
    /// too many get nothing more, end when they have done what waits for them, and this returns then. With N kernels each
    /// key (see `order-by`) has its own; a kernel more takes over about one of N + 1 keys, and one less gives its keys to
    /// the others. Events of a key that moves, which were accepted before, may be handled at the same time as later ones
    /// on the new kernel: whoever needs their order waits for [`Host::drain`] first.
    ///
    /// # Errors
    ///
    /// [`BuildError`], with as many kernels as before: when one could not be loaded, when there is no such plugin, or when
    /// there would be none or more than 1,000.
    pub async fn scale(&self, plugin: &str, instances: usize) -> Result<(), BuildError> {
        let entry = self.entry(plugin).map_err(|error| BuildError::NoPlugin { message: error.message })?;
        if !(1..=MOST_INSTANCES).contains(&instances) {
            return Err(BuildError::Instances { plugin: plugin.to_owned(), instances });
        }
        let _turn = entry.scaling.acquire().await;
        let before = entry.active().count();
        let recipe = entry.recipe();
        let capacity = capacity(&entry.manifest);
        let more = join_all((before..instances).map(|index| {
            let (entry, mut recipe) = (&entry, recipe.clone());
            async move {
                if let Some(lane) = entry.lanes.get(index) {
                    return lane.instance.reload(recipe.source).await.map(|()| None);
                }
                recipe.source.instance = Some(u32::try_from(index + 1).unwrap_or(u32::MAX));
                Keeper::load(recipe).await.map(Some)
            }
        }));
        let (mut keepers, mut failed) = (Vec::new(), None);
        for started in more.await {
            match started {
                Ok(keeper) => keepers.extend(keeper),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        for (instance, keeper) in keepers {
            let queue = Queue::new(capacity, entry.manifest.queue.when_full)
                .map_err(|source| BuildError::Queue { plugin: plugin.to_owned(), source })?;
            let lane = entry.lanes.push(Lane::new(queue, instance));
            lock(&self.keepers).push(tokio::spawn(keeper.run()));
            lock(&self.tasks).push(tokio::spawn(Worker::new(self.shared.clone(), entry.clone(), lane).run()));
        }
        if failed.is_none() {
            entry.activate(instances);
        }
        // Those that are too many, and, if one could not be loaded, those that could.
        let wanted = entry.active().count();
        join_all(entry.lanes.iter().skip(wanted).map(|lane| async move {
            while !lane.is_done() {
                sleep(ENDING).await;
            }
            if !matches!(lane.instance.state(), State::Stopped) {
                lane.instance.park(GRACE).await;
            }
        }))
        .await;
        failed.map_or(Ok(()), Err)
    }

    /// Begin to deliver to a plugin that was loaded.
    pub(super) fn begin(&self, entry: &Arc<Entry>, keepers: Vec<Keeper>) -> Result<(), BuildError> {
        let shared = &self.shared;
        let mut tasks = lock(&self.tasks);
        if shared.leaves_backlog {
            entry.ledger.look(drop)?;
        } else {
            entry.ledger.look(|new| shared.found(entry, new))?;
            tasks.push(tokio::spawn(work_off(Arc::downgrade(shared), entry.clone())));
        }
        let workers = (0..entry.lanes.len()).map(|lane| Worker::new(shared.clone(), entry.clone(), lane));
        tasks.extend(workers.map(|worker| tokio::spawn(worker.run())));
        drop(tasks);
        lock(&self.keepers).extend(keepers.into_iter().map(|keeper| tokio::spawn(keeper.run())));
        if entry.manifest.delivery.warm > 0 {
            self.keep_full(entry.pool.clone());
        }
        Ok(())
    }

    pub(super) fn keep_full(&self, pool: Arc<Pool>) {
        let keeping = pool.clone().keep(self.shared.spare_places.clone(), GRACE);
        lock(&self.pools).push((pool, tokio::spawn(keeping)));
    }
}

pub(super) fn same_name(first: &Manifest, second: &Path) -> BuildError {
    BuildError::SameName { name: first.name.clone(), first: first.path.clone(), second: second.to_owned() }
}

/// Places in the queue of each instance.
fn capacity(manifest: &Manifest) -> usize {
    manifest.queue.capacity.div_ceil(manifest.delivery.instances as usize)
}

/// Start all kernels of a plugin.
pub(super) async fn start(recipe: Recipe) -> Result<(Arc<Entry>, Vec<Keeper>), BuildError> {
    let manifest = recipe.manifest.clone();
    let count = manifest.delivery.instances;
    let started = join_all((1..=count).map(|number| {
        let mut recipe = recipe.clone();
        recipe.source.instance = (count > 1).then_some(number);
        Keeper::load(recipe)
    }));
    let (lanes, mut keepers, mut face) = (Lanes::default(), Vec::new(), None);
    for started in started.await {
        let (instance, keeper) = started?;
        face = face.or_else(|| keeper.first.as_ref().map(|loaded| loaded.face.clone()));
        let queue = Queue::new(capacity(&manifest), manifest.queue.when_full)
            .map_err(|source| BuildError::Queue { plugin: manifest.name.clone(), source })?;
        lanes.push(Lane::new(queue, instance));
        keepers.push(keeper);
    }
    // Whoever waits for this has the host's parts.
    let shared = recipe.shared.upgrade();
    let works_off = shared.as_ref().is_none_or(|shared| !shared.leaves_backlog);
    let store = shared.map_or_else(|| Store::open_in_memory().map(Arc::new), |shared| Ok(shared.store.clone()))?;
    let ledger = Arc::new(Ledger::new(store, &manifest.name, manifest.delivery.journal, works_off));
    // There is at least one instance, and it was loaded.
    let face = face.unwrap_or_default();
    Ok((Arc::new(Entry::new(recipe, lanes, ledger, face)), keepers))
}
