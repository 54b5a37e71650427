//! Commands: what the two ends of a connection say to each other beside messages.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// How a socket behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketType {
    /// Requests and replies in any order.
    Dealer,
    /// One request, then its reply.
    Req,
    /// What a publisher sends.
    Sub,
}

impl SocketType {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dealer => "DEALER",
            Self::Req => "REQ",
            Self::Sub => "SUB",
        }
    }

    /// What it may be connected to.
    pub fn peers(self) -> &'static [&'static str] {
        match self {
            Self::Dealer => &["ROUTER", "REP", "DEALER"],
            Self::Req => &["REP", "ROUTER"],
            Self::Sub => &["PUB", "XPUB"],
        }
    }
}

/// A command of a peer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Its side of the handshake is done.
    Ready {
        /// What its socket is.
        socket_type: Bytes,
    },
    /// It refuses us; always the last it says.
    Error {
        /// Why.
        reason: String,
    },
    /// Are you there? Answered by [`pong`].
    Ping {
        /// To be sent back.
        context: Bytes,
    },
    /// I am there.
    Pong,
    /// Anything else.
    Unknown {
        /// Its name.
        name: String,
    },
}

/// Why bytes are not a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// It has no name, or ends within it.
    #[error("a command without a name")]
    Name,
    /// It ends within one of its properties or values.
    #[error("a command that ends too early")]
    TooShort,
    /// `READY` does not say what the socket is.
    #[error("`READY` without a `Socket-Type`")]
    NoSocketType,
}

impl Command {
    /// Read the body of a command frame.
    ///
    /// # Format
    ///
    /// ```text
    /// length name  then for READY:  (length name  length(4 bytes) value)*
    ///                   for ERROR:  length reason
    ///                   for PING:   time-to-live (2 bytes)  context
    /// ```
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub fn parse(mut body: Bytes) -> Result<Self, CommandError> {
        let name = take_short(&mut body).filter(|name| !name.is_empty()).ok_or(CommandError::Name)?;
        match &name[..] {
            b"READY" => Self::parse_ready(body),
            b"ERROR" => {
                let reason = take_short(&mut body).ok_or(CommandError::TooShort)?;
                Ok(Self::Error { reason: String::from_utf8_lossy(&reason).into_owned() })
            }
            b"PING" if body.len() < 2 => Err(CommandError::TooShort),
            b"PING" => Ok(Self::Ping { context: body.slice(2..) }),
            b"PONG" => Ok(Self::Pong),
            _ => Ok(Self::Unknown { name: String::from_utf8_lossy(&name).into_owned() }),
        }
    }

    fn parse_ready(mut body: Bytes) -> Result<Self, CommandError> {
        let mut socket_type = None;
        while !body.is_empty() {
            let name = take_short(&mut body).ok_or(CommandError::TooShort)?;
            let size_bytes = body.try_get_u32().map_err(|_| CommandError::TooShort)?;
            let value = take(&mut body, size_bytes as usize).ok_or(CommandError::TooShort)?;
            if name.eq_ignore_ascii_case(b"Socket-Type") {
                socket_type = Some(value);
            }
        }
        Ok(Self::Ready { socket_type: socket_type.ok_or(CommandError::NoSocketType)? })
    }
}

/// `READY` of ours: what the socket is, and its identity if it has one.
pub fn ready(socket_type: SocketType, identity: &[u8]) -> Bytes {
    let mut body = BytesMut::from(&b"\x05READY"[..]);
    let properties: [(&str, &[u8]); 2] = [("Socket-Type", socket_type.name().as_bytes()), ("Identity", identity)];
    for (name, value) in properties.into_iter().filter(|(_, value)| !value.is_empty()) {
        body.put_u8(name.len() as u8);
        body.put_slice(name.as_bytes());
        body.put_u32(value.len() as u32);
        body.put_slice(value);
    }
    body.freeze()
}

/// The answer to a `PING`.
pub fn pong(context: &[u8]) -> Bytes {
    [b"\x04PONG", context].concat().into()
}

/// The message with which a subscriber asks for everything. From 3.1 on there is a command for it too; peers of all
/// versions take the message.
pub fn subscribe_to_all() -> Bytes {
    Bytes::from_static(b"\x01")
}

/// Take what its first byte says the length of.
fn take_short(body: &mut Bytes) -> Option<Bytes> {
    let size_bytes = body.try_get_u8().ok()?;
    take(body, size_bytes.into())
}

fn take(body: &mut Bytes, size_bytes: usize) -> Option<Bytes> {
    (size_bytes <= body.len()).then(|| body.split_to(size_bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(body: &[u8]) -> Result<Command, CommandError> {
        Command::parse(Bytes::copy_from_slice(body))
    }

    #[test]
    fn commands_are_read() {
        let check = |body: &[u8], expected| assert_eq!(parse(body), Ok(expected), "{}", body.escape_ascii());
        let router = Command::Ready { socket_type: "ROUTER".into() };
        check(b"\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\0", router.clone());
        // Names of properties are read in any case; those that nobody knows mean nothing.
        check(b"\x05READY\x01X\0\0\0\x03abc\x0bsocket-type\0\0\0\x06ROUTER", router);
        check(b"\x05ERROR\x02no", Command::Error { reason: "no".into() });
        check(b"\x04PING\0\x0aabc", Command::Ping { context: "abc".into() });
        check(b"\x04PING\0\0", Command::Ping { context: Bytes::new() });
        check(b"\x04PONGabc", Command::Pong);
        check(b"\x09SUBSCRIBEtopic", Command::Unknown { name: "SUBSCRIBE".into() });
        check(b"\x02\xff\xfe", Command::Unknown { name: "\u{fffd}\u{fffd}".into() });
    }

    #[test]
    fn broken_commands_are_errors_never_panics() {
        let check = |body: &[u8], expected| assert_eq!(parse(body), Err(expected), "{}", body.escape_ascii());
        check(b"", CommandError::Name);
        check(b"\0", CommandError::Name);
        check(b"\x05READ", CommandError::Name);
        check(b"\x05READY", CommandError::NoSocketType);
        check(b"\x05READY\x0bSocket-Type", CommandError::TooShort);
        check(b"\x05READY\x0bSocket-Type\xff\xff\xff\xffROUTER", CommandError::TooShort);
        check(b"\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x05", CommandError::TooShort);
        check(b"\x05ERROR", CommandError::TooShort);
        check(b"\x05ERROR\x03no", CommandError::TooShort);
        check(b"\x04PING\0", CommandError::TooShort);
    }

    #[test]
    fn ours_are_as_the_specification_says() {
        assert_eq!(
            ready(SocketType::Dealer, b"id"),
            &b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x02id"[..]
        );
        assert_eq!(ready(SocketType::Sub, b""), &b"\x05READY\x0bSocket-Type\0\0\0\x03SUB"[..]);
        assert_eq!(pong(b"abc"), &b"\x04PONGabc"[..]);
    }

    proptest! {
        #[test]
        fn nonsense_is_an_error_or_something(body in prop::collection::vec(any::<u8>(), 0..40)) {
            for name in [&b""[..], b"\x05READY", b"\x05ERROR", b"\x04PING"] {
                let _ = parse(&[name, &body[..]].concat());
            }
        }
    }
}
