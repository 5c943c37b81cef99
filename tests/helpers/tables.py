"""Files of rows, of every kind that is read."""

import gzip
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from nlptransfer.data.table import Table

ROWS = [{"text": "good, very", "label": "pos"}, {"text": 'a "bad"\nfilm', "label": "neg"}]
QUOTED = 'text,label\n"good, very",pos\n"a ""bad""\nfilm",neg\n'


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def parquet(rows: list[dict]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


KINDS = {
    ".csv": QUOTED,
    ".tsv": QUOTED.replace('"good, very",', "good, very\t").replace(",", "\t").replace("good\t", "good,"),
    ".jsonl": "".join(json.dumps(row) + "\n\n" for row in ROWS),
    ".json": json.dumps(ROWS, indent=2),
    ".parquet": parquet(ROWS),
}


def rows_of(table: Table) -> list[dict]:
    """Return the rows of a table, by column name."""
    columns = [table.values(name) for name in table.columns]
    return [dict(zip(table.columns, row, strict=True)) for row in zip(*columns, strict=True)]
