//! `kernelbridge dead-letters` and `kernelbridge release`: what is asked of a host goes through the store that it has
//! open.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stdout},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::bail;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use serde_json::Value;

use crate::{
    cli::{
        Ending,
        args::{DeadLettersArgs, DeadLettersCommand, ReleaseArgs, Which},
        printer::first_line,
        state::open,
        summary::counted,
    },
    rpc::RpcError,
    store::{DeadLetter, Request, Store},
};

/// A host looks once a second whether something is asked of it.
const PATIENCE: Duration = Duration::from_millis(2500);
const EVERY: Duration = Duration::from_millis(50);
/// So much of an error is shown, also where that makes lines longer than the terminal is wide.
const ERROR: u16 = 30;

/// Look at dead letters, deliver them again, or drop them.
pub async fn dead_letters(args: DeadLettersArgs) -> anyhow::Result<Ending> {
    let desk = Desk { store: open(&args.state)?, path: &args.state };
    match args.command {
        DeadLettersCommand::List { plugin, json } => desk.list(plugin.as_deref(), json),
        DeadLettersCommand::Show { id, json } => desk.show(id, json),
        DeadLettersCommand::Retry(which) => desk.retry(&which).await,
        DeadLettersCommand::Drop(which) => desk.drop(&which),
    }?;
    Ok(Ending::Done)
}

/// Ask a running host to take a plugin out of quarantine.
pub async fn release(args: &ReleaseArgs) -> anyhow::Result<Ending> {
    let (store, path, plugin) = (open(&args.state)?, args.state.display(), &args.plugin);
    store.request_release(plugin)?;
    let is_wanted = |request: &Request| *request == Request::Release(plugin.clone());
    if !wait_for_host(&store, is_wanted).await? && store.withdraw_release(plugin)? {
        bail!("no host runs plugin `{plugin}` with {path}; only a running host has plugins in quarantine");
    }
    println!("plugin `{plugin}` is released");
    Ok(Ending::Done)
}

/// Wait until a host has taken all requests of this kind. Returns whether one did.
async fn wait_for_host(store: &Store, is_wanted: impl Fn(&Request) -> bool) -> anyhow::Result<bool> {
    let began = Instant::now();
    while store.requests()?.iter().any(&is_wanted) {
        if began.elapsed() > PATIENCE {
            return Ok(false);
        }
        tokio::time::sleep(EVERY).await;
    }
    Ok(true)
}

struct Desk<'a> {
    store: Store,
    path: &'a Path,
}

impl Desk<'_> {
    fn list(&self, plugin: Option<&str>, json: bool) -> anyhow::Result<()> {
        let letters = self.store.dead_letters(plugin, usize::MAX)?;
        if json {
            for letter in &letters {
                println!("{}", serde_json::to_string(letter)?);
            }
        } else if letters.is_empty() {
            eprintln!("{}", self.none_of(plugin)?);
        } else {
            println!("{}", table(&letters));
        }
        Ok(())
    }

    fn show(&self, id: i64, json: bool) -> anyhow::Result<()> {
        let Some(letter) = self.store.dead_letter(id)? else { bail!(self.missing(&[id])) };
        if json {
            println!("{}", serde_json::to_string_pretty(&letter)?);
        } else {
            print!("{}", shown(&letter));
        }
        Ok(())
    }

    async fn retry(&self, which: &Which) -> anyhow::Result<()> {
        let letters = self.chosen(which)?;
        let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
        self.store.retry_dead_letters(&ids)?;
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for letter in &letters {
            *counts.entry(&letter.event.plugin).or_default() += 1;
        }
        let is_mine = |request: &Request| matches!(request, Request::Retry(plugin) if counts.contains_key(&**plugin));
        wait_for_host(&self.store, is_mine).await?;
        let left = self.store.requests()?;
        for (plugin, &count) in &counts {
            let (what, it, is) = if count == 1 { ("", "it", "is") } else { ("s", "them", "are") };
            let who = if left.contains(&Request::Retry((*plugin).to_owned())) {
                format!(
                    "no host runs it with {}, so the next `kernelbridge run` will deliver {it}",
                    self.path.display()
                )
            } else {
                format!("a running host delivers {it} now")
            };
            println!("{count} dead letter{what} of plugin `{plugin}` {is} put back: {who}");
        }
        Ok(())
    }

    fn drop(&self, which: &Which) -> anyhow::Result<()> {
        let ids: Vec<i64> = self.chosen(which)?.iter().map(|letter| letter.id).collect();
        let dropped = self.store.drop_dead_letters(&ids)?;
        if dropped > 0 {
            println!("dropped {}", counted(dropped as u64, "dead letter"));
        }
        Ok(())
    }

    /// All that are meant; if one is not there, none is touched.
    fn chosen(&self, which: &Which) -> anyhow::Result<Vec<DeadLetter>> {
        if which.all {
            let letters = self.store.dead_letters(which.plugin.as_deref(), usize::MAX)?;
            if letters.is_empty() {
                eprintln!("{}", self.none_of(which.plugin.as_deref())?);
            }
            return Ok(letters);
        }
        let mut ids = which.ids.clone();
        ids.sort_unstable();
        ids.dedup();
        let (mut letters, mut missing) = (Vec::new(), Vec::new());
        for id in ids {
            match self.store.dead_letter(id)? {
                Some(letter) => letters.push(letter),
                None => missing.push(id),
            }
        }
        if !missing.is_empty() {
            bail!(self.missing(&missing));
        }
        Ok(letters)
    }

    fn missing(&self, ids: &[i64]) -> String {
        let ids: Vec<_> = ids.iter().map(i64::to_string).collect();
        format!("there is no dead letter {} in {}", ids.join(", "), self.path.display())
    }

    fn none_of(&self, plugin: Option<&str>) -> anyhow::Result<String> {
        let Some(plugin) = plugin else { return Ok(format!("no dead letters in {}", self.path.display())) };
        let others: Vec<_> =
            self.store.dead_letter_counts()?.into_iter().map(|(name, count)| format!("`{name}` has {count}")).collect();
        let others = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
        Ok(format!("no dead letters of plugin `{plugin}` in {}{others}", self.path.display()))
    }
}

/// A line each; only the error is cut, where the terminal is too narrow for all of it.
fn table(letters: &[DeadLetter]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["ID", "PLUGIN", "TOPIC", "EVENT", "ATTEMPTS", "WHEN (UTC)", "ERROR"]);
    for letter in letters {
        let event = &letter.event;
        table.add_row([
            letter.id.to_string(),
            event.plugin.clone(),
            event.topic.clone(),
            event.event_id.clone(),
            letter.attempts.to_string(),
            // To the second.
            letter.dead_at.get(..19).unwrap_or(&letter.dead_at).replace('T', " "),
            one_line(&letter.error),
        ]);
    }
    if let Some(width) = table.width().filter(|_| stdout().is_terminal()) {
        let others: u16 = table.column_max_content_widths().iter().take(6).map(|width| width + 2).sum();
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.max(others + ERROR + 2));
        for row in table.row_iter_mut() {
            row.max_height(1);
        }
        for column in table.column_iter_mut().take(6) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table
}

/// The error's message, without what comes after its first line.
fn one_line(error: &str) -> String {
    let message = match serde_json::from_str::<Value>(error) {
        Ok(json) => RpcError::from_json(&json).message,
        // Another program wrote it.
        Err(_) => error.to_owned(),
    };
    first_line(&message).trim_end().to_owned()
}

/// All of it, for people.
fn shown(letter: &DeadLetter) -> String {
    let event = &letter.event;
    let handler = match event.handler.split_once(' ') {
        Some((topic, name)) if !name.is_empty() => format!("{name}, for `{topic}`"),
        _ => format!("for `{}`", event.handler.trim_end()),
    };
    let attempts = counted(letter.attempts.into(), "attempt");
    let error = match serde_json::from_str::<Value>(&letter.error) {
        Ok(json) => RpcError::from_json(&json).report(),
        Err(_) => letter.error.clone(),
    };
    let lines = [
        ("id", letter.id.to_string()),
        ("plugin", event.plugin.clone()),
        ("handler", handler),
        ("event", event.event_id.clone()),
        ("topic", event.topic.clone()),
        ("key", event.key.clone().unwrap_or_default()),
        ("emitted", event.time.clone()),
        ("given up", format!("{} after {attempts}", letter.dead_at)),
        ("data", event.data.clone()),
        ("error", error),
    ];
    let lines = lines.iter().filter(|(_, value)| !value.is_empty());
    lines.map(|(name, value)| format!("{name:<9} {value}\n")).collect()
}
