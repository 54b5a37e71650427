// The plugin every language has for the shared conformance suite, in TypeScript.
import { Buffer } from "node:buffer";

// deno-lint-ignore no-explicit-any
declare const bridge: any; // only for editors and type checkers: the name is there at run time

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
interface Event {
  topic: string;
  attempt: number;
  // deno-lint-ignore no-explicit-any
  data: any;
}

// A red square of 8 x 8 pixels.
const png = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mM4o6SEFTEMLQkAvM5EAUNdDNUAAAAASUVORK5CYII=";

/** Greets `name`. */
function hello(name: string): string {
  return `${bridge.config.greeting}, ${name} from javascript`;
}
bridge.export("hello", hello);

bridge.export("identity", (x: Json) => x);

bridge.export("sum", (x: Float64Array) => x.reduce((sum, number) => sum + number, 0));

bridge.export("fail", (message: string) => {
  throw new Error(message);
});

bridge.export("print_both", (text: string) => {
  console.log(text);
  console.error(text);
  return null;
});

bridge.export("plot", () => Deno.jupyter.display(Deno.jupyter.image(new Uint8Array(Buffer.from(png, "base64")))));

bridge.export("call_host", (name: string, args: Json[]) => bridge.call(name, ...args));

bridge.export("try_call", (name: string, args: Json[]) => {
  try {
    return bridge.call(name, ...args);
    // deno-lint-ignore no-explicit-any
  } catch (error: any) {
    if (!(error instanceof bridge.Error)) throw error;
    return { kind: error.kind, message: error.message };
  }
});

bridge.export("nest", (n: number) => (n <= 0 ? 0 : bridge.call("test.nest", n) + 0));

bridge.export("increment", (key: string, times: number) => {
  let last = null;
  for (let i = 0; i < times; i++) last = bridge.state.update(key, (value: number) => value + 1, 0);
  return last;
});

bridge.export("state_roundtrip", (key: string, value: Json) => {
  bridge.state.set(key, value);
  const stored = bridge.state.get(key);
  bridge.state.delete(key);
  return stored;
});

bridge.export("emit_one", (topic: string, data: Json) => bridge.emit(topic, data));

bridge.export("log_one", (level: "debug" | "info" | "warn" | "error", message: string) => bridge.log[level](message));

bridge.export("busy", (seconds: number) => {
  const end = Date.now() + seconds * 1000;
  while (Date.now() < end);
  return null;
});

bridge.export("sleep", (seconds: number) => new Promise<void>((resolve) => setTimeout(resolve, seconds * 1000)));

bridge.export("keyboard", () => prompt("your name?"));

bridge.export("exit_now", () => Deno.kill(Deno.pid, "SIGKILL"));

bridge.on("conf.echo", ({ topic, data, attempt }: Event) => ({ topic, data, attempt }));

bridge.on("conf.batch", (events: Event[]) => events.map((event) => event.data.n * 2), { batch: 10 });
bridge.on("conf.columns", (c: Record<string, unknown[]>, head: { ids: string[] }) => {
  if (c.fail) throw new RangeError("conf.columns was told to fail");
  return { ...c, n: c.n.map((n) => n === null ? null : (n as number) * 2), id: head.ids };
}, { batch: "columns" });
bridge.on("conf.once", (event: Event) => {
  bridge.state.update("once", (n: number) => n + 1, 0, event);
  return bridge.state.update("once", (n: number) => n + 1, 0, event);
});

bridge.on("conf.fail", () => {
  throw new RangeError("this handler always fails");
});

bridge.on("conf.async", async () => {
  await new Promise((resolve) => setTimeout(resolve, 20));
  return "async-ok";
});

bridge.filter("conf.filter", (event: Event) => {
  if (event.data.drop) return null;
  event.data.path.push("javascript");
  return event;
}, 10);

bridge.on_shutdown(() => bridge.state.set("shutdown/javascript", true));
