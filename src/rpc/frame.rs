//! The `pipe` carrier's frames: a length in decimal, a line feed, and that many bytes.

use bytes::{Buf, BytesMut};

/// Longest line of digits that announces a body.
const LENGTH_DIGITS: usize = 12;

/// Why bytes are no frame; nothing after them can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// There is no number where a frame begins.
    #[error("a frame does not begin with its length")]
    NoLength,
    /// The body is larger than allowed. Its announcement was taken; the body comes next.
    #[error("a frame of {size_bytes} bytes, more than any limit allows")]
    TooLarge {
        /// As announced.
        size_bytes: usize,
    },
}

/// Take the next whole body from the front of what was read; `None` until all of it is there.
///
/// # Errors
///
/// [`FrameError`], as soon as the announcement is read and before any of the body is waited for.
pub fn take_frame(read: &mut BytesMut, limit_bytes: usize) -> Result<Option<BytesMut>, FrameError> {
    let head = &read[..read.len().min(LENGTH_DIGITS + 1)];
    let Some(end) = head.iter().position(|&byte| byte == b'\n') else {
        return if head.len() > LENGTH_DIGITS { Err(FrameError::NoLength) } else { Ok(None) };
    };
    let length = std::str::from_utf8(&head[..end]).ok().and_then(|digits| digits.trim().parse::<usize>().ok());
    let size_bytes = length.ok_or(FrameError::NoLength)?;
    if size_bytes > limit_bytes {
        read.advance(end + 1);
        return Err(FrameError::TooLarge { size_bytes });
    }
    if read.len() < end + 1 + size_bytes {
        return Ok(None);
    }
    read.advance(end + 1);
    Ok(Some(read.split_to(size_bytes)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bodies_arrive_whole_however_they_were_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..10),
            cuts in prop::collection::vec(1usize..20, 1..20),
        ) {
            let mut wire = Vec::new();
            for body in &bodies {
                wire.extend_from_slice(format!("{}\n", body.len()).as_bytes());
                wire.extend_from_slice(body);
            }
            let (mut read, mut found, mut rest) = (BytesMut::new(), Vec::new(), &wire[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at(rest.len().min(*cut));
                (rest, _) = (later, read.extend_from_slice(now));
                while let Some(body) = take_frame(&mut read, 50).expect("frames") {
                    found.push(body.to_vec());
                }
            }
            prop_assert_eq!(found, bodies);
            prop_assert!(read.is_empty() && rest.is_empty());
        }

        #[test]
        fn nonsense_is_an_error_or_waits(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut read = BytesMut::from(&bytes[..]);
            while let Ok(Some(body)) = take_frame(&mut read, 20) {
                prop_assert!(body.len() <= 20);
            }
        }
    }
}
