//! Calls whose argument and result are tables.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout_at;

use crate::{
    blob::Array,
    chain::Chain,
    host::{
        Emitted, Event, Host,
        batch::{Opened, by_reference},
        functions::deadline,
        origin::Origin,
    },
    plugin::Plugin,
    rpc::{self, CallTable, ErrorKind, RpcError},
    table::{self, RecordBatch, TableError},
};

/// A table as an Arrow IPC stream, or as columns.
#[derive(Deserialize)]
struct Returned<'a> {
    table: Option<Array>,
    count: Option<usize>,
    packed: Option<Array>,
    #[serde(borrow)]
    columns: Option<&'a RawValue>,
}

impl Host {
    /// Put each row of a table onto the bus as an event of its own, the columns being its data's members: with an id, an
    /// acknowledgement, attempts and a place in the order. Handlers of batches get them together again, and those that
    /// take tables get them as they were: as an Arrow IPC stream, with the types of its columns. (Of rows that were only in
    /// the store meanwhile, those of JSON.)
    ///
    /// # Errors
    ///
    /// As [`Host::emit`]; the rows before the one that failed were emitted.
    pub async fn emit_batch(&self, topic: &str, table: &RecordBatch) -> Result<Emitted, RpcError> {
        let mut emitted = Emitted::default();
        let table = &Arc::new(table.clone());
        for (index, row) in table::rows(table).map_err(|error| unfit(topic, &error))?.into_iter().enumerate() {
            let mut event = Event::from_raw(topic, row, None)
                .map_err(|error| RpcError::new(ErrorKind::Invalid, error.to_string()))?;
            event.origin = Origin::new(table, index);
            let one = self.emit_event(event).await?;
            emitted.accepted += one.accepted;
            emitted.spilled += one.spilled;
            emitted.dropped += one.dropped;
            emitted.filtered_out |= one.filtered_out;
        }
        Ok(emitted)
    }

    /// Call a function that a plugin exports with a table; it returns one. In Python with pyarrow it gets a
    /// `pyarrow.Table`, and both travel as Arrow IPC streams, which nobody takes apart; in R it gets a `data.frame`, whose
    /// columns travel as bytes and come back as `Int32`, `Float64`, `Boolean` and `Utf8`.
    ///
    /// # Errors
    ///
    /// As [`Host::call`]; `Invalid` also when the plugin's language takes no tables, as Python without pyarrow, when the
    /// table has what the language does not, or the result is no table.
    pub async fn call_table(&self, name: &str, table: &RecordBatch) -> Result<RecordBatch, RpcError> {
        let (entry, function) = self.shared.find(name)?;
        let deadline = deadline(None, entry.manifest.limits.timeout);
        let chain = Chain::root(format!("call {name}"), deadline);
        let lane = entry.idlest();
        let Ok(loaded) = timeout_at(deadline.into(), lane.instance.ready()).await else {
            let message = "its deadline passed while the plugin's kernel was being started again";
            return Err(RpcError::new(ErrorKind::Timeout, message).in_plugin(&entry.name));
        };
        let loaded = loaded?;
        let mut params = CallTable { name: &function, chain: &chain.path, ..CallTable::default() };
        // There until the answer is.
        let _held = put(&mut params, table, &loaded.plugin, name).map_err(|error| error.in_plugin(&entry.name))?;
        entry.meter.count(|stats| stats.called += 1);
        let began = Instant::now();
        let result = lane.instance.ask(&loaded, "table", &params, &chain, deadline).await;
        entry.meter.took(began.elapsed());
        returned(&result?, name).map_err(|error| error.in_plugin(&entry.name))
    }
}

/// Put a table into a call, as the plugin's shim takes it; returns what is only named there.
fn put(params: &mut CallTable, table: &RecordBatch, plugin: &Plugin, name: &str) -> Result<Option<Array>, RpcError> {
    let unfit = |error: TableError| unfit(name, &error);
    let no_room = format!("`{name}`: no room for a table");
    if plugin.has_feature(rpc::ARROW) {
        let (held, stream) = by_reference(Array::bytes(&table::write(table).map_err(unfit)?), &no_room)?;
        params.table = Some(stream);
        return Ok(Some(held));
    }
    if !plugin.has_feature(rpc::TABLES) {
        let message = format!("{} takes no tables; R does, and Python with pyarrow", plugin.about().interpreter);
        return Err(RpcError::new(ErrorKind::Invalid, message));
    }
    params.count = Some(table.num_rows());
    if plugin.has_feature(rpc::PACKED) {
        let (columns, bytes) = table::pack(table).map_err(unfit)?;
        let (held, packed) = by_reference(Array::file(&bytes), &no_room)?;
        (params.columns, params.packed) = (Some(columns), Some(packed));
        return Ok(Some(held));
    }
    params.columns = Some(table::to_json(table).map_err(unfit)?);
    Ok(None)
}

fn returned(result: &RawValue, name: &str) -> Result<RecordBatch, RpcError> {
    let table = match serde_json::from_str(result.get()) {
        Ok(Returned { table: Some(table), .. }) if table.is_bytes() => table::read(Opened(table)),
        Ok(Returned { count: Some(count), columns: Some(columns), packed, .. }) => {
            let bytes = packed.map(|packed| Bytes::from_owner(Opened(packed))).unwrap_or_default();
            table::unpack(columns, bytes, count)
        }
        _ => {
            let message = format!("`{name}`: it returned no table but {:.80}", result.get());
            return Err(RpcError::new(ErrorKind::Invalid, message));
        }
    };
    table.map_err(|error| unfit(name, &error))
}

fn unfit(name: &str, error: &TableError) -> RpcError {
    RpcError::new(ErrorKind::Invalid, format!("`{name}`: {error}"))
}
