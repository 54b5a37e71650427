//! Free ports, held until the kernel is about to bind them.
//!
//! They are taken from below the system's ephemeral range: from inside it any outgoing connection could take one
//! between our letting go and the kernel's binding. What other hosts on this machine are about to use is left alone
//! too: each port is reserved by the name of an abstract Unix socket, which ends with its process.

use std::{
    fs, io,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// Below are services that people give a number to.
const LOWEST: u16 = 10_240;
/// A range smaller than this is not worth choosing from.
const FEW: u16 = 1_000;
/// How many ports are tried before the system is asked for any.
const TRIES: usize = 500;

/// Five ports that nobody else gets while this lives.
#[derive(Debug)]
pub struct Ports {
    listeners: Vec<TcpListener>,
    numbers: [u16; 5],
}

/// Keeps other hosts from choosing the same ports. To be kept until the kernel listens.
#[derive(Debug)]
pub struct Reservation {
    _names: Vec<UnixDatagram>,
}

impl Ports {
    /// Take five free ports of the loopback interface.
    ///
    /// # Errors
    ///
    /// When the system has none left.
    pub fn hold() -> io::Result<(Self, Reservation)> {
        let range = LOWEST..ephemeral_start();
        let mut found = Vec::with_capacity(5);
        let mut names = Vec::with_capacity(5);
        if range.len() >= FEW.into() {
            for _ in 0..TRIES {
                let port = fastrand::u16(range.clone());
                let Ok(name) = reserve(port) else { continue };
                let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) else { continue };
                names.push(name);
                found.push(listener);
                if found.len() == 5 {
                    break;
                }
            }
        }
        while found.len() < 5 {
            found.push(TcpListener::bind(("127.0.0.1", 0))?);
        }
        let mut numbers = [0; 5];
        for (number, listener) in numbers.iter_mut().zip(&found) {
            *number = listener.local_addr()?.port();
        }
        Ok((Self { listeners: found, numbers }, Reservation { _names: names }))
    }

    /// The ports.
    pub fn numbers(&self) -> [u16; 5] {
        self.numbers
    }

    /// Let go of them, for the kernel to bind.
    pub fn release(self) {
        drop(self.listeners);
    }
}

/// Fails when another host has it.
fn reserve(port: u16) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("kernelbridge-port-{port}"))?)
}

/// Where the ports begin that the system gives to outgoing connections.
fn ephemeral_start() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_not_reserved_again() {
        let (ports, reservation) = Ports::hold().expect("ports");
        let numbers = ports.numbers();
        ports.release();
        assert!(numbers.iter().all(|&port| port < ephemeral_start() && reserve(port).is_err()));
        drop(reservation);
        assert!(numbers.iter().all(|&port| reserve(port).is_ok()));
    }
}
