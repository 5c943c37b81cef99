"""Classifiers in other threads, copied, pickled, and in processes that are forked or spawned: equal logits."""

import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from copy import deepcopy
from threading import Barrier

import numpy as np
import pytest

from helpers.classifiers import LABELS, TEXTS, changed, write_vectors
from helpers.encoders import base_of
from helpers.other_processes import spawned
from nlptransfer import Classifier, Full, Lora, Probe, SharedBase, Word2Vec
from nlptransfer.errors import RunFolderError

KINDS = ("word2vec", "full", "lora", "lora on a shared base", "probe", "onnx")
TEXTS_OF = {kind: TEXTS * 500 if kind in ("word2vec", "onnx") else TEXTS for kind in KINDS}
"""So many where a model is quick that torch computes by several threads, where it has them."""


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory) -> dict[str, Classifier]:
    root = tmp_path_factory.mktemp("copies")
    base, vectors = base_of("bert", root / "bert"), write_vectors(root / "vectors.txt")
    words = changed(Word2Vec(head_type="linear"), vectors, LABELS)
    adapter = changed(Lora(max_length=12, rank=2), base, LABELS)
    found = {
        "word2vec": words,
        "full": changed(Full(max_length=6, long_text="windows"), base, LABELS),
        "lora": adapter,
        "lora on a shared base": Classifier.load(
            adapter.save_pretrained(root / "adapter"), base=SharedBase(str(base.path))
        ),
        "probe": changed(Probe(max_length=12, features=("encoder", "ngrams")), base, LABELS),
        "onnx": words.export_onnx(root / "onnx"),
    }
    # transformers leaves hooks on the layers of what was asked for its hidden states, as a probe is.
    assert not any(classifier.model.training for classifier in found.values())
    return found


@pytest.fixture(scope="module")
def logits(classifiers) -> dict[str, np.ndarray]:
    return {name: classifier.logits(TEXTS) for name, classifier in classifiers.items()}


@pytest.fixture(scope="module")
def elsewhere(classifiers) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Logits from a spawned process with two threads, and from one that it forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(spawned, classifiers, TEXTS_OF).result(timeout=120)


@pytest.mark.parametrize("kind", KINDS)
def test_pickled(kind, classifiers, logits):
    again = pickle.loads(pickle.dumps(classifiers[kind]))
    np.testing.assert_array_equal(again.logits(TEXTS), logits[kind])
    # And the one that was pickled stayed as it was, and can be once more after it has predicted.
    np.testing.assert_array_equal(classifiers[kind].logits(TEXTS), logits[kind])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again)).logits(TEXTS), logits[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_deepcopied(kind, classifiers, logits):
    again = deepcopy(classifiers[kind])
    np.testing.assert_array_equal(again.logits(TEXTS), logits[kind])
    pointers = [{each.data_ptr() for each in of.model.parameters()} for of in (again, classifiers[kind])]
    assert kind == "onnx" or not pointers[0] & pointers[1]


@pytest.mark.parametrize("kind", KINDS)
def test_spawned(kind, elsewhere, classifiers):
    np.testing.assert_allclose(elsewhere[0][kind], classifiers[kind].logits(TEXTS_OF[kind]), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_forked_after_it_has_computed_by_several_threads(kind, elsewhere, classifiers):
    np.testing.assert_allclose(elsewhere[1][kind], classifiers[kind].logits(TEXTS_OF[kind]), atol=1e-5)


def in_threads(classifier: Classifier, texts: list[str]) -> Iterator[np.ndarray]:
    """What eight threads compute at once, three times each."""
    barrier = Barrier(8)

    def compute(_: int) -> list[np.ndarray]:
        barrier.wait(timeout=60)
        return [classifier.logits(texts) for _ in range(3)]

    with ThreadPoolExecutor(8) as pool:
        for some in pool.map(compute, range(8)):
            yield from some


@pytest.mark.parametrize("kind", KINDS)
def test_eight_threads_at_once(kind, classifiers, logits):
    # As nobody has called it yet: what is done at the first call is done once.
    for found in in_threads(pickle.loads(pickle.dumps(classifiers[kind])), TEXTS):
        # Threads share the choice of a library for products, which rounds in its own way.
        np.testing.assert_allclose(found, logits[kind], atol=2e-5)


def test_threads_do_not_meet_in_the_settings_of_a_tokenizer(classifiers):
    classifier, texts = deepcopy(classifiers["full"]), TEXTS[3:4] * 60
    wanted = classifier.logits(texts)
    backend = classifier.tokenizer.backend_tokenizer
    backend.enable_truncation(4)
    backend.enable_padding(length=40)
    before = backend.truncation, backend.padding
    for found in in_threads(classifier, texts):
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert (backend.truncation, backend.padding) == before


def test_a_graph_that_is_not_where_it_was_cannot_be_copied(classifiers, tmp_path):
    moved = Classifier.load(classifiers["onnx"].save_pretrained(tmp_path / "onnx"))
    pickled, graph = pickle.dumps(moved), tmp_path / "onnx" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b" ")
    for copy, found in ((lambda: pickle.loads(pickled), "another"), (lambda: deepcopy(moved), "another")):
        with pytest.raises(RunFolderError, match=f"the classifier that was copied or pickled, found {found}"):
            copy()
    graph.unlink()
    with pytest.raises(RunFolderError, match=r"model\.onnx: expected the graph of .*, found none: load the"):
        pickle.loads(pickled)
