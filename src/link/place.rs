//! Where hosts listen: a folder for each, with its socket, its token and what it says of itself.
//!
//! ```text
//! $XDG_RUNTIME_DIR/kernelbridge/      0700; without XDG_RUNTIME_DIR: kernelbridge.UID in the folder for temporary files
//!     NAME/                           0700; the host's name, or its process's id
//!         socket                      unless it listens elsewhere
//!         token                       0600; 64 hexadecimal digits
//!         host.json                   0600; what the host says of itself
//! ```
//!
//! A host that listens at a path of its own has its token beside the socket, as `PATH.token`, and its `host.json` here.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{link::LinkError, rpc::AboutHost};

/// Longest path of a socket, in bytes.
const LONGEST_PATH: usize = 107;
/// A folder without `host.json` is one that is being made, or was left behind when that failed.
const BEING_MADE: Duration = Duration::from_secs(10);

const SOCKET: &str = "socket";
const TOKEN: &str = "token";
const ABOUT: &str = "host.json";

/// A host that listens, as its `host.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningHost {
    /// What it says of itself.
    #[serde(flatten)]
    pub about: AboutHost,
    /// When its process was started, in the system's ticks: another process of the same id has another.
    pub process_started: u64,
    /// Where it listens.
    pub socket: PathBuf,
    /// Where its token is.
    pub token: PathBuf,
}

/// Where a peer connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The socket.
    pub socket: PathBuf,
    /// The file with the token.
    pub token: PathBuf,
}

impl From<&RunningHost> for Address {
    fn from(host: &RunningHost) -> Self {
        Self { socket: host.socket.clone(), token: host.token.clone() }
    }
}

impl Address {
    /// Of a socket: the token is beside it.
    pub fn of_socket(socket: &Path) -> Self {
        let token = if socket.file_name().is_some_and(|name| name == SOCKET) {
            socket.with_file_name(TOKEN)
        } else {
            let mut token = socket.as_os_str().to_owned();
            token.push(".token");
            token.into()
        };
        Self { socket: socket.to_owned(), token }
    }

    /// Of a running host, by name or process id, by its folder, or by its socket; the only one that runs if nothing is
    /// given.
    ///
    /// # Errors
    ///
    /// - [`LinkError::NoHost`] and [`LinkError::NoHosts`] when there is none.
    /// - [`LinkError::WhichHost`] when there are several, and nothing was given.
    pub fn find(host: Option<&str>) -> Result<Self, LinkError> {
        let names = |hosts: &[RunningHost]| hosts.iter().map(|host| host.about.name.clone()).collect();
        let Some(wanted) = host else {
            let hosts = running();
            return match &hosts[..] {
                [] => Err(LinkError::NoHosts),
                [host] => Ok(host.into()),
                hosts => Err(LinkError::WhichHost { found: names(hosts) }),
            };
        };
        if wanted.contains('/') {
            let path = Path::new(wanted);
            let socket = if path.is_dir() { path.join(SOCKET) } else { path.to_owned() };
            return Ok(Self::of_socket(&socket));
        }
        let hosts = running();
        let found = hosts.iter().find(|host| host.about.name == wanted);
        let found = found.or_else(|| hosts.iter().find(|host| host.about.process_id.to_string() == wanted));
        found.map(Into::into).ok_or_else(|| LinkError::NoHost { name: wanted.to_owned(), found: names(&hosts) })
    }
}

/// Hosts of this user that listen, by name. What dead ones left behind is removed.
pub fn running() -> Vec<RunningHost> {
    let mut hosts: Vec<RunningHost> = sweep(&base()).into_iter().collect();
    hosts.sort_by(|one, other| one.about.name.cmp(&other.about.name));
    hosts
}

/// Where the folders of all hosts are.
pub fn base() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime.filter(|dir| dir.is_absolute() && dir.is_dir()) {
        Some(dir) => dir.join("kernelbridge"),
        None => std::env::temp_dir().join(format!("kernelbridge.{}", nix::unistd::geteuid())),
    }
}

/// The folder of a host that listens. Dropping it removes all that belongs to it.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    host: RunningHost,
}

impl Place {
    /// Make the folder of a host, and its token. Nobody listens yet. A host without a name gets its process's id for one.
    ///
    /// # Errors
    ///
    /// [`LinkError`], with nothing left behind.
    pub fn make(mut about: AboutHost, socket: Option<&Path>, token: &str) -> Result<Self, LinkError> {
        let base = base();
        private_folder(&base)?;
        let others = sweep(&base);
        if about.name.is_empty() {
            // Several hosts of one process have names of their own.
            let number = about.process_id.to_string();
            let names = (1..).map(|count| if count == 1 { number.clone() } else { format!("{number}-{count}") });
            about.name = names.into_iter().find(|name| !base.join(name).exists()).unwrap_or(number);
        }
        if !is_name(&about.name) {
            return Err(LinkError::Name { name: about.name });
        }
        let dir = base.join(&about.name);
        let address = match socket {
            Some(socket) => Address::of_socket(&std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned())),
            None => Address::of_socket(&dir.join(SOCKET)),
        };
        let length = address.socket.as_os_str().len();
        if length > LONGEST_PATH {
            return Err(LinkError::PathTooLong { path: address.socket, length });
        }
        let taken = others.iter().find(|host| host.about.name == about.name || host.socket == address.socket);
        if let Some(host) = taken {
            let whose = format!(" (process {})", host.about.process_id);
            return Err(LinkError::Taken { path: host.socket.clone(), whose });
        }
        clear_socket(&address.socket)?;
        let process_started = started(about.process_id).unwrap_or_default();
        let Address { socket, token: token_path } = address;
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => LinkError::Taken { path: dir.clone(), whose: String::new() },
            _ => LinkError::File { what: "cannot make the folder", path: dir.clone(), source },
        })?;
        // From here on whatever was made is removed if anything fails.
        let place = Self { dir, host: RunningHost { about, process_started, socket, token: token_path } };
        // Left by a host that listened at this path before.
        let _ = fs::remove_file(&place.host.token);
        write_new(&place.host.token, token)?;
        Ok(place)
    }

    /// Where to listen.
    pub fn socket(&self) -> &Path {
        &self.host.socket
    }

    /// What others read of the host.
    pub fn host(&self) -> &RunningHost {
        &self.host
    }

    /// Say that the host is there, once it listens.
    ///
    /// # Errors
    ///
    /// [`LinkError::File`].
    pub fn announce(&self) -> Result<(), LinkError> {
        let json = serde_json::to_string_pretty(&self.host)
            .map_err(|source| LinkError::Json { method: ABOUT.to_owned(), source })?;
        // Whoever lists hosts sees all of it or nothing.
        let (path, new) = (self.dir.join(ABOUT), self.dir.join("host.json.new"));
        write_new(&new, &json)?;
        fs::rename(&new, &path).map_err(|source| LinkError::File { what: "cannot write", path, source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.dir, Some(&self.host));
    }
}

/// Remove what belongs to a host, and nothing else.
fn remove(dir: &Path, host: Option<&RunningHost>) {
    let own = [SOCKET, TOKEN, ABOUT, "host.json.new"].map(|name| dir.join(name));
    let elsewhere = host.into_iter().flat_map(|host| [host.socket.clone(), host.token.clone()]);
    for path in own.into_iter().chain(elsewhere) {
        // Most of them are not there.
        let _ = fs::remove_file(path);
    }
    if let Err(error) = fs::remove_dir(dir) {
        tracing::debug!(path = %dir.display(), %error, "the folder of a host stays");
    }
}

/// Hosts that run; what others left behind is removed.
fn sweep(base: &Path) -> Vec<RunningHost> {
    let mut running = Vec::new();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let dir = entry.path();
        let host = fs::read(dir.join(ABOUT)).ok();
        match host.and_then(|json| serde_json::from_slice::<RunningHost>(&json).ok()) {
            Some(host) if is_alive(&host) => running.push(host),
            Some(host) => {
                let is_its_socket = clear_socket(&host.socket).is_ok();
                remove(&dir, is_its_socket.then_some(&host));
            }
            None => {
                let age = entry
                    .metadata()
                    .and_then(|metadata| metadata.modified())
                    .map(|at| SystemTime::now().duration_since(at));
                if matches!(age, Ok(Ok(age)) if age > BEING_MADE) && dir.is_dir() {
                    remove(&dir, None);
                }
            }
        }
    }
    running
}

fn is_alive(host: &RunningHost) -> bool {
    started(host.about.process_id).is_some_and(|started| started == host.process_started)
}

/// When a process was started, in ticks since the system was; `None` if it is gone.
pub fn started(process_id: u32) -> Option<u64> {
    let line = fs::read_to_string(format!("/proc/{process_id}/stat")).ok()?;
    // Field 22 as in proc(5); the second, in parentheses, may hold anything.
    let fields: Vec<&str> = line[line.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let is_gone = matches!(*fields.first()?, "Z" | "X");
    fields.get(22 - 3)?.parse().ok().filter(|_| !is_gone)
}

/// Remove a socket that nobody listens on; anything else there is not ours to remove.
fn clear_socket(path: &Path) -> Result<(), LinkError> {
    let taken = || LinkError::Taken { path: path.to_owned(), whose: String::new() };
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(taken()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
            fs::remove_file(path).map_err(|_| taken())
        }
        Err(source) => Err(LinkError::File { what: "something else is at", path: path.to_owned(), source }),
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// A folder that only we can write, made if it is not there.
fn private_folder(path: &Path) -> Result<(), LinkError> {
    let error = |what| move |source| LinkError::File { what, path: path.to_owned(), source };
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error("cannot make the folder")(source));
        }
        _ => {}
    }
    // Not through a link: somebody else may have made it in the folder for temporary files.
    let metadata = fs::symlink_metadata(path).map_err(error("cannot look at"))?;
    let not_ours = |why| Err(LinkError::NotOurs { path: path.to_owned(), why });
    if !metadata.is_dir() || metadata.uid() != nix::unistd::geteuid().as_raw() {
        return not_ours("belongs to somebody else");
    }
    if metadata.permissions().mode() & 0o022 != 0 {
        return not_ours("can be written by others");
    }
    Ok(())
}

/// A file that only we can read, which was not there before.
fn write_new(path: &Path, text: &str) -> Result<(), LinkError> {
    let write =
        || fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes());
    write().map_err(|source| LinkError::File { what: "cannot write", path: path.to_owned(), source })
}

fn is_name(name: &str) -> bool {
    let allowed = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_part_of_a_path() {
        for name in ["", ".", "..", "a/b", ".hidden", "a b", "ä"] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name("quakes-2.test") && is_name("4711"));
    }

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_id() {
        let own = std::process::id();
        assert_eq!(started(own), started(own));
        assert!(started(own).is_some());
        assert_eq!(started(u32::MAX), None);
    }

    #[test]
    fn the_token_is_beside_the_socket() {
        let token = |path: &str| Address::of_socket(Path::new(path)).token;
        assert_eq!(token("/run/kernelbridge/x/socket"), Path::new("/run/kernelbridge/x/token"));
        assert_eq!(token("/tmp/quakes.sock"), Path::new("/tmp/quakes.sock.token"));
    }
}
