"""The anatomy of an encoder: its embeddings, layers and head, and what of it is fresh."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from nlptransfer.errors import BaseModelError


@dataclass(frozen=True)
class Family:
    """Where the parts of an architecture are; the paths begin at the encoder, and not every model has each of them."""

    embeddings: tuple[str, ...]
    """what makes the first hidden states, each of them taking what the one before gives"""
    layers: str | None = None
    """the list of layers; None where all are one"""
    shared: tuple[str, ...] = ()
    """what all layers read: it can learn only where the lowest layer may change"""
    in_first_layer: str | None = None
    """what belongs to the first layer but lies outside the list, and is left out where it is None"""
    pretraining_only: str | None = None
    """a parameter that no classifier uses"""
    layers_give_pairs: bool = False
    """whether a layer returns (hidden states, another thing)"""
    tokens_first: bool = False
    """whether hidden states are (tokens, batch, width) within the encoder"""
    pools_by_padding: bool = False
    """whether the head finds a text's last token by the padding id of the config"""
    counts_from_padding: bool = False
    """whether a text's first position is the one after the padding id"""
    after_attention: str | None = None
    """in a layer, what its attention gives to; where classifiers read the first token of the last layer alone"""


_BERT = Family(("embeddings", "embeddings_project"), "encoder.layer", after_attention="attention.output")
_LIKE_LLAMA = ["gemma", "gemma2", "gemma3_text", "llama", "ministral", "mistral"]
_LIKE_LLAMA += ["olmo2", "phi3", "qwen2", "qwen3", "smollm3"]
FAMILIES = {
    "bert": _BERT,
    "electra": _BERT,
    "albert": Family(("embeddings", "encoder.embedding_hidden_mapping_in")),
    "deberta-v2": Family(
        ("embeddings",),
        "encoder.layer",
        shared=("encoder.rel_embeddings", "encoder.LayerNorm"),
        in_first_layer="encoder.conv",
        layers_give_pairs=True,
        after_attention="attention.output",
    ),
    "distilbert": Family(("embeddings",), "transformer.layer", after_attention="sa_layer_norm"),
    "modernbert": Family(("embeddings",), "layers"),
    "xlnet": Family(
        ("word_embedding",), "layer", pretraining_only="mask_emb", layers_give_pairs=True, tokens_first=True
    ),
    **dict.fromkeys(
        ("camembert", "roberta", "xlm-roberta"),
        replace(_BERT, counts_from_padding=True),
    ),
    **dict.fromkeys(_LIKE_LLAMA, Family(("embed_tokens",), "layers", pools_by_padding=True)),
}


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The encoder's layers, lowest first, of a classifier, a bare encoder, or either within peft.

    Raises:
        BaseModelError: an architecture whose layers are not known here, or that has one for all (ALBERT).
    """
    plain = plain_model(model)
    family = family_of(plain)
    if family.layers is None:
        raise BaseModelError(
            f"{_kind(plain)}: expected layers that can be told apart, found one that all share: leave freezing and "
            "layer settings out, or take another encoder"
        )
    layers = plain.base_model.get_submodule(family.layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def layer_name(parameter: str) -> str:
    """The layer that a parameter belongs to: its name up to the first number, or without its last part."""
    parts = parameter.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1] if numbers else parts[:-1])


def embeddings_of(model: nn.Module) -> list[nn.Module]:
    """What is below the first layer, to be frozen with it: what makes its hidden states, and what it has outside.

    The latter are DeBERTa's embeddings of distances, which every layer reads, and the convolution at its first layer.

    Raises:
        BaseModelError: an architecture that is not known here.
    """
    plain = plain_model(model)
    family = family_of(plain)
    return parts_of(plain, (*family.embeddings, *family.shared, family.in_first_layer))


def head_modules(model: nn.Module) -> list[str]:
    """Dotted names of the smallest modules that own the head's parameters: all outside the encoder, and poolers."""
    return list(_head(plain_model(model)))


def last_layer(model: nn.Module) -> nn.Linear:
    """The layer whose outputs are the logits; within peft the copy of it that is in use.

    Raises:
        BaseModelError: none is found.
    """
    plain = plain_model(model)
    found = [
        module
        for name, module in _head(plain).items()
        if isinstance(module, nn.Linear)
        and module.out_features == plain.config.num_labels
        and not _is_within(name, _encoder_name(plain))
    ]
    if not found:
        raise BaseModelError(
            f"{_kind(plain)}: expected a linear layer with {plain.config.num_labels} outputs (the logits) outside the "
            "encoder, found none: take another encoder"
        )
    return found[-1]


def name_of(layer: nn.Module, model: nn.Module) -> str:
    """The dotted name of a layer in a model."""
    return next(name for name, module in model.named_modules() if module is layer)


def begin_anew(layer: nn.Linear, config: PreTrainedConfig) -> None:
    """Draw a last layer's weights as transformers does by the ``initializer_range``, or as torch does without one."""
    spread = getattr(config, "initializer_range", None)
    if spread is None:
        layer.reset_parameters()
        return
    nn.init.normal_(layer.weight, std=spread)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def plain_model(model: Any) -> PreTrainedModel:
    """The transformers model, also of one that peft has wrapped."""
    plain = within_peft(model)
    assert isinstance(plain, PreTrainedModel)
    return plain


def within_peft(model: Any) -> Any:
    """What peft has wrapped; any other model as it is."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def known_family(model: PreTrainedModel) -> Family | None:
    """Where the parts of a model are; None of an architecture that is not known here."""
    return FAMILIES.get(model.config.model_type)


def family_of(model: PreTrainedModel) -> Family:
    """Where the parts of a model are.

    Raises:
        BaseModelError: an architecture that is not known here.
    """
    family = known_family(model)
    if family is None:
        raise BaseModelError(
            f"{_kind(model)}: expected an architecture whose layers are known ({', '.join(FAMILIES)}), found another: "
            "full fine-tuning and LoRA work with it, without freezing and layer settings"
        )
    return family


def _kind(model: PreTrainedModel) -> str:
    return f"model type {model.config.model_type!r}"


def parts_of(model: PreTrainedModel, paths: tuple[str | None, ...]) -> list[nn.Module]:
    """The modules at these paths in the encoder, but for those that this model does without."""
    modules = dict(model.base_model.named_modules())
    return [modules[path] for path in paths if path in modules]


def _encoder_name(model: PreTrainedModel) -> str:
    return "" if model.base_model is model else model.base_model_prefix


def _is_within(name: str, encoder: str) -> bool:
    return not encoder or name == encoder or name.startswith(f"{encoder}.")


def _head(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The modules of the head that own parameters, in the model's order; in peft's wrappers the copies in use."""
    encoder = _encoder_name(model)
    return {
        name: module
        for name, module in _modules_in_use(model)
        if (not _is_within(name, encoder) or "pooler" in name.removeprefix(encoder))
        and next(module.parameters(recurse=False), None) is not None
    }


def _modules_in_use(module: Any, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    if {"original_module", "modules_to_save"} <= {child for child, _ in module.named_children()}:
        is_off = module.disable_adapters or not module.active_adapters
        module = module.original_module if is_off else module.modules_to_save[module.active_adapters[0]]
    yield name, module
    for child, part in module.named_children():
        yield from _modules_in_use(part, f"{name}.{child}" if name else child)
