// Events that are well, fail at first, never end, and take 20 ms.
const seen = new Set();
function once(event) {
  if (seen.has(event.data)) throw new Error("the same attempt a second time");
  seen.add(event.data);
  return event.data;
}

bridge.on("n", once);

bridge.on("flaky", async (event) => {
  if (event.attempt === 1) throw new Error("the first attempt fails");
  return event.data;
});

bridge.on("hang", (event) => {
  for (once(event);;);
});

bridge.on("slow", async (event) => {
  await new Promise((done) => setTimeout(done, 20));
  return event.data;
});
