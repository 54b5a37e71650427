//! The last output of a process, bounded.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::Notify,
};

/// How much is kept.
const KEPT_BYTES: usize = 64 * 1024;

/// The last 64 KiB that a process wrote to its own stdout and stderr.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    bytes: Mutex<VecDeque<u8>>,
    arrived: Notify,
    /// Lines in which one of these occurs are not shown.
    noise: Vec<String>,
}

impl Tail {
    /// Of a process that writes lines which tell nobody anything.
    pub fn without(noise: &[String]) -> Self {
        Self(Arc::new(Kept { noise: noise.to_vec(), ..Kept::default() }))
    }

    /// Read until the end. Never blocks the process, whatever it writes.
    pub async fn fill_from(self, mut pipe: impl AsyncRead + Unpin) {
        let mut buffer = [0; 4096];
        while let Ok(size @ 1..) = pipe.read(&mut buffer).await {
            let mut kept = self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(&buffer[..size]);
            let excess = kept.len().saturating_sub(KEPT_BYTES);
            kept.drain(..excess);
            drop(kept);
            self.0.arrived.notify_one();
        }
    }

    /// Wait until what is kept is as it is `wanted`. For one waiter.
    pub async fn wait_for(&self, wanted: impl Fn(&str) -> bool) {
        while !wanted(&self.text()) {
            self.0.arrived.notified().await;
        }
    }

    /// What is kept, as text.
    pub fn text(&self) -> String {
        let mut kept = self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(kept.make_contiguous());
        let is_noise = |line: &str| self.0.noise.iter().any(|noise| line.contains(noise.as_str()));
        text.split_inclusive('\n').filter(|line| !is_noise(line)).collect::<String>().trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_end_is_kept() {
        let tail = Tail::default();
        let text = "x".repeat(KEPT_BYTES) + "the end\n";
        tail.clone().fill_from(text.as_bytes()).await;
        assert_eq!(tail.text().len(), KEPT_BYTES - 1);
        assert!(tail.text().ends_with("xthe end"));
    }

    #[tokio::test]
    async fn noise_is_left_out() {
        let tail = Tail::without(&["over TCP".into()]);
        tail.clone().fill_from(&b"first\r\n[App] WARNING | over TCP without\nlast\n"[..]).await;
        assert_eq!(tail.text(), "first\r\nlast");
    }
}
