//! A message of JSON-RPC 2.0 as it is written, whoever it is from.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::rpc::{RpcError, null};

#[derive(Deserialize)]
pub(super) struct Raw<'a> {
    pub id: Option<Value>,
    #[serde(borrow)]
    pub method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub params: Option<&'a RawValue>,
    #[serde(borrow)]
    pub result: Option<&'a RawValue>,
    pub error: Option<Value>,
}

/// What is in a frame's body, one message or an array of them, or why that is none.
pub(super) fn each<T>(body: &str, read: impl Fn(Result<Raw<'_>, String>) -> T) -> Vec<T> {
    let one = |json: &str| read(serde_json::from_str(json).map_err(|error| format!("not a JSON-RPC message: {error}")));
    if !body.trim_start().starts_with('[') {
        return vec![one(body)];
    }
    match serde_json::from_str::<Vec<&RawValue>>(body) {
        Ok(messages) => messages.into_iter().map(|message| one(message.get())).collect(),
        Err(error) => vec![read(Err(format!("not JSON: {error}")))],
    }
}

/// What a response says.
pub(super) fn outcome(result: Option<&RawValue>, error: Option<Value>) -> Result<Box<RawValue>, RpcError> {
    match error {
        Some(error) => Err(RpcError::from_json(&error)),
        None => Ok(result.map_or_else(null, ToOwned::to_owned)),
    }
}
