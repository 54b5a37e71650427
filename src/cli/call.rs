//! `kernelbridge call`

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    cli::{Ending, args::CallArgs, plugins, printer::Printer},
    host::{Host, manifest_at},
    suggest::did_you_mean,
};

/// Call one function and print its result.
pub async fn call(args: CallArgs, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let Some((plugin, _)) = args.function.split_once('.') else {
        bail!("`{}` is not of the form PLUGIN.FUNCTION", args.function);
    };
    let values = args.args.iter().map(|arg| {
        serde_json::from_str::<Box<RawValue>>(arg).with_context(|| {
            format!("argument `{arg}` is not JSON; a text needs double quotes inside single ones: '\"{arg}\"'")
        })
    });
    let values = to_raw_value(&values.collect::<anyhow::Result<Vec<_>>>()?)?;
    let manifests = chosen(&args, plugin)?;
    // Events that wait there are the business of `run`, which may be running.
    let mut builder = Host::builder().state(&args.state).leave_backlog();
    for manifest in manifests {
        builder = builder.plugin(manifest);
    }
    for dir in kernelspecs {
        builder = builder.kernelspecs(dir);
    }
    let host = builder.build().await?;
    let printer = tokio::spawn(Printer::new(host.subscribe(), None).run());
    let result = host.call_raw(&args.function, &values).await;
    host.shutdown().await;
    // It ends with the host's news.
    let _ = printer.await;
    match result {
        Ok(result) => {
            println!("{}", result.by_value()?.get());
            Ok(Ending::Done)
        }
        Err(error) => {
            eprintln!("error: {}", error.report());
            Ok(Ending::PluginFailed)
        }
    }
}

/// All plugins, or the one that is named; one with a broken manifest only matters if it is meant.
fn chosen(args: &CallArgs, plugin: &str) -> anyhow::Result<Vec<PathBuf>> {
    let found = plugins::all_manifests(&args.plugins)?;
    if args.all {
        return Ok(found);
    }
    let mut names = Vec::new();
    for path in &found {
        match manifest_at(path) {
            Ok(manifest) if manifest.name == plugin => return Ok(vec![path.clone()]),
            Ok(manifest) => names.push(manifest.name),
            Err(error) => eprintln!("warning: {error}"),
        }
    }
    let hint =
        did_you_mean(plugin, names.iter().map(String::as_str)).map(|hint| format!("; {hint}")).unwrap_or_default();
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    let dirs: Vec<_> = args.plugins.iter().map(|dir| dir.display().to_string()).collect();
    bail!("no plugin `{plugin}`{hint}; found {}, looked in {}", names.join(", "), dirs.join(", "));
}
