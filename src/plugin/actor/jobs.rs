//! Which requests are begun, when, and how many of them in one message.

use std::sync::{Arc, PoisonError};

use crate::{
    blob::Held,
    plugin::{
        Carrier,
        actor::{Actor, Fate, Frame, Queued},
        turn::Message,
    },
    rpc::{self, ErrorKind, RpcError},
};

/// Most requests in one message.
const BATCH: usize = 64;
/// Most parameters in one message of several requests.
const BATCH_BYTES: usize = 256 * 1024;
impl Actor {
    /// Index of the first queued job that may start now.
    pub(super) fn startable(&mut self) -> Option<usize> {
        self.state.queued.retain(|queued| {
            // Whoever said that a plugin is to leave may be gone before it has left.
            let wanted = !queued.job.reply.is_closed() || queued.job.method == rpc::SHUTDOWN;
            if !wanted && queued.told {
                let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
                graph.stop_waiting(queued.job.chain.id, &self.seat);
            }
            wanted
        });
        match self.state.stack.last() {
            None if self.is_visited() => None,
            None => (!self.state.queued.is_empty()).then_some(0),
            Some(Frame::Waiting { answer: None, .. }) => {
                let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
                self.state.queued.iter_mut().position(|queued| {
                    let chain = queued.job.chain.id;
                    if graph.would_wait_for_itself(chain, &self.seat).is_some() {
                        return true;
                    }
                    if !queued.told {
                        queued.told = true;
                        graph.wait(chain, &self.seat);
                    }
                    false
                })
            }
            Some(_) => {
                let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
                for queued in self.state.queued.iter_mut().filter(|queued| !queued.told) {
                    queued.told = true;
                    graph.wait(queued.job.chain.id, &self.seat);
                }
                None
            }
        }
    }

    /// Send the request at this index, and, to an idle plugin that takes several at once, those that follow it.
    pub(super) fn start(&mut self, index: usize) {
        let most = if self.way.takes_batches && self.state.stack.is_empty() { BATCH } else { 1 };
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        while jobs.len() < most
            && let Some(Queued { job, .. }) = self.state.queued.get(index)
        {
            bytes += job.params.len();
            if !jobs.is_empty() && (bytes > BATCH_BYTES || !rpc::may_be_batched(job.method)) {
                break;
            }
            // If the kernel dies in the middle, nobody else is to answer for it.
            if jobs.first().is_some_and(|(first, _): &(Queued, _)| !Arc::ptr_eq(&first.job.member, &job.member)) {
                break;
            }
            let is_last = !rpc::may_be_batched(job.method);
            match self.pack(&job.params) {
                Ok(packed) => jobs.extend(self.state.queued.remove(index).map(|queued| (queued, packed))),
                Err(error) => self.fail_queued(index, error),
            }
            if is_last {
                break;
            }
        }
        if !jobs.is_empty() {
            self.start_jobs(jobs);
        }
    }

    /// The first is served first, so it is on top of the stack.
    fn start_jobs(&mut self, jobs: Vec<(Queued, (Option<String>, Held))>) {
        match jobs.first() {
            Some((Queued { job, .. }, _)) if self.state.stack.is_empty() => {
                self.prints.begin(&job.member, jobs.iter().map(|(queued, _)| queued.job.count).sum());
                self.clean_now_and_then();
            }
            Some((Queued { job, .. }, _)) if job.member.space.is_some() => self.prints.belong_to(&job.member),
            _ => {}
        }
        let mut message = String::new();
        let first = self.state.next_id + 1;
        let pickled = match &jobs[..] {
            [(Queued { job, .. }, (None, _))] if self.way.takes_pickles => {
                rpc::pickle::write_request(first, job.method, &job.params)
            }
            _ => None,
        };
        for (id, (Queued { job, .. }, (params, _))) in (first..).zip(&jobs) {
            if jobs.len() > 1 {
                message.push(if id == first { '[' } else { ',' });
            }
            if pickled.is_none() {
                rpc::write_request(&mut message, id, job.method, params.as_ref().unwrap_or(&job.params));
            }
            self.state.next_id = id;
        }
        if jobs.len() > 1 {
            message.push(']');
        }
        {
            let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
            let last = self.state.next_id;
            for (id, (Queued { job, told }, (_, held))) in (first..=last).rev().zip(jobs.into_iter().rev()) {
                if told {
                    graph.stop_waiting(job.chain.id, &self.seat);
                }
                graph.push(&self.seat, job.chain.id);
                self.state.stack.push(Frame::Serving {
                    id,
                    member: job.member,
                    chain: job.chain,
                    deadline: job.deadline,
                    reply: Some(job.reply),
                    is_patient: job.method == rpc::SERIES,
                    fate: Fate::Running,
                    _params: held,
                    answer: Held::default(),
                });
            }
        }
        match pickled {
            Some(pickled) => self.send(Message::Pickle(pickled)),
            None => self.send(Message::Json(message)),
        }
    }

    /// Some interpreters cannot take what is too long: Octave's terminal needs minutes for 10 MB.
    pub(super) fn too_large(&self, size_bytes: usize) -> Option<RpcError> {
        let limits = &self.language.limits;
        let (limit, hint) = match self.way.carrier {
            Carrier::Pipe => (limits.pipe_value_bytes, "put the value into the store and pass its key"),
            Carrier::Jupyter => (
                limits.jupyter_value_bytes,
                "use `carrier = \"pipe\"`, or put the value into the store and pass its key",
            ),
        };
        let limit = limit.filter(|limit| size_bytes as u64 > *limit)?;
        let (language, carrier) = (&self.language.name, self.way.carrier);
        let message = format!(
            "{size_bytes} bytes are more than the {limit} that `{language}` takes over carrier `{carrier}`; {hint}"
        );
        Some(RpcError::new(ErrorKind::Invalid, message))
    }
}
