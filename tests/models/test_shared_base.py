"""Several classifiers on one base in memory: the same answers, and little more memory for each."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from helpers.classifiers import FIVE, TEXTS, changed
from helpers.encoders import base_of
from nlptransfer import Classifier, Lora, MixedClassifiers, Probe, SharedBase
from nlptransfer.data.labels import Labels
from nlptransfer.errors import BaseModelError
from nlptransfer.hub.base_models import BaseModel
from nlptransfer.models import shared_base

LABELS = [Labels(FIVE[1::2]), Labels(FIVE), Labels(FIVE[:3], multi_label=True)]


@pytest.fixture(scope="module", params=["bert", "deberta-v2", "distilbert", "llama", "xlnet"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_of(request.param, tmp_path_factory.mktemp("bases") / request.param)


@pytest.fixture(scope="module")
def folders(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("saved")
    route = Lora(max_length=12, rank=2)
    return [changed(route, base, labels).save_pretrained(root / str(number)) for number, labels in enumerate(LABELS)]


def stored(classifier: Classifier) -> dict[int, int]:
    """The bytes of each piece of memory that a model's tensors lie in."""
    tensors = chain(classifier.model.parameters(), classifier.model.buffers())
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}


def test_adapters_on_one_base_are_what_they_are_alone(base, folders, monkeypatch):
    loads = []
    real = shared_base.load_model
    monkeypatch.setattr(shared_base, "load_model", lambda *args, **named: loads.append(1) or real(*args, **named))
    shared = SharedBase(str(base.path))
    together = [Classifier.load(folder, base=shared) for folder in folders]
    assert len(loads) == 1
    alone = [Classifier.load(folder).logits(TEXTS) for folder in folders]
    # In turn, so that one would show if it changed another.
    for _ in range(2):
        for classifier, wanted, labels in zip(together, alone, LABELS, strict=True):
            np.testing.assert_allclose(classifier.logits(TEXTS), wanted, atol=1e-6)
            assert classifier.labels == labels
    with ThreadPoolExecutor(3) as pool:
        for found, wanted in zip(pool.map(lambda each: each.logits(TEXTS), together), alone, strict=True):
            # Threads share the choice of a library for products, which rounds in its own way.
            np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_in_one_batch_they_are_what_they_are_alone(base, folders):
    shared = SharedBase(str(base.path))
    together = {folder.name: Classifier.load(folder, base=shared) for folder in folders}
    mixed = MixedClassifiers(together)
    # Those of DeBERTa multiply distances, and those of XLNet see tokens first.
    assert [each is None for _, each in mixed._groups] == [base.id in ("deberta-v2", "xlnet")]
    found = mixed.logits(TEXTS * len(together), [name for name in together for _ in TEXTS], batch_size=3)
    wanted = [row for one in together.values() for row in one.logits(TEXTS, batch_size=1)]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_each_further_adapter_costs_its_own_weights(base, folders):
    shared = SharedBase(str(base.path))
    first, *further = [Classifier.load(folder, base=shared) for folder in folders]
    known = stored(first)
    for classifier, folder in zip(further, folders[1:], strict=True):
        own = sum(value.nbytes for value in load_file(folder / "adapter_model.safetensors").values())
        assert 0 < sum(size for place, size in stored(classifier).items() if place not in known) <= 1.2 * own
        known |= stored(classifier)


def test_saved_from_a_shared_base_it_is_the_same(base, folders, tmp_path):
    classifier = Classifier.load(folders[1], base=SharedBase(str(base.path)))
    again = classifier.save_pretrained(tmp_path / "again")
    np.testing.assert_allclose(Classifier.load(again).logits(TEXTS), classifier.logits(TEXTS), atol=1e-6)
    np.testing.assert_allclose(classifier.merge().logits(TEXTS), classifier.logits(TEXTS), atol=1e-4)


def test_probes_share_the_encoder(base, tmp_path):
    folders = [
        changed(Probe(max_length=12), base, labels).save_pretrained(tmp_path / str(number))
        for number, labels in enumerate(LABELS)
    ]
    shared = SharedBase(str(base.path))
    together = [Classifier.load(folder, base=shared) for folder in folders]
    assert len({id(each.model.encoder) for each in together}) == 1
    for classifier, folder in zip(together, folders, strict=True):
        np.testing.assert_allclose(classifier.logits(TEXTS), Classifier.load(folder).logits(TEXTS), atol=1e-6)


def test_another_base_is_refused(folders, tmp_path):
    other = base_of("roberta", tmp_path / "roberta")
    with pytest.raises(BaseModelError, match="expected the weights that the classifier was made with"):
        Classifier.load(folders[0], base=SharedBase(str(other.path)))
