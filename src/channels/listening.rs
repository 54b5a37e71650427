//! Is a kernel listening yet? Told by the system's table of sockets, without knocking at the kernel's door.

use std::{fs, io, net::TcpStream, path::Path};

use crate::connection::ConnectionInfo;

/// State `LISTEN` in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Is there a listener on each of these ports?
pub fn all(connection: &ConnectionInfo, ports: &[u16]) -> io::Result<bool> {
    if connection.transport == "ipc" {
        return Ok(ports.iter().all(|port| Path::new(&format!("{}-{port}", connection.ip)).exists()));
    }
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
}
