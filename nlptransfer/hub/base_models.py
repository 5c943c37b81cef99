"""Find a pretrained encoder, with safetensors weights alone: pickled ones can run code. Does not load models."""

import hashlib
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from nlptransfer.cache import cache_folder, warn_of_cache
from nlptransfer.errors import BaseModelError, HubError, StorageError
from nlptransfer.files import file_hash, named_path, read_json, write_json
from nlptransfer.hub.client import SENTENCEPIECE, Files, HubClient, HubUnreachable, cached_folder, is_hub_id
from nlptransfer.hub.packaged import MINILM, WEIGHTS, Packaged, find_packaged, find_packaged_vectors

logger = logging.getLogger("nlptransfer")

_SHA256 = re.compile("[0-9a-f]{64}")
_CONFIG, _WEIGHTS, _INDEX = "config.json", WEIGHTS, f"{WEIGHTS}.index.json"
_PROMPTS = "config_sentence_transformers.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_FILES: Files = {
    "allow_patterns": ["*.json", "*.safetensors", "*.txt", *SENTENCEPIECE],
    "ignore_patterns": [
        *(f"{folder}/*" for folder in ("onnx", "openvino", "coreml", "checkpoint-*", "runs")),
        *("*.fp16.safetensors", "*.bf16.safetensors"),
    ],
}
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model")
# vectors/mine.txt looks like owner/name, but is a file that is not there.
_VECTOR_ENDINGS = (".txt", ".vec", ".bin", ".gz", ".kv", ".model", ".npy", ".safetensors")
# Models of gensim's downloader; bert-base-uncased has no owner in its name either.
_VECTOR_NAMES = ("glove-", "word2vec-", "fasttext-", "conceptnet-", "__testing_")
_places: dict[str, Path] = {}
"""By the hash of their weights, where local bases lie that could not be noted in the cache."""


@dataclass(frozen=True)
class BaseModel:
    """A pretrained encoder on this machine."""

    path: Path
    """The folder with config.json, the tokenizer and the safetensors weights."""
    id: str
    """The hub id; for a local folder its name."""
    revision: str | None
    """The hub's commit; None for a local folder."""
    keep_layers: int | None = None
    """How many of its layers are used, the first ones; None: all."""


def find_base(name: str | None = None, revision: str | None = None, token: str | None = None) -> BaseModel:
    """Find an encoder: a local folder, then the hub's cache, then the hub.

    The default one comes from its package (the extra ``offline``) before the hub where that is installed, unless
    another revision is asked for. A copy in the hub's cache is taken as it is: to get a newer commit, name it.

    Args:
        name: a folder or a hub id; "minilm" and "all-MiniLM-L6-v2" mean the default, as None does.
        token: None: the one that this machine is logged in with.

    Raises:
        BaseModelError: it cannot be had, has no safetensors weights, or is not what it should be.
    """
    if find_packaged_vectors(name) is not None:
        raise BaseModelError(f"{name}: expected an encoder, found word vectors: take route word2vec, or an encoder")
    packaged = find_packaged(name)
    is_short = packaged is not None and name != packaged.id
    folder = named_path(name or "")
    if name and folder.is_dir() and (not is_short or (folder / _CONFIG).exists()):
        if revision is not None:
            raise BaseModelError(
                f"{folder.name}: expected no revision, as this is a local folder, found {revision!r}: leave it out"
            )
        folder = folder.resolve()
        return _checked(BaseModel(folder, id=folder.name, revision=None))
    hub_id = name if packaged is None else packaged.id
    assert hub_id is not None
    if name and folder.exists() and not is_short:
        raise BaseModelError(f"{folder.name}: expected the folder of an encoder or a hub id, found a file")
    if not is_hub_id(hub_id):
        raise BaseModelError(f"{name}: expected a folder or a hub id (owner/name), found neither: check the name")
    is_installed = packaged is not None and packaged.place is not None
    if packaged is not None and (not packaged.is_on_hub or (is_installed and revision in (None, packaged.revision))):
        return _from_package(packaged, revision)
    try:
        return _from_cache(hub_id, revision) or _from_hub(HubClient(hub_id, token, attempts=1), revision)
    except BaseModelError as error:
        if packaged is None or not is_installed:
            raise
        raise BaseModelError(f"{error}. The installed package has revision {packaged.revision}") from error


def is_encoder(name: str | None) -> bool:
    """Tell whether a base names an encoder, by its form alone; anything else is a file or a name of word vectors."""
    if find_packaged(name) is not None or name is None:
        return True
    if find_packaged_vectors(name) is not None:
        return False
    path = named_path(name)
    if path.exists():
        return path.is_dir() and not _holds_vectors(path)
    return is_hub_id(name) and not name.endswith(_VECTOR_ENDINGS) and not name.startswith(_VECTOR_NAMES)


def _holds_vectors(folder: Path) -> bool:
    """Tell whether a folder holds word vectors: ours, model2vec's, or a matrix without a model's config."""
    if (folder / _CONFIG).exists():
        return b'"model2vec"' in (folder / _CONFIG).read_bytes()
    return any(file.name == "vectors.json" or file.suffix in (".npy", ".safetensors") for file in folder.iterdir())


def base_prompt(base: BaseModel) -> str:
    """Return what stood before each text when a base was trained; "" if nothing.

    sentence-transformers says it in a file of its own; without one, encoders of the name e5 are known to need "query: "
    (Wang et al. 2022).
    """
    if (base.path / _PROMPTS).is_file():
        saved = _json(base, _PROMPTS)
        prompts = saved.get("prompts") or {}
        return str(prompts.get(saved.get("default_prompt_name") or "query") or "")
    return "query: " if re.search(r"(^|[-_/])e5([-_]|$)", base.id.lower()) else ""


def weights_hash(base: BaseModel) -> str:
    """Return the sha256 of an encoder's weights in hexadecimal, that of the file where they are in one."""
    files = _weight_files(base)
    if len(files) == 1:
        return file_hash(files[0])
    lines = "".join(f"{file_hash(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _checked(base: BaseModel) -> BaseModel:
    """Raise a BaseModelError unless the folder has the files of an encoder, and weights that are no pickle."""
    if not (base.path / _CONFIG).is_file():
        raise BaseModelError(f"{base.id}: expected an encoder's folder with {_CONFIG} and {_WEIGHTS}, found no config")
    if not isinstance(_json(base, _CONFIG).get("model_type"), str):
        raise BaseModelError(
            f"{base.id}: expected a model_type in {_CONFIG}, found none: is this a transformers model?"
        )
    _weight_files(base)
    if not _has_any(base.path, _TOKENIZERS):
        raise BaseModelError(
            f"{base.id}: expected a tokenizer (tokenizer.json) beside {_CONFIG}, found none: save it there, "
            "AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
        )
    return base


def _weight_files(base: BaseModel) -> list[Path]:
    """Return the safetensors files that transformers would load, or raise a BaseModelError if they are not whole."""
    folder, name = base.path, base.id
    if (folder / _WEIGHTS).is_file():
        files = [folder / _WEIGHTS]
    elif (folder / _INDEX).is_file():
        shards = _json(base, _INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise BaseModelError(f"{name}: expected a weight_map in {_INDEX}, found none: fetch it again")
        files = [folder / shard for shard in sorted({Path(str(shard)).name for shard in shards.values()})]
    elif _has_any(folder, _PICKLED):
        raise _only_pickled(name)
    else:
        raise BaseModelError(f"{name}: expected {_WEIGHTS} beside {_CONFIG}, found no weights: fetch it again")
    for file in files:
        try:
            # A file is as long as its header says; a git-lfs pointer or half a download is not.
            with safe_open(file, framework="numpy"):
                continue
        except FileNotFoundError:
            problem = f"expected {file.name}, which {_INDEX} names, found none"
        except (SafetensorError, OSError):
            problem = f"expected a whole safetensors file, found {file.name} truncated or no such file at all"
        raise BaseModelError(f"{name}: {problem}: fetch it again")
    return files


def _json(base: BaseModel, file: str) -> dict[str, Any]:
    try:
        return dict(read_json(base.path / file))
    except (ValueError, TypeError) as error:
        raise BaseModelError(f"{base.id}: expected a JSON object in {file}, found none ({error})") from error


def _has_any(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def _only_pickled(name: str) -> BaseModelError:
    return BaseModelError(
        f"{name}: has pickled weights only, which can run code when they are read. Take a model with {_WEIGHTS}, or "
        "convert it where you trust it: AutoModel.from_pretrained(NAME).save_pretrained(FOLDER)"
    )


def _from_package(packaged: Packaged, revision: str | None) -> BaseModel:
    if revision not in (None, packaged.revision):
        raise BaseModelError(
            f"{packaged.id}: expected revision {packaged.revision} of its package, found {revision!r}: leave it out"
        )
    base = _checked(BaseModel(packaged.folder(), id=packaged.id, revision=packaged.revision))
    _say_checked(base.id, packaged.sha256)
    return base


@cache
def _say_checked(name: str, sha256: str) -> None:
    # Once a process: a run looks for its base again where it opens what it has saved.
    logger.info(
        "%s is taken from the installed package; its weights are as published (sha256 %s...)", name, sha256[:12]
    )


def _from_cache(hub_id: str, revision: str | None) -> BaseModel | None:
    folder = cached_folder(hub_id, revision, _FILES)
    # A snapshot's folder bears the name of its commit. Another program may have cached a part of it.
    with suppress(BaseModelError):
        return None if folder is None else _checked(BaseModel(folder, id=hub_id, revision=folder.name))
    return None


def _from_hub(client: HubClient, revision: str | None) -> BaseModel:
    hub_id = client.repo_id
    try:
        # The download asks this too, but without a time limit, and only it notes which commit a branch is at.
        info = client.existing(revision)
        names = {file.rfilename for file in info.siblings or []}
        if not names & {_WEIGHTS, _INDEX}:
            if _CONFIG in names:
                raise _only_pickled(hub_id)
            raise BaseModelError(
                f"{hub_id}: expected an encoder with {_CONFIG} and {_WEIGHTS} on the hub, found neither"
            )
        folder = client.download(revision, _FILES)
        newest = client.info() if revision == info.sha else None
    except HubUnreachable as error:
        raise BaseModelError(
            f"{hub_id}: not a local folder, not in the hub's cache, and {str(error).partition(': ')[2]}. Set "
            f"HF_ENDPOINT to a mirror, or give a folder with {_CONFIG}, tokenizer and {_WEIGHTS}. The default, "
            f"{MINILM.id}, also comes with: {MINILM.install}"
        ) from error
    except HubError as error:
        raise BaseModelError(str(error)) from error
    if newest is not None and newest.sha != revision:
        logger.warning("%s has moved on to commit %s; %s is taken, as asked for", hub_id, newest.sha, revision)
    return _checked(BaseModel(folder, id=hub_id, revision=folder.name))


def base_record(base: BaseModel) -> dict[str, Any]:
    """Return name, revision, sha256 and the layers used of a base; where a local one lies is noted in a cache of this
    machine alone."""
    stamp = weights_hash(base)
    _note(base, stamp)
    layers = {"keep_layers": base.keep_layers} if base.keep_layers else {}
    return {"name": base.id, "revision": base.revision, "sha256": stamp, **layers}


def recorded_base(record: Mapping[str, Any], name: str | None = None, token: str | None = None) -> BaseModel:
    """Find the base of a record: by ``name``, a note or the hub; a BaseModelError if gone, or of other weights."""
    # The hash names a file below.
    is_known = isinstance(record.get("name"), str) and isinstance(record.get("revision", ""), str | None)
    if not (is_known and "revision" in record and _SHA256.fullmatch(str(record.get("sha256")))):
        raise BaseModelError(f"expected name, revision and sha256 of a base in the record, found {dict(record)!r:.200}")
    if name is not None:
        base = find_base(name, token=token)
    elif record["revision"] is not None:
        base = _at_commit(record, token)
    else:
        folder = _noted(record["sha256"])
        if folder is None:
            raise BaseModelError(
                f"{record['name']}: the base was a local folder, which is not known here: name it (base=FOLDER, --base)"
            )
        base = find_base(str(folder), token=token)
    check_weights(base, record)
    if name:
        _note(base, record["sha256"])
    return replace(base, keep_layers=record.get("keep_layers"))


def check_weights(base: BaseModel, record: Mapping[str, Any]) -> None:
    """Raise a BaseModelError unless these are the weights that a saved classifier was made with."""
    if (found := weights_hash(base)) != record["sha256"]:
        raise BaseModelError(
            f"{base.id}: expected the weights that the classifier was made with (sha256 {record['sha256'][:12]}...), "
            f"found others ({found[:12]}...): name the right base (base=FOLDER, --base)"
        )


def _at_commit(record: Mapping[str, Any], token: str | None) -> BaseModel:
    try:
        return find_base(record["name"], record["revision"], token)
    except BaseModelError as gone:
        # Its history may have been written anew, or another commit of it lies in the cache.
        try:
            other = find_base(record["name"], token=token)
            check_weights(other, record)
        except BaseModelError:
            raise gone from None
        logger.warning("%s; its commit %s has the same weights and is taken", gone, other.revision)
        return other


def _note(base: BaseModel, stamp: str) -> None:
    if base.revision is not None:
        return
    try:
        write_json(cache_folder("bases") / f"{stamp}.json", {"path": str(base.path)})
    except StorageError as error:
        warn_of_cache(error)
        logger.warning(
            "%s: where it lies cannot be noted, so another command must be told (--base FOLDER, base=FOLDER)", base.id
        )
        _places[stamp] = base.path


def _noted(stamp: str) -> Path | None:
    """Return where the base of these weights lay last; None where nothing is there now, or that is not known."""
    try:
        folder = _places.get(stamp) or Path(read_json(cache_folder("bases") / f"{stamp}.json")["path"])
        return folder if folder.is_dir() else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, StorageError) as error:
        logger.warning("The note in the cache of where a base lies cannot be read (%s)", error)
        return None
