//! What a plugin is kept from: our environment, more than its share, and, in a sandbox, files and the network.

mod environment;
mod limits;
mod output;
mod sandbox;
