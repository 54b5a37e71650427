"""Peer: JSON lines over a subprocess's pipes.

A request is `{"id", "method", "params"}`, an answer `{"id", "result"}`. A call of the host is the same, the other way
round; whoever waits for an answer serves what comes instead. `bytes` in a request announces as many raw bytes after it.
"""

import json
import sys

from handler import compact, total, work, work_on

source, sink = sys.stdin.buffer, sys.stdout.buffer
loads = json.loads


def send(message):
    sink.write(compact(message).encode() + b"\n")
    sink.flush()


def call(method, *params):
    send({"id": 0, "method": method, "params": params})
    while "method" in (message := loads(source.readline())):
        serve(message)
    return message["result"]


def nested(record):
    answer = work(record)
    answer["value"] = call("plus_one", record["value"])
    return answer


def calls(count):
    value = 0
    for _ in range(count):
        value = call("plus_one", value)
    return value


def nest(depth):
    return call("nest", depth - 1) + 1 if depth else 0


methods = {"work": work_on, "nested": nested, "calls": calls, "nest": nest}


def serve(message):
    if "bytes" in message:
        result = total(source.read(message["bytes"]))
    else:
        result = methods[message["method"]](message["params"])
    send({"id": message["id"], "result": result})


while line := source.readline():
    serve(loads(line))
