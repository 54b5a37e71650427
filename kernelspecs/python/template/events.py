# Sample events, one after the other, for the handlers above.
import json

for line in open("events.ndjson"):
    event = json.loads(line)
    bridge.emit(event["topic"], event["data"], event.get("key"))
