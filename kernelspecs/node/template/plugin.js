// `bridge` is there already: nothing to require, nothing to install.

/** A greeting for `name`. */
function greet(name) {
  return `${bridge.config.greeting}, ${name}`;
}
bridge.export("greet", greet);

bridge.on("guest.*", (event) => {
  const count = bridge.state.update("my-plugin/count", (n) => n + 1, 0);
  bridge.emit("my-plugin.greeted", { text: greet(event.data.name), count });
});
