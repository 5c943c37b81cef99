"""Traits that tell a label nearly alone: a score may be theirs, and not the text's."""

from dataclasses import asdict

from nlptransfer.data import Giveaway, giveaways_of
from nlptransfer.experiments.auditing.rows import AuditRows
from nlptransfer.results import Finding, Section, quoted

_WEB = ("an address", "a user name", "an HTML tag", "an HTML entity")
SAID = 10
"""Most of them that are findings, the most suspicious; the frame has all."""


def find_giveaways(rows: AuditRows) -> Section:
    """Find words, marks, lengths and other columns of the training rows that point to a label, see giveaways_of."""
    import pandas as pd

    found = giveaways_of(rows.data.train.texts, rows.data.train.targets, rows.others.get("train", {}))
    names = rows.data.labels.names
    columns = ["accuracy", "majority", "precision", "recall", "rows", "share", "stands_apart"]
    frame = pd.DataFrame(
        [
            {"trait": str(one), "label": names[one.label], **{name: asdict(one)[name] for name in columns}}
            | {"alike": ", ".join(one.alike)}
            for one in found
        ],
        columns=["trait", "label", *columns, "alike"],
    ).astype({"trait": "str", "label": "str", "alike": "str"})
    findings = tuple(_finding(rows, one) for one in found[:SAID])
    return Section("giveaways", findings, {"giveaways": frame}, {"named": len(found)})


def _finding(rows: AuditRows, one: Giveaway) -> Finding:
    train, label = rows.data.train, rows.data.labels.names[one.label]
    trait = str(one)
    others = f" ({', '.join(one.alike[:3])} in nearly the same rows)" if one.alike else ""
    apart = ", and goes with no other word of its texts" if one.stands_apart else ""
    return Finding(
        kind="giveaways",
        rows=one.rows,
        sentence=(
            f"{trait[0].upper()}{trait[1:]} points to {label!r}{apart}{others}: {one.precision:.1%} of the "
            f"{one.rows:,} rows with it have this label, {one.recall:.1%} of the label's rows have it; by itself it "
            f"has an accuracy of {one.accuracy:.3f}, and always answering the most frequent {one.majority:.3f}"
        ),
        example=f"{quoted(train.texts[one.example])}: {label}",
        advice=_advice(one),
    )


def _advice(one: Giveaway) -> str:
    if one.kind == "column":
        return f"Is {one.name!r} known before the label is? If not, never name it in text_column."
    if one.name in _WEB:
        return 'If new texts will not have it, take it out of all: normalization="web".'
    if one.name in ("capitals alone", "no capital"):
        return 'If new texts will not have it, take it out of all: normalization="lower".'
    return (
        "If new texts will not have it for this label, take it out of the texts, or scores say how often it is there "
        "and not how well texts are read."
    )
