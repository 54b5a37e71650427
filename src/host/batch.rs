//! How a batch is handed over: as the shim can take it best, and what came of it.

use std::time::Instant;

use bytes::Bytes;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    blob::{Array, Parcel},
    chain::Chain,
    host::worker::{Outcome, Outcomes, Server, Worker, body},
    rpc::{self, Batch, Columns, DeliverBatch, Done, ErrorKind, RpcError},
};

impl Worker {
    /// The load, all for one handler of batches.
    pub(super) async fn attempt_batch(
        &self,
        server: &Server,
        chain: &Chain,
        began: Instant,
    ) -> Result<Outcomes, RpcError> {
        let load = &self.load;
        let subscriber = &load[0].subscriber;
        let result = if subscriber.columns || server.has_feature(rpc::ROWS) {
            // The bytes of columns are there until they were read.
            let (method, batch, _packed) = self.batch(chain, server)?;
            self.ask(server, method, &batch, chain).await
        } else {
            let events = load.iter().map(|delivery| body(delivery, None)).collect();
            let params = DeliverBatch { handler: subscriber.id, chain: &chain.path, events };
            self.ask(server, "events", &params, chain).await
        };
        let elapsed = began.elapsed();
        self.entry.meter.took(elapsed);
        let read = |result: Parcel| Ok((Done::read(&result, load.len(), opened)?, result.into_parts().1));
        match result.and_then(read) {
            Ok((Done::All(results), held)) => Ok(Outcomes::All { results, held, elapsed }),
            Ok((Done::Each(outcomes), held)) => {
                Ok(Outcomes::Each(outcomes.into_iter().map(|outcome| self.outcome(outcome, &held, elapsed)).collect()))
            }
            // The handler raised on the batch as a whole.
            Err(error) if error.kind == ErrorKind::Raised => {
                let all = load.iter().map(|_| Outcome { result: Err(error.clone()), elapsed });
                Ok(Outcomes::Each(all.collect()))
            }
            Err(error) => Err(error.in_plugin(&self.entry.name)),
        }
    }

    fn batch<'a>(
        &'a self,
        chain: &'a Chain,
        server: &Server,
    ) -> Result<(&'static str, Batch<'a>, Option<Array>), RpcError> {
        let load = &self.load;
        let mut batch = Batch::new(load[0].subscriber.id, &chain.path, load.len());
        for delivery in load {
            batch.ids.push(&delivery.event.id);
            batch.topics.push(&*delivery.event.topic);
            batch.times.push(&*delivery.event.time);
            batch.attempts.push(delivery.attempt);
            batch.keys.push(delivery.event.key.as_deref());
        }
        let data = load.iter().map(|delivery| &*delivery.event.data);
        if load[0].subscriber.columns {
            let mut columns = Columns::default();
            columns.extend(data);
            batch.mixed = columns.mixed();
            // Over a link no files travel.
            let packed = match server {
                Server::Kernel(loaded) if loaded.plugin.has_feature(rpc::PACKED) => Some(columns.pack()),
                _ => None,
            };
            let packed = packed.filter(|bytes| !bytes.is_empty());
            batch.columns = Some(columns);
            let failed = |error: String| RpcError::new(ErrorKind::Host, format!("no room for columns: {error}"));
            let packed =
                packed.map(|bytes| Array::file(&bytes)).transpose().map_err(|error| failed(error.to_string()))?;
            batch.packed = packed.as_ref().map(to_raw_value).transpose().map_err(|error| failed(error.to_string()))?;
            Ok(("columns", batch, packed))
        } else {
            batch.data = Some(data.collect());
            Ok(("rows", batch, None))
        }
    }
}

/// The bytes that an answer names, where they lie.
fn opened(value: &RawValue) -> serde_json::Result<Bytes> {
    let array: Array = serde_json::from_str(value.get())?;
    Ok(Bytes::from_owner(Opened(array)))
}

/// The bytes of an array.
pub(super) struct Opened(pub Array);

impl AsRef<[u8]> for Opened {
    fn as_ref(&self) -> &[u8] {
        // It was made, or it would not have been read.
        self.0.as_bytes().unwrap_or_default()
    }
}
