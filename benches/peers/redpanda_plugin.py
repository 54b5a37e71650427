"""Peer: the real Redpanda Connect SDK, as its documentation has it. It serves where REDPANDA_CONNECT_PLUGIN_ADDRESS says."""

import asyncio
import json

import redpanda_connect

from handler import compact, total, work_on


@redpanda_connect.processor
def bench(message: redpanda_connect.Message) -> redpanda_connect.Message:
    # What is no JSON is an array of floats.
    is_json = message.payload[:1] in b"[{"
    message.payload = compact(work_on(json.loads(message.payload)) if is_json else total(message.payload)).encode()
    return message


if __name__ == "__main__":
    asyncio.run(redpanda_connect.processor_main(bench))
