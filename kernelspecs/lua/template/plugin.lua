-- `bridge` is there already: nothing to require, nothing to install.

--- greet(name): a greeting for name
function greet(name)
  return bridge.config.greeting .. ", " .. name
end
bridge.export("greet", greet)

bridge.on("guest.*", function(event)
  local count = bridge.state.update("my-plugin/count", function(n) return n + 1 end, 0)
  bridge.emit("my-plugin.greeted", { text = greet(event.data.name), count = count })
end)
