# `bridge` is there already: nothing to import, nothing to install.


@bridge.export
def greet(name):
    """A greeting for `name`."""
    return f"{bridge.config['greeting']}, {name}"


@bridge.on("guest.*")
def welcome(event):
    count = bridge.state.update("my-plugin/count", lambda n: n + 1, 0)
    bridge.emit("my-plugin.greeted", {"text": greet(event.data["name"]), "count": count})
