//! The store from outside: versions, two handles at once, and other programs.

use std::{sync::Arc, thread};

use super::*;

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("JSON")
}

fn memory() -> Store {
    Store::open_in_memory().expect("opens")
}

fn text_of(store: &Store, key: &str) -> Option<String> {
    store.get(key).expect("reads").map(|value| value.get().to_owned())
}

/// A file in a folder of its own.
fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("kernelbridge.db");
    (folder, path)
}

#[test]
fn values_come_back_byte_for_byte() {
    let store = memory();
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    for text in ["null", "1.0", "10000000000000000000000001", r#"{ "b" : 1,  "a" : 2 }"#, r#""\u0000\ud83c 𝄞""#, &deep]
    {
        store.set("k", &json(text), "test").expect("sets");
        assert_eq!(text_of(&store, "k").as_deref(), Some(text));
    }
    assert_eq!(text_of(&store, "other"), None);
}

#[test]
fn big_values_fit() {
    let store = memory();
    let text = format!("\"{}\"", "x".repeat(10 << 20));
    store.set("big", &json(&text), "test").expect("sets");
    assert_eq!(text_of(&store, "big"), Some(text));
}

#[test]
fn entries_say_when_and_by_whom() {
    let store = memory();
    store.set("k", &json("1"), "quake-geo").expect("sets");
    let entry = store.read("k").expect("reads").expect("is there");
    assert_eq!((entry.value.get(), entry.version, entry.updated_by.as_str()), ("1", 1, "quake-geo"));
    chrono::DateTime::parse_from_rfc3339(&entry.updated_at).expect("RFC 3339");
}

#[test]
fn a_version_never_comes_back() {
    let store = memory();
    assert_eq!(store.set("a", &json("1"), "").expect("sets"), 1);
    assert_eq!(store.set("a", &json("1"), "").expect("sets"), 2);
    assert_eq!(store.set("a", &json("1"), "").expect("sets"), 3);
    assert!(store.delete("a").expect("deletes"));
    assert!(!store.delete("a").expect("deletes"));
    assert_eq!(store.set("a", &json("1"), "").expect("sets"), 4);
    assert!(store.delete("a").expect("deletes"));
    assert_eq!(store.swap("a", 0, &json("1"), "").expect("swaps"), Swap::Swapped { version: 5 });
}

#[test]
fn a_swap_writes_only_over_the_version_it_names() {
    let store = memory();
    let swap = |expected, text: &str| store.swap("k", expected, &json(text), "").expect("swaps");
    assert_eq!(swap(1, "1"), Swap::Conflict { version: 0 });
    assert_eq!(swap(0, "1"), Swap::Swapped { version: 1 });
    assert_eq!(swap(0, "2"), Swap::Conflict { version: 1 });
    assert_eq!(swap(1, "2"), Swap::Swapped { version: 2 });
    assert_eq!(swap(1, "3"), Swap::Conflict { version: 2 });
    assert_eq!(swap(u64::MAX, "3"), Swap::Conflict { version: 2 });
    assert_eq!(text_of(&store, "k").as_deref(), Some("2"));
}

#[test]
fn a_prefix_is_never_a_wildcard() {
    let store = memory();
    let keys =
        ["100%", "100x", "A", "a", "a_b", "axb", "a_", "a%", "ä", "z\u{d7ff}x", "z\u{e000}", "z\u{10ffff}q", "β"];
    for key in keys {
        store.set(key, &json("1"), "").expect("sets");
    }
    let check = |prefix: &str| {
        let mut expected: Vec<_> = keys.iter().filter(|key| key.starts_with(prefix)).collect();
        expected.sort();
        assert_eq!(store.list(prefix).expect("lists").iter().collect::<Vec<_>>(), expected, "{prefix:?}");
    };
    for prefix in
        ["", "a", "a_", "a%", "100%", "A", "z", "z\u{d7ff}", "z\u{10ffff}", "\u{10ffff}", "ä", "none", "%", "_"]
    {
        check(prefix);
    }
}

#[test]
fn two_handles_that_count_together_lose_nothing() {
    let (_folder, path) = file();
    let count = |path: PathBuf, by: &'static str| {
        thread::spawn(move || {
            let store = Store::open(path).expect("opens");
            for _ in 0..1000 {
                loop {
                    let entry = store.read("n").expect("reads");
                    let (n, version) =
                        entry.map_or((0, 0), |entry| (entry.value.get().parse().expect("number"), entry.version));
                    let next: u32 = n + 1;
                    let swap = store.swap("n", version, &json(&next.to_string()), by).expect("swaps");
                    if matches!(swap, Swap::Swapped { .. }) {
                        break;
                    }
                }
            }
        })
    };
    let counters = [count(path.clone(), "one"), count(path.clone(), "two")];
    counters.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let store = Store::open(&path).expect("opens");
    assert_eq!(text_of(&store, "n").as_deref(), Some("2000"));
    assert_eq!(store.read("n").expect("reads").map(|entry| entry.version), Some(2000));
}

#[test]
fn one_handle_serves_many_threads() {
    let store = Arc::new(memory());
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                for _ in 0..100 {
                    store.set("k", &json(&i.to_string()), "").expect("sets");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(store.read("k").expect("reads").map(|entry| entry.version), Some(400));
}

#[test]
fn a_store_outlives_its_handle() {
    let (_folder, path) = file();
    Store::open(&path).expect("opens").set("k", &json("[1]"), "").expect("sets");
    assert_eq!(text_of(&Store::open(&path).expect("opens"), "k").as_deref(), Some("[1]"));
}

#[test]
fn plain_sqlite_reads_and_writes_the_table() {
    let (_folder, path) = file();
    let store = Store::open(&path).expect("opens");
    store.set("k", &json(r#"{"n":1}"#), "quake-geo").expect("sets");

    let other = Connection::open(&path).expect("opens");
    let row = other
        .query_row("SELECT json_extract(value, '$.n'), version, updated_by FROM state WHERE key = 'k'", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
        })
        .expect("reads");
    assert_eq!(row, (1, 1, "quake-geo".to_owned()));

    // Programs that know nothing of versions still raise them.
    other.execute("UPDATE state SET value = '2' WHERE key = 'k'", []).expect("updates");
    assert_eq!(store.swap("k", 1, &json("3"), "").expect("swaps"), Swap::Conflict { version: 2 });
    other.execute("DELETE FROM state WHERE key = 'k'", []).expect("deletes");
    other.execute("INSERT INTO state (key, value) VALUES ('k', '4')", []).expect("inserts");
    let entry = store.read("k").expect("reads").expect("is there");
    assert_eq!((entry.value.get(), entry.version), ("4", 3));
    let upsert = "INSERT INTO state (key, value) VALUES ('k', '5') \
         ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_by = 'me'";
    other.execute(upsert, []).expect("upserts");
    let entry = store.read("k").expect("reads").expect("is there");
    assert_eq!((entry.value.get(), entry.version, entry.updated_by.as_str()), ("5", 4, "me"));
    other.execute("INSERT INTO state (key, value) VALUES ('blob', x'00')", []).expect_err("only text");
}

#[track_caller]
fn refused<T>(result: Result<T, StoreError>, expected: &str) {
    assert_eq!(result.map(drop).expect_err("refused").to_string(), expected);
}

#[test]
fn what_is_not_json_is_an_error_that_names_the_key() {
    let (_folder, path) = file();
    let store = Store::open(&path).expect("opens");
    let other = Connection::open(&path).expect("opens");
    other.execute("INSERT INTO state (key, value) VALUES ('k', 'oops')", []).expect("inserts");
    refused(store.get("k"), &format!("the value of `k` in the state file `{}` is not JSON", path.display()));
}

#[test]
fn newer_and_foreign_files_are_left_alone() {
    let (_folder, path) = file();
    drop(Store::open(&path).expect("opens"));
    Connection::open(&path).expect("opens").pragma_update(None, "user_version", 3).expect("updates");
    let newer = "has schema version 3, this kernelbridge understands 2; use a newer kernelbridge";
    refused(Store::open(&path), &format!("`{}` {newer}", path.display()));

    let foreign = path.with_file_name("foreign.db");
    for version in [0, 1, 2] {
        let other = Connection::open(&foreign).expect("opens");
        other.pragma_update(None, "journal_mode", "DELETE").expect("updates");
        other.execute("CREATE TABLE IF NOT EXISTS mine (x)", []).expect("creates");
        other.pragma_update(None, "user_version", version).expect("updates");
        drop(other);
        let text = "is not a kernelbridge state file and was left alone; give another path with --state";
        let before = std::fs::read(&foreign).expect("reads");
        refused(Store::open(&foreign), &format!("`{}` {text}", foreign.display()));
        assert!(before == std::fs::read(&foreign).expect("reads"), "the file was changed");
    }

    let notes = path.with_file_name("notes.txt");
    std::fs::write(&notes, "just some notes, ".repeat(100)).expect("writes");
    let text = "is not a kernelbridge state file and was left alone; give another path with --state";
    refused(Store::open(&notes), &format!("`{}` {text}", notes.display()));
}

#[test]
fn a_missing_folder_is_named() {
    let (_folder, path) = file();
    let path = path.with_file_name("nowhere").join("kernelbridge.db");
    let text = "does its folder exist, and may you write there?";
    refused(Store::open(&path), &format!("cannot open the state file `{}`; {text}", path.display()));
}

#[test]
fn bad_keys_are_refused() {
    let store = memory();
    refused(store.get(""), "state key `` is not allowed: it is empty");
    refused(store.delete("a\0b"), "state key `a\0b` is not allowed: it holds the character U+0000");
    let long = "k".repeat(1001);
    let shown = "k".repeat(40);
    refused(
        store.set(&long, &json("1"), ""),
        &format!("state key `{shown}` is not allowed: it is longer than 1000 bytes"),
    );
}

#[test]
fn many_may_create_the_file_at_once() {
    for _ in 0..20 {
        let (_folder, path) = file();
        let threads: Vec<_> = (0..8)
            .map(|i: u32| {
                let path = path.clone();
                thread::spawn(move || Store::open(path).and_then(|store| store.set(&i.to_string(), &json("1"), "")))
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic").expect("opens and sets");
        }
        assert_eq!(Store::open(&path).expect("opens").list("").expect("lists").len(), 8);
    }
}

/// A file as the first release made it.
#[test]
fn version_1_is_brought_up_to_date() {
    let (_folder, path) = file();
    let old = Connection::open(&path).expect("opens");
    old.execute_batch(include_str!("schema.sql")).expect("made");
    old.execute("INSERT INTO state (key, value) VALUES ('k', '1')", []).expect("inserts");
    old.pragma_update(None, "user_version", 1).expect("updates");
    drop(old);
    for _ in 0..2 {
        let store = Store::open(&path).expect("opens");
        assert_eq!(store.get("k").expect("readable").expect("there").get(), "1");
        assert_eq!(store.backlog_len("p").expect("readable"), 0);
    }
}

fn stored(plugin: &str, id: u32) -> StoredEvent {
    StoredEvent {
        plugin: plugin.into(),
        handler: "a.* f".into(),
        event_id: format!("e-{id}"),
        topic: "a.b".into(),
        time: "2026-01-02T03:04:05.678Z".into(),
        key: id.is_multiple_of(2).then(|| format!("k{id}")),
        data: format!("{{\"n\":{id}}}"),
    }
}

#[test]
fn the_backlog_keeps_its_order_until_it_is_acknowledged() {
    let (_folder, path) = file();
    let store = Store::open(&path).expect("opens");
    let seqs: Vec<i64> = (0..5).map(|id| store.append(&stored("p", id)).expect("appended")).collect();
    store.append(&stored("q", 9)).expect("appended");
    store.tried(seqs[1], 2).expect("counted");
    store.acknowledge(&seqs[2..4]).expect("acknowledged");
    drop(store);
    let store = Store::open(&path).expect("opens");
    let rows = store.backlog("p", 0, 2).expect("readable");
    let rows: Vec<_> = rows.into_iter().chain(store.backlog("p", seqs[1], 10).expect("readable")).collect();
    let found: Vec<_> = rows.iter().map(|row| (row.seq, row.attempts, row.event.clone())).collect();
    let expected = [(seqs[0], 0, stored("p", 0)), (seqs[1], 2, stored("p", 1)), (seqs[4], 0, stored("p", 4))];
    assert_eq!(found, expected);
    assert_eq!((store.backlog_len("p").expect("counted"), store.backlog_len("q").expect("counted")), (3, 1));
}

#[test]
fn dead_letters_are_listed_retried_and_dropped() {
    let store = Store::open_in_memory().expect("opens");
    let seq = store.append(&stored("p", 0)).expect("appended");
    let first = store.bury(&stored("p", 0), 3, "{\"message\":\"no\"}", Some(seq)).expect("buried");
    let second = store.bury(&stored("q", 1), 1, "{}", None).expect("buried");
    assert_eq!(store.backlog_len("p").expect("counted"), 0);
    let letter = store.dead_letter(first).expect("readable").expect("there");
    assert_eq!((letter.event, letter.attempts, letter.error.as_str()), (stored("p", 0), 3, "{\"message\":\"no\"}"));
    assert_eq!(store.dead_letters(Some("q"), 10).expect("readable").len(), 1);
    assert_eq!(store.dead_letter_counts().expect("counted"), [("p".into(), 1), ("q".into(), 1)]);

    assert_eq!(store.retry_dead_letters(&[first, 99]).expect("retried"), 1);
    assert_eq!(store.backlog("p", 0, 10).expect("readable")[0].event, stored("p", 0));
    store.request_release("q").expect("asked");
    store.request_release("r").expect("asked");
    assert!(store.withdraw_release("r").expect("withdrawn") && !store.withdraw_release("p").expect("none"));
    let asked = [Request::Retry("p".into()), Request::Release("q".into())];
    assert_eq!(store.requests().expect("readable"), asked);
    let taken = store.take_requests(&["p", "q", "r"]).expect("taken");
    assert_eq!(taken, asked);
    assert_eq!(store.take_requests(&["p", "q"]).expect("taken"), []);
    assert_eq!(store.drop_dead_letters(&[second, second]).expect("dropped"), 1);
    assert_eq!(store.dead_letters(None, 10).expect("readable"), []);
}

#[test]
fn an_event_writes_a_key_once() {
    let store = Store::open_in_memory().expect("opens");
    let swap = |event: &str, expected, value| store.swap_once(event, "k", expected, &json(value), "p").expect("works");
    assert_eq!(swap("e1", 0, "1"), Once::Swap(Swap::Swapped { version: 1 }));
    assert_eq!(swap("e1", 1, "2"), Once::Done);
    // A conflict is none of the event's doing: it may try again.
    assert_eq!(swap("e2", 7, "2"), Once::Swap(Swap::Conflict { version: 1 }));
    assert_eq!(swap("e2", 1, "2"), Once::Swap(Swap::Swapped { version: 2 }));
    assert_eq!(
        store.swap_once("e1", "other", 0, &json("1"), "p").expect("works"),
        Once::Swap(Swap::Swapped { version: 1 })
    );
    assert_eq!(store.forget_old().expect("works"), 0);
    assert_eq!(swap("e2", 2, "3"), Once::Done);
}
