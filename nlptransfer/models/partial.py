"""Run a part of an encoder: the activations of its lower layers, its upper layers, or its last one for one token.
It knows layers and hidden states, not which layers are frozen, or why."""

import copy
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel

from nlptransfer.models.architectures import (
    Family,
    family_of,
    family_or_none,
    layers_of,
    parts_of,
    plain_model,
    within_peft,
)
from nlptransfer.settings import check


def upper_layers(model: nn.Module, cut: int) -> nn.Module:
    """Return the part of a model from layer ``cut`` on, over the same parameters and under the same names.

    It is called as ``upper(activations=..., **inputs)``, with the (batch, tokens, width) of :func:`activations_below`
    and the model's inputs, for masks and positions. It has no parameters, cost or dropout of the layers below, and what
    all layers share does not learn in it. Settings such as gradient checkpointing are made on the model before. The
    model is a classifier, a bare encoder, or either within peft; ``cut`` counts the layers below, from 1 to all.
    """
    plain, layers, family = _parts(model, cut)
    makers = parts_of(plain, family.embeddings)
    handover = _Handover(next(makers[0].parameters()).dtype, family.tokens_first)
    # deepcopy takes what the memo holds for a copy that is made already: parameters are shared, lower parts replaced.
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    memo[id(plain.config)] = plain.config
    idle = [parameter for module in parts_of(plain, family.shared) for parameter in module.parameters()]
    if family.pretraining_only:
        idle.append(plain.base_model.get_parameter(family.pretraining_only))
    for parameter in idle:
        if parameter.requires_grad:
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    memo |= {id(module): _StandIn(handover) for module in makers}
    memo |= {id(layer): _StandIn(handover, family.layers_give_pairs, layer) for layer in layers[:cut]}
    upper = copy.deepcopy(model, memo)
    if family.in_first_layer:
        owner, _, name = family.in_first_layer.rpartition(".")
        setattr(plain_model(upper).base_model.get_submodule(owner), name, None)
    upper.register_forward_pre_hook(handover.take, with_kwargs=True)
    upper.register_forward_hook(handover.forget, always_call=True)
    return upper


def activations_below(model: nn.Module, cut: int, inputs: dict[str, Tensor]) -> Tensor:
    """Return the input of layer ``cut``, or above all layers the output of the last, (batch, tokens, width).

    The model runs in eval mode and without gradients, and only its layers below the cut.
    """
    plain, layers, family = _parts(model, cut)
    seen: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached

    def note(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    modes = [(module, module.training) for module in model.modules()]
    with ExitStack() as hooks:
        if cut < len(layers):
            hooks.enter_context(layers[cut].register_forward_pre_hook(stop, with_kwargs=True))
        else:
            # Where the first layer is the last, what belongs to it comes after it.
            last = [layers[-1], *parts_of(plain, (family.in_first_layer,))]
            for module in last if cut == 1 else last[:1]:
                hooks.enter_context(module.register_forward_hook(note))
        model.eval()
        try:
            with torch.no_grad(), suppress(_Reached):
                model(**inputs)
        finally:
            for module, mode in modes:
                module.training = mode
    return seen[-1].transpose(0, 1) if family.tokens_first else seen[-1]


def first_token_alone(model: Any) -> AbstractContextManager[object]:
    """Let the last layer of BERT and its kin compute the first token only, the one that the classifier reads.

    Its attention looks at all tokens, so that logits are the same. With 6 layers this saves an eighth of their work.
    """
    rest = _after_last_attention(within_peft(model))
    if rest is None:
        return nullcontext()
    return rest.register_forward_pre_hook(lambda _, inputs: tuple(part[:, :1] for part in inputs))


def _after_last_attention(model: Any) -> nn.Module | None:
    """Return the module after the last attention, where a classifier reads the first token alone; else None."""
    # transformers' own class, not one of ours with such a config: an ONNX graph has no layers.
    kinds: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    config = type(getattr(model, "config", None))
    if config not in kinds or type(model) is not kinds[config]:
        return None
    family = family_or_none(model.config)
    if family.after_attention is None:
        return None
    layers = layers_of(model)
    if len(layers) == 1 and parts_of(model, (family.in_first_layer,)):
        return None  # it reads all tokens of its layer
    # The stand-in for a layer that was left out has no attention.
    return dict(layers[-1].named_modules()).get(family.after_attention)


def _parts(model: nn.Module, cut: int) -> tuple[PreTrainedModel, nn.ModuleList, Family]:
    plain, layers = plain_model(model), layers_of(model)
    check(0 < cut <= len(layers), "cut", cut, f"a number of layers from 1 to {len(layers)}")
    return plain, layers, family_of(plain)


class _Reached(Exception):
    """Ends a forward pass whose rest is not needed."""


class _Handover:
    """Activations passed from a call of an upper part to its stand-ins."""

    def __init__(self, dtype: torch.dtype, tokens_first: bool) -> None:
        self.dtype, self.tokens_first = dtype, tokens_first
        self.activations: Tensor | None = None

    # These are methods, not closures, so that a copy of an upper part hands over to its own stand-ins.
    def take(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        activations = kwargs.pop("activations").to(self.dtype)
        self.activations = activations.transpose(0, 1) if self.tokens_first else activations
        return args, kwargs

    def forget(self, *_: Any) -> None:
        self.activations = None


class _StandIn(nn.Module):
    """A module in place of embeddings or a lower layer, which returns the activations."""

    def __init__(self, handover: _Handover, gives_pair: bool = False, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.handover, self.gives_pair = handover, gives_pair
        # ModernBERT asks its layers for it.
        self.attention_type = getattr(layer, "attention_type", None)

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        return (self.handover.activations, None) if self.gives_pair else self.handover.activations
