//! Everything a program does with a text from outside, and what must hold whatever the bytes are.
//!
//! Shared by the tests and by the targets in `fuzz/fuzz_targets`. Each returns whether the text was accepted, and panics
//! when something is wrong with us.

use std::str::from_utf8;

use bytes::BytesMut;
use kernelbridge::{
    kernelspec::Kernelspec,
    language::Language,
    manifest::Manifest,
    notebook::Notebook,
    rpc::{Inbound, Plea, take_frame},
};
use serde_json::{Value, value::RawValue};

/// Largest body that is accepted.
const LIMIT_BYTES: usize = 1 << 16;

/// A `kernel.json`.
pub fn kernelspec(bytes: &[u8]) -> bool {
    match Kernelspec::parse("name", "/kernels/name", bytes) {
        Ok(parsed) => {
            assert!(!parsed.kernelspec.title().is_empty());
            true
        }
        Err(error) => says_why(&error),
    }
}

/// A `plugin.toml`.
pub fn manifest(bytes: &[u8]) -> bool {
    let Ok(text) = from_utf8(bytes) else { return false };
    match Manifest::parse(text, "plugin.toml") {
        Ok(manifest) => {
            assert!(manifest.kernelspec().is_some() || manifest.language().is_some());
            true
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            assert!(error.problems.iter().all(|problem| !problem.message.is_empty()));
            says_why(&error)
        }
    }
}

/// A `language.toml`.
pub fn language(bytes: &[u8]) -> bool {
    let Ok(text) = from_utf8(bytes) else { return false };
    match Language::parse(text) {
        Ok(language) => language.is_called(&language.name.to_uppercase()) || !language.name.is_ascii(),
        Err(error) => says_why(&error),
    }
}

/// An `.ipynb`.
pub fn notebook(bytes: &[u8]) -> bool {
    let Ok(text) = from_utf8(bytes) else { return false };
    match Notebook::parse(text, "plugin.ipynb") {
        Ok(notebook) => {
            notebook.entry_cells().chain(notebook.test_cells()).for_each(|cell| assert!(!cell.name.is_empty()));
            true
        }
        Err(error) => says_why(&error),
    }
}

/// What a shim sends.
pub fn rpc(bytes: &[u8]) -> bool {
    let is_json = |value: &RawValue| assert!(serde_json::from_str::<&RawValue>(value.get()).is_ok());
    let mut accepted = true;
    for message in Inbound::parse(bytes) {
        match message {
            Inbound::Response { result: Ok(result), .. } => is_json(&kernelbridge::rpc::compact(result)),
            Inbound::Response { result: Err(error), .. } => {
                assert!(!error.report().is_empty());
                assert!(serde_json::from_str::<Value>(&error.to_json().to_string()).is_ok());
            }
            Inbound::Request { plea: Ok(Plea::Call { args, .. }), .. } => assert!(args.get().starts_with('[')),
            Inbound::Request { plea: Ok(Plea::Emit { data, .. }), .. } => is_json(&data),
            Inbound::Request { plea: Err(error), .. } => assert!(!error.message.is_empty()),
            Inbound::Bad { reason } => {
                assert!(!reason.is_empty());
                accepted = false;
            }
            Inbound::Ready | Inbound::Log { .. } | Inbound::Progress { .. } => {}
        }
    }
    accepted
}

/// What comes out of a pipe, in one piece and byte by byte: the same frames.
pub fn frames(bytes: &[u8]) -> bool {
    let mut whole = BytesMut::from(bytes);
    let mut found = Vec::new();
    let end = loop {
        match take_frame(&mut whole, LIMIT_BYTES) {
            Ok(Some(body)) => found.push(body),
            other => break other.err(),
        }
    };
    assert!(found.iter().all(|body| body.len() <= LIMIT_BYTES));
    let (mut slow, mut again) = (BytesMut::new(), Vec::new());
    let slow_end = bytes.iter().find_map(|byte| {
        slow.extend_from_slice(&[*byte]);
        loop {
            match take_frame(&mut slow, LIMIT_BYTES) {
                Ok(Some(body)) => again.push(body),
                other => return other.err(),
            }
        }
    });
    assert_eq!((again, slow_end), (found, end));
    end.is_none()
}

fn says_why(error: &impl std::error::Error) -> bool {
    assert!(!error.to_string().is_empty());
    false
}
