"""A route: word vectors that are learned from the data alone, and a linear layer on their mean."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from nlptransfer.data import Data
from nlptransfer.hub import CardSection
from nlptransfer.models import Rows, encode
from nlptransfer.routes import Built, Route
from nlptransfer.settings import Count

PAD, UNKNOWN = "[PAD]", "[UNK]"


class WordBagConfig(PreTrainedConfig):
    """Shape of a WordBagForSequenceClassification."""

    model_type = "word_bag"

    def __init__(self, vocab_size: int = 100, hidden_size: int = 16, pad_token_id: int = 0, **more: Any) -> None:
        self.vocab_size, self.hidden_size, self.pad_token_id = vocab_size, hidden_size, pad_token_id
        super().__init__(**more)


class WordBagForSequenceClassification(PreTrainedModel):
    """The mean of a text's word vectors, and a linear layer."""

    config_class = WordBagConfig
    base_model_prefix = "vectors"

    def __init__(self, config: WordBagConfig) -> None:
        super().__init__(config)
        self.vectors = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        mask = attention_mask.unsqueeze(2).to(self.dtype)
        mean = (self.vectors(input_ids) * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        logits = self.classifier(mean)
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        states = (mean,) if output_hidden_states else None
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=states)


AutoConfig.register("word_bag", WordBagConfig, exist_ok=True)
AutoModelForSequenceClassification.register(WordBagConfig, WordBagForSequenceClassification, exist_ok=True)


@dataclass(frozen=True)
class WordBag(Route):
    """Word vectors that are learned from the data alone."""

    name: ClassVar[str] = "word-bag"
    opened_by: ClassVar[str] = "transformers after import outside_package.route"

    bag_width: Count = 16
    """numbers of a word vector"""

    def build(self, data: Data, base: str | None, revision: str | None, seed: int, extra: Sequence[str] = ()) -> Built:
        counts = Counter(word for text in [*data.train.texts, *extra] for word in text.split())
        words = {word: number for number, word in enumerate([PAD, UNKNOWN, *sorted(counts)])}
        splitter = Tokenizer(WordLevel(words, UNKNOWN))
        splitter.pre_tokenizer = Whitespace()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=splitter, pad_token=PAD, unk_token=UNKNOWN, model_max_length=64
        )
        torch.manual_seed(seed)
        labels = {"id2label": data.labels.id2label, "label2id": data.labels.label2id}
        config = WordBagConfig(len(words), self.bag_width, problem_type=data.labels.problem_type, **labels)
        return Built(WordBagForSequenceClassification(config), tokenizer, {})

    def rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, share: bool = False
    ) -> Rows:
        return encode(texts, tokenizer, tokenizer.model_max_length, self.long_text)

    def head(self, model: PreTrainedModel) -> nn.Linear:
        assert isinstance(model, WordBagForSequenceClassification)
        return model.classifier

    def defaults(self, data: Data) -> dict[str, Any]:
        return {"num_train_epochs": 10, "learning_rate": 0.05, "per_device_train_batch_size": 8}

    def card_section(self, record: Mapping[str, Any], repo_id: str) -> CardSection:
        return CardSection(f"Vectors of {self.bag_width} numbers were learned for the words of the training texts.")
