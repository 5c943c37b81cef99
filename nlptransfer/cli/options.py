"""Define the options that verbs share; nothing here knows what a verb does with them."""

from pathlib import Path
from typing import Annotated

import typer

DATA = typer.Argument(metavar="DATA", help="hub id, file of rows, or folder of split files")
ModelDir = Annotated[str, typer.Argument(help="a run's folder, a saved classifier, or one on the hub (owner/name)")]
VectorsFile = Annotated[Path, typer.Argument(help="vectors to write: .txt, .txt.gz or .bin, as word2vec has them")]
TextColumn = Annotated[str | None, typer.Option(help="column of the texts; found by itself when unambiguous")]
LabelColumn = Annotated[str | None, typer.Option(help="column of the labels; found by itself when unambiguous")]
Base = Annotated[str | None, typer.Option(help="encoder (hub id or folder) or file of word vectors")]
Revision = Annotated[str | None, typer.Option(help="commit, branch or tag of a base on the hub")]
SavedBase = Annotated[str | None, typer.Option("--base", help="the model's base, where it is not found by itself")]
SavedRevision = Annotated[
    str | None, typer.Option("--revision", help="commit, branch or tag of a classifier on the hub")
]
Output = Annotated[Path | None, typer.Option(help="file to write; standard output if none")]
Metric = Annotated[list[str] | None, typer.Option(help="a further evaluate metric to score with")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="open gensim's own files, which can run code")]
MaxTrainRows = Annotated[int | None, typer.Option(help="most labeled training rows to use")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="any setting")]
Quiet = Annotated[bool, typer.Option("--quiet", help="show no progress and no log")]
