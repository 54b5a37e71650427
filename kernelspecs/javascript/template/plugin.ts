// `bridge` is there already: nothing to import, nothing to install.
// deno-lint-ignore no-explicit-any
declare const bridge: any; // only for editors and type checkers

/** A greeting for `name`. */
function greet(name: string): string {
  return `${bridge.config.greeting}, ${name}`;
}
bridge.export("greet", greet);

bridge.on("guest.*", (event: { data: { name: string } }) => {
  const count = bridge.state.update("my-plugin/count", (n: number) => n + 1, 0);
  bridge.emit("my-plugin.greeted", { text: greet(event.data.name), count });
});
