// Sample events, one after the other, for the handlers above.
for (const line of Deno.readTextFileSync("events.ndjson").trim().split("\n")) {
  const { topic, data, key } = JSON.parse(line);
  bridge.emit(topic, data, key);
}
