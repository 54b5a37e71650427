//! The examples run, and say what their documentation says.

use std::{fs, path::Path, process::Command};

use crate::support::{Installed, root};

#[test]
fn the_quickstart_runs_and_is_short() {
    let source = fs::read_to_string(root().join("examples/quickstart.rs")).expect("the source");
    assert!(source.lines().count() <= 40, "{} lines", source.lines().count());
    if !Installed::look().has("python") {
        return;
    }
    // `cargo test` builds examples next to the binaries.
    let target = Path::new(env!("CARGO_BIN_EXE_kernelbridge")).parent().expect("a folder");
    let output = Command::new(target.join("examples/quickstart")).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = "Grüß Gott, Ada!\n       emitted person.arrived {\"name\":\"Grace\"}\n hello emitted person.counted {\"name\":\"Grace\",\"guests\":1}\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}
