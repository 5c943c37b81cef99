"""A small classifier on what a frozen encoder makes of a text; saved without the encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from nlptransfer.errors import RunFolderError
from nlptransfer.hub import from_pretrained
from nlptransfer.models import pool, to_float16
from nlptransfer.routes.pooled_head import PooledBody, classified
from nlptransfer.vectors import PAD_ID, RESERVED

WEIGHTS = "model.safetensors"
ENCODER = "encoder."
"""What the names of the encoder's weights begin with."""


class ProbeConfig(PreTrainedConfig):
    """Shape of a ProbeForSequenceClassification, but for the encoder's.

    Args:
        base: name, revision and sha256 of the encoder.
        layers: the layers whose outputs are pooled, counted from 1.
        pooling: what is taken over the tokens, "mean", "max" and "cls", side by side.
        encoder_width: features that come of the encoder, of all layers and poolings.
        vocab_size: words beside the encoder and the two reserved rows; 0: no words beside it.
        word_dimensions: dimensions of a word vector.
        head: "linear" or "mlp".
        mlp_sizes: widths of the hidden layers of "mlp".
        dropout: share of their outputs dropped in training.
    """

    model_type = "probe"

    def __init__(
        self,
        base: dict[str, Any] | None = None,
        layers: Sequence[int] = (1,),
        pooling: Sequence[str] = ("mean",),
        encoder_width: int = 384,
        vocab_size: int = 0,
        word_dimensions: int = 0,
        head: str = "linear",
        mlp_sizes: Sequence[int] = (128, 64),
        dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        self.base = base or {}
        self.layers = list(layers)
        self.pooling = list(pooling)
        self.encoder_width = encoder_width
        self.vocab_size = vocab_size
        self.word_dimensions = word_dimensions
        self.head = head
        self.mlp_sizes = list(mlp_sizes)
        self.dropout = dropout
        super().__init__(**kwargs)


class ProbeForSequenceClassification(PreTrainedModel):
    """A frozen encoder, frozen word vectors beside it if asked for, and a small classifier.

    The encoder is always in eval mode. Features are rounded to float16, as the cache keeps them, so that logits are
    the same from there and from text.

    Args:
        config: the shape.
        encoder: a model without a head, that gives its hidden states.
        words: what cuts texts for the word vectors.
    """

    config_class = ProbeConfig
    base_model_prefix = "encoder"
    config: ProbeConfig
    encoder: PreTrainedModel
    vectors: nn.Embedding | None
    body: PooledBody
    classifier: nn.Linear

    def __init__(
        self, config: ProbeConfig, encoder: PreTrainedModel, words: PreTrainedTokenizerFast | None = None
    ) -> None:
        super().__init__(config)
        self.words = words
        self.vectors = None
        if config.vocab_size:
            self.vectors = nn.Embedding(config.vocab_size, config.word_dimensions, padding_idx=PAD_ID)
            self.vectors.requires_grad_(False)
        hidden = config.mlp_sizes if config.head == "mlp" else []
        sizes = [config.encoder_width + config.word_dimensions, *hidden]
        self.body = PooledBody(sizes, config.dropout)
        self.classifier = nn.Linear(sizes[-1], len(config.id2label or ()))
        self.encoder = encoder.eval().requires_grad_(False)
        self.post_init()  # type: ignore[no-untyped-call]

    def init_weights(self) -> None:
        """Nothing: the encoder has its weights, and the layers' own initialization is right."""

    def train(self, mode: bool = True) -> "ProbeForSequenceClassification":
        super().train(mode)
        self.encoder.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    @classmethod
    def load(
        cls, folder: Path, encoder: PreTrainedModel, words: PreTrainedTokenizerFast | None = None
    ) -> "ProbeForSequenceClassification":
        """What ``save_pretrained`` wrote, around an encoder.

        Raises:
            RunFolderError: weights of the classifier are missing.
        """
        config = from_pretrained(AutoConfig, folder)
        if not isinstance(config, ProbeConfig):
            found = repr(config.model_type)
            raise RunFolderError(f"{folder}: expected model type 'probe' in config.json, found {found}: fetch it again")
        model = cls(config, encoder, words)
        missing = sorted(_own(model))
        if (folder / WEIGHTS).exists():
            found = model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
            missing = sorted(name for name in found.missing_keys if not name.startswith(ENCODER))
        if missing:
            raise RunFolderError(f"{folder}: expected every weight of the classifier, found no {', '.join(missing)}")
        return cast("ProbeForSequenceClassification", model.eval())  # type: ignore[no-untyped-call]

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As every model's, but without the encoder."""
        super().save_pretrained(*args, **{"state_dict": _own(self), **kwargs})

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        word_features: Tensor | None = None,
        word_ids: Tensor | None = None,
        features: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits, the loss when labels are given, and on request the inputs of the last layer, (batch, width).

        Args:
            input_ids: (batch, tokens) int64.
            attention_mask: (batch, tokens); without it every place counts.
            token_type_ids: (batch, tokens), where the encoder takes them.
            word_features: (batch, word_dimensions) pooled word vectors, where there are words beside the encoder.
            word_ids: (batch, words) in place of ``word_features``.
            features: (batch, encoder_width + word_dimensions) in place of all these.
            labels: (batch,) int64, or (batch, labels) float for several labels at once.
            output_hidden_states: whether ``hidden_states`` is given.
        """
        if features is None:
            features = self.encoder_features(input_ids, attention_mask, token_type_ids)
            if word_ids is not None and self.vectors is not None:
                word_features = pool(self.vectors(word_ids), word_ids >= RESERVED, ("mean",))
            if word_features is not None:
                features = torch.cat([features, to_float16(word_features)], dim=1)
        hidden = self.body(features.to(self.classifier.weight.dtype))
        return classified(self.config, self.classifier, hidden, labels, output_hidden_states)

    def encoder_features(
        self, input_ids: Tensor | None, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """(batch, encoder_width) float16: each asked layer's hidden states, pooled over the real tokens.

        All of a layer's poolings stand side by side, then those of the next layer.
        """
        if input_ids is None:
            raise ValueError("expected input_ids or features, found neither")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        states = self.encoder(**inputs, output_hidden_states=True).hidden_states
        real = mask.bool()
        # What an encoder makes of padding may be anything, NaN too.
        layers = (states[number].float().masked_fill(~real.unsqueeze(2), 0) for number in self.config.layers)
        return to_float16(torch.cat([pool(layer, real, self.config.pooling) for layer in layers], dim=1))


def _own(model: ProbeForSequenceClassification) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if not name.startswith(ENCODER)}


# Else AutoTokenizer warns of the folder's config.
AutoConfig.register("probe", ProbeConfig, exist_ok=True)
