//! Somebody who is no plugin of the host's, but may ask it what a plugin may: a notebook.

use std::{path::Path, sync::Arc};

use crate::{
    host::{BuildError, Host, door::Door, stats::Meter},
    manifest::Manifest,
    plugin::{HostCalls, SharedGraph},
};

/// What a guest knows of a host.
pub(crate) struct Guest {
    /// Judged by the permissions in the manifest that it came with.
    pub calls: Arc<dyn HostCalls>,
    /// Who waits for whom, guests among them.
    pub graph: SharedGraph,
}

impl Host {
    /// Let somebody in who has the permissions in the text of a manifest.
    pub(crate) fn guest(&self, manifest: &str, path: &Path) -> Result<Guest, BuildError> {
        let manifest = Arc::new(Manifest::parse(manifest, path)?);
        let door = Door { shared: Arc::downgrade(&self.shared), manifest, meter: Arc::new(Meter::default()) };
        Ok(Guest { calls: Arc::new(door), graph: self.shared.graph.clone() })
    }
}
