// Events that are well, fail at first, never end, and take 20 ms.
bridge.on("n", (event) => event.data);

bridge.on("flaky", async (event) => {
  if (event.attempt === 1) throw new Error("the first attempt fails");
  return event.data;
});

bridge.on("hang", () => {
  for (;;);
});

bridge.on("slow", async (event) => {
  await new Promise((done) => setTimeout(done, 20));
  return event.data;
});
