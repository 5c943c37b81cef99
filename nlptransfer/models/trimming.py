"""Leave out of a model the word embeddings that no training text has, and of its tokenizer their pieces.
It knows tokenizers and embeddings, not which texts there are."""

import json
import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast

from nlptransfer.errors import BaseModelError
from nlptransfer.models.architectures import padding_position, plain_model
from nlptransfer.models.tokens import encode, limit, limits_of
from nlptransfer.models.vocabulary import own_embeddings


def trim_vocabulary(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> PreTrainedTokenizerFast:
    """Shrink a model in place to the pieces of these texts, single characters and special tokens; return its tokenizer.

    A text all of whose pieces are kept has the same pieces and logits as before; of others more is unknown, or cut into
    smaller pieces. A BaseModelError where embeddings or tokenizer are of a kind that cannot be taken apart.
    """
    plain = plain_model(model)
    whole, config = own_embeddings(plain), plain.config
    if whole is None:
        raise BaseModelError(
            f"model type {config.model_type!r}: expected word embeddings that are one plain table, found others: leave "
            "trim_vocabulary out"
        )
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces, of_config = _pieces(content), {name: value for name, value in vars(config).items() if _is_id(name, value)}
    kept = {int(one) for one in encode(texts, tokenizer, tokenizer.model_max_length).ids}
    kept |= {*tokenizer.all_special_ids, *(one["id"] for one in content["added_tokens"]), *of_config.values()}
    # Words that are new are made of characters, or of bytes such as <0x0A>.
    mark = content["model"].get("continuing_subword_prefix") or ""
    kept |= {id for piece, id in pieces.items() if len(piece.removeprefix(mark)) == 1 or re.fullmatch("<0x..>", piece)}
    kept |= _parts({piece for piece, id in pieces.items() if id in kept}, pieces, content)
    ids = np.array(sorted(one for one in kept if 0 <= one < whole.num_embeddings))
    new = {int(old): place for place, old in enumerate(ids)}
    if padding_position(plain) is not None and new[config.pad_token_id] != config.pad_token_id:
        raise BaseModelError(
            f"model type {config.model_type!r}: expected a padding id that can stay, found {config.pad_token_id}, from "
            "which positions are counted: leave trim_vocabulary out"
        )
    padding = None if whole.padding_idx is None else new[whole.padding_idx]
    few = nn.Embedding(len(ids), whole.embedding_dim, padding, dtype=whole.weight.dtype, device=whole.weight.device)
    with torch.no_grad():
        few.weight.copy_(whole.weight[torch.from_numpy(ids)])
    few.weight.requires_grad_(whole.weight.requires_grad)
    plain.set_input_embeddings(few)
    config.vocab_size = len(ids)
    for name, value in of_config.items():
        setattr(config, name, new[value])
    return _trimmed(tokenizer, content, new)


def _is_id(name: str, value: Any) -> bool:
    return name.endswith("_token_id") and isinstance(value, int) and value >= 0


def _pieces(content: dict[str, Any]) -> dict[str, int]:
    """Return the vocabulary of a tokenizer.json, piece -> id."""
    kind, vocabulary = content["model"]["type"], content["model"].get("vocab")
    if kind == "Unigram":
        return {piece: place for place, (piece, _) in enumerate(vocabulary)}
    if kind in ("WordPiece", "BPE", "WordLevel"):
        return cast(dict[str, int], vocabulary)
    raise BaseModelError(f"tokenizer: expected pieces of a known kind, found {kind}: leave trim_vocabulary out")


def _parts(kept: set[str], pieces: dict[str, int], content: dict[str, Any]) -> set[int]:
    """Return the ids of all that pairs are merged from, on the way to the pieces that are kept."""
    made_of: dict[str, list[list[str]]] = {}
    for pair in content["model"].get("merges", ()):
        made_of.setdefault("".join(pair), []).append(pair)
    waiting, known = list(kept), set(kept)
    while waiting:
        for pair in made_of.get(waiting.pop(), ()):
            waiting += {*pair} - known
            known |= {*pair}
    return {pieces[piece] for piece in known if piece in pieces}


def _trimmed(
    tokenizer: PreTrainedTokenizerFast, content: dict[str, Any], new: dict[int, int]
) -> PreTrainedTokenizerFast:
    """Return a tokenizer with some of the pieces, by their ``new`` ids."""
    model, names = content["model"], {piece for piece, place in _pieces(content).items() if place in new}
    if model["type"] == "Unigram":
        model["vocab"] = [entry for place, entry in enumerate(model["vocab"]) if place in new]
        model["unk_id"] = None if model["unk_id"] is None else new[model["unk_id"]]
    else:
        model["vocab"] = {piece: new[place] for piece, place in model["vocab"].items() if place in new}
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if {*pair, "".join(pair)} <= names]
    content["added_tokens"] = [{**one, "id": new[one["id"]]} for one in content["added_tokens"] if one["id"] in new]
    processor = content["post_processor"] or {}
    for part in (processor, *processor.get("processors", ())):
        for token in part.get("special_tokens", {}).values() if part["type"] == "TemplateProcessing" else ():
            token["ids"] = [new[one] for one in token["ids"]]
        for name in ("sep", "cls") if part["type"] in ("BertProcessing", "RobertaProcessing") else ():
            part[name][1] = new[part[name][1]]
    trimmed = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
        **tokenizer.special_tokens_map,
    )
    trimmed.init_kwargs["prompt"] = tokenizer.init_kwargs.get("prompt")
    limits = limits_of(tokenizer)
    limit(trimmed, least=limits.least, one_length=limits.one_length)
    return trimmed
