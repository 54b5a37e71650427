//! Calls whose argument and result are tables.

use std::time::Instant;

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::timeout_at;

use crate::{
    blob::Array,
    chain::Chain,
    host::{Emitted, Event, Host, batch::Opened, functions::deadline},
    rpc::{self, CallTable, ErrorKind, RpcError},
    table::{self, RecordBatch, TableError},
};

#[derive(Deserialize)]
struct Returned {
    table: Array,
}

impl Host {
    /// Put each row of a table onto the bus as an event of its own, the columns being its data's members: with an id, an
    /// acknowledgement, attempts and a place in the order. Handlers of batches get them together again.
    ///
    /// # Errors
    ///
    /// As [`Host::emit`]; the rows before the one that failed were emitted.
    pub async fn emit_batch(&self, topic: &str, table: &RecordBatch) -> Result<Emitted, RpcError> {
        let mut emitted = Emitted::default();
        for row in table::rows(table).map_err(|error| unfit(topic, &error))? {
            let event = Event::from_raw(topic, row, None)
                .map_err(|error| RpcError::new(ErrorKind::Invalid, error.to_string()))?;
            let one = self.emit_event(event).await?;
            emitted.accepted += one.accepted;
            emitted.spilled += one.spilled;
            emitted.dropped += one.dropped;
            emitted.filtered_out |= one.filtered_out;
        }
        Ok(emitted)
    }

    /// Call a function that a plugin exports with a table; it returns one. Both travel as Arrow IPC streams, which the
    /// other side reads without taking them apart: a `pyarrow.Table` in Python.
    ///
    /// # Errors
    ///
    /// As [`Host::call`]; `Invalid` also when the plugin's shim has no Arrow, as Python without pyarrow, or the result
    /// is no table.
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
        if !loaded.plugin.has_feature(rpc::ARROW) {
            let interpreter = loaded.plugin.about().interpreter;
            let message = format!("{interpreter} takes no tables; in Python they need pyarrow");
            return Err(RpcError::new(ErrorKind::Invalid, message).in_plugin(&entry.name));
        }
        entry.meter.count(|stats| stats.called += 1);
        let began = Instant::now();
        let bytes = table::write(table).map_err(|error| unfit(name, &error))?;
        let failed = |error: String| {
            RpcError::new(ErrorKind::Host, format!("`{name}`: no room for a table: {error}")).in_plugin(&entry.name)
        };
        // There until the answer is.
        let bytes = Array::bytes(&bytes).map_err(|error| failed(error.to_string()))?;
        let table = &to_raw_value(&bytes).map_err(|error| failed(error.to_string()))?;
        let params = CallTable { name: &function, chain: &chain.path, table };
        let result = lane.instance.ask(&loaded, "table", &params, &chain, deadline).await;
        entry.meter.took(began.elapsed());
        returned(&entry.name, name, &result?)
    }
}

fn returned(plugin: &str, name: &str, result: &RawValue) -> Result<RecordBatch, RpcError> {
    match serde_json::from_str(result.get()) {
        Ok(Returned { table }) if table.is_bytes() => {
            table::read(Opened(table)).map_err(|error| unfit(name, &error).in_plugin(plugin))
        }
        _ => {
            let message = format!("`{name}`: it returned no table but {:.80}", result.get());
            Err(RpcError::new(ErrorKind::Invalid, message).in_plugin(plugin))
        }
    }
}

fn unfit(name: &str, error: &TableError) -> RpcError {
    RpcError::new(ErrorKind::Invalid, format!("`{name}`: {error}"))
}
