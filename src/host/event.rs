//! Events as the host has them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    blob::{self, BlobError, Held},
    host::{lock, origin::Origin},
    pattern::check_topic,
    rpc,
};

/// Something that happened. Cheap to clone; the data is serialised once, however many plugins get it.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Unique.
    pub id: Arc<str>,
    /// What kind of thing: `quake.new`.
    pub topic: Arc<str>,
    /// When it was emitted, RFC 3339 in UTC with milliseconds.
    pub time: Arc<str>,
    /// What it belongs to, for order and coalescing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Arc<str>>,
    /// Its data, any JSON.
    pub data: Arc<RawValue>,
    /// The blobs that its data names.
    #[serde(skip)]
    pub held: Held,
    /// The row of a table that its data are, if they are one.
    #[serde(skip)]
    #[cfg_attr(not(feature = "arrow"), expect(dead_code, reason = "then nothing is a row of a table"))]
    pub(crate) origin: Origin,
}

/// Why something is no event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The topic is empty, too long, or has characters that topics do not have.
    #[error(transparent)]
    Topic(#[from] crate::pattern::NameError),
    /// The data cannot be written as JSON.
    #[error("data of an event with topic `{topic}`: {source}")]
    Data {
        /// The topic.
        topic: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The data names large values that are not there.
    #[error("data of an event with topic `{topic}`: {source}")]
    Blob {
        /// The topic.
        topic: String,
        /// Why.
        source: BlobError,
    },
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Event {
    /// An event that happens now.
    ///
    /// # Errors
    ///
    /// [`EventError`] by what is wrong with topic or data.
    pub fn new(topic: &str, data: &(impl Serialize + ?Sized)) -> Result<Self, EventError> {
        let data = serde_json::value::to_raw_value(data)
            .map_err(|source| EventError::Data { topic: topic.to_owned(), source })?;
        Self::from_raw(topic, data, None)
    }

    /// As [`Event::new`], with data that is JSON already.
    ///
    /// # Errors
    ///
    /// [`EventError::Topic`], [`EventError::Blob`].
    pub fn from_raw(topic: &str, data: Box<RawValue>, key: Option<String>) -> Result<Self, EventError> {
        check_topic(topic)?;
        let held = blob::hold(data.get()).map_err(|source| EventError::Blob { topic: topic.to_owned(), source })?;
        // A program that emits on two machines, or is started again, must not reuse an id.
        static RUN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let run = RUN.get_or_init(|| uuid::Uuid::new_v4().simple().to_string()[..12].to_owned());
        let (mut id, mut number) = (String::with_capacity(run.len() + 21), itoa::Buffer::new());
        id.extend([run.as_str(), "-", number.format(NEXT.fetch_add(1, Ordering::Relaxed))]);
        Ok(Self {
            id: id.into(),
            topic: topic.into(),
            time: now(),
            key: key.map(Into::into),
            data: rpc::compact(data).into(),
            held,
            origin: Origin::default(),
        })
    }

    /// The same event with a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.key = Some(key.into());
        self
    }
}

/// The time as events have it. Many happen within one millisecond, and writing a date takes longer than all else here.
fn now() -> Arc<str> {
    static LAST: Mutex<Option<(u128, Arc<str>)>> = Mutex::new(None);
    let now = SystemTime::now();
    let millis = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut last = lock(&LAST);
    match &*last {
        Some((written, text)) if *written == millis => text.clone(),
        _ => {
            let now = chrono::DateTime::<chrono::Utc>::from(now);
            let text: Arc<str> = now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true).into();
            *last = Some((millis, text.clone()));
            text
        }
    }
}
