"""A kernel over real sockets and FIFOs that misbehaves when it is told to, and plays the shim itself.

What it does wrong when it starts is in the file that HOSTILE_MODE names, read once; what it does wrong in a handler is
in the event's data (`do`). Whatever it does not know it does right. HOSTILE_FOLDERS is a file to which it adds the
names of its folders, so that a test can see that they are gone.
"""

import hashlib
import hmac
import json
import os
import signal
import sys
import time
import uuid

import zmq
from middle import HARMLESS, Middle

with open(sys.argv[1]) as file:
    INFO = json.load(file)
with open(os.environ["HOSTILE_MODE"]) as file:
    MODE = file.read().strip()
FOLDER = os.environ["KERNELBRIDGE_DIR"]
with open(os.environ["HOSTILE_FOLDERS"], "a") as file:
    file.write(f"{FOLDER}\n{os.environ['TMPDIR']}\n")
KEY = INFO["key"].encode()
SESSION = uuid.uuid4().hex


def step(name):
    """A place at which a mode may want something: to die, to be silent, or to be slow."""
    if MODE == "die-at-" + name:
        os._exit(7)
    if MODE == "silent-at-" + name:
        wait_for_ever()
    if MODE == "slow":
        time.sleep(0.3)


def wait_for_ever():
    while True:
        time.sleep(600)


# Messages


def sign(parts):
    return hmac.new(KEY, b"".join(parts), hashlib.sha256).hexdigest().encode()


def frames_of(msg_type, content, parent, msg_id=None):
    """The message's frames, signature first."""
    header = {
        "msg_id": msg_id or uuid.uuid4().hex,
        "session": SESSION,
        "username": "hostile",
        "date": "2026-01-01T00:00:00.000000Z",
        "msg_type": msg_type,
        "version": "5.3",
    }
    parts = [json.dumps(part).encode() for part in (header, parent, {})]
    parts.append(content if isinstance(content, bytes) else json.dumps(content).encode())
    return [sign(parts), *parts]


def noise_before(frames, msg_type, content, parent):
    """What must change nothing: each is refused or belongs to nobody. The third value says how many are refused."""
    stranger = frames_of(msg_type, content, {**parent, "msg_id": "nobody's"})
    orphan = frames_of(msg_type, content, {})
    nulls = frames_of(msg_type, content, None)
    refused = [
        [b"<IDS|MSG>", b"", *frames[1:]],
        [b"<IDS|MSG>", b"0" * 64, *frames[1:]],
        [b"<IDS|MSG>", frames[0].upper(), *frames[1:]],
        [b"<IDS|MSG>", b"short", *frames[1:]],
        [b"<IDS|MSG>", hmac.new(b"other", b"".join(frames[1:]), hashlib.sha256).hexdigest().encode(), *frames[1:]],
        [b"<IDS|MSG>", *frames[:4]],
        [b"<IDS|MSG>"],
        [b""],
        [b"\xff" * 10, b"", b"{}"],
        [b"<IDS|MSG>", sign([b"7", b"{}", b"{}", b"{}"]), b"7", b"{}", b"{}", b"{}"],
    ]
    return refused + [[b"<IDS|MSG>", *stranger], [b"<IDS|MSG>", *orphan], [b"<IDS|MSG>", *nulls]]


class Sockets:
    def __init__(self):
        context = zmq.Context()
        self.middles = {}

        def bind(kind, port):
            socket = context.socket(kind)
            socket.linger = 0
            socket.sndhwm = 0
            # `wire`, or `wire GREETING|- WORD|- CHANNEL`.
            mode, *wants = MODE.split(" ")
            channel = port.removesuffix("_port")
            if mode != "wire":
                socket.bind(f"{INFO['transport']}://{INFO['ip']}:{INFO[port]}")
            else:
                to = socket.bind_to_random_port("tcp://127.0.0.1")
                wants = [want if want != "-" else None for want in wants[:2]] if channel in wants[2:] else []
                self.middles[channel] = Middle(INFO[port], to, *wants)
            return socket

        self.shell, self.control = bind(zmq.ROUTER, "shell_port"), bind(zmq.ROUTER, "control_port")
        self.stdin, self.iopub = bind(zmq.ROUTER, "stdin_port"), bind(zmq.PUB, "iopub_port")
        self.hb = bind(zmq.REP, "hb_port")
        self.poller = zmq.Poller()
        for socket in (self.shell, self.control, self.hb):
            self.poller.register(socket, zmq.POLLIN)

    def send(self, socket, identity, msg_type, content, parent):
        frames = frames_of(msg_type, content, parent)
        prefix = [b"topic"] if socket is self.iopub else [identity]
        if MODE == "noise":
            for noise in noise_before(frames, msg_type, content, parent):
                socket.send_multipart(prefix + noise)
        if MODE == "unsigned":
            frames[0] = b""
        if MODE == "wrong-signature":
            frames[0] = b"0" * 64
        if MODE == "wrong-parents":
            frames = frames_of(msg_type, content, {**parent, "msg_id": "nobody's"})
        socket.send_multipart(prefix + [b"<IDS|MSG>", *frames])
        if MODE in ("noise", "replay"):
            socket.send_multipart(prefix + [b"<IDS|MSG>", *frames])
        if MODE in ("noise", "twice"):
            socket.send_multipart(prefix + [b"<IDS|MSG>", *frames_of(msg_type, content, parent)])

    def status(self, state, parent):
        if MODE != "no-idle" or state != "idle":
            self.send(self.iopub, b"", "status", {"execution_state": state}, parent)

    def receive(self):
        """The next request: which socket, whose, what."""
        while True:
            for socket, _ in self.poller.poll():
                if socket is self.hb:
                    socket.send(socket.recv())
                    continue
                identity, _, _, header, _, _, content, *_ = socket.recv_multipart()
                return socket, identity, json.loads(header), json.loads(content)


# The shim


class Ended(Exception):
    """The turn is over, with this reply or none."""

    def __init__(self, reply):
        self.reply = reply


class Pipe:
    def __init__(self):
        self.up = open(FOLDER + "/to-host", "wb", buffering=0)
        self.down = open(FOLDER + "/to-plugin", "rb", buffering=0)

    def say(self, message):
        self.write(json.dumps(message).encode())

    def write(self, body):
        rest = b"%d\n%s" % (len(body), body)
        while rest:
            rest = rest[self.up.write(rest) :]

    def hear(self):
        self.down.readline()
        return json.loads(self.down.readline())

    def close(self):
        self.up.close()
        self.down.close()


class Stdin:
    def __init__(self, sockets, identity, parent):
        self.sockets, self.identity, self.parent, self.notes = sockets, identity, parent, []

    def say(self, message):
        self.write(json.dumps(message).encode())

    def write(self, body):
        content = {"prompt": body.decode("latin-1"), "password": False}
        self.sockets.send(self.sockets.stdin, self.identity, "input_request", content, self.parent)

    def hear(self):
        return json.loads(json.loads(self.sockets.stdin.recv_multipart()[6])["value"])

    def close(self):
        pass


class Shim:
    def __init__(self, sockets):
        self.sockets, self.calls, self.name = sockets, 0, ""

    def turn(self, carrier, identity, parent):
        """Serve until `end`. Returns the reply's content, or None for no reply."""
        step("turn")
        self.road = Pipe() if carrier == "pipe" else Stdin(self.sockets, identity, parent)
        self.identity, self.parent = identity, parent
        try:
            step("ready")
            self.road.say({"jsonrpc": "2.0", "method": "ready"})
            while True:
                message = self.road.hear()
                if "method" not in message:
                    continue
                method, params = message["method"], message.get("params", {})
                if method == "end":
                    step("end")
                    return {"status": "ok", "execution_count": 1}
                result = self.serve(message["id"], method, params)
                if result is not None:
                    self.answer(message["id"], result)
        except Ended as ended:
            return ended.reply
        finally:
            self.road.close()

    def answer(self, id, result):
        self.road.say({"jsonrpc": "2.0", "id": id, "result": result})

    def serve(self, id, method, params):
        if method in ("initialize", "load", "shutdown"):
            step(method)
        if method == "initialize":
            self.name = params["plugin"]["name"]
            if MODE == "old-shim":
                return {"bridge": "0"}
            if MODE == "empty-results":
                return {}
            if MODE == "odd-results":
                return [7]
            return {"bridge": "1", "language": "hostile", "interpreter": "none"}
        if method == "load":
            if MODE == "no-handlers":
                return {"handlers": [{"id": -1, "kind": "all"}]}
            if MODE == "bad-topic":
                return {"handlers": [{"id": 1, "kind": "on", "topic": "no such pattern\n"}]}
            topics = [(1, "do"), (2, "ok")]
            handlers = [{"id": id, "kind": "on", "topic": f"{self.name}.{topic}"} for id, topic in topics]
            return {"handlers": [*handlers, {"id": 3, "kind": "export", "name": "hello"}]}
        if method == "shutdown":
            return "bye"
        if method == "call":
            return "hello"
        if method == "event" and params["handler"] == 1 and params["attempt"] <= params["data"].get("times", 1):
            return getattr(self, "do_" + params["data"]["do"].replace("-", "_"))(id, params)
        return "done"

    def call(self, name, *args):
        """Send a call; returns its id. The answer is not waited for."""
        self.calls += 1
        self.road.say({"jsonrpc": "2.0", "id": self.calls, "method": "call", "params": {"name": name, "args": args}})
        return self.calls

    # What it does wrong in a handler. A result is sent as the right answer; None: nothing more.

    def do_nothing_wrong(self, id, params):
        return "done"

    def do_become(self, id, params):
        global MODE
        MODE = params["data"]["mode"]
        return "done"

    def do_wire(self, id, params):
        """Says something on a channel that its socket never would."""
        time.sleep(0.1)
        self.sockets.middles[params["data"]["channel"]].say(params["data"]["word"])
        if params["data"]["channel"] != "iopub" and params["data"]["word"] not in HARMLESS:
            wait_for_ever()
        return "done"

    def do_die(self, id, params):
        os._exit(7)

    def do_die_with_a_child(self, id, params):
        self.fork()
        os._exit(7)

    def do_fork(self, id, params):
        self.fork()
        return "done"

    def fork(self):
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                wait_for_ever()

    def do_stop(self, id, params):
        os.kill(os.getpid(), signal.SIGSTOP)

    def do_wait(self, id, params):
        time.sleep(params["data"]["seconds"])
        return "done"

    def do_sleep(self, id, params):
        """Reacts to an interrupt, as a good handler."""
        try:
            wait_for_ever()
        except KeyboardInterrupt:
            self.road.say({"id": id, "error": {"code": -32003, "message": "interrupted"}})

    def do_ignore_interrupts(self, id, params):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        wait_for_ever()

    def do_answer_twice(self, id, params):
        self.answer(id, "done")
        self.answer(id, "again")

    def do_answer_strangers(self, id, params):
        for stranger in (0, id + 1, 999, 2**53, 2**64, 1e300, -1, 0.5):
            self.answer(stranger, "stolen")
        for stranger in (None, "1", [id], {"id": id}, True):
            self.answer(stranger, "stolen")
        return "done"

    def do_announce_a_gigabyte(self, id, params):
        self.road.up.write(b"%d\n{" % 2**30)
        wait_for_ever()

    def do_write_nonsense(self, id, params):
        self.road.up.write(b"Traceback (most recent call last):\n")
        wait_for_ever()

    def do_write_no_json(self, id, params):
        for body in (b"", b"\n", b"hello", b"{", b"[", b"7", b"null", b"\0" * 99, b"[" * 5000, b'{"id":' * 300, b"\xff"):
            self.road.write(body)
        return "done"

    def do_write_no_utf8(self, id, params):
        self.road.write(b'{"id":%d,"result":"a\xff\xed\xa0\x80b"}' % id)

    def do_leave_fields_out(self, id, params):
        for message in ({}, {"id": None}, {"method": None}, {"method": "call"}, {"params": {}}, {"jsonrpc": "2.0"}):
            self.road.say(message)
        self.road.say({"id": id})

    def do_fail_oddly(self, id, params):
        self.road.say({"id": id, "error": {"code": "x", "message": [1], "data": {"kind": 7, "traceback": "none"}}})

    def do_blame(self, id, params):
        cause = {"code": -32000, "message": "theirs", "data": {"kind": "Raised", "plugin": "good"}}
        data = {"kind": "Gone", "plugin": "good", "not_begun": True, "cause": cause}
        self.road.say({"id": id, "error": {"code": -32005, "message": "not me", "data": data}})

    def do_half_a_frame(self, id, params):
        self.road.up.write(b'100\n{"id":%d,' % id)
        raise Ended({"status": "ok"})

    def do_end_early(self, id, params):
        raise Ended({"status": "ok"})

    def do_abort(self, id, params):
        raise Ended({"status": "abort"})

    def do_aborted(self, id, params):
        raise Ended({"status": "aborted"})

    def do_hollow(self, id, params):
        raise Ended(None)

    def do_reply_early(self, id, params):
        """The turn's reply comes while the shim goes on; then it dies."""
        self.sockets.send(self.sockets.shell, self.identity, "execute_reply", {"status": "ok"}, self.parent)
        time.sleep(0.5)
        self.answer(id, "too late")
        os._exit(7)

    def do_flood_iopub(self, id, params):
        """As `Sockets.send`, with all but the id made once, so that it is the host that has to be quick."""
        content = {"name": "stdout", "text": "x" * 50 + "\n"}
        _, header, *rest = frames_of("stream", content, self.parent, "<id>")
        before, after = header.split(b"<id>")
        begun = hmac.new(KEY, digestmod=hashlib.sha256)
        tail = after + b"".join(rest)
        for number in range(params["data"]["count"]):
            head = b"%sflood %d" % (before, number)
            signature = begun.copy()
            signature.update(head + tail)
            frames = [b"topic", b"<IDS|MSG>", signature.hexdigest().encode(), head + after, *rest]
            self.sockets.iopub.send_multipart(frames)
        return "done"

    def do_flood_log(self, id, params):
        for number in range(params["data"]["count"]):
            self.road.say({"method": "log", "params": {"message": number}})
        return "done"

    def do_flood_prompts(self, id, params):
        """Asks the keyboard and never listens."""
        for _ in range(params["data"]["count"]):
            content = {"prompt": "name? ", "password": False}
            self.sockets.send(self.sockets.stdin, self.identity, "input_request", content, self.parent)
        return "done"

    def do_call_and_leave(self, id, params):
        """Answers the event although its own call is open; the call's answer must go nowhere."""
        self.call("app.slow")
        time.sleep(0.1)
        return "done"

    def do_call_twice(self, id, params):
        """A second request while the first is open: the first is given up."""
        first, second = self.call("app.slow"), self.call("app.twice", 2)
        assert first < second and self.road.hear()["id"] == second
        return "done"

    def do_call_nonsense(self, id, params):
        for request in (
            {"method": "no-such-method"},
            {"method": "call"},
            {"method": "call", "params": {"name": 7}},
            {"method": "call", "params": {"name": "app.twice", "args": {"n": 1}}},
            {"method": "emit", "params": {"topic": "", "data": 1}},
            {"method": "initialize", "params": {}},
        ):
            self.calls += 1
            self.road.say({"id": self.calls, **request})
            heard = self.road.hear()
            assert heard["id"] == self.calls and "error" in heard, heard
        return "done"

    def do_stale_reply(self, id, params):
        """A call's answer comes when it is no longer waited for, and so answers the next prompt (carrier `jupyter`)."""
        stale = self.call("app.twice", 21)
        while not self.sockets.stdin.poll(100):
            pass
        self.answer(id, "done")
        heard = self.road.hear()
        assert heard.get("id") == stale, heard
        self.road.write(b"[]")

    def do_steal(self, id, params):
        """Tries to answer for another plugin, and to make another chain its own."""
        for victim in range(1, 50):
            if victim != id:
                self.answer(victim, "stolen")
        for chain in (["event 1"], "app", {"id": 1}, None):
            self.calls += 1
            request = {"name": "app.chain", "args": [], "chain": chain, "plugin": "good", "deadline": 1e9}
            self.road.say({"id": self.calls, "method": "call", "params": request, "chain": chain, "plugin": "good"})
            heard = self.road.hear()
            assert heard["id"] == self.calls, heard
            params = heard["result"]
        return params


def main():
    if MODE == "deaf":
        wait_for_ever()
    if MODE == "ignore-shutdown":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    step("bind")
    sockets = Sockets()
    step("bound")
    shim = Shim(sockets)
    while True:
        try:
            socket, identity, header, content = sockets.receive()
        except KeyboardInterrupt:
            continue
        msg_type, reply = header["msg_type"], {"status": "ok"}
        sockets.status("busy", header)
        if msg_type == "kernel_info_request":
            step("kernel-info")
            language = {"name": "hostile", "version": "1", "mimetype": "", "file_extension": ".hostile"}
            reply |= {"protocol_version": "5.3", "implementation": "hostile", "implementation_version": "1"}
            reply |= {"language_info": language, "banner": ""}
            if MODE == "no-fields":
                reply = {}
            if MODE == "no-json":
                reply = b"{"
            if MODE == "no-object":
                reply = [None]
            if MODE == "no-utf8":
                reply = b'{"banner":"\xff\xed\xa0\x80","implementation":"a\xc3"}'
        elif msg_type == "execute_request" and content["code"] in ("pipe", "jupyter"):
            reply = shim.turn(content["code"], identity, header)
        elif msg_type == "execute_request":
            step("execute")
            reply = {
                "abort": {"status": "abort"},
                "aborted": {"status": "aborted"},
                "raise": {"status": "error", "ename": "SyntaxError", "evalue": "no", "traceback": []},
                "no-fields": {},
                "no-object": [None],
            }.get(MODE, reply | {"execution_count": 1})
        elif msg_type == "shutdown_request":
            if MODE == "ignore-shutdown":
                continue
            step("shutdown-request")
            sys.exit()
        if reply is not None:
            sockets.send(socket, identity, msg_type.replace("_request", "_reply"), reply, header)
        sockets.status("idle", header)


try:
    main()
except KeyboardInterrupt:
    sys.exit(1)
