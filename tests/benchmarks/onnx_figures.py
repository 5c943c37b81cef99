"""The figures of classifiers in ONNX beside the same ones in torch; each is one function, as in figures.py."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from figures import Places, Row, alternate

PREDICTED = {"trec6": 500, "amazon_books": 96}
"""Test texts that are classified, short ones and long ones."""
FORMS = {"ONNX, float32": False, "ONNX, int8": True}
"""Whether each has weights in 8 bits."""
TRAINED = 2_000
ROUNDS = 3


def onnx(places: Places) -> list[Row]:
    """Prediction in ONNX: text in, label out"""
    _stay_on_cpu()
    from nlptransfer import Classifier
    from nlptransfer.routes.full import Full
    from nlptransfer.routes.word2vec import Word2Vec

    rows = []
    for name, count in PREDICTED.items():
        texts = places.texts("test", name)[0][:count]
        data = _loaded(places, name)
        routes = {"Full": (Full(), None, 1), "Word2Vec, cnn": (Word2Vec(), str(places.word_vectors()), 10)}
        for kind, (route, base, times) in routes.items():
            # What the weights are does not matter to the time: nothing is trained.
            built = route.build(data, base, None, seed=0)
            live = Classifier(route, built.model.eval(), built.tokenizer, data.labels)
            repeated = texts * times
            speed = _speed(live, repeated)
            rows += [
                Row(
                    f"{form}: Classifier.predict, {kind}, {name}, {len(repeated):,} texts",
                    speed[form],
                    "texts/s",
                    "the same in torch",
                    speed["torch"],
                )
                for form in FORMS
            ]
    return rows


def int8(places: Places) -> list[Row]:
    """Accuracy in 8 bits: sst2, Full trained on 2,000 rows"""
    _stay_on_cpu()
    from nlptransfer import finetune

    test = places.texts("test", "sst2")
    with TemporaryDirectory() as folder:
        train = places.texts("train", "sst2")
        run = finetune(
            train,
            route="full",
            max_train_rows=TRAINED,
            num_train_epochs=2,
            test_size=0,
            output_dir=f"{folder}/run",
            progress=False,
        )
        found = {"torch": run.classifier.evaluate(test)["accuracy"]}
        for form, in_8_bits in FORMS.items():
            exported = run.classifier.export_onnx(f"{folder}/{in_8_bits}", int8=in_8_bits)
            found[form] = exported.evaluate(test)["accuracy"]
    return [Row("torch", 100 * found["torch"], "%")] + [
        row
        for form in FORMS
        for row in (
            Row(form, 100 * found[form], "%"),
            Row(f"{form}: less than in torch", 100 * max(0.0, found["torch"] - found[form]), "points", most=0.5),
        )
    ]


def _speed(live: Any, texts: list[str]) -> dict[str, float]:
    """Texts a second, in torch and in each form of ONNX, in turns."""
    calls: dict[str, Callable[[], Any]] = {"torch": partial(live.predict, texts)}
    with TemporaryDirectory() as folder:
        for form, in_8_bits in FORMS.items():
            exported = live.export_onnx(Path(folder) / str(in_8_bits), int8=in_8_bits)
            calls[form] = partial(exported.predict, texts)
        return {form: len(texts) / spent for form, spent in alternate(calls, ROUNDS).items()}


def _loaded(places: Places, name: str) -> Any:
    from nlptransfer import load_data
    from nlptransfer.data.dataset import DataSettings

    return load_data(places.texts("train", name), DataSettings(test_size=0, calibration_size=0))


def _stay_on_cpu() -> None:
    # onnxruntime does, as it is installed by default.
    os.environ["ACCELERATE_USE_CPU"] = "1"


FIGURES: dict[str, Callable[[Places], list[Row]]] = {figure.__name__: figure for figure in (onnx, int8)}
"""The figures by name; the first line of a docstring is the heading."""
