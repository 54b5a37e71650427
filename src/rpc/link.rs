//! What is said on a link before it works: who attaches, and to what.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rpc::Handler;

/// What a peer is to a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It gets copies of events.
    #[default]
    Mirror,
    /// It takes the place of a plugin's handlers and exports.
    Replace,
    /// It asks a plugin's interpreter.
    Console,
}

impl Mode {
    /// As on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Replace => "replace",
            Self::Console => "console",
        }
    }
}

/// Parameters of `attach`, always the first request on a link.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Attach {
    /// What the host's file `token` says.
    pub token: String,
    /// Protocol version.
    pub bridge: String,
    /// What the peer wants to be.
    #[serde(default)]
    pub mode: Mode,
    /// Which plugin, unless it is a mirror.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// What the peer is called, for people.
    pub name: String,
    /// What it registered, as in the answer to `load`.
    #[serde(default)]
    pub handlers: Vec<Handler>,
    /// Names of further exports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<String>,
    /// What it can do beyond `event`, `filter` and `call`, as in the answer to `initialize`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}

impl fmt::Debug for Attach {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token: _, bridge, mode, plugin, name, handlers, exports, features } = self;
        f.debug_struct("Attach")
            .field("bridge", bridge)
            .field("mode", mode)
            .field("plugin", plugin)
            .field("name", name)
            .field("handlers", handlers)
            .field("exports", exports)
            .field("features", features)
            .finish_non_exhaustive()
    }
}

/// Parameters of `handlers`: those that the peer has from now on, instead of all before.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SetHandlers {
    /// What it registered.
    #[serde(default)]
    pub handlers: Vec<Handler>,
    /// Names of further exports.
    #[serde(default)]
    pub exports: Vec<String>,
}

/// The answer to `attach`: what is known of the host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Attached {
    /// Protocol version of the host.
    pub bridge: String,
    /// As the host calls this link: the plugin that is replaced, or `link:` and the peer's name.
    pub link: String,
    /// The host.
    pub host: AboutHost,
    /// Its plugins, in the order in which they were named.
    pub plugins: Vec<AboutPlugin>,
    /// Functions of the host itself.
    pub functions: Vec<String>,
    /// What this peer may call and emit.
    pub may: May,
    /// How long a handler of this peer may take, in milliseconds; 0 for a mirror, whom nobody waits for.
    pub timeout_ms: u64,
    /// `[config]` of the plugin that is replaced.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub config: serde_json::Value,
}

/// A running host, as its file `host.json` and `attach` tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AboutHost {
    /// Its name: what it was given, or its process's id.
    pub name: String,
    /// Its process.
    pub process_id: u32,
    /// When it began to listen, RFC 3339 in UTC.
    pub started_at: String,
    /// Its version of kernelbridge.
    pub version: String,
    /// Where its plugins are.
    pub folders: Vec<String>,
    /// Does it let consoles run code?
    #[serde(default)]
    pub allow_console: bool,
}

/// A plugin of a host, for a peer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AboutPlugin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The language folder's name.
    pub language: String,
    /// For people: `CPython 3.11.7, ipykernel 7.4.0`.
    pub interpreter: String,
    /// What it registered.
    pub handlers: Vec<Handler>,
    /// The link that replaces it, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
}

/// Patterns of what a peer may do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct May {
    /// Functions that it may call.
    pub call: Vec<String>,
    /// Topics that it may emit.
    pub emit: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_enough_to_attach_and_the_token_is_not_shown() {
        let attach: Attach =
            serde_json::from_str(r#"{"token":"secret","bridge":"1","name":"n","more":1}"#).expect("JSON");
        assert_eq!((attach.mode, attach.plugin.as_deref()), (Mode::Mirror, None));
        assert!(!format!("{attach:?}").contains("secret"));
    }
}
