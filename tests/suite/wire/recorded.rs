//! Messages that real kernels sent, one of each kind a kernel, in `recorded.ndjson`.
//!
//! Recorded once from the kernels named there; only the path of ilua's installation was shortened.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use kernelbridge::wire::{
    Message, Received,
    content::{DisplayData, ErrorOutput, ExecuteReply, InputRequest, KernelInfoReply, Status, StatusOutput, Stream},
};
use serde_json::Value;

use super::exercise;

/// One message as it came out of a socket, without its signature.
pub struct Recorded {
    pub kernel: String,
    pub identities: Vec<Bytes>,
    /// Header, parent header, metadata, content, buffers.
    pub parts: Vec<Bytes>,
}

impl Recorded {
    /// All of them.
    pub fn all() -> Vec<Self> {
        include_str!("recorded.ndjson").lines().map(Self::parse).collect()
    }

    fn parse(line: &str) -> Self {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let frames = |name: &str| line[name].as_array().expect("a list").iter().map(frame).collect();
        Self {
            kernel: line["kernel"].as_str().expect("text").to_owned(),
            identities: frames("identities"),
            parts: frames("parts"),
        }
    }

    /// Signed, sent and received.
    pub fn message(&self) -> Message {
        let frames = exercise::sign(self.identities.clone(), &self.parts);
        match Received::parse(frames, &mut exercise::signer(), exercise::LIMIT_BYTES) {
            Received::Message(message) => message,
            Received::Odd(odd) => panic!("{}: {}: {:?}", self.kernel, odd.reason, self.parts),
        }
    }
}

/// A frame is text, or `{"$bytes": base64}` when it is not UTF-8.
fn frame(value: &Value) -> Bytes {
    match value.as_str() {
        Some(text) => Bytes::copy_from_slice(text.as_bytes()),
        None => STANDARD.decode(value["$bytes"].as_str().expect("base64")).expect("base64").into(),
    }
}

#[test]
fn messages_of_every_kernel_are_read() {
    let mut read = 0;
    for recorded in Recorded::all() {
        let message = recorded.message();
        let at = format!("{}: {:?}", recorded.kernel, message.content);
        assert!(exercise::read(&exercise::sign(recorded.identities.clone(), &recorded.parts)), "{at}");
        assert!(!message.header.msg_id.is_empty(), "{at}");
        read += 1;
        match message.msg_type() {
            "execute_reply" => {
                let reply: ExecuteReply = message.parse_content().expect(&at);
                // Prolog leaves the message to the traceback; Octave sends its traceback as one text instead of a list.
                let explained = !reply.evalue.is_empty() || !reply.traceback.is_empty();
                assert_eq!(reply.status == Status::Error, explained, "{at}");
            }
            "kernel_info_reply" => {
                let reply: KernelInfoReply = message.parse_content().expect(&at);
                assert!(reply.protocol_version.starts_with("5.") && !reply.language_info.name.is_empty(), "{at}");
            }
            "input_request" => {
                assert!(message.parse_content::<InputRequest>().expect(&at).prompt.starts_with("name?"), "{at}");
            }
            "stream" => {
                let stream: Stream = message.parse_content().expect(&at);
                assert!(["stdout", "stderr"].contains(&stream.name.as_str()), "{at}");
            }
            "display_data" | "execute_result" => {
                assert!(message.parse_content::<DisplayData>().expect(&at).data.contains_key("text/plain"), "{at}");
            }
            "error" => assert!(!message.parse_content::<ErrorOutput>().expect(&at).evalue.is_empty(), "{at}"),
            "status" => {
                let status: StatusOutput = message.parse_content().expect(&at);
                assert!(["starting", "busy", "idle"].contains(&status.execution_state.as_str()), "{at}");
            }
            _ => assert!(message.parse_content::<Value>().expect(&at).is_object(), "{at}"),
        }
    }
    assert!(read > 100, "{read}");
}

#[test]
fn half_a_character_is_read() {
    // ijavascript escapes it: `"evalue":"\ud83d"`.
    let halves: Vec<_> = Recorded::all()
        .iter()
        .filter(|recorded| recorded.kernel == "ijavascript 5.2.1")
        .map(Recorded::message)
        .filter(|message| message.content.windows(18).any(|window| window == br#""evalue":"\ud83d","#))
        .map(|message| message.parse_content::<ExecuteReply>().expect("reads").evalue)
        .collect();
    assert_eq!(halves, ["\u{fffd}", "\u{fffd}"]);
}

#[test]
fn output_that_is_not_utf8_is_read() {
    // R and Python write bytes of a stream that are not UTF-8 into the JSON as they are.
    let texts: Vec<_> = Recorded::all()
        .iter()
        .filter(|recorded| recorded.parts.iter().any(|part| std::str::from_utf8(part).is_err()))
        .map(|recorded| (recorded.kernel.clone(), recorded.message().parse_content::<Stream>().expect("reads").text))
        .collect();
    let expected =
        [("ipykernel 7.4.0", "\u{fffd}\u{fffd} caf\u{fffd}\n\u{fffd}\n"), ("IRkernel 1.3.2", "\u{fffd}\u{fffd}\n")];
    assert_eq!(texts, expected.map(|(kernel, text)| (kernel.to_owned(), text.to_owned())));
}
