"""TextClassifier and TextFeatures: scikit-learn's interface to finetune() and to frozen encoders.

This file does not know how a classifier is trained, nor how features are computed.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from nlptransfer.classifier import Classifier
from nlptransfer.data import Data, Labels, Split, read_texts
from nlptransfer.errors import DataError
from nlptransfer.evaluation import predicted
from nlptransfer.experiments.finetuning import finetune
from nlptransfer.experiments.ranking import frozen_route
from nlptransfer.hub import base_for
from nlptransfer.models import FeatureRows, announce, without_capture
from nlptransfer.routes import Built, Route
from nlptransfer.transfer import Transfer

QUIET = {"progress": False}
"""Settings that are other ones by default than in finetune: many fits may follow one another."""


class _Settings(BaseEstimator):
    """An estimator that has settings besides its arguments, as parameters like these."""

    settings: dict[str, Any]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments and the settings that were named."""
        return {**super().get_params(deep), **self.settings}

    def set_params(self, **params: Any) -> Self:
        """Set arguments and settings by name; a setting that there is not is a SettingError when it is fitted."""
        arguments = super().get_params(deep=False)
        for name, value in params.items():
            if name in arguments:
                setattr(self, name, value)
            else:
                self.settings[name] = value
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags


class TextClassifier(ClassifierMixin, _Settings):
    """A classifier of texts as scikit-learn has them: fit, predict, predict_proba, score, classes_.

    It is :func:`finetune` without a folder and without test rows: a part of the rows is held out to choose by, unless
    ``validation_size`` and the rest of ``settings`` say otherwise. ``classifier_`` is the Classifier, which can be
    saved and pushed.

    Args:
        route, base, revision, source, unlabeled, transfer: as :func:`finetune` has them.
        **settings: as :func:`finetune` has them; each is a parameter, as a grid search varies it.
    """

    classes_: np.ndarray
    """(classes,) the labels in the order of predict_proba; of several labels a row the numbers of their columns"""
    classifier_: Classifier

    def __init__(
        self,
        route: str | Route | None = None,
        base: str | Path | None = None,
        revision: str | None = None,
        source: Any = None,
        unlabeled: Any = None,
        transfer: str | Transfer | None = None,
        **settings: Any,
    ) -> None:
        self.route, self.base, self.revision = route, base, revision
        self.source, self.unlabeled, self.transfer = source, unlabeled, transfer
        self.settings = settings

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on texts, a list, an array or a Series of n strings, and their labels.

        ``y`` is (n,), or (n, labels) of 0 and 1 with several labels a row, else a ValueError; ``sample_weight`` (n,) is
        from 0.
        """
        texts, targets = [*read_texts(X)], np.asarray(y)
        check_classification_targets(targets)
        several = targets.ndim == 2
        self.classes_ = np.arange(targets.shape[1]) if several else np.unique(targets)
        names = [str(label) for label in self.classes_.tolist()]
        rows: dict[str, Any] = {"text": texts, "label": _written(targets, names, self.classes_)}
        settings = {**QUIET, "test_size": 0.0, **self.settings}
        if sample_weight is not None:
            rows["weight"] = np.asarray(sample_weight, dtype=np.float64).tolist()
            settings["weight_column"] = "weight"
        arguments = super(_Settings, self).get_params(deep=False)
        with tempfile.TemporaryDirectory(prefix="nlptransfer-") as folder:
            run = finetune(
                rows, output_dir=Path(folder) / "run", report=False, save_model=False, **arguments, **settings
            )
            self.classifier_ = run.classifier
        read = self.classifier_.labels
        # True may have been read as true.
        known = [read.known(name) for name in names]
        if None in known:
            raise DataError(
                f"y: expected {names[known.index(None)]!r} in the rows to learn from, found it in none of them"
            )
        self._places = [read.label2id[cast(str, name)] for name in known]
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return (n, classes) probabilities: rows sum to 1, or each is by itself with several labels a row."""
        check_is_fitted(self)
        return self.classifier_.probabilities([*read_texts(X)])[:, self._places]

    def predict(self, X: Any) -> np.ndarray:
        """Return the labels, (n,) as in ``y``, or (n, labels) of 0 and 1."""
        probabilities, classifier = self.predict_proba(X), self.classifier_
        if not classifier.labels.multi_label:
            return cast(np.ndarray, self.classes_[probabilities.argmax(axis=1)])
        limits = None if classifier.thresholds is None else np.array(classifier.thresholds)[self._places]
        return predicted(probabilities, classifier.labels, limits)


class TextFeatures(TransformerMixin, _Settings):
    """Features of texts by a frozen encoder, (n, width) float32, all of its layers side by side.

    They are computed once for each text, and kept in the cache. In a ColumnTransformer it takes one column by its name.

    Args:
        base, revision: as :func:`finetune` has them.
        **settings: max_length, long_text, pooling and prompt of the route probe.
    """

    def __init__(self, base: str | Path | None = None, revision: str | None = None, **settings: Any) -> None:
        self.base, self.revision, self.settings = base, revision, settings

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "_built" in state:
            state = {**state, "_built": replace(self._built, model=without_capture(self._built.model))}
        return cast(dict[str, Any], state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_built" in state:
            announce(self._built.model)

    def fit(self, X: Any, y: Any = None) -> Self:
        """Open the encoder; of the texts only whether it knows them is looked at."""
        # The route builds a head too, which nobody uses.
        texts, labels = [*read_texts(X)], Labels(("no", "yes"))
        none, some = Split([], labels.encode([])), Split(texts, np.zeros(len(texts), np.int64))
        self._route = frozen_route(self.settings)
        base = base_for(None if self.base is None else str(self.base), self.revision, [texts])
        self._built: Built = self._route.build(Data("texts", labels, some, none, none, none), base, self.revision, 0)
        self.n_features_out_ = self._features(texts[:1]).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the features of texts, (n, width) float32."""
        check_is_fitted(self, "_built")
        return self._features([*read_texts(X)])

    def _features(self, texts: list[str]) -> np.ndarray:
        rows = self._route.rows(self._built.model, self._built.tokenizer, texts, share=True)
        return cast(FeatureRows, rows).features.astype(np.float32)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return a name for each feature."""
        return np.array([f"feature_{number}" for number in range(self.n_features_out_)], dtype=object)


def _written(targets: np.ndarray, names: Sequence[str], classes: np.ndarray) -> list[Any]:
    """Write labels as names: one a row, or a list of those whose column is not 0."""
    if targets.ndim == 2:
        return [[names[column] for column in np.flatnonzero(row).tolist()] for row in targets]
    return [names[place] for place in np.searchsorted(classes, targets).tolist()]
