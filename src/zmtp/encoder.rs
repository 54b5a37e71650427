//! Messages and commands of ours as bytes.

use bytes::{BufMut, Bytes, BytesMut};

/// Smaller frames are copied together; larger ones are sent from where they are.
const COPIED_BYTES: usize = 8 * 1024;

/// Flags of a frame.
pub(super) const MORE: u8 = 1;
pub(super) const LONG: u8 = 2;
pub(super) const COMMAND: u8 = 4;

/// The bytes of one message, in pieces to be sent one after the other. Nothing for a message without frames, which
/// ZeroMQ does not have.
///
/// # Format
///
/// ```text
/// frame: flags(1: more follows, 2: long length)  length (1 or 8 bytes)  body
/// ```
pub fn encode(frames: Vec<Bytes>) -> Vec<Bytes> {
    let (mut pieces, mut piece) = (Vec::new(), BytesMut::new());
    let last = frames.len().saturating_sub(1);
    for (index, frame) in frames.into_iter().enumerate() {
        put_head(&mut piece, if index == last { 0 } else { MORE }, frame.len());
        if frame.len() <= COPIED_BYTES {
            piece.put_slice(&frame);
        } else {
            pieces.push(piece.split().freeze());
            pieces.push(frame);
        }
    }
    if !piece.is_empty() {
        pieces.push(piece.freeze());
    }
    pieces
}

/// The bytes of one command.
pub fn encode_command(body: &[u8]) -> Bytes {
    let mut piece = BytesMut::with_capacity(body.len() + 9);
    put_head(&mut piece, COMMAND, body.len());
    piece.put_slice(body);
    piece.freeze()
}

fn put_head(piece: &mut BytesMut, flags: u8, size_bytes: usize) {
    match u8::try_from(size_bytes) {
        Ok(short) => piece.put_slice(&[flags, short]),
        Err(_) => {
            piece.put_u8(flags | LONG);
            piece.put_u64(size_bytes as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_specification_says() {
        let check = |frames: &[&[u8]], expected: &[u8]| {
            let frames = frames.iter().map(|frame| Bytes::copy_from_slice(frame)).collect();
            assert_eq!(encode(frames).concat(), expected);
        };
        check(&[], b"");
        check(&[b""], b"\0\0");
        check(&[b"a", b"", b"bc"], b"\x01\x01a\x01\0\0\x02bc");
        check(&[&[7; 255]], &[&b"\0\xff"[..], &[7; 255]].concat());
        check(&[&[7; 256], b"x"], &[&b"\x03\0\0\0\0\0\0\x01\0"[..], &[7; 256], b"\0\x01x"].concat());
        assert_eq!(encode_command(b"\x04PONG"), &b"\x04\x05\x04PONG"[..]);
        assert_eq!(&encode_command(&[7; 300])[..9], b"\x06\0\0\0\0\0\0\x01\x2c");
    }

    #[test]
    fn large_frames_are_not_copied() {
        let large = Bytes::from(vec![7; COPIED_BYTES + 1]);
        let pieces = encode(vec!["a".into(), large.clone(), "b".into()]);
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [3 + 9, large.len(), 3]);
        assert_eq!(pieces[1].as_ptr(), large.as_ptr());
    }
}
