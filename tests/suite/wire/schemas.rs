//! Every message we send against the schemas of `jupyter_kernel_test`, which cover each of their types but `comm_msg`.

use fastrand::Rng;
use kernelbridge::wire::{
    Header, Outgoing, Received, Signer,
    content::{
        CommMessage, CompleteRequest, Empty, ExecuteRequest, InputReply, InspectRequest, IsCompleteRequest,
        ShutdownRequest,
    },
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{oracle::Oracle, random};

/// A content to send: the message's type, the name of our struct, and what is written.
pub struct Request {
    pub msg_type: &'static str,
    name: &'static str,
    pub content: Value,
}

fn request<T: Serialize>(msg_type: &'static str, content: T) -> Request {
    let name = std::any::type_name::<T>().split('<').next().and_then(|path| path.split("::").last()).expect("a name");
    Request { msg_type, name, content: serde_json::to_value(content).expect("contents are JSON") }
}

/// Contents of each type that we send.
pub fn requests(rng: &mut Rng) -> Vec<Request> {
    let mut code = || random::text(rng);
    let everything = ExecuteRequest {
        silent: true,
        store_history: true,
        user_expressions: Map::from_iter([(code(), code().into())]),
        allow_stdin: true,
        stop_on_error: true,
        ..ExecuteRequest::new(code())
    };
    vec![
        request("execute_request", ExecuteRequest::new(code())),
        request("execute_request", everything),
        request("complete_request", CompleteRequest { code: code(), cursor_pos: 0 }),
        request("inspect_request", InspectRequest { code: code(), cursor_pos: 3, detail_level: 0 }),
        request("inspect_request", InspectRequest { code: code(), cursor_pos: 1 << 40, detail_level: 1 }),
        request("is_complete_request", IsCompleteRequest { code: code() }),
        request("kernel_info_request", Empty {}),
        request("comm_info_request", Empty {}),
        request("comm_msg", CommMessage { comm_id: &code(), data: Empty {} }),
        request("interrupt_request", Empty {}),
        request("shutdown_request", ShutdownRequest { restart: false }),
        request("shutdown_request", ShutdownRequest { restart: true }),
        request("input_reply", InputReply { value: &code() }),
    ]
}

/// A header without what came after version 5.1, up to which the validator refuses unknown keys.
fn header_of_5_1(rng: &mut Rng, msg_type: &str) -> Header {
    Header { version: "5.1".to_owned(), subshell_id: None, ..random::header(rng, msg_type) }
}

/// Ask about the message as dicts, made from the frames that would be sent.
fn validate(oracle: &mut Oracle, outgoing: Outgoing) -> Value {
    let msg_type = outgoing.header.msg_type.clone();
    let parent_id = outgoing.parent.as_ref().map(|parent| parent.msg_id.clone());
    let signer = &mut Signer::new("hmac-sha256", b"key").expect("a key");
    let frames = outgoing.into_frames(signer).expect("frames");
    let part = |index: usize| serde_json::from_slice::<Value>(&frames[index]).expect("parts are JSON");
    let message = json!({
        "header": part(2), "parent_header": part(3), "metadata": part(4), "content": part(5), "buffers": [],
    });
    assert!(matches!(Received::parse(frames, signer, 1 << 20), Received::Message(_)));
    oracle.ask("validate", json!({ "message": message, "msg_type": msg_type, "parent_id": parent_id }))
}

#[test]
fn every_message_we_send_fits_the_message_spec() {
    let Some(mut oracle) = Oracle::start() else { return };
    let rng = &mut Rng::with_seed(7);
    for _ in 0..20 {
        for Request { msg_type, content, .. } in requests(rng) {
            for header in [header_of_5_1(rng, msg_type), random::header(rng, msg_type)] {
                let parent = (msg_type == "input_reply").then(|| random::header(rng, "input_request"));
                let outgoing = Outgoing::new(header, parent, &content).expect("JSON");
                let outcome = validate(&mut oracle, outgoing);
                if msg_type == "comm_msg" {
                    assert_eq!(outcome["refused"], "no schema for 'comm_msg'");
                    assert!(content["comm_id"].is_string() && content["data"].is_object(), "{content}");
                    continue;
                }
                assert_eq!(outcome, json!({}), "{msg_type}: {content}");
            }
        }
    }
}

#[test]
fn no_content_that_we_send_is_left_out() {
    let sent: Vec<_> = include_str!("../../../src/wire/content.rs")
        .split("#[derive(")
        .filter_map(|item| item.split_once(")]"))
        .filter(|(traits, _)| traits.contains("Serialize") && !traits.contains("Deserialize"))
        .filter_map(|(_, item)| item.trim_start().strip_prefix("pub struct "))
        .filter_map(|item| item.split(|character: char| !character.is_alphanumeric()).next())
        .collect();
    assert!(sent.contains(&"ExecuteRequest"), "{sent:?}");
    let checked: Vec<_> = requests(&mut Rng::with_seed(8)).iter().map(|request| request.name).collect();
    for name in sent {
        assert!(checked.contains(&name), "`{name}` is sent, but `requests` has none");
    }
}

#[test]
fn the_schemas_refuse_what_does_not_fit() {
    let Some(mut oracle) = Oracle::start() else { return };
    for (msg_type, content, expected) in [
        ("execute_request", json!({ "code": "1" }), "'allow_stdin' is a required property"),
        ("input_reply", json!({ "value": 1 }), "1 is not of type 'string'"),
        ("kernel_info_request", json!({ "a": 1 }), "Additional properties are not allowed ('a' was unexpected)"),
        ("unheard_of", json!({}), "no schema for 'unheard_of'"),
    ] {
        let header = header_of_5_1(&mut Rng::with_seed(9), msg_type);
        let outgoing = Outgoing::new(header, None, &content).expect("JSON");
        assert_eq!(validate(&mut oracle, outgoing)["refused"], expected, "{msg_type}");
    }
}
