"""The command line: one thin verb per public function. Nothing heavy is imported before a verb runs."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option

from nlptransfer import __version__
from nlptransfer.cli import options as opt
from nlptransfer.cli.ending import printable
from nlptransfer.cli.explaining import explain_verb
from nlptransfer.cli.finetuning import finetune
from nlptransfer.cli.first_look import folder_first, rows_first, split_first
from nlptransfer.cli.gap import gap_verb
from nlptransfer.cli.log import repeat_warnings, say, start_log, visible, wrapped
from nlptransfer.cli.predicting import predict_verb
from nlptransfer.cli.settings import settings_verb
from nlptransfer.cli.sharing import shipping_app
from nlptransfer.cli.terminal import show_audit, show_comparison, show_ranking, show_scores
from nlptransfer.errors import NlpTransferError
from nlptransfer.models import give_way_soon

app = opt.Verbs(no_args_is_help=True, pretty_exceptions_enable=False)
vectors_app = opt.Verbs(help="Make and look at word vectors.", no_args_is_help=True)
app.add_typer(vectors_app, name="vectors")
app.add_typer(shipping_app)
app.command(
    "finetune",
    epilog=opt.examples(
        "finetune reviews.csv",
        "finetune reviews.csv --route lora --set rank=8",
        "finetune few.csv --source many.csv --transfer joint --route probe",
    ),
)(finetune(...))
app.command("gap", epilog=opt.examples("gap films gadgets", "gap films gadgets --all --seeds 1"))(gap_verb())
app.command(
    "predict",
    epilog=opt.examples(
        "predict runs/reviews new.csv --output labeled.csv",
        "predict runs/reviews new.txt --top-k 3",
        "predict runs/reviews many/ --output-dir labeled --processes 2",
    ),
)(predict_verb)
app.command(
    "explain",
    epilog=opt.examples('explain runs/reviews "What a film"', 'explain runs/reviews "What a film" --json'),
)(explain_verb)
app.command("settings", epilog=opt.examples("settings lora", "settings training"))(settings_verb)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        say(f"nlptransfer {__version__}")
        raise Exit


@app.callback(
    epilog=opt.examples(
        "audit reviews.csv", "finetune reviews.csv", "predict runs/reviews new.csv --output labeled.csv"
    )
)
def front(
    version: Annotated[
        bool, Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Transfer pretrained language models to your own text."""


# How long a process that fails waits for another to say why, and to be stopped.
SECONDS_FOR_FIRST = 5
SECONDS_FOR_CAUSE = 2


def comparing(data_default: Any) -> Callable[..., None]:
    """Make the verb compare, with data that it takes by default."""

    @opt.reads(opt.TRAINING_READING)
    def verb(
        data: Annotated[str, opt.DATA] = data_default,
        routes: Annotated[
            str | None,
            opt.option(opt.TRAINING, "candidates: majority, tfidf, {routes}", metavar="A,B,...", default="all"),
        ] = None,
        bases: Annotated[
            str | None,
            opt.option(opt.TRAINING, "encoders to start from", metavar="A,B,...", default="the routes' own"),
        ] = None,
        revision: opt.Revision = None,
        seeds: opt.Seeds = 3,
        trials: Annotated[
            int, opt.option(opt.TRAINING, "settings that a candidate tries on validation", metavar="N")
        ] = 1,
        max_minutes: Annotated[
            float | None,
            opt.option(opt.TRAINING, "leave out candidates that would not fit", metavar="X", default="no limit"),
        ] = None,
        delta: Annotated[float, opt.option(opt.TRAINING, "a loss in score that does not matter", metavar="X")] = 0.01,
        sizes: Annotated[
            str | None, opt.option(opt.TRAINING, "labeled rows of a learning curve", metavar="N,N,...")
        ] = None,
        output_dir: opt.OutputDir = None,
        overwrite: opt.Overwrite = False,
        take_lock: opt.TakeLock = False,
        max_train_rows: opt.MaxTrainRows = None,
        settings: opt.Set = None,
        quiet: opt.Quiet = False,
        reading: Any = None,
    ) -> None:
        """Train by all routes on one split, say which one is worth it, and write a report."""
        start_log(quiet)
        arguments = {
            "routes": opt.listed("routes", routes), "bases": opt.listed("bases", bases), "revision": revision,
            "seeds": seeds, "trials": trials, "max_minutes": max_minutes, "delta": delta,
            "sizes": opt.listed("sizes", sizes, int), "output_dir": output_dir, "overwrite": overwrite,
            "take_lock": take_lock,
        }  # fmt: skip
        options = arguments | {"max_train_rows": max_train_rows, **reading, "progress": not quiet}
        config = opt.config_of(options, settings, ("data", *arguments))
        with rows_first(data, config):
            from nlptransfer import distributed
            from nlptransfer.experiments import compare

            result = compare(data, **config)
        if distributed.is_main():
            show_comparison(result)
            repeat_warnings()

    return verb


app.command(
    "compare",
    epilog=opt.examples(
        "compare reviews.csv",
        "compare reviews.csv --routes tfidf,probe,lora --max-minutes 30",
    ),
)(comparing(...))


@app.command("rank", epilog=opt.examples("rank reviews.csv", "rank few.csv --sources many.csv,other.csv"))
@opt.reads(opt.TRAINING_READING)
def rank_verb(
    data: Annotated[str, opt.DATA],
    bases: Annotated[
        str | None,
        opt.option(opt.TRAINING, "encoders to rank", metavar="A,B,...", default="those that packages hold"),
    ] = None,
    keep_layers: Annotated[
        str | None, opt.option(opt.TRAINING, "numbers of first layers to try besides all", metavar="N,N,...")
    ] = None,
    sources: Annotated[
        str | None, opt.option(opt.TRANSFER, "data sets whose gain is estimated", metavar="X,Y,...")
    ] = None,
    revision: opt.Revision = None,
    max_rows: Annotated[int, opt.option(opt.DATA_PANEL, "most training rows that are looked at", metavar="N")] = 1000,
    output_dir: opt.OutputDir = None,
    overwrite: opt.Overwrite = False,
    take_lock: opt.TakeLock = False,
    settings: opt.Set = None,
    quiet: opt.Quiet = False,
    reading: Any = None,
) -> None:
    """Rank encoders, how many of their layers to keep, and sources, before any training."""
    start_log(quiet)
    arguments = {
        "bases": opt.listed("bases", bases), "keep_layers": opt.listed("keep_layers", keep_layers, int),
        "sources": opt.listed("sources", sources), "revision": revision, "max_rows": max_rows,
        "output_dir": output_dir, "overwrite": overwrite, "take_lock": take_lock,
    }  # fmt: skip
    config = opt.config_of(arguments | reading, settings, ("data", "report", *arguments))
    with rows_first(data, config):
        from nlptransfer import distributed
        from nlptransfer.experiments import rank

        result = rank(data, **config)
    if distributed.is_main():
        show_ranking(result)
        repeat_warnings()


@app.command(
    "audit",
    epilog=opt.examples(
        "audit reviews.csv --base tfidf",
        "audit reviews.csv --clean-to clean.csv --drop copies,conflicts",
        "audit reviews.csv --fail-on copies,conflicts",
    ),
)
@opt.reads(opt.TRAINING_READING)
def audit_verb(
    data: Annotated[str, opt.DATA],
    base: Annotated[
        str | None,
        opt.option(
            opt.TRAINING, "encoder (hub id or folder), or tfidf for none", metavar="BASE", default="one that is at hand"
        ),
    ] = None,
    revision: opt.Revision = None,
    output_dir: opt.OutputDir = None,
    overwrite: opt.Overwrite = False,
    take_lock: opt.TakeLock = False,
    clean_to: Annotated[
        Path | None,
        opt.option(
            opt.OUTPUT, "file of the rows without those of --drop, or a folder of a file for each split", metavar="PATH"
        ),
    ] = None,
    drop: Annotated[
        str | None,
        opt.option(
            opt.OUTPUT,
            "what --clean-to leaves out: copies, conflicts, label_errors, outliers",
            metavar="A,B,...",
            default="copies,conflicts",
        ),
    ] = None,
    fail_on: Annotated[
        str | None,
        opt.option(
            opt.OUTPUT,
            "end with exit code 3 where one of these is found: copies, conflicts, label_errors, overlaps, giveaways, "
            "outliers, balance, drift, paraphrases",
            metavar="A,B,...",
        ),
    ] = None,
    settings: opt.Set = None,
    quiet: opt.Quiet = False,
    reading: Any = None,
) -> None:
    """Look at data before any training: copies, wrong labels, give-aways, outliers, drift, overlapping labels."""
    start_log(quiet)
    arguments = {
        "base": base, "revision": revision, "output_dir": output_dir, "overwrite": overwrite, "take_lock": take_lock,
        "clean_to": clean_to, "drop": opt.listed("drop", drop),
    }  # fmt: skip
    config = opt.config_of(arguments | reading, settings, ("data", "report", *arguments))
    with rows_first(data, config, whole=True):
        from nlptransfer import distributed
        from nlptransfer.experiments import audit
        from nlptransfer.results import KINDS, checked

        fatal = checked("fail_on", opt.listed("fail_on", fail_on) or (), KINDS)
        result = audit(data, **config)
    if distributed.is_main():
        show_audit(result)
        repeat_warnings()
        if found := [finding for finding in result.findings if finding.kind in fatal]:
            say(f"failed on {found[0].kind}: {found[0].sentence}", err=True)
    if any(finding.kind in fatal for finding in result.findings):
        raise Exit(3)


@app.command(
    "evaluate",
    epilog=opt.examples("evaluate runs/reviews more.csv", "evaluate runs/reviews more.csv --json > scores.json"),
)
@opt.reads(opt.ROWS_READING)
def evaluate_verb(
    model_dir: opt.ModelDir,
    data: Annotated[str, Argument(help="labeled text: a file, or a folder or hub id with the split")],
    split: Annotated[str, Option(metavar="NAME", help="which split, where there are several")] = "test",
    metric: opt.Metric = None,
    as_json: Annotated[bool, opt.option(opt.OUTPUT, "print all scores as one JSON object, no table", "--json")] = False,
    output: Annotated[
        Path | None, opt.option(opt.OUTPUT, "file of all scores as JSON, in place of the table", metavar="FILE")
    ] = None,
    batch_size: opt.BatchSize = None,
    device: opt.Device = None,
    base: opt.SavedBase = None,
    revision: opt.SavedRevision = None,
    settings: Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="how labels are read")] = None,
    reading: Any = None,
) -> None:
    """Score a saved classifier on labeled text, and warn of rows that it has learned from."""
    start_log()
    options = opt.config_of(reading, settings, ("data", "settings", "split", "further", "batch_size"))
    opened = split_first(model_dir, data, split, options)

    from nlptransfer.classifier import Classifier
    from nlptransfer.data import data_settings, load_split
    from nlptransfer.files import write_json
    from nlptransfer.results import read_learned, share_learned

    classifier = Classifier.load(model_dir, base, device=device, revision=revision)
    rows = load_split(opened, classifier.labels, data_settings(None, options), split, classifier.text_columns)
    scores = classifier.score(rows, metric or (), batch_size)
    if output is not None:
        write_json(output, scores)
    elif as_json:
        say(json.dumps(scores, indent=2, ensure_ascii=False))
    else:
        show_scores(scores, classifier.labels, len(rows), data)
    learned = read_learned(Path(model_dir))
    if learned is not None and (share := share_learned(learned, rows.texts)):
        say(
            f"warning: about {max(1, round(share * len(rows))):,} of these {len(rows):,} rows were used in training, "
            "so the scores are too high: score it on rows that it has not seen",
            err=True,
        )


@app.command("bases", epilog=opt.examples("bases"))
def bases_verb() -> None:
    """List the encoders and word vectors that Python packages hold: no hub is needed for them."""
    from nlptransfer.cli.terminal import show_bases

    show_bases()


@app.command("report", epilog=opt.examples("report runs/reviews", "report runs/reviews reviews.csv"))
def report_verb(
    run: Annotated[Path, Argument(help="a run's folder, or a comparison's")],
    data: Annotated[str | None, Argument(help="what it was trained on: shows mistakes with their texts")] = None,
) -> None:
    """Write report.html into a folder: scores with intervals, calibration, mistakes, cost, settings; one file."""
    start_log()
    folder_first(run)

    from nlptransfer.report import report_on

    say(f"written: {report_on(run, data)}")


@vectors_app.command("train", epilog=opt.examples("vectors train texts.txt vectors.txt --dimensions 100"))
@opt.reads(opt.TEXTS_READING)
def train_vectors_verb(
    texts: Annotated[str, Argument(help="file of texts")],
    output: opt.VectorsFile,
    dimensions: Annotated[int, Option(metavar="N", help="numbers of a vector")] = 100,
    epochs: Annotated[int, Option(metavar="N", help="passes over the texts")] = 5,
    min_count: Annotated[int, Option(metavar="N", help="occurrences from which a word gets a vector")] = 5,
    window: Annotated[int, Option(metavar="N", help="words of context on each side")] = 5,
    seed: Annotated[int, Option(metavar="N", help="of the initialization and the sampling")] = 0,
    reading: Any = None,
) -> None:
    """Train word vectors on texts of your own (gensim Word2Vec, skip-gram)."""
    from nlptransfer.vectors import save_vectors, train_vectors

    def make() -> None:
        corpus = list(_texts(texts, reading))
        words, matrix = train_vectors(
            corpus, dimensions=dimensions, epochs=epochs, min_count=min_count, window=window, seed=seed
        )
        save_vectors(output, words, matrix)
        say(f"{output}: {len(words)} words of {matrix.shape[1]} dimensions")

    start_log()
    _once(make)


@vectors_app.command("distill", epilog=opt.examples("vectors distill texts.txt vectors.txt"))
@opt.reads(opt.TEXTS_READING)
def distill_vectors_verb(
    texts: Annotated[str, Argument(help="file of texts whose words get a vector")],
    output: opt.VectorsFile,
    base: opt.Base = None,
    revision: opt.Revision = None,
    dimensions: Annotated[int, Option(metavar="N", help="numbers of a vector")] = 256,
    max_words: Annotated[
        int, Option(metavar="N", help="words that get one: those of the texts by frequency, then others")
    ] = 100_000,
    reading: Any = None,
) -> None:
    """Make word vectors from an encoder, for the words of a corpus and those of its own vocabulary."""
    from nlptransfer.hub import base_for, find_base
    from nlptransfer.vectors import distill_for_texts, save_vectors

    start_log()
    corpus = list(_texts(texts, reading))
    encoder = find_base(base_for(base, revision, [corpus]), revision)
    vectors = distill_for_texts(corpus, encoder, dimensions=dimensions, max_words=max_words)
    save_vectors(output, vectors.words(), vectors.matrix)
    say(f"{output}: {len(vectors)} words of {vectors.dimensions} dimensions")


@vectors_app.command("show", epilog=opt.examples("vectors show vectors.txt --word film --texts texts.txt"))
@opt.reads(opt.TEXTS_READING)
def show_vectors_verb(
    vectors: Annotated[str, Argument(help="file of word vectors, or a name of gensim's downloader")],
    word: Annotated[list[str] | None, Option(metavar="WORD", help="show its nearest neighbors")] = None,
    texts: Annotated[str | None, Option(metavar="FILE", help="file of texts: show how much of it has vectors")] = None,
    allow_pickle: opt.AllowPickle = False,
    reading: Any = None,
) -> None:
    """Size, nearest neighbors, and the share of a corpus that has vectors."""
    from nlptransfer.vectors import build_tokenizer, open_vectors, surface_words

    start_log()
    opened = open_vectors(vectors, allow_pickle=allow_pickle)
    say(f"{opened.source}: {len(opened)} words of {opened.dimensions} dimensions")
    say(f"most frequent: {' '.join(opened.words(0, 20))}")
    if texts is not None:
        words = surface_words(build_tokenizer(opened.words()), _texts(texts, reading))
        share = opened.coverage(words)
        missing = ", ".join(f"{name} {count}" for name, count in share.missing[:20])
        say(f"{texts}: {share.tokens:.1%} of the running words and {share.distinct:.1%} of the different ones")
        say(f"most frequent without a vector: {missing or 'none'}")
    for name in word or []:
        near = ", ".join(f"{other} {similarity:.2f}" for other, similarity in opened.nearest(name, 10))
        say(f"{name}: {near}")


def main() -> None:
    """Run the command line of the package."""
    guarded(app)


def guarded(verb: Callable[[], Any]) -> None:
    """Run a command line: an error on purpose is one line, and exit code 2."""
    give_way_soon()
    try:
        with printable():
            verb()
    except Exception as error:
        on_purpose = isinstance(error, NlpTransferError)
        speaker = _take_turn(on_purpose)
        if not on_purpose:
            raise
        say(wrapped(visible(f"error{speaker}: {error}", breaks=False)), err=True)
        sys.exit(2)


def _texts(source: str, reading: Mapping[str, Any]) -> Iterator[str]:
    from nlptransfer.data import data_settings, read_texts

    settings = data_settings(None, reading)
    return read_texts(source, settings.text_column, settings)


def _once(work: Callable[[], None]) -> None:
    """Leave to the main process what all of several would do alike; the others wait until it is done."""
    if not _is_one_of_several():
        return work()
    from nlptransfer import distributed

    distributed.on_main(work)


def _is_one_of_several() -> bool:
    # The launcher's word: it needs no import, and is there before the processes know each other.
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def _take_turn(on_purpose: bool) -> str:
    """Wait until this process may say its error, and return its rank in words unless it is the first.

    Of several processes one speaks: the first of its machine; an error on purpose at once, any other after a while,
    for it may only have lost sight of one that ended. A launcher stops the others as soon as one has ended.
    """
    if not _is_one_of_several():
        return ""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    time.sleep((0 if first else SECONDS_FOR_FIRST) + (0 if on_purpose else SECONDS_FOR_CAUSE))
    return "" if first else f" (rank {os.environ.get('RANK', '?')})"
