"""Names of runs: after the data, however long its name is."""

import pytest

from nlptransfer.results import folder_name


@pytest.mark.parametrize("name", ["x" * 300, "电" * 300, "é" * 119, "\udcff" * 300])
def test_a_long_name_of_data_makes_no_name_that_is_too_long(tmp_path, name):
    found = folder_name(name, "word2vec", "sequential", "0123abcd")
    (tmp_path / found).mkdir()
    assert found.endswith("-word2vec-sequential-0123abcd") and len(found.encode()) < 160
    assert folder_name("films", "full") == "films-full"
