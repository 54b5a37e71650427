//! Large values by reference: hostile plugins, sandboxes, and that nothing is left.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use kernelbridge::{
    blob::{Array, Pool, blobs},
    host::{BuildError, Host},
    rpc::ErrorKind,
};
use serde_json::{Value, json};

use crate::support::{Installed, is_required, resident_bytes, root};

const PLUGIN: &str = r#"
import os

OUTBOX = os.environ["KERNELBRIDGE_BLOBS"]
kept = []

@bridge.export
def hello():
    return "hello"

@bridge.export
def length(x):
    return len(x)

@bridge.export
def identity(x):
    return x

@bridge.export
def lie(name, size, shape):
    """A file of that size, and what a plugin says of it; without a size there is none."""
    if size is not None:
        with open(os.path.join(OUTBOX, name), "wb") as file:
            file.write(bytes(size))
    return {"$blob": name, "dtype": "u8", "shape": shape}

@bridge.export
def link(to):
    os.symlink(to, os.path.join(OUTBOX, "link"))
    return {"$blob": "link", "dtype": "u8", "shape": [os.stat(to).st_size]}

@bridge.export
def pool_of_host():
    own = os.path.basename(OUTBOX)
    here, prefix = os.path.dirname(OUTBOX), own.rsplit("-", 1)[0]
    found = [name for name in os.listdir(here) if name.startswith(prefix) and name != own]
    return [os.path.join(here, folder, file) for folder in found for file in os.listdir(os.path.join(here, folder))]

@bridge.export
def keep_open(size):
    path = os.path.join(OUTBOX, "kept")
    kept.append(open(path, "wb+", buffering=0))
    kept[-1].write(bytes(size))
    return {"$blob": path, "dtype": "u8", "shape": [size]}

@bridge.export
def cut_short():
    kept[-1].truncate(0)
    return kept[-1].seek(0, 2)

@bridge.export
def try_write(path):
    try:
        os.close(os.open(path, os.O_WRONLY))
        return "ok"
    except OSError as error:
        return error.strerror

@bridge.export
def leave_a_file():
    with open(os.path.join(OUTBOX, "left"), "wb") as file:
        file.write(bytes(1000))

@bridge.export
def outbox():
    return [OUTBOX, os.listdir(OUTBOX)]
"#;

async fn host(dir: &Path, extra: &str, limits: &str) -> Host {
    build(dir, extra, limits).await.expect("loads")
}

async fn build(dir: &Path, extra: &str, limits: &str) -> Result<Host, BuildError> {
    let manifest = format!(
        "[plugin]\nname = \"p\"\nversion = \"1.0.0\"\nlanguage = \"python\"\nentry = \"plugin.py\"\nbridge = \"1\"\n\
         carrier = \"pipe\"\n{extra}\n[limits]\n{limits}"
    );
    fs::write(dir.join("plugin.toml"), manifest).expect("written");
    fs::write(dir.join("plugin.py"), PLUGIN).expect("written");
    Host::builder().plugin(dir).build().await
}

#[tokio::test]
async fn a_plugin_that_lies_about_its_files_gets_an_error_and_no_file() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = host(dir.path(), "", "result = \"1MiB\"").await;
    let outside = "which is not in the plugin's own folder ($KERNELBRIDGE_BLOBS)";
    let passwd = fs::metadata("/etc/passwd").expect("there").len();
    let held = Array::from(&vec![1u8; 100_000]);
    let others: Vec<String> = host.call("p.pool_of_host", ()).await.expect("listed");
    assert!(!others.is_empty(), "it finds the host's files, as any program of the user does");
    let lies = [
        ("lie", json!(["/etc/passwd", null, [passwd]]), outside),
        ("lie", json!(["../../etc/passwd", null, [passwd]]), outside),
        ("lie", json!([others[0], null, [100_000]]), outside),
        ("lie", json!(["missing", null, [10]]), "`$blob` names `missing`, and there is no such file"),
        ("lie", json!(["a", 10, [11]]), "an array of u8 of shape [11] does not have 10 bytes"),
        ("lie", json!(["b", 10, [-1]]), "`shape` has -1"),
        ("lie", json!(["c", 2_000_000, [2_000_000]]), "raise `result` in [limits]"),
        ("link", json!(["/etc/passwd"]), "`$blob` names `link`, which is a link"),
    ];
    for (function, args, why) in lies {
        let result = host.call::<Value>(&format!("p.{function}"), &args).await;
        let error = result.expect_err("refused");
        assert_eq!((error.kind, &*error.plugin), (ErrorKind::Invalid, "p"), "{args}: {error}");
        assert!(error.message.contains(why), "{args}: {error}");
    }
    assert_eq!(host.call::<String>("p.hello", ()).await.expect("goes on"), "hello");
    drop(held);
    host.shutdown().await;
}

#[tokio::test]
async fn what_a_handler_left_behind_goes_with_its_turn() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = host(dir.path(), "", "").await;
    host.call::<Value>("p.leave_a_file", ()).await.expect("left");
    // Longer than a turn lingers.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (outbox, files): (PathBuf, Vec<String>) = host.call("p.outbox", ()).await.expect("listed");
    assert!(files.is_empty(), "{files:?}");
    host.shutdown().await;
    assert!(!outbox.exists());
}

#[tokio::test]
async fn a_read_only_plugin_has_arrays_but_cannot_change_the_hosts() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = match build(dir.path(), "sandbox = [\"read-only\", \"no-network\"]", "").await {
        Ok(host) => host,
        Err(error) if error.to_string().contains("needs Landlock") => return println!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    };
    let array = Array::bytes(&vec![7; 200_000]).expect("an array");
    let back: Array = host.call("p.identity", (&array,)).await.expect("there and back");
    assert_eq!(back, array);
    let name = serde_json::to_value(&array).expect("JSON")["$blob"].clone();
    let tried: String = host.call("p.try_write", (&name,)).await.expect("tried");
    assert_eq!(tried, "Permission denied");
    // What it still has open is not what the host got.
    let kept: Array = host.call("p.keep_open", (200_000,)).await.expect("sent");
    assert_eq!(host.call::<u64>("p.cut_short", ()).await.expect("cut"), 0);
    assert_eq!(kept.as_bytes().expect("bytes"), vec![0; 200_000]);
    host.shutdown().await;
}

/// All blobs of a process are counted together, so these run in a process of their own: this test once more.
const CHILD: &str = "KERNELBRIDGE_TEST_BLOBS";

fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a program"));
    command.args([&format!("blobs::{test}"), "--exact", "--nocapture"]).env(CHILD, "1").current_dir(root());
    command
}

#[tokio::test]
async fn a_thousand_blobs_leave_no_file_and_no_memory() {
    if !Installed::look().has("python") {
        return;
    }
    if std::env::var_os(CHILD).is_none() {
        let output = child("a_thousand_blobs_leave_no_file_and_no_memory").output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = host(dir.path(), "", "").await;
    let bytes = vec![7u8; 1_000_000];
    let round = async || {
        let back: Array = host.call("p.identity", (Array::bytes(&bytes).expect("made"),)).await.expect("back");
        assert_eq!(back.len(), bytes.len());
    };
    for _ in 0..50 {
        round().await;
    }
    let before = resident_bytes();
    for _ in 0..1000 {
        round().await;
        assert!(blobs().held_bytes <= 2_000_000, "{:?}", blobs());
    }
    let counts = blobs();
    assert_eq!((counts.held, counts.made, counts.freed, counts.refused), (0, 2100, 2100, 0));
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 20_000_000, "{grown} bytes more");
    let pool = Pool::current().expect("while there is a plugin");
    let path = pool.path().to_owned();
    assert_eq!(fs::read_dir(&path).expect("there").count(), 0);
    drop(pool);
    host.shutdown().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_killed_host_leaves_no_file() {
    if !Installed::look().has("python") {
        return;
    }
    if std::env::var_os(CHILD).is_some() {
        let dir = tempfile::tempdir().expect("a folder");
        let host = host(dir.path(), "", "").await;
        let array = Array::from(&vec![1.0; 100_000]);
        let (outbox, _): (String, Value) = host.call("p.outbox", ()).await.expect("listed");
        let name = serde_json::to_value(&array).expect("JSON")["$blob"].clone();
        println!("\nFILES {}", json!([name, outbox]));
        tokio::time::sleep(Duration::from_secs(120)).await;
        return;
    }
    let mut child = child("a_killed_host_leaves_no_file").stdout(Stdio::piped()).spawn().expect("runs");
    let stdout = child.stdout.take().expect("a pipe");
    let files = std::io::BufRead::lines(std::io::BufReader::new(stdout))
        .map_while(Result::ok)
        .find_map(|line| Some(serde_json::from_str::<[PathBuf; 2]>(line.strip_prefix("FILES ")?).expect("JSON")))
        .expect("a line with the files");
    assert!(files.iter().all(|file| file.exists()), "{files:?}");
    child.kill().expect("killed");
    child.wait().expect("gone");
    let until = Instant::now() + Duration::from_secs(30);
    while files.iter().any(|file| file.exists()) {
        assert!(Instant::now() < until, "{files:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!files[0].parent().expect("a folder").exists());
}

#[tokio::test]
async fn numpy_gets_arrays_and_gives_them() {
    let Some(python) = std::env::var_os("KERNELBRIDGE_TEST_PYTHON") else {
        assert!(!is_required("python"), "KERNELBRIDGE_TEST_PYTHON is required");
        println!("skipped: KERNELBRIDGE_TEST_PYTHON is not set");
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("kernels/with-numpy");
    fs::create_dir_all(&folder).expect("a folder");
    let argv = json!([python.to_string_lossy(), "-m", "ipykernel_launcher", "-f", "{connection_file}"]);
    let kernelspec = json!({ "argv": argv, "display_name": "with numpy", "language": "python" });
    fs::write(folder.join("kernel.json"), kernelspec.to_string()).expect("written");
    let source = r#"
import sys
assert "numpy" not in sys.modules, "the shim does not load it by itself"

@bridge.export
def about(x):
    import numpy
    x += 1  # it is the author's own
    return [isinstance(x, numpy.ndarray), str(x.dtype), list(x.shape)]

@bridge.export
def made(kind, n):
    import numpy
    x = numpy.arange(n, dtype=kind).reshape(2, -1)
    return {"plain": x, "turned": x.T, "masked": numpy.ma.masked_array([1, 2], [False, True])}
"#;
    for carrier in ["pipe", "jupyter"] {
        let plugin = dir.path().join(carrier);
        fs::create_dir_all(&plugin).expect("a folder");
        fs::write(plugin.join("plugin.py"), source).expect("written");
        let manifest = format!(
            "[plugin]\nname = \"p\"\nversion = \"1.0.0\"\nkernel = \"with-numpy\"\nentry = \"plugin.py\"\nbridge = \"1\"\n\
             carrier = \"{carrier}\"\n"
        );
        fs::write(plugin.join("plugin.toml"), manifest).expect("written");
        let environment = kernelbridge::discover::Environment::capture().with_kernels_in(dir.path().join("kernels"));
        let host = Host::builder().environment(environment).plugin(&plugin).build().await.expect("loads");
        for length in [6, 60_000] {
            let array = Array::new(&vec![1.5f32; length], &[2, length / 2]).expect("made");
            let about: Value = host.call("p.about", (&array,)).await.expect("a numpy array");
            assert_eq!(about, json!([true, "float32", [2, length / 2]]));
            assert_eq!(array.as_slice::<f32>().expect("its type")[0], 1.5, "the host's own is as it was");
            #[derive(serde::Deserialize)]
            struct Made {
                plain: Array,
                turned: Array,
                masked: Value,
            }
            let made: Made = host.call("p.made", ("int64", length)).await.expect("numpy arrays");
            let expected: Vec<i64> = (0..length as i64).collect();
            assert_eq!(
                (made.plain.shape(), made.plain.as_slice::<i64>().expect("i64")),
                (&[2, length / 2][..], &expected[..])
            );
            assert_eq!(made.turned.shape(), [length / 2, 2]);
            assert_eq!(made.turned.as_slice::<i64>().expect("i64")[1], length as i64 / 2);
            assert_eq!(made.masked, json!([1, null]));
        }
        host.shutdown().await;
    }
}
