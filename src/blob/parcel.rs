//! JSON together with the blobs that it names.

use std::{borrow::Cow, cell::RefCell, ops::Deref};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

use crate::blob::{
    BlobError, Held, by_value, hold, inline, names_any,
    text::{count, raw},
};

/// JSON and the blobs that it names, which live as long as this does. Reads as the JSON.
#[derive(Debug, Clone)]
pub struct Parcel {
    json: Box<RawValue>,
    held: Held,
}

impl Parcel {
    /// JSON whose blobs are held already.
    pub fn new(json: Box<RawValue>, held: Held) -> Self {
        Self { json, held }
    }

    /// A value of ours as JSON.
    ///
    /// # Errors
    ///
    /// When it has no JSON form.
    pub fn pack(value: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        let json = to_raw_value(value)?;
        // The value is still there, and with it what it names.
        let held = hold(json.get()).map_err(serde::ser::Error::custom)?;
        Ok(Self { json, held })
    }

    /// The blobs.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Read it as a type.
    ///
    /// # Errors
    ///
    /// When it does not fit.
    pub fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        read(self.json.get())
    }

    /// The JSON as one who knows nothing of blobs reads it: numbers in lists, and `$bytes`.
    ///
    /// # Errors
    ///
    /// [`BlobError`], which nothing of ours can cause.
    pub fn by_value(self) -> Result<Box<RawValue>, BlobError> {
        match by_value(self.json.get(), u64::MAX)? {
            Cow::Borrowed(_) => Ok(self.json),
            Cow::Owned(text) => raw(text),
        }
    }

    /// The JSON, with the blobs themselves in it.
    ///
    /// # Errors
    ///
    /// [`BlobError`], which nothing of ours can cause.
    pub fn inline(self) -> Result<Box<RawValue>, BlobError> {
        match inline(self.json.get())? {
            Cow::Borrowed(_) => Ok(self.json),
            Cow::Owned(text) => raw(text),
        }
    }

    /// The JSON, as long as somebody else holds what it names.
    pub fn into_parts(self) -> (Box<RawValue>, Held) {
        (self.json, self.held)
    }
}

impl From<Box<RawValue>> for Parcel {
    /// Of JSON that names no blobs.
    fn from(json: Box<RawValue>) -> Self {
        Self { json, held: Held::default() }
    }
}

impl Deref for Parcel {
    type Target = RawValue;

    fn deref(&self) -> &RawValue {
        &self.json
    }
}

thread_local! {
    /// How many blobs were taken since somebody began to count.
    static TAKEN: RefCell<usize> = const { RefCell::new(0) };
}

/// An [`Array`](crate::blob::Array) was read from an object with `$blob`.
pub(super) fn taken() {
    TAKEN.with_borrow_mut(|taken| *taken += 1);
}

/// Read JSON as a type. Where the type has no [`Array`](crate::blob::Array) for a blob, it gets numbers in lists: what
/// reads a short list reads a long one too.
///
/// # Errors
///
/// When it does not fit.
pub fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    if !names_any(text) {
        return serde_json::from_str(text);
    }
    let before = TAKEN.with_borrow(|taken| *taken);
    let result = serde_json::from_str(text);
    let taken = TAKEN.with_borrow(|taken| *taken) - before;
    if result.is_ok() && count(text).is_ok_and(|named| taken >= named) {
        return result;
    }
    let text = by_value(text, u64::MAX).map_err(serde::de::Error::custom)?;
    serde_json::from_str(&text)
}
