"""Stands between the host and one of the kernel's sockets, and says what ZeroMQ's library never would.

It listens on the socket's port, passes on what the socket and the host say, and puts its own words between. Once
something is a lie, nothing is passed on any more.
"""

import os
import socket
import struct
import threading
import time

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)


def frame(flags, size):
    return bytes([flags | 2]) + struct.pack(">Q", size)


def ready(kind):
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    return bytes([4, len(body)]) + body


def drip(text):
    """Byte by byte, and never to its end."""
    for byte in text:
        yield bytes([byte])
        time.sleep(0.02)
    while True:
        time.sleep(600)


# What is said instead of the socket's handshake.
GREETINGS = {
    "http": [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    "old": [b"\xff" + bytes(8) + b"\x7f\x01\x05\0\0"],
    "curve": [GREETING.replace(b"NULL\0", b"CURVE")],
    "endless": drip(GREETING[:63]),
    "hangs-up": [],
    "push": [GREETING + ready(b"PUSH")],
    "no-ready": [GREETING + b"\0\x05hello"],
    "error": [GREETING + b"\x04\x08\x05ERROR\x01x"],
    "ready-of-a-terabyte": [GREETING + frame(4, 2**40)],
}

# What is said after it, between two messages.
WORDS = {
    "100-gigabytes": [frame(0, 10**11)],
    "more-than-there-is": [frame(1, 2**63)],
    "command-of-a-terabyte": [frame(4, 2**40)],
    "garbage": [b"Traceback (most recent call last):\n" + os.urandom(1000)],
    "300-megabytes": [frame(0, 300 << 20)] + [bytes(1 << 20)] * 300,
    "million-frames": [b"\x01\0" * 10**6 + b"\0\0"],
    "large-command": [frame(4, 1 << 20), bytes(1 << 20)],
    "strange-command": [b"\x04\x05\x04WHAT"],
    "endless": [frame(0, 200 << 20), bytes(1000)],
}

# After these the socket is heard again.
HARMLESS = ("300-megabytes", "million-frames", "large-command", "strange-command")


class Middle:
    def __init__(self, port, to, greeting=None, word=None):
        self.to, self.greeting, self.word = to, greeting, word
        self.lock, self.host, self.is_silent = threading.Lock(), None, False
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.accept, args=[listener], daemon=True).start()

    def accept(self, listener):
        while True:
            host, _ = listener.accept()
            if self.greeting is not None:
                threading.Thread(target=self.greet, args=[host], daemon=True).start()
                continue
            host.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            kernel = socket.create_connection(("127.0.0.1", self.to))
            self.host = host
            for run, arguments in ((self.down, (kernel, host)), (self.up, (host, kernel))):
                threading.Thread(target=run, args=arguments, daemon=True).start()

    def greet(self, host):
        for piece in GREETINGS[self.greeting]:
            host.sendall(piece)
        if self.greeting == "hangs-up":
            return host.close()
        time.sleep(600)

    def up(self, host, kernel):
        while data := host.recv(1 << 16):
            kernel.sendall(data)
        kernel.close()

    def down(self, kernel, host):
        head = b""
        # Greeting and `READY`.
        while len(head) < 66 or len(head) < 66 + head[65]:
            head += kernel.recv(1)
        host.sendall(head)
        if self.word:
            self.say(self.word)
        while data := kernel.recv(1 << 16):
            with self.lock:
                if not self.is_silent:
                    host.sendall(data)
        host.close()

    def say(self, word):
        with self.lock:
            if not self.is_silent:
                self.is_silent = word not in HARMLESS
                try:
                    for piece in WORDS[word]:
                        self.host.sendall(piece)
                except OSError:
                    pass  # The host has hung up.
