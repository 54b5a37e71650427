//! Free ports, held until the kernel is about to bind them.

use std::{io, net::TcpListener};

/// Five ports that nobody else gets while this lives.
#[derive(Debug)]
pub struct Ports {
    listeners: [TcpListener; 5],
    numbers: [u16; 5],
}

impl Ports {
    /// Take five free ports of the loopback interface.
    ///
    /// # Errors
    ///
    /// When the system has none left.
    pub fn hold() -> io::Result<Self> {
        let bind = || TcpListener::bind(("127.0.0.1", 0));
        let listeners = [bind()?, bind()?, bind()?, bind()?, bind()?];
        let mut numbers = [0; 5];
        for (number, listener) in numbers.iter_mut().zip(&listeners) {
            *number = listener.local_addr()?.port();
        }
        Ok(Self { listeners, numbers })
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
