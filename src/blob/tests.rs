use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::value::RawValue;

use super::{object::Description, *};
use crate::provision::Folder;

/// A pool of its own, and a plugin's folder beside it.
struct Bench {
    pool: Arc<Pool>,
    folder: Folder,
    outbox: Outbox,
}

impl Bench {
    fn new(copies: bool) -> Self {
        let pool = Arc::new(Pool::new(1 << 20).expect("a pool"));
        let folder = Folder::blobs("test").expect("a folder");
        let outbox = Outbox::open(pool.clone(), folder.path(), copies).expect("opens");
        Self { pool, folder, outbox }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    fn adopt(&self, name: &str, shape: &str) -> Result<Parcel, String> {
        let text = format!(r#"[{{"$blob":{},"dtype":"u8","shape":{shape}}}]"#, serde_json::json!(name));
        adopt(RawValue::from_string(text).expect("JSON"), Some(&self.outbox), 1000).map_err(|error| error.to_string())
    }

    fn files(&self) -> usize {
        fs::read_dir(self.pool.path()).expect("a folder").count()
    }
}

fn bytes_of(parcel: &Parcel) -> Vec<u8> {
    parcel.held().iter().flat_map(|blob| blob.bytes().to_vec()).collect()
}

#[test]
fn a_plugins_file_is_moved_and_goes_with_who_holds_it() {
    for copies in [false, true] {
        let bench = Bench::new(copies);
        let path = bench.put("1", b"abc");
        let parcel = bench.adopt("1", "[3]").expect("a blob");
        assert!(!path.exists() && bench.files() == 1);
        assert_eq!(bytes_of(&parcel), b"abc");
        assert!(parcel.get().contains(bench.pool.path().to_str().expect("text")), "{}", parcel.get());
        let other = parcel.clone();
        drop(parcel);
        assert_eq!((bytes_of(&other), bench.files()), (b"abc".to_vec(), 1));
        drop(other);
        assert_eq!(bench.files(), 0);
        // The whole path means the same.
        let path = bench.put("2", b"abc");
        assert_eq!(bytes_of(&bench.adopt(path.to_str().expect("text"), "[3,1]").expect("a blob")), b"abc");
    }
}

#[test]
fn what_is_no_plain_file_of_the_plugins_is_refused_and_left_alone() {
    let bench = Bench::new(false);
    let secret = tempfile::NamedTempFile::new().expect("a file");
    fs::write(&secret, b"abc").expect("written");
    let inside = |name: &str| bench.folder.path().join(name);
    symlink(secret.path(), inside("link")).expect("a link");
    bench.put("first", b"abc");
    fs::hard_link(inside("first"), inside("second")).expect("linked");
    nix::unistd::mkfifo(&inside("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    fs::create_dir(inside("folder")).expect("made");
    bench.put("folder/3", b"abc");
    let check = |name: &str, why: &str| {
        let error = bench.adopt(name, "[3]").expect_err(name);
        assert!(error.contains(why), "{name}: {error}");
    };
    let outside = "which is not in the plugin's own folder ($KERNELBRIDGE_BLOBS)";
    let up = format!("../{}", secret.path().file_name().expect("a name").display());
    let through = format!("{}/../x", bench.folder.path().display());
    for name in ["/etc/passwd", "", ".", "..", ".hidden", "folder/3", "a\0b", &up, &through, &"x".repeat(200)] {
        check(name, outside);
    }
    check(secret.path().to_str().expect("text"), outside);
    check("missing", "`$blob` names `missing`, and there is no such file");
    check("link", "which is a link");
    check("fifo", "which is no plain file");
    check("folder", "which is no plain file");
    check("first", "which has other names, too");
    assert_eq!(bench.files(), 0);
    assert_eq!(fs::read(secret.path()).expect("there"), b"abc");
}

#[test]
fn what_a_plugin_says_of_its_file_has_to_be_true() {
    let bench = Bench::new(false);
    let check = |size: usize, shape: &str, why: &str| {
        bench.put("x", &vec![7; size]);
        let error = bench.adopt("x", shape).expect_err(shape);
        assert!(error.contains(why), "{error}");
        assert_eq!(bench.files(), 0);
    };
    check(3, "[4]", "an array of u8 of shape [4] does not have 3 bytes");
    check(3, "[]", "an array of u8 of shape [] does not have 3 bytes");
    check(3, "[9007199254740991,9007199254740991,9007199254740991]", "does not have 3 bytes");
    check(3, "[1e400]", "`$blob` first: ");
    check(1001, "[1001]", "blobs of 1001 bytes, more than the limit of 1000; raise `result` in [limits]");
    // All blobs of a message count together.
    bench.put("1", &[1; 600]);
    bench.put("2", &[2; 600]);
    let object = |name: &str| format!(r#"{{"$blob":"{name}","dtype":"u8","shape":[600]}}"#);
    let both = RawValue::from_string(format!("[{},{}]", object("1"), object("2"))).expect("JSON");
    let error = adopt(both, Some(&bench.outbox), 1000).expect_err("too large");
    assert!(matches!(error, BlobError::TooLarge { size_bytes: 600, limit_bytes: 400 }), "{error}");
    assert_eq!(bench.files(), 0, "the first went with the second");
}

#[test]
fn whoever_keeps_a_file_open_changes_nothing_of_a_copy() {
    let bench = Bench::new(true);
    let path = bench.put("1", b"abc");
    let mut kept = fs::OpenOptions::new().write(true).open(path).expect("opens");
    let parcel = bench.adopt("1", "[3]").expect("a blob");
    kept.write_all(b"xyz").expect("writes");
    kept.set_len(0).expect("cut short");
    assert_eq!(bytes_of(&parcel), b"abc");
}

#[test]
fn what_was_never_sent_is_cleaned_away() {
    let bench = Bench::new(false);
    bench.put("1", b"abc");
    symlink("/etc/passwd", bench.folder.path().join("2")).expect("a link");
    bench.outbox.clean().expect("cleaned");
    assert_eq!(fs::read_dir(bench.folder.path()).expect("there").count(), 0);
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn the_sum_of_all_blobs_is_bounded() {
    let pool = Arc::new(Pool::new(1000).expect("a pool"));
    let write = |size: usize| pool.write(Description::bytes(size), &vec![1; size]);
    let first = write(600).expect("fits");
    let error = write(500).expect_err("does not fit");
    assert_eq!(
        error.to_string(),
        "500 bytes more than the 600 in blobs that are held now would be over the limit of 1000 for all blobs of this \
         process; drop arrays that are not needed any more, or send less at once"
    );
    assert!(pool.reserve(401).is_err());
    let second = write(400).expect("fits");
    drop(first);
    drop(pool.reserve(600).expect("fits"));
    write(600).expect("fits");
    assert_eq!(fs::read_dir(pool.path()).expect("there").count(), 1);
    drop(second);
    let (path, mode) = (pool.path().to_owned(), fs::metadata(pool.path()).expect("there").permissions().mode());
    assert_eq!(mode & 0o777, 0o700);
    drop(pool);
    assert!(!path.exists());
}

#[test]
fn arrays_are_what_they_were_made_of() {
    for length in [0, 1, 7, SMALLEST_BYTES / 8 - 1, SMALLEST_BYTES / 8, 100_000] {
        let numbers: Vec<f64> = (0..length).map(|n| n as f64 - 0.5).collect();
        let array = Array::from(&numbers);
        assert_eq!((array.dtype(), array.shape(), array.is_bytes()), (Dtype::F64, &[length][..], false));
        assert_eq!(array.as_slice::<f64>().expect("its type"), numbers);
        let text = serde_json::to_string(&array).expect("JSON");
        assert_eq!(text.contains("/kernelbridge-"), length * 8 >= SMALLEST_BYTES, "{text:.300}");
        let back: Array = read(&text).expect("an array");
        assert_eq!(back, array);
        let list: Vec<f64> = read(&text).expect("a list");
        assert_eq!(list, numbers);
        drop(array);
        assert_eq!(back.as_slice::<f64>().expect("its type"), numbers);
        drop(back);
        if length * 8 >= SMALLEST_BYTES {
            let error = read::<Array>(&text).expect_err("nobody holds it").to_string();
            assert!(error.contains("which is no blob that anybody holds; an `Array` has to be kept"), "{error}");
        }
    }
}

#[test]
fn elements_are_converted_only_when_that_is_asked_for() {
    let array = Array::new(&[1i32, -2, 3, 4], &[2, 2]).expect("an array");
    assert_eq!(array.to_vec::<f64>().expect("numbers"), [1.0, -2.0, 3.0, 4.0]);
    assert_eq!(array.to_vec::<u8>().expect("numbers"), [1, 0, 3, 4]);
    assert_eq!(array.as_slice::<f64>().expect_err("i32").to_string(), "an array of i32, not of f64; `to_vec` converts");
    assert_eq!(
        Array::new(&[1i32], &[2]).expect_err("one").to_string(),
        "an array of i32 of shape [2] does not have 4 bytes"
    );
    assert!(ArrayMut::<f64>::zeroed(&[usize::MAX, 2]).is_err());
    let list: Array = read("[[1,2],[3,4]]").expect("a list");
    assert_eq!((list.dtype(), list.shape()), (Dtype::I64, &[2, 2][..]));
    let list: Array = read("[0.5,null]").expect("a list");
    assert!(list.as_slice::<f64>().expect("floats")[1].is_nan());
    assert_eq!(read::<Array>("true").expect("one").shape(), [] as [usize; 0]);
    for none in ["[[1],[2,3]]", "\"text\"", "[\"a\"]", "{}", "[[1],2]"] {
        assert!(read::<Array>(none).is_err(), "{none}");
    }
}

#[test]
fn an_array_is_filled_where_it_lies() {
    for shape in [[3, 5], [300, 500]] {
        let mut table = ArrayMut::<i64>::zeroed(&shape).expect("room");
        assert!(table.iter().all(|&element| element == 0));
        for (index, element) in table.iter_mut().enumerate() {
            *element = index as i64;
        }
        let table = table.finish().expect("an array");
        let expected: Vec<i64> = (0..(shape[0] * shape[1]) as i64).collect();
        assert_eq!((table.shape(), table.as_slice::<i64>().expect("its type")), (&shape[..], &expected[..]));
    }
}

#[test]
fn inside_of_values_they_are_found_and_held() {
    let array = Array::from(&vec![1.0; 10_000]);
    let parcel = Parcel::pack(&serde_json::json!({ "a": [array], "b": 1 })).expect("JSON");
    drop(array);
    #[derive(serde::Deserialize)]
    struct Both {
        a: Vec<Array>,
        b: i32,
    }
    let both: Both = parcel.read().expect("both");
    assert_eq!((both.a[0].len(), both.b), (10_000, 1));
    let value: serde_json::Value = parcel.read().expect("any");
    assert_eq!(value["a"][0].as_array().map(Vec::len), Some(10_000), "a `Value` has no arrays, so it gets a list");
    let inline = parcel.clone().inline().expect("chunks");
    drop((parcel, both));
    let both: Both = read(inline.get()).expect("still there");
    assert_eq!(both.a[0].as_slice::<f64>().expect("floats"), [1.0; 10_000]);
}
