//! The row of a table that an event's data are, for handlers that take tables: what came as Arrow leaves as Arrow.

use crate::host::Event;
#[cfg(feature = "arrow")]
use crate::table::{self, RecordBatch};

/// Which row of which table an event's data are, if they are one. The table stays in memory as long as one of them is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin(#[cfg(feature = "arrow")] Option<(std::sync::Arc<RecordBatch>, usize)>);

#[cfg(feature = "arrow")]
impl Origin {
    pub fn new(table: &std::sync::Arc<RecordBatch>, row: usize) -> Self {
        Self(Some((table.clone(), row)))
    }
}

/// The data of events as one table, an Arrow IPC stream: rows of tables as they were, any other as they come. `None` if
/// they hold what such a table does not: arrays and objects, or values of several kinds in one column.
#[cfg(feature = "arrow")]
pub(super) fn stream<'a>(events: impl Iterator<Item = &'a Event> + Clone) -> Option<Vec<u8>> {
    let rows: Option<Vec<_>> =
        events.clone().map(|event| Some((&*event.origin.0.as_ref()?.0, event.origin.0.as_ref()?.1))).collect();
    let table = rows.and_then(|rows| table::gather(&rows)).or_else(|| {
        let mut columns = crate::rpc::Columns::default();
        columns.extend(events.map(|event| &*event.data));
        table::from_json(columns.iter())
    });
    table::write(&table?).ok()
}

#[cfg(not(feature = "arrow"))]
pub(super) fn stream<'a>(_: impl Iterator<Item = &'a Event>) -> Option<Vec<u8>> {
    None
}
