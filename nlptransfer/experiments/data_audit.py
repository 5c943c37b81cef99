"""audit(): what is wrong with data before any training. This file knows no question: each has a file in auditing/."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from nlptransfer import distributed
from nlptransfer.data import SourceRows, load_data, open_source
from nlptransfer.experiments.auditing.balance import find_imbalance
from nlptransfer.experiments.auditing.copies import find_conflicts, find_copies
from nlptransfer.experiments.auditing.drift import find_drift
from nlptransfer.experiments.auditing.giveaways import find_giveaways
from nlptransfer.experiments.auditing.label_errors import find_label_errors
from nlptransfer.experiments.auditing.outliers import find_outliers
from nlptransfer.experiments.auditing.overlaps import find_overlaps
from nlptransfer.experiments.auditing.rows import AuditRows
from nlptransfer.experiments.cleaning import check_clean_to, write_clean
from nlptransfer.experiments.environment import machine, versions
from nlptransfer.experiments.ranking import frozen_settings
from nlptransfer.experiments.reporting import report_once
from nlptransfer.hub import find_base
from nlptransfer.memo import shared_work
from nlptransfer.progress import progress_bar, with_progress
from nlptransfer.results import (
    AUDIT,
    DROPPABLE,
    DROPPED,
    QUESTIONS,
    Audit,
    DataSummary,
    Section,
    at_work,
    begin_run,
    checked,
    claim,
    command_of,
    plain,
    run_folder,
)

log = logging.getLogger("nlptransfer")

TFIDF = "tfidf"
"""In place of a base: no encoder."""
FINDERS: dict[str, Callable[[AuditRows], Section]] = {
    "copies": find_copies,
    "conflicts": find_conflicts,
    "label_errors": find_label_errors,
    "overlaps": find_overlaps,
    "giveaways": find_giveaways,
    "outliers": find_outliers,
    "balance": find_imbalance,
    "drift": find_drift,
}
"""What answers each question, in the order of QUESTIONS."""


@with_progress
def audit(
    data: Any,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    take_lock: bool = False,
    report: bool = True,
    progress: bool = True,
    clean_to: str | Path | None = None,
    drop: Sequence[str] = DROPPED,
    **settings: Any,
) -> Audit:
    """Look for what decides scores before any training: copies, wrong labels, give-aways, outliers, drift.

    Args:
        data: as :func:`finetune` has it.
        base: the encoder whose frozen features are looked at, as :func:`finetune` has it; "tfidf": none, which is fast
            and sees words alone. None: the default encoder, or TF-IDF where that is not at hand.
        revision: commit, branch or tag of the base on the hub.
        output_dir: folder of audit.json, findings.csv, a csv of each frame and report.html, which hold texts of the
            data; by default one under runs/ that is named after the data and the settings. A finished audit there is
            returned as it is.
        overwrite: whether an audit with other data or settings in that folder is deleted.
        take_lock: as :func:`finetune` has it.
        report: whether report.html is written.
        progress: whether bars show how far it is.
        clean_to: a file (.csv, .tsv, .jsonl, .parquet) that gets the rows that ``drop`` leaves, with all columns of the
            source; or a folder that gets a file of each split, so that these stay as they are: for a source with
            splits it must be one.
        drop: sections whose marked rows ``clean_to`` goes without, see :meth:`Audit.clean`.
        **settings: fields of DataSettings, and max_length, long_text, pooling and prompt of the route probe.

    Raises:
        SettingError: an unknown setting, or a value that makes no sense.
        DataError, BaseModelError: what cannot be read, or a ``clean_to`` that is the source or holds other files.
        RunFolderError: the folder holds an audit of other data or settings, or other files, or another process works
            in it.
    """
    repeat = command_of(audit, locals())
    checked("drop", drop, DROPPABLE)
    reading, route = frozen_settings(settings)
    opened = open_source(data, reading)
    loaded, source = load_data(opened, reading), SourceRows.of(opened)
    cleaned = None if clean_to is None else check_clean_to(clean_to, data, source)
    others = source.others(loaded)
    named = None if base is None else str(base)
    if named == TFIDF:
        rows = AuditRows(loaded, others, None, None, route)
    else:
        rows = AuditRows.of(loaded, named, revision, others=others, route=route)
        if named is not None:
            # One that is not there makes no folder.
            find_base(str(rows.base), revision)
    encoder = Path(rows.base).name if rows.base is not None and Path(rows.base).is_dir() else rows.base
    question = plain(
        {
            "fingerprints": loaded.fingerprints(),
            "columns": _fingerprint(others),
            "base": encoder,
            "revision": revision,
            "route": asdict(route),
        }
    )
    folder = run_folder(output_dir, question, loaded.name, "audit")
    with at_work(folder, take_lock):
        if claim(folder, question, overwrite, AUDIT):
            result = replace(Audit.load(folder), rows=loaded)
        else:
            begin_run(folder, question, AUDIT)
            result = Audit(
                folder=folder,
                data=DataSummary.of(loaded),
                settings=question,
                base=encoder,
                sections=_sections(rows),
                machine=machine(),
                versions=versions(),
                repeat=repeat,
                rows=loaded,
            )
            distributed.on_main(result.save)
        if report:
            report_once(folder)
    if cleaned is not None:
        distributed.on_main(partial(write_clean, cleaned, loaded, result.clean(drop), source))
    return result


def _sections(rows: AuditRows) -> dict[str, Section]:
    sections = {}
    with shared_work(), progress_bar("auditing", len(FINDERS), "questions") as bar:
        for number, (name, find) in enumerate(FINDERS.items(), 1):
            log.info("%d of %d: %s", number, len(FINDERS), QUESTIONS[name])
            bar.say(f"auditing: {name.replace('_', ' ')}")
            sections[name] = find(rows)
            bar.advance()
    return sections


def _fingerprint(others: Mapping[str, Mapping[str, Sequence[Any]]]) -> str:
    """Hash the columns besides text and label."""
    digest = hashlib.sha256()
    for split, columns in others.items():
        for name, values in columns.items():
            digest.update(repr((split, name)).encode())
            for value in values:
                digest.update(repr(value).encode(errors="surrogatepass"))
    return digest.hexdigest()
