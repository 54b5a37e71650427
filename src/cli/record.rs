//! `kernelbridge record`: events of a running host, as `run --events` reads them.

use std::{
    io::{ErrorKind, IsTerminal, Write},
    path::Path,
};

use anyhow::Context;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    cli::{
        Ending,
        args::RecordArgs,
        run::{Interrupts, open_out},
        summary::counted,
    },
    link::{Address, Link, LinkError, LinkEvent, Requests, Wanted},
    rpc::{Attach, Handler},
};

/// A line, as `run --events` and test cases have it.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    data: &'a RawValue,
}

/// What was written.
#[derive(Default)]
struct Recorded {
    events: u64,
    dropped: u64,
    /// An event that several patterns want comes several times in a row.
    last_id: String,
    /// Why no more came, if it was not enough.
    ended: Option<String>,
}

/// Record events.
pub async fn record(args: RecordArgs) -> anyhow::Result<Ending> {
    let address = Address::find(args.host.as_deref())?;
    let (link, mut requests) = Link::connect(&address).await?;
    let handlers = (1..).zip(&args.topic).map(|(id, topic)| Handler::on(id, topic.as_str(), "record")).collect();
    let name = format!("record {}", std::process::id());
    let attached = link.attach(Attach { name, handlers, ..Attach::default() }).await?;
    let mut interrupts = Interrupts::new()?;
    // After all that can be refused: a file that is there is not emptied for nothing.
    let mut out = open_out(&args.out)?;
    if std::io::stderr().is_terminal() && args.count.is_none() {
        eprintln!("recording events of host `{}`; Ctrl-C ends", attached.host.name);
    }
    let mut recorded = Recorded::default();
    let done = tokio::select! {
        done = recorded.run(&mut requests, args.count, &mut *out) => done,
        () = interrupts.next() => Ok(()),
    };
    let written = done.and_then(|()| Ok(out.flush()?));
    match written {
        // Whoever reads it has seen enough.
        Err(error) if is_broken_pipe(&error) => return Ok(Ending::Done),
        written => written.context("cannot write the events")?,
    }
    // The host goes on in any case.
    let _ = link.detach().await;
    recorded.tell(&args.out);
    match (recorded.ended, args.count) {
        (Some(reason), Some(count)) => {
            let events = counted(recorded.events, "event");
            anyhow::bail!("{events} of {count} came before the host ended the link: {reason}")
        }
        _ => Ok(Ending::Done),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

impl Recorded {
    async fn run(&mut self, requests: &mut Requests, count: Option<u64>, out: &mut dyn Write) -> anyhow::Result<()> {
        while count.is_none_or(|count| self.events < count) {
            match requests.next().await {
                Ok(Wanted::Request(request)) => {
                    if let Ok(event) = request.event() {
                        self.write(&event, out)?;
                    }
                    request.answer(&())?;
                }
                Ok(Wanted::Dropped { total, .. }) => self.dropped = total,
                Ok(_) => {}
                Err(LinkError::Closed { reason }) => {
                    self.ended = Some(reason);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write(&mut self, event: &LinkEvent, out: &mut dyn Write) -> anyhow::Result<()> {
        if event.id == self.last_id {
            return Ok(());
        }
        self.last_id.clone_from(&event.id);
        let line = Line { topic: &event.topic, key: event.key.as_deref(), data: &event.data };
        let mut line = serde_json::to_vec(&line)?;
        line.push(b'\n');
        out.write_all(&line)?;
        // Whoever follows it sees each as it comes.
        out.flush()?;
        self.events += 1;
        Ok(())
    }

    fn tell(&self, out: &Path) {
        let to = if out == Path::new("-") { String::new() } else { format!(" to {}", out.display()) };
        eprintln!("recorded {}{to}", counted(self.events, "event"));
        if self.dropped > 0 {
            eprintln!(
                "warning: {} came faster than they could be written, and are missing",
                counted(self.dropped, "event")
            );
        }
    }
}
