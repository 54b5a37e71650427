//! Signing and verifying with HMAC-SHA256.
//!
//! Stricter than the field: an unsigned message is refused although a key is set, comparison takes constant time, and a
//! signature that was seen before is a replay.

use std::collections::{HashSet, VecDeque};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How many signatures are remembered against replays; jupyter_client remembers as many.
const REMEMBERED: usize = 1 << 16;

/// Signs what we send and verifies what we receive, with one key.
#[derive(Clone)]
pub struct Signer {
    mac: Hmac<Sha256>,
    seen: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl std::fmt::Debug for Signer {
    /// The key never reaches a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("seen", &self.seen.len()).finish_non_exhaustive()
    }
}

/// Why a key or scheme was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// Only `hmac-sha256` exists in practice.
    #[error("signature scheme `{scheme}` is not supported, only `hmac-sha256`")]
    Scheme {
        /// What the connection file says.
        scheme: String,
    },
    /// Without a key anyone on the machine could run code in the kernel.
    #[error("the connection file has no key; unsigned kernels are refused")]
    NoKey,
}

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The signature frame is empty.
    #[error("unsigned message")]
    Unsigned,
    /// The signature is not 64 lower-case hexadecimal digits.
    #[error("malformed signature")]
    Malformed,
    /// The signature does not match.
    #[error("wrong signature")]
    Wrong,
    /// The signature was seen before.
    #[error("replayed message")]
    Replayed,
}

impl Signer {
    /// A signer for the key of a connection file.
    ///
    /// # Errors
    ///
    /// - [`SignerError::Scheme`] for anything but `hmac-sha256`.
    /// - [`SignerError::NoKey`] for an empty key.
    pub fn new(scheme: &str, key: &[u8]) -> Result<Self, SignerError> {
        if !scheme.eq_ignore_ascii_case("hmac-sha256") {
            return Err(SignerError::Scheme { scheme: scheme.to_owned() });
        }
        if key.is_empty() {
            return Err(SignerError::NoKey);
        }
        // HMAC takes keys of any length; the error exists for other algorithms.
        let mac = Hmac::new_from_slice(key).map_err(|_| SignerError::NoKey)?;
        Ok(Self { mac, seen: HashSet::new(), order: VecDeque::new() })
    }

    /// The signature of header, parent header, metadata and content, as 64 lower-case hexadecimal digits.
    pub fn sign(&self, parts: [&[u8]; 4]) -> String {
        let digest = self.mac_of(parts).finalize().into_bytes();
        let mut signature = String::with_capacity(64);
        for byte in digest {
            for nibble in [byte >> 4, byte & 15] {
                signature.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        signature
    }

    /// Check a signature, in constant time, and remember it.
    ///
    /// # Errors
    ///
    /// - [`VerifyError::Unsigned`], [`VerifyError::Malformed`] or [`VerifyError::Wrong`]: not from our kernel.
    /// - [`VerifyError::Replayed`]: right, but seen before.
    pub fn verify(&mut self, signature: &[u8], parts: [&[u8]; 4]) -> Result<(), VerifyError> {
        if signature.is_empty() {
            return Err(VerifyError::Unsigned);
        }
        let digest = unhex(signature).ok_or(VerifyError::Malformed)?;
        self.mac_of(parts).verify_slice(&digest).map_err(|_| VerifyError::Wrong)?;
        if !self.seen.insert(digest) {
            return Err(VerifyError::Replayed);
        }
        self.order.push_back(digest);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        Ok(())
    }

    fn mac_of(&self, parts: [&[u8]; 4]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

fn unhex(digits: &[u8]) -> Option<[u8; 32]> {
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

/// Lower case only: jupyter_client compares digits, so no kernel writes others, and one message has one signature.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [&[u8]; 4] = [b"{\"a\":1}", b"{}", b"{}", b"{\"code\":\"1\"}"];

    fn signer() -> Signer {
        Signer::new("hmac-sha256", b"key").expect("a key")
    }

    #[test]
    fn what_we_sign_verifies_once() {
        let mut signer = signer();
        let signature = signer.sign(PARTS);
        assert_eq!(signer.verify(signature.as_bytes(), PARTS), Ok(()));
        assert_eq!(signer.verify(signature.as_bytes(), PARTS), Err(VerifyError::Replayed));
    }

    #[test]
    fn the_signature_is_hmac_sha256_in_hex() {
        // From RFC 4231, test case 2.
        let jefe = Signer::new("HMAC-SHA256", b"Jefe").expect("a key");
        assert_eq!(
            jefe.sign([b"what do ya ", b"want ", b"for ", b"nothing?"]),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn strangers_are_refused() {
        let other = Signer::new("hmac-sha256", b"other").expect("a key").sign(PARTS);
        let check = |signature: &str, expected| {
            assert_eq!(signer().verify(signature.as_bytes(), PARTS), Err(expected), "{signature}");
        };
        check("", VerifyError::Unsigned);
        check("abc", VerifyError::Malformed);
        check(&"g".repeat(64), VerifyError::Malformed);
        check(&signer().sign(PARTS).to_uppercase(), VerifyError::Malformed);
        check(&other, VerifyError::Wrong);
        assert_eq!(Signer::new("hmac-md5", b"k").err(), Some(SignerError::Scheme { scheme: "hmac-md5".into() }));
        assert_eq!(Signer::new("hmac-sha256", b"").err(), Some(SignerError::NoKey));
    }

    #[test]
    fn memory_of_replays_is_bounded() {
        let mut signer = signer();
        for number in 0..REMEMBERED + 10 {
            let content = number.to_string();
            let parts = [b"".as_slice(), b"", b"", content.as_bytes()];
            let signature = signer.sign(parts);
            assert_eq!(signer.verify(signature.as_bytes(), parts), Ok(()));
        }
        assert_eq!((signer.seen.len(), signer.order.len()), (REMEMBERED, REMEMBERED));
    }
}
