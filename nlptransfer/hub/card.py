"""The model card of a saved classifier: its README.md, made from its record. The words are in templates/model_card.md.

Label names, names of data and texts come from users: they are escaped wherever they are written.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment
from markupsafe import Markup

from nlptransfer.files import templates
from nlptransfer.hub.client import is_hub_id
from nlptransfer.settings import check

TASK = "text-classification"
WIDGETS = 5
"""Labels of which the hub's page shows an example text."""
_FIRST = ["language", "license", "library_name", "pipeline_tag", "tags", "base_model", "base_model_relation"]
# Those of licenses and languages are shapes alone: the hub's lists grow.
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
    """how it learned"""
    library_name: str = "nlptransfer"
    """what opens it, in the hub's words"""
    relation: str | None = None
    """to its base, in the hub's words: finetune, adapter, quantized ("merge" is of several)"""
    loading_code: str = ""
    """Python that takes the string ``text`` and ends with ``probabilities``, {label name: float}"""
    loading_needs: str = "Without nlptransfer, in plain transformers"
    """what that needs"""
    loading_note: str = ""
    has_steps: bool = True
    """whether it was trained, and not fitted"""
    unit: str = "tokens"
    """what ``max_length`` counts"""
    unknown: str = "languages that its base has not read"
    """what means nothing to it"""
    holds_words: bool = False
    """whether words of the training texts lie among the files"""


class _Score(NamedTuple):
    """One score of the test split."""

    name: str
    metric: str | None
    """its name on the hub; None where the hub has none"""
    arguments: dict[str, Any] | None
    value: float
    interval: list[float] | None


_AVERAGES = {kind: {"average": kind} for kind in ("micro", "macro")}
# Key in metrics.json, name, the hub's name, and what that one's compute() takes.
_SINGLE_LABEL = (
    ("accuracy", "accuracy", "accuracy", None),
    ("f1_macro", "F1 (macro)", "f1", _AVERAGES["macro"]),
    ("precision_macro", "precision (macro)", "precision", _AVERAGES["macro"]),
    ("recall_macro", "recall (macro)", "recall", _AVERAGES["macro"]),
    ("mcc", "Matthews correlation", "matthews_correlation", None),
    ("loss", "loss", None, None),
)
_MULTI_LABEL = (
    ("f1_micro", "F1 (micro)", "f1", _AVERAGES["micro"]),
    ("f1_macro", "F1 (macro)", "f1", _AVERAGES["macro"]),
    ("accuracy", "all labels right", "accuracy", None),
    ("lrap", "label ranking average precision", None, None),
    ("loss", "loss", None, None),
)


def model_card(
    record: Mapping[str, Any],
    repo_id: str,
    section: CardSection,
    *,
    license: str | None = None,
    language: Sequence[str] = (),
    datasets: Sequence[str] = (),
    examples: Sequence[str] = (),
) -> str:
    """The README.md of a saved classifier: what the hub reads, in YAML, and then what people read.

    Args:
        record: what the classifier's nlptransfer.json holds.
        repo_id: where it is to be had on the hub, owner/name.
        section: what the format that it is saved in says of it.
        license: the hub's id of a license, as apache-2.0.
        language: ISO 639 codes of the languages that it was trained and tested on, as en.
        datasets: hub ids, owner/name, of what it was trained on.
        examples: texts to show; none of the data's texts is shown unless it is given here.

    Raises:
        SettingError: a repo_id, license, language or data set that the hub cannot know.
    """
    check(is_hub_id(repo_id), "repo_id", repo_id, "a name on the hub, owner/name")
    known = license is None or re.fullmatch(_LICENSE, license) is not None
    check(known, "license", license, "the hub's id of a license, as apache-2.0, cc-by-4.0 or other")
    for code in _each("language", language):
        check(re.fullmatch(_LANGUAGE, code) is not None, "language", code, "an ISO 639 code, as en, or multilingual")
    for name in _each("datasets", datasets):
        known = name.count("/") == 1 and is_hub_id(name) and not Path(name).expanduser().exists()
        check(known, "datasets", name, "the hub id of a data set, owner/name, and no path of this machine")
    # What was exported says what it was exported from.
    told = _plain({**record, **(record.get("learned") or {})})
    data = _metadata(told, section, repo_id.rpartition("/")[2], license, list(language), list(datasets))
    template = _environment().get_template("model_card.md")
    body = template.render(
        record=told,
        results=told.get("results") or {},
        base=told.get("base") or {},
        repo_id=repo_id,
        language=list(language),
        scores=_scores(told),
        section=section,
        base_name=base_name(told.get("base") or {}),
        is_onnx=_is_onnx(told),
        loading_code=_fenced(section.loading_code, "python"),
        examples=_each("examples", examples),
    )
    return f"---\n{data.to_yaml(original_order=_FIRST)}\n---\n\n{body.strip()}\n"


def pipeline_code(record: Mapping[str, Any], repo_id: str, imports: str = "") -> str:
    """Return the Python by which transformers' pipeline opens a saved classifier.

    Args:
        record: what the classifier's nlptransfer.json holds.
        repo_id: its name on the hub, or its folder.
        imports: lines that it needs first.
    """
    function = "sigmoid" if record["multi_label"] else "softmax"
    return f"""\
from transformers import pipeline
{imports}
classify = pipeline("{TASK}", model={quoted(repo_id)})
found = classify(text, truncation=True, top_k=None, function_to_apply="{function}")
probabilities = {{label["label"]: label["score"] for label in found}}"""


def base_name(base: Mapping[str, Any]) -> Markup:
    """Return what a card calls a base, in markdown.

    Args:
        base: as the record has it.
    """
    if not base.get("name"):
        return Markup("a base that the record does not name")
    name = markdown(base["name"])
    if base.get("revision"):
        return Markup("{} (commit `{}`)").format(name, base["revision"])
    if base.get("kind") == "vectors":
        return name
    return Markup("{}, a local folder").format(name) + (
        Markup(" (weights of sha256 `{}`)").format(base["sha256"]) if base.get("sha256") else ""
    )


def _metadata(
    told: dict[str, Any], section: CardSection, name: str, license: str | None, language: list[str], datasets: list[str]
) -> ModelCardData:
    base = told.get("base") or {}
    # Without a commit it was a file or a folder of some machine, which the hub knows nothing of.
    base_model = base.get("name") if base.get("revision") else None
    scores = [score for score in _scores(told) if score.metric is not None]
    tags = ["nlptransfer", told["route"], TASK, *["onnx"] * _is_onnx(told)]
    return ModelCardData(
        language=language or None,
        license=license,
        library_name=section.library_name,
        pipeline_tag=TASK,
        tags=tags,
        base_model=base_model,
        # Of vectors that are distilled from a base, the hub has no word.
        base_model_relation=section.relation if base_model and base.get("kind") != "distilled" else None,
        datasets=datasets or None,
        metrics=list(dict.fromkeys(score.metric for score in scores if score.metric)) or None,
        # A name without results would be written by itself.
        model_name=name if scores else None,
        eval_results=[_eval_result(told, score, datasets) for score in scores] or None,
        widget=[{"text": f"This is {_one_line(label)}."} for label in told["labels"][:WIDGETS]],
    )


def _eval_result(told: dict[str, Any], score: _Score, datasets: list[str]) -> EvalResult:
    # The hub's form has no place for an interval but the name.
    interval = f" (95% interval {score.interval[0]:.3f} to {score.interval[1]:.3f})" if score.interval else ""
    return EvalResult(
        task_type=TASK,
        # Of several data sets it is not known which the test rows are from.
        dataset_type=datasets[0] if len(datasets) == 1 else "unknown",
        dataset_name=_one_line(str(told["results"].get("data") or "test rows")),
        dataset_split="test",
        metric_type=score.metric or "",
        metric_value=float(score.value),
        metric_name=score.name + interval,
        metric_args=score.arguments,
    )


def _scores(told: dict[str, Any]) -> list[_Score]:
    """The scores of the test split that there are, the one that choices are made by first."""
    test = (told.get("results") or {}).get("test") or {}
    return [
        _Score(name, metric, arguments, test[key], _interval(test.get(f"{key}_interval")))
        for key, name, metric, arguments in (_MULTI_LABEL if told["multi_label"] else _SINGLE_LABEL)
        if test.get(key) is not None
    ]


def _interval(found: list[float | None] | None) -> list[float] | None:
    ends = [end for end in found or [] if end is not None]
    return ends if len(ends) == 2 else None


def _is_onnx(record: Mapping[str, Any]) -> bool:
    return str(record.get("format") or "").startswith("onnx")


@cache
def _environment() -> Environment:
    return templates(
        {
            "md": markdown,
            "fenced": lambda command: _fenced(_one_line(command), ""),
            "count": lambda number: f"{number:,}",
            "score": lambda number: "" if number is None else f"{number:.3f}",
        }
    )


def markdown(text: str) -> Markup:
    """Return text of a user as markdown that shows it, in a table too, on one line."""
    return Markup(_one_line(str(text)).translate(_ENTITIES))


def _one_line(text: str) -> str:
    return _CONTROL.sub(" ", text)


def _fenced(code: str, language: str) -> Markup:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return Markup(f"{fence}{language}\n{code}\n{fence}")


def quoted(text: str) -> str:
    """Return Python that is a string, in double quotes."""
    return json.dumps(_one_line(text), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """A record with numpy's numbers as Python's, and None for what is no number: YAML would write both as garbage."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _each(name: str, values: Iterable[str]) -> list[str]:
    check(not isinstance(values, str), name, values, "a list of strings, not one")
    return list(values)
