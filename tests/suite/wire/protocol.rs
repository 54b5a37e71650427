//! Contents against the crate `jupyter-protocol`: ours read by theirs and written back, and theirs read by ours.

use fastrand::Rng;
use jupyter_protocol::{
    self as theirs, ExecutionCount, JupyterMessage, JupyterMessageContent, Media, MediaType, ReplyError, ReplyStatus,
};
use kernelbridge::wire::{
    Header, Message,
    content::{DisplayData, ErrorOutput, ExecuteReply, InputRequest, KernelInfoReply, Status, StatusOutput, Stream},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json, to_value};

use super::{
    exercise, random,
    recorded::Recorded,
    schemas::{self, Request},
};

#[test]
fn jupyter_protocol_reads_what_we_send_and_loses_nothing() {
    let rng = &mut Rng::with_seed(10);
    for _ in 0..200 {
        for Request { msg_type, content, .. } in schemas::requests(rng) {
            // Theirs knows no subshells.
            let header = |rng: &mut Rng, msg_type: &str| Header { subshell_id: None, ..random::header(rng, msg_type) };
            let (header, parent) = (header(rng, msg_type), rng.bool().then(|| header(rng, "input_request")));
            let mut ours = json!({
                "header": header,
                "parent_header": parent.map_or_else(|| json!({}), |parent| json!(parent)),
                "metadata": {},
                "content": content,
                "channel": null,
            });
            let theirs = JupyterMessage::from_value(ours.clone()).expect("jupyter-protocol reads what we write");
            assert!(!matches!(theirs.content, JupyterMessageContent::UnknownMessage(_)), "{msg_type}");
            // What theirs adds.
            match msg_type {
                "comm_info_request" => ours["content"]["target_name"] = Value::Null,
                "input_reply" => ours["content"]["status"] = "ok".into(),
                _ => {}
            }
            assert_eq!(json!(theirs), ours, "{msg_type}");
        }
    }
}

/// Their content as a message that we received.
fn received(rng: &mut Rng, content: impl Into<JupyterMessageContent>) -> Message {
    let content = content.into();
    let header = random::header(rng, content.message_type());
    let parts = [to_value(header), Ok(json!({})), Ok(json!({})), to_value(content)]
        .map(|part| part.expect("JSON").to_string().into());
    let frames = exercise::sign(vec![], &parts);
    assert!(exercise::read(&frames));
    let recorded = Recorded { kernel: "jupyter-protocol".into(), identities: vec![], parts: parts.to_vec() };
    recorded.message()
}

fn read<T: DeserializeOwned>(message: &Message) -> T {
    message.parse_content().unwrap_or_else(|error| panic!("{error}: {:?}", message.content))
}

#[test]
fn we_read_what_jupyter_protocol_writes_and_lose_nothing() {
    let rng = &mut Rng::with_seed(11);
    for _ in 0..200 {
        let lines = |rng: &mut Rng| (0..rng.usize(..3)).map(|_| random::text(rng)).collect::<Vec<_>>();
        let (ename, evalue, traceback) = (random::text(rng), random::text(rng), lines(rng));
        let data = Media::new(vec![
            MediaType::Plain(random::text(rng)),
            MediaType::Json(Value::Object(random::object(rng, 4))),
            MediaType::Png("aGVsbG8=".into()),
        ]);
        let metadata = random::object(rng, 2);

        for (theirs, ours) in [
            (ReplyStatus::Ok, Status::Ok),
            (ReplyStatus::Error, Status::Error),
            (ReplyStatus::Aborted, Status::Aborted),
        ] {
            let error = ReplyError { ename: ename.clone(), evalue: evalue.clone(), traceback: traceback.clone() };
            let count = rng.usize(..);
            let reply: ExecuteReply = read(&received(
                rng,
                theirs::ExecuteReply {
                    status: theirs,
                    execution_count: ExecutionCount::new(count),
                    error: Some(error.into()),
                    ..Default::default()
                },
            ));
            assert_eq!((reply.status, &reply.ename, &reply.evalue), (ours, &ename, &evalue));
            assert_eq!((&reply.traceback, reply.execution_count), (&traceback, count.into()));
        }

        let language_info = theirs::LanguageInfo {
            name: random::text(rng),
            version: random::text(rng),
            mimetype: None,
            file_extension: Some(random::text(rng)),
            pygments_lexer: None,
            codemirror_mode: Some(theirs::CodeMirrorMode::ipython_code_mirror_mode()),
            nbconvert_exporter: None,
        };
        let info = theirs::KernelInfoReply {
            status: ReplyStatus::Ok,
            protocol_version: random::text(rng),
            implementation: random::text(rng),
            implementation_version: random::text(rng),
            language_info,
            banner: random::text(rng),
            help_links: vec![],
            debugger: true,
            error: None,
        };
        let reply: KernelInfoReply = read(&received(rng, info.clone()));
        let language =
            (Some(reply.language_info.file_extension), reply.language_info.name, reply.language_info.version);
        let expected = info.language_info;
        assert_eq!(language, (expected.file_extension, expected.name, expected.version));
        assert_eq!(
            [reply.protocol_version, reply.implementation, reply.implementation_version, reply.banner],
            [info.protocol_version, info.implementation, info.implementation_version, info.banner]
        );

        let asked = theirs::InputRequest { prompt: random::text(rng), password: rng.bool() };
        let request: InputRequest = read(&received(rng, asked.clone()));
        assert_eq!((request.prompt, request.password), (asked.prompt, asked.password));

        let printed = random::text(rng);
        let stream: Stream = read(&received(rng, theirs::StreamContent::stderr(&printed)));
        assert_eq!((stream.name.as_str(), stream.text), ("stderr", printed));

        let displayed = theirs::DisplayData { data: data.clone(), metadata: metadata.clone(), transient: None };
        let bundle = to_value(&data).expect("JSON");
        let display: DisplayData = read(&received(rng, displayed));
        assert_eq!((Value::Object(display.data), &display.metadata), (bundle.clone(), &metadata));
        let result =
            theirs::ExecuteResult { metadata: metadata.clone(), ..(ExecutionCount::new(3), data.content).into() };
        let display: DisplayData = read(&received(rng, result));
        assert_eq!((Value::Object(display.data), display.metadata), (bundle, metadata));

        let raised = theirs::ErrorOutput { ename, evalue, traceback };
        let error: ErrorOutput = read(&received(rng, raised.clone()));
        assert_eq!((error.ename, error.evalue, error.traceback), (raised.ename, raised.evalue, raised.traceback));

        let state = random::text(rng);
        let status: StatusOutput = read(&received(rng, theirs::Status::other(&state)));
        assert_eq!(status.execution_state, state);
    }
}

/// What both make of the content of a recorded message.
fn agree(message: &Message, content: &JupyterMessageContent) {
    match content {
        JupyterMessageContent::ExecuteReply(theirs) => {
            let ours: ExecuteReply = read(message);
            assert_eq!(to_value(ours.status).expect("JSON"), to_value(&theirs.status).expect("JSON"));
            // Theirs drops an error that is not in its shape: Octave's traceback is a text.
            if let Some(theirs) = theirs.error.as_deref() {
                assert_eq!((&ours.ename, &ours.evalue), (&theirs.ename, &theirs.evalue));
                assert_eq!(ours.traceback, theirs.traceback);
            }
        }
        JupyterMessageContent::KernelInfoReply(theirs) => {
            let ours: KernelInfoReply = read(message);
            assert_eq!((&ours.language_info.name, &ours.banner), (&theirs.language_info.name, &theirs.banner));
        }
        JupyterMessageContent::InputRequest(theirs) => {
            let ours: InputRequest = read(message);
            assert_eq!((&ours.prompt, ours.password), (&theirs.prompt, theirs.password));
        }
        JupyterMessageContent::StreamContent(theirs) => assert_eq!(read::<Stream>(message).text, theirs.text),
        JupyterMessageContent::DisplayData(theirs) => {
            assert_eq!(Value::Object(read::<DisplayData>(message).data), to_value(&theirs.data).expect("JSON"));
        }
        JupyterMessageContent::ExecuteResult(theirs) => {
            assert_eq!(Value::Object(read::<DisplayData>(message).data), to_value(&theirs.data).expect("JSON"));
        }
        JupyterMessageContent::ErrorOutput(theirs) => {
            let ours: ErrorOutput = read(message);
            assert_eq!((&ours.evalue, &ours.traceback), (&theirs.evalue, &theirs.traceback));
        }
        JupyterMessageContent::Status(theirs) => {
            assert_eq!(read::<StatusOutput>(message).execution_state, theirs.execution_state.as_str());
        }
        _ => {}
    }
}

#[test]
fn both_make_the_same_of_real_messages() {
    let mut refused = Vec::new();
    for recorded in Recorded::all() {
        let message = recorded.message();
        let theirs = serde_json::from_slice::<Map<String, Value>>(&message.content)
            .and_then(|content| JupyterMessageContent::from_type_and_content(message.msg_type(), content.into()));
        match theirs {
            Ok(content) => agree(&message, &content),
            Err(_) => refused.push((recorded.kernel, message.header.msg_type)),
        }
    }
    let refused: Vec<_> = refused.iter().map(|(kernel, msg_type)| (kernel.as_str(), msg_type.as_str())).collect();
    // Version 2.0.3. That we read these too is checked in `recorded`; they are why our contents are read leniently.
    let expected = [
        // Not UTF-8.
        ("ipykernel 7.4.0", "stream"),
        ("IRkernel 1.3.2", "stream"),
        // `abort`.
        ("IRkernel 1.3.2", "execute_reply"),
        // No version of the language.
        ("bash_kernel 0.10.0", "kernel_info_reply"),
        ("calysto_scheme 2.1.9", "kernel_info_reply"),
        ("prolog-kernel 0.0.9", "kernel_info_reply"),
        // No status, on control and on iopub.
        ("ilua 0.2.1", "shutdown_reply"),
        ("ilua 0.2.1", "shutdown_reply"),
        // No `password`, half a character twice, no status.
        ("ijavascript 5.2.1", "input_request"),
        ("ijavascript 5.2.1", "execute_reply"),
        ("ijavascript 5.2.1", "error"),
        ("ijavascript 5.2.1", "shutdown_reply"),
    ];
    assert_eq!(refused, expected);
}
