//! `kernelbridge attach`: a kernel that somebody else has started, attached to a running host.

use std::{
    io::{Write, stderr, stdout},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};

use crate::{
    channels::process_of,
    cli::{
        Ending,
        args::AttachArgs,
        kernel::{self, read},
        kernels,
        notebook::kernels::language_of,
    },
    client::KernelClient,
    connection::ConnectionInfo,
    discover::{Discovery, Environment, Found, Languages, discover, runtime_dir},
    host::runtime_for,
    link::Address,
    plugin::{Runtime, launch_options},
    relay::Adopted,
    wire::content::{ExecuteRequest, Status},
};

/// How long the kernel may take to answer; a cell may run.
const PATIENCE: Duration = Duration::from_secs(30);

/// Attach, and stay until Ctrl-C or until either side ends.
pub async fn attach(args: AttachArgs, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let environment = Environment::capture();
    let file = find(&args.kernel, &environment)?;
    let connection = read(&file)?;
    let Some(process_id) = process_of(&connection) else {
        bail!("no kernel listens where {} says: it has ended, or is somebody else's", file.display());
    };
    let (discovery, languages) = (discover(&environment), Languages::load(&environment, kernelspecs));
    let found = stock(&discovery, &languages, &connection, args.language.as_deref(), &file)?;
    let runtime = runtime_for(found, &languages, &environment);
    if language_of(&connection.kernel_name).is_some() {
        return tell(connection, process_id, &runtime, &args).await;
    }
    let mut adopted = Adopted::start(connection, process_id, &runtime, PATIENCE).await?;
    let about = match adopted.connect(args.host.as_deref(), args.replace.as_deref()).await {
        Ok(about) => about,
        Err(error) => {
            adopted.leave().await;
            bail!("{error}");
        }
    };
    let host = about["host"].as_str().unwrap_or_default();
    let what = match &args.replace {
        Some(plugin) => format!("in the place of `{plugin}`"),
        None => "it gets copies of events".to_owned(),
    };
    writeln!(stderr(), "process {process_id} is attached to host `{host}`, {what}; Ctrl-C ends that")?;
    while adopted.is_connected() {
        tokio::select! {
            text = adopted.said() => match text {
                Some(text) => {
                    write!(stdout(), "{text}")?;
                    stdout().flush()?;
                }
                None => {
                    writeln!(stderr(), "the kernel has ended")?;
                    break;
                }
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    adopted.leave().await;
    Ok(Ending::Done)
}

/// A notebook kernel of ours attaches itself.
async fn tell(
    connection: ConnectionInfo,
    process_id: u32,
    runtime: &Runtime,
    args: &AttachArgs,
) -> anyhow::Result<Ending> {
    let shim = runtime.language.as_ref().and_then(|language| language.shim.as_ref());
    let Some([mirror, replace]) = shim.and_then(|shim| shim.connect.as_ref()) else {
        bail!("notebooks of kernelspec `{}` cannot be attached", runtime.kernelspec);
    };
    // Which one is decided here, where it can be said what there is.
    let address = Address::find(args.host.as_deref())?;
    // A text in JSON is one in these languages.
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let host = text(&address.socket.to_string_lossy());
    let code = match &args.replace {
        Some(plugin) => replace.replace("{host}", &host).replace("{plugin}", &text(plugin)),
        None => mirror.replace("{host}", &host),
    };
    let client = KernelClient::adopt(connection, process_id, launch_options(runtime, None)).await?;
    let executed = client.execute(&ExecuteRequest::new(code)).await?.finish(PATIENCE).await;
    client.shutdown(Duration::ZERO).await;
    let reply = executed?.reply;
    if reply.status != Status::Ok {
        bail!("{}", reply.evalue);
    }
    writeln!(stderr(), "the notebook is attached; `bridge.disconnect()` in a cell ends that")?;
    Ok(Ending::Done)
}

/// The connection file: itself, that of a process, or the newest in Jupyter's runtime folder that has this in its name.
fn find(kernel: &str, environment: &Environment) -> anyhow::Result<PathBuf> {
    let path = Path::new(kernel);
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let dir = runtime_dir(environment);
    // Those of plugins are their hosts'.
    let files: Vec<PathBuf> =
        kernels::files(&dir).into_iter().filter(|(_, is_plugins)| !is_plugins).map(|(path, _)| path).collect();
    let is_of = |path: &&PathBuf| kernels::process_of(path).is_some_and(|(id, _)| id.to_string() == kernel);
    if let Some(path) = files.iter().find(is_of) {
        return Ok(path.clone());
    }
    let fits = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().contains(kernel);
    let found = files.into_iter().filter(fits);
    let newest = found.max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok());
    newest.with_context(|| {
        format!(
            "no connection file `{kernel}`, and none in {} is that of process {kernel} or has that in its name\n\
             hint: `kernelbridge kernels` lists kernels that run",
            dir.display()
        )
    })
}

/// The kernelspec whose kernel it is, as far as can be told.
fn stock<'a>(
    discovery: &'a Discovery,
    languages: &Languages,
    connection: &ConnectionInfo,
    language: Option<&str>,
    file: &Path,
) -> anyhow::Result<&'a Found> {
    if let Some(language) = language.or(language_of(&connection.kernel_name)) {
        return kernel::stock(discovery, languages, language, None);
    }
    let named = discovery.find(&connection.kernel_name).ok();
    match named.and_then(|found| Some((found, languages.for_kernelspec(&found.kernelspec)?.0))) {
        Some((found, folder)) => {
            kernel::stock(discovery, languages, &folder.language.name, Some(&found.kernelspec.name))
        }
        None => bail!("{} does not say which language its kernel speaks; say it with --language", file.display()),
    }
}
