"""What every peer's plugin does with a record: the same as benches/plugins/*/plugin.*."""

import json

compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def work(record):
    return {"id": record["id"], "text": record["text"].upper(), "value": record["value"] + 1}


def work_on(value):
    """One record, or an array of them."""
    return [work(record) for record in value] if isinstance(value, list) else work(value)


def total(data):
    """The sum of an array of 64-bit floats."""
    import numpy

    return float(numpy.frombuffer(data, dtype="<f8").sum())
