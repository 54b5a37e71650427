// The plugin every language has for the shared conformance suite, in JavaScript for Node.
const readline = require("node:readline/promises");

// A red square of 8 x 8 pixels.
const png = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mM4o6SEFTEMLQkAvM5EAUNdDNUAAAAASUVORK5CYII=";

/** Greets `name`. */
function hello(name) {
  return `${bridge.config.greeting}, ${name} from node`;
}
bridge.export("hello", hello);

bridge.export("identity", (x) => x);

bridge.export("sum", (x) => x.reduce((sum, number) => sum + number, 0));

bridge.export("fail", (message) => {
  throw new Error(message);
});

bridge.export("print_both", (text) => {
  console.log(text);
  console.error(text);
  return null;
});

bridge.export("plot", () => {
  $$.display().png(png);
  return null;
});

bridge.export("call_host", (name, args) => bridge.call(name, ...args));

bridge.export("try_call", (name, args) => {
  try {
    return bridge.call(name, ...args);
  } catch (error) {
    if (!(error instanceof bridge.Error)) throw error;
    return { kind: error.kind, message: error.message };
  }
});

bridge.export("nest", (n) => (n <= 0 ? 0 : bridge.call("test.nest", n) + 0));

bridge.export("increment", (key, times) => {
  let last = null;
  for (let i = 0; i < times; i++) last = bridge.state.update(key, (value) => value + 1, 0);
  return last;
});

bridge.export("state_roundtrip", (key, value) => {
  bridge.state.set(key, value);
  const stored = bridge.state.get(key);
  bridge.state.delete(key);
  return stored;
});

bridge.export("emit_one", (topic, data) => bridge.emit(topic, data));

bridge.export("log_one", (level, message) => bridge.log[level](message));

bridge.export("busy", (seconds) => {
  const end = Date.now() + seconds * 1000;
  while (Date.now() < end);
  return null;
});

bridge.export("sleep", (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000)));

bridge.export("keyboard", async () => {
  const terminal = readline.createInterface({ input: process.stdin });
  try {
    return await terminal.question("your name?");
  } finally {
    terminal.close();
  }
});

bridge.export("exit_now", () => process.kill(process.pid, "SIGKILL"));

bridge.on("conf.echo", ({ topic, data, attempt }) => ({ topic, data, attempt }));

bridge.on("conf.batch", (events) => events.map((event) => event.data.n * 2), { batch: 10 });
bridge.on("conf.columns", (c, head) => {
  if (c.fail) throw new RangeError("conf.columns was told to fail");
  return { ...c, n: c.n.map((n) => n === null ? null : n * 2), id: head.ids };
}, { batch: "columns" });
bridge.on("conf.once", (event) => {
  bridge.state.update("once", (n) => n + 1, 0, event);
  return bridge.state.update("once", (n) => n + 1, 0, event);
});

bridge.on("conf.fail", () => {
  throw new RangeError("this handler always fails");
});

bridge.on("conf.async", async () => {
  await new Promise((resolve) => setTimeout(resolve, 20));
  return "async-ok";
});

bridge.filter("conf.filter", (event) => {
  if (event.data.drop) return null;
  event.data.path.push("node");
  return event;
}, 10);

bridge.on_shutdown(() => bridge.state.set("shutdown/node", true));
