//! Messages: verified frames with a parsed header, everything else raw.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::wire::{FrameError, Frames, Header, Signer, VerifyError, json};

/// A verified message. Content, metadata and buffers stay raw until someone wants them.
#[derive(Debug, Clone)]
pub struct Message {
    /// Routing identities, or the iopub topic.
    pub identities: Vec<Bytes>,
    /// The message's own header.
    pub header: Header,
    /// Header of the request it belongs to; kernels send none, an empty one, null, or a stale one.
    pub parent: Option<Header>,
    /// JSON of the metadata.
    pub metadata: Bytes,
    /// JSON of the content.
    pub content: Bytes,
    /// Binary buffers.
    pub buffers: Vec<Bytes>,
}

impl Message {
    /// What kind of message it is.
    pub fn msg_type(&self) -> &str {
        &self.header.msg_type
    }

    /// `msg_id` of the request it belongs to; empty when the kernel named none.
    pub fn parent_id(&self) -> &str {
        self.parent.as_ref().map_or("", |parent| parent.msg_id.as_str())
    }

    /// The content as a type of [`content`](crate::wire::content). What is not text in it, such as bytes that are not
    /// UTF-8, becomes U+FFFD.
    ///
    /// # Errors
    ///
    /// [`ContentError`] names the message type and what did not fit.
    pub fn parse_content<T: DeserializeOwned>(&self) -> Result<T, ContentError> {
        json::from_slice(&self.content)
            .map_err(|source| ContentError { msg_type: self.header.msg_type.clone(), source })
    }
}

/// The content of a message is not what its type promises.
#[derive(Debug, thiserror::Error)]
#[error("content of `{msg_type}` does not fit the message spec")]
pub struct ContentError {
    /// The message's type.
    pub msg_type: String,
    /// What did not fit, and where.
    #[source]
    pub source: serde_json::Error,
}

/// What came out of a socket.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are messages; a box would be one more allocation for each")]
pub enum Received {
    /// A verified message.
    Message(Message),
    /// Something that is not one; it changes nothing, but is kept to be counted and shown.
    Odd(Odd),
}

/// A message that was refused.
#[derive(Debug)]
pub struct Odd {
    /// Why.
    pub reason: OddReason,
    /// Size of all its frames.
    pub size_bytes: usize,
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OddReason {
    /// The frames are not a Jupyter message.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// The signature is missing, wrong or replayed.
    #[error(transparent)]
    Signature(#[from] VerifyError),
    /// The signature is right, but the header is not a JSON object.
    #[error("header is not a JSON object")]
    Header,
}

impl Received {
    /// Verify, then parse.
    pub fn parse(frames: Vec<Bytes>, signer: &mut Signer, limit_bytes: usize) -> Self {
        let size_bytes = frames.iter().map(Bytes::len).sum();
        match Message::parse(frames, signer, limit_bytes) {
            Ok(message) => Self::Message(message),
            Err(reason) => Self::Odd(Odd { reason, size_bytes }),
        }
    }
}

impl Message {
    fn parse(frames: Vec<Bytes>, signer: &mut Signer, limit_bytes: usize) -> Result<Self, OddReason> {
        let frames = Frames::parse(frames, limit_bytes)?;
        signer.verify(&frames.signature, frames.signed_parts())?;
        Ok(Self {
            header: Header::parse(&frames.header).ok_or(OddReason::Header)?,
            parent: Header::parse(&frames.parent_header),
            identities: frames.identities,
            metadata: frames.metadata,
            content: frames.content,
            buffers: frames.buffers,
        })
    }
}

/// A message of ours, ready to be signed.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Its header.
    pub header: Header,
    /// Header of the request it answers, for `input_reply`.
    pub parent: Option<Header>,
    /// JSON of the content.
    pub content: Bytes,
}

impl Outgoing {
    /// A message with `content` as JSON.
    ///
    /// # Errors
    ///
    /// When `content` cannot be written as JSON (a map with keys that are not strings).
    pub fn new(header: Header, parent: Option<Header>, content: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self { header, parent, content: serde_json::to_vec(content)?.into() })
    }

    /// Sign it and put it into frames.
    ///
    /// # Errors
    ///
    /// When the header cannot be written as JSON, which strings always can.
    pub fn into_frames(self, signer: &Signer) -> Result<Vec<Bytes>, serde_json::Error> {
        let header: Bytes = serde_json::to_vec(&self.header)?.into();
        let parent_header: Bytes = match &self.parent {
            Some(parent) => serde_json::to_vec(parent)?.into(),
            None => Bytes::from_static(b"{}"),
        };
        let metadata = Bytes::from_static(b"{}");
        let signature = signer.sign([&header, &parent_header, &metadata, &self.content]).into();
        let content = self.content;
        Ok(Frames { identities: vec![], signature, header, parent_header, metadata, content, buffers: vec![] }
            .into_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        Signer::new("hmac-sha256", b"key").expect("a key")
    }

    fn outgoing(code: &str) -> Outgoing {
        let header = Header { msg_id: "1".into(), msg_type: "execute_request".into(), ..Header::default() };
        Outgoing::new(header, None, &serde_json::json!({ "code": code })).expect("JSON")
    }

    #[test]
    fn a_message_survives_the_wire() {
        let frames = outgoing("1 + 1").into_frames(&signer()).expect("frames");
        let Received::Message(message) = Received::parse(frames, &mut signer(), 10_000) else { panic!("odd") };
        assert_eq!(message.msg_type(), "execute_request");
        assert_eq!(message.parent_id(), "");
        assert_eq!(message.content, r#"{"code":"1 + 1"}"#);
    }

    #[test]
    fn a_changed_part_is_refused_and_counted_in_bytes() {
        for index in 2..6 {
            let mut frames = outgoing("1").into_frames(&signer()).expect("frames");
            frames[index] = Bytes::from_static(b"{\"x\":1}");
            let size_bytes = frames.iter().map(Bytes::len).sum::<usize>();
            let Received::Odd(odd) = Received::parse(frames, &mut signer(), 10_000) else { panic!("accepted") };
            assert_eq!((odd.reason, odd.size_bytes), (OddReason::Signature(VerifyError::Wrong), size_bytes));
        }
    }

    #[test]
    fn a_signed_message_without_a_header_is_odd() {
        let parts: [&[u8]; 4] = [b"7", b"{}", b"{}", b"{}"];
        let mut frames = vec![Bytes::from_static(crate::wire::DELIMITER), signer().sign(parts).into()];
        frames.extend(parts.map(Bytes::copy_from_slice));
        let Received::Odd(odd) = Received::parse(frames, &mut signer(), 10_000) else { panic!("accepted") };
        assert_eq!(odd.reason, OddReason::Header);
    }
}
