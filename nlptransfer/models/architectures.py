"""Find the parts of an encoder: its embeddings, layers and head.
It knows where each architecture has them, not how models are loaded or run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from nlptransfer.errors import BaseModelError


@dataclass(frozen=True)
class Family:
    """Paths of the parts of an architecture, from the encoder on; not every model has each of them."""

    embeddings: tuple[str, ...]
    """modules that make the first hidden states, one after the other"""
    layers: str | None = None
    """the list of layers; None where all are one"""
    shared: tuple[str, ...] = ()
    """modules that all layers read: they can learn only where the lowest layer may change"""
    in_first_layer: str | None = None
    """a module of the first layer that lies outside the list"""
    pretraining_only: str | None = None
    """a parameter that no classifier uses"""
    layers_give_pairs: bool = False
    """whether a layer returns a pair, whose first part are the hidden states"""
    tokens_first: bool = False
    """whether hidden states are (tokens, batch, width) within the encoder"""
    after_attention: str | None = None
    """in a layer, the module after its attention; where classifiers read only the first token of the last layer"""


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
    **dict.fromkeys(("camembert", "roberta", "xlm-roberta"), _BERT),
    **dict.fromkeys(_LIKE_LLAMA, Family(("embed_tokens",), "layers")),
}


def layers_of(model: nn.Module) -> nn.ModuleList:
    """Return the encoder's layers, lowest first, of a classifier, a bare encoder, or either within peft."""
    plain = plain_model(model)
    family = family_of(plain)
    if family.layers is None:
        raise BaseModelError(
            f"{_kind(plain)}: expected separate layers, found one that is used for all: leave freezing and "
            "layer settings out, or take another encoder"
        )
    layers = plain.base_model.get_submodule(family.layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def layer_name(parameter: str) -> str:
    """Name the layer of a parameter: its name up to the first number, or without its last part."""
    parts = parameter.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1] if numbers else parts[:-1])


def embeddings_of(model: nn.Module) -> list[nn.Module]:
    """Return the modules to freeze with the first layer: those below it, and DeBERTa's distances and convolution."""
    plain = plain_model(model)
    family = family_of(plain)
    return parts_of(plain, (*family.embeddings, *family.shared, family.in_first_layer))


def head_modules(model: nn.Module) -> list[str]:
    """Name the smallest modules that own the head's parameters: all outside the encoder, and poolers."""
    return list(_head(plain_model(model)))


def last_layer(model: nn.Module) -> nn.Linear:
    """Return the layer whose outputs are the logits; within peft the copy of it that is in use."""
    plain = plain_model(model)
    layers = [
        module
        for name, module in _head(plain).items()
        if isinstance(module, nn.Linear)
        and module.out_features == plain.config.num_labels
        and not _is_in_encoder(name, plain)
    ]
    if not layers:
        raise BaseModelError(
            f"{_kind(plain)}: expected a linear layer with {plain.config.num_labels} outputs (the logits) outside the "
            "encoder, found none: take another encoder"
        )
    return layers[-1]


def name_of(layer: nn.Module, model: nn.Module) -> str:
    """Return the dotted name of a layer in a model."""
    return str(next(name for name, module in model.named_modules() if module is layer))


def initialize(layer: nn.Linear, config: PreTrainedConfig) -> None:
    """Draw a last layer's weights by the config's ``initializer_range``, or as torch does without one."""
    spread = getattr(config, "initializer_range", None)
    if spread is None:
        layer.reset_parameters()
        return
    nn.init.normal_(layer.weight, std=spread)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def padding_position(encoder: nn.Module) -> int | None:
    """Return the position of padding where a text's first position is the one after it, as in RoBERTa; else None."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx)
    return None


def vocabulary_size(config: PreTrainedConfig) -> int | None:
    """Return how many tokens have embeddings; None where the config does not say, as of models that hash them."""
    size: int | None = getattr(config.get_text_config(), "vocab_size", None)
    return size


def plain_model(model: Any) -> PreTrainedModel:
    """Return the transformers model, also of one that peft has wrapped."""
    plain = within_peft(model)
    assert isinstance(plain, PreTrainedModel)
    return plain


def within_peft(model: Any) -> Any:
    """Return the model that peft has wrapped, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def family_of(model: PreTrainedModel) -> Family:
    """Return the paths of a model's parts, or raise a BaseModelError for an architecture that is not known here."""
    family = FAMILIES.get(model.config.model_type)
    if family is None:
        raise BaseModelError(
            f"{_kind(model)}: expected an architecture whose layers are known ({', '.join(FAMILIES)}), found another: "
            "full fine-tuning and LoRA work with it, without freezing and layer settings"
        )
    return family


def _kind(model: PreTrainedModel) -> str:
    return f"model type {model.config.model_type!r}"


def family_or_none(config: PreTrainedConfig) -> Family:
    """Return the paths of an architecture's parts; one without any where it is not known."""
    return FAMILIES.get(config.model_type, Family(()))


def parts_of(model: PreTrainedModel, paths: tuple[str | None, ...]) -> list[nn.Module]:
    """Return the modules at these paths in the encoder that this model has."""
    modules = dict(model.base_model.named_modules())
    return [modules[path] for path in paths if path in modules]


def _is_in_encoder(name: str, model: PreTrainedModel) -> bool:
    return model.base_model is model or f"{name}.".startswith(f"{model.base_model_prefix}.")


def _head(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the head's modules that own parameters, in the model's order; in peft's wrappers the copies in use."""
    return {
        name: module
        for name, module in _modules_in_use(model)
        if (not _is_in_encoder(name, model) or "pooler" in name)
        and next(module.parameters(recurse=False), None) is not None
    }


def _modules_in_use(module: Any, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    if {"original_module", "modules_to_save"} <= {child for child, _ in module.named_children()}:
        is_off = module.disable_adapters or not module.active_adapters
        module = module.original_module if is_off else module.modules_to_save[module.active_adapters[0]]
    yield name, module
    for child, part in module.named_children():
        yield from _modules_in_use(part, f"{name}.{child}" if name else child)
