"""Load a tokenizer, an encoder, a classifier or a language model from a base model.
It knows configs, weights and tokenizers, not how bases are found or what is trained."""

import importlib.util
import re
from typing import Any, cast

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from nlptransfer.data import Labels
from nlptransfer.errors import BaseModelError, SettingError, abridged
from nlptransfer.hub import BaseModel, base_prompt, fast_tokenizer, from_pretrained
from nlptransfer.models.architectures import family_or_none, head_modules, initialize, last_layer, name_of
from nlptransfer.models.heads import label_config
from nlptransfer.settings import check


def load_tokenizer(base: BaseModel, prompt: str | None = None) -> PreTrainedTokenizerFast:
    """Load a base's tokenizer, limited to the model's positions; its unknown or end token may stand in for padding.

    It keeps the ``prompt`` that stands before each text; None: the one that the base was trained with, if any.
    """
    tokenizer = fast_tokenizer(base)
    tokenizer.init_kwargs["prompt"] = base_prompt(base) if prompt is None else prompt
    if tokenizer.pad_token is None:
        # A new token would need a new row in the embeddings, which adapters do not carry.
        known = tokenizer.get_vocab()
        stand_in = next((token for token in (tokenizer.unk_token, tokenizer.eos_token) if token in known), None)
        if stand_in is None:
            raise BaseModelError(
                f"{base.id}: expected a padding token, or an unknown or end token that can stand in, found none: "
                "set pad_token in tokenizer_config.json"
            )
        tokenizer.pad_token = stand_in
    config = from_pretrained(AutoConfig, base)
    places = getattr(config, "max_position_embeddings", None)
    if places and family_or_none(config).counts_from_padding:
        places -= config.pad_token_id + 1
    # XLNet says -1: it has no end.
    if places and places > 0:
        tokenizer.model_max_length = min(tokenizer.model_max_length, places)
    return tokenizer


def load_model(
    base: BaseModel,
    labels: Labels,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    *,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    dtype: torch.dtype = torch.float32,
    four_bit: bool = False,
) -> tuple[PreTrainedModel, list[str]]:
    """Load a classifier on a base, and name its newly initialized modules, whose weights the base does not have.

    The base's own last layer is used only where its label names are these, in this order. New weights depend on the
    seed alone, which sets torch's global generator. ``dropout`` replaces every dropout probability of the config,
    ``attention_dropout`` those of attention weights; ``four_bit`` quantizes the linear layers below the head (nf4).

    No classifier for this architecture, or missing weights of the encoder, are a BaseModelError; dropout that is no
    share, or four_bit without a GPU or bitsandbytes, a SettingError.
    """
    config = from_pretrained(AutoConfig, base)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise BaseModelError(
            f"{base.id}: expected an architecture with a classifier in transformers, found {config.model_type!r}: "
            "take another encoder"
        )
    names = tuple(name for _, name in sorted((config.id2label or {}).items()))
    is_generic = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    config.update(label_config(labels))
    _set_padding(config, tokenizer, base.id)
    if hasattr(config, "use_cache"):
        config.use_cache = False  # it is for generating, and holds every layer's keys and values
    if dropout is not None:
        set_dropout(config, dropout)
    if attention_dropout is not None:
        set_dropout(config, attention_dropout, "attention.*dropout|attn_pdrop$")
    options = _four_bit_options(config, dtype) if four_bit else {}
    torch.manual_seed(seed)
    model, fresh = _load(AutoModelForSequenceClassification, base, config, dtype, options)
    last = last_layer(model)
    last_name = name_of(last, model)
    if last_name not in fresh and (is_generic or names != labels.names):
        initialize(last, config)
        fresh.add(last_name)
    if only := family_or_none(config).pretraining_only:
        # DistributedDataParallel refuses parameters that get no gradient.
        model.base_model.get_parameter(only).requires_grad_(False)
    return model, sorted(fresh)


def load_encoder(base: BaseModel) -> PreTrainedModel:
    """Load the encoder of a base without a head, in eval mode and frozen; a pooler's weights may be missing."""
    model, _ = _load(AutoModel, base, from_pretrained(AutoConfig, base), torch.float32, {})
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def load_language_model(base: BaseModel, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, bool]:
    """Load a base with its pretraining head, and tell whether that predicts masked tokens, not the next one."""
    config = from_pretrained(AutoConfig, base)
    is_masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    if config.is_encoder_decoder or not (is_masked or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING):
        raise _no_language_head(base, f"model type {config.model_type!r}")
    model, fresh = _load(AutoModelForMaskedLM if is_masked else AutoModelForCausalLM, base, config, dtype, {})
    if fresh:
        raise _no_language_head(base, f"none for {', '.join(sorted(fresh))}")
    if not is_masked and _looks_ahead(model):
        raise _no_language_head(base, f"model type {config.model_type!r}, which reads both ways")
    return model, is_masked


def _no_language_head(base: BaseModel, found: str) -> BaseModelError:
    return BaseModelError(
        f"{base.id}: expected the weights of a head that predicts masked tokens, or the next one, as pretrain needs "
        f"it, found {found}: take transfer contrastive or selftrain, or a base that has them, as "
        "distilbert/distilbert-base-uncased"
    )


def _looks_ahead(model: PreTrainedModel) -> bool:
    """Tell whether later tokens change the predictions before them."""
    with torch.no_grad():
        one, other = model.eval()(input_ids=torch.tensor([[1, 1, 1], [1, 1, 2]])).logits[:, 0]
    return not torch.allclose(one, other, atol=1e-4)


def set_dropout(config: PreTrainedConfig, dropout: float, names: str = "dropout|_pdrop$") -> None:
    """Set every dropout probability of a config whose name matches; one that is None follows the others."""
    check(0 <= dropout < 1, "dropout", dropout, "a share in [0, 1)")
    for name, value in list(vars(config).items()):
        # token_dropout of ESM is a switch; layerdrop and drop_path leave out whole layers and are another matter.
        if re.search(names, name) and isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(config, name, dropout)


def _set_padding(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    # RoBERTa counts positions from its padding id, so what a config says stays wherever nothing is pooled by it.
    if config.pad_token_id is None or family_or_none(config).pools_by_padding:
        size = getattr(config, "vocab_size", None)
        if size is not None and tokenizer.pad_token_id >= size:
            raise BaseModelError(
                f"{name}: expected a padding token among the {size} that have embeddings, found "
                f"{tokenizer.pad_token!r} with id {tokenizer.pad_token_id}: name another in tokenizer_config.json"
            )
        config.pad_token_id = tokenizer.pad_token_id


def _four_bit_options(config: PreTrainedConfig, dtype: torch.dtype) -> dict[str, Any]:
    missing = [] if torch.cuda.is_available() else ["a CUDA GPU"]
    if importlib.util.find_spec("bitsandbytes") is None:
        missing.append("the package bitsandbytes")
    if missing:
        raise SettingError(
            "base_precision=4bit: expected a CUDA GPU and the package bitsandbytes, found all but "
            f"{' and '.join(missing)}: leave it out, or run where both are"
        )
    with torch.device("meta"):
        head = head_modules(AutoModelForSequenceClassification.from_config(config, trust_remote_code=False))
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=head,
        ),
        "device_map": {"": torch.cuda.current_device()},
    }


def _load(
    auto: Any, base: BaseModel, config: PreTrainedConfig, dtype: torch.dtype, options: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    """Return the model and the names of its newly initialized modules, which are all of its head."""
    model, info = from_pretrained(
        auto, base, config=config, dtype=dtype, use_safetensors=True, ignore_mismatched_sizes=True,
        output_loading_info=True, **options,
    )  # fmt: skip
    keys = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    fresh = {key.rpartition(".")[0] for key in keys}
    if lacking := sorted(fresh - set(head_modules(model))):
        raise BaseModelError(
            f"{base.id}: expected every weight of the encoder in the shape that config.json says, found none for "
            f"{abridged(lacking, 5)}: fetch it again"
        )
    return model, fresh
