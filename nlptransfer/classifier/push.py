"""Push a saved folder to the hub, verified and with its model card. Does not know the hub's interface."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlptransfer.classifier.persistence import SavedRecord, saved_folder
from nlptransfer.classifier.verification import check_logits, reopened_logits
from nlptransfer.errors import RunFolderError
from nlptransfer.files import named_path
from nlptransfer.hub import CardFacts, Pushed, model_card, push


def push_saved(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    dry_run: bool = False,
    license: str | None = None,
    language: Sequence[str] = (),
    datasets: Sequence[str] = (),
    examples: Sequence[str] = (),
) -> Pushed:
    """Push a run's or a saved classifier's folder with a model card to a hub, in one commit.

    Before anything is sent, the folder is opened again under another seed, and must give the logits of its record.

    Args:
        repo_id: owner/name.
        private: None: a new repo is private, an existing one stays as it is.
        revision: a branch, made of main where it is not there; None: main.
        create_pr: whether a pull request is opened instead.
        token: None: the one that this machine is logged in with.
        dry_run: whether to do only what needs no network.
        license, language, datasets: ids on the hub and codes of languages, for the card.
        examples: texts that the card shows; no text of yours is in it otherwise.

    Raises:
        RunFolderError: no saved classifier, one that was never verified, whose base is on this machine only, or with
            something in it that must not leave this machine.
        VerificationError: it gives other logits than those it was saved with.
        HubError: the hub cannot be reached, or refuses.
    """
    folder = saved_folder(named_path(folder))
    record = SavedRecord.read(folder)
    record.check_files(folder)
    if record.verified is None:
        raise RunFolderError(
            f"{folder}: expected a classifier that was opened again after it was saved, found no sign of it: save it "
            "anew, Classifier.load(FOLDER).save_pretrained(OTHER)"
        )
    base = record.further.get("base", {})
    if base.get("revision") is None and record.route.needs_base(folder):
        raise RunFolderError(
            f"{folder}: expected a base that others can fetch, found a local folder ({base.get('name')}): push the "
            "base and train with its hub id, or push a merged model"
        )
    logits = reopened_logits(record.route, folder, base, record.verified["texts"])
    check_logits(record.verified, logits, str(folder))
    facts = card_facts(record, repo_id, license=license, language=language, datasets=datasets, examples=examples)
    card = model_card(facts)
    return push(
        folder, repo_id, card, private=private, revision=revision, create_pr=create_pr, token=token, dry_run=dry_run
    )


def card_facts(record: SavedRecord, repo_id: str, **extra: Any) -> CardFacts:
    """Return what a saved classifier's record says for its model card, and ``extra``: license, language, ..."""
    content = record.as_json()
    section = record.route.card_section(content, repo_id)
    return CardFacts(repo_id, content, section, record.route.long_text, **extra)
