//! A Jupyter message as frames of bytes.
//!
//! Pure: nothing here reads a socket, a file or a clock.

use bytes::Bytes;

/// Separates routing identities from the message.
pub const DELIMITER: &[u8] = b"<IDS|MSG>";

/// The parts of one multipart message, not yet verified or parsed.
///
/// # Format
///
/// ```text
/// identity*  <IDS|MSG>  signature  header  parent_header  metadata  content  buffer*
/// ```
///
/// See [the wire protocol](https://jupyter-client.readthedocs.io/en/stable/messaging.html#the-wire-protocol).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    /// Routing identities; on iopub this is the topic.
    pub identities: Vec<Bytes>,
    /// Hexadecimal HMAC of the four parts after it.
    pub signature: Bytes,
    /// JSON of the header.
    pub header: Bytes,
    /// JSON of the parent header; `{}` or `null` when there is none.
    pub parent_header: Bytes,
    /// JSON of the metadata.
    pub metadata: Bytes,
    /// JSON of the content.
    pub content: Bytes,
    /// Binary buffers, not covered by the signature.
    pub buffers: Vec<Bytes>,
}

/// Why frames are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// No frame is the delimiter.
    #[error("no `<IDS|MSG>` delimiter among {found} frames")]
    NoDelimiter {
        /// How many frames there were.
        found: usize,
    },
    /// Fewer than five frames follow the delimiter.
    #[error("{found} frames after the delimiter where at least 5 belong")]
    TooShort {
        /// How many followed.
        found: usize,
    },
    /// The frames together are larger than allowed.
    #[error("message of {size_bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge {
        /// Sum of all frames.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
}

impl Frames {
    /// Split a multipart message into its parts.
    ///
    /// # Errors
    ///
    /// - [`FrameError::TooLarge`] when all frames together exceed `limit_bytes`.
    /// - [`FrameError::NoDelimiter`] when no frame is the delimiter.
    /// - [`FrameError::TooShort`] when fewer than five frames follow it.
    pub fn parse(mut frames: Vec<Bytes>, limit_bytes: usize) -> Result<Self, FrameError> {
        let size_bytes = frames.iter().map(Bytes::len).sum();
        if size_bytes > limit_bytes {
            return Err(FrameError::TooLarge { size_bytes, limit_bytes });
        }
        let Some(delimiter) = frames.iter().position(|frame| frame.as_ref() == DELIMITER) else {
            return Err(FrameError::NoDelimiter { found: frames.len() });
        };
        let mut rest = frames.split_off(delimiter).into_iter().skip(1);
        let found = rest.len();
        match (rest.next(), rest.next(), rest.next(), rest.next(), rest.next()) {
            (Some(signature), Some(header), Some(parent_header), Some(metadata), Some(content)) => Ok(Self {
                identities: frames,
                signature,
                header,
                parent_header,
                metadata,
                content,
                buffers: rest.collect(),
            }),
            _ => Err(FrameError::TooShort { found }),
        }
    }

    /// The frames in wire order.
    pub fn into_vec(self) -> Vec<Bytes> {
        let mut frames = self.identities;
        frames.push(Bytes::from_static(DELIMITER));
        frames.extend([self.signature, self.header, self.parent_header, self.metadata, self.content]);
        frames.extend(self.buffers);
        frames
    }

    /// The four parts that the signature covers, in order.
    pub fn signed_parts(&self) -> [&[u8]; 4] {
        [&self.header, &self.parent_header, &self.metadata, &self.content]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(frames: &[&str]) -> Result<Frames, FrameError> {
        Frames::parse(frames.iter().map(|frame| Bytes::copy_from_slice(frame.as_bytes())).collect(), 100)
    }

    #[test]
    fn broken_messages_are_errors_never_panics() {
        const D: &str = "<IDS|MSG>";
        let check = |frames: &[&str], expected| assert_eq!(parse(frames).expect_err("refused"), expected, "{frames:?}");
        check(&[], FrameError::NoDelimiter { found: 0 });
        check(&["", "x"], FrameError::NoDelimiter { found: 2 });
        check(&[D], FrameError::TooShort { found: 0 });
        check(&[D, ""], FrameError::TooShort { found: 1 });
        check(&["id", D, "s", "h", "p", "m"], FrameError::TooShort { found: 4 });
        check(&[D, &"x".repeat(92)], FrameError::TooLarge { size_bytes: 101, limit_bytes: 100 });
    }

    #[test]
    fn parts_survive_a_round_trip() {
        let all = ["a", "b", "<IDS|MSG>", "s", "h", "p", "m", "c", "buffer", "<IDS|MSG>"];
        let frames = parse(&all).expect("parses");
        assert_eq!(frames.identities, ["a", "b"]);
        assert_eq!(frames.buffers, ["buffer", "<IDS|MSG>"]);
        assert_eq!(frames.into_vec(), all);
    }
}
