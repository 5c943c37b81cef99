"""A classifier and rows in parquet for the engines, which make test-engines installs."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.classifiers import LABELS, changed, write_vectors
from helpers.corpora import WORDS
from nlptransfer import Classifier, Word2Vec

ROWS, PARTS = int(os.environ.get("ENGINE_ROWS", "20000")), 10


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("model")
    classifier = changed(Word2Vec(head_type="linear"), write_vectors(root / "vectors.txt", 50), LABELS)
    return classifier.save_pretrained(root / "model")


@pytest.fixture(scope="session")
def rows(tmp_path_factory) -> Path:
    """Parts of parquet: a number, 30 words, and something that is kept."""
    folder, draw = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    for part in range(PARTS):
        texts = [" ".join(row) for row in draw.choice(WORDS, size=(ROWS // PARTS, 30))]
        numbers = range(part * len(texts), (part + 1) * len(texts))
        table = pa.table({"id": pa.array(numbers, pa.int64()), "text": ["", *texts[1:]], "tags": [["a"]] * len(texts)})
        pq.write_table(table, folder / f"part-{part:05d}.parquet")
    return folder


@pytest.fixture
def check(model, rows) -> Callable[[Path], None]:
    """Compare what an engine wrote to what predict gives for the same rows."""

    def compare(folder: Path) -> None:
        found, given = (pq.read_table(place).sort_by("id") for place in (folder, rows))
        assert found.column_names == [*given.column_names, "label", "score"]
        assert found.select(["id", "text", "tags"]).to_pylist() == given.to_pylist()
        wanted = Classifier.load(model).predict(given, text_column="text")
        assert found["label"].to_pylist() == [None if each.abstained else each.label for each in wanted]
        scores = [np.nan if each.abstained else each.score for each in wanted]
        np.testing.assert_allclose(found["score"].to_numpy(), scores, atol=1e-6)
        assert found.schema.field("score").type == pa.float32() and found["score"].null_count == PARTS

    return compare


@pytest.fixture
def only_here() -> Callable[[psutil.Process], None]:
    """Assert that nothing that a process started can be reached from another machine."""

    def look(process: psutil.Process) -> None:
        for each in [process, *process.children(recursive=True)]:
            try:
                listening = [each for each in each.net_connections("inet") if each.status == psutil.CONN_LISTEN]
            except psutil.Error:
                continue  # it has ended
            addresses = {connection.laddr.ip.removeprefix("::ffff:") for connection in listening}
            assert addresses <= {"127.0.0.1", "::1"}, (addresses, each)

    return look
