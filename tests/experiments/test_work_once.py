"""In one finetune() a text is tokenized once, the base is loaded once, and the data is hashed once."""

from collections import Counter
from typing import Any

import pytest
from transformers import PreTrainedModel

from helpers.runs import finetune
from nlptransfer import load_data
from nlptransfer.data.dataset import Split
from nlptransfer.experiments.run import VERIFIED_TEXTS
from nlptransfer.models import tokens


@pytest.mark.parametrize("report", [False, True])
@pytest.mark.parametrize("route", ["lora", "probe"])
def test_work_is_done_once(route, report, bases, remarks_folder, tmp_path, monkeypatch):
    tokenized, loaded, hashed = Counter[str](), Counter[str](), Counter[int]()
    tokenize, load, fingerprint = tokens._tokenize, PreTrainedModel.from_pretrained.__func__, Split.fingerprint

    def tokenize_counted(texts: Any, *rest: Any) -> Any:
        tokenized.update(texts)
        return tokenize(texts, *rest)

    def load_counted(kind: Any, *given: Any, **options: Any) -> Any:
        loaded[kind.__name__] += 1
        return load(kind, *given, **options)

    def hash_counted(split: Split) -> Any:
        hashed[id(split)] += 1
        return fingerprint(split)

    monkeypatch.setattr(tokens, "_tokenize", tokenize_counted)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(load_counted))
    monkeypatch.setattr(Split, "fingerprint", hash_counted)
    call = {"route": route, "base": bases("bert").path, "num_train_epochs": 1, "report": report}
    finetune(remarks_folder, output_dir=tmp_path / "run", **call).classifier.predict(["wordaa"])

    data = load_data(remarks_folder)
    # The first training texts are predicted again, by what was saved too; test texts, to measure the speed.
    once = [*data.train.texts[VERIFIED_TEXTS:], *data.validation.texts, *data.calibration.texts]
    assert {tokenized[text] for text in once} == {1}
    assert sum(loaded.values()) == 2, loaded
    assert set(hashed.values()) == {1} and len(hashed) == 4
