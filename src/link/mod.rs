//! Links: how another process attaches to a running host.
//!
//! A host that listens ([`HostBuilder::listen`](crate::host::HostBuilder::listen), `kernelbridge run --listen`) has a unix
//! socket in a folder of its own. A peer of the same user connects, says the host's token, and is then a mirror that gets
//! copies of events, stands in for a plugin, or asks a plugin's interpreter.
//!
//! Here is what both ends need: where hosts listen ([`Address`]), the messages over the socket ([`Peer`]), and the peer's
//! end ([`Link`]). What a peer may do and what it gets is the host's business.
//!
//! ```no_run
//! # async fn example() -> Result<(), kernelbridge::link::LinkError> {
//! use kernelbridge::{
//!     link::{Address, Link, Wanted},
//!     rpc::{Attach, Handler, HandlerKind},
//! };
//!
//! let (link, mut requests) = Link::connect(&Address::find(Some("quakes"))?).await?;
//! let handler = Handler::on(1, "quake.*", "look");
//! link.attach(Attach { name: "watcher".into(), handlers: vec![handler], ..Attach::default() }).await?;
//! loop {
//!     if let Wanted::Request(request) = requests.next().await? {
//!         println!("{}", request.event()?.data);
//!         request.answer(&())?;
//!     }
//! }
//! # }
//! ```

mod client;
mod error;
mod peer;
mod place;

pub use client::{Link, LinkCall, LinkEvent, LinkRequest, Requests, Wanted};
pub use error::LinkError;
pub use peer::{Arrived, Incoming, LARGEST_BEFORE_BYTES, LARGEST_BYTES, Peer, Unanswered};
pub use place::{Address, Place, RunningHost, base, running, started};
