"""Answers questions about Jupyter messages with jupyter_client and jupyter_kernel_test.

One JSON object a line in, one a line out. Bytes travel in base64. A message that jupyter_client refuses is an
answer (`refused`); anything else that goes wrong here ends the process, and with it the test.
"""

import base64
import json
import os
import sys

import jsonschema
import jupyter_client
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session
from jupyter_kernel_test.msgspec_v5 import validate_message

sessions = {}


def encode(data):
    return base64.b64encode(data).decode()


def session_of(question):
    """The session of a key; each remembers the signatures it has seen."""
    key = base64.b64decode(question["key"])
    return sessions.setdefault(key, Session(key=key, session="oracle", username="oracle"))


def version(question):
    return {"jupyter_client": jupyter_client.__version__}


def sign(question):
    parts = [base64.b64decode(part) for part in question["parts"]]
    return {"signature": session_of(question).sign(parts).decode()}


def deserialize(question):
    frames = [base64.b64decode(frame) for frame in question["frames"]]
    session = session_of(question)
    try:
        identities, frames = session.feed_identities(frames)
        message = session.deserialize(frames)
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    return {
        "identities": [encode(identity) for identity in identities],
        "buffers": [encode(buffer) for buffer in message["buffers"]],
    } | {part: message[part] for part in ("header", "parent_header", "metadata", "content")}


def serialize(question):
    session = session_of(question)
    message = session.msg(
        question["msg_type"],
        content=question["content"],
        parent=question["parent"],
        metadata=question["metadata"],
    )
    identities = [base64.b64decode(identity) for identity in question["identities"]]
    frames = session.serialize(message, identities) + [base64.b64decode(buffer) for buffer in question["buffers"]]
    return {"frames": [encode(frame) for frame in frames], "header": message["header"]}


def validate(question):
    message = question["message"]
    try:
        validate_message(message, question["msg_type"], question["parent_id"])
    except KeyError as error:
        return {"refused": f"no schema for {error}"}
    except jsonschema.ValidationError as error:
        return {"refused": error.message}
    return {}


def endpoints(question):
    client = BlockingKernelClient()
    client.load_connection_info(question["connection"])
    channels = ("shell", "iopub", "stdin", "control", "hb")
    return {"endpoints": [client._make_url(channel) for channel in channels], "key": encode(client.session.key)}


answers = {answer.__name__: answer for answer in (version, sign, deserialize, serialize, validate, endpoints)}
# Only answers belong on stdout; warnings of libraries must not get between them.
out = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
for line in sys.stdin.buffer:
    question = json.loads(line)
    answer = answers[question["ask"]](question)
    out.write(json.dumps(answer, default=json_default) + "\n")
    out.flush()
