//! Broken variants of real texts, on a stable toolchain, with the checks of the fuzz targets.

mod exercise;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use bytes::Bytes;
use fastrand::Rng;
use kernelbridge::zmtp;

use crate::{support::root, wire::mutation::mutate};

const ROUNDS: u64 = 20_000;

/// Pieces of TOML.
const TOML: &[&str] = &[
    "[",
    "]]",
    "[[a]]",
    "\n[limits]\n",
    "=",
    "\"\"\"",
    "'''",
    "{ a = 1 }",
    "1979-05-27",
    "nan",
    "0x",
    "\\u",
    "#",
    "\r",
    "\n\n",
    ".",
    "a.b.c = 1",
    "\u{feff}",
    "1e999",
    "99999999999999999999",
    "\"5s\"",
    "[\"*\"]",
];

const RPC: &[&str] = &[
    r#"{"jsonrpc":"2.0","method":"ready"}"#,
    r#"{"jsonrpc":"2.0","id":7,"result":{"handlers":[{"id":1,"kind":"on","topic":"quake.*","name":"rate","batch":0}]}}"#,
    r#"{"id":7,"error":{"code":-32000,"message":"m","data":{"kind":"Raised","ename":"E","traceback":["t"],"cause":{}}}}"#,
    r#"{"id":1,"method":"call","params":{"name":"state.get","args":["key", 1.5e3]}}"#,
    r#"{"id":2,"method":"emit","params":{"topic":"quake.new","data":{"x":[null,true]},"key":"k"}}"#,
    r#"[{"method":"log","params":{"level":"warn","message":"m","fields":{"a":1}}},{"id":3,"result":[ ]}]"#,
    r#"{"method":"progress","params":{"done":1,"total":2,"message":"m"}}"#,
];

const NOTEBOOK: &str = r##"{"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"name": "python3"}}, "cells": [
{"cell_type": "code", "id": "a", "metadata": {"tags": ["test"]}, "source": ["x = 1\n", "y"], "outputs": [], "execution_count": 1},
{"cell_type": "markdown", "metadata": {}, "source": "# title"}]}"##;

/// The file of this name of each language folder, or below it.
fn files(name: &str) -> Vec<Bytes> {
    let folders = fs::read_dir(root().join("kernelspecs")).expect("a folder").flatten();
    let found: Vec<_> = folders.filter_map(|folder| fs::read(folder.path().join(name)).ok()).map(Bytes::from).collect();
    assert!(!found.is_empty(), "no {name}");
    found
}

/// Of `[{"a": 1, "b": "é", "c": [0.5, None], "d": (1, 2), "e": b"x"}, {"a": -300, "f": 2**70}]`.
const PICKLE: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":7,\"pickled\":\
    \x80\x05](}(\x8c\x01aK\x01\x8c\x01b\x8c\x02\xc3\xa9\x8c\x01c](G?\xe0\0\0\0\0\0\0Ne\x8c\x01dK\x01K\x02\x86\x8c\x01eC\x01xu\
    }(\x8c\x01aJ\xd4\xfe\xff\xff\x8c\x01f\x8a\x09\0\0\0\0\0\0\0\0@ue.}";

fn check(what: &str, seeds: &[Bytes], pieces: &[&str], read: impl Fn(&[u8]) -> bool) {
    for seed in seeds {
        assert!(read(seed), "{what}: {}", String::from_utf8_lossy(seed));
    }
    let mut accepted = 0;
    for round in 0..ROUNDS {
        let mut rng = Rng::with_seed(round);
        let (seed, other) = (&seeds[rng.usize(..seeds.len())], &seeds[rng.usize(..seeds.len())]);
        let mut text = mutate(&mut rng, seed, other).to_vec();
        if let Some(piece) = rng.choice(pieces)
            && rng.bool()
        {
            let at = rng.usize(..=text.len());
            drop(text.splice(at..at, piece.bytes()));
        }
        match catch_unwind(AssertUnwindSafe(|| read(&text))) {
            Ok(was_accepted) => accepted += u64::from(was_accepted),
            Err(panic) => {
                println!("{what}, round {round}: {}", String::from_utf8_lossy(&text));
                resume_unwind(panic);
            }
        }
    }
    println!("{what}: {accepted} of {ROUNDS} accepted");
    assert!(accepted > 0 && accepted < ROUNDS, "{what}: {accepted} of {ROUNDS} accepted");
}

#[test]
fn no_kernelspec_breaks_us() {
    check("kernel.json", &files("kernel.json"), &[], exercise::kernelspec);
}

#[test]
fn no_manifest_breaks_us() {
    check("plugin.toml", &files("conformance/plugin.toml"), TOML, exercise::manifest);
}

#[test]
fn no_language_breaks_us() {
    check("language.toml", &files("language.toml"), TOML, exercise::language);
}

#[test]
fn no_notebook_breaks_us() {
    check("notebook", &[NOTEBOOK.into()], &[], exercise::notebook);
}

#[test]
fn no_rpc_message_breaks_us() {
    let seeds: Vec<Bytes> = RPC.iter().map(|&text| text.into()).collect();
    check("RPC message", &seeds, &[], exercise::rpc);
    // What is broken in the pickle is an error as the response, so all whose beginning is whole is accepted.
    check("pickle", &[PICKLE.into()], &[], exercise::rpc);
}

#[test]
fn no_answer_to_a_batch_breaks_us() {
    let mut seeds: Vec<Bytes> = [
        r#"{"outcomes":[{"result":1,"ms":0.5},{"error":{"code":-32000,"message":"m","data":{"kind":"Raised"}}}]}"#,
        r#"{"results":[1,{"a":[2]}]}"#,
        r#"{"done":2}"#,
        r#"{"columns":{"a":[1,null],"b":["x","y"]}}"#,
        r#"{"packed":{"$blob":"1","dtype":"u8","shape":[29],"bytes":true},"columns":{"i":"i32","f":"f64","s":"str","l":[1,2]}}"#,
    ]
    .map(|answer| format!("2\0{answer}\0\u{1}\0\0\0\u{2}\0\0\012345678abcdefgh\u{e9}\0x\0").into())
    .into();
    #[cfg(feature = "arrow")]
    {
        use arrow_array::{Int64Array, RecordBatch, StringArray};

        let ids = std::sync::Arc::new(Int64Array::from(vec![Some(1), None])) as _;
        let texts = std::sync::Arc::new(StringArray::from(vec![Some("x"), None])) as _;
        let table = RecordBatch::try_from_iter([("id", ids), ("text", texts)]).expect("a table");
        let stream = kernelbridge::table::write(&table).expect("written");
        seeds.push([&b"2\0{\"table\":1}\0"[..], &stream].concat().into());
    }
    let pieces = ["\"ascii\"", "\"bool\"", "\"str 9\"", "null", "9999999999", "-1", "1e9", "\0", "\u{ff}"];
    check("answer", &seeds, &pieces, exercise::answer);
}

#[test]
fn no_frame_breaks_us() {
    let framed = |text: &&str| Bytes::from(format!("{}\n{text}", text.len()).repeat(2));
    let seeds: Vec<Bytes> = RPC.iter().map(framed).collect();
    check("frames", &seeds, &["1073741824\n", "-1\n", "0\n", "+3\n", " 3 \n", "999999999999\n"], exercise::frames);
}

#[test]
fn no_zeromq_breaks_us() {
    let hello = [&zmtp::GREETING[..], &zmtp::encode_command(&zmtp::ready(zmtp::SocketType::Dealer, b"id"))].concat();
    let message = |frames: &[&str]| zmtp::encode(frames.iter().map(|frame| Bytes::from(frame.to_string())).collect());
    let large = "x".repeat(300);
    let seeds: Vec<Bytes> = [
        message(&["", "<IDS|MSG>", "signature", "{}", "{}", "{}", "{}"]),
        message(&[&large, &large, "", &large]),
        message(&[&large, &large, &large, &large]),
        message(&[""; 21]),
        vec![zmtp::encode_command(b"\x04PING\0\x0aid"), zmtp::encode_command(b"\x05ERROR\x02no")],
    ]
    .map(|pieces| [&hello[..], &pieces.concat(), b"\0\x01x"].concat().into())
    .into();
    let pieces = [
        "\u{1}\0",
        "\u{4}\u{5}\u{4}PONG",
        "\u{2}\0\0\0\0\0\0\u{7}\u{1}",
        "\u{2}\u{7f}",
        "\u{3}\0\0\0\0\0\0\0\0",
        "\u{8}",
    ];
    check("ZeroMQ", &seeds, &pieces, exercise::zmtp);
}
