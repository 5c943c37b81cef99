"""Word vectors feeding a small classifier, as a model that transformers loads after ``import nlptransfer.word2vec``."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from nlptransfer.errors import RunFolderError
from nlptransfer.models import Ngrams, pool
from nlptransfer.routes.pooled_head import PooledBody, PooledClassifier, PooledConfig, PooledHead, Standardize
from nlptransfer.vectors import PAD, PAD_ID, RESERVED, UNKNOWN, Subwords, build_tokenizer


class Word2VecConfig(PooledConfig):
    """Shape of a Word2VecForSequenceClassification; ``vocab_size`` counts the words and the two reserved rows."""

    model_type = "word2vec"

    def __init__(
        self,
        vocab_size: int = 1000,
        hidden_size: int = 100,
        head: str = "cnn",
        kernel_sizes: Sequence[int] = (3, 4, 5),
        num_filters: int = 100,
        train_vectors: bool = False,
        keep_subwords: bool = False,
        pad_token_id: int = PAD_ID,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.hidden_size, self.pad_token_id = vocab_size, hidden_size, pad_token_id
        self.kernel_sizes, self.num_filters = list(kernel_sizes), num_filters
        self.train_vectors, self.keep_subwords = train_vectors, keep_subwords
        super().__init__(head, **kwargs)

    @property
    def only_pools(self) -> bool:
        """Tell whether the model takes no more of a text than its pooled vectors, which do not learn."""
        return self.head != "cnn" and not self.train_vectors


class CnnBody(nn.Module):
    """Convolutions over words and the maximum over time of each filter (Kim 2014, static channel)."""

    def __init__(self, config: Word2VecConfig) -> None:
        super().__init__()
        self.sizes = list(config.kernel_sizes)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.hidden_size, config.num_filters, size) for size in self.sizes
        )
        self.dropout = nn.Dropout(config.dropout)
        self.width = config.num_filters * len(self.sizes)

    def forward(self, vectors: Tensor, known: Tensor) -> Tensor:
        """Map (batch, words, dimensions) and (batch, words) to (batch, width).

        Filters are centered on known words; one of an even size spans one word more on the right.
        """
        batch, words, dimensions = vectors.shape
        span = max(self.sizes)
        padded = functional.pad(vectors, (0, 0, (span - 1) // 2, span // 2))
        # One copy of the widest windows serves all sizes, and products of them beat torch's own convolution.
        windows = padded.reshape(batch, -1).unfold(1, span * dimensions, dimensions).reshape(batch * words, -1)
        highest = []
        for size, (weight, bias) in zip(self.sizes, (c.parameters() for c in self.convolutions), strict=True):
            first = ((span - 1) // 2 - (size - 1) // 2) * dimensions
            window = windows[:, first : first + size * dimensions]
            # Transposing a kernel of one word would only give its gradient odd strides, of which DDP warns.
            kernel = weight.transpose(1, 2).flatten(1) if size > 1 else weight.squeeze(2)
            maps = functional.linear(window, kernel, bias).view(batch, words, -1)
            highest.append(maps.masked_fill(~known.unsqueeze(2), 0).amax(dim=1))
        return cast(Tensor, self.dropout(functional.relu(torch.cat(highest, dim=1))))


class Word2VecForSequenceClassification(PooledClassifier):
    """Word vectors, frozen unless ``config.train_vectors``, and a small classifier.

    Padding and words without a vector carry no weight: a text of unknown words is an empty text.
    """

    config_class = Word2VecConfig
    base_model_prefix = "vectors"
    config: Word2VecConfig
    vectors: nn.Embedding
    subwords: Subwords | None = None
    """what gives words outside the vocabulary a vector; saved beside the model, and used by its route alone"""
    body: CnnBody | PooledBody

    def __init__(self, config: Word2VecConfig) -> None:
        super().__init__(config)
        self.vectors = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.vectors.weight.requires_grad_(config.train_vectors)
        pooled = config.hidden_size * len(config.pooling)
        self.body = CnnBody(config) if config.head == "cnn" else PooledBody(config, pooled)
        self.classifier = PooledHead(self.body.width + config.num_ngrams, len(config.id2label or ()))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        # The layers' own initialization is right; the vectors come from a file.
        if isinstance(module, Standardize):
            nn.init.zeros_(module.mean)
            nn.init.ones_(module.scale)
        elif isinstance(module, (nn.Linear, nn.Conv1d, nn.Embedding)):
            module.reset_parameters()

    @classmethod
    def from_pretrained(
        cls, *args: Any, subwords: Subwords | None = None, ngrams: Ngrams | None = None, **kwargs: Any
    ) -> Any:
        """Load a saved model; frozen vectors stay frozen, where transformers would let all parameters learn.

        One with ``subwords`` or ``ngrams`` is refused without them: transformers alone has no vectors for words it does
        not know, and no n-grams.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.vectors.requires_grad_(model.config.train_vectors)
        model.subwords, model.ngrams = subwords, ngrams
        has_subwords, has_ngrams = subwords is not None, len(ngrams or ()) == model.config.num_ngrams
        for is_whole, what, short in (
            (has_subwords or not model.config.keep_subwords, "subword vectors (keep_subwords=True)", "subwords"),
            (has_ngrams, "n-grams (features=word2vec,ngrams)", "n-grams"),
        ):
            if not is_whole:
                raise RunFolderError(
                    f"{args[0]}: expected nlptransfer's Classifier.load, which reads this classifier's {what}, found "
                    f"transformers alone, or not the file of them: use that, or train it without {short}"
                )
        return loaded

    def get_input_embeddings(self) -> nn.Module:
        return self.vectors

    def hidden(
        self, input_ids: Tensor, attention_mask: Tensor, new_vectors: Tensor | None = None, **inputs: Any
    ) -> Tensor:
        if input_ids.shape[1] == 0:
            # A tokenizer gives texts without a word no places; one place of padding means the same.
            input_ids, attention_mask = (functional.pad(each, (0, 1)) for each in (input_ids, attention_mask))
        known = (input_ids >= RESERVED) & attention_mask.bool()
        vectors = self.vectors(input_ids)
        if new_vectors is not None:
            is_new = new_vectors.any(dim=2)
            vectors, known = torch.where(is_new.unsqueeze(2), new_vectors, vectors), known | is_new
        if self.config.head == "cnn":
            return cast(Tensor, self.body(vectors * known.unsqueeze(2), known))
        return cast(Tensor, self.body(pool(vectors, known, self.config.pooling)))


def make_tokenizer(words: Sequence[str], max_length: int = VERY_LARGE_INTEGER) -> PreTrainedTokenizerFast:
    """Return the fast tokenizer of a vocabulary, most frequent word first."""
    return PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(words),
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


AutoConfig.register("word2vec", Word2VecConfig, exist_ok=True)
AutoModelForSequenceClassification.register(Word2VecConfig, Word2VecForSequenceClassification, exist_ok=True)
