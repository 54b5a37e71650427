"""What `kernelbridge bench` measures: the same handler as every peer's."""


def work(record):
    return {"id": record["id"], "text": record["text"].upper(), "value": record["value"] + 1}


@bridge.export
def unary(record):
    return work(record)


@bridge.export
def batch(records):
    return [work(record) for record in records]


@bridge.on("bench.one")
def one(event):
    return work(event["data"])


@bridge.on("bench.many", batch=1000)
def many(events):
    return [work(event["data"]) for event in events]


@bridge.on("bench.columns", batch="columns")
def columns(table):
    return {"id": table["id"], "text": [*map(str.upper, table["text"])], "value": [it + 1 for it in table["value"]]}


@bridge.export
def table(table):
    import pyarrow.compute as compute

    table = table.set_column(1, "text", compute.utf8_upper(table.column("text")))
    return table.set_column(2, "value", compute.add(table.column("value"), 1))


@bridge.export
def nested(record):
    answer = work(record)
    answer["value"] = bridge.call("host.plus_one", record["value"])
    return answer


@bridge.export
def calls(count):
    value = 0
    for _ in range(count):
        value = bridge.call("host.plus_one", value)
    return value


@bridge.export
def nest(depth):
    return bridge.call("host.nest", depth - 1) + 1 if depth else 0


@bridge.export
def total(numbers):
    return float(numbers.sum())


@bridge.on("bench.busy")
def busy(event):
    import time

    end = time.perf_counter() + event["data"]["micros"] / 1e6
    while time.perf_counter() < end:
        pass


@bridge.on("bench.nothing", batch=1000)
def nothing(events):
    return None
