//! The prompt: lines in, with completions from the kernel.
//!
//! The editor is rustyline's, which is small, knows Emacs and vi keys, brackets what is pasted, and needs no runtime of its
//! own. It waits for keys on a thread; what it asks the kernel goes through the program's runtime.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;
use rustyline::{
    Context, Editor, Helper,
    completion::Completer,
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::DefaultHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};
use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    cli::{
        Ending,
        console::{Console, greeting},
    },
    link::{Link, LinkError},
    rpc::Attached,
};

/// How long a key may wait for the kernel.
const KEY: Duration = Duration::from_secs(3);

/// What was typed.
enum Typed {
    Line(String),
    /// Ctrl-C: the line is dropped.
    Dropped,
    /// Ctrl-D.
    End,
}

/// Prompt until the user ends it, or the host does. What was typed before stands at the first prompt.
pub async fn run(mut console: Console, attached: &Attached, typed: String) -> anyhow::Result<Ending> {
    eprintln!("{}", greeting(&console.plugin, attached));
    let reader = Reader::start(format!("{}> ", console.plugin), console.link.clone(), typed);
    loop {
        let line = tokio::select! {
            typed = reader.next() => match typed? {
                Typed::Line(line) => line,
                Typed::Dropped => continue,
                Typed::End => break,
            },
            reason = console.link.closed() => anyhow::bail!("the link is closed: {reason}"),
        };
        let text = line.trim();
        let done = match text {
            "" => continue,
            ":q" | ":quit" | ":exit" => break,
            ":state" => console.state().await.map(|state| println!("{state}")),
            _ => match inspected(text) {
                Some((name, detail)) => console.inspect(name, detail).await.map(|text| println!("{text}")),
                None => console.execute(&line).await.map(drop),
            },
        };
        if let Err(error) = done {
            match error.downcast_ref::<LinkError>() {
                // The next line may do better.
                Some(LinkError::Refused(_) | LinkError::Timeout { .. }) => eprintln!("error: {error}"),
                _ => return Err(error),
            }
        }
    }
    // The host goes on in any case.
    let _ = console.link.detach().await;
    Ok(Ending::Done)
}

/// `name?`, `?name`, and with two of them the source as well.
fn inspected(line: &str) -> Option<(&str, u8)> {
    let name = line.trim_matches('?');
    let marks = line.len() - name.len();
    let is_name = !name.is_empty() && !name.contains(|character: char| character.is_whitespace() || character == '?');
    (marks > 0 && is_name).then_some((name.trim(), u8::from(marks > 1)))
}

/// Reads lines on a thread of its own.
struct Reader(mpsc::Sender<oneshot::Sender<rustyline::Result<String>>>);

impl Reader {
    fn start(prompt: String, link: Link, mut typed: String) -> Self {
        let (wants, wanted) = mpsc::channel::<oneshot::Sender<rustyline::Result<String>>>();
        let asker = Asker { link, runtime: Handle::current(), answers: Arc::new(AtomicBool::new(true)) };
        // It ends with the program, or when nobody wants another line.
        thread::spawn(move || {
            let mut editor = match Editor::<Asker, DefaultHistory>::new() {
                Ok(editor) => editor,
                Err(error) => return drop(wanted.recv().map(|reply| reply.send(Err(error)))),
            };
            editor.set_helper(Some(asker));
            while let Ok(reply) = wanted.recv() {
                let line = editor.readline_with_initial(&prompt, (&std::mem::take(&mut typed), ""));
                if let Ok(line) = &line {
                    // A history that is full drops the oldest.
                    let _ = editor.add_history_entry(line.as_str());
                }
                if reply.send(line).is_err() {
                    return;
                }
            }
        });
        Self(wants)
    }

    async fn next(&self) -> anyhow::Result<Typed> {
        let (reply, line) = oneshot::channel();
        self.0.send(reply).ok().context("the prompt is gone")?;
        match line.await.context("the prompt is gone")? {
            Ok(line) => Ok(Typed::Line(line)),
            Err(ReadlineError::Interrupted) => Ok(Typed::Dropped),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(error).context("cannot read from the terminal"),
        }
    }
}

/// Asks the kernel what a key needs to know.
struct Asker {
    link: Link,
    runtime: Handle,
    /// Does the kernel say whether code is complete?
    answers: Arc<AtomicBool>,
}

impl Completer for Asker {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let cursor = line[..position].chars().count();
        let params = json!({ "code": line, "cursor": cursor });
        let asked = self.link.ask::<Value>("complete", &params, KEY);
        // A kernel that does not answer has no completions.
        let reply = self.runtime.block_on(asked).unwrap_or_default();
        let start = reply["cursor_start"].as_u64().and_then(|start| usize::try_from(start).ok()).unwrap_or(cursor);
        let start = line.char_indices().nth(start).map_or(line.len(), |(index, _)| index).min(position);
        let matches = reply["matches"].as_array().into_iter().flatten();
        Ok((start, matches.filter_map(Value::as_str).map(str::to_owned).collect()))
    }
}

impl Validator for Asker {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let code = context.input();
        let is_ours = code.trim().is_empty() || code.starts_with(':') || inspected(code.trim()).is_some();
        if is_ours || !self.answers.load(Ordering::Relaxed) {
            return Ok(ValidationResult::Valid(None));
        }
        let params = json!({ "code": code });
        let asked = self.link.ask::<Value>("is_complete", &params, KEY);
        match self.runtime.block_on(asked) {
            Ok(reply) if reply["status"] == "incomplete" => Ok(ValidationResult::Incomplete),
            Ok(_) => Ok(ValidationResult::Valid(None)),
            Err(_) => {
                // Few kernels answer; one that did not is not asked again.
                self.answers.store(false, Ordering::Relaxed);
                Ok(ValidationResult::Valid(None))
            }
        }
    }
}

impl Highlighter for Asker {}
impl Hinter for Asker {
    type Hint = String;
}
impl Helper for Asker {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_name_with_a_mark() {
        assert_eq!(inspected("len?"), Some(("len", 0)));
        assert_eq!(inspected("?a.b"), Some(("a.b", 0)));
        assert_eq!(inspected("len??"), Some(("len", 1)));
        for code in ["len", "?", "??", "a if b? else c", "x == 1 ?", "f(a)? 1"] {
            assert_eq!(inspected(code), None, "{code}");
        }
    }
}
