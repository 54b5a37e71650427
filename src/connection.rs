//! Connection info: ports and key, and the JSON of a connection file.

use serde::{Deserialize, Serialize};

/// The content of a connection file.
///
/// See [connection files](https://jupyter-client.readthedocs.io/en/stable/kernels.html#connection-files).
#[derive(Clone, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// `tcp` or `ipc`.
    pub transport: String,
    /// Address, or for `ipc` the path that ports are appended to.
    pub ip: String,
    /// Requests.
    pub shell_port: u16,
    /// Outputs.
    pub iopub_port: u16,
    /// Input for the kernel's user.
    pub stdin_port: u16,
    /// Requests that must not wait behind others.
    pub control_port: u16,
    /// Heartbeat.
    pub hb_port: u16,
    /// `hmac-sha256`.
    pub signature_scheme: String,
    /// Key of the signatures.
    pub key: String,
    /// The kernelspec's name.
    #[serde(default)]
    pub kernel_name: String,
}

impl std::fmt::Debug for ConnectionInfo {
    /// The key never reaches a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionInfo")
            .field("transport", &self.transport)
            .field("ip", &self.ip)
            .field("ports", &self.ports())
            .finish_non_exhaustive()
    }
}

impl ConnectionInfo {
    /// The ports in the order shell, iopub, stdin, control, heartbeat.
    pub fn ports(&self) -> [u16; 5] {
        [self.shell_port, self.iopub_port, self.stdin_port, self.control_port, self.hb_port]
    }

    /// The ZeroMQ endpoint of a port: `tcp://127.0.0.1:5555` or `ipc:///folder/kernel-1`.
    pub fn endpoint(&self, port: u16) -> String {
        if self.transport == "ipc" { format!("ipc://{}-{port}", self.ip) } else { format!("tcp://{}:{port}", self.ip) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_by_transport_and_no_key_in_logs() {
        let json = r#"{"transport":"tcp","ip":"127.0.0.1","shell_port":1,"iopub_port":2,"stdin_port":3,"control_port":4,
            "hb_port":5,"signature_scheme":"hmac-sha256","key":"secret","kernel_name":"k","extra":1}"#;
        let mut info: ConnectionInfo = serde_json::from_str(json).expect("reads");
        assert_eq!(info.endpoint(info.stdin_port), "tcp://127.0.0.1:3");
        assert!(!format!("{info:?}").contains("secret"));
        info.transport = "ipc".into();
        info.ip = "/folder/kernel".into();
        assert_eq!(info.endpoint(2), "ipc:///folder/kernel-2");
    }
}
