"""The conformance plugin: the same exports and handlers in every language."""

import asyncio
import base64
import os
import sys
import time


@bridge.export
def hello(name):
    """hello(name) -> a greeting"""
    return f"{bridge.config['greeting']}, {name} from python"


@bridge.export
def identity(x):
    return x


@bridge.export(name="sum")
def sum_of(x):
    return float(x.sum() if hasattr(x, "sum") else sum(x))


@bridge.export
def fail(message):
    raise ValueError(message)


@bridge.export
def print_both(text):
    print(text)
    print(text, file=sys.stderr)


@bridge.export
def plot():
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        from IPython.display import Image, display

        display(Image(base64.b64decode(
            "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")))
    else:
        plt.plot([1, 4, 9])


@bridge.export
def call_host(name, args):
    return bridge.call(name, *args)


@bridge.export
def try_call(name, args):
    try:
        return bridge.call(name, *args)
    except bridge.Error as error:
        return {"kind": error.kind, "message": error.message}


@bridge.export
def nest(n):
    return 0 if n <= 0 else bridge.call("test.nest", n) + 0


@bridge.export
def increment(key, times):
    for _ in range(times):
        value = bridge.state.update(key, lambda n: n + 1, default=0)
    return value


@bridge.export
def state_roundtrip(key, value):
    bridge.state.set(key, value)
    value = bridge.state.get(key)
    bridge.state.delete(key)
    return value


@bridge.export
def emit_one(topic, data):
    bridge.emit(topic, data)


@bridge.export
def log_one(level, message):
    getattr(bridge.log, level)(message)


@bridge.export
def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@bridge.export
def sleep(seconds):
    time.sleep(seconds)


@bridge.export
def keyboard():
    return input("your name? ")


@bridge.export
def exit_now():
    os._exit(3)


@bridge.on("conf.echo")
def echo(event):
    return {"topic": event.topic, "data": event.data, "attempt": event.attempt}


@bridge.on("conf.batch", batch=10)
def batch(events):
    return [event.data["n"] * 2 for event in events]


@bridge.on("conf.columns", batch="columns")
def columns(c, head):
    if "fail" in c:
        raise RuntimeError("conf.columns was told to fail")
    return {**c, "n": [None if n is None else n * 2 for n in c["n"]], "id": head.ids}


@bridge.on("conf.fail")
def always_fails(event):
    raise RuntimeError("conf.fail always fails")


@bridge.on("conf.once")
def once(event):
    for _ in range(2):
        value = bridge.state.update("once", lambda n: n + 1, default=0, once=event)
    return value


@bridge.filter("conf.filter", priority=10)
def filter_path(event):
    if event.data.get("drop"):
        return None
    event.data["path"].append("python")
    return event


@bridge.on("conf.async")
async def later(event):
    await asyncio.sleep(0.01)
    return "async-ok"


@bridge.on_shutdown
def farewell():
    bridge.state.set("shutdown/python", True)
