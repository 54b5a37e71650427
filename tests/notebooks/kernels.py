"""Two kernels side by side, for tests/suite/notebooks.rs: a stock one, and the notebook kernel in front of the same.

usage: kernels.py CASE STOCK OURS LANGUAGE, with names of kernelspecs; prints one object as JSON.
CASE is a function below that has no underscore.
"""

import contextlib
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
import unittest

import jupyter_kernel_test
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

# A kernel that takes longer is broken.
PATIENCE = 60

# What the tests of `jupyter_kernel_test` ask in each language.
SAMPLES = {
    "python": {
        "language_name": "python",
        "file_extension": ".py",
        "code_hello_world": "print('hello, world')",
        "code_stderr": "import sys; print('test', file=sys.stderr)",
        "completion_samples": [{"text": "zi", "matches": {"zip"}}],
        "complete_code_samples": ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n"],
        "incomplete_code_samples": ["print('''hello", "def f(x):\n  x*2"],
        "invalid_code_samples": ["import = 7q"],
        "code_page_something": "zip?",
        "code_generate_error": "raise ValueError('no')",
        "code_execute_result": [{"code": "1+2+3", "result": "6"}, {"code": "[n*n for n in range(3)]", "result": "[0, 1, 4]"}],
        "code_display_data": [{"code": "from IPython.display import HTML, display; display(HTML('<b>x</b>'))", "mime": "text/html"}],
        "code_history_pattern": "1?2*",
        "supported_history_operations": ("tail", "range", "search"),
        "code_inspect_sample": "zip",
        "code_clear_output": "from IPython.display import clear_output; clear_output()",
    },
    "r": {
        "language_name": "R",
        "file_extension": ".r",
        "code_hello_world": "cat('hello, world')",
        "code_stderr": "message('test')",
        "completion_samples": [{"text": "zi", "matches": {"zip"}}, {"text": "seq_le", "matches": {"seq_len"}}],
        "complete_code_samples": ["1", "print('hello, world')", "f <- function(x) {x*2}"],
        "incomplete_code_samples": ["print('hello", "f <- function(x) {x"],
        "invalid_code_samples": ["a <- 'b' 'c'", ")"],
        "code_page_something": "?cat",
        "code_generate_error": "stop('no')",
        "code_execute_result": [{"code": "1+2+3", "result": "[1] 6"}, {"code": "seq_len(3)", "result": "[1] 1 2 3"}],
        "code_display_data": [{"code": "plot(1:3)", "mime": "image/png"}, {"code": "IRdisplay::display_html('<b>x</b>')", "mime": "text/html"}],
        "code_history_pattern": "1?2*",
        "supported_history_operations": ("tail", "range", "search"),
        "code_inspect_sample": "cat",
        "code_clear_output": "IRdisplay::clear_output()",
    },
    "javascript": {
        "language_name": "typescript",
        "file_extension": ".ts",
        "code_hello_world": "console.log('hello, world')",
        "code_stderr": "console.error('test')",
        "completion_samples": [{"text": "parseIn", "matches": {"parseInt"}}],
        "complete_code_samples": ["1", "console.log('hello, world')", "function f(x) { return x*2 }"],
        "incomplete_code_samples": ["function f(x) {", "`hello"],
        "invalid_code_samples": ["let = 7q;", ")"],
        "code_page_something": "?console",
        "code_generate_error": "throw new Error('no')",
        "code_execute_result": [{"code": "1+2+3"}, {"code": "'a' + 'b'"}],
        "code_display_data": [{"code": "await Deno.jupyter.broadcast('display_data', {data: {'text/html': '<b>x</b>'}, metadata: {}})", "mime": "text/html"}],
        "code_history_pattern": "1?2*",
        "supported_history_operations": ("tail", "range", "search"),
        "code_inspect_sample": "parseInt",
        "code_clear_output": "await Deno.jupyter.broadcast('clear_output', {wait: false})",
    },
}

FLOODS = {
    "python": "for i in range({n}): get_ipython().display_pub.publish({{'text/plain': str(i)}})",
    "r": "for (i in seq_len({n}) - 1L) IRdisplay::publish_mimebundle(list('text/plain' = as.character(i)))",
    "javascript": "for (let i = 0; i < {n}; i++) await Deno.jupyter.broadcast('display_data', {{data: {{'text/plain': String(i)}}, metadata: {{}}}})",
}

CALLS = {
    "python": "bridge.state.set('k', 6); print(bridge.state.get('k') * 7)",
    "r": "bridge$state$set('k', 6); cat(bridge$state$get('k') * 7)",
    "javascript": "bridge.state.set('k', 6); console.log(bridge.state.get('k') * 7)",
}
DEATHS = {"python": "import os; os._exit(1)", "r": "tools::pskill(Sys.getpid(), 9)", "javascript": "Deno.exit(1)"}
LOOPS = {"python": "while True: pass", "r": "while (TRUE) {}", "javascript": "while (true) {}"}


@contextlib.contextmanager
def _running(name):
    """A kernel as a frontend starts it, and a client that is ready."""
    manager = KernelManager(kernel_name=name)
    manager.start_kernel(stdout=subprocess.DEVNULL)
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=PATIENCE)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


def _run(client, code, **more):
    """The reply, and the outputs in order as (type, content)."""
    outputs = []
    hook = lambda message: outputs.append((message["msg_type"], message["content"]))
    reply = client.execute_interactive(code, timeout=PATIENCE, output_hook=hook, **more)
    if code == CALLS["javascript"] and not _said(outputs).strip():
        # What Deno prints may come after the end of its cell.
        with contextlib.suppress(queue.Empty):
            while not _said(outputs).strip():
                hook(client.get_iopub_msg(timeout=2))
    return reply["content"], [(kind, content) for kind, content in outputs if kind not in ("status", "execute_input")]


def _said(outputs):
    return "".join(content["text"] for kind, content in outputs if kind == "stream")


def _processes():
    """Ids of the processes that carry this test's mark, without this one."""
    mark = b"KERNELBRIDGE_TEST_NOTEBOOKS=" + os.environb[b"KERNELBRIDGE_TEST_NOTEBOOKS"]
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if mark in file.read().split(b"\0"):
                found.add(int(name))
    return found - {os.getpid()}


def _gone(before):
    """Wait until no others are left than those before."""
    until = time.monotonic() + 10
    while _processes() - before and time.monotonic() < until:
        time.sleep(0.02)
    return [_command(pid) for pid in _processes() - before]


def _command(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().replace(b"\0", b" ").decode(errors="replace")
    return ""


class _Outcomes(unittest.TestResult):
    """Of each test, and of each part of one."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def note(self, test, verdict):
        self.found[test.id().rpartition(".test_")[2]] = verdict

    def addSuccess(self, test):
        self.note(test, "passed")

    def addFailure(self, test, error):
        self.note(test, f"failed: {error[1]}")

    addError = addFailure

    def addSkip(self, test, reason):
        self.note(test, f"skipped: {reason}")

    def addSubTest(self, _, part, error):
        self.note(part, f"failed: {error[1]}" if error else "passed")


def standard(stock, ours, language):
    """What of `jupyter_kernel_test` each passes."""
    def outcomes(name):
        case = type("Case", (jupyter_kernel_test.KernelTests,), {**SAMPLES[language], "kernel_name": name})
        result = _Outcomes()
        unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
        return result.found
    return {"stock": outcomes(stock), "ours": outcomes(ours)}


def flood(_, ours, language):
    """How many outputs of one cell come, and whether they are complete and in order."""
    # IRkernel needs some ten milliseconds for each, with or without us.
    wanted, seen = 5_000 if language == "r" else 20_000, []
    with _running(ours) as (_, client), contextlib.suppress(queue.Empty):
        client.execute(FLOODS[language].format(n=wanted))
        began = time.monotonic()
        # Deno's come after `idle`, too.
        while len(seen) < wanted:
            message = client.get_iopub_msg(timeout=PATIENCE)
            if message["msg_type"] == "display_data":
                seen.append(int(str(message["content"]["data"]["text/plain"])))
    seconds = round(time.monotonic() - began, 2)
    return {"came": len(seen), "complete": seen == list(range(wanted)), "seconds": seconds}


def latency(stock, ours, language):
    """Milliseconds of an empty execute, from the request to `idle`: one after the other, in turns."""
    with _running(stock) as (_, first), _running(ours) as (_, second):
        times = {"stock": [], "ours": []}
        for number in range(120):
            for name, client in (("stock", first), ("ours", second)):
                began = time.perf_counter()
                asked = client.execute("1")
                while True:
                    message = client.get_iopub_msg(timeout=PATIENCE)
                    if message["parent_header"].get("msg_id") == asked and message["content"].get("execution_state") == "idle":
                        break
                client.get_shell_msg(timeout=PATIENCE)
                if number >= 20:
                    times[name].append((time.perf_counter() - began) * 1000)
    found = {name: round(statistics.median(those), 3) for name, those in times.items()}
    # What a machine that does other things meanwhile disturbed least.
    tenth = {f"{name}, tenth": round(statistics.quantiles(those, n=10)[0], 3) for name, those in times.items()}
    return found | tenth


def restarts(_, ours, language):
    """Restarted in a row, with something running or not: `bridge` is there each time, and nobody else."""
    before, counts, said = _processes(), [], []
    def call(client):
        for _ in range(5):
            text = _said(_run(client, CALLS[language])[1])
            if text.strip():  # what Deno prints may come after the end of its cell
                break
        return text
    with _running(ours) as (manager, client):
        for number in range(5):
            said.append(call(client))
            counts.append(len(_processes() - before))
            if number % 2:
                client.execute(LOOPS[language])
                time.sleep(0.3)
            manager.restart_kernel(now=number == 2)
            client.wait_for_ready(timeout=PATIENCE)
        said.append(call(client))
        counts.append(len(_processes() - before))
    return {"said": said, "counts": counts, "left": _gone(before)}


def endings(_, ours, language):
    """A cell ends the kernel; somebody kills the relay."""
    before, found = _processes(), {}
    with _running(ours) as (manager, client):
        client.execute(DEATHS[language])
        found["left by a cell"] = _gone(before)
        until = time.monotonic() + PATIENCE
        while manager.is_alive() and time.monotonic() < until:
            time.sleep(0.1)
        found["told"] = not manager.is_alive()
    with _running(ours) as (manager, client):
        found["processes"] = len(_processes() - before)
        os.kill(manager.provisioner.pid, signal.SIGKILL)
        found["left by a kill"] = _gone(before)
    return found


def frontends(_, ours, language):
    """Two frontends at one kernel: each sees what the other does; requests come before the kernel is there."""
    manager = KernelManager(kernel_name=ours)
    manager.start_kernel(stdout=subprocess.DEVNULL)
    first, second = manager.client(), BlockingKernelClient(connection_file=manager.connection_file)
    second.load_connection_file()
    try:
        for client in (first, second):
            client.start_channels()
        early = first.kernel_info()
        info = first.get_shell_msg(timeout=PATIENCE)
        answered = info["parent_header"]["msg_id"] == early
        for client in (first, second):
            client.wait_for_ready(timeout=PATIENCE)
        _, outputs = _run(first, CALLS[language])
        time.sleep(0.5)
        seen = []
        with contextlib.suppress(queue.Empty):
            while True:
                message = second.get_iopub_msg(timeout=0.5)
                seen.append((message["msg_type"], message["content"]))
        # Interrupted by the one, seen by both.
        timer = threading.Timer(0.7, manager.interrupt_kernel)
        timer.start()
        reply, _ = _run(second, LOOPS[language])
        timer.join()
        again, outputs_again = _run(first, CALLS[language])
        return {
            "answered": answered,
            "said": [_said(outputs), _said(seen), _said(outputs_again)],
            "statuses": [reply["status"], again["status"]],
        }
    finally:
        for client in (first, second):
            client.stop_channels()
        manager.shutdown_kernel()


def debugger(stock, ours, language):
    """What the debugger of each answers, in the same conversation."""
    def conversation(name):
        with _running(name) as (_, client):
            answers = []
            def ask(command, **arguments):
                content = {"type": "request", "seq": len(answers) + 1, "command": command, "arguments": arguments}
                message = client.session.msg("debug_request", content)
                client.control_channel.send(message)
                reply = client.get_control_msg(timeout=PATIENCE)
                answers.append((command, reply["content"].get("success")))
                return reply["content"].get("body") or {}
            ask("initialize", clientID="test", adapterID="", pathFormat="path")
            ask("attach")
            code = "def f(x):\n    y = x + 1\n    return y\nf(41)"
            path = ask("dumpCell", code=code).get("sourcePath")
            ask("setBreakpoints", breakpoints=[{"line": 3}], source={"path": path}, sourceModified=False)
            ask("configurationDone")
            client.execute(code)
            while client.get_iopub_msg(timeout=PATIENCE)["content"].get("event") != "stopped":
                pass
            frames = ask("stackTrace", threadId=1).get("stackFrames", [{}])
            answers.append(("line", frames[0].get("line")))
            scopes = ask("scopes", frameId=frames[0].get("id")).get("scopes", [{}])
            variables = ask("variables", variablesReference=scopes[0].get("variablesReference")).get("variables", [])
            answers.append(("y", [it["value"] for it in variables if it["name"] == "y"]))
            ask("continue", threadId=1)
            reply = client.get_shell_msg(timeout=PATIENCE)
            answers.append(("reply", reply["content"]["status"]))
            ask("disconnect", restart=False, terminateDebuggee=True)
            return answers
    return {"stock": conversation(stock), "ours": conversation(ours)}


def keyboard(_, ours, language):
    """A cell asks the one who sits there."""
    code = {"python": "print(input('name? ') + '!')", "r": "cat(paste0(readline('name? '), '!'))",
            "javascript": "console.log(prompt('name? ') + '!')"}[language]
    with _running(ours) as (_, client):
        asked = []
        def answer(message):
            asked.append(message["content"]["prompt"])
            client.input("Ada")
        reply, outputs = _run(client, code, stdin_hook=answer)
        return {"status": reply["status"], "asked": asked, "said": _said(outputs)}


def counts(stock, ours, language):
    """What a session's first cell is called, and what its history says."""
    def look(name):
        with _running(name) as (_, client):
            first = _run(client, "1+1")[0].get("execution_count")
            second = _run(client, "1+2")[0].get("execution_count")
            asked = client.history(hist_access_type="tail", n=10, raw=True, output=False)
            while True:
                reply = client.get_shell_msg(timeout=PATIENCE)
                if reply["parent_header"].get("msg_id") == asked:
                    break
            return [first, second, [entry[2] for entry in reply["content"].get("history", [])][-2:]]
    return {"stock": look(stock), "ours": look(ours)}


if __name__ == "__main__":
    case, *names = sys.argv[1:]
    print(json.dumps(globals()[case](*names), ensure_ascii=False))
