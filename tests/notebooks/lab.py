"""Notebooks in JupyterLab, driven in a browser without a window, as a plugin author does: `scripts/test-notebooks`.

JupyterLab runs in folders of its own, with the notebook kernels registered there, in front of stock kernels: Python is
that of the environment that runs this, so that it has widgets and plots; R and Deno are those of `kernelbridge install`.
Each function of SCENES opens a notebook, does things in it, and asserts what the page shows.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from pathlib import Path

import nbformat
from jupyter_core.paths import jupyter_data_dir
from playwright.sync_api import expect, sync_playwright

# Milliseconds: starting R on a busy machine takes a while; what fails fails at once.
PATIENCE = 90_000
MARK = "KERNELBRIDGE_TEST_NOTEBOOKS"


class Lab:
    """JupyterLab on a port of its own, and the browser."""

    def __init__(self, kernelbridge, browser, pictures, folder):
        self.kernelbridge, self.browser, self.pictures, self.folder = kernelbridge, browser, pictures, folder
        usual = jupyter_data_dir()
        self.env = {**os.environ, MARK: str(folder), "JUPYTER_PATH": usual, "IPYTHONDIR": str(folder / "ipython")}
        for name in ("data", "config", "runtime", "work"):
            (folder / name).mkdir()
            self.env[f"JUPYTER_{name.upper()}_DIR"] = str(folder / name)
        self.work = folder / "work"

    def __enter__(self):
        self._register()
        settings = {
            # No questions, no looking for news elsewhere, and every cell is in the page, also out of sight.
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
            "notebook-extension/tracker": {"windowingMode": "none"},
        }
        for name, content in settings.items():
            file = self.folder / f"config/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(content))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{port}"
        self.log = open(self.folder / "lab.log", "w+")
        options = [
            "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.work}",
            "--LabApp.extension_manager=readonly",
        ] + (["--allow-root"] if os.getuid() == 0 else [])
        self.server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=self.env, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL
        )
        until = time.monotonic() + PATIENCE / 1000
        while not self._answers():
            assert self.server.poll() is None and time.monotonic() < until, "JupyterLab does not start\n" + self.said()
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        self.server.terminate()
        try:
            self.server.wait(20)
        except subprocess.TimeoutExpired:
            self.server.kill()
        self.log.close()

    def _register(self):
        own = self.folder / "data/kernels/lab-python"
        own.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python with plots", "language": "python", "metadata": {"debugger": True}}
        (own / "kernel.json").write_text(json.dumps(spec))
        self.run("notebook", "install", "python", "--kernel", "lab-python")
        self.run("notebook", "install", "r", "javascript")

    def run(self, *words):
        """The program, as in a terminal beside JupyterLab."""
        subprocess.run([self.kernelbridge, *words], env=self.env, cwd=self.work, check=True, capture_output=True)

    def _answers(self):
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{self.url}/api?token={self.token}", timeout=5).status == 200

    def said(self):
        self.log.seek(0)
        return self.log.read()[-5000:]

    def processes(self):
        """Command lines of what runs below JupyterLab."""
        found, mark = [], f"{MARK}={self.folder}".encode()
        for process in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                    found.append(Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return [command for command in found if "jupyterlab" not in command]

    @contextlib.contextmanager
    def notebook(self, name, language, cells):
        """A new notebook with these cells, opened."""
        kernel = {"name": f"kernelbridge-notebook-{language}", "display_name": language, "language": language}
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel}
        )
        nbformat.write(notebook, self.work / f"{name}.ipynb")
        with self.opened(f"{name}.ipynb", name) as page:
            yield page

    @contextlib.contextmanager
    def opened(self, path, name):
        """A notebook that is there."""
        with self.browser.new_context(viewport={"width": 960, "height": 1000}) as context:
            context.set_default_timeout(PATIENCE)
            notebook = Notebook(self, context.new_page(), name, path)
            try:
                notebook.idle()
                yield notebook
            except BaseException:
                notebook.picture("failed", whole=True)
                raise
            finally:
                notebook.close()


class Notebook:
    """A notebook's page."""

    def __init__(self, lab, page, name, path):
        self.lab, self.page, self.name, self.path = lab, page, name, path
        page.goto(f"{lab.url}/doc/tree/{path}?token={lab.token}")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()

    def close(self):
        """With its kernel, as closing the tab alone leaves it running."""
        self.page.close()
        sessions = json.load(urllib.request.urlopen(f"{self.lab.url}/api/sessions?token={self.lab.token}"))
        for session in sessions:
            if session["path"] == self.path:
                url = f"{self.lab.url}/api/sessions/{session['id']}?token={self.lab.token}"
                urllib.request.urlopen(urllib.request.Request(url, method="DELETE"))

    def cell(self, number):
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number)

    def idle(self):
        """Wait until there is a kernel and it runs nothing."""
        expect(self.page.locator(".jp-StatusBar-TextItem", has_text=re.compile(r"\| Idle$")).first).to_be_visible(timeout=PATIENCE)

    def begin(self, number):
        """Run a cell, as Ctrl+Enter does."""
        self.cell(number).locator(".cm-content").first.click()
        self.page.keyboard.press("Control+Enter")

    def run(self, number):
        """Run a cell to its end; what it shows."""
        self.begin(number)
        return self.ended(number)

    def ended(self, number):
        expect(self.cell(number).locator(".jp-InputPrompt").first).to_have_text(re.compile(r"^\[\d+\]:$"), timeout=PATIENCE)
        self.idle()
        return self.output(number)

    def runs(self, number):
        expect(self.cell(number).locator(".jp-InputPrompt").first).to_have_text("[*]:", timeout=PATIENCE)

    def output(self, number):
        return self.cell(number).locator(".jp-Cell-outputArea").first

    def shows(self, number, *texts):
        """Run a cell; it shows all of these."""
        output = self.run(number)
        for text in texts:
            expect(output).to_contain_text(text, timeout=PATIENCE)
        return output

    def table(self, number, *rows):
        """Run a cell; it shows a table of handlers with these rows, each the beginnings of its columns."""
        output = self.run(number)
        found = output.locator("table tbody tr")
        expect(found).to_have_count(len(rows), timeout=PATIENCE)
        for at, row in enumerate(rows):
            for column, text in enumerate(row):
                expect(found.nth(at).locator("td").nth(column)).to_contain_text(text)
            assert float(found.nth(at).locator("td").nth(2).inner_text()) >= 0
        return output

    def plot(self, number):
        """Run a cell; it shows a picture, which has come whole."""
        picture = self.run(number).locator("img").first
        picture.wait_for()
        assert picture.evaluate("it => it.complete && it.naturalWidth") > 100
        return picture

    def button(self, name):
        self.page.locator(f'.jp-NotebookPanel-toolbar [data-jp-item-name="{name}"] jp-button, '
                          f'.jp-NotebookPanel-toolbar [data-jp-item-name="{name}"] button').first.click()

    def menu(self, menu, item):
        self.page.locator(".lm-MenuBar-item", has_text=menu).first.click()
        self.page.locator(".lm-Menu-item", has_text=item).first.click()

    def agree(self):
        self.page.locator(".jp-Dialog .jp-mod-accept").first.click()

    def restart(self, ask):
        """As the button or the menu begins it."""
        ask()
        with self.page.expect_response(lambda response: response.url.partition("?")[0].endswith("/restart")):
            self.agree()
        self.idle()

    def picture(self, name, whole=False, cells=None):
        """Of the page, or of the notebook's cells from one to another."""
        path = self.lab.pictures / f"{self.name}-{name}.png"
        if whole or cells is None:
            self.page.screenshot(path=path)
            return
        self.page.keyboard.press("Escape")
        # Nothing of what only belongs to the cell that is selected.
        self.page.add_style_tag(content=".jp-cell-toolbar, .jp-Collapser { visibility: hidden } .jp-Cell { outline: none !important; border-color: transparent !important; box-shadow: none !important }")
        usual = self.page.viewport_size
        self.page.set_viewport_size({"width": usual["width"], "height": 3000})
        first, last = self.cell(cells[0]), self.cell(cells[1])
        first.scroll_into_view_if_needed()
        top, bottom = first.bounding_box(), last.bounding_box()
        clip = {"x": top["x"], "y": top["y"], "width": top["width"], "height": bottom["y"] + bottom["height"] - top["y"]}
        self.page.screenshot(path=path, clip=clip)
        self.page.set_viewport_size(usual)


def python(lab):
    """Handlers, events, state, exports, plots, a slider, errors."""
    cells = [
        '@bridge.on("quake.*")\ndef alert(event):\n    quake = event.data\n    if quake["mag"] >= bridge.state.get("minimum"):\n'
        '        print("strong:", quake["place"])\n        return {"place": quake["place"]}',
        '@bridge.export\ndef doubled(number):\n    return 2 * number\n\n\nbridge.state.set("minimum", 5.5)\nbridge.call("notebook.doubled", 21)',
        'bridge.emit("quake.new", {"mag": 6.1, "place": "Honshu"})\nbridge.emit("quake.new", {"mag": 2.0, "place": "Alaska"})',
        'import matplotlib.pyplot as plt\n\nplt.figure(figsize=(4, 2))\nplt.plot([1, 4, 9])\nplt.show()',
        'import ipywidgets\n\nslider = ipywidgets.IntSlider(description="minimum", value=5, max=9)\nsaid = ipywidgets.Label()\n\n\n'
        'def moved(change):\n    bridge.state.set("minimum", change["new"])\n    said.value = f"the state says {bridge.state.get(\'minimum\')}"\n\n\n'
        'slider.observe(moved, "value")\nipywidgets.VBox([slider, said])',
        'bridge.emit("quake.new", {"mag": 5.6, "place": "Fiji"})',
        '@bridge.on("quake.*")\ndef alert(event):\n    return 1 / 0',
        'bridge.emit("quake.new", {"mag": 7.0, "place": "Chile"})',
        'bridge.call("nobody.there")',
        'bridge.emit("nobody.listens")',
        'bridge.log.info("said", to="whom")',
    ]
    with lab.notebook("python", "python", cells) as page:
        page.run(0)
        page.shows(1, "42")
        output = page.run(2)
        expect(output.locator("table")).to_have_count(2)
        expect(output).to_contain_text("strong: Honshu")
        expect(output.locator("table").nth(0)).to_contain_text('{"place":"Honshu"}')
        expect(output.locator("table").nth(1)).to_contain_text("null")
        page.picture("events", cells=(0, 2))
        page.plot(3)
        handle = page.run(4).locator(".noUi-handle").first
        for moves in range(2):
            handle.press("ArrowRight")
        expect(page.output(4)).to_contain_text("the state says 7", timeout=PATIENCE)
        page.picture("slider", cells=(3, 4))
        # What the slider set is what the handler reads.
        page.table(5, ("alert", "null"))
        page.run(6)
        output = page.shows(7, "ZeroDivisionError: division by zero", "return 1 / 0")
        expect(output.locator("table tbody tr")).to_contain_text("failed: ZeroDivisionError: division by zero")
        page.picture("error", cells=(6, 7))
        output = page.shows(8, "no function `nobody.there`")
        expect(output).not_to_contain_text("def request")
        page.shows(9, "no handler here wants nobody.listens")
        page.shows(10, 'info: said {"to":"whom"}')


def r(lab):
    """The same in R, where results are shown otherwise and plots come as R draws them."""
    cells = [
        'bridge$on("quake.*", function(event) {\n  if (event$data$mag >= bridge$state$get("minimum")) {\n'
        '    cat("strong:", event$data$place, "\\n")\n    list(place = event$data$place)\n  }\n})',
        'bridge$export("doubled", function(number) 2 * number)\nbridge$state$set("minimum", 5.5)\nbridge$call("notebook.doubled", 21)',
        'bridge$emit("quake.new", list(mag = 6.1, place = "Honshu"))\nbridge$emit("quake.new", list(mag = 2, place = "Alaska"))',
        'options(repr.plot.width = 4, repr.plot.height = 3)\nplot(c(1, 4, 9), type = "b")',
        'bridge$on("quake.*", function(event) stop("no luck"))',
        'bridge$emit("quake.new", list(mag = 7, place = "Chile"))',
        'bridge$call("nobody.there")',
        'while (TRUE) {}',
        'bridge$state$get("minimum", "nothing yet")',
    ]
    with lab.notebook("r", "r", cells) as page:
        page.run(0)
        page.shows(1, "42")
        output = page.run(2)
        expect(output.locator("table")).to_have_count(2)
        expect(output).to_contain_text("strong: Honshu")
        expect(output.locator("table").nth(0)).to_contain_text('{"place":"Honshu"}')
        expect(output.locator("table").nth(1)).to_contain_text("null")
        page.plot(3)
        page.picture("events", cells=(0, 3))
        page.run(4)
        page.shows(5, "no luck")
        page.shows(6, "nobody")
        interrupted(page, 7)
        page.shows(8, "5.5")
        page.restart(lambda: page.button("restart"))
        page.shows(8, "nothing yet")


def javascript(lab):
    """The same in Deno."""
    cells = [
        'bridge.on("quake.*", function alert(event) {\n'
        '  console.log("strong:", event.data.place);\n  return { place: event.data.place, minimum: bridge.state.get("minimum") };\n});',
        'bridge.export("doubled", (number) => 2 * number);\nbridge.state.set("minimum", 5.5);\nbridge.call("notebook.doubled", 21)',
        'bridge.emit("quake.new", { mag: 6.1, place: "Honshu" });',
        'bridge.on("quake.*", function alert(event) { throw new Error("no luck"); });',
        'bridge.emit("quake.new", { mag: 7, place: "Chile" });',
        'while (true) {}',
        'bridge.state.get("minimum", "nothing yet")',
    ]
    with lab.notebook("javascript", "javascript", cells) as page:
        page.run(0)
        page.shows(1, "42")
        page.table(2, ("alert", '{"place":"Honshu","minimum":5.5}'))
        expect(page.output(2)).to_contain_text("strong: Honshu")
        page.run(3)
        page.shows(4, "no luck")
        page.picture("events", cells=(0, 4))
        interrupted(page, 5)
        page.shows(6, "5.5")
        page.restart(lambda: page.button("restart"))
        page.shows(6, "nothing yet")


def interrupted(page, number):
    """A cell that does not end is stopped with the button."""
    page.begin(number)
    page.runs(number)
    time.sleep(0.5)
    page.button("interrupt")
    page.ended(number)


def stopped(lab):
    """Loops in a cell and in a handler, and restarts from the menu."""
    cells = [
        "while True:\n    pass",
        '@bridge.on("forever")\ndef forever(event):\n    while True:\n        pass',
        'bridge.emit("forever")',
        'bridge.state.set("here", bridge.state.get("here", 0) + 1)\nprint("for the", bridge.state.get("here"), "time")',
        'name = input("name? ")\nprint("hello,", name)',
    ]
    with lab.notebook("stopped", "python", cells) as page:
        interrupted(page, 0)
        expect(page.output(0)).to_contain_text("KeyboardInterrupt")
        page.run(1)
        interrupted(page, 2)
        expect(page.output(2)).to_contain_text("KeyboardInterrupt")
        page.shows(3, "for the 1 time")
        page.shows(3, "for the 2 time")
        page.begin(4)
        page.cell(4).locator("input.jp-Stdin-input").fill("Ada")
        page.page.keyboard.press("Enter")
        page.ended(4)
        expect(page.output(4)).to_contain_text("hello, Ada")
        kernels = len(lab.processes())
        for _ in range(3):
            page.restart(lambda: page.menu("Kernel", "Restart Kernel…"))
            page.shows(3, "for the 1 time")
        assert len(lab.processes()) == kernels, lab.processes()


def died(lab):
    """A cell that ends the kernel: JupyterLab says so and starts it again."""
    cells = ["import os\n\nos._exit(1)", 'bridge.state.set("here", 1)\nprint("back", bridge.state.get("here"))']
    with lab.notebook("died", "python", cells) as page:
        page.shows(1, "back 1")
        kernels = len(lab.processes())
        page.begin(0)
        dialog = page.page.locator(".jp-Dialog")
        expect(dialog).to_contain_text("appears to have died. It will restart automatically", timeout=PATIENCE)
        page.picture("dialog", whole=True)
        page.agree()
        page.idle()
        page.shows(1, "back 1")
        assert len(lab.processes()) == kernels, lab.processes()


def template(lab):
    """What `kernelbridge notebook new` makes is opened and run as it is."""
    for language, sample in (("python", 2), ("r", 2)):
        lab.run("notebook", "new", f"my-{language}", "--language", language)
        with lab.opened(f"my-{language}/plugin.ipynb", f"new-{language}") as page:
            for number in range(1, page.page.locator(".jp-Notebook .jp-Cell").count()):
                page.run(number)
            expect(page.output(sample).locator("table").first).to_be_visible()
            expect(page.page.locator('.jp-Notebook [data-mime-type="application/vnd.jupyter.error"]')).to_have_count(0)
            page.picture("all", whole=True)


@contextlib.contextmanager
def running(lab, name):
    """A host elsewhere that is fed with the earthquakes, a few each second, and listens."""
    quakes = Path(__file__).resolve().parents[2] / "examples/quakes"
    plugins = [quakes / "plugins" / plugin for plugin in ("quake-clean", "quake-rate")]
    host = subprocess.Popen(
        [lab.kernelbridge, "run", *plugins, "--events", "-", "--topic", "quake.new", "--state", ":memory:", "--out", os.devnull,
         "--listen", "--name", name],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=lab.env, cwd=lab.folder,
    )
    over = threading.Event()

    def feed():
        with contextlib.suppress(OSError, ValueError):
            for line in itertools.cycle((quakes / "earthquakes.ndjson").read_text().splitlines()):
                host.stdin.write(line + "\n")
                host.stdin.flush()
                if over.wait(0.2):
                    return

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        until = time.monotonic() + PATIENCE / 1000
        while name not in subprocess.run([lab.kernelbridge, "hosts"], capture_output=True, text=True, env=lab.env).stdout:
            assert host.poll() is None and time.monotonic() < until, "the host does not listen"
            time.sleep(0.2)
        yield host
    finally:
        over.set()
        feeding.join()
        # What it has not read is nobody's any more.
        with contextlib.suppress(OSError):
            host.stdin.close()
        said = host.stderr.read()
        assert host.wait(60) in (0, 1), said


def live(lab):
    """Connected to a running host: copies of its events, its functions, a plugin's place, and what goes wrong."""
    name = f"quakes-{secrets.token_hex(4)}"
    cells = [
        'seen = []\n\n\n@bridge.on("quake.new")\ndef strong(event):\n    quake = event.data["properties"]\n'
        '    seen.append(quake["mag"])\n    return f"{quake[\'mag\']}, {quake[\'place\']}"',
        f'connected = bridge.connect("{name}")\nconnected["plugins"]',
        'len(seen) > 3',
        'bridge.state.set("minimum", 1)',
        'bridge.disconnect()',
        'bridge.connect("nobody-here")',
        f'%bridge connect {name} replace quake-rate',
        'bridge.disconnect()',
    ]
    r_cells = [
        f'x <- bridge$connect("{name}", replace = "quake-rate")\nx$link',
        'magnitudes <- numeric()\nbridge$on("quake.new", function(event) {\n  magnitudes <<- c(magnitudes, event$data$properties$mag)\n'
        '  length(magnitudes)\n})',
        'length(magnitudes) > 3',
        'hist(magnitudes)',
        'bridge$disconnect()',
    ]
    with running(lab, name) as host:
        with lab.notebook("live", "python", cells) as page:
            page.run(0)
            page.shows(1, "quake-rate", "connected")
            expect(page.output(1).locator("table tbody tr").nth(4)).to_be_visible(timeout=PATIENCE)
            expect(page.output(1)).to_contain_text("quake.new → strong")
            page.picture("events", cells=(0, 1))
            # Copies have no consequences.
            page.shows(3, "state.set")
            page.run(4)
            expect(page.output(1)).to_contain_text("ended")
            page.shows(5, "no running host `nobody-here`", name)
            with lab.notebook("live-r", "r", r_cells) as r_page:
                r_page.shows(0, "quake-rate")
                # One plugin has one stand-in.
                page.shows(6, "notebook")
                r_page.run(1)
                until = time.monotonic() + PATIENCE / 1000
                while "TRUE" not in r_page.run(2).inner_text():
                    assert time.monotonic() < until, "no events come"
                    time.sleep(0.5)
                r_page.plot(3)
                r_page.picture("place", cells=(0, 3))
                r_page.run(4)
            page.run(6)
            page.run(7)
            page.shows(1, "connected")
            host.send_signal(signal.SIGINT)
            expect(page.output(1)).to_contain_text("ended", timeout=PATIENCE)


SCENES = (python, r, javascript, stopped, died, template, live)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernelbridge", type=Path, required=True)
    parser.add_argument("--chromium", required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("scenes", nargs="*", metavar="SCENE")
    options = parser.parse_args()
    unknown = set(options.scenes) - {scene.__name__ for scene in SCENES}
    assert not unknown, f"no scenes {unknown}"
    options.pictures.mkdir(parents=True, exist_ok=True)
    failed = []
    with tempfile.TemporaryDirectory(prefix="kernelbridge-lab-") as folder, sync_playwright() as playwright:
        # As root, Chromium has no sandbox; it shows nothing but our own pages.
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        lab = Lab(options.kernelbridge.resolve(), browser, options.pictures, Path(folder).resolve())
        with lab:
            for scene in SCENES:
                if options.scenes and scene.__name__ not in options.scenes:
                    continue
                began = time.monotonic()
                try:
                    scene(lab)
                    verdict = "passed"
                except Exception:
                    traceback.print_exc()
                    verdict = "FAILED"
                    failed.append(scene.__name__)
                print(f"{scene.__name__}: {verdict} in {time.monotonic() - began:.1f} s", flush=True)
            if failed:
                print(lab.said(), file=sys.stderr)
        browser.close()
        until = time.monotonic() + 10
        while lab.processes() and time.monotonic() < until:
            time.sleep(0.1)
        if left := lab.processes():
            print("processes are left:", *left, sep="\n  ")
            failed.append("processes")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
