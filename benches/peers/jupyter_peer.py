"""Peer: jupyter_client itself, its own blocking client and an ipykernel.

Reads `{"what": "execute"|"comm"|"stdin", "count"}` a line, does it so often, and prints the microseconds of each.
The record goes in and the answer comes back: in the code and by a user expression, as data of a comm, or as prompt and
value of an input request.
"""

import ast
import json
import sys
import time

from jupyter_client.manager import start_new_kernel

record = {"id": 7, "text": "00000007 the quick brown fox jumps over the lazy dog, again and a", "value": 48}
expected = {"id": 7, "text": record["text"].upper(), "value": 49}
compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
clock = time.perf_counter

setup = """
import json
def work(record):
    return {"id": record["id"], "text": record["text"].upper(), "value": record["value"] + 1}
def unary(record):
    return json.dumps(work(record), ensure_ascii=False, separators=(",", ":"))
def opened(comm, message):
    comm.on_msg(lambda message: comm.send(work(message["content"]["data"])))
get_ipython().kernel.comm_manager.register_target("bench", opened)
def pump(count):
    answer = ""
    for _ in range(count):
        answer = unary(json.loads(input(answer)))
    return answer
"""

manager, client = start_new_kernel()
ran = client.execute(setup, reply=True)
assert ran["content"]["status"] == "ok", ran
comm_id = "bench"
opening = client.session.msg("comm_open", {"comm_id": comm_id, "target_name": "bench", "data": {}})
client.shell_channel.send(opening)


def iopub(msg_type, parent):
    while True:
        message = client.get_iopub_msg(timeout=10)
        if message["parent_header"].get("msg_id") == parent and message["msg_type"] == msg_type:
            return message["content"]


def until_idle(parent):
    while iopub("status", parent)["execution_state"] != "idle":
        pass


until_idle(opening["header"]["msg_id"])


def execute(count):
    for _ in range(count):
        began = clock()
        code = {"answer": f"unary({compact(record)})"}
        reply = client.execute("", user_expressions=code, store_history=False, reply=True)
        text = reply["content"]["user_expressions"]["answer"]["data"]["text/plain"]
        answer = json.loads(ast.literal_eval(text))
        yield clock() - began, answer


def comm(count):
    for _ in range(count):
        began = clock()
        message = client.session.msg("comm_msg", {"comm_id": comm_id, "data": record})
        client.shell_channel.send(message)
        answer = iopub("comm_msg", message["header"]["msg_id"])["data"]
        yield clock() - began, answer
        until_idle(message["header"]["msg_id"])


def stdin(count):
    id = client.execute(f"last = pump({count + 1})", silent=True, allow_stdin=True)
    client.get_stdin_msg(timeout=10)
    began = clock()
    client.input(compact(record))
    for _ in range(count):
        answer = json.loads(client.get_stdin_msg(timeout=10)["content"]["prompt"])
        ended = clock()
        yield ended - began, answer
        began = clock()
        client.input(compact(record))
    client.get_shell_msg(timeout=10)
    until_idle(id)


print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    times = []
    for seconds, answer in {"execute": execute, "comm": comm, "stdin": stdin}[order["what"]](order["count"]):
        assert answer == expected, answer
        times.append(seconds * 1e6)
    print(json.dumps(times), flush=True)
client.stop_channels()
manager.shutdown_kernel(now=True)
