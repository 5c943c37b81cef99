"""Define the options that verbs share, and read what they hold; nothing here knows what a verb does with them."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option, Typer
from typer.core import TyperCommand, TyperGroup

from nlptransfer.cli.ending import stoppable
from nlptransfer.errors import SettingError
from nlptransfer.routes import ROUTES
from nlptransfer.transfer import TRANSFERS

PANELS = DATA_PANEL, TRAINING, TRANSFER, OUTPUT = "Data", "Training", "Transfer", "Output"
"""Groups of options in the help."""

GROUPS = {
    "Before training": ("audit", "rank"),
    "Training": ("finetune", "compare", "gap"),
    "With a trained classifier": ("predict", "evaluate", "explain", "report"),
    "Sharing": ("push", "export", "average"),
    "What there is": ("settings", "bases", "vectors"),
}
"""Groups of verbs in the help, in the order in which they are needed."""

TABLES: dict[str, Mapping[str, Any]] = {"{routes}": ROUTES, "{transfers}": TRANSFERS}
"""What stands in a help for the names in a table: those of other packages are looked for where that help is shown."""


def option(panel: str, help: str, *names: str, metavar: str | None = None, default: str | None = None) -> Any:
    """Return an option in a group of the help, with what it is where it is not set."""
    return Option(*names, help=help, metavar=metavar, show_default=default or True, rich_help_panel=panel)


DATA = Argument(metavar="DATA", help="hub id, file of rows, or folder of split files")
ModelDir = Annotated[
    str, Argument(metavar="MODEL", help="a run's folder, a saved classifier, or one on the hub (owner/name)")
]
VectorsFile = Annotated[Path, Argument(help="vectors to write: .txt, .txt.gz or .bin, as word2vec has them")]
Base = Annotated[
    str | None,
    option(
        TRAINING,
        "encoder (hub id or folder), file of word vectors, or auto for the best at hand",
        metavar="BASE",
        default="the first of nlptransfer bases",
    ),
]
Revision = Annotated[str | None, option(TRAINING, "commit, branch or tag of a base on the hub", metavar="NAME")]
SavedBase = Annotated[
    str | None, Option("--base", metavar="BASE", help="the model's base, where it is not found by itself")
]
SavedRevision = Annotated[
    str | None, Option("--revision", metavar="NAME", help="commit, branch or tag of a classifier on the hub")
]
BatchSize = Annotated[
    int | None, Option(metavar="N", help="most texts in one pass through the model", show_default="by length")
]
Device = Annotated[
    str | None, Option(metavar="NAME", help="cpu, cuda, cuda:1, mps", show_default="a GPU where there is one")
]
Metric = Annotated[list[str] | None, option(OUTPUT, "a further evaluate metric to score with", metavar="NAME")]
AllowPickle = Annotated[bool, Option("--allow-pickle", help="open gensim's own files, which can run code")]
OutputDir = Annotated[
    Path | None, option(OUTPUT, "the folder to write", metavar="DIR", default="one under runs/, named after the data")
]
Overwrite = Annotated[bool, option(OUTPUT, "throw away what was made there with other settings", "--overwrite")]
TakeLock = Annotated[bool, option(OUTPUT, "work there although another machine has its lock", "--take-lock")]
Seeds = Annotated[int, option(TRAINING, "runs of each that is trained", metavar="N")]
MaxTrainRows = Annotated[int | None, option(DATA_PANEL, "most labeled rows to learn from", metavar="N", default="all")]
Set = Annotated[
    list[str] | None, option(TRAINING, "any setting that nlptransfer settings lists", "--set", metavar="KEY=VALUE")
]
Quiet = Annotated[bool, option(OUTPUT, "show no progress and no log", "--quiet")]


def examples(*commands: str) -> str:
    """Return the end of a help: commands that show how a verb is used."""
    return "\n".join(["Examples:", *(f"  nlptransfer {command}" for command in commands)])


def _reading(metavar: str, text: str, default: str | None = None) -> Any:
    return Annotated[str | None, option(DATA_PANEL, text, metavar=metavar, default=default)]


TRAINING_READING = {
    "text_column": _reading("C[,C2]", "column of the texts, or several", "found by itself"),
    "label_column": _reading("C[,C2]", "column of the labels, or several of 0 and 1", "found by itself"),
    "weight_column": _reading("C", "column of the weight of each row in the loss"),
    "group_column": _reading("C", "column whose rows of one value stay on one side of the splits"),
    "separator": _reading("CHAR", "what stands between cells", "found by itself"),
    "encoding": _reading("NAME", "encoding of the characters, as cp1252", "UTF-8, or UTF-16 by its mark"),
    "header": _reading("true|false", "whether the first line names the columns", "found by itself"),
    "quoting": _reading("minimal|none", "whether quotes enclose cells", "found by itself"),
    "escape": _reading("CHAR", "what stands before a quote that is part of a cell, where quotes are not doubled"),
    "sheet": _reading("NAME", "sheet of a spreadsheet, or its number", "the one with rows"),
    "max_unpacked_gb": _reading("N", "most gigabytes that a packed file may unpack to", "1, or 100 times its size"),
}
"""Options of how rows to learn from are read, by the setting that each fills."""
ROWS_READING = {
    name: option for name, option in TRAINING_READING.items() if name not in ("weight_column", "group_column")
}
"""Options of how labeled rows are read."""
TEXTS_READING = {name: option for name, option in ROWS_READING.items() if name != "label_column"}
"""Options of how texts are read."""


def reads(options: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb options of how rows are read; those that are set reach it as the mapping ``reading``."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = [one for one in signature(verb, eval_str=True).parameters.values() if one.name != "reading"]
        added = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, kind in options.items()
        ]

        @wraps(verb)
        def called(**values: Any) -> None:
            reading = {name: value for name in options if (value := values.pop(name, None)) is not None}
            verb(**values, reading=reading)

        called.__signature__ = signature(verb).replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in (*own, *added)}
        return called

    return decorate


def _say_values(parameters: Sequence[Any]) -> None:
    """Write arguments in capitals, and no value beside options that take none."""
    for one in parameters:
        if getattr(one, "is_flag", False):
            one.metavar = ""
        elif one.param_type_name == "argument":
            one.metavar = one.metavar or one.name.upper()


class Verb(TyperCommand):
    """A command that can be stopped, and refuses an option that is given twice and holds one value.

    The last would win in silence. In its help an option without a value has none, and --help stands with the others.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        _say_values(self.params)

    def get_help_option(self, ctx: Any) -> Any:
        found = super().get_help_option(ctx)
        if found is not None:
            found.metavar = ""
            if OUTPUT in {getattr(one, "rich_help_panel", None) for one in self.params}:
                found.rich_help_panel = OUTPUT
        return found

    def get_params(self, ctx: Any) -> Any:
        parameters: list[Any] = super().get_params(ctx)
        for one, (word, table) in product(parameters, TABLES.items()):
            if one.help and word in one.help:
                one.help = one.help.replace(word, ", ".join(table))
        return parameters

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, used = self.make_parser(ctx).parse_args(args=[*args])
        for parameter, count in Counter(used).items():
            if count > 1 and parameter.param_type_name == "option" and not parameter.multiple:
                ctx.fail(f"{parameter.opts[0]}: expected once, found {count} times; several values go with commas")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with stoppable():
            return super().invoke(ctx)


class Group(TyperGroup):
    """Verbs, in the help by their groups."""

    def list_commands(self, ctx: Any) -> list[str]:
        for group, names in GROUPS.items():
            for name in names:
                if name in self.commands:
                    self.commands[name].rich_help_panel = group  # type: ignore[attr-defined]
        order = [name for names in GROUPS.values() for name in names]
        return sorted(self.commands, key=lambda name: order.index(name) if name in order else len(order))

    def get_params(self, ctx: Any) -> Any:
        parameters = super().get_params(ctx)
        _say_values(parameters)
        return parameters


class Verbs(Typer):
    """A command line whose commands are each a :class:`Verb`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=Group, **options)

    def command(self, name: str | None = None, **options: Any) -> Any:
        return super().command(name, cls=Verb, **options)


def config_of(options: Mapping[str, Any], settings: list[str] | None, arguments: Collection[str]) -> dict[str, Any]:
    """Return the options that are not None, and those of --set, which must name neither these nor ``arguments``."""
    from nlptransfer.settings import pairs

    chosen = {name: value for name, value in options.items() if value is not None}
    further = pairs(settings, arguments)
    if twice := sorted(chosen.keys() & further):
        raise SettingError(f"--set {twice[0]}: expected once, found it as an option too")
    return chosen | further


def listed(name: str, text: str | None, kind: type = str) -> Any:
    """Read values that commas separate, as in "100,300"; None if there are none."""
    from nlptransfer.settings import convert

    return None if text is None else convert(name, text, tuple[kind, ...])  # type: ignore[valid-type]
