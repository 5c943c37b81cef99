"""Several classifiers, each for texts of its own. Does not know how rows go through a model together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nlptransfer.classifier.classifier import Classifier
from nlptransfer.classifier.prediction import Prediction
from nlptransfer.data import normalize
from nlptransfer.errors import DataError, SettingError, nearest
from nlptransfer.models import MixedAdapters, joined_rows, mixed_adapters, shared_weights
from nlptransfer.settings import Count, check, check_arguments


class MixedClassifiers:
    """Classifiers by name, for texts that go to one of them each.

    Adapters that were loaded with one ``SharedBase`` go through it together, in the same batches; all others, and
    adapters of a base that does not keep rows apart, one after the other. Each gives the logits that it gives alone.
    """

    def __init__(self, classifiers: Mapping[str, Classifier]) -> None:
        self.classifiers = dict(classifiers)
        by_base = dict[object, list[str]]()
        for name, classifier in self.classifiers.items():
            by_base.setdefault(shared_weights(classifier.model) or name, []).append(name)
        self._groups = [(names, self._mixed(names)) for names in by_base.values()]

    def logits(self, texts: Sequence[str], names: Sequence[str], batch_size: Count | None = None) -> list[np.ndarray]:
        """Return the logits of each text, (labels of its classifier,) float32, in the order of the texts.

        Raises:
            DataError: not one name for each text.
            SettingError: a name that no classifier has.
        """
        found = dict[int, np.ndarray]()
        for _, places, logits in self._computed(texts, names, batch_size):
            found |= zip(places, logits, strict=True)
        return [found[place] for place in range(len(texts))]

    def predict(
        self,
        texts: Sequence[str],
        names: Sequence[str],
        *,
        min_confidence: float = 0.0,
        batch_size: Count | None = None,
    ) -> list[Prediction]:
        """Predict each text by the classifier of its name, in the order of the texts; see ``Classifier.predict``."""
        check(0 <= min_confidence <= 1, "min_confidence", min_confidence, "a probability from 0 to 1")
        found = dict[int, Prediction]()
        for classifier, places, logits in self._computed(texts, names, batch_size):
            some = classifier._of_logits([texts[place] for place in places], logits, min_confidence)
            found |= zip(places, some, strict=True)
        return [found[place] for place in range(len(texts))]

    def _mixed(self, names: Sequence[str]) -> MixedAdapters | None:
        some: list[Any] = [self.classifiers[name] for name in names]
        if len(some) == 1:
            return None
        return mixed_adapters([each.model for each in some], _rows_of(some[0], ["a b c d e f g"]))

    def _computed(
        self, texts: Sequence[str], names: Sequence[str], batch_size: Count | None
    ) -> Iterator[tuple[Classifier, list[int], np.ndarray]]:
        """Yield classifiers that are named, each with the places of its texts and their logits."""
        check_arguments(MixedClassifiers._computed, batch_size=batch_size)
        if isinstance(texts, str) or isinstance(names, str) or len(texts) != len(names):
            raise DataError("expected a list of texts, and a list of as many names of classifiers, found others")
        places = dict[str, list[int]]()
        for place, name in enumerate(names):
            if name not in self.classifiers:
                raise SettingError(f"unknown classifier {name!r}: {nearest(name, self.classifiers)}")
            places.setdefault(name, []).append(place)
        for group, mixed in self._groups:
            used = [name for name in group if name in places]
            some = [self.classifiers[name] for name in used]
            own = [[texts[place] for place in places[name]] for name in used]
            if mixed is None or len(used) < 2:
                logits = [each.logits(part, batch_size=batch_size) for each, part in zip(some, own, strict=True)]
            else:
                rows, counts = joined_rows([*map(_rows_of, some, own)]), [*map(len, own)]
                together = mixed.logits(rows, np.repeat([*map(group.index, used)], counts), batch_size)
                logits = np.split(together, np.cumsum(counts)[:-1])
            for classifier, name, part in zip(some, used, logits, strict=True):
                yield classifier, places[name], part[:, : classifier.labels.num_labels]


def _rows_of(classifier: Classifier, texts: Sequence[str]) -> Any:
    normal = normalize(classifier.normalization, texts)
    return classifier.route.rows(classifier.model, classifier.tokenizer, normal)
