# `bridge` is there already: nothing to import, nothing to install.

"""
    greet(name)

A greeting for `name`.
"""
greet(name) = "$(bridge.config["greeting"]), $name"
bridge.export("greet", greet)

bridge.on("guest.*") do event
    count = bridge.state.update(n -> n + 1, "my-plugin/count", 0)
    bridge.emit("my-plugin.greeted", Dict("text" => greet(event["data"]["name"]), "count" => count))
end
