//! Is a kernel listening yet? Told by the system, without knocking at the kernel's door.
//!
//! The system is asked for the listener of each port over a netlink socket, which takes microseconds. Its table of all
//! sockets in `/proc` takes 14 ms of processor time, however few there are, so it is read only where there is no netlink.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpStream},
    path::Path,
    time::Duration,
};

use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with},
};

use crate::connection::ConnectionInfo;

/// State `LISTEN` in `/proc/net/tcp`.
const LISTEN: &str = "0A";
/// The same in an answer over netlink.
const LISTEN_STATE: u8 = 10;
/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h: the question, and its answer.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR` of linux/netlink.h.
const ERROR: u16 = 2;
/// Bytes of the header of every message over netlink.
const HEADER: usize = 16;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two looks at the table, which is a multiple of what one look takes.
const TABLE_PAUSE: Duration = Duration::from_millis(30);

/// How kernels' ports are looked for.
#[derive(Debug)]
pub struct Lookout {
    netlink: Option<OwnedFd>,
}

impl Lookout {
    /// The best there is here.
    pub fn new() -> Self {
        let family = AddressFamily::NETLINK;
        let netlink = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG)).ok();
        Self { netlink }
    }

    /// How long to wait between two questions.
    pub fn pause(&self) -> Duration {
        if self.netlink.is_some() { PAUSE } else { TABLE_PAUSE }
    }

    /// Is there a listener on each of these ports?
    pub fn all(&mut self, connection: &ConnectionInfo, ports: &[u16]) -> io::Result<bool> {
        if connection.transport == "ipc" {
            return Ok(ports.iter().all(|port| Path::new(&format!("{}-{port}", connection.ip)).exists()));
        }
        if let (Some(netlink), Ok(ip)) = (&self.netlink, connection.ip.parse()) {
            for &port in ports {
                match is_listening(netlink, ip, port) {
                    Some(true) => {}
                    Some(false) => return Ok(false),
                    None => {
                        tracing::debug!("netlink does not tell who listens; reading the table of sockets instead");
                        self.netlink = None;
                        return all_in_table(connection, ports);
                    }
                }
            }
            return Ok(true);
        }
        all_in_table(connection, ports)
    }
}

/// `None` where the system does not say: a container may forbid it, a system may be without it.
fn is_listening(netlink: &OwnedFd, ip: Ipv4Addr, port: u16) -> Option<bool> {
    send(netlink, &question(ip, port), SendFlags::empty()).ok()?;
    let mut answer = [0; 1024];
    // The system has answered before `send` returns.
    let (size, _) = recv(netlink, &mut answer[..], RecvFlags::DONTWAIT).ok()?;
    read(answer.get(..size)?)
}

/// `nlmsghdr` and `inet_diag_req_v2`: which socket takes connections to this address and port? IPv6 sockets that take
/// IPv4 too, as those of JVM kernels do, count.
fn question(ip: Ipv4Addr, port: u16) -> [u8; HEADER + 56] {
    let mut question = [0; HEADER + 56];
    let length = u32::try_from(question.len()).unwrap_or_default();
    question[0..4].copy_from_slice(&length.to_ne_bytes());
    question[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    // NLM_F_REQUEST: one socket and not a list.
    question[6..8].copy_from_slice(&1u16.to_ne_bytes());
    // AF_INET, IPPROTO_TCP.
    question[HEADER..HEADER + 2].copy_from_slice(&[2, 6]);
    question[HEADER + 4..HEADER + 8].copy_from_slice(&(1u32 << LISTEN_STATE).to_ne_bytes());
    question[HEADER + 8..HEADER + 10].copy_from_slice(&port.to_be_bytes());
    question[HEADER + 12..HEADER + 16].copy_from_slice(&ip.octets());
    // INET_DIAG_NOCOOKIE.
    question[HEADER + 48..].fill(0xff);
    question
}

fn read(answer: &[u8]) -> Option<bool> {
    match u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?) {
        BY_FAMILY => Some(*answer.get(HEADER + 1)? == LISTEN_STATE),
        ERROR => {
            let code = i32::from_ne_bytes(answer.get(HEADER..HEADER + 4)?.try_into().ok()?);
            (code == -Errno::NOENT.raw_os_error()).then_some(false)
        }
        _ => None,
    }
}

fn all_in_table(connection: &ConnectionInfo, ports: &[u16]) -> io::Result<bool> {
    match fs::read_to_string("/proc/net/tcp") {
        Ok(table) => {
            // JVM kernels listen on IPv6 sockets for IPv4 addresses.
            let table = table + &fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
            Ok(ports.iter().all(|&port| is_listed(&table, port)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(ports.iter().all(|&port| TcpStream::connect((connection.ip.as_str(), port)).is_ok()))
        }
        Err(error) => Err(error),
    }
}

fn is_listed(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&suffix)) && fields.nth(1) == Some(LISTEN)
    })
}

/// The process that listens on a kernel's shell port; `None` where nobody does, or nobody may know.
pub fn process_of(connection: &ConnectionInfo) -> Option<u32> {
    let port = connection.shell_port;
    let inode = if connection.transport == "ipc" {
        let path = format!("{}-{port}", connection.ip);
        let table = fs::read_to_string("/proc/net/unix").ok()?;
        // Num RefCount Protocol Flags Type St Inode Path
        table.lines().find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let inode = fields.nth(6)?;
            (fields.next() == Some(&path)).then(|| inode.to_owned())
        })?
    } else {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let table = table + &fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
        table.lines().find(|line| is_listed(line, port))?.split_ascii_whitespace().nth(9)?.to_owned()
    };
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.find(|id| {
        // Processes of others cannot be looked into.
        let files = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|link| link.as_os_str() == socket.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listeners_count() {
        let table = "  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 0\n   1: 0100007F:1F91 0100007F:1F90 01 0\n";
        assert!(is_listed(table, 8080));
        assert!(!is_listed(table, 8081));
        assert!(!is_listed(table, 80));
    }

    /// As a kernel would be connected to: one port of those there are does not listen yet.
    #[test]
    fn netlink_and_the_table_tell_the_same() {
        use std::net::TcpListener;

        let listeners =
            ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"].map(|address| TcpListener::bind(address).expect("a port"));
        let ports = listeners.each_ref().map(|listener| listener.local_addr().expect("an address").port());
        let bound = Ipv4Addr::LOCALHOST;
        let free = {
            let listener = TcpListener::bind((bound, 0)).expect("a port");
            listener.local_addr().expect("an address").port()
        };
        let connection = ConnectionInfo {
            transport: "tcp".into(),
            ip: bound.to_string(),
            shell_port: 0,
            iopub_port: 0,
            stdin_port: 0,
            control_port: 0,
            hb_port: 0,
            signature_scheme: String::new(),
            key: String::new(),
            kernel_name: String::new(),
        };
        // A connection from a port is no listener on it.
        let busy = TcpStream::connect((bound, ports[0])).expect("connected").local_addr().expect("an address").port();
        for mut lookout in [Lookout::new(), Lookout { netlink: None }] {
            assert!(lookout.all(&connection, &ports).expect("told"), "{lookout:?}");
            for port in [free, busy] {
                assert!(!lookout.all(&connection, &[ports[0], port]).expect("told"), "{lookout:?} {port}");
            }
        }
    }

    #[test]
    fn whoever_listens_is_found() {
        use std::{net::TcpListener, os::unix::net::UnixListener};

        let mut connection: ConnectionInfo = serde_json::from_value(serde_json::json!({
            "transport": "tcp", "ip": "127.0.0.1", "shell_port": 0, "iopub_port": 0, "stdin_port": 0, "control_port": 0,
            "hb_port": 0, "signature_scheme": "", "key": ""
        }))
        .expect("a connection");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        connection.shell_port = listener.local_addr().expect("an address").port();
        assert_eq!(process_of(&connection), Some(std::process::id()));
        drop(listener);
        assert_eq!(process_of(&connection), None);
        let dir = tempfile::tempdir().expect("a folder");
        (connection.transport, connection.ip) = ("ipc".into(), dir.path().join("k").to_string_lossy().into_owned());
        let _listener = UnixListener::bind(dir.path().join(format!("k-{}", connection.shell_port))).expect("a socket");
        assert_eq!(process_of(&connection), Some(std::process::id()));
    }

    #[test]
    fn an_answer_that_is_none_says_nothing() {
        for length in 0..HEADER + 4 {
            assert_eq!(read(&vec![0; length]), None);
        }
        let error = |code: i32| {
            let mut answer = vec![0; HEADER + 4];
            answer[4..6].copy_from_slice(&ERROR.to_ne_bytes());
            answer[HEADER..].copy_from_slice(&code.to_ne_bytes());
            read(&answer)
        };
        assert_eq!(error(-Errno::NOENT.raw_os_error()), Some(false));
        assert_eq!(error(-Errno::ACCESS.raw_os_error()), None);
    }
}
