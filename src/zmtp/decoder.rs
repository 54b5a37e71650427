//! Messages and commands out of a stream of bytes, with limits that hold before anything is kept.

use bytes::{Buf, Bytes, BytesMut};

use crate::zmtp::encoder::{COMMAND, LONG, MORE};

/// How many frames a Jupyter message has, without identities and buffers.
const USUAL_FRAMES: usize = 7;

/// What a peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest message, all its frames together; a larger one is passed over.
    pub message_bytes: usize,
    /// Most frames of a message; a longer one is passed over.
    pub frames: usize,
    /// Largest command; a larger one is passed over.
    pub command_bytes: usize,
    /// Nobody means a frame that is larger than this: nothing that comes after can be trusted.
    pub absurd_bytes: u64,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A whole message.
    Message(Vec<Bytes>),
    /// The body of a command.
    Command(Bytes),
    /// Something that is passed over. Told as soon as it is known, before the rest of it has come.
    Refused(Refusal),
}

/// Why something was passed over. What comes after it is read as ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// All frames of the message so far are larger than allowed.
    #[error("message of at least {size_bytes} bytes, more than the limit of {limit_bytes}")]
    Message {
        /// As announced up to the frame that was too much.
        size_bytes: u64,
        /// The limit.
        limit_bytes: usize,
    },
    /// The message has more frames than allowed.
    #[error("message of more than {limit} frames")]
    Frames {
        /// The limit.
        limit: usize,
    },
    /// The command is larger than allowed.
    #[error("command of {size_bytes} bytes, more than the limit of {limit_bytes}")]
    Command {
        /// As announced.
        size_bytes: u64,
        /// The limit.
        limit_bytes: usize,
    },
    /// The command is none that is expected here.
    #[error("unknown command {name:?}")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// The command cannot be read.
    #[error(transparent)]
    Broken(#[from] crate::zmtp::CommandError),
}

/// Why a stream of bytes cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Where a frame should begin there is none.
    #[error("not a ZeroMQ frame: its first byte is {flags:#04x}")]
    Flags {
        /// The byte.
        flags: u8,
    },
    /// A frame so large that it is a lie, or no frame.
    #[error("a ZeroMQ frame of {size_bytes} bytes was announced, more than any limit allows")]
    Absurd {
        /// As announced.
        size_bytes: u64,
    },
    /// The peer says that it will not go on.
    #[error("the other side of the connection refuses it: {reason:?}")]
    Refused {
        /// As it said.
        reason: String,
    },
}

/// Takes messages and commands from what was read.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    /// Of the message that is on its way.
    frames: Vec<Bytes>,
    size_bytes: usize,
    /// How many of those frames are copies, which keep nothing else in memory.
    copied: usize,
    /// The rest of that message is passed over.
    is_refused: bool,
    /// How much is to be passed over before the next frame begins.
    skip_bytes: u64,
    /// How much is missing of what is on its way.
    wanted_bytes: usize,
}

/// How a frame begins.
struct Head {
    flags: u8,
    /// Of the head itself.
    head_bytes: usize,
    size_bytes: u64,
}

impl Decoder {
    /// At the beginning of a stream, after the greeting.
    pub fn new(limits: Limits) -> Self {
        Self { limits, frames: vec![], size_bytes: 0, copied: 0, is_refused: false, skip_bytes: 0, wanted_bytes: 0 }
    }

    /// How much more has to be read before [`Decoder::take`] can give something; as announced, so not to be believed.
    pub fn wanted_bytes(&self) -> usize {
        self.wanted_bytes
    }

    /// Take the next from the front of what was read; `None` until all of it is there. What is passed over is taken at
    /// once, so that it never gathers.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`]; nothing can be taken from this stream any more.
    pub fn take(&mut self, read: &mut BytesMut) -> Result<Option<Item>, ProtocolError> {
        loop {
            if self.skip_bytes > 0 {
                let now = read.len().min(usize::try_from(self.skip_bytes).unwrap_or(usize::MAX));
                read.advance(now);
                self.skip_bytes -= now as u64;
            }
            self.wanted_bytes = 1;
            let Some(Head { flags, head_bytes, size_bytes }) = self.head(read)? else { return Ok(None) };
            if flags & COMMAND != 0 {
                self.copy_frames();
            }
            if let Some(refusal) = self.judge(flags, size_bytes) {
                self.pass_over(read, flags, head_bytes, size_bytes);
                match refusal {
                    Some(refusal) => return Ok(Some(Item::Refused(refusal))),
                    None => continue,
                }
            }
            // Not more than the limits allow.
            let size_bytes = usize::try_from(size_bytes).unwrap_or(usize::MAX);
            if read.len() - head_bytes < size_bytes {
                self.wanted_bytes = size_bytes - (read.len() - head_bytes);
                return Ok(None);
            }
            read.advance(head_bytes);
            let body = read.split_to(size_bytes).freeze();
            if flags & COMMAND != 0 {
                return Ok(Some(Item::Command(body)));
            }
            if self.frames.is_empty() {
                self.frames.reserve(USUAL_FRAMES);
            }
            self.frames.push(body);
            self.size_bytes += size_bytes;
            if flags & MORE == 0 {
                (self.size_bytes, self.copied) = (0, 0);
                return Ok(Some(Item::Message(std::mem::take(&mut self.frames))));
            }
        }
    }

    /// How the next frame begins, if that much is there and nothing is being passed over.
    fn head(&self, read: &[u8]) -> Result<Option<Head>, ProtocolError> {
        let Some(&flags) = read.first().filter(|_| self.skip_bytes == 0) else { return Ok(None) };
        // Commands come in one frame.
        if flags & !(MORE | LONG | COMMAND) != 0 || flags & (MORE | COMMAND) == MORE | COMMAND {
            return Err(ProtocolError::Flags { flags });
        }
        let (head_bytes, size_bytes) = if flags & LONG == 0 {
            let Some(&size_bytes) = read.get(1) else { return Ok(None) };
            (2, size_bytes.into())
        } else {
            let Some(size_bytes) = read.get(1..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
            (9, u64::from_be_bytes(*size_bytes))
        };
        if size_bytes > self.limits.absurd_bytes {
            return Err(ProtocolError::Absurd { size_bytes });
        }
        Ok(Some(Head { flags, head_bytes, size_bytes }))
    }

    /// Is the frame to be passed over? With why, if that was not told yet.
    fn judge(&self, flags: u8, size_bytes: u64) -> Option<Option<Refusal>> {
        let Limits { message_bytes, frames, command_bytes, .. } = self.limits;
        if flags & COMMAND != 0 {
            let is_too_large = size_bytes > command_bytes as u64;
            return is_too_large.then_some(Some(Refusal::Command { size_bytes, limit_bytes: command_bytes }));
        }
        if self.is_refused {
            return Some(None);
        }
        let size_bytes = size_bytes + self.size_bytes as u64;
        if size_bytes > message_bytes as u64 {
            return Some(Some(Refusal::Message { size_bytes, limit_bytes: message_bytes }));
        }
        (self.frames.len() >= frames).then_some(Some(Refusal::Frames { limit: frames }))
    }

    /// A frame is a part of all that was read with it. With commands in between, which no limit of a message counts, small
    /// frames could keep any amount in memory.
    fn copy_frames(&mut self) {
        for frame in self.frames.iter_mut().skip(self.copied) {
            *frame = Bytes::copy_from_slice(frame);
        }
        self.copied = self.frames.len();
    }

    fn pass_over(&mut self, read: &mut BytesMut, flags: u8, head_bytes: usize, size_bytes: u64) {
        read.advance(head_bytes);
        self.skip_bytes = size_bytes;
        if flags & COMMAND == 0 {
            (self.frames, self.size_bytes, self.copied) = (Vec::new(), 0, 0);
            self.is_refused = flags & MORE != 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::zmtp::{encode, encode_command};

    const LIMITS: Limits = Limits { message_bytes: 1000, frames: 5, command_bytes: 300, absurd_bytes: 1 << 20 };

    /// All that comes, in pieces of this size, and how much was kept at most.
    fn decode(wire: &[u8], piece: usize) -> (Vec<Item>, Option<ProtocolError>) {
        let (mut decoder, mut read, mut items) = (Decoder::new(LIMITS), BytesMut::new(), Vec::new());
        for piece in wire.chunks(piece) {
            read.extend_from_slice(piece);
            loop {
                match decoder.take(&mut read) {
                    Ok(Some(item)) => items.push(item),
                    Ok(None) => break,
                    Err(error) => return (items, Some(error)),
                }
            }
        }
        (items, None)
    }

    fn message(frames: &[&[u8]]) -> (Vec<u8>, Item) {
        let frames: Vec<_> = frames.iter().map(|frame| Bytes::copy_from_slice(frame)).collect();
        (encode(frames.clone()).concat(), Item::Message(frames))
    }

    fn check(wire: &[&[u8]], expected: &[Item]) {
        for piece in [usize::MAX, 1, 7] {
            assert_eq!(decode(&wire.concat(), piece), (expected.to_vec(), None), "in pieces of {piece}");
        }
    }

    #[test]
    fn messages_and_commands_are_read_however_they_were_cut() {
        let (first, second) = (message(&[b"a", b"", &[7; 600]]), message(&[b""]));
        let command = encode_command(b"\x04PONG");
        // A command may come between the frames of a message.
        let (head, tail) = first.0.split_at(3);
        let wire = [head, &command, tail, &second.0];
        check(&wire, &[Item::Command("\x04PONG".into()), first.1, second.1]);
    }

    #[test]
    fn what_is_too_much_is_passed_over_and_the_next_is_read() {
        let (good, next) = message(&[b"good"]);
        let large = encode(vec![vec![7; 600].into(), vec![7; 401].into(), vec![7; 900].into()]).concat();
        let refused = Item::Refused(Refusal::Message { size_bytes: 1001, limit_bytes: 1000 });
        check(&[&large, &good, &good], &[refused, next.clone(), next.clone()]);
        let one = encode(vec![vec![7; 50_000].into()]).concat();
        let refused = Item::Refused(Refusal::Message { size_bytes: 50_000, limit_bytes: 1000 });
        check(&[&one, &good, &one], &[refused.clone(), next.clone(), refused]);
        let long = encode(vec![Bytes::new(); 100]).concat();
        check(&[&good, &long, &good], &[next.clone(), Item::Refused(Refusal::Frames { limit: 5 }), next.clone()]);
        let command = encode_command(&[7; 301]);
        let refused = Item::Refused(Refusal::Command { size_bytes: 301, limit_bytes: 300 });
        let (head, tail) = good.split_at(0);
        check(&[head, &command, tail], &[refused, next]);
        // Exactly as much as is allowed.
        let (wire, item) = message(&[&[7; 200], &[7; 200], &[7; 200], &[7; 200], &[7; 200]]);
        check(&[&wire], &[item]);
    }

    #[test]
    fn what_is_absurd_or_no_frame_is_the_end() {
        let check = |wire: &[u8], expected| assert_eq!(decode(wire, 1), (vec![], Some(expected)), "{wire:?}");
        for size_bytes in [(1 << 20) + 1, 100_000_000_000, 1 << 63, u64::MAX] {
            for flags in [LONG, LONG | MORE, LONG | COMMAND] {
                let wire = [&[flags][..], &size_bytes.to_be_bytes()].concat();
                check(&wire, ProtocolError::Absurd { size_bytes });
            }
        }
        for flags in [8, 0x80, 0xff, b'{', COMMAND | MORE] {
            check(&[flags], ProtocolError::Flags { flags });
        }
        // Also in the middle of a message that is passed over.
        let wire = [&encode(vec![vec![7; 1001].into()]).concat()[..], &[9]].concat();
        assert_eq!(decode(&wire, 100).1, Some(ProtocolError::Flags { flags: 9 }));
    }

    #[test]
    fn nothing_is_kept_of_what_is_passed_over() {
        let mut decoder = Decoder::new(LIMITS);
        let mut read = BytesMut::from(&[&[LONG | MORE][..], &900u64.to_be_bytes(), &[7; 899]].concat()[..]);
        assert_eq!(decoder.take(&mut read), Ok(None));
        assert_eq!((decoder.wanted_bytes(), read.len()), (1, 908));
        read.extend_from_slice(&[7, LONG | MORE]);
        read.extend_from_slice(&(1u64 << 20).to_be_bytes());
        read.extend_from_slice(&[7; 5000]);
        assert!(matches!(decoder.take(&mut read), Ok(Some(Item::Refused(_)))));
        assert_eq!(decoder.take(&mut read), Ok(None));
        assert_eq!((decoder.frames.capacity(), read.len(), decoder.wanted_bytes()), (0, 0, 1));
    }

    proptest! {
        #[test]
        fn messages_survive_a_round_trip(
            messages in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..=5), 0..10),
            piece in 1usize..1000,
        ) {
            let messages: Vec<Vec<Bytes>> =
                messages.into_iter().map(|frames| frames.into_iter().map(Bytes::from).collect()).collect();
            let wire: Vec<u8> = messages.iter().flat_map(|frames| encode(frames.clone()).concat()).collect();
            let expected: Vec<_> = messages.into_iter().map(Item::Message).collect();
            prop_assert_eq!(decode(&wire, piece), (expected, None));
        }

        #[test]
        fn nonsense_is_read_in_the_same_way_however_it_was_cut(
            wire in prop::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..200),
            piece in 1usize..50,
        ) {
            prop_assert_eq!(decode(&wire, piece), decode(&wire, usize::MAX));
        }
    }
}
