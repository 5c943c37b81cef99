"""Word vectors trained on your own texts (word2vec by gensim), then a classifier on them.

python recipes/word2vec_from_scratch.py                                    the headlines of data/
python recipes/word2vec_from_scratch.py rows.csv --texts more.txt --epochs 5 --set head_type=linear
"""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from nlptransfer.cli import run_and_show, run_verb, train_vectors_verb
from nlptransfer.settings import pairs

DATA = Path(__file__).parents[1] / "data"


def main(
    data: Annotated[str, Argument(help="labeled rows")] = str(DATA / "headlines"),
    texts: Annotated[str, Option(help="file of texts to learn the vectors from")] = str(DATA / "headlines/train.jsonl"),
    vectors: Annotated[Path, Option(help="where the vectors are written")] = Path("runs/own_vectors.txt.gz"),
    dimensions: Annotated[int, Option(help="numbers of a vector")] = 50,
    epochs: Annotated[int, Option(help="passes over the texts")] = 30,
    min_count: Annotated[int, Option(help="occurrences from which a word gets a vector")] = 2,
    window: Annotated[int, Option(help="words of context on each side")] = 5,
    seed: Annotated[int, Option(help="of the vectors and of the classifier")] = 0,
    no_report: Annotated[bool, Option("--no-report", help="write no report.html")] = False,
    settings: Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="any setting of finetune")] = None,
) -> None:
    training = {"dimensions": dimensions, "epochs": epochs, "min_count": min_count, "window": window, "seed": seed}
    train_vectors_verb(texts=texts, output=vectors, **training)
    run_and_show([{"data": data, "base": vectors, "seed": seed, "report": not no_report, **pairs(settings)}])


if __name__ == "__main__":
    run_verb(main, __doc__)
