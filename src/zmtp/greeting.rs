//! The 64 bytes with which each side begins.

use bytes::{Buf, BytesMut};

/// Length of a greeting.
const SIZE_BYTES: usize = 64;
// Where its parts are.
const SIGNATURE_END: usize = 9;
const MAJOR: usize = 10;
const MINOR: usize = 11;
const MECHANISM: std::ops::Range<usize> = 12..32;

/// Our greeting: ZMTP 3.0, mechanism NULL, not a server.
///
/// # Format
///
/// ```text
/// FF 00 00 00 00 00 00 00 00 7F  major  minor  mechanism (20 bytes)  as-server  filler (31 bytes)
/// ```
pub const GREETING: [u8; SIZE_BYTES] = {
    let mut greeting = [0; SIZE_BYTES];
    (greeting[0], greeting[SIGNATURE_END], greeting[MAJOR]) = (0xff, 0x7f, 3);
    (greeting[12], greeting[13], greeting[14], greeting[15]) = (b'N', b'U', b'L', b'L');
    greeting
};

/// What a peer said that we can speak with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Its version, 3.0 or later; a later one falls back to ours.
    pub version: (u8, u8),
}

/// Why a peer cannot be spoken with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GreetingError {
    /// It does not begin as ZMTP does.
    #[error("it does not speak ZMTP: it begins with `{}`", .found.escape_ascii())]
    Signature {
        /// What it began with, 16 bytes at most.
        found: Vec<u8>,
    },
    /// It speaks an older version.
    #[error("it speaks ZMTP {major}.{minor}, older than 3.0")]
    Version {
        /// 1 is said by peers that speak 2.0.
        major: u8,
        /// Means something from version 3 on.
        minor: u8,
    },
    /// It wants to be spoken with in another way than openly.
    #[error("it asks for the security mechanism `{}`, and only `NULL` is spoken", .found.escape_ascii())]
    Mechanism {
        /// As it named it.
        found: Vec<u8>,
    },
}

/// Take a peer's greeting from the front of what was read; `None` until all of it is there.
///
/// # Errors
///
/// [`GreetingError`], as soon as the bytes that are wrong are there.
pub fn take_greeting(read: &mut BytesMut) -> Result<Option<Greeting>, GreetingError> {
    let is_wrong = |at: usize, expected: u8| read.get(at).is_some_and(|&byte| byte != expected);
    if is_wrong(0, 0xff) || is_wrong(SIGNATURE_END, 0x7f) {
        return Err(GreetingError::Signature { found: read[..read.len().min(16)].to_vec() });
    }
    let (Some(&major), Some(&minor)) = (read.get(MAJOR), read.get(MINOR)) else { return Ok(None) };
    if major < 3 {
        return Err(GreetingError::Version { major, minor });
    }
    let Some(mechanism) = read.get(MECHANISM) else { return Ok(None) };
    let end = mechanism.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    if &mechanism[..end] != b"NULL" {
        return Err(GreetingError::Mechanism { found: mechanism[..end].to_vec() });
    }
    if read.len() < SIZE_BYTES {
        return Ok(None);
    }
    read.advance(SIZE_BYTES);
    Ok(Some(Greeting { version: (major, minor) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A greeting with other bytes in some places.
    fn greeting(changes: &[(usize, &[u8])]) -> BytesMut {
        let mut bytes = BytesMut::from(&GREETING[..]);
        for (at, change) in changes {
            bytes[*at..at + change.len()].copy_from_slice(change);
        }
        bytes
    }

    #[test]
    fn peers_of_version_3_are_understood() {
        let check = |changes: &[(usize, &[u8])], version| {
            let mut read = greeting(changes);
            read.extend_from_slice(b"rest");
            assert_eq!(take_greeting(&mut read), Ok(Some(Greeting { version })), "{changes:?}");
            assert_eq!(&read[..], b"rest");
        };
        check(&[], (3, 0));
        check(&[(MINOR, &[1])], (3, 1));
        check(&[(MAJOR, &[4, 2])], (4, 2));
        // libzmq puts 1 into the padding; a server says so; the filler may be anything.
        check(&[(8, &[1]), (32, &[1]), (40, b"filler")], (3, 0));
    }

    #[test]
    fn others_are_refused_with_what_they_said() {
        let check = |changes: &[(usize, &[u8])], expected: &str| {
            let error = take_greeting(&mut greeting(changes)).expect_err("refused");
            assert_eq!(error.to_string(), expected);
        };
        check(&[(0, b"HTTP/1.1 400 Bad")], "it does not speak ZMTP: it begins with `HTTP/1.1 400 Bad`");
        let nulls = "\\x00".repeat(8);
        let binary = format!("it does not speak ZMTP: it begins with `\\xff{nulls}\\x00\\x03\\x00NULL`");
        check(&[(9, &[0])], &binary);
        check(&[(MAJOR, &[1, 5])], "it speaks ZMTP 1.5, older than 3.0");
        let curve = "it asks for the security mechanism `CURVE`, and only `NULL` is spoken";
        check(&[(12, b"CURVE")], curve);
        check(&[(12, b"\0\0\0\0")], "it asks for the security mechanism ``, and only `NULL` is spoken");
    }

    #[test]
    fn what_is_wrong_is_told_as_soon_as_it_is_there_and_the_rest_is_waited_for() {
        for end in 0..SIZE_BYTES {
            assert_eq!(take_greeting(&mut BytesMut::from(&GREETING[..end])), Ok(None), "{end} bytes");
        }
        let mut old = BytesMut::from(&greeting(&[(MAJOR, &[1, 5])])[..MINOR + 1]);
        assert!(matches!(take_greeting(&mut old), Err(GreetingError::Version { major: 1, .. })));
        assert!(take_greeting(&mut BytesMut::from("{")).is_err());
    }
}
