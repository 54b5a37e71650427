"""Lets earthquakes pass that can be used, slimmer and with a class; says of all others why they cannot."""

from bisect import bisect
from numbers import Real

BOUNDS = [2, 4, 5, 6, 7, 8]
CLASSES = ["micro", "minor", "light", "moderate", "strong", "major", "great"]
KEEP = ["mag", "magType", "place", "time", "tz", "net", "ids", "type"]


def is_plausible(mag, lon, lat, depth):
    return -2 <= mag <= 10 and -180 <= lon <= 180 and -90 <= lat <= 90 and -10 <= depth <= 800


@bridge.filter("quake.new", priority=10)
def clean(event):
    match event.data:
        case {
            "properties": {"type": "earthquake", "mag": Real() as mag, "time": int(), "net": str(), **others},
            "geometry": {"coordinates": [Real() as lon, Real() as lat, Real() as depth]},
        } if is_plausible(mag, lon, lat, depth):
            properties = event.data["properties"]
            slim = {key: properties[key] for key in KEEP if key in properties}
            event.data["properties"] = slim | {"class": CLASSES[bisect(BOUNDS, mag)]}
            return event
        case {"properties": {"type": str(kind)}} if kind != "earthquake":
            reason = kind
        case _:
            reason = "malformed"
    bridge.emit("quake.rejected", {"id": event.data.get("id"), "reason": reason})
    return None
