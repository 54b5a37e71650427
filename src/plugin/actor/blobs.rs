//! Large values in a plugin's messages: how each carrier and shim gets them, and what is believed of those it sends.

use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use crate::{
    blob::{self, Held, Parcel},
    plugin::{Carrier, actor::Actor},
    rpc::RpcError,
};

/// Largest array that a shim gets as a list of numbers: some 20 MB of text, for which it may take a second.
const BY_VALUE_BYTES: u64 = 8 << 20;
/// How often a standing turn is cleaned up at most.
const CLEANED_EVERY: Duration = Duration::from_millis(500);

impl Actor {
    /// A value as the shim takes it, if that is another text, and the blobs that have to be held until it was read.
    pub(super) fn pack(&self, json: &str) -> Result<(Option<String>, Held), RpcError> {
        if !blob::names_any(json) {
            return self.too_large(json.len()).map_or(Ok((None, Held::default())), Err);
        }
        if self.by_name() {
            let held = blob::hold(json)?;
            return self.too_large(json.len()).map_or(Ok((None, held)), Err);
        }
        let text = if self.state.takes_blobs { blob::inline(json) } else { blob::by_value(json, BY_VALUE_BYTES) }?;
        if let Some(error) = self.too_large(text.len()) {
            return Err(error);
        }
        Ok((Some(text.into_owned()), Held::default()))
    }

    /// A value that the shim sent, and the blobs in it, which are ours from now on.
    pub(super) fn unpack(&self, json: Box<RawValue>) -> Result<Parcel, RpcError> {
        let outbox = self.outbox.as_ref().filter(|_| self.by_name());
        Ok(blob::adopt(json, outbox, self.limit_bytes as u64)?)
    }

    /// A standing turn has no end at which to clean up, so that is done now and then, before something is served.
    pub(super) fn clean_now_and_then(&mut self) {
        let now = Instant::now();
        if self.state.cleaned_at.is_none_or(|at| now > at + CLEANED_EVERY) {
            self.state.cleaned_at = Some(now);
            self.clean_outbox();
        }
    }

    /// A turn is over, and nobody will send what still lies there.
    pub(super) fn clean_outbox(&self) {
        if let Some(outbox) = self.outbox.as_ref().filter(|_| self.by_name())
            && let Err(error) = outbox.clean()
        {
            tracing::debug!(plugin = &*self.name, %error, "the folder for large values cannot be cleaned");
        }
    }

    /// Files are for kernels on this machine, and whether `jupyter` is used for one nobody knows.
    fn by_name(&self) -> bool {
        self.state.takes_blobs && self.way.carrier == Carrier::Pipe && self.outbox.is_some()
    }
}
