"""Names of runs: after the data, however long its name is."""

import re
from pathlib import Path

import pytest

from nlptransfer.results import run_folder


@pytest.mark.parametrize("name", ["x" * 300, "电" * 300, "é" * 119, "\udcff" * 300])
def test_a_long_name_of_data_makes_no_name_that_is_too_long(tmp_path, name):
    found = run_folder(None, {"seed": 1}, name, "word2vec", "sequential")
    (tmp_path / found).mkdir(parents=True)
    assert re.fullmatch(r".+-word2vec-sequential-[0-9a-f]{8}", found.name) and len(found.name.encode()) < 160
    assert run_folder(None, {"seed": 1}, "films", "full").name == f"films-full-{found.name[-8:]}"
    assert run_folder(None, {"seed": 2}, "films", "full").name != f"films-full-{found.name[-8:]}"
    assert run_folder("own", {}, "films") == Path("own")
