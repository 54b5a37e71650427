//! A link in the place of a plugin's handlers and exports.
//!
//! It serves what it has; whatever it does not have, the plugin goes on to serve. The plugin's kernel runs on meanwhile,
//! and has everything back in the moment in which the link is gone.

use std::{
    borrow::Cow,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use crate::{
    blob::{self, Parcel},
    chain::Chain,
    host::lane::{Delivery, Entry, Face, Subscriber},
    link::{LARGEST_BYTES, Peer, Unanswered},
    rpc::{ErrorKind, HandlerKind, Params, RpcError},
};

/// A link in the place of a plugin.
#[derive(Debug)]
pub(crate) struct StandIn {
    /// What the peer is called.
    pub name: String,
    plugin: Arc<str>,
    peer: Peer,
    features: Vec<String>,
    /// The plugin's deadline for a handler.
    timeout: Duration,
    face: RwLock<Arc<Face>>,
}

impl StandIn {
    pub fn new(name: String, entry: &Entry, peer: Peer, features: Vec<String>, face: Face) -> Self {
        let timeout = entry.manifest.limits.timeout;
        Self { name, plugin: entry.name.clone(), peer, features, timeout, face: RwLock::new(Arc::new(face)) }
    }

    /// What it registered.
    pub fn face(&self) -> Arc<Face> {
        self.face.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It has other handlers now; [`Entry::look_again`] is next.
    pub fn show(&self, face: Face) {
        *self.face.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(face);
    }

    /// The handler that it has for a delivery.
    pub fn serves(&self, delivery: &Delivery, entry: &Entry) -> Option<Arc<Subscriber>> {
        // The one who gives its place back may be a moment later.
        if delivery.subscriber.kind != HandlerKind::On || self.peer.is_closed() {
            return None;
        }
        let claimed = self.face().claim(&delivery.subscriber, &entry.own_face());
        // A handler of that name may want other topics now.
        claimed.filter(|guest| guest.topic.matches(&delivery.event.topic))
    }

    /// What the peer can do.
    pub fn features(&self) -> &[String] {
        &self.features
    }

    /// Can the peer do that?
    pub fn has_feature(&self, name: &str) -> bool {
        self.features.iter().any(|feature| feature == name)
    }

    /// Does it have this function?
    pub fn has_export(&self, function: &str) -> bool {
        !self.peer.is_closed() && self.face().exports().any(|export| export == function)
    }

    /// Does it serve something of this chain?
    pub fn is_at(&self, chain: u64) -> bool {
        self.peer.is_at(chain)
    }

    /// Send a request as the plugin would get it. A peer that does not answer within the plugin's deadline is detached.
    ///
    /// # Errors
    ///
    /// As [`Plugin::request`](crate::plugin::Plugin::request). When the link is gone the request counts as not begun: an
    /// event goes to the plugin itself then.
    pub async fn request(
        &self,
        method: &'static str,
        params: &impl Params,
        chain: &Chain,
        deadline: Instant,
    ) -> Result<Parcel, RpcError> {
        let began = Instant::now();
        let error = |kind, message: String| RpcError::new(kind, message).in_plugin(&self.plugin);
        let params = serde_json::to_string(params).map_err(|source| error(ErrorKind::Invalid, source.to_string()))?;
        // The peer may be anything; numbers in lists it can read.
        let params: Cow<'_, str> = match blob::names_any(&params) {
            true => blob::by_value(&params, LARGEST_BYTES as u64 / 16)?.into_owned().into(),
            false => params.into(),
        };
        if params.len() > LARGEST_BYTES {
            let message = format!("{} bytes are more than a link carries", params.len());
            return Err(error(ErrorKind::Invalid, message));
        }
        match self.peer.request_in(method, &params, Some(chain.clone()), deadline).await {
            Ok(result) => Ok(blob::adopt(result, None, LARGEST_BYTES as u64)?),
            Err(Unanswered::Error(error)) => Err(error.by_plugin(&self.plugin)),
            Err(Unanswered::Closed(reason)) => {
                let message = format!("the link `{}` in its place is closed: {reason}", self.name);
                Err(RpcError { not_begun: true, ..error(ErrorKind::Gone, message) })
            }
            // A caller with little time left says nothing about the peer.
            Err(Unanswered::Late) => {
                let is_slow = began.elapsed() + Duration::from_millis(50) >= self.timeout;
                if is_slow {
                    self.dismiss(&format!(
                        "no answer to `{method}` within {:?} ([limits] timeout of plugin `{}`)",
                        self.timeout, self.plugin
                    ));
                }
                let message = format!("the link `{}` in its place did not answer in time", self.name);
                Err(RpcError { not_begun: is_slow, ..error(ErrorKind::Timeout, message) })
            }
        }
    }

    /// Send it away.
    pub fn dismiss(&self, reason: &str) {
        self.peer.dismiss(reason);
    }
}
