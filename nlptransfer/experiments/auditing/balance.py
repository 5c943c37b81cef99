"""Labels of few rows, their shares by split, and how long texts are."""

from typing import TYPE_CHECKING, Any

import numpy as np

from nlptransfer.data import few_rows
from nlptransfer.errors import abridged
from nlptransfer.experiments.auditing.rows import AuditRows
from nlptransfer.results import Finding, Section, quoted

if TYPE_CHECKING:
    import pandas as pd

NAMED = 5
"""Labels in one sentence."""
TRUNCATED = 0.05
"""Share of the training texts that are not read whole, above which it is a finding."""


def find_imbalance(rows: AuditRows) -> Section:
    """Find labels of few training rows, and training texts that the encoder does not read whole."""
    counts = rows.data.labels.count(rows.data.train.targets)
    lengths = _lengths(rows)
    findings = [*_rare(rows, counts), *_truncated(rows, lengths)]
    facts: dict[str, Any] = {"longest_read": rows.longest_read}
    return Section("balance", tuple(findings), {"balance": _shares(rows), "lengths": lengths}, facts)


def _shares(rows: AuditRows) -> "pd.DataFrame":
    """Return rows and their share by label, the rarest label first, and split."""
    import pandas as pd

    labels, frame = rows.data.labels, pd.DataFrame({"label": rows.data.labels.names})
    for name, split in rows.data.splits.items():
        if len(split):
            frame[name] = labels.count(split.targets)
            frame[f"{name}_share"] = frame[name] / len(split)
    return frame.sort_values("train", kind="stable").reset_index(drop=True)


def _lengths(rows: AuditRows) -> "pd.DataFrame":
    """Return the characters of the texts of each split, and the share of the texts that are not read whole."""
    import pandas as pd

    found = []
    for name, split in rows.data.splits.items():
        if len(split):
            median, most, longest = np.quantile([*map(len, split.texts)], [0.5, 0.95, 1]).tolist()
            found.append((name, len(split), median, most, int(longest), rows.truncated(name)))
    return pd.DataFrame(found, columns=["split", "rows", "median", "quantile_95", "longest", "truncated"])


def _rare(rows: AuditRows, counts: np.ndarray) -> list[Finding]:
    names, train = rows.data.labels.names, rows.data.train
    is_imbalanced, few = few_rows(counts)
    findings, rarest, most = [], int(counts.argmin()), int(counts.argmax())
    if is_imbalanced:
        findings.append(
            Finding(
                "balance",
                int(counts[rarest]),
                f"{names[most]!r} has {counts[most]:,} of the {len(train):,} training rows, {names[rarest]!r} "
                f"{counts[rarest]:,}: accuracy says little of rare labels",
                f"{names[rarest]!r}: {_text_of(rows, rarest)}",
                "Look at macro F1 and at the scores per class; rows of rare labels are worth most.",
            )
        )
    if few:
        named = abridged([f"{names[label]!r} ({counts[label]})" for label in few], NAMED)
        findings.append(
            Finding(
                "balance",
                int(counts[few].sum()),
                f"{len(few)} of {len(names)} labels have hardly any training rows: {named}",
                f"{names[few[0]]!r}: {_text_of(rows, few[0])}",
                f"Label more of them, or merge each with a label that says the same: label_mapping={{"
                f'"{names[few[0]]}": "..."}}.',
            )
        )
    return findings


def _text_of(rows: AuditRows, label: int) -> str:
    train = rows.data.train
    has = train.targets[:, label] > 0 if train.targets.ndim == 2 else train.targets == label
    return quoted(train.texts[int(has.argmax())]) if has.any() else "no row"


def _truncated(rows: AuditRows, lengths: "pd.DataFrame") -> list[Finding]:
    train = lengths.iloc[0]
    if rows.longest_read is None or train.truncated <= TRUNCATED:
        return []
    shares = ", ".join(f"{row.truncated:.1%} of {row.split}" for row in lengths.itertuples())
    longest = max(rows.data.train.texts, key=len)
    return [
        Finding(
            "balance",
            round(train.truncated * train["rows"]),
            f"Texts of more than {rows.longest_read} tokens are not read whole: {shares}",
            f"{len(longest):,} characters: {quoted(longest)}",
            'To read all of a text: long_text="windows"; its end too: "head_tail"; more of it: a larger max_length.',
        )
    ]
