"""Define the options that verbs share, and read what they hold; nothing here knows what a verb does with them."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from nlptransfer.settings import convert, pairs

DATA = Argument(metavar="DATA", help="hub id, file of rows, or folder of split files")
ModelDir = Annotated[str, Argument(help="a run's folder, a saved classifier, or one on the hub (owner/name)")]
VectorsFile = Annotated[Path, Argument(help="vectors to write: .txt, .txt.gz or .bin, as word2vec has them")]
TextColumn = Annotated[str | None, Option(help="column of the texts; found by itself when unambiguous")]
LabelColumn = Annotated[str | None, Option(help="column of the labels; found by itself when unambiguous")]
Base = Annotated[str | None, Option(help="encoder (hub id or folder) or file of word vectors")]
Revision = Annotated[str | None, Option(help="commit, branch or tag of a base on the hub")]
SavedBase = Annotated[str | None, Option("--base", help="the model's base, where it is not found by itself")]
SavedRevision = Annotated[str | None, Option("--revision", help="commit, branch or tag of a classifier on the hub")]
Output = Annotated[Path | None, Option(help="file to write; standard output if none")]
Metric = Annotated[list[str] | None, Option(help="a further evaluate metric to score with")]
AllowPickle = Annotated[bool, Option("--allow-pickle", help="open gensim's own files, which can run code")]
OutputDir = Annotated[Path | None, Option(help="the folder to write; by default one under runs/")]
Overwrite = Annotated[bool, Option("--overwrite", help="throw away what was made there with other settings")]
Seeds = Annotated[int, Option(help="runs of each that is trained")]
MaxTrainRows = Annotated[int | None, Option(help="most labeled training rows to use")]
Set = Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="any setting")]
Quiet = Annotated[bool, Option("--quiet", help="show no progress and no log")]


def config_of(options: Mapping[str, Any], settings: list[str] | None, arguments: Collection[str]) -> dict[str, Any]:
    """Return the options that are not None, and those of --set, which must not name one of ``arguments``."""
    return {name: value for name, value in options.items() if value is not None} | pairs(settings, arguments)


def listed(name: str, text: str | None, kind: type = str) -> Any:
    """Read values that commas separate, as in "100,300"; None if there are none."""
    return None if text is None else convert(name, text, tuple[kind, ...])  # type: ignore[valid-type]
