//! Ends our kernels if this process is killed.
//!
//! Half of all kernels live on when their parent is killed with SIGKILL (Deno, Node, ilua, R, Julia, JVM kernels), and
//! the interpreters behind wrapper kernels live on even when the wrapper dies (swipl, lua). PR_SET_PDEATHSIG reaches
//! the direct child only. So one small `sh` waits, in a session of its own, for a pipe from us to close; then it kills
//! whatever carries our mark in its environment and removes our folders. It ends when the last kernel does.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use crate::provision::Folder;

/// Environment variable that marks all descendants of this process.
pub const HOST_MARK: &str = "KERNELBRIDGE_HOST";

/// `$1`: our mark; the others: where the folders are. Three passes, as a process may fork while it is looked for.
const SCRIPT: &str = r#"
while read -r line; do [ "$line" = done ] && exit 0; done
for pass in 1 2 3; do
    for file in $(grep -lsF "KERNELBRIDGE_HOST=$1" /proc/[0-9]*/environ); do
        pid=${file#/proc/}
        kill -9 "${pid%/environ}" 2>/dev/null
    done
    sleep 0.1
done
rm -rf "$2/kernelbridge-$1-"* "$3/kernelbridge-$1-"* "$4/kernelbridge-$1-"*
"#;

/// A running guardian, shared by all kernels of this process.
#[derive(Debug)]
pub struct Guardian {
    id: String,
    child: Mutex<Child>,
}

static GUARDIAN: Mutex<Weak<Guardian>> = Mutex::new(Weak::new());

impl Guardian {
    /// The guardian of this process; starts one if there is none.
    ///
    /// # Errors
    ///
    /// When `sh` cannot be run.
    pub fn get() -> io::Result<Arc<Self>> {
        let mut current = GUARDIAN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guardian) = current.upgrade() {
            return Ok(guardian);
        }
        // Half of it is unique enough, and leaves room in the folders' paths: those of Unix sockets end at 107 bytes.
        let id = uuid::Uuid::new_v4().simple().to_string()[..16].to_owned();
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "kernelbridge-guardian", &id]).args(Folder::bases());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: setsid is async-signal-safe, and nothing is allocated between fork and exec.
        unsafe {
            command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
        }
        let guardian = Arc::new(Self { id, child: Mutex::new(command.spawn()?) });
        *current = Arc::downgrade(&guardian);
        Ok(guardian)
    }

    /// The mark.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Guardian {
    /// All kernels have ended: tell it so, and it exits at once.
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut stdin) = child.stdin.take() {
            // If it is gone already, there is nothing to tell.
            let _ = stdin.write_all(b"done\n");
        }
        let _ = child.wait();
    }
}
