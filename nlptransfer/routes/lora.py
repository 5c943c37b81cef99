"""The route Lora: small trained matrices, added to the frozen weights of an encoder."""

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from annotated_types import MinLen
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
from nlptransfer.errors import BaseModelError, RunFolderError, SettingError, VerificationError, nearest
from nlptransfer.hub import (
    BaseModel,
    CardSection,
    adapter_config,
    fast_tokenizer,
    find_packaged,
    from_pretrained,
    markdown,
    quiet,
    quoted,
    recorded_base,
    with_adapter,
)
from nlptransfer.models import SharedBase, head_modules
from nlptransfer.routes.base import Opened
from nlptransfer.routes.encoder import EncoderRoute, default_settings
from nlptransfer.settings import Count, Positive, Share, check

ADAPTER = "adapter_model.safetensors"
LOADING_NOTES = {
    "float32": "",
    "bfloat16": "It was trained with the base in bfloat16, which these lines hold in float32: probabilities differ a "
    "little.",
    "4bit": "The base is held in 4 bits, which takes a GPU and bitsandbytes.",
}
MERGEABLE = "a base in float32 or bfloat16, not 4bit"


@dataclass(frozen=True)
class Lora(EncoderRoute):
    """The encoder is frozen; a product of two small matrices is learned for each linear layer (Hu et al. 2021)."""

    name: ClassVar[str] = "lora"
    opened_by: ClassVar[str] = "peft"
    is_adapter: ClassVar[bool] = True

    rank: Count = 32
    """columns of the small matrices"""
    lora_alpha: Positive = 32
    """the product counts alpha / rank times, with rsLoRA alpha / sqrt(rank)"""
    lora_dropout: Share = 0.0
    """share of the adapter's inputs dropped in training"""
    use_rslora: bool = False
    """whether the product is scaled by the root of the rank (Kalajdzievski 2023)"""
    target_modules: Annotated[tuple[str, ...], MinLen(1)] | None = None
    """names, or endings of names, of the linear layers that are adapted; None: all of the encoder"""
    base_precision: Literal["float32", "bfloat16", "4bit"] = "float32"
    """number format of the frozen base; 4bit needs a GPU and bitsandbytes"""
    merge: bool = False
    """whether the product is added to the base when saved: a whole model, that plain transformers opens"""

    def check(self) -> None:
        super().check()
        check(not self.merge or self.base_precision != "4bit", "merge", True, MERGEABLE)
        expected = "false, or merge=True: an adapter alone is added to the whole base"
        check(self.merge or not self.trim_vocabulary, "trim_vocabulary", True, expected)

    def make_model(
        self, base: BaseModel, labels: Labels, tokenizer: PreTrainedTokenizerFast, seed: int
    ) -> tuple[PreTrainedModel, list[str]]:
        model, fresh = super().make_model(base, labels, tokenizer, seed)
        # The head learns whole, and all that is newly initialized must be saved, or it would be random after a reload.
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
            # GPT-2's linear layers keep their weights transposed.
            fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in targets),
            modules_to_save=heads,
        )
        with quiet():
            adapted = get_peft_model(model, config)
        # Not the path that it was loaded from.
        adapted.peft_config["default"].base_model_name_or_path = base.id
        return cast(PreTrainedModel, _head_in_float32(adapted)), fresh

    def defaults(self, data: Data) -> dict[str, Any]:
        return default_settings(data, 1e-3, least_epochs=4)

    def needs_base(self, folder: Path) -> bool:
        return (folder / ADAPTER).exists()

    def saves_merged(self, model: PreTrainedModel) -> bool:
        return self.merge and isinstance(model, PeftModel)

    def merged(self, model: PreTrainedModel) -> tuple["Lora", PreTrainedModel]:
        if not isinstance(model, PeftModel):
            raise SettingError("merge: expected an adapter, found a model that it was added to before")
        check(self.base_precision != "4bit", "merge", True, MERGEABLE)
        # In 16 bits most of the product would be rounded away, and a head would be loaded in 16 too.
        try:
            return replace(self, merge=True), cast(Any, deepcopy(model).float()).merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise VerificationError(f"merge: expected finite weights, found others ({error}): train it anew") from error

    def averaged(
        self,
        models: Sequence[PreTrainedModel],
        shares: Sequence[float],
        labels: Labels,
        tokenizer: PreTrainedTokenizerFast,
        record: Mapping[str, Any],
        base: str | None,
    ) -> tuple["Lora", PreTrainedModel]:
        adapters: list[tuple[LoraConfig, dict[str, torch.Tensor]]] = []
        for number, model in enumerate(models, start=1):
            if not isinstance(model, PeftModel):
                raise SettingError(f"classifier {number}: expected an adapter, found a whole model")
            config = cast(LoraConfig, model.peft_config["default"])
            adapters.append((config, get_peft_model_state_dict(model, save_embedding_layers=False)))
            if (layers := sorted(config.target_modules or ())) != sorted(adapters[0][0].target_modules or ()):
                raise SettingError(
                    f"classifier {number}: expected the same adapted layers as the first one has, found {layers!r:.200}"
                )
        rank = sum(config.r for config, _ in adapters)
        # alpha / rank = 1: the scales are in the matrices.
        scaled: dict[str, Any] = {"lora_alpha": rank, "use_rslora": False, "lora_dropout": 0.0}
        route = replace(self, rank=rank, merge=False, **scaled)
        config = replace(adapters[0][0], r=rank, inference_mode=False, **scaled)
        return route, route.with_adapter(record, base, labels, tokenizer, config, _averaged(adapters, shares))

    def save(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write adapter, newly initialized modules, config and tokenizer; a merged model whole."""
        if not isinstance(model, PeftModel):
            super().save(model, tokenizer, folder)
            return
        # The hub would be asked about embeddings, which are not trained.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        tokenizer.save_pretrained(folder)
        # peft's card is an empty form, and its config has no labels, which plain loading needs.
        (folder / "README.md").unlink()
        base = model.get_base_model()
        base.config.architectures = [type(base).__name__]
        base.config.save_pretrained(folder)

    def load(self, folder: Path, record: Mapping[str, Any], base: str | SharedBase | None) -> Opened:
        if not self.needs_base(folder):
            return super().load(folder, record, base)
        tokenizer = fast_tokenizer(folder)
        config = from_pretrained(AutoConfig, folder)
        several = config.problem_type == "multi_label_classification"
        labels = Labels(tuple(config.id2label[number] for number in range(config.num_labels)), several)
        # It may be trained further.
        adapter = replace(adapter_config(folder), inference_mode=False)
        try:
            return self.with_adapter(record, base, labels, tokenizer, adapter, load_file(folder / ADAPTER)), tokenizer
        except KeyError as missing:
            raise RunFolderError(
                f"{folder}: expected every weight of the adapter, found no {missing.args[0]}"
            ) from missing

    def card_section(self, record: Mapping[str, Any], repo_id: str) -> CardSection:
        section = super().card_section(record, repo_id)
        if self.merge:
            return section
        return replace(
            section,
            library_name="peft",
            relation="adapter",
            # An adapter is of no use without the name of its base.
            loading_code=self._loading_code(record, repo_id) if (record.get("base") or {}).get("name") else "",
            loading_needs="Without nlptransfer, in peft and transformers",
            loading_note=LOADING_NOTES[self.base_precision],
        )

    def training_in_words(self, record: Mapping[str, Any]) -> str:
        precision = "" if self.base_precision == "float32" else f", in {self.base_precision}"
        layers = " " + markdown(", ".join(self.target_modules)) if self.target_modules else ""
        scale = f"alpha {self.lora_alpha:g}{', rsLoRA' if self.use_rslora else ''}"
        words = (
            f"The encoder stayed as it is{precision}. Beside its linear layers{layers}, LoRA matrices of rank "
            f"{self.rank} ({scale}) were learned, and the head."
        )
        if average := record.get("average"):
            words += f"\nIt is the average of {len(average['weights'])} such adapters."
        return words + ("\nHere the matrices are merged into the encoder." if self.merge else "")

    def _loading_code(self, record: Mapping[str, Any], repo_id: str) -> str:
        base, repo = record["base"], quoted(repo_id)
        packaged = find_packaged(base["name"])
        name, revision, imports = quoted(base["name"]), base.get("revision"), ""
        if packaged is not None and not packaged.is_on_hub:
            name, revision = f"packaged_path({name})", None
            imports = f"from nlptransfer import packaged_path  # {packaged.install}\n"
        note = "" if revision or imports else "# The base was a local folder of this name: give its path.\n"
        more = f"    revision={quoted(revision)},\n" if revision else ""
        if self.base_precision == "bfloat16":
            # The saved config says so, and the head would be rounded to it too.
            more += "    dtype=torch.float32,\n"
        function = "sigmoid()" if record["multi_label"] else "softmax(dim=-1)"
        return f"""\
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
{imports}
config = AutoConfig.from_pretrained({repo})
{note}base = AutoModelForSequenceClassification.from_pretrained(
    {name},
{more}    config=config,
    ignore_mismatched_sizes=True,
)
model = PeftModel.from_pretrained(base, {repo}).eval()
tokenizer = AutoTokenizer.from_pretrained({repo})
with torch.no_grad():
    logits = model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0]
probabilities = {{config.id2label[number]: p for number, p in enumerate(logits.{function}.tolist())}}"""

    def open_as_others(self, folder: Path, record: Mapping[str, Any]) -> Opened:
        if not self.needs_base(folder) or self.base_precision != "float32":
            # Plain peft fills a head in the base's number format, which is not float32.
            return super().open_as_others(folder, record)
        base = from_pretrained(
            AutoModelForSequenceClassification,
            recorded_base(record),
            config=from_pretrained(AutoConfig, folder),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
        )
        return cast(PreTrainedModel, with_adapter(base, folder)), fast_tokenizer(folder)

    def with_adapter(
        self,
        record: Mapping[str, Any],
        base: str | SharedBase | None,
        labels: Labels,
        tokenizer: PreTrainedTokenizerFast,
        config: LoraConfig,
        state: Mapping[str, torch.Tensor],
    ) -> PreTrainedModel:
        """Return the base with a head and an adapter of these weights, or raise a KeyError with the missing names."""
        if isinstance(base, SharedBase):
            model = base.classifier(record, labels, **self.precision)
        else:
            model, _ = super().make_model(recorded_base(record, base), labels, tokenizer, 0)
        # Not PeftModel.from_pretrained: that fills heads in the base's number format, which may be 16 bits.
        with quiet():
            adapted = PeftModelForSequenceClassification(model, config)
        _head_in_float32(adapted)
        if missing := sorted(get_peft_model_state_dict(adapted, save_embedding_layers=False).keys() - state.keys()):
            raise KeyError(", ".join(missing))
        set_peft_model_state_dict(adapted, dict(state))
        return cast(PreTrainedModel, adapted.eval())

    @property
    def precision(self) -> dict[str, Any]:
        dtype = torch.float32 if self.base_precision == "float32" else torch.bfloat16
        return {"dtype": dtype, "four_bit": self.base_precision == "4bit"}

    def _targets(self, model: PreTrainedModel, heads: Sequence[str]) -> list[str]:
        linear = [
            name
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, Conv1D))
            and _multiplies(module)
            and not f"{name}.".startswith(tuple(f"{head}." for head in heads))
        ]
        if not linear:
            raise BaseModelError(
                f"model type {model.config.model_type!r}: expected linear layers that LoRA can adapt, found none: take "
                "route full or probe, or another encoder"
            )
        if self.target_modules is None:
            return linear
        for target in self.target_modules:
            if not any(f".{name}".endswith(f".{target}") for name in linear):
                endings = {name.rsplit(".", 1)[-1] for name in linear}
                raise SettingError(
                    f"target_modules: no linear layer of the encoder is called {target!r}: {nearest(target, endings)}"
                )
        return [name for name in linear if f".{name}".endswith(tuple(f".{target}" for target in self.target_modules))]


def _multiplies(layer: nn.Module) -> bool:
    """Tell whether a layer returns a product alone; of those that are an architecture's own, some route to experts."""
    if not type(layer).__module__.startswith("transformers.models."):
        return True
    weight = cast(torch.Tensor, layer.weight)
    with torch.no_grad():
        return isinstance(layer(weight.new_zeros(1, weight.shape[1])), torch.Tensor)


def _whole_heads(model: PreTrainedModel, modules: Iterable[str]) -> list[str]:
    """Return the heads that these modules are parts of: children of the classifier itself, or of its encoder."""
    prefix = f"{model.base_model_prefix}."
    depth = {name: 2 if name.startswith(prefix) else 1 for name in modules}
    return sorted({".".join(name.split(".")[:parts]) for name, parts in depth.items()})


def _to_float32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.float() if isinstance(value, torch.Tensor) else value for value in inputs)


def _head_in_float32(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save.float()
            module.register_forward_pre_hook(_to_float32)
    return model


def _averaged(
    adapters: Sequence[tuple[LoraConfig, dict[str, torch.Tensor]]], shares: Sequence[float]
) -> dict[str, torch.Tensor]:
    """Average adapters: the sum of w_i s_i B_i A_i is a product of (out, sum of ranks) and (sum of ranks, in) again.

    peft's ``add_weighted_adapter`` takes no adapters with a head.
    """
    scales = [
        share * (config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r))
        for share, (config, _) in zip(shares, adapters, strict=True)
    ]
    averaged: dict[str, torch.Tensor] = {}
    for name in adapters[0][1]:
        parts = [state[name].float().cpu() for _, state in adapters]
        if ".lora_A." in name:
            averaged[name] = torch.cat(parts, dim=0)
        elif ".lora_B." in name:
            averaged[name] = torch.cat([scale * part for scale, part in zip(scales, parts, strict=True)], dim=1)
        else:
            averaged[name] = torch.stack([share * part for share, part in zip(shares, parts, strict=True)]).sum(dim=0)
    return averaged
