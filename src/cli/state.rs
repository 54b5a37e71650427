//! `kernelbridge state`

use std::path::Path;

use anyhow::{Context, bail};
use serde_json::value::RawValue;

use crate::{
    cli::{
        Ending,
        args::{StateArgs, StateCommand},
    },
    store::Store,
    suggest::did_you_mean,
};

/// Look at or change the shared state.
pub fn state(args: &StateArgs) -> anyhow::Result<Ending> {
    let makes = matches!(args.command, StateCommand::Set { .. });
    let store = if makes { Store::open(&args.state)? } else { open(&args.state)? };
    match &args.command {
        StateCommand::Get { key } => match store.get(key)? {
            Some(value) => println!("{}", value.get()),
            None => bail!(no_key(&store, key, &args.state)?),
        },
        StateCommand::Set { key, value } => {
            let value: Box<RawValue> = serde_json::from_str(value).with_context(|| {
                format!("`{value}` is not JSON; a text needs double quotes inside single ones: '\"{value}\"'")
            })?;
            println!("{}", store.set(key, &value, "kernelbridge state")?);
        }
        StateCommand::List { prefix, json } => {
            for key in store.list(prefix)? {
                if !json {
                    println!("{key}");
                } else if let Some(entry) = store.read(&key)? {
                    let line = Line {
                        key: &key,
                        value: &entry.value,
                        version: entry.version,
                        updated_at: &entry.updated_at,
                        updated_by: &entry.updated_by,
                    };
                    println!("{}", serde_json::to_string(&line)?);
                }
            }
        }
        StateCommand::Delete { key } => {
            if !store.delete(key)? {
                bail!(no_key(&store, key, &args.state)?);
            }
        }
    }
    Ok(Ending::Done)
}

/// Open a database that must be there.
pub fn open(path: &Path) -> anyhow::Result<Store> {
    if !path.exists() {
        bail!("there is no {}; name the database with --state FILE", path.display());
    }
    Ok(Store::open(path)?)
}

#[derive(serde::Serialize)]
struct Line<'a> {
    key: &'a str,
    value: &'a RawValue,
    version: u64,
    updated_at: &'a str,
    updated_by: &'a str,
}

fn no_key(store: &Store, key: &str, path: &Path) -> anyhow::Result<String> {
    let keys = store.list("")?;
    let hint = did_you_mean(key, keys.iter().map(String::as_str)).map(|hint| format!("; {hint}")).unwrap_or_default();
    Ok(format!("no key `{key}` in {}{hint}", path.display()))
}
