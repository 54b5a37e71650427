# `bridge` is there already: nothing to require, nothing to install.

# A greeting for +name+.
def greet(name)
  "#{bridge.config["greeting"]}, #{name}"
end
bridge.export("greet") { |name| greet(name) }

bridge.on("guest.*") do |event|
  count = bridge.state.update("my-plugin/count", 0) { |n| n + 1 }
  bridge.emit("my-plugin.greeted", { text: greet(event["data"]["name"]), count: count })
end
