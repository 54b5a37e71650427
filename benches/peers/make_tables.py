"""Write 1,000 records as an Arrow stream, and the right answer: make_tables.py FOLDER."""

import pathlib
import sys

import pyarrow

from tables import work_on_stream

folder = pathlib.Path(sys.argv[1])
rows = range(1000)
texts = [f"{row:08x} the quick brown fox jumps over the lazy dog, again and again"[:64] for row in rows]
table = pyarrow.table({"id": list(rows), "text": texts, "value": [row + 41 for row in rows]})
sink = pyarrow.BufferOutputStream()
with pyarrow.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table)
stream = sink.getvalue().to_pybytes()
(folder / "records.arrow").write_bytes(stream)
(folder / "answers.arrow").write_bytes(work_on_stream(stream))
