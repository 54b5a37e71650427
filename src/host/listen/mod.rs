//! A host that listens for links (docs/protocol.md, "Links"): mirrors, stand-ins for plugins, consoles.
//!
//! One task accepts, and one for each link serves it. Nothing that a peer does, or does not do, is waited for without a
//! bound, but by those who would wait for the plugin that it stands in for.

mod console;
mod mirror;
mod session;
mod stand_in;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{
    net::{UnixListener, UnixStream},
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::{
    host::{Host, HostBuilder, lock, shared::Shared},
    link::{LARGEST_BEFORE_BYTES, LinkError, Peer, Place, RunningHost},
    pattern::Pattern,
    rpc::{AboutHost, Mode},
};

pub(crate) use mirror::Links;
pub(crate) use stand_in::StandIn;

use session::Session;

/// Most links at the same time.
const MOST_LINKS: usize = 32;
/// How long to wait when the system has no more files for connections.
const EXHAUSTED: Duration = Duration::from_millis(200);

/// How a host listens, and what peers may do.
#[derive(Debug, Clone, Default)]
pub struct ListenOptions {
    /// Where; without it in a folder of its own under the user's runtime folder.
    pub path: Option<PathBuf>,
    /// What the host is called; without it its process's id.
    pub name: Option<String>,
    /// Functions that mirrors may call beside `state.get`, `state.read` and `state.list`.
    pub call: Vec<Pattern>,
    /// Topics that mirrors may emit; none without it.
    pub emit: Vec<Pattern>,
    /// Let consoles run code in plugins' interpreters, not only look.
    pub allow_console: bool,
}

/// What came of all links of a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LinkStats {
    /// Peers that attached.
    pub attached: u64,
    /// Connections that were refused: another user, a wrong token, another version, too many, or nobody said anything.
    pub refused: u64,
    /// Messages that were none.
    pub bad: u64,
    /// Copies of events that mirrors were too slow for.
    pub dropped: u64,
}

/// A link to a host.
#[derive(Debug, Clone, Serialize)]
pub struct LinkInfo {
    /// What the peer is called.
    pub name: String,
    /// What it is.
    pub mode: Mode,
    /// Which plugin, unless it is a mirror.
    pub plugin: Option<String>,
}

/// Numbers, and who is there.
#[derive(Debug, Default)]
struct Book {
    attached: AtomicU64,
    refused: AtomicU64,
    bad: AtomicU64,
    links: Mutex<Vec<Arc<LinkInfo>>>,
}

/// A link is in the book for as long as this lives.
struct Noted<'a>(&'a Book, Arc<LinkInfo>);

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        lock(&self.0.links).retain(|info| !Arc::ptr_eq(info, &self.1));
    }
}

impl Book {
    fn note(&self, info: LinkInfo) -> Noted<'_> {
        self.attached.fetch_add(1, Ordering::Relaxed);
        let info = Arc::new(info);
        lock(&self.links).push(info.clone());
        Noted(self, info)
    }
}

/// What sessions share.
struct Desk {
    options: ListenOptions,
    token: String,
    about: AboutHost,
    book: Book,
    shared: Weak<Shared>,
}

/// A socket that nobody serves yet.
pub(super) struct Open {
    place: Place,
    listener: UnixListener,
    options: ListenOptions,
    token: String,
}

/// A host's socket, and who serves it. Dropping it closes all links and removes all files.
pub(super) struct Listening {
    place: Place,
    desk: Arc<Desk>,
    accepting: JoinHandle<()>,
}

impl HostBuilder {
    /// Listen for links: other processes of this user that want to see events, stand in for a plugin while they change
    /// it, or look into a plugin's interpreter. For development; whoever can connect has this user's rights anyway.
    #[must_use]
    pub fn listen(mut self, options: ListenOptions) -> Self {
        self.listen = Some(options);
        self
    }
}

impl Host {
    /// Where it listens, if it does.
    pub fn listening(&self) -> Option<RunningHost> {
        lock(&self.listening).as_ref().map(|listening| listening.place.host().clone())
    }

    /// Who is attached now.
    pub fn links(&self) -> Vec<LinkInfo> {
        let listening = lock(&self.listening);
        let links = listening.iter().flat_map(|listening| lock(&listening.desk.book.links).clone());
        links.map(|info| LinkInfo::clone(&info)).collect()
    }

    /// What came of all links so far.
    pub fn link_stats(&self) -> LinkStats {
        let listening = lock(&self.listening);
        let Some(Listening { desk, .. }) = listening.as_ref() else { return LinkStats::default() };
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Book { attached, refused, bad, .. } = &desk.book;
        let dropped = self.shared.links.dropped();
        LinkStats { attached: count(attached), refused: count(refused), bad: count(bad), dropped }
    }
}

impl Open {
    /// Make the socket, so that it fails before any kernel is started.
    pub fn new(options: ListenOptions, folders: Vec<String>) -> Result<Self, LinkError> {
        let process_id = std::process::id();
        let about = AboutHost {
            name: options.name.clone().unwrap_or_default(),
            process_id,
            started_at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            folders,
            allow_console: options.allow_console,
        };
        let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let place = Place::make(about, options.path.as_deref(), &token)?;
        let path = place.socket();
        let cannot = |source| LinkError::File { what: "cannot listen at", path: path.to_owned(), source };
        let listener = UnixListener::bind(path).map_err(cannot)?;
        // Only this user's peers are let in, whatever the folder allows.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, private).map_err(cannot)?;
        Ok(Self { place, listener, options, token })
    }

    /// Serve whoever comes, and let others find it.
    pub fn serve(self, shared: &Arc<Shared>) -> Result<Listening, LinkError> {
        let Self { place, listener, options, token } = self;
        let about = place.host().about.clone();
        let desk = Arc::new(Desk { options, token, about, book: Book::default(), shared: Arc::downgrade(shared) });
        let accepting = tokio::spawn(accept(listener, desk.clone()));
        let listening = Listening { place, desk, accepting };
        listening.place.announce()?;
        Ok(listening)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // With it go the sessions, each of which gives back what it has.
        self.accepting.abort();
    }
}

impl Listening {
    /// Close all links, and wait until they are.
    pub async fn close(mut self) {
        self.accepting.abort();
        // Aborted.
        let _ = (&mut self.accepting).await;
    }
}

async fn accept(listener: UnixListener, desk: Arc<Desk>) {
    let mut sessions = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = sessions.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => match admit(&stream, sessions.len()) {
                Ok(()) => {
                    sessions.spawn(Session::new(stream, desk.clone()).run());
                }
                Err(reason) => {
                    desk.book.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(reason, "a link was refused");
                    refuse(stream, &reason);
                }
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a link");
                sleep(EXHAUSTED).await;
            }
        }
    }
}

fn admit(stream: &UnixStream, links: usize) -> Result<(), String> {
    let own = nix::unistd::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(credentials) if credentials.uid() == own => {}
        Ok(credentials) => return Err(format!("user {} is not the host's user {own}", credentials.uid())),
        Err(error) => return Err(format!("nobody knows whose connection it is: {error}")),
    }
    if links >= MOST_LINKS {
        return Err(format!("the host has {links} links already, and takes no more"));
    }
    Ok(())
}

/// Say why, without waiting for anybody to read it.
fn refuse(stream: UnixStream, reason: &str) {
    let (peer, _) = Peer::new(stream, LARGEST_BEFORE_BYTES);
    peer.refuse(reason);
}
