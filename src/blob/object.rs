//! `{"$blob": ..., "dtype": ..., "shape": [...]}` as a value.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::blob::{BlobError, Dtype};

/// The key that makes an object one.
pub(super) const KEY: &str = "$blob";
/// How many bytes a chunk holds: a multiple of three, so that each is base64 of its own without padding.
const CHUNK_BYTES: usize = 768 * 1024;
/// More dimensions than numpy has.
const MOST_DIMENSIONS: usize = 64;

/// What is in a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// It is bytes and not an array of numbers.
    pub is_bytes: bool,
}

impl Description {
    /// Of an array of that shape.
    ///
    /// # Errors
    ///
    /// [`BlobError::Size`] if it does not have that many bytes.
    pub fn checked(dtype: Dtype, shape: &[usize], size_bytes: u64) -> Result<Self, BlobError> {
        let product = shape.iter().try_fold(dtype.size_bytes(), |size, length| size.checked_mul(*length));
        match product {
            Some(product) if product as u64 == size_bytes && shape.len() <= MOST_DIMENSIONS => {
                Ok(Self { dtype, shape: shape.to_vec(), is_bytes: false })
            }
            _ => Err(BlobError::Size { dtype, shape: shape.to_vec(), found_bytes: size_bytes }),
        }
    }

    pub fn bytes(count: usize) -> Self {
        Self { dtype: Dtype::U8, shape: vec![count], is_bytes: true }
    }

    /// Of all elements. Was checked for overflow.
    pub fn size_bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.dtype.size_bytes() as u64
    }
}

/// What is after `"$blob":`.
#[derive(Debug)]
pub(super) enum Content<'a> {
    /// A file's path.
    Name(Cow<'a, str>),
    /// Bytes in base64, chunk by chunk.
    Chunks(Vec<Cow<'a, str>>),
}

/// An object that is read.
#[derive(Debug)]
pub(super) struct Object<'a> {
    pub content: Content<'a>,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub is_bytes: bool,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(rename = "$blob", borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    /// R and Octave write numbers as they like.
    shape: Vec<f64>,
    #[serde(default)]
    bytes: bool,
}

impl<'a> Object<'a> {
    /// Read the object at the beginning of `text`; returns where it ends, too.
    pub fn parse(text: &'a str) -> Result<(Self, usize), BlobError> {
        let wrong = |why: String| BlobError::Object { why };
        let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Raw<'a>>();
        let raw = match stream.next() {
            Some(Ok(raw)) => raw,
            Some(Err(error)) => return Err(wrong(error.to_string())),
            None => return Err(wrong("it ends".into())),
        };
        let end = stream.byte_offset();
        let dtype = Dtype::named(&raw.dtype).ok_or_else(|| wrong(format!("`dtype` is `{:.20}`", raw.dtype)))?;
        let length = |length: &f64| {
            let is_length = *length >= 0.0 && length.fract() == 0.0 && *length < 2f64.powi(53);
            is_length.then_some(*length as usize).ok_or_else(|| wrong(format!("`shape` has {length}")))
        };
        let shape = raw.shape.iter().map(length).collect::<Result<Vec<_>, _>>()?;
        if raw.bytes && (dtype != Dtype::U8 || shape.len() != 1) {
            return Err(wrong("`bytes` are of `dtype` u8 and have one length".into()));
        }
        let content = raw.content.get();
        let content = if content.starts_with('[') {
            let chunks: Vec<Borrowed<'a>> = serde_json::from_str(content).map_err(|error| wrong(error.to_string()))?;
            Content::Chunks(chunks.into_iter().map(|chunk| chunk.0).collect())
        } else {
            let name: Borrowed<'a> = serde_json::from_str(content).map_err(|error| wrong(error.to_string()))?;
            Content::Name(name.0)
        };
        Ok((Self { content, dtype, shape, is_bytes: raw.bytes }, end))
    }

    /// What it says of a blob that has so many bytes.
    pub fn description(&self, size_bytes: u64) -> Result<Description, BlobError> {
        let checked = Description::checked(self.dtype, &self.shape, size_bytes)?;
        Ok(Description { is_bytes: self.is_bytes, ..checked })
    }
}

/// In a list, `Cow` alone would copy.
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

/// The bytes of chunks.
pub(super) fn decode(chunks: &[Cow<'_, str>]) -> Result<Vec<u8>, BlobError> {
    let mut bytes = Vec::with_capacity(chunks.iter().map(|chunk| chunk.len() / 4 * 3).sum());
    for chunk in chunks {
        BASE64_STANDARD
            .decode_vec(chunk.as_bytes(), &mut bytes)
            .map_err(|error| BlobError::Object { why: format!("a chunk is not base64: {error}") })?;
    }
    Ok(bytes)
}

/// An object as it is written; keys in the order of the protocol.
#[derive(Serialize)]
pub(super) struct Written<'a> {
    #[serde(rename = "$blob")]
    content: Place<'a>,
    dtype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    bytes: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Place<'a> {
    Name(Cow<'a, str>),
    Chunks(Vec<String>),
}

impl<'a> Written<'a> {
    pub fn named(name: Cow<'a, str>, description: &'a Description) -> Self {
        Self::new(Place::Name(name), description)
    }

    pub fn inline(bytes: &[u8], description: &'a Description) -> Self {
        let chunks = bytes.chunks(CHUNK_BYTES).map(|chunk| BASE64_STANDARD.encode(chunk));
        Self::new(Place::Chunks(chunks.collect()), description)
    }

    fn new(content: Place<'a>, description: &'a Description) -> Self {
        let Description { dtype, shape, is_bytes } = description;
        Self { content, dtype: dtype.name(), shape, bytes: *is_bytes }
    }
}
