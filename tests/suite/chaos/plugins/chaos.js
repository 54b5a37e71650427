function misbehave(what) {
  if (what === "exit") Deno.exit(1);
  while (what === "loop");
  if (what === "flood") for (let i = 0; i < 20000; i++) console.log("x".repeat(100));
  if (what === "hog") return Array.from({ length: 4000 }, (_, i) => new Uint8Array(1 << 20).fill(i));
  if (what === "raise") throw new Error(what);
}

bridge.on("chaos", ({ data: { n, what, always }, attempt }) => {
  Deno.writeTextFileSync(bridge.config.log, `${n}\n`, { append: true });
  if (attempt === 1 || always) misbehave(what);
  Deno.writeTextFileSync(bridge.config.log, `${n} done\n`, { append: true });
  return n;
});
