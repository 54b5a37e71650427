//! The cases in which something ends: a load, a handler, a kernel.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use kernelbridge::{
    host::{BuildError, Host},
    language::Interrupt,
    plugin::LoadError,
    rpc::ErrorKind,
};
use serde_json::{Value, json};

use super::{
    DEADLINE,
    subject::Subject,
    values::{contains, equal, equal_ok},
};
use crate::support::processes_with;

pub async fn syntax_error(subject: &Subject) -> Result<(), String> {
    let folder = subject.plugin(&subject.name, "conformance-broken", true, "20s");
    let mut builder = Host::builder().plugin(folder);
    if let Some((_, environment)) = &subject.kernel {
        builder = builder.environment(environment.clone());
    }
    let built = builder.build().await;
    match built {
        Ok(_) => Err("it loaded".into()),
        Err(BuildError::Load { source, .. }) if matches!(*source, LoadError::Raised(_)) => {
            let report = source.to_string();
            contains(&report, "broken.")?;
            contains(&report, "3")
        }
        Err(error) => Err(error.to_string()),
    }
}

pub async fn timeout(subject: &Subject) -> Result<(), String> {
    let (host, _) = subject.host(false, "2s").await.map_err(|error| error.to_string())?;
    let plugin = subject.plugin_name();
    let before = host.plugins()[0].about.process_id;
    let began = Instant::now();
    let error = host.call::<Value>(&format!("{plugin}.busy"), (120,)).await.err().ok_or("it was not interrupted")?;
    equal(json!(error.kind), json!("Timeout"))?;
    if began.elapsed() > Duration::from_secs(20) {
        return Err(format!("the caller waited {:?}", began.elapsed()));
    }
    let again = tokio::time::timeout(DEADLINE, async {
        loop {
            match host.call::<Value>(&format!("{plugin}.hello"), ("Ada",)).await {
                // It waits for the plugin, which is being interrupted.
                Err(error) if error.kind == ErrorKind::Timeout => {}
                outcome => return outcome,
            }
        }
    });
    let again = again.await.map_err(|_| "it never came back")?;
    let outcome = if subject.language.kernel.interrupt == Some(Interrupt::None) {
        // Nothing interrupts it, so it was killed, and started again.
        match equal_ok(again, json!(format!("hello, Ada from {}", subject.name))) {
            Ok(()) if host.plugins()[0].about.process_id == before => {
                Err("language.toml says that nothing interrupts it, but something did".into())
            }
            outcome => outcome,
        }
    } else {
        equal_ok(again, json!(format!("hello, Ada from {}", subject.name)))
            .and_then(|()| equal(json!(host.plugins()[0].about.process_id), json!(before)))
    };
    host.shutdown().await;
    outcome
}

pub async fn killed(subject: &Subject) -> Result<(), String> {
    let (host, _) = subject.host(false, "20s").await.map_err(|error| error.to_string())?;
    let plugin = subject.plugin_name();
    let before = folders(host.plugins()[0].about.process_id)?;
    let error = host.call::<Value>(&format!("{plugin}.exit_now"), json!([])).await.err().ok_or("it answered")?;
    if error.kind != ErrorKind::Gone {
        return Err(format!("{:?}, not Gone: {}", error.kind, error.report()));
    }
    // It is started again.
    let hello = host.call::<Value>(&format!("{plugin}.hello"), json!(["Ada"])).await;
    equal_ok(hello, json!(format!("hello, Ada from {}", subject.name)))?;
    let after = folders(host.plugins()[0].about.process_id)?;
    nothing_left(&before)?;
    host.shutdown().await;
    nothing_left(&after)
}

/// The private folder of the kernel with this process id, and that for its temporary files.
pub fn folders(process_id: u32) -> Result<[PathBuf; 2], String> {
    let environment = fs::read(format!("/proc/{process_id}/environ")).map_err(|error| error.to_string())?;
    let value = |name: &str| {
        let variable = environment.split(|&byte| byte == 0).find_map(|variable| variable.strip_prefix(name.as_bytes()));
        Ok::<_, String>(PathBuf::from(String::from_utf8_lossy(variable.ok_or(format!("no {name}"))?).into_owned()))
    };
    Ok([value("KERNELBRIDGE_DIR=")?, value("TMPDIR=")?])
}

pub fn nothing_left(folders: &[PathBuf; 2]) -> Result<(), String> {
    let left = processes_with(&format!("KERNELBRIDGE_DIR={}", folders[0].display()));
    if !left.is_empty() {
        return Err(format!("processes are left: {left:?}"));
    }
    match folders.iter().find(|folder| folder.exists()) {
        Some(folder) => Err(format!("{} is left", folder.display())),
        None => Ok(()),
    }
}
