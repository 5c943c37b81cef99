"""A small classifier on the pooled hidden states of a frozen encoder; saved without the encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer.errors import RunFolderError
from nlptransfer.hub import fast_tokenizer, from_pretrained
from nlptransfer.models import Ngrams, pool, to_float16
from nlptransfer.routes.pooled_head import PooledBody, PooledClassifier, PooledConfig, PooledHead
from nlptransfer.vectors import PAD_ID, RESERVED

WEIGHTS = "model.safetensors"
ENCODER = "encoder."
"""What the names of the encoder's weights begin with."""
WORDS = "words"
"""Folder of the word tokenizer in a saved classifier."""


class ProbeConfig(PooledConfig):
    """Shape of a ProbeForSequenceClassification, without its encoder.

    ``base`` is name, revision and sha256 of the encoder; ``layers``, counted from 1, are pooled to ``encoder_width``
    features. ``vocab_size`` counts the words besides the encoder and the two reserved rows, or is 0 without words, of
    ``word_dimensions`` each.
    """

    model_type = "probe"

    def __init__(
        self,
        base: dict[str, Any] | None = None,
        layers: Sequence[int] = (1,),
        encoder_width: int = 384,
        vocab_size: int = 0,
        word_dimensions: int = 0,
        **kwargs: Any,
    ) -> None:
        self.base, self.layers, self.encoder_width = base or {}, list(layers), encoder_width
        self.vocab_size, self.word_dimensions = vocab_size, word_dimensions
        super().__init__(**kwargs)


class ProbeForSequenceClassification(PooledClassifier):
    """A frozen encoder without a head, if wanted also frozen word vectors with their tokenizer, and a small classifier.

    The encoder is always in eval mode. Features are rounded to float16, as in the cache, so that logits are the same
    from there and from text.
    """

    config_class = ProbeConfig
    base_model_prefix = "encoder"
    config: ProbeConfig
    encoder: PreTrainedModel
    vectors: nn.Embedding | None
    body: PooledBody

    def __init__(
        self, config: ProbeConfig, encoder: PreTrainedModel, words: PreTrainedTokenizerFast | None = None
    ) -> None:
        super().__init__(config)
        self.words = words
        self.vectors = None
        if config.vocab_size:
            self.vectors = nn.Embedding(config.vocab_size, config.word_dimensions, padding_idx=PAD_ID)
            self.vectors.requires_grad_(False)
        self.body = PooledBody(config, config.encoder_width + config.word_dimensions)
        self.classifier = PooledHead(self.body.width + config.num_ngrams, len(config.id2label or ()))
        self.encoder = encoder.eval().requires_grad_(False)
        self.post_init()  # type: ignore[no-untyped-call]

    def init_weights(self) -> None:
        """Do nothing: the encoder has its weights, and the layers' own initialization is right."""

    def train(self, mode: bool = True) -> "ProbeForSequenceClassification":
        super().train(mode)
        self.encoder.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    @classmethod
    def load(cls, folder: Path, encoder: PreTrainedModel) -> "ProbeForSequenceClassification":
        """Load what ``save_pretrained`` wrote, around an encoder."""
        config = from_pretrained(AutoConfig, folder)
        if not isinstance(config, ProbeConfig):
            kind = repr(config.model_type)
            raise RunFolderError(f"{folder}: expected model type 'probe' in config.json, found {kind}: fetch it again")
        words = folder / WORDS
        model = cls(config, encoder, fast_tokenizer(words) if words.exists() else None)
        model.ngrams = Ngrams.open(folder)
        if len(model.ngrams or ()) != config.num_ngrams:
            found = f"{len(model.ngrams or ()):,}"
            raise RunFolderError(f"{folder}: expected {config.num_ngrams:,} n-grams, found {found}: fetch it again")
        weights = load_file(folder / WEIGHTS) if (folder / WEIGHTS).exists() else {}
        model.load_state_dict(weights, strict=False)
        if missing := sorted(_without_encoder(model).keys() - weights.keys()):
            raise RunFolderError(f"{folder}: expected every weight of the classifier, found no {', '.join(missing)}")
        return cast("ProbeForSequenceClassification", model.eval())  # type: ignore[no-untyped-call]

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write head, word vectors and their tokenizer, and the config, which names the encoder."""
        super().save_pretrained(save_directory, *args, **{"state_dict": _without_encoder(self), **kwargs})
        if self.words is not None:
            self.words.save_pretrained(Path(save_directory) / WORDS)

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        word_features: Tensor | None = None,
        word_ids: Tensor | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Return the last layer's inputs, (batch, width); words are pooled vectors, (batch, dimensions), or ids."""
        features = self.encoder_features(input_ids, attention_mask, token_type_ids)
        if word_ids is not None and self.vectors is not None:
            word_features = pool(self.vectors(word_ids), word_ids >= RESERVED, ("mean",))
        if word_features is not None:
            features = torch.cat([features, to_float16(word_features)], dim=1)
        return cast(Tensor, self.body(features))

    def encoder_features(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Pool each layer's hidden states over the real tokens, (batch, encoder_width) float16, layer by layer."""
        return to_float16(self.pooled_states(input_ids, attention_mask, token_type_ids))

    def pooled_states(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return what is rounded to these features, (batch, encoder_width) float32."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        states = self.encoder(**inputs, output_hidden_states=True).hidden_states
        real = attention_mask.bool()
        # Hidden states of padding may be anything, NaN too.
        layers = (states[number].float().masked_fill(~real.unsqueeze(2), 0) for number in self.config.layers)
        return torch.cat([pool(layer, real, self.config.pooling) for layer in layers], dim=1)


def _without_encoder(model: ProbeForSequenceClassification) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if not name.startswith(ENCODER)}


# Without it AutoTokenizer warns of the folder's config.
AutoConfig.register("probe", ProbeConfig, exist_ok=True)
