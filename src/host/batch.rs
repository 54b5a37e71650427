//! How a batch is handed over: as the shim can take it best, and what came of it.

use std::time::Instant;

use bytes::Bytes;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    blob::{Array, BlobError, Parcel},
    chain::Chain,
    host::{
        origin::stream,
        worker::{Outcome, Outcomes, Server, Worker, body},
    },
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
            // The bytes of columns and tables are there until they were read.
            let (method, batch, _held) = self.batch(chain, server)?;
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
        if !load[0].subscriber.columns {
            batch.data = Some(data.collect());
            return Ok(("rows", batch, None));
        }
        // Over a link no files travel.
        let takes = |feature| match server {
            Server::Kernel(loaded) => loaded.plugin.has_feature(feature),
            Server::Link(_) => false,
        };
        let stream = || stream(load.iter().map(|delivery| &delivery.event));
        let held = if load[0].subscriber.table
            && takes(rpc::ARROW)
            && let Some(stream) = stream()
        {
            let (held, table) = by_reference(Array::bytes(&stream), NO_ROOM)?;
            batch.table = Some(table);
            Some(held)
        } else {
            let mut columns = Columns::default();
            columns.extend(data);
            batch.mixed = columns.mixed();
            let packed = if takes(rpc::PACKED) { columns.pack() } else { Vec::new() };
            batch.columns = Some(columns);
            if packed.is_empty() {
                None
            } else {
                let (held, packed) = by_reference(Array::file(&packed), NO_ROOM)?;
                batch.packed = Some(packed);
                Some(held)
            }
        };
        Ok(("columns", batch, held))
    }
}

const NO_ROOM: &str = "no room for columns";

/// Bytes, which are there as long as the array is held, and how a message names them.
pub(super) fn by_reference(array: Result<Array, BlobError>, no_room: &str) -> Result<(Array, Box<RawValue>), RpcError> {
    let failed = |error: &dyn std::fmt::Display| RpcError::new(ErrorKind::Host, format!("{no_room}: {error}"));
    let array = array.map_err(|error| failed(&error))?;
    let name = to_raw_value(&array).map_err(|error| failed(&error))?;
    Ok((array, name))
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
