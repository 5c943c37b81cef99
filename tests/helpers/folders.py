"""Where things lie: the repository, what lies beside it, and the files of a run and of a saved classifier."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs the public data, vectors and checkpoints in ../shared"
)
MODEL_FILES = {"config.json", "model.safetensors", "nlptransfer.json", "tokenizer.json", "tokenizer_config.json"}
ADAPTER_FILES = MODEL_FILES - {"model.safetensors"} | {"adapter_config.json", "adapter_model.safetensors"}
RECORD_FILES = {"experiment.json", "metrics.json", "predictions.parquet"}
RUN_FILES = RECORD_FILES | {"learned.npy"} | {f"model/{name}" for name in MODEL_FILES}
ADAPTER_RUN_FILES = RECORD_FILES | {"learned.npy"} | {f"model/{name}" for name in ADAPTER_FILES}


def files_of(folder: Path) -> dict[str, int]:
    """Every file below a folder and when it was written."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and what is in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


COMMANDS = rb'"repeat": "(\\\\.|[^"\\\\])*"|<(code|pre)>[^<]*</\2>'
"""The command that made a result, and commands to go on with, have paths as they were typed."""


def no_path_in(folder: Path, root: Path) -> None:
    """Check that no file names a place of this machine, but in commands, which are no part of a saved classifier."""
    places = [root, Path.cwd(), Path.home(), ROOT]
    secrets = [str(place).encode() for place in places if len(place.parts) > 1]
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes() if "model" in path.parts else re.sub(COMMANDS, b"", path.read_bytes())
        assert not [secret for secret in secrets if secret in content], path
    assert files
