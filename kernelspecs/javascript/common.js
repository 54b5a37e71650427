// The common part of the shims of `javascript` (Deno) and `node`: errors, values, turns, the host's methods, `bridge`.
// It is no module: its text takes the place of the line `//#common` inside the one function that each of them is.
// Registration only tags; dispatch, JSON and errors are done here. Each shim has what differs:
//   pipe, inbox, read, readLater  the carrier (open, close, post, note, next), and how its bytes are read into `inbox`
//   guard, isInterrupt            runs the loop where an interrupt can end it, and knows the error by which it did
//   watch, unwatch                begin and stop to look for what no event tells: the cancel file, a turn that was ended
//   unsent                        outcomes of a series that an interrupt would take along with the turn, or null
//   flushed                       an outcome, or the promise of it, once the prints before it are out
//   about                         what the shim answers to `initialize`
//   importFile, importCells       load a plugin as the kernel's modules are; cells tell `locate` where their lines appear
const builtIn = (name) => typeof require === "function" ? require(name) : process.getBuiltinModule(name); // Node's is of 20.16
const [fs, { Buffer }, { inspect }, { pathToFileURL }, { AsyncLocalStorage }] =
  ["fs", "buffer", "util", "url", "async_hooks"].map((name) => builtIn(`node:${name}`));
const directory = process.env.KERNELBRIDGE_DIR, storage = new AsyncLocalStorage();
// Plugins by space: one in space 0, or several that share the kernel. `functions` and `owners` by handler id.
const fresh = () => ({ tags: [], exports: new Map(), shutdowns: [], source: "", locate: (text) => text });
const spaces = new Map([[0, { id: 0, name: null, config: {}, ...fresh() }]]), functions = [], owners = [];
let current = spaces.get(0); // the one that is served
let cells = false; // somebody else has the kernel run code, which is no plugin's
/** Whose code runs: also what is left in the background, in a shared kernel. */
const own = () => storage.getStore() ?? current;
const AsyncFunction = (async () => {}).constructor;
const isPromise = (value) => typeof value?.then === "function";
const then = (value, change) => isPromise(value) ? value.then(change) : change(value);

// ---- Errors
const codes = { Raised: -32000, Timeout: -32002, Cancelled: -32003, Deadlock: -32004, NotFound: -32601, Invalid: -32602 };
/** What authors catch. `cause` is the error object as received; the shim's own errors have none. */
class BridgeError extends Error {
  constructor(kind, message, cause) {
    super(message, cause && { cause });
    Object.assign(this, { kind, data: cause?.data ?? { kind } });
  }
}
Object.defineProperty(BridgeError.prototype, "name", { value: "BridgeError" });
/** The shim's own answer to a request: it keeps its kind, where an author's error becomes `Raised`. */
class Refusal extends BridgeError {}
const deadlock = () => new Refusal("Deadlock", "an async function cannot run while its plugin waits in a call");
const cancelled = () => new Refusal("Cancelled", "cancelled by the host");
function describe(thrown) {
  if (isInterrupt(thrown)) thrown = cancelled();
  const { kind, message } = thrown instanceof Refusal ? thrown : {};
  if (kind) return { code: codes[kind], message, data: { kind, plugin: own().name } };
  const isError = thrown instanceof Error, ename = isError ? String(thrown.name) : typeof thrown;
  const evalue = own().locate(isError ? String(thrown.message) : inspect(thrown));
  let remote = thrown; // an error of another plugin may escape as it is or as the cause of the author's own
  for (let i = 0; i < 10 && remote instanceof Error && !(remote instanceof BridgeError); i++) remote = remote.cause;
  const cause = remote instanceof BridgeError ? remote.cause : undefined;
  const data = { kind: "Raised", ename, evalue, traceback: traceback(thrown), plugin: own().name, cause };
  return { code: codes.Raised, message: `${ename}: ${evalue}`, data };
}
// The shim's frames bear the name of the cell it came in. Author's code begins above `invoke`.
const ownName = /([^\s(]+):\d+:\d+\)?$/.exec(new Error().stack.split("\n")[1])[1];
const isOwn = (line) => ["(", "at ", "async "].some((before) => line.includes(`${before}${ownName}:`));
function traceback(thrown) {
  const lines = String(thrown?.stack ?? "").split("\n");
  const end = lines.findIndex((line) => isOwn(line) && line.includes(" invoke "));
  const isAuthors = (line) => line && !isOwn(line) && !/\((node:internal|node:vm|node:async_hooks|ext:)/.test(line);
  return lines.slice(0, end < 0 ? lines.length : end).filter(isAuthors).map(own().locate);
}

// ---- Values: JSON, and {"$bytes": base64} for bytes, {"$blob": file or base64 chunks} for what is large or typed
const types = { f64: Float64Array, f32: Float32Array, i64: BigInt64Array, i32: Int32Array, i16: Int16Array,
  i8: Int8Array, u64: BigUint64Array, u32: Uint32Array, u16: Uint16Array, u8: Uint8Array, bool: Uint8Array };
const typeOf = (value) => Object.keys(types).find((name) => value instanceof types[name]);
function hasBytes(value) { // every value goes by here, so without a list of each object's values
  if (typeof value !== "object" || value === null) return false;
  if (ArrayBuffer.isView(value)) return true;
  for (const key in value) if (typeof value[key] === "object" && hasBytes(value[key])) return true;
  return false;
}
let blobs = 0;
/** A file that the host takes over, or the same in chunks. An array of the host's has `shape` and `dtype`. */
function blobOut(view) {
  const bytes = view instanceof Uint8Array && !view.shape, chunks = [];
  const { buffer, byteOffset, byteLength: size, length, shape = [length], dtype = typeOf(view) } = view;
  const data = Buffer.from(buffer, byteOffset, size), path = `${process.env.KERNELBRIDGE_BLOBS}/${++blobs}`;
  const blob = { $blob: chunks, dtype, shape, bytes: bytes || undefined };
  if (carrier !== pipe || size < 65536) {
    for (let at = 0; at < size; at += 786432) chunks.push(data.toString("base64", at, Math.min(at + 786432, size)));
    return bytes && size < 65536 ? { $bytes: chunks.join("") } : blob;
  }
  const file = fs.openSync(path, "wx", 0o600);
  try {
    for (let at = 0; at < size;) at += fs.writeSync(file, data, at);
  } finally {
    fs.closeSync(file);
  }
  return { ...blob, $blob: path };
}
function blobIn({ $blob: content, dtype, shape, bytes }) {
  let data;
  if (Array.isArray(content)) {
    data = new Uint8Array(Buffer.concat(content.map((text) => Buffer.from(text, "base64"))));
  } else {
    const file = fs.openSync(content, "r");
    try {
      data = new Uint8Array(fs.fstatSync(file).size);
      for (let at = 0, more = 1; more; at += more) more = fs.readSync(file, data, at, data.length - at, null);
    } finally {
      fs.closeSync(file);
    }
  }
  const view = new types[dtype](data.buffer);
  const hidden = { shape: { value: shape }, dtype: { value: dtype } };
  return bytes ? view : Object.defineProperties(view, hidden);
}
// Buffer has a toJSON of its own, so the value itself is looked at.
function bytesOut(key, value) { return typeOf(this[key]) ? blobOut(this[key]) : value; }
const bytesIn = (_, value) => typeof value?.$bytes === "string" && Object.keys(value).length === 1
  ? new Uint8Array(Buffer.from(value.$bytes, "base64")) : value?.$blob && value.dtype ? blobIn(value) : value;
const decode = (text) => JSON.parse(text, text.includes('"$b') ? bytesIn : undefined);
function encode(value) {
  try {
    const text = JSON.stringify(value, hasBytes(value) ? bytesOut : undefined) ?? "null";
    if (!text.includes("\\ud")) return text; // half a surrogate pair, a string in JavaScript only
    return text.replace(/\\(?:\\|ud[89a-f][0-9a-f]{2})/g, (found) => found === "\\\\" ? found : "\\ufffd");
  } catch (error) {
    const why = error instanceof RangeError ? "circular or nested too deep" : error.message;
    throw new Refusal("Invalid", `this value cannot be sent: ${why}`);
  }
}

// ---- Carriers
let up, down, start, end; // what was read and not yet taken lies in `inbox` from `start` to `end`
const stop = (why) => { throw new Error(`kernelbridge: ${why}`); };
const some = (size) => size || stop("the host closed the pipe");
const byte = () => (start === end && ([start, end] = [0, read(inbox, 0)]), inbox[start++]);
/** The number at the head of a frame. */
function sizeOfFrame() {
  let size = 0;
  for (let digit; (digit = byte()) !== 10;) size = size * 10 + digit - 48;
  return size;
}

// ---- Turns: synchronous until a handler returns a promise
let carrier = null, ended = false; // `ended` is "cut" when an interrupt left half a frame in the pipe
let sent = 0, taken = 0; // the last request ids
const held = []; // notifications that wait for company or for a turn
const serving = []; // the ids of the requests under way, youngest last
// queue: requests that came together and wait. answers: responses to those before them, which go together while it is
// not `due` yet. quick: handlers and exports that took less than 1 ms.
const queue = [], answers = [], quick = new Set();
let due = 0;
let isStanding, opened = 0; // `opened` counts turns
let cancel = null, abandon = null; // fail the awaited handler, the turn
function open(chosen) {
  if (carrier) release(); // an interrupt ended the last turn, and Deno then runs no `finally`
  for (const list of [serving, queue, answers]) list.length = 0;
  chosen.open();
  [carrier, ended, cancel, abandon] = [chosen, false, null, null];
  opened++;
  const late = held.splice(0);
  carrier.post('{"jsonrpc":"2.0","method":"ready"}');
  late.forEach(carrier.note);
}
/** A turn that is a cell. */
function turn(chosen) {
  let pending;
  try {
    open(chosen);
    isStanding = false;
    watch();
    pending = guard(loop);
  } finally {
    if (!pending) release();
  }
  return pending && new Promise((resolve, reject) => drive(pending).then(resolve, abandon = reject)).finally(release);
}
const drive = async (pending) => { for (; pending; pending = guard(loop)) await pending; };
const release = () => (unwatch(), carrier?.close(), carrier = null);
/** A turn that goes on after its cell: between two messages the kernel is idle. */
function stand() {
  open(pipe);
  isStanding = true;
  void attend(opened);
}
/** What comes first is awaited; while a request is served no read is under way, and what comes is read at once. */
async function attend(own) {
  try {
    while (own === opened && !ended) {
      if (start === end && !queue.length) {
        const size = await readLater();
        if (own !== opened || !carrier) return; // the turn is over
        [start, end] = [0, some(size)];
      }
      const pending = guard(loop);
      if (pending) await pending;
    }
  } catch { /* the pipe is closed, or a frame was cut off */ }
  if (own === opened) release();
}

/** Serve until a handler has to be awaited, then the promise of its response; or, standing, what is there already. */
function loop() {
  while (!ended && (!isStanding || queue.length || start < end)) {
    const pending = step();
    if (pending) return pending;
  }
  if (ended === "cut") stop("interrupted in the middle of a frame");
}
function step() {
  if (!queue.length) return serveNext(receive());
  const next = queue.shift(), { handler, name = handler } = next.params;
  if (answers.length && !quick.has(name)) say(); // it may take long
  const began = performance.now(), pending = serve(next, true);
  quick[!pending && performance.now() - began < 1 ? "add" : "delete"](name);
  return pending;
}
const serveNext = (message) => message ? message.method && message.id !== undefined && serve(message, true) : step();
/** The next message, or nothing when requests were queued. */
function receive() {
  const message = decode(carrier.next());
  if (Array.isArray(message)) return void queue.push(...message.filter(isNew));
  if (message.method === "end") ended = true;
  return !message.method || message.id === undefined || isNew(message) ? message : receive();
}
const isNew = ({ id }) => id > taken && (taken = id); // else it is stale, from before an interrupt
function serve({ id, method, params }, mayWait) {
  if (mayWait) serving.length = 0; // what an interrupt left there
  serving.push(id);
  const known = method === "event" && unsent?.get(nameOf(params));
  let outcome = method === "series" ? series(params, mayWait) : known || attempt(method, params, mayWait);
  if (mayWait) outcome = flushed(outcome);
  return then(outcome, (text) => {
    serving.pop();
    if (!ended) respond(`{"jsonrpc":"2.0","id":${id},${text}}`);
  });
}
function respond(text) {
  if (queue.length && !serving.length && performance.now() < due) answers.push(text);
  else say(text);
}
/** After the responses that were held back. */
function say(text) {
  if (queue.length) due = performance.now() + 1;
  if (answers.length) text = `[${text === undefined ? answers.splice(0) : [...answers.splice(0), text]}]`;
  carrier.post(text);
}
/** What came of a request, as the end of a response, or the promise of it. */
function attempt(method, params, mayWait) {
  let value;
  try {
    if (!Object.hasOwn(methods, method)) throw new Refusal("NotFound", `no method \`${method}\``);
    value = methods[method](params ?? {}, mayWait);
    if (!isPromise(value)) return result(value);
    if (!mayWait) throw (value.then(() => {}, () => {}), deadlock()); // its late error has nobody to go to
  } catch (thrown) {
    return failure(thrown);
  }
  if (answers.length) say();
  if (isStanding) watch();
  return new Promise((resolve, reject) => value.then(resolve, cancel = reject)).finally(() => {
    cancel = null;
    if (isStanding) unwatch();
  }).then(result, failure);
}
const failure = (thrown) => result(describe(thrown), "error");
function result(value, key = "result") {
  try { return `"${key}":${encode(value)}`; } catch (refusal) { return failure(refusal); }
}
const nameOf = ({ handler, id, attempt }) => `${handler} ${id} ${attempt}`;
/** Events one after the other, until one fails or time is up. */
function series({ within_ms, chain, events }, mayWait) {
  const outcomes = [], until = performance.now() + within_ms;
  const overdue = unsent && failure(new Refusal("Timeout", "interrupted at its deadline"));
  let began;
  unsent?.clear();
  function isLast(text) {
    const now = performance.now();
    unsent?.set(nameOf(events[outcomes.length]), text);
    outcomes.push(`{${text},"ms":${(now - began).toFixed(3)}}`);
    return ended || now > until || text.startsWith('"error"');
  }
  function more(isOver) {
    while (!isOver && outcomes.length < events.length) {
      began = performance.now();
      unsent?.set(nameOf(events[outcomes.length]), overdue);
      isOver = then(attempt("event", { ...events[outcomes.length], chain }, mayWait), isLast);
      if (isPromise(isOver)) return isOver.then(more);
    }
    if (!ended) unsent?.clear();
    return `"result":{"outcomes":[${outcomes}]}`;
  }
  return more(false);
}
/** Ask the host and wait for its answer. Whoever waits, serves. */
function request(method, params) {
  if (!carrier && cells) return inCell(() => request(method, params));
  if (!carrier || !serving.length) throw new BridgeError("Cancelled", "no handler is running; calls belong inside one");
  const text = encode(params), id = ++sent, caller = current;
  if (!ended) say(`{"jsonrpc":"2.0","id":${id},"method":"${method}","params":${text}}`);
  while (!ended) {
    const message = receive() ?? {}, { result, error } = message;
    if (message.method && message.id !== undefined) (serve(message, false), move(caller));
    else if (message.id === id && error) throw new BridgeError(error.data?.kind ?? "Host", error.message, error);
    else if (message.id === id) return result;
  }
  throw new BridgeError("Cancelled", "the turn is over");
}
/** Code of a cell that somebody else has the kernel run: the pipe is open for as long as it asks for something. */
function inCell(work) {
  for (const list of [serving, queue, answers]) list.length = 0;
  pipe.open();
  [carrier, ended] = [pipe, false];
  serving.push(0);
  try {
    return work();
  } finally {
    serving.length = 0;
    ended = true;
    release();
  }
}
function notify(method, params) {
  if (!carrier && cells) return inCell(() => notify(method, params));
  const text = `{"jsonrpc":"2.0","method":"${method}","params":${encode({ ...params, space: own().id || undefined })}}`;
  if (carrier && !ended) carrier.note(text);
  else if (held.length < 1000) held.push(text); // from background code: the next turn takes it along
}

// ---- Methods of the host
const methods = {
  initialize({ space = 0, plugin: { name }, folder, config = {}, cells: areCells = false }) {
    cells = areCells;
    const plugin = { id: space, ...fresh(), name, folder, config };
    spaces.set(space, plugin);
    move(plugin);
    return about();
  },
  async load({ space = 0, path, cells }) {
    const plugin = spaceOf(space);
    forget(plugin);
    move(plugin);
    plugin.source = cells.map((cell) => cell.source).join("\n");
    await importPlugin(path, cells);
    return { handlers: plugin.tags, async: false }; // one constant opens every turn
  },
  event: ({ handler, ...event }, mayWait) => handle(handler, mayWait, event),
  rows({ handler, count, data, chain, ...params }, mayWait) {
    const { ids, topics, times, attempts, keys } = headOf({ count, ...params }), events = new Array(count);
    for (let i = 0; i < count; i++) {
      events[i] = { id: ids[i], topic: topics[i], time: times[i], attempt: attempts[i], key: keys[i], data: data[i], chain };
    }
    return then(handle(handler, mayWait, events), (results) => outcomes(results, count, false));
  },
  columns: ({ handler, columns, ...params }, mayWait) =>
    then(handle(handler, mayWait, columns, headOf(params)), (results) => outcomes(results, params.count, true)),
  filter: ({ handler, ...event }, mayWait) => then(handle(handler, mayWait, event), (changed) =>
    changed ? { topic: changed.topic ?? event.topic, key: changed.key, data: changed.data } : null),
  call: ({ space = 0, name, args }, mayWait) => invoke(spaceOf(space), spaceOf(space).exports.get(name), mayWait, ...args),
  async shutdown({ space = 0 }) {
    const plugin = spaces.get(space);
    try {
      for (const fn of plugin?.shutdowns.splice(0) ?? []) await invoke(plugin, fn, true);
    } finally {
      if (plugin?.id) (forget(plugin), spaces.delete(space)); // the kernel goes on without it
    }
  },
};
function spaceOf(space) {
  if (!spaces.has(space)) throw new Refusal("NotFound", `no space ${space}`);
  return spaces.get(space);
}
/** What it registered. */
function forget(plugin) {
  for (const { id } of plugin.tags) functions[id] = owners[id] = undefined;
  Object.assign(plugin, fresh());
}
/** It is served now, in its folder. */
function move(plugin) {
  if (plugin !== current && plugin.folder) process.chdir(plugin.folder);
  current = plugin;
}
let loads = 0;
/** A file is imported from where it lies, so that its own imports work; notebook cells become one module. */
async function importPlugin(path, cells) {
  const query = `?load=${++loads}`; // a module is loaded once for each URL
  if (path && cells.length === 1 && fs.existsSync(path) && fs.readFileSync(path, "utf8") === cells[0].source) {
    own().locate = (text) => text.replaceAll(query, "");
    return importFile(pathToFileURL(path) + query, path);
  }
  const lines = cells.flatMap(({ name, source }) => source.split("\n").map((_, i) => `${name}:${i + 1}`));
  const locate = (place) => own().locate = (text) => text.replace(place, (found, line) => lines[line - 1] ?? found);
  return importCells(own().source, path, locate);
}
/** What the events of a batch have beside their data, each made from runs of equal ones when it is asked for. */
function headOf({ count, ids, topics, times, attempts, keys }) {
  const counted = ([id, first, count]) => first === undefined ? [id] : Array.from({ length: count }, (_, i) => id + (first + i));
  const repeated = ([value, count]) => new Array(count).fill(value), head = { count };
  for (const [name, runs] of Object.entries({ ids, topics, times, attempts, keys })) {
    let items;
    const get = () => items ??= runs.length === 1 && runs[0].length === 2 ? repeated(runs[0]) :
      runs.flatMap(name === "ids" ? counted : repeated);
    Object.defineProperty(head, name, { get, enumerable: true });
  }
  return head;
}
/** Of the events of a batch, in as few words as will do. */
function outcomes(results, count, isTable) {
  if (Array.isArray(results) && results.length === count) {
    if (!results.some((result) => result instanceof Error)) return { results };
    return { outcomes: results.map((result) => result instanceof Error ? { error: describe(result) } : { result }) };
  }
  const columns = isTable && typeof results === "object" && results !== null ? Object.values(results) : [];
  const fits = (column) => Array.isArray(column) && column.length === count;
  return columns.length && columns.every(fits) ? { columns: results } : { done: count };
}
const handle = (handler, ...rest) => invoke(owners[handler], functions[handler], ...rest);
function invoke(plugin, fn, mayWait, ...args) {
  if (!fn) throw new Refusal("NotFound", "no such handler or export");
  if (!mayWait && fn instanceof AsyncFunction) throw deadlock();
  move(plugin);
  return plugin.id ? storage.run(plugin, fn, ...args) : fn(...args);
}

// ---- What authors see
function tag(kind, fn, more) {
  if (typeof fn !== "function") throw new TypeError(`bridge.${kind} needs a function`);
  const { tags } = own(), same = (other) => [other.kind, other.topic, other.name].join() === [kind, more.topic, more.name].join();
  // In a cell that is run again: events that are on their way go to the new one.
  const [old] = cells && tags.some(same) ? tags.splice(tags.findIndex(same), 1) : [], id = old?.id ?? functions.length;
  [functions[id], owners[id]] = [fn, own()];
  tags.push({ id, kind, ...more });
  if (cells) notify("handlers", { handlers: tags });
}
/** The signature, and the JSDoc comment above the export or above the function it names. */
function docOf(name, fn) {
  const [, signature = "(...)"] = /^(?:async\s*)?(?:function\b[^(]*)?(\([^()]*\)|[\w$]+(?=\s*=>))/.exec(fn) ?? [];
  const literal = (word) => word.replace(/\W/g, "\\$&"), at = [`bridge\\.export\\(\\s*["'\`]${literal(name)}["'\`]`];
  if (fn.name) at.push(`(?:export\\s+)?(?:async\\s+)?(?:function\\*?|const|let|var)\\s+${literal(fn.name)}\\b`);
  const comment = new RegExp(`/\\*\\*((?:(?!\\*/)[^])*)\\*/\\s*(?:${at.join("|")})`).exec(own().source)?.[1] ?? "";
  return `${name}${signature.replace(/^[^(].*/, "($&)")}\n${comment.replace(/^[ \t]*\*[ \t]?/gm, "").trim()}`.trim();
}
const call = (name, ...args) => request("call", { name, args });
const logger = (level) => [level, (message, fields) => notify("log", { level, message: String(message), fields })];
const stored = (key, fallback, { value, version } = call("state.read", key)) => [version ? value : fallback, version];
const state = {
  get: (key, fallback = null) => stored(key, fallback)[0],
  set: (key, value) => call("state.set", key, value),
  delete: (key) => call("state.delete", key),
  list: (prefix = "") => call("state.list", prefix),
  /** With an event as `once`, it is done once for that event, however often that is delivered. */
  update(key, change, fallback = null, once = null) {
    for (;;) {
      const [value, version] = stored(key, fallback), changed = change(value);
      if (isPromise(changed)) throw new TypeError("the function given to bridge.state.update must not be async");
      const swap = once ? call("state.once", once.id, key, version, changed) : call("state.swap", key, version, changed);
      if (swap.swapped || swap.done) return swap.swapped ? changed : value;
    }
  },
};
const bridge = {
  on(topic, fn, { batch = 0, columns = batch === "columns" } = {}) { // a batch of columns is as large as the manifest says
    if (typeof batch === "string" && batch !== "columns") throw new TypeError(`batch: a number or "columns", not "${batch}"`);
    const shape = columns ? { batch: +batch || 0, columns: "columns" } : { batch };
    tag("on", fn, { topic, name: fn?.name || topic, ...shape });
  },
  filter: (topic, fn, priority = 0) => tag("filter", fn, { topic, name: fn?.name || topic, priority }),
  export: (name, fn) => void (tag("export", fn, { name, doc: docOf(name, fn) }), own().exports.set(name, fn)),
  emit: (topic, data = null, key = undefined) => void request("emit", { topic, data, key }),
  log: Object.fromEntries(["debug", "info", "warn", "error"].map(logger)),
  progress: (done, total, message) => notify("progress", { done, total, message }),
  // Of a notebook: live events of a running host come to its handlers, as copies or instead of a plugin's.
  connect: ({ host = null, replace = null } = {}) => call("host.connect", { host, replace }),
  disconnect: () => void call("host.disconnect"),
  on_shutdown: (fn) => void own().shutdowns.push(fn),
  get config() { return own().config; },
  call, state, Error: BridgeError,
};
/** What nobody caught. */
function report(thrown) {
  const { message, data: { traceback } } = describe(thrown);
  notify("log", { level: "error", message: `uncaught: ${message}`, fields: { traceback } });
}
