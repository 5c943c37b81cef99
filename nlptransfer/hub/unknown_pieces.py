"""What an encoder's tokenizer does not know of texts, and the base for texts that the default one does not know."""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nlptransfer import mapped
from nlptransfer.data import JOINT
from nlptransfer.errors import BaseModelError
from nlptransfer.hub.base_models import BaseModel, find_base
from nlptransfer.hub.packaged import MULTILINGUAL, find_packaged
from nlptransfer.hub.pretrained import fast_tokenizer
from nlptransfer.memo import once

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger("nlptransfer")

UNKNOWN = "unknown"
"""The kind of shared work that keeps how much of texts is unknown."""
UNKNOWN_LIMIT = 0.05
"""Share of unknown pieces above which a base is the wrong one for texts."""
_MOST_TEXTS, _MOST_CHARACTERS = 1_000, 500
"""What is read of many texts, and of a long one."""


def base_for(name: str | None, revision: str | None, collections: Iterable[Sequence[str]]) -> str | None:
    """Return the base for texts: ``name``, or the multilingual encoder where none is named and it should be taken.

    It is taken where its package is installed, and the default encoder's tokenizer does not know more than 5% of the
    pieces of a collection (of 1,000 texts, evenly drawn, the beginnings). Each collection counts by itself: the rows of
    a source do not outvote those of the target.
    """
    default = find_packaged(None)
    assert default is not None
    if name is not None or revision is not None or default == MULTILINGUAL or MULTILINGUAL.place is None:
        return name
    try:
        is_here = default.place is not None
        base = BaseModel(default.folder(), default.id, default.revision) if is_here else find_base()
        tokenizer = fast_tokenizer(base)
    except BaseModelError:
        # Who needs it says so; a route of others may not.
        return None
    share = max((unknown_share(sampled_ids(texts, tokenizer), tokenizer) for texts in collections), default=0.0)
    if share <= UNKNOWN_LIMIT:
        return None
    message = "%s does not know %.0f%% of the pieces of the texts: %s is taken; name another by base= or --base"
    logger.info(message, base.id, 100 * share, MULTILINGUAL.id)
    return MULTILINGUAL.id


def warn_of_unknown(base: BaseModel, tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> None:
    """Warn where a base's tokenizer does not know more than 5% of the pieces of texts, once in a run."""
    once((UNKNOWN, base.path, tuple(_sample(texts))), lambda: _warn(base, tokenizer, texts))


def _warn(base: BaseModel, tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> None:
    share = unknown_share(sampled_ids(texts, tokenizer), tokenizer)
    if share <= UNKNOWN_LIMIT:
        return
    known = ""
    if base.id not in (MULTILINGUAL.id, MULTILINGUAL.quantized_from):
        install = "" if MULTILINGUAL.place is not None else f" ({MULTILINGUAL.install})"
        known = f", as {MULTILINGUAL.id}{install} or the hub's {MULTILINGUAL.quantized_from}"
    message = "%s does not know %.0f%% of the pieces of the texts: name a base for their language%s"
    logger.warning(message, base.id, 100 * share, known)


def sampled_ids(texts: Sequence[str], tokenizer: "PreTrainedTokenizerFast") -> np.ndarray:
    """Return the ids of the pieces of some of many texts, evenly drawn, one after the other, (pieces,) int64."""
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(_sample(texts), add_special_tokens=False)
    return np.array([piece for encoding in encodings for piece in encoding.ids], dtype=np.int64)


def _sample(texts: Sequence[str]) -> list[str]:
    places = np.linspace(0, len(texts) - 1, min(len(texts), _MOST_TEXTS)).round().astype(int)
    return [texts[place][:_MOST_CHARACTERS].replace(JOINT, " ") for place in places]


def unknown_share(ids: np.ndarray, tokenizer: "PreTrainedTokenizerFast") -> float:
    """Return the share of unknown pieces, special tokens aside, 0 where a tokenizer knows all."""
    unknown, special = tokenizer.unk_token_id, tokenizer.all_special_ids
    counts = mapped.counted(ids, 1 + max(special, default=0))
    counts[[one for one in special if one != unknown]] = 0
    words = int(counts.sum())
    return int(counts[unknown]) / words if words and unknown is not None else 0.0
