"""Folders of tiny encoders with a flaw each: of the tokenizer, the config, the weights or the adapter."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken

from helpers.model_types import POSITIONS, VOCABULARY, make_base, make_tokenizer

Flaw = Callable[[Path], object]


def config(kind: str = "bert", **fields: Any) -> Flaw:
    """A base whose config.json has other fields; those of ``...`` are left out."""

    def spoil(folder: Path) -> None:
        _update(make_base(kind, folder) / "config.json", fields)

    return spoil


def settings(kind: str = "bert", **fields: Any) -> Flaw:
    """A base whose tokenizer_config.json has other fields; those of ``...`` are left out."""

    def spoil(folder: Path) -> None:
        _update(make_base(kind, folder) / "tokenizer_config.json", fields)

    return spoil


def backend(change: Callable[[dict[str, Any]], object], kind: str = "bert", **fields: Any) -> Flaw:
    """A base whose tokenizer.json was changed, and its tokenizer_config.json."""

    def spoil(folder: Path) -> None:
        file = make_base(kind, folder) / "tokenizer.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        _update(folder / "tokenizer_config.json", fields)

    return spoil


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Flaw:
    def spoil(folder: Path) -> None:
        file = make_base("bert", folder) / "model.safetensors"
        content = load_file(file)
        change(content)
        save_file(content, file, {"format": "pt"})

    return spoil


def files(*names: str, content: str | None = None) -> Flaw:
    """A base without these files, or with other content in them."""

    def spoil(folder: Path) -> None:
        make_base("bert", folder)
        for name in names:
            (folder / name).unlink(missing_ok=True)
            if content is not None:
                (folder / name).write_text(content)

    return spoil


def added(kind: str, pad: bool = False) -> Flaw:
    """A base whose tokenizer got tokens that the embedding did not."""

    def spoil(folder: Path) -> None:
        make_base(kind, folder)
        tokenizer = make_tokenizer([f"word{number}" for number in range(VOCABULARY - 5)])
        tokenizer.add_tokens(["<extra>", AddedToken("word1 word2")])
        if pad:
            tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        tokenizer.save_pretrained(folder)

    return spoil


def larger(folder: Path) -> None:
    """The tokenizer of another model, with more words."""
    make_base("bert", folder)
    make_tokenizer([f"word{number}" for number in range(2 * VOCABULARY)]).save_pretrained(folder)


def special_alone(folder: Path) -> None:
    make_base("bert", folder)
    make_tokenizer([]).save_pretrained(folder)


def other_class(folder: Path) -> None:
    """A tokenizer that transformers opens as the one of its architecture, which reads nothing."""
    make_base("qwen2", folder)
    make_tokenizer().save_pretrained(folder)


def xlnet_right(folder: Path) -> None:
    """Not XLNet's tokenizer: it pads on the left, and has segments that are not all 0."""
    make_base("xlnet", folder)
    make_tokenizer().save_pretrained(folder)


def adapter(folder: Path) -> None:
    make_base("bert", folder)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "PREFIX_TUNING"}))


def half(folder: Path) -> None:
    file = make_base("bert", folder) / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(file).items()}, file, {"format": "pt"})


def _update(file: Path, fields: dict[str, Any]) -> None:
    content = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def _no_unknown(content: dict[str, Any]) -> None:
    content["model"]["vocab"].pop("<unk>")
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<unk>"]


def _first(value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda content: content["encoder.layer.0.output.dense.weight"].fill_(value)


FLAWS: dict[str, Flaw] = {
    "tokenizer with added tokens, bert": added("bert"),
    "tokenizer with added tokens, gpt2": added("gpt2"),
    "tokenizer with an added padding token, gpt2": added("gpt2", pad=True),
    "tokenizer with an added padding token, llama": added("llama", pad=True),
    "tokenizer of another model": larger,
    "tokenizer without words": special_alone,
    "tokenizer that is opened as another": other_class,
    "tokenizer without its unknown token": backend(_no_unknown, unk_token=...),
    "tokenizer without special tokens around": backend(lambda content: content.update(post_processor=None)),
    "tokenizer without a padding token": settings("llama", pad_token=...),
    "tokenizer without padding, unknown, end": settings("llama", pad_token=..., unk_token=..., eos_token=...),
    "tokenizer without a limit": settings(model_max_length=...),
    "tokenizer with a limit of 0": settings(model_max_length=0),
    "tokenizer with a limit that is a word": settings(model_max_length="long"),
    "tokenizer whose limit is above the model's": settings(model_max_length=10 * POSITIONS),
    "tokenizer that pads on the left": settings(padding_side="left"),
    "tokenizer that pads in the middle": settings(padding_side="middle"),
    "tokenizer of an unknown class": settings(tokenizer_class="UnheardOfTokenizer"),
    "tokenizer_config.json missing": files("tokenizer_config.json"),
    "tokenizer_config.json empty": files("tokenizer_config.json", content=""),
    "tokenizer.json missing": files("tokenizer.json"),
    "tokenizer.json and its config missing": files("tokenizer.json", "tokenizer_config.json"),
    "tokenizer.json truncated": files("tokenizer.json", content='{"version": "1.0", "truncation"'),
    "tokenizer.json a list": files("tokenizer.json", content="[]"),
    "vocab.txt alone": files("tokenizer.json", "vocab.txt", content="[PAD]\n[UNK]\n[CLS]\n[SEP]\nword1\nword2"),
    "config.json empty": files("config.json", content=""),
    "config.json a list": files("config.json", content="[1]"),
    "config.json nested deep": files("config.json", content="[" * 100_000),
    "model_type missing": config(model_type=...),
    "model_type unknown": config(model_type="unheard_of"),
    "model_type of a model of images": config(model_type="vit"),
    "auto_map to code": config(model_type="own", auto_map={"AutoConfig": "configuration.OwnConfig"}),
    "hidden_size null": config(hidden_size=None),
    "hidden_size a word": config(hidden_size="wide"),
    "hidden_size 0": config(hidden_size=0),
    "hidden_size another": config(hidden_size=48),
    "heads that do not divide": config(num_attention_heads=5),
    "heads 0": config(num_attention_heads=0),
    "layers 0": config(num_hidden_layers=0),
    "layers -1": config(num_hidden_layers=-1),
    "layers more": config(num_hidden_layers=3),
    "layers fewer": config(num_hidden_layers=1),
    "activation unknown": config(hidden_act="unheard_of"),
    "epsilon a word": config(layer_norm_eps="small"),
    "epsilon null": config(layer_norm_eps=None),
    "dropout 2": config(hidden_dropout_prob=2),
    "positions more": config(max_position_embeddings=2 * POSITIONS),
    "positions fewer": config(max_position_embeddings=8),
    "positions null": config(max_position_embeddings=None),
    "positions a word": config(max_position_embeddings="many"),
    "positions 2": config(max_position_embeddings=2),
    "types none": config(type_vocab_size=0),
    "vocabulary smaller": config(vocab_size=16),
    "vocabulary larger": config(vocab_size=2 * VOCABULARY),
    "padding id outside": config(pad_token_id=999),
    "padding id -1": config(pad_token_id=-1),
    "padding id null": config(pad_token_id=None),
    "padding id another, roberta": config("roberta", pad_token_id=0),
    "padding id another, llama": config("llama", pad_token_id=0),
    "labels a list": config(id2label=["a", "b"]),
    "labels not numbered": config(id2label={"a": 0}, label2id={"a": 0}),
    "problem_type unknown": config(problem_type="unheard_of"),
    "dtype unknown": config(dtype="float7"),
    "quantized": config(quantization_config={"quant_method": "gptq", "bits": 4}),
    "attention that is not installed": config(_attn_implementation="flash_attention_2"),
    "start of the decoder missing, t5": config("t5", decoder_start_token_id=...),
    "language missing, xmod": config("xmod", default_language=...),
    "weights that are no numbers": weights(_first(float("nan"))),
    "weights that are all zero": weights(lambda content: [value.zero_() for value in content.values()]),
    "weights that are huge": weights(_first(1e30)),
    "weights in 16 bits": half,
    "weights of which one is missing": weights(lambda content: content.pop("encoder.layer.0.output.dense.weight")),
    "weights of other names": weights(lambda content: [content.update({f"x.{n}": content.pop(n)}) for n in [*content]]),
    "weights none": weights(lambda content: content.clear()),
    "weights that are a pointer": files("model.safetensors", content="version https://git-lfs.github.com/spec/v1"),
    "weights missing": files("model.safetensors"),
    "adapter of another kind": adapter,
    "padding on the right, xlnet": xlnet_right,
}  # fmt: skip
