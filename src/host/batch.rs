//! How a batch is handed over: as the shim can take it best, and what came of it.

use std::time::Instant;

use crate::{
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
            let (method, batch) = self.batch(chain);
            self.ask(server, method, &batch, chain).await
        } else {
            let events = load.iter().map(|delivery| body(delivery, None)).collect();
            let params = DeliverBatch { handler: subscriber.id, chain: &chain.path, events };
            self.ask(server, "events", &params, chain).await
        };
        let elapsed = began.elapsed();
        self.entry.meter.took(elapsed);
        match result.and_then(|result| Ok((Done::read(&result, load.len())?, result.into_parts().1))) {
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

    fn batch<'a>(&'a self, chain: &'a Chain) -> (&'static str, Batch<'a>) {
        let load = &self.load;
        let mut batch = Batch {
            handler: load[0].subscriber.id,
            chain: &chain.path,
            count: load.len(),
            ids: rpc::Ids::default(),
            topics: rpc::Runs::default(),
            times: rpc::Runs::default(),
            attempts: rpc::Runs::default(),
            keys: rpc::Runs::default(),
            mixed: Vec::new(),
            data: None,
            columns: None,
        };
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
            batch.columns = Some(columns);
            ("columns", batch)
        } else {
            batch.data = Some(data.collect());
            ("rows", batch)
        }
    }
}
