//! `kernelbridge hosts`

use comfy_table::{Table, presets};

use crate::{
    cli::{Ending, args::HostsArgs},
    link::{RunningHost, running},
};

/// List hosts that listen.
pub fn hosts(args: &HostsArgs) -> anyhow::Result<Ending> {
    let hosts = running();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&hosts)?);
    } else if hosts.is_empty() {
        eprintln!("no host listens; start one with `kernelbridge run --listen`");
    } else {
        println!("{}", table(&hosts));
    }
    Ok(Ending::Done)
}

fn table(hosts: &[RunningHost]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["HOST", "PROCESS", "SINCE (UTC)", "CONSOLE", "PLUGINS", "SOCKET"]);
    for RunningHost { about, socket, .. } in hosts {
        table.add_row([
            about.name.clone(),
            about.process_id.to_string(),
            // To the second.
            about.started_at.get(..19).unwrap_or(&about.started_at).replace('T', " "),
            if about.allow_console { "may run code".to_owned() } else { "looks only".to_owned() },
            folders(&about.folders),
            socket.display().to_string(),
        ]);
    }
    table
}

/// One folder, or that in which all are.
fn folders(folders: &[String]) -> String {
    match folders {
        [] => String::new(),
        [folder] => folder.clone(),
        [first, others @ ..] => {
            let parent = |folder: &str| folder.rsplit_once('/').map(|(parent, _)| parent.to_owned());
            match parent(first) {
                Some(all) if others.iter().all(|other| parent(other).as_ref() == Some(&all)) => {
                    format!("{all}/ ({})", folders.len())
                }
                _ => format!("{first} and {} more", others.len()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_folders_are_one_line() {
        let shown = |paths: &[&str]| folders(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
        assert_eq!(shown(&["/p/a"]), "/p/a");
        assert_eq!(shown(&["/p/a", "/p/b"]), "/p/ (2)");
        assert_eq!(shown(&["/p/a", "/q/b", "/q/c"]), "/p/a and 2 more");
    }
}
