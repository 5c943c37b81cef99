"""Texts that do not belong: of another script or language, mostly markup or damaged, empty, far from their label."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from nlptransfer.data import ODD, percentage, unlike_others
from nlptransfer.evaluation import isolated
from nlptransfer.experiments.auditing.rows import AuditRows
from nlptransfer.results import Finding, Section, quoted

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "calibration")
FAR = "far from all of its label"
_ADVICE = {
    "remains of markup": 'Take it out when texts are read: normalization="web".',
    "damaged characters": "Read the source in its encoding: encoding=...; what was damaged before stays so.",
    FAR: "Read the first of them in the frame outliers: some are another kind of text, or have a wrong label.",
    "mostly damaged": "Read the source in its encoding: encoding=...; else leave these rows out: drop=outliers.",
}
_ALONE = "Read some of them in the frame outliers; if they do not belong, leave them out: drop=outliers."


def find_outliers(rows: AuditRows) -> Section:
    """Find texts of train, validation and calibration that are unlike the others, see unlike_others.

    ``drop`` marks those of which little is left to learn from. Those that are damaged in part it does not mark, nor
    training texts that are far from their label in frozen features: these may be rare and right.
    """
    import pandas as pd

    texts = [text for name in SPLITS for text in rows.data.splits[name].texts]
    reasons = unlike_others(texts)
    parts, start = [], 0
    for name in SPLITS:
        of_split = reasons[start : start + len(rows.data.splits[name])]
        start += len(of_split)
        places = [place for place, reason in enumerate(of_split) if reason]
        named = pd.Series([of_split[place] for place in places], dtype="str")
        parts.append(rows.frame(name, np.array(places, np.int64)).assign(reason=named))
    facts: dict[str, Any] = {"rows": len(texts)}
    # Words alone, as TF-IDF has them, do not tell how far a text is from others: it is nothing where it has none of
    # theirs.
    if rows.base is not None and (far := isolated(rows.features("train"), rows.data.train.targets)) is not None:
        facts |= {"usual_distance": far.usual, "far_from": far.bound}
        parts.append(rows.frame("train", far.rows).assign(reason=FAR, distance=far.distances))
    frame = pd.concat(parts, ignore_index=True)
    frame["drop"] = frame["reason"].isin(ODD)
    counts = Counter(frame["reason"])
    findings = [_finding(frame, reason, count, len(texts)) for reason, count in counts.most_common()]
    return Section("outliers", tuple(findings), {"outliers": frame}, facts)


def _finding(frame: "pd.DataFrame", reason: str, count: int, of: int) -> Finding:
    row = frame[frame["reason"] == reason].iloc[0]
    return Finding(
        "outliers",
        count,
        f"{reason.capitalize()}: {count:,} of {of:,} rows outside of test ({percentage(count, of)})",
        f"{row['split']} {row['row']} ({row['label']}): {quoted(row['text'])}",
        _ADVICE.get(reason, _ALONE),
    )
