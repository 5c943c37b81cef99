"""Load a tokenizer, an encoder, a classifier or a language model from a base model.
It knows configs, weights and tokenizers, not how bases are found or what is trained."""

import importlib.util
import logging
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
from nlptransfer.errors import BaseModelError, SettingError, abridged, first_line
from nlptransfer.hub import BaseModel, base_prompt, fast_tokenizer, from_pretrained, skeleton
from nlptransfer.models.architectures import (
    family_or_none,
    head_modules,
    initialize,
    last_layer,
    name_of,
    padding_position,
    vocabulary_size,
)
from nlptransfer.models.heads import label_config
from nlptransfer.models.tokens import limit
from nlptransfer.settings import check

log = logging.getLogger("nlptransfer")

UNHEARD_OF = "ꙮ ☃"


def load_tokenizer(base: BaseModel, prompt: str | None = None) -> PreTrainedTokenizerFast:
    """Load a base's tokenizer, limited to the model's positions; its unknown or end token may stand in for padding.

    It keeps the ``prompt`` that stands before each text; None: the one that the base was trained with, if any. Added
    tokens without embeddings are read as unknown ones; one that knows no words, or others than the model, is a
    BaseModelError.
    """
    # First, as transformers reads it to open a tokenizer, too.
    config = from_pretrained(AutoConfig, base)
    tokenizer = fast_tokenizer(base)
    tokenizer.init_kwargs["prompt"] = base_prompt(base) if prompt is None else prompt
    size = vocabulary_size(config) or len(tokenizer)
    known = {token: number for token, number in tokenizer.get_vocab().items() if number < size}
    if tokenizer.pad_token not in known:
        # A new token would need a new row in the embeddings, which adapters do not carry.
        stand_in = next((token for token in (tokenizer.unk_token, tokenizer.eos_token) if token in known), None)
        if stand_in is None:
            pad = tokenizer.pad_token
            found = "none" if pad is None else f"{pad!r} with id {tokenizer.pad_token_id}"
            raise BaseModelError(
                f"{base.id}: expected a padding token, or an unknown or end token that can stand in, among the {size} "
                f"that have embeddings, found {found}: set pad_token in tokenizer_config.json"
            )
        tokenizer.pad_token = stand_in
    _check_vocabulary(tokenizer, size, base)
    tokenizer.model_max_length = _longest_row(base, config, tokenizer)
    return tokenizer


def _check_vocabulary(tokenizer: PreTrainedTokenizerFast, size: int, base: BaseModel) -> None:
    """Refuse a tokenizer that does not fit ``size`` embeddings; note added tokens without one."""
    vocabulary, added = tokenizer.get_vocab(), tokenizer.get_added_vocab()
    if len(vocabulary) <= len(set(tokenizer.all_special_ids)):
        raise _no_tokenizer(base, "special tokens alone")
    try:
        # Few vocabularies have these, and some tokenizers fail at what they do not know.
        ends = tokenizer.backend_tokenizer.encode(UNHEARD_OF).ids
    except Exception as error:  # the plain class
        raise _no_tokenizer(base, f"one that fails at unknown words ({first_line(error)})") from error
    if beyond := {token: number for token, number in vocabulary.items() if number >= size}:
        if beyond.keys() - added.keys() or max(ends) >= size:
            raise _no_tokenizer(base, f"{len(vocabulary)} tokens where the model has embeddings of {size}")
        tokens = abridged(sorted(beyond, key=vocabulary.__getitem__), 3)
        log.warning("%s: tokens that were added without an embedding are read as unknown: %s", base.id, tokens)
        limit(tokenizer, embeddings=size)


def _no_tokenizer(base: BaseModel, found: str) -> BaseModelError:
    return BaseModelError(
        f"{base.id}: expected the tokenizer that the model was trained with, found {found}: save it there, "
        "AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
    )


def _longest_row(base: BaseModel, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the most tokens of a row, special ones included, by the tokenizer and by the model's positions."""
    places = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    if places and (padding := padding_position(skeleton(base, config))) is not None:
        places -= padding + 1
    # XLNet says -1: it has no end.
    limits = [tokenizer.model_max_length, *([places] if places and places > 0 else [])]
    special = tokenizer.backend_tokenizer.num_special_tokens_to_add(False)
    if not all(isinstance(each, (int, float)) and each > special for each in limits):
        raise BaseModelError(
            f"{base.id}: expected room for more than the {special} special tokens of each text, found {limits} "
            "(model_max_length in tokenizer_config.json, max_position_embeddings in config.json): correct them there"
        )
    return int(min(limits))


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
    _set_padding(base, config, tokenizer)
    _keep_no_cache(config)
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
    """Load the encoder of a base without head and decoder, frozen, in eval mode; a pooler may have new weights."""
    config = from_pretrained(AutoConfig, base)
    _keep_no_cache(config)
    model, _ = _load(AutoModel, base, config, torch.float32, {})
    encoder = model.get_encoder() if config.is_encoder_decoder else model
    return cast(PreTrainedModel, encoder.eval().requires_grad_(False))


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


def _set_padding(base: BaseModel, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Let the head look for the tokenizer's padding; but where positions are counted from padding it stays."""
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is None or padding_position(skeleton(base, config)) is None:
        config.pad_token_id = text.pad_token_id = tokenizer.pad_token_id


def _keep_no_cache(config: PreTrainedConfig) -> None:
    # It is for generating, and holds every layer's keys and values.
    if hasattr(config, "use_cache"):
        config.use_cache = False


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
