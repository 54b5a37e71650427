// kernelbridge shim for JavaScript and TypeScript on Deno's Jupyter kernel: docs/protocol.md over `pipe` and `jupyter`.
// Runs once as a cell and leaves one name, the global `bridge`; a plugin is a module with a scope of its own.
// What it shares with the shim of language `node` is common.js; here are carriers, interrupts, and kernel.
(() => {
  "use strict";
  //#common

  // ---- Carriers
  const encoder = new TextEncoder(), decoder = new TextDecoder();
  const inbox = new Uint8Array(65536), outbox = new Uint8Array(65536);
  const roomy = [new Uint8Array(0), new Uint8Array(0)]; // for what is larger, one for each way: a new one is all zero first
  const room = (way, size) => size > 4 << 20 ? new Uint8Array(size)
    : roomy[way].length < size ? roomy[way] = new Uint8Array(2 * size) : roomy[way];
  const fifo = (name, options) => Deno.openSync(`${directory}/${name}`, options); // close-on-exec, as all of Deno's
  const read = (into, at) => some(down.readSync(at ? into.subarray(at) : into));
  const readLater = () => down.read(inbox);
  let torn = false; // in the middle of a frame: when an interrupt ends that, the rest of it is lost
  const pipe = {
    open() {
      [up, down] = [fifo("to-host", { write: true }), fifo("to-plugin", { read: true })];
      [start, end, torn] = [0, 0, false];
    },
    close: () => [up, down].forEach((file) => file.close()),
    post(text) {
      const body = text.length * 3 < outbox.length - 16 ? outbox : room(0, text.length * 3 + 16);
      const { written } = encoder.encodeInto(text, body.subarray(16));
      let first = 16;
      body[--first] = 10;
      for (let rest = written; rest; rest = Math.trunc(rest / 10)) body[--first] = 48 + rest % 10;
      torn = true;
      for (const last = 16 + written; first < last;) first += up.writeSync(body.subarray(first, last));
      torn = false;
    },
    note: (text) => say(text),
    next() {
      torn = true;
      const length = sizeOfFrame();
      const text = length <= end - start ? decoder.decode(inbox.subarray(start, start += length)) : long(length);
      torn = false;
      return text;
    },
  };
  function long(length) {
    const body = room(1, length).subarray(0, length);
    body.set(inbox.subarray(start, end));
    let have = end - start;
    for (start = end; have < length;) have += read(body, have);
    return decoder.decode(body);
  }
  const kernel = { prompt: globalThis.prompt, confirm: globalThis.confirm };
  let answer, spoken = 0;
  const ask = (text) => (spoken = Date.now(), kernel.prompt(text) ?? stop("the host does not answer input_request"));
  const jupyter = {
    open: () => answer = undefined,
    close() {},
    post: (text) => answer = ask(held.length ? `[${held.splice(0)},${text}]` : text),
    note(text) {
      held.push(text);
      if (Date.now() - spoken < 100) return;
      for (let reply = ask(`[${held.splice(0)}]`); decode(reply).method !== "continue";) reply = ask("[]"); // was stale
    },
    next: () => [answer ?? ask("[]"), answer = undefined][0], // no answer left: the last was stale, Deno keeps those
  };

  // ---- Interrupts: the kernel ends what runs, our loop with it, and passes no error on that could be caught
  const guard = (work) => work();
  const isInterrupt = () => false;
  // Outcomes of a series. When an interrupt takes the turn along, the host sends the events again, each alone.
  const unsent = new Map();
  const cancelFile = `${directory}/cancel`;
  let timer;
  const watch = () => timer = setInterval(look, 20);
  const unwatch = () => clearInterval(timer);
  /** No timer fires while JavaScript runs: when this one does, a handler is awaited or an interrupt ended the turn. */
  function look() {
    if (!cancel) return void (isStanding || (release(), abandon?.(new Error("kernelbridge: interrupted"))));
    if (!fs.existsSync(cancelFile)) return;
    fs.rmSync(cancelFile, { force: true });
    cancel(cancelled());
  }
  /** After an interrupt of a standing turn. Deno polls nothing until the next cell, which is this. */
  function wake() {
    if (!carrier || cancel) return;
    if (torn || !serving.length) return release(); // a message is lost, or may be: the host opens another turn
    const refusal = failure(new Refusal("Cancelled", "interrupted at its deadline"));
    for (const id of serving.splice(0).reverse()) say(`{"jsonrpc":"2.0","id":${id},${refusal}}`);
    void attend(opened);
  }

  // ---- The kernel
  const interpreter = `Deno ${Deno.version.deno}, V8 ${Deno.version.v8}, TypeScript ${Deno.version.typescript}`;
  const features = ["blob", "series", "rows", "columns", "shared"];
  // No `batch` in a turn that is a cell: an interrupt ends it, and requests that wait would be lost with it.
  const about = () =>
    ({ bridge: "1", language: "javascript", interpreter, features: isStanding ? [...features, "batch"] : features });
  const flushed = (outcome) => outcome; // prints are not held back
  const importFile = (url) => import(url).catch((error) => {
    const [, message] = /^SyntaxError: (.*)/.exec(error.message) ?? []; // Deno makes it a TypeError
    const stack = error.stack.replace("TypeError: ", "");
    throw message ? Object.assign(new SyntaxError(message), { stack }) : error;
  });
  function importCells(source, path, locate) {
    locate(/blob:null\/[-\w]+:(\d+)/g);
    return importFile(URL.createObjectURL(new Blob([source], { type: "application/typescript" })));
  }
  // An author's keyboard read asks the host; outside a turn, the frontend.
  globalThis.prompt = (message = "Prompt", initial = "", ...rest) =>
    serving.length ? call("host.input", message) || initial : kernel.prompt(message, initial, ...rest);
  globalThis.confirm = (message = "Confirm") =>
    serving.length ? /^y/i.test(call("host.input", `${message} [y/N] `)) : kernel.confirm(message);
  // Deno's kernel swallows what nobody caught, and stops background code until the next request.
  addEventListener("unhandledrejection", (event) => (event.preventDefault(), report(event.reason)));
  addEventListener("error", (event) => (event.preventDefault(), report(event.error)));
  // Deno's kernel shows what goes through `console`; what is written to the streams themselves would be lost.
  for (const name of ["stdout", "stderr"]) {
    const write = (chunk) => void Deno.jupyter.broadcast("stream", { name, text: Buffer.from(chunk).toString() });
    process[name].write = (chunk, ...rest) => (write(chunk), rest.at(-1)?.call?.(), true);
    Deno[name].writeSync = (chunk) => (write(chunk), chunk.length);
    Deno[name].write = (chunk) => Promise.resolve(Deno[name].writeSync(chunk));
  }
  const entries = { _turn: (name) => turn({ pipe, jupyter }[name]), _loop: stand, _wake: wake };
  globalThis.bridge = Object.freeze(Object.assign(bridge, entries));
})();
