//! What is wrong with a blob.

use std::{io, path::PathBuf};

use crate::{
    blob::Dtype,
    provision::LaunchError,
    rpc::{ErrorKind, RpcError},
};

/// What is wrong with a blob.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The folder of blobs could not be made.
    #[error(transparent)]
    Folder(#[from] LaunchError),
    /// A file could not be made, moved or read.
    #[error("blob {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are too many bytes in blobs.
    #[error(
        "{wanted_bytes} bytes more than the {held_bytes} in blobs that are held now would be over the limit of \
         {limit_bytes} for all blobs of this process; drop arrays that are not needed any more, or send less at once"
    )]
    Full {
        /// What was asked for.
        wanted_bytes: u64,
        /// What there is.
        held_bytes: u64,
        /// What there may be.
        limit_bytes: u64,
    },
    /// A message with its blobs is larger than allowed.
    #[error(
        "blobs of {size_bytes} bytes, more than the limit of {limit_bytes}; raise `result` in [limits] of the plugin's \
         plugin.toml"
    )]
    TooLarge {
        /// All of them together.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// `$blob` names something that is no blob of the sender's.
    #[error("`$blob` names `{name}`, {why}")]
    Name {
        /// What it names.
        name: String,
        /// Why that is none.
        why: &'static str,
    },
    /// An object with `$blob` is not as the protocol has it.
    #[error("an object with `$blob` is `{{\"$blob\": ..., \"dtype\": ..., \"shape\": [...]}}`, `$blob` first: {why}")]
    Object {
        /// What is wrong.
        why: String,
    },
    /// Shape and type ask for another number of bytes.
    #[error("an array of {dtype} of shape {shape:?} does not have {found_bytes} bytes")]
    Size {
        /// As stated.
        dtype: Dtype,
        /// As stated.
        shape: Vec<usize>,
        /// As found.
        found_bytes: u64,
    },
    /// The elements are of another type than was asked for.
    #[error("an array of {found}, not of {wanted}; `to_vec` converts")]
    Type {
        /// What they are.
        found: Dtype,
        /// What was asked for.
        wanted: Dtype,
    },
    /// The array is too large to be sent by value.
    #[error(
        "an array of {size_bytes} bytes; this plugin takes arrays by value only, up to {limit_bytes} bytes: send less, or \
         use a language whose shim has the feature `blob`"
    )]
    ByValue {
        /// How large it is.
        size_bytes: u64,
        /// How large it may be.
        limit_bytes: u64,
    },
    /// It could not be made, which is told when it is used.
    #[error("{0}")]
    Refused(String),
}

impl From<BlobError> for RpcError {
    fn from(error: BlobError) -> Self {
        let kind = match error {
            BlobError::Folder(_) | BlobError::File { .. } => ErrorKind::Host,
            _ => ErrorKind::Invalid,
        };
        Self::new(kind, error.to_string())
    }
}
