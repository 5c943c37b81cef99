"""Tiny base models of every family, and their tokenizers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    Olmo2Config,
    Olmo2Model,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    XLNetTokenizer,
)

from helpers.corpora import FILM_WORDS, WORDS
from helpers.folders import SHARED
from nlptransfer.hub.base_models import BaseModel, find_base

SPECIAL = ["<unk>", "<pad>", "<s>", "</s>"]
LAYERS, WIDTH = 3, 16
STORIES = SHARED / "checkpoints" / "stories260k"
PADS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
SIZES = PADS | {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "intermediate_size": 24, "vocab_size": 24, "max_position_embeddings": 24,
}  # fmt: skip
DECODER = SIZES | {"num_key_value_heads": 1, "head_dim": 8}
DISTANCES = {
    "relative_attention": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"], "conv_kernel_size": 3, "position_biased_input": False, "type_vocab_size": 0,
}  # fmt: skip
DECODERS = (
    "gemma", "gemma2", "gemma3_text", "llama", "ministral", "mistral",
    "olmo2", "phi3", "qwen2", "qwen3", "smollm3",
)  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "albert": SIZES | {"embedding_size": 8},
    "bert": SIZES,
    "camembert": SIZES,
    "deberta-v2": SIZES | DISTANCES,
    "distilbert": PADS
    | {"dim": WIDTH, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 24, "vocab_size": 24}
    | {"max_position_embeddings": 24},
    "electra": SIZES | {"embedding_size": 8},
    "modernbert": SIZES | {"local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 2, "sep_token_id": 3},
    "roberta": SIZES,
    "xlm-roberta": SIZES,
    "xlnet": PADS | {"d_model": WIDTH, "n_layer": LAYERS, "n_head": 2, "d_inner": 24, "vocab_size": 24},
} | dict.fromkeys(DECODERS, DECODER)
UNKNOWN: dict[str, dict[str, Any]] = {
    "convbert": SIZES | {"embedding_size": WIDTH, "conv_kernel_size": 3, "head_ratio": 1},
    "gpt2": PADS | {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 24, "vocab_size": 24},
    "mpnet": SIZES,
}
Bases = Callable[[str], BaseModel]


def make_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=plain, **(special or names))


def make_base(folder: Path, kind: str, shape: dict[str, Any], auto: Any = AutoModel) -> BaseModel:
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(kind, **shape))
    # Norms and biases that start as ones and zeros would hide one that is left out.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return find_base(str(folder))


def strip(base: BaseModel, *names: str) -> BaseModel:
    """The base with a tokenizer that has these special tokens alone, and a config without a padding id."""
    make_tokenizer(**{name: {"unk_token": "<unk>", "eos_token": "</s>"}[name] for name in names}).save_pretrained(
        base.path
    )
    config = json.loads((base.path / "config.json").read_text())
    (base.path / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    return base


def xlnet_tokenizer() -> XLNetTokenizer:
    names = [*SPECIAL, "<sep>", "<cls>", "<mask>", "<eop>", "<eod>", *(f"▁{word}" for word in WORDS)]
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return XLNetTokenizer(vocab=[(name, -1.0) for name in names], model_input_names=inputs)


def make_xlnet_base(folder: Path, shape: dict[str, Any]) -> BaseModel:
    tokenizer = xlnet_tokenizer()
    make_base(folder, "xlnet", shape | {"vocab_size": len(tokenizer)})
    tokenizer.save_pretrained(folder)
    return find_base(str(folder))


def base_of(kind: str, folder: Path) -> BaseModel:
    """A base of a family as the routes meet it, each with a peculiarity of its own."""
    shape = (SHAPES | UNKNOWN)[kind]
    if kind == "bert":
        # Without a pooler; of two layers.
        return make_base(folder, kind, shape | {"num_hidden_layers": 2}, AutoModelForMaskedLM)
    if kind == "llama":
        return strip(make_base(folder, kind, shape), "unk_token", "eos_token")
    if kind == "xlnet":
        return make_xlnet_base(folder, shape)
    # So many linear layers that peft writes endings of their names.
    return make_base(folder, kind, shape | ({"num_hidden_layers": 4} if kind == "roberta" else {}))


def make_film_base(folder: Path, kind: str = "bert", seed: int = 0, words: Sequence[str] = FILM_WORDS) -> str:
    """A random encoder of 3 layers, 8 wide; the decoder's tokenizer pads on the left and adds no token."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "bert":
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    side = "right" if kind == "bert" else "left"
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, padding_side=side, **special).save_pretrained(folder)
    sizes: dict[str, Any] = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"hidden_size": 8, "vocab_size": len(vocabulary)}
    torch.manual_seed(seed)
    model: PreTrainedModel
    if kind == "bert":
        model = BertModel(BertConfig(**sizes, max_position_embeddings=32))
    else:
        model = Olmo2Model(Olmo2Config(**sizes, num_key_value_heads=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return str(folder)
