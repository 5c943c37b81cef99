"""Labels that overlap: pairs that heads on frozen features do not separate better than chance."""

import json

import numpy as np

from nlptransfer.evaluation import Separability, separability
from nlptransfer.experiments.auditing.rows import AuditRows
from nlptransfer.results import Finding, Section, quoted

SHOWN = 50
"""Further pairs in the frame, the least separable first."""
TINY = 1e-12
"""A probability that is taken for 0."""


def find_overlaps(rows: AuditRows) -> Section:
    """Find pairs of labels that may be one, by the order in which probabilities out of fold put rows of each."""
    import pandas as pd

    labels, p = rows.data.labels, rows.out_of_fold
    scores = np.log(p + TINY) - (np.log(1 - p + TINY) if labels.multi_label else 0)
    found = separability(scores, rows.data.train.targets)
    order = np.lexsort((found.separation, ~found.overlapping))[: int(found.overlapping.sum()) + SHOWN]
    frame = pd.DataFrame(
        {
            "label": [labels.names[pair[0]] for pair in found.pairs[order]],
            "other": [labels.names[pair[1]] for pair in found.pairs[order]],
            "rows": found.rows[order, 0],
            "other_rows": found.rows[order, 1],
            "separation": found.separation[order],
            "p_value": found.p_values[order],
            "overlap": found.overlapping[order],
        }
    )
    facts = {"pairs": labels.num_labels * (labels.num_labels - 1) // 2, "tested": len(found.pairs)}
    return Section(
        "overlaps", tuple(_finding(rows, found, group) for group in _groups(found)), {"overlaps": frame}, facts
    )


def _groups(found: Separability) -> list[list[int]]:
    """Return groups of labels all of whose pairs overlap, from the least separable pair on; each label is in one."""
    order = np.argsort(found.separation, kind="stable")
    pairs = found.pairs[order][found.overlapping[order]].tolist()
    overlapping = {frozenset(pair) for pair in pairs}
    groups = list[list[int]]()
    for pair in pairs:
        touched = [group for group in groups if {*group} & {*pair}]
        if not touched:
            groups.append(pair)
        elif len(touched) == 1:
            new = {*pair} - {*touched[0]}
            if all(frozenset((*new, label)) in overlapping for label in touched[0] if new):
                touched[0].extend(new)
    return groups


def _finding(rows: AuditRows, found: Separability, labels_of_group: list[int]) -> Finding:
    train, labels = rows.data.train, rows.data.labels
    counts, group = labels.count(train.targets), np.array(labels_of_group)
    most, *others = group[np.argsort(-counts[group], kind="stable")].tolist()
    names = [repr(labels.names[label]) for label in (most, *others)]
    of_pairs = found.separation[found.overlapping & np.isin(found.pairs, group).all(axis=1)]
    places = np.flatnonzero(train.targets[:, others[0]] > 0 if labels.multi_label else train.targets == others[0])
    place = places[rows.out_of_fold[places, most].argmax()]
    mapping = {labels.names[label]: labels.names[most] for label in others}
    return Finding(
        kind="overlaps",
        rows=int(counts[group].sum()),
        sentence=(
            f"{', '.join(names[:-1])} and {names[-1]} are not separated: of two rows, one of each, heads know which "
            f"is which in {of_pairs.max():.0%} of the cases{' at most' * (len(of_pairs) > 1)}, by chance in 50%"
        ),
        example=f"{quoted(train.texts[place])}: labeled {names[1]}, but as well {names[0]}",
        advice=(
            f"If they mean the same, merge them: label_mapping={json.dumps(mapping, ensure_ascii=False)}; "
            "else look for what should tell them apart."
        ),
    )
