// kernelbridge shim for JavaScript on Node under ijavascript: docs/protocol.md over the `pipe` carrier.
// Runs once as a cell and leaves one name, the global `bridge`; a plugin is a module with a scope of its own.
// What it shares with the shim of language `javascript` is common.js there; here are carrier, interrupts, and kernel.
(() => {
  "use strict";
  //#common
  const [vm, readline, Module, { dirname }, { spawnSync }] =
    ["vm", "readline", "module", "path", "child_process"].map((name) => require(`node:${name}`));

  // ---- Carriers
  const inbox = Buffer.allocUnsafe(65536);
  function read(into, at) {
    try {
      return some(fs.readSync(down, into, at, into.length - at, null));
    } catch (error) {
      for (const until = Date.now() + 50; error.code === "EINTR" && Date.now() < until;); // `guard` will end this
      throw error;
    }
  }
  const readLater = () => new Promise((resolve, reject) =>
    fs.read(down, inbox, 0, inbox.length, null, (error, size) => error ? reject(error) : resolve(size)));
  const fifo = (name, flags) => fs.openSync(`${directory}/${name}`, flags); // close-on-exec, as Node opens all files
  const pipe = {
    open() {
      [up, down, start, end] = [fifo("to-host", "w"), fifo("to-plugin", "r"), 0, 0];
      $$.input = input; // ijavascript makes a new `$$` for each cell
    },
    close: () => [up, down].forEach((file) => fs.closeSync(file)),
    post(text) {
      const frame = Buffer.from(`${Buffer.byteLength(text)}\n${text}`);
      for (let written = 0; written < frame.length;) written += fs.writeSync(up, frame, written);
    },
    note: (text) => say(text),
    next() {
      const length = sizeOfFrame();
      if (length <= end - start) return inbox.toString("utf8", start, start += length);
      const body = Buffer.allocUnsafe(length);
      let have = inbox.copy(body, 0, start, end);
      for (start = end; have < length;) have += read(body, have);
      return body.toString();
    },
  };
  // When an interrupt cuts a frame off, the rest of it is lost: the turn stays ended.
  const whole = (step) => (text) => (ended = "cut", text = step(text), ended = false, text);
  Object.assign(pipe, { post: whole(pipe.post), next: whole(pipe.next) });

  // ---- Interrupts: SIGINT to this process, the kernel's child
  // It ends a vm script with `breakOnSigint`, busy or not, by an error thrown here. Every request runs in one, and so
  // does the turn: the first costs 50 us, those within none.
  let job; // what `guard` runs
  const script = new vm.Script("bridge._run()", { filename: ownName });
  const guard = (work) => (job = work, script.runInThisContext({ breakOnSigint: true, displayErrors: false }));
  for (const [name, method] of Object.entries(methods)) {
    methods[name] = (params, mayWait) => guard(() => method(params, mayWait));
  }
  const isInterrupt = (thrown) => thrown?.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED";
  process.on("SIGINT", () => cancel?.(cancelled())); // outside a script: a handler is awaited, or nothing runs
  const watch = () => {}, unwatch = watch; // SIGINT says it all
  const unsent = null; // the turn goes on, and so does a series

  // ---- The kernel
  const interpreter = `Node ${process.versions.node}, V8 ${process.versions.v8}`;
  const features = ["batch", "blob", "series", "rows", "columns", "shared"];
  const about = () => ({ bridge: "1", language: "node", interpreter, features });
  function compile(source, filename) {
    const module = Object.assign(new Module(filename), { filename, paths: Module._nodeModulePaths(dirname(filename)) });
    module._compile(source, filename);
    return module.exports;
  }
  const importModule = compile("module.exports = (url) => import(url)", __filename); // a cell has no import()
  function importFile(url, path) {
    delete require.cache[fs.realpathSync(path)]; // Node loads a CommonJS module once, whatever the URL
    return importModule(url).catch((error) => {
      if (!(error instanceof SyntaxError) || error.stack.includes(path)) throw error;
      const { stderr } = spawnSync(process.execPath, ["--check", path]); // else nobody tells an ES module's line
      throw Object.assign(error, { stack: String(stderr).split("\n    at ")[0] });
    });
  }
  /** As one CommonJS module. */
  function importCells(source, path, locate) {
    const file = path ?? `${process.cwd()}/notebook`;
    locate(new RegExp(`${file.replace(/\W/g, "\\$&")}:(\\d+)`, "g"));
    compile(source, file);
  }
  // ijavascript passes prints on from a stream that stops at 16 KiB until the event loop runs.
  const printing = () => process.stdout.writableLength + process.stderr.writableLength > 0;
  const flush = async () => { while (printing()) await new Promise(setImmediate); };
  const flushed = (outcome) => isPromise(outcome) || printing() ? Promise.resolve(outcome).finally(flush) : outcome;
  // An author's keyboard read asks the host: this process has no keyboard.
  const input = async ({ prompt = "" } = {}, done = (_, text) => text) => done(null, call("host.input", prompt));
  for (const { prototype } of [readline.Interface, readline.promises.Interface]) {
    const { question } = prototype;
    prototype.question = function (query, ...rest) {
      if (!serving.length || this.input !== process.stdin) return question.call(this, query, ...rest);
      const text = call("host.input", query), callback = rest.at(-1);
      return typeof callback === "function" ? void callback(text) : Promise.resolve(text);
    };
  }
  for (const event of ["unhandledRejection", "uncaughtException"]) process.on(event, report);
  const entries = { _turn: () => turn(pipe), _loop: stand, _run: () => job() };
  globalThis.bridge = Object.freeze(Object.assign(bridge, entries));
})();
