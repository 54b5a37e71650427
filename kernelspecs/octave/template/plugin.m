% What begins with `bridge_` is there already: nothing to load, nothing to install.
1;

function text = greet(name) % a greeting for name
  text = [bridge_config().greeting ", " name];
end
bridge_export("greet", @greet)

function welcome(event)
  count = bridge_state_update("my-plugin/count", @(n) n + 1, 0);
  bridge_emit("my-plugin.greeted", struct("text", greet(event.data.name), "count", count));
end
bridge_on("guest.*", @welcome)
