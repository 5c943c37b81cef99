"""Several adapters of one base made one: their average (model soups, Wortsman et al. 2022)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from torch import Tensor

from nlptransfer import distributed
from nlptransfer.classifier.classifier import Classifier
from nlptransfer.errors import SettingError
from nlptransfer.settings import check


def average(
    classifiers: Sequence[Classifier], weights: Sequence[float] | None = None, base: str | None = None
) -> Classifier:
    """The average of adapters of one base: what they add to its weights is averaged, and so are their heads.

    Σ w_i s_i B_i A_i is one product again: the matrices stand side by side, so the rank of the average is the sum of
    the ranks, and nothing is lost. It is saved, merged and pushed as any other.

    Args:
        classifiers: of route lora, with the same labels and the same adapted layers.
        weights: of each, scaled to sum to 1; None: all alike.
        base: where the base lies, where it is not found by itself.

    Returns:
        A classifier that gives each of several labels from a probability of 0.5 on, whatever the thresholds were.

    Raises:
        SettingError: fewer than two, weights that make no sense, or classifiers that do not go together.
        BaseModelError: the base cannot be had.
    """
    check(len(classifiers) > 1, "classifiers", len(classifiers), "at least 2 to average")
    weights = [1.0] * len(classifiers) if weights is None else weights
    usable = len(weights) == len(classifiers) and all(w >= 0 for w in weights) and 0 < sum(weights) < math.inf
    check(usable, "weights", weights, f"one for each of {len(classifiers)}, from 0, not all of them 0")
    shares = [float(weight) / sum(weights) for weight in weights]
    for number, one in enumerate(classifiers, start=1):
        if not isinstance(one.model, PeftModel):
            raise SettingError(f"classifier {number}: expected an adapter (route lora), found a whole model")
    first = classifiers[0]
    for number, other in enumerate(classifiers[1:], start=2):
        _check_alike(first, other, number)
    configs = [_config(one) for one in classifiers]
    rank = sum(config.r for config in configs)
    # alpha / rank = 1: the scales are in the matrices by now.
    scaled: dict[str, Any] = {"lora_alpha": rank, "use_rslora": False, "lora_dropout": 0.0}
    route = replace(cast(Any, first.route), rank=rank, merge=False, **scaled)
    config = replace(configs[0], r=rank, inference_mode=False, **scaled)
    known = (first.record or {})["base"]
    states = [get_peft_model_state_dict(cast(Any, one.model), save_embedding_layers=False) for one in classifiers]
    state = _mixed(states, configs, shares)
    mixed = route.with_adapter(known, base, first.labels, first.tokenizer, config, state)
    mixed, record = mixed.to(distributed.state().device), {"base": known, "average": {"weights": shares}}
    return replace(first, route=route, model=mixed, thresholds=None, record=record)


def _check_alike(first: Classifier, other: Classifier, number: int) -> None:
    """Raise a SettingError unless two adapters can be averaged."""
    sides = [
        {
            "labels": one.labels.names,
            "several labels": one.labels.multi_label,
            "base": ((one.record or {}).get("base") or {}).get("sha256"),
            "adapted layers": sorted(_config(one).target_modules or ()),
            "normalization": one.normalization,
            "max_length": one.tokenizer.model_max_length,
            "long_text": one.route.long_text,
        }
        for one in (first, other)
    ]
    for what, value in sides[0].items():
        if value != sides[1][what]:
            raise SettingError(
                f"classifier {number}: expected the same {what} as the first one has, {value!r:.200}, "
                f"found {sides[1][what]!r:.200}"
            )


def _config(classifier: Classifier) -> LoraConfig:
    return cast(LoraConfig, cast(Any, classifier.model).peft_config["default"])


def _scale(config: LoraConfig) -> float:
    return config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)


def _mixed(
    states: Sequence[dict[str, Tensor]], configs: Sequence[LoraConfig], shares: Sequence[float]
) -> dict[str, Tensor]:
    """Adapters side by side, (sum of ranks, in) and (out, sum of ranks); all else averaged."""
    mixed = {}
    for name in states[0]:
        parts = [state[name].float().cpu() for state in states]
        if ".lora_A." in name:
            mixed[name] = torch.cat(parts, dim=0)
        elif ".lora_B." in name:
            scaled = [share * _scale(config) * part for share, config, part in zip(shares, configs, parts, strict=True)]
            mixed[name] = torch.cat(scaled, dim=1)
        else:
            mixed[name] = sum(share * part for share, part in zip(shares, parts, strict=True))  # type: ignore[assignment]
    return mixed
