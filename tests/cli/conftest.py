"""Runs that the tests of the command line share."""

import pytest


@pytest.fixture(scope="package")
def run(remarks_folder, vectors_file, tmp_path_factory):
    return _linear(remarks_folder, vectors_file, tmp_path_factory)


@pytest.fixture(scope="package")
def several(tickets_file, vectors_file, tmp_path_factory):
    """A run with several labels a text."""
    return _linear(tickets_file, vectors_file, tmp_path_factory)


def _linear(data, vectors_file, tmp_path_factory):
    from helpers.runs import finetune  # not before the caches are the tests' own

    return finetune(data, base=vectors_file, head_type="linear", output_dir=tmp_path_factory.mktemp("run"))
