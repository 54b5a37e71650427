//! The plugin's stack: how its answers and calls come and go.

use std::sync::PoisonError;

use futures_util::future::{AbortHandle, Abortable};
use serde_json::value::RawValue;

use crate::{
    blob::{Held, Parcel},
    chain::Chain,
    plugin::{
        Answer, Emission, PluginNews,
        actor::{Actor, CallOutcome, Fate, Frame},
        member::Member,
        turn::Message,
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
            let result = result.map_err(|error| error.by_plugin(&member.name));
            let result = result.and_then(|json| self.unpack(json).map_err(|error| error.in_plugin(&member.name)));
            drop(reply.send(result));
        }
    }

    /// The plugin asks something of the host.
    pub(super) fn asked(&mut self, id: u64, plea: Result<Plea, RpcError>) {
        // A handler that was interrupted while it waited for a call, and calls again.
        self.give_up_call();
        self.enter_cell();
        let (member, chain) = match self.state.stack.last() {
            Some(Frame::Serving { member, chain, deadline, .. }) => {
                (member.clone(), Chain { deadline: chain.deadline.min(*deadline), ..chain.clone() })
            }
            _ => {
                let error = RpcError::new(ErrorKind::Cancelled, "no handler is running; calls belong inside one");
                return self.send(Message::Json(rpc::response(id, Err(&error))));
            }
        };
        let (answer, args) = self.begin(&member, chain, plea).unwrap_or_else(|error| {
            let answer: Answer<Parcel> = Box::pin(std::future::ready(Err(error)));
            (answer, Held::default())
        });
        self.state.next_token += 1;
        let token = self.state.next_token;
        let (abort, registration) = AbortHandle::new_pair();
        let answer = Abortable::new(answer, registration);
        self.state.calls.push(Box::pin(async move { (token, answer.await) }));
        self.state.stack.push(Frame::Waiting { id, token, abort, _args: args, answer: None });
    }

    /// The answer to come, and what has to be held until then.
    fn begin(
        &self,
        member: &Member,
        chain: Chain,
        plea: Result<Plea, RpcError>,
    ) -> Result<(Answer<Parcel>, Held), RpcError> {
        Ok(match plea? {
            Plea::Call { name, args } => {
                let (args, held) = self.unpack(args)?.into_parts();
                (member.host.call(&member.name, chain, name, args), held)
            }
            Plea::Emit { topic, data, key } => {
                let (data, held) = self.unpack(data)?.into_parts();
                let accepted = member.host.emit(&member.name, chain, Emission { topic, data, key });
                (Box::pin(async { accepted.await.map(|()| rpc::null().into()) }), held)
            }
        })
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
            let result = result.and_then(|parcel| {
                let (json, _held) = parcel.into_parts();
                let json = rpc::compact(json);
                let (packed, held) = self.pack(json.get())?;
                if let Some(Frame::Serving { answer, .. }) = self.state.stack.last_mut() {
                    *answer = held;
                }
                Ok(packed.unwrap_or_else(|| Box::<str>::from(json).into()))
            });
            self.send(Message::Json(rpc::response(id, result.as_deref())));
            self.leave_cell();
        }
    }
}
