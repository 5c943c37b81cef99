"""The routes Full and Lora: the whole encoder learns, or small matrices beside its own."""

import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from peft import (
    LoraConfig,
    PeftModel,
    PeftModelForSequenceClassification,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from nlptransfer.data import Data, Labels
from nlptransfer.errors import RunFolderError, SettingError, VerificationError, nearest
from nlptransfer.hub import (
    BaseModel,
    adapter_config,
    base_record,
    fast_tokenizer,
    find_base,
    from_pretrained,
    recorded_base,
    with_adapter,
)
from nlptransfer.models import (
    ActivationRows,
    Rows,
    SharedBase,
    TokenRows,
    activations,
    compute,
    embeddings_of,
    encode,
    head_modules,
    last_inputs,
    last_layer,
    layers_of,
    load_model,
    load_tokenizer,
    pool,
    text_vectors,
    upper_layers,
)
from nlptransfer.route import Built, Route, check_length, set_length
from nlptransfer.settings import check
from nlptransfer.training import Pace

log = logging.getLogger("nlptransfer")

ADAPTER = "adapter_model.safetensors"
STEPS, STEPS_PER_LABEL = 600, 12
MOST_EPOCHS = 12
FEW_ROWS = 8_000
"""Training rows below which a batch is small."""
FROZEN_HERE = "frozen_by_nlptransfer"
"""What a parameter is marked with that would learn if its layer were not frozen."""
UNKNOWN_WARNING = 0.05
"""Share of unknown pieces from which a tokenizer does not know the language of the texts."""


@dataclass(frozen=True)
class EncoderRoute(Route):
    """What Full and Lora share: a pretrained encoder with the head that transformers gives it."""

    max_length: int | Literal["auto"] = 256
    """tokens that are read of a text, or at once; auto: as many as 99% of the training texts have at most"""
    dropout: float | None = None
    """share of the activations dropped in training; None: as the base was trained"""
    attention_dropout: float | None = 0.0
    """share of the attention weights dropped: with 0 they are computed in one fused step; None: as dropout says"""
    gradient_checkpointing: bool = False
    """whether activations are computed twice to save memory"""

    def check(self) -> None:
        super().check()
        check_length(self.max_length)
        for name in ("dropout", "attention_dropout"):
            share = getattr(self, name)
            check(share is None or 0 <= share < 1, name, share, "a share in [0, 1)")

    def build(self, data: Data, base: str | None, revision: str | None, seed: int, beside: Sequence[str] = ()) -> Built:
        self.check()
        found = find_base(base, revision)
        texts = [*data.train.texts, *beside]
        tokenizer = set_length(load_tokenizer(found), self.max_length, texts)
        model, fresh = self.make_model(found, data, tokenizer, seed)
        if self.gradient_checkpointing:
            _compute_activations_twice(model)
        unknown = _unknown_share(texts, tokenizer)
        if unknown > UNKNOWN_WARNING:
            log.warning(
                "%s: its tokenizer leaves %.0f%% of the pieces of these texts unknown: take a base of their language",
                found.id,
                100 * unknown,
            )
        record = {"kind": "encoder", **base_record(found), "fresh": fresh, "unknown_share": unknown}
        return Built(model, tokenizer, record)

    def make_model(
        self, base: BaseModel, data: Data, tokenizer: PreTrainedTokenizerFast, seed: int
    ) -> tuple[PreTrainedModel, list[str]]:
        """The model to train, and the names of its freshly initialised modules."""
        return self.load_base(base, data.labels, tokenizer, seed)

    def load_base(
        self, base: BaseModel, labels: Labels, tokenizer: PreTrainedTokenizerFast, seed: int, **precision: Any
    ) -> tuple[PreTrainedModel, list[str]]:
        """A classifier on the base with this route's dropout, and the names of its freshly initialised modules."""
        dropout: dict[str, Any] = {"dropout": self.dropout, "attention_dropout": self.attention_dropout}
        return load_model(base, labels, tokenizer, seed, **dropout, **precision)

    def rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, share: bool = False
    ) -> TokenRows:
        return encode(texts, tokenizer, tokenizer.model_max_length, self.long_text)

    def head(self, model: PreTrainedModel) -> nn.Linear:
        return last_layer(model)

    def layer_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], some: np.ndarray
    ) -> list[np.ndarray]:
        widths: list[int] = []

        def pooled(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            real = batch["attention_mask"].bool()
            states = model(**batch, output_hidden_states=True).hidden_states or ()
            layers = [pool(state.float(), real, ("mean",)) for state in states[1:] if state.shape[:2] == real.shape]
            widths[:] = [layer.shape[1] for layer in layers]
            return torch.cat(layers, dim=1) if layers else real[:, :0].float()

        found = compute(model, pooled, self.rows(model, tokenizer, [texts[place] for place in some]), share=True)
        return np.split(found, np.cumsum(widths)[:-1], axis=1) if found.shape[1] else []


@dataclass(frozen=True)
class Full(EncoderRoute):
    """All of the encoder learns, or its upper layers."""

    name: ClassVar[str] = "full"
    per_stage: ClassVar[tuple[str, ...]] = (
        "freeze_embeddings",
        "freeze_layers",
        "layers",
        "layer_decay",
        "gradual_unfreezing",
        "head_first",
    )
    varied: ClassVar[tuple[str, ...]] = ("freeze_layers",)

    freeze_embeddings: bool = False
    """whether the embeddings stay as they are"""
    freeze_layers: int = 0
    """lowest layers that stay as they are, and the embeddings with them; what they give is computed once"""
    layers: Literal["auto"] | None = None
    """auto: none, a third, two thirds and all layers are frozen in turn, and the best on validation is kept"""
    layer_decay: float = 1.0
    """each layer learns at so much of the rate of the one above it (Clark et al. 2020)"""
    gradual_unfreezing: bool = False
    """whether layers begin to learn one after the other, the head first, all by half of the training
    (Howard and Ruder 2018)"""
    head_first: bool = False
    """whether the last layer is solved on the frozen encoder before all learns (LP-FT, Kumar et al. 2022)"""

    def check(self) -> None:
        super().check()
        check(self.freeze_layers >= 0, "freeze_layers", self.freeze_layers, "0 or more")
        check(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "a share in (0, 1]")
        both = self.layers is not None and self.freeze_layers > 0
        check(not both, "freeze_layers", self.freeze_layers, "0 beside layers=auto, which tries several")

    def make_model(
        self, base: BaseModel, data: Data, tokenizer: PreTrainedTokenizerFast, seed: int
    ) -> tuple[PreTrainedModel, list[str]]:
        model, fresh = super().make_model(base, data, tokenizer, seed)
        self.freeze(model)
        return model, fresh

    def state(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        # Another stage may freeze other layers.
        return model.state_dict()

    def variants(self, model: PreTrainedModel) -> Sequence[Route]:
        if self.layers is None:
            return [self]
        count = len(layers_of(model))
        numbers = sorted({0, round(count / 3), round(2 * count / 3), count})
        return [replace(self, layers=None, freeze_layers=number) for number in numbers]

    def freeze(self, model: PreTrainedModel) -> None:
        if self.freeze_layers:
            layers = len(layers_of(model))
            check(self.freeze_layers <= layers, "freeze_layers", self.freeze_layers, f"at most its {layers} layers")
        frozen = [*layers_of(model)[: self.freeze_layers]] if self.freeze_layers else []
        if frozen or self.freeze_embeddings:
            frozen += embeddings_of(model)
        # The stage before may have frozen other layers; what the base never learns stays as it is.
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.requires_grad or getattr(parameter, FROZEN_HERE, False))
        for parameter in (parameter for module in frozen for parameter in module.parameters()):
            if parameter.requires_grad:
                setattr(parameter, FROZEN_HERE, True)
            parameter.requires_grad_(False)

    def defaults(self, data: Data) -> dict[str, Any]:
        return _defaults(data, 1e-4, least_epochs=3)

    def learning(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *splits: Sequence[str]
    ) -> tuple[nn.Module, list[Rows]]:
        self.freeze(model)
        if not self.freeze_layers:
            return super().learning(model, tokenizer, *splits)
        rows: list[Rows] = []
        for texts in splits:
            tokens = self.rows(model, tokenizer, texts)
            rows.append(ActivationRows(tokens, activations(model, tokenizer, texts, tokens, self.freeze_layers)))
        return upper_layers(model, self.freeze_layers), rows

    def paces(self, model: PreTrainedModel) -> dict[str, Pace]:
        if self.layer_decay == 1 and not self.gradual_unfreezing:
            return {}
        layers = layers_of(model)
        floors: dict[int, int] = {id(p): 0 for part in embeddings_of(model) for p in part.parameters()}
        floors |= {id(p): number for number, layer in enumerate(layers, start=1) for p in layer.parameters()}
        top = len(layers) + 1
        paces = {}
        for name, parameter in model.named_parameters():
            below = top - floors.get(id(parameter), top)
            start = 0.5 * below / top if self.gradual_unfreezing else 0.0
            paces[name] = Pace(self.layer_decay**below, start)
        return paces

    def head_inputs(self, model: nn.Module, rows: Rows) -> np.ndarray | None:
        if not self.head_first:
            return None
        own = cast(PreTrainedModel, model)
        with last_inputs(last_layer(own)) as seen:

            def inputs_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
                model(**batch)
                return text_vectors(seen[0], batch, own).float()

            return compute(model, inputs_of, rows, share=True)


@dataclass(frozen=True)
class Lora(EncoderRoute):
    """The encoder is frozen; a product of two small matrices is learnt beside each of its own (Hu et al. 2021)."""

    name: ClassVar[str] = "lora"
    opened_by: ClassVar[str] = "peft"

    rank: int = 32
    """columns of the small matrices"""
    lora_alpha: float = 32
    """the product counts alpha / rank times, with rsLoRA alpha / sqrt(rank)"""
    lora_dropout: float = 0.0
    """share of the adapter's inputs dropped in training"""
    use_rslora: bool = False
    """whether the product is scaled by the root of the rank (Kalajdzievski 2023)"""
    target_modules: tuple[str, ...] | None = None
    """names, or endings of names, of the linear layers that are adapted; None: all of the encoder"""
    base_precision: Literal["float32", "bfloat16", "4bit"] = "float32"
    """number format of the frozen base; 4bit needs a GPU and bitsandbytes"""
    merge: bool = False
    """whether the product is added to the base when saved: a whole model, that plain transformers opens"""

    def check(self) -> None:
        super().check()
        check(self.rank >= 1, "rank", self.rank, "a whole number from 1")
        check(self.lora_alpha > 0, "lora_alpha", self.lora_alpha, "above 0")
        check(0 <= self.lora_dropout < 1, "lora_dropout", self.lora_dropout, "a share in [0, 1)")
        check(self.target_modules is None or len(self.target_modules) > 0, "target_modules", (), "at least one name")
        check(
            not (self.merge and self.base_precision == "4bit"), "merge", True, "a base in float32 or bfloat16, not 4bit"
        )

    def make_model(
        self, base: BaseModel, data: Data, tokenizer: PreTrainedTokenizerFast, seed: int
    ) -> tuple[PreTrainedModel, list[str]]:
        model, fresh = self.load_base(base, data.labels, tokenizer, seed, **self.precision)
        # The head learns whole, and what is fresh anywhere must be saved: random again after a reload otherwise.
        heads = _whole_heads(model, {*head_modules(model), *fresh})
        targets = self._targets(model, heads)
        config = LoraConfig(
            task_type="SEQ_CLS",
            revision=base.revision,
            r=self.rank,
            lora_alpha=cast(int, self.lora_alpha),
            lora_dropout=self.lora_dropout,
            use_rslora=self.use_rslora,
            target_modules=targets,
            # GPT-2's linear layers keep their weights turned.
            fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in targets),
            modules_to_save=heads,
        )
        with _peft_quiet():
            adapted = get_peft_model(model, config)
        # Not the path that it was loaded from.
        adapted.peft_config["default"].base_model_name_or_path = base.id
        return cast(PreTrainedModel, _head_in_float32(adapted)), fresh

    def defaults(self, data: Data) -> dict[str, Any]:
        return _defaults(data, 1e-3, least_epochs=4)

    def needs_base(self, folder: Path) -> bool:
        return (folder / ADAPTER).exists()

    def merged(self, model: PreTrainedModel) -> PreTrainedModel:
        if not isinstance(model, PeftModel):
            raise SettingError("merge: expected an adapter, found a model that it was added to before")
        check(self.base_precision != "4bit", "merge", True, "a base in float32 or bfloat16, not 4bit")
        # In 16 bits most of the product would be rounded away, and a head would be loaded in 16 too.
        try:
            return cast(Any, deepcopy(model).float()).merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise VerificationError(f"merge: expected finite weights, found others ({error}): train it anew") from error

    def save(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write the adapter, the fresh modules, config and tokenizer; a merged model whole."""
        if not isinstance(model, PeftModel):
            super().save(model, tokenizer, folder)
            return
        # The hub would be asked about embeddings, which are not trained.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        tokenizer.save_pretrained(folder)
        # peft's card is an empty form; and its own config has no labels, which plain loading needs.
        (folder / "README.md").unlink()
        base = model.get_base_model()
        base.config.architectures = [type(base).__name__]
        base.config.save_pretrained(folder)

    def load(
        self, folder: Path, record: Mapping[str, Any], base: str | SharedBase | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        if not self.needs_base(folder):
            return super().load(folder, record, base)
        tokenizer = fast_tokenizer(folder)
        config = from_pretrained(AutoConfig, folder)
        several = config.problem_type == "multi_label_classification"
        labels = Labels(tuple(config.id2label[number] for number in range(config.num_labels)), several)
        if isinstance(base, SharedBase):
            model = base.classifier(record, labels, **self.precision)
        else:
            model, _ = self.load_base(recorded_base(record, base), labels, tokenizer, 0, **self.precision)
        # It may be gone on with.
        adapter = replace(adapter_config(folder), inference_mode=False)
        try:
            return adapted(model, adapter, load_file(folder / ADAPTER)), tokenizer
        except KeyError as missing:
            raise RunFolderError(
                f"{folder}: expected every weight of the adapter, found no {missing.args[0]}"
            ) from missing

    def reopened_logits(self, folder: Path, record: Mapping[str, Any], texts: Sequence[str]) -> np.ndarray:
        if not self.needs_base(folder) or self.base_precision != "float32":
            # Plain peft fills a head in the base's number format, which is not float32.
            return super().reopened_logits(folder, record, texts)
        base = from_pretrained(
            AutoModelForSequenceClassification,
            recorded_base(record),
            config=from_pretrained(AutoConfig, folder),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
        )
        with _peft_quiet():
            model = with_adapter(base, folder)
        return self.opened_logits(cast(PreTrainedModel, model), fast_tokenizer(folder), texts)

    @property
    def precision(self) -> dict[str, Any]:
        dtype = torch.float32 if self.base_precision == "float32" else torch.bfloat16
        return {"dtype": dtype, "four_bit": self.base_precision == "4bit"}

    def _targets(self, model: PreTrainedModel, heads: Sequence[str]) -> list[str]:
        """Names of the linear layers that are adapted, none of them in a head.

        Raises:
            SettingError: an asked one is not there.
        """
        linear = [
            name
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, Conv1D)) and not any(f"{name}.".startswith(f"{head}.") for head in heads)
        ]
        if self.target_modules is None:
            return linear
        for target in self.target_modules:
            if not any(_ends(name, target) for name in linear):
                endings = {name.rsplit(".", 1)[-1] for name in linear}
                raise SettingError(
                    f"target_modules: no linear layer of the encoder is called {target!r}: {nearest(target, endings)}"
                )
        return [name for name in linear if any(_ends(name, target) for target in self.target_modules)]


def adapted(model: PreTrainedModel, config: LoraConfig, state: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """A model with an adapter whose weights are these, in eval mode.

    Args:
        model: of the base, with a head for the adapter's labels; it is changed.
        state: as peft saves it.

    Raises:
        KeyError: names of weights that the adapter has and ``state`` has not.
    """
    # Not PeftModel.from_pretrained: that fills heads in the base's number format, which may be 16 bits.
    with _peft_quiet():
        found = PeftModelForSequenceClassification(model, config)
    _head_in_float32(found)
    if missing := sorted(get_peft_model_state_dict(found, save_embedding_layers=False).keys() - state.keys()):
        raise KeyError(", ".join(missing))
    set_peft_model_state_dict(found, dict(state))
    return cast(PreTrainedModel, found.eval())


def _compute_activations_twice(model: Any) -> None:
    kind = model.config.model_type
    possible = f"a base that can compute its activations twice, which {kind!r} cannot"
    check(model.supports_gradient_checkpointing, "gradient_checkpointing", True, possible)
    # transformers before 5.23 has the second name only.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@contextmanager
def _peft_quiet() -> Iterator[None]:
    # peft asks transformers by an old name.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        yield


def _ends(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def _whole_heads(model: PreTrainedModel, modules: Iterable[str]) -> list[str]:
    """The heads that these modules are parts of: children of the classifier itself, or of its encoder."""
    prefix = f"{model.base_model_prefix}."
    depth = {name: 2 if name.startswith(prefix) else 1 for name in modules}
    return sorted({".".join(name.split(".")[:parts]) for name, parts in depth.items()})


def _head_in_float32(model: nn.Module) -> nn.Module:
    """Heads learn in float32, also where a base in 16 bits hands them less."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save.float()
            module.register_forward_pre_hook(_to_float32)
    return model


def _to_float32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.float() if isinstance(value, torch.Tensor) else value for value in inputs)


def _unknown_share(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> float:
    """Share of the pieces of these texts that the tokenizer does not know."""
    ids = encode(texts, tokenizer, tokenizer.model_max_length).ids
    special = np.isin(ids, [i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id])
    known = ids[~special]
    return float((known == tokenizer.unk_token_id).mean()) if len(known) and tokenizer.unk_token_id is not None else 0.0


def _defaults(data: Data, learning_rate: float, least_epochs: int) -> dict[str, Any]:
    # A task needs so many steps, more with more classes, however few rows it has.
    rows = max(1, len(data.train))
    batch = 16 if rows < FEW_ROWS else 32
    epochs = math.ceil((STEPS + STEPS_PER_LABEL * data.labels.num_labels) * batch / rows)
    # Half the rows, half the rate; but where so many epochs would be too many, longer steps make up for fewer.
    longer = batch == 32 or epochs > MOST_EPOCHS
    return {
        "num_train_epochs": min(max(epochs, least_epochs), MOST_EPOCHS),
        "learning_rate": learning_rate if longer else learning_rate / 2,
        "per_device_train_batch_size": batch,
    }
