"""Make the model card of a classifier, its README.md, out of plain facts. The words are in templates/model_card.md.

Does not know routes, nor files. Label names, names of data and texts are users': they are escaped where written.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Template
from markupsafe import Markup

from nlptransfer.files import is_there, templates
from nlptransfer.hub.client import is_hub_id
from nlptransfer.hub.packaged import find_packaged
from nlptransfer.settings import check

TASK = "text-classification"
BASELINES = {
    "majority": "always the most frequent label",
    "tfidf": "TF-IDF of words with a linear classifier",
}
"""What baselines do, by their names."""
WIDGETS = 5
"""Labels of which the hub's page shows an example text."""
_FIRST = ["language", "license", "library_name", "pipeline_tag", "tags", "base_model", "base_model_relation"]
# Licenses and languages are checked by their form alone: the hub's lists grow.
_LICENSE = r"[a-z0-9]+(?:[.+-][a-z0-9]+)*"
_LANGUAGE = r"[a-z]{2,3}|multilingual|code"
# Ends of lines for some parser, signs that turn the direction of a line, and halves of characters.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# As entities, which mean nothing in tables, HTML or formulas. A backslash keeps the common underscore readable.
_ENTITIES = str.maketrans({sign: f"&#{ord(sign)};" for sign in "\\`*[]{}|<>&$~#!@:"} | {"_": "\\_"})


@dataclass(frozen=True)
class CardSection:
    """What a model card says of how a classifier learned, is saved and is opened, in markdown."""

    training: str
    library_name: str = "nlptransfer"
    relation: str | None = None
    """to its base, in the hub's words: finetune, adapter, quantized ("merge" is of several)"""
    loading_code: str = ""
    """Python that takes the string ``text`` and ends with ``probabilities``, {label name: float}"""
    loading_needs: str = "Without nlptransfer, in plain transformers"
    loading_note: str = ""
    has_steps: bool = True
    """whether it was trained, and not fitted"""
    unit: str = "tokens"
    """what ``max_length`` counts"""
    unknown: str = "languages that its base has not read"
    """what means nothing to it"""
    holds_words: bool = False
    """whether words of the training texts lie among the files"""


@dataclass(frozen=True)
class CardFacts:
    """All that a model card says."""

    repo_id: str
    record: Mapping[str, Any]
    """the classifier's nlptransfer.json"""
    section: CardSection
    long_text: str = "truncate"
    license: str | None = None
    language: Sequence[str] = ()
    datasets: Sequence[str] = ()
    examples: Sequence[str] = ()
    """texts to show; none of the data's texts is shown unless it is given here"""

    def check(self) -> None:
        """Raise a SettingError for a repo_id, license, language or data set that the hub cannot know."""
        check(is_hub_id(self.repo_id), "repo_id", self.repo_id, "a name on the hub, owner/name")
        known = self.license is None or bool(re.fullmatch(_LICENSE, self.license))
        check(known, "license", self.license, "the hub's id of a license, as apache-2.0, cc-by-4.0 or other")
        for name in ("language", "datasets", "examples"):
            check(not isinstance(getattr(self, name), str), name, getattr(self, name), "a list of strings, not one")
        for code in self.language:
            check(bool(re.fullmatch(_LANGUAGE, code)), "language", code, "an ISO 639 code, as en, or multilingual")
        for name in self.datasets:
            known = name.count("/") == 1 and is_hub_id(name) and not is_there(name)
            check(known, "datasets", name, "the hub id of a data set, owner/name, and no path of this machine")

    @property
    def route(self) -> str:
        """The route; of what was exported, the one that it was exported from."""
        return str(self.record.get("learned", self.record)["route"])

    @property
    def base(self) -> dict[str, Any]:
        """Name, revision, kind, ... of what it was trained on."""
        return dict(self.record.get("base", {}))

    @property
    def results(self) -> dict[str, Any]:
        """How a run made it, and its scores."""
        return dict(self.record.get("results", {}))

    @property
    def scores(self) -> list["_Score"]:
        """The scores of the test split that there are, the one that choices are made by first."""
        scores, test = [], self.results.get("test") or {}
        judged, labels = test.get("labels_judged"), len(self.record["labels"])
        for key, name, metric, average in _MULTI_LABEL if self.record["multi_label"] else _SINGLE_LABEL:
            interval = test.get(f"{key}_interval") or [None]
            if average == "macro" and judged is not None and judged < labels:
                name += f", {judged} of {labels} labels"
            if test.get(key) is not None:
                scores.append(_Score(name, metric, average, test[key], None if None in interval else interval))
        return scores

    @property
    def baselines(self) -> list["_Score"]:
        """The first of these scores that baselines have on the same rows."""
        key, name, *_ = (_MULTI_LABEL if self.record["multi_label"] else _SINGLE_LABEL)[0]
        return [
            _Score(f"{name}, baseline: {BASELINES.get(one, one)}", None, None, found["scores"][key], interval)
            for one, found in (self.results.get("baselines") or {}).items()
            if found["scores"].get(key) is not None
            for interval in [found["scores"].get(f"{key}_interval")]
        ]


class _Score(NamedTuple):
    """One score of the test split, the hub's name of its metric, and the average over labels that it takes."""

    name: str
    metric: str | None
    average: str | None
    value: float
    interval: list[float] | None


# Key in metrics.json, name on the card, metric of the hub, average over labels.
_SINGLE_LABEL = (
    ("accuracy", "accuracy", "accuracy", None),
    ("f1_macro", "macro F1", "f1", "macro"),
    ("precision_macro", "macro precision", "precision", "macro"),
    ("recall_macro", "macro recall", "recall", "macro"),
    ("mcc", "Matthews correlation", "matthews_correlation", None),
    ("mae", "mean absolute error", "mae", None),
    ("quadratic_kappa", "quadratic kappa", None, None),
    ("loss", "loss", None, None),
)
_MULTI_LABEL = (
    ("f1_micro", "micro F1", "f1", "micro"),
    ("f1_macro", "macro F1", "f1", "macro"),
    ("accuracy", "all labels right", "accuracy", None),
    ("lrap", "label ranking average precision", None, None),
    ("loss", "loss", None, None),
)


def model_card(facts: CardFacts) -> str:
    """Return the README.md of a saved classifier: what the hub reads, in YAML, and then what people read."""
    facts.check()
    body = _template().render(
        facts=facts,
        record=facts.record,
        results=facts.results,
        section=facts.section,
        base_name=base_name(facts.base),
        loading_code=_fenced(facts.section.loading_code, "python"),
    )
    return f"---\n{_metadata(facts).to_yaml(original_order=_FIRST)}\n---\n\n{body.strip()}\n"


def pipeline_code(record: Mapping[str, Any], repo_id: str, imports: str = "") -> str:
    """Return the Python by which transformers' pipeline opens a saved classifier, by its nlptransfer.json."""
    function = "sigmoid" if record["multi_label"] else "softmax"
    return f"""\
from transformers import pipeline
{imports}
classify = pipeline("{TASK}", model={quoted(repo_id)})
found = classify(text, truncation=True, top_k=None, function_to_apply="{function}")
probabilities = {{label["label"]: label["score"] for label in found}}"""


def base_name(base: Mapping[str, Any]) -> Markup:
    """Return what a card calls a base, in markdown, by its entry in the record."""
    if not base.get("name"):
        return Markup("a base that the record does not name")
    name = markdown(base["name"])
    if base.get("keep_layers"):
        name = Markup("layers 1 to {} of {}").format(base["keep_layers"], name)
    if base.get("revision"):
        return Markup("{} (commit `{}`)").format(name, base["revision"])
    if base.get("kind") == "vectors":
        license = base.get("license")
        return Markup("{}, license {}").format(name, markdown(license)) if license else name
    weights = Markup(" (weights of sha256 `{}`)").format(base["sha256"]) if base.get("sha256") else ""
    return Markup("{}, a local folder{}").format(name, weights)


def _metadata(facts: CardFacts) -> ModelCardData:
    # Without a commit it was a file or a folder of some machine, which the hub knows nothing of.
    base_model = facts.base.get("name") if facts.base.get("revision") else None
    packaged = find_packaged(base_model) if base_model else None
    relation = facts.section.relation
    if packaged is not None and packaged.quantized_from is not None:
        # The hub knows the model whose weights it has in fewer bits.
        base_model, relation = packaged.quantized_from, "quantized"
    scores = [score for score in facts.scores if score.metric is not None]
    return ModelCardData(
        language=list(facts.language) or None,
        license=facts.license,
        library_name=facts.section.library_name,
        pipeline_tag=TASK,
        tags=["nlptransfer", facts.route, TASK, *["onnx"] * ("format" in facts.record)],
        base_model=base_model,
        # Of vectors that are distilled from a base, the hub has no word.
        base_model_relation=relation if base_model and facts.base.get("kind") != "distilled" else None,
        datasets=list(facts.datasets) or None,
        metrics=list(dict.fromkeys(score.metric or "" for score in scores)) or None,
        # A name without results would be written by itself.
        model_name=facts.repo_id.rpartition("/")[2] if scores else None,
        eval_results=[_eval_result(facts, score) for score in scores] or None,
        widget=[{"text": f"This is {_one_line(label)}."} for label in facts.record["labels"][:WIDGETS]],
    )


def _eval_result(facts: CardFacts, score: _Score) -> EvalResult:
    # The hub's form has no place for an interval but the name.
    interval = f" (95% interval {score.interval[0]:.3f} to {score.interval[1]:.3f})" if score.interval else ""
    return EvalResult(
        task_type=TASK,
        # With several data sets it is not known which the test rows are from.
        dataset_type=facts.datasets[0] if len(facts.datasets) == 1 else "unknown",
        dataset_name=_one_line(str(facts.results.get("data") or "test rows")),
        dataset_split="test",
        metric_type=score.metric or "",
        metric_value=float(score.value),
        metric_name=score.name + interval,
        metric_args={"average": score.average} if score.average else None,
    )


@cache
def _template() -> Template:
    filters = {
        "md": markdown,
        "fenced": lambda command: _fenced(_one_line(command), ""),
        "count": lambda number: f"{number:,}",
        "score": lambda number: "" if number is None else f"{number:.3f}",
    }
    return templates(filters).get_template("model_card.md")


def markdown(text: str) -> Markup:
    """Return text of a user as markdown that shows it on one line, in a table too."""
    return Markup(_one_line(str(text)).translate(_ENTITIES))


def _one_line(text: str) -> str:
    return _CONTROL.sub(" ", text)


def _fenced(code: str, language: str) -> Markup:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return Markup(f"{fence}{language}\n{code}\n{fence}")


def quoted(text: str) -> str:
    """Return Python that is a string, in double quotes."""
    return json.dumps(_one_line(text), ensure_ascii=False)
