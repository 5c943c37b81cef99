"""Where things lie: the repository, what lies beside it, and the files of a run and of a saved classifier."""

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


def no_path_in(folder: Path, root: Path) -> None:
    places = [root, Path.cwd(), Path.home(), ROOT]
    secrets = [str(place).encode() for place in places if len(place.parts) > 1]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files and not [path for path in files for secret in secrets if secret in path.read_bytes()]
