//! `kernelbridge console`: a prompt in the interpreter of a plugin that runs.

mod prompt;
mod screen;

use std::{
    io::{IsTerminal, Read, Write, stderr, stdin, stdout},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use self::screen::Screen;
use crate::{
    cli::{Ending, args::ConsoleArgs, printer::Images, run::Interrupts},
    link::{Address, Link, Requests, Wanted},
    rpc::{Attach, Attached, Mode},
};

/// Longer than any cell that the host lets run.
const CELL: Duration = Duration::from_secs(2 * 3600);
/// For what the host answers as soon as the plugin is idle.
const SOON: Duration = Duration::from_secs(90);

/// A link to a plugin's interpreter.
struct Console {
    plugin: Arc<str>,
    link: Link,
    requests: Requests,
    images: Images,
    screen: Screen,
    interrupts: Interrupts,
}

/// What came of a cell, as the host tells it.
#[derive(Deserialize)]
struct Ran {
    status: String,
    ename: String,
    evalue: String,
    traceback: Vec<String>,
    waited_ms: u64,
    delayed: u64,
    delayed_ms: u64,
    dropped: u64,
}

/// An output, as the host tells it.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Shown {
    Stream { name: String, text: String },
    Display { data: Map<String, Value> },
    Error { ename: String, evalue: String, traceback: Vec<String> },
}

/// Run code, or prompt for it.
pub async fn console(args: ConsoleArgs) -> anyhow::Result<Ending> {
    let ConsoleArgs { plugin, host, code, outputs, images: how } = args;
    let (link, requests) = Link::connect(&Address::find(host.as_deref())?).await?;
    let name = format!("console {}", std::process::id());
    let attach = Attach { mode: Mode::Console, plugin: Some(plugin.clone()), name, ..Attach::default() };
    let attached = link.attach(attach).await?;
    let mut images = Images::new(&outputs)?;
    images.is_careful = true;
    let interrupts = Interrupts::new()?;
    let (screen, typed) = Screen::find(how).await;
    let mut console = Console { plugin: plugin.into(), link, requests, images, screen, interrupts };
    let code = match code {
        Some(code) => code,
        None if stdin().is_terminal() => return prompt::run(console, &attached, typed).await,
        None => {
            let read = tokio::task::spawn_blocking(|| {
                let mut code = String::new();
                stdin().read_to_string(&mut code).map(|_| code)
            });
            read.await.context("the reading task failed")?.context("cannot read the code from stdin")?
        }
    };
    if code.trim().is_empty() {
        return Ok(Ending::Done);
    }
    let has_failed = console.execute(&code).await?;
    // The host goes on in any case.
    let _ = console.link.detach().await;
    Ok(if has_failed { Ending::PluginFailed } else { Ending::Done })
}

impl Console {
    /// Run code and show what comes of it; says whether it failed. Ctrl-C interrupts it.
    async fn execute(&mut self, code: &str) -> anyhow::Result<bool> {
        let link = self.link.clone();
        let params = json!({ "code": code });
        let mut asked = std::pin::pin!(link.ask::<Ran>("execute", &params, CELL));
        let mut has_failed = false;
        let ran = loop {
            tokio::select! {
                // What is shown comes before what came of it.
                biased;
                wanted = self.requests.next() => match wanted {
                    Ok(Wanted::Output(output)) => has_failed |= self.show(&output)?,
                    Ok(_) => {}
                    Err(error) => return Err(error.into()),
                },
                ran = &mut asked => break ran?,
                () = self.interrupts.next() => self.interrupt(),
            }
        };
        while let Some(wanted) = self.requests.try_next() {
            if let Wanted::Output(output) = wanted {
                has_failed |= self.show(&output)?;
            }
        }
        stdout().flush()?;
        if ran.status == "error" && !has_failed {
            // Some kernels only say it in the reply.
            show_error(&ran.ename, &ran.evalue, &ran.traceback);
        }
        self.tell(&ran);
        Ok(has_failed || ran.status == "error")
    }

    fn interrupt(&self) {
        let link = self.link.clone();
        tokio::spawn(async move {
            // Whether it worked shows in what comes of the cell.
            let _ = link.ask::<Value>("interrupt", &json!({}), SOON).await;
        });
    }

    /// Whose work waited for it is worth a line.
    fn tell(&self, ran: &Ran) {
        if ran.waited_ms >= 1000 {
            eprintln!("it waited {} until the plugin was idle", seconds(ran.waited_ms));
        }
        if ran.delayed > 0 {
            let (count, what) = (ran.delayed, if ran.delayed == 1 { "event or call" } else { "events and calls" });
            eprintln!("{count} {what} waited up to {} while it ran", seconds(ran.delayed_ms));
        }
        if ran.dropped > 0 {
            eprintln!("warning: {} outputs came too fast and are missing", ran.dropped);
        }
    }

    /// Show an output; says whether it is an error.
    fn show(&mut self, output: &RawValue) -> anyhow::Result<bool> {
        // Of a later version.
        let Ok(shown) = serde_json::from_str(output.get()) else { return Ok(false) };
        match shown {
            Shown::Stream { name, text } if name == "stderr" => eprint!("{text}"),
            Shown::Stream { text, .. } => {
                print!("{text}");
                stdout().flush()?;
            }
            Shown::Display { data } => return self.display(&data),
            Shown::Error { ename, evalue, traceback } => {
                stdout().flush()?;
                show_error(&ename, &evalue, &traceback);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Show what is more than text; says whether it is an error.
    fn display(&mut self, data: &Map<String, Value>) -> anyhow::Result<bool> {
        let saved = match self.images.save(&self.plugin, data) {
            Ok(saved) => saved,
            // The next one may be better.
            Err(error) => {
                eprintln!("error: {error:#}");
                return Ok(true);
            }
        };
        match (saved, data.get("text/plain").and_then(Value::as_str)) {
            (Some(image), _) => {
                if image.mime == "image/png"
                    && let Err(error) = self.screen.show(&image.bytes)
                {
                    eprintln!("warning: the image is saved, but not shown: {error:#}");
                }
                println!("saved {}", display(&image.path));
            }
            (None, Some(text)) => println!("{text}"),
            (None, None) => {
                let kinds: Vec<&str> = data.keys().map(String::as_str).collect();
                println!("[{}]", kinds.join(", "));
            }
        }
        Ok(false)
    }

    /// What the kernel knows of a name.
    async fn inspect(&self, code: &str, detail: u8) -> anyhow::Result<String> {
        let params = json!({ "code": code, "cursor": code.chars().count(), "detail": detail });
        let reply: Value = self.link.ask("inspect", &params, SOON).await?;
        match reply["data"]["text/plain"].as_str() {
            Some(text) if reply["found"] != false => Ok(plain_unless_terminal(text, stdout().is_terminal())),
            _ => Ok(format!("nothing is known of `{code}`")),
        }
    }

    /// How the plugin is doing, in a few lines.
    async fn state(&self) -> anyhow::Result<String> {
        let doing: Value = self.link.ask("state", &json!({}), SOON).await?;
        let about = &doing["about"];
        let state = doing["state"].as_object().into_iter().flatten().filter(|(key, _)| *key != "state");
        let details: Vec<_> = state.map(|(key, value)| format!("{key} {value}")).collect();
        Ok(format!(
            "state: {} ({})\nevents and calls that wait or are served: {}\ninterpreter: {}\nkernelspec: {}, carrier {}",
            doing["state"]["state"].as_str().unwrap_or("unknown"),
            details.join(", "),
            doing["waiting"],
            about["interpreter"].as_str().unwrap_or("none now"),
            about["kernelspec"].as_str().unwrap_or_default(),
            about["carrier"].as_str().unwrap_or("none"),
        ))
    }
}

/// What is known when it begins.
fn greeting(plugin: &str, attached: &Attached) -> String {
    let about = attached.plugins.iter().find(|about| about.name == plugin);
    let interpreter = about.map(|about| about.interpreter.as_str()).unwrap_or_default();
    let replaced = about.and_then(|about| about.replaced_by.as_ref());
    let replaced = replaced.map(|by| format!("`{by}` serves its events at the moment.\n")).unwrap_or_default();
    let only_looks = if attached.host.allow_console {
        ""
    } else {
        "This host lets you look, but run no code; start it with --allow-console for that.\n"
    };
    format!(
        "plugin `{plugin}` of host `{}`: {interpreter}\n{replaced}{only_looks}Tab completes, `name?` inspects, `:state` \
         tells how it is doing, Ctrl-D ends. Events wait while your code runs.",
        attached.host.name
    )
}

fn show_error(ename: &str, evalue: &str, traceback: &[String]) {
    let text = if traceback.is_empty() { format!("{ename}: {evalue}") } else { traceback.join("\n") };
    eprintln!("{}", plain_unless_terminal(text.trim_end(), stderr().is_terminal()));
}

/// Kernels colour what they say.
fn plain_unless_terminal(text: &str, is_terminal: bool) -> String {
    if is_terminal {
        return text.to_owned();
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("\u{1b}[") {
        plain.push_str(&rest[..start]);
        let sequence = &rest[start + 2..];
        let end = sequence.find(|character: char| ('@'..='~').contains(&character));
        rest = end.map_or("", |end| &sequence[end + 1..]);
    }
    plain.push_str(rest);
    plain
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

fn display(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals() {
        assert_eq!(plain_unless_terminal("\u{1b}[0;31mno\u{1b}[0m way\u{1b}[", false), "no way");
        assert_eq!(plain_unless_terminal("\u{1b}[1mno", true), "\u{1b}[1mno");
    }
}
