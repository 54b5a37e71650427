"""Peer: a blocking unix socket in plain Python. `echo` sends back what came, `work` lets the handler see it.

A frame is its length in four bytes, little endian, and the body.
"""

import json
import socket
import sys

from handler import compact, work_on

path, what = sys.argv[1:]
connection = socket.socket(socket.AF_UNIX)
connection.connect(path)
source = connection.makefile("rb")
while head := source.read(4):
    body = source.read(int.from_bytes(head, "little"))
    if what == "work":
        body = compact(work_on(json.loads(body))).encode()
    connection.sendall(len(body).to_bytes(4, "little") + body)
