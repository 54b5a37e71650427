//! The plugin's stack: how its answers and calls come and go.

use std::sync::PoisonError;

use futures_util::future::{AbortHandle, Abortable};
use serde_json::value::RawValue;

use crate::{
    chain::Chain,
    plugin::{
        Answer, Emission, PluginNews,
        actor::{Actor, CallOutcome, Fate, Frame},
    },
    rpc::{self, ErrorKind, Plea, RpcError},
};

impl Actor {
    /// The plugin answered a request of ours; only that on top of its stack can be.
    pub(super) fn finished(&mut self, answered: u64, result: Result<Box<RawValue>, RpcError>) {
        // A handler that was interrupted while it waited for a call no longer does.
        if let [.., Frame::Serving { id, .. }, Frame::Waiting { .. }] = self.state.stack.as_slice()
            && *id == answered
        {
            self.give_up_call();
        }
        match self.state.stack.last() {
            Some(Frame::Serving { id, .. }) if *id == answered => {}
            _ => {
                let reason = format!("a response to request {answered}, which it does not serve");
                return self.news(None, PluginNews::Odd { reason });
            }
        }
        let Some(Frame::Serving { reply, fate, member, .. }) = self.state.stack.pop() else { return };
        self.graph.lock().unwrap_or_else(PoisonError::into_inner).pop(&self.seat);
        if fate != Fate::Running {
            self.client.clear_cancel();
        }
        // What waits below goes on.
        if member.space.is_some()
            && let Some(below) = self.served()
        {
            self.prints.belong_to(&below);
        }
        if let Some(reply) = reply {
            drop(reply.send(result.map_err(|error| error.by_plugin(&member.name))));
        }
    }

    /// The plugin asks something of the host.
    pub(super) fn asked(&mut self, id: u64, plea: Result<Plea, RpcError>) {
        // A handler that was interrupted while it waited for a call, and calls again.
        self.give_up_call();
        let (member, chain) = match self.state.stack.last() {
            Some(Frame::Serving { member, chain, deadline, .. }) => {
                (member.clone(), Chain { deadline: chain.deadline.min(*deadline), ..chain.clone() })
            }
            _ => {
                let error = RpcError::new(ErrorKind::Cancelled, "no handler is running; calls belong inside one");
                return self.send(rpc::response(id, &Err(error)));
            }
        };
        let answer: Answer<Box<RawValue>> = match plea {
            Ok(Plea::Call { name, args }) => member.host.call(&member.name, chain, name, args),
            Ok(Plea::Emit { topic, data, key }) => {
                let accepted = member.host.emit(&member.name, chain, Emission { topic, data, key });
                Box::pin(async { accepted.await.map(|()| rpc::null()) })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        };
        self.state.next_token += 1;
        let token = self.state.next_token;
        let (abort, registration) = AbortHandle::new_pair();
        let answer = Abortable::new(answer, registration);
        self.state.calls.push(Box::pin(async move { (token, answer.await) }));
        self.state.stack.push(Frame::Waiting { id, token, abort, answer: None });
    }

    /// The call on top of the stack, if there is one, is waited for no more.
    fn give_up_call(&mut self) {
        if let Some(Frame::Waiting { abort, .. }) = self.state.stack.last() {
            abort.abort();
            self.state.stack.pop();
        }
    }

    pub(super) fn answered(&mut self, answered: u64, outcome: CallOutcome) {
        // An aborted call was answered before.
        let Ok(result) = outcome else { return };
        for frame in &mut self.state.stack {
            if let Frame::Waiting { token, answer, .. } = frame
                && *token == answered
            {
                answer.get_or_insert(result);
                return;
            }
        }
    }

    /// Answers go out last in, first out: only that to the youngest call.
    pub(super) fn answer_top(&mut self) {
        if let Some(Frame::Waiting { id, answer: answer @ Some(_), .. }) = self.state.stack.last_mut()
            && let (id, Some(result)) = (*id, answer.take())
        {
            self.state.stack.pop();
            let result = result.map(rpc::compact).and_then(|value| match self.too_large(value.get().len()) {
                Some(error) => Err(error),
                None => Ok(value),
            });
            self.send(rpc::response(id, &result));
        }
    }
}
