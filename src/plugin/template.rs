//! The basic level: plugins in a kernel without a shim.
//!
//! Code is executed for each event, with the event pasted in as a string literal, and its result is what the last
//! expression shows. This is the one place where data becomes part of code; a language folder does away with it.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    blob::{self, Parcel},
    client::{ClientError, Executed, KernelClient, Output},
    manifest::Template,
    plugin::{Job, Mail, gone},
    rpc::{self, ErrorKind, Handler, HandlerKind, RpcError},
    wire::content::{ExecuteRequest, Status},
};

/// What a plugin with this template registers.
pub(super) fn handlers(template: &Template) -> Vec<Handler> {
    let handler = |kind, topic: &str, name: &str| Handler {
        id: 0,
        kind,
        topic: topic.into(),
        name: name.into(),
        batch: 0,
        columns: String::new(),
        table: false,
        priority: 0,
        doc: String::new(),
    };
    let topics = template.topic.iter().filter(|_| template.event.is_some());
    let on = topics.map(|topic| handler(HandlerKind::On, topic.as_str(), "template"));
    on.chain(template.exports.keys().map(|name| handler(HandlerKind::Export, "", name))).collect()
}

/// Owns one kernel.
pub(super) struct TemplateActor {
    pub name: Arc<str>,
    pub client: KernelClient,
    pub template: Template,
    pub limit_bytes: u64,
    pub inbox: mpsc::Receiver<Mail>,
    pub death: watch::Sender<Option<RpcError>>,
}

#[derive(Deserialize)]
struct CallParams {
    name: String,
    args: Box<RawValue>,
}

impl TemplateActor {
    pub async fn run(mut self) {
        let (mut grace, mut stopped) = (Duration::ZERO, None);
        let mut exit = self.client.exit();
        loop {
            let mail = tokio::select! {
                mail = self.inbox.recv() => mail,
                _ = exit.wait_for(Option::is_some), if self.death.borrow().is_none() => {
                    self.death.send_replace(Some(gone(&self.client.gone()).in_plugin(&self.name)));
                    continue;
                }
            };
            let Some(mail) = mail else { break };
            match mail {
                Mail::Job(job) => {
                    let result = self.serve(&job).await.map(Parcel::from).map_err(|error| error.in_plugin(&self.name));
                    drop(job.reply.send(result));
                }
                // Dropped: whoever waits for a visit is told that nobody made it.
                Mail::Visit(_) | Mail::InterruptVisit => {}
                Mail::Use(_) | Mail::TakeBlobs | Mail::WatchInterpreter | Mail::Interrupt => {}
                Mail::Stop { grace: asked, done } => {
                    (grace, stopped) = (asked, Some(done));
                    break;
                }
            }
        }
        self.client.shutdown(grace).await;
        if let Some(done) = stopped {
            let _ = done.send(());
        }
    }

    async fn serve(&mut self, job: &Job) -> Result<Box<RawValue>, RpcError> {
        let invalid = |error: serde_json::Error| RpcError::new(ErrorKind::Invalid, error.to_string());
        // Nobody in this kernel knows of files.
        let params = blob::by_value(&job.params, u64::MAX)?;
        let code = match job.method {
            "event" => {
                let event: &RawValue = serde_json::from_str(&params).map_err(invalid)?;
                self.template.event_code(event).unwrap_or_default()
            }
            "call" => {
                let CallParams { name, args } = serde_json::from_str(&params).map_err(invalid)?;
                self.template
                    .export_code(&name, &args)
                    .ok_or_else(|| RpcError::new(ErrorKind::NotFound, format!("no function `{name}`")))?
            }
            _ => return Ok(rpc::null()),
        };
        let left = Instant::from_std(job.deadline).saturating_duration_since(Instant::now());
        let execution = self.client.execute(&ExecuteRequest::new(code)).await.map_err(|error| gone(&error))?;
        match execution.finish(left).await {
            Ok(executed) => match shown(executed)? {
                value if value.get().len() as u64 > self.limit_bytes => {
                    Err(rpc::too_large(value.get().len(), self.limit_bytes as usize))
                }
                value => Ok(value),
            },
            Err(ClientError::Timeout { .. }) => {
                // Whatever runs is stopped; if it is not, the next request waits behind it until its own deadline.
                let _ = self.client.interrupt().await;
                Err(RpcError::new(ErrorKind::Timeout, format!("deadline of {} passed", job.chain.path.join(" > "))))
            }
            // It cannot be spoken with any more.
            Err(error @ ClientError::Channel(_)) => {
                self.client.process().kill_tree().await;
                Err(gone(&error))
            }
            Err(error) => Err(gone(&error)),
        }
    }
}

/// What the last expression shows, as JSON if it is JSON, else as text.
fn shown(Executed { reply, outputs, .. }: Executed) -> Result<Box<RawValue>, RpcError> {
    if reply.status != Status::Ok {
        let mut error = RpcError::new(ErrorKind::Raised, format!("{}: {}", reply.ename, reply.evalue));
        (error.ename, error.evalue, error.traceback) = (reply.ename.into(), reply.evalue, reply.traceback);
        return Err(error);
    }
    let display = outputs.iter().rev().find_map(|output| match output {
        Output::Display { data, .. } => data.get("text/plain").and_then(|text| text.as_str().map(str::to_owned)),
        _ => None,
    });
    let text = display.unwrap_or_else(|| {
        let printed = outputs.iter().filter_map(|output| match output {
            Output::Stream { name, text } if name == "stdout" => Some(text.as_str()),
            _ => None,
        });
        printed.collect()
    });
    let text = text.trim();
    if text.is_empty() {
        return Ok(rpc::null());
    }
    RawValue::from_string(text.to_owned())
        .or_else(|_| to_raw_value(text))
        .map_err(|error| RpcError::new(ErrorKind::Invalid, error.to_string()))
}
