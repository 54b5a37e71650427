"""The handler on a table of records: Arrow IPC stream in and out, computed by pyarrow without a Python loop."""

import pyarrow
import pyarrow.compute as compute


def work_on_table(table):
    table = table.set_column(1, "text", compute.utf8_upper(table.column("text")))
    return table.set_column(2, "value", compute.add(table.column("value"), 1))


def work_on_stream(data):
    with pyarrow.ipc.open_stream(data) as reader:
        table = work_on_table(reader.read_all())
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
