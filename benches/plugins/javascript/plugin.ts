// What `kernelbridge bench` measures.

// deno-lint-ignore no-explicit-any
declare const bridge: any; // only for editors and type checkers: the name is there at run time

interface Record {
  id: number;
  text: string;
  value: number;
}

function work(record: Record): Record {
  return { id: record.id, text: record.text.toUpperCase(), value: record.value + 1 };
}

bridge.export("unary", work);

bridge.export("batch", (records: Record[]) => records.map(work));

bridge.on("bench.one", (event: { data: Record }) => work(event.data));

bridge.on("bench.many", (events: { data: Record }[]) => events.map((event) => work(event.data)), { batch: 1000 });

interface Columns {
  id: number[];
  text: string[];
  value: number[];
}

bridge.on("bench.columns", (table: Columns) => ({
  id: table.id,
  text: table.text.map((text) => text.toUpperCase()),
  value: table.value.map((value) => value + 1),
}), { batch: "columns" });

bridge.export("nested", (record: Record) => {
  return { ...work(record), value: bridge.call("host.plus_one", record.value) };
});

bridge.export("calls", (count: number) => {
  let value = 0;
  for (let i = 0; i < count; i++) value = bridge.call("host.plus_one", value);
  return value;
});

bridge.export("nest", (depth: number) => (depth > 0 ? bridge.call("host.nest", depth - 1) + 1 : 0));
