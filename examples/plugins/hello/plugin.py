@bridge.export
def greet(name, language):
    """greet(name, language) -> text"""
    return f"{bridge.call('app.greeting', language)}, {name}!"


@bridge.on("person.arrived")
def arrived(event):
    count = bridge.state.update("guests", lambda guests: guests + 1, default=0)
    bridge.emit("person.counted", {"name": event.data["name"], "guests": count})
