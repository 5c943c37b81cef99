"""Run a recipe: a verb with its data and settings filled in."""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from nlptransfer.cli.app import guarded
from nlptransfer.cli.finetuning import finetune
from nlptransfer.cli.options import Verbs
from nlptransfer.errors import SettingError


def recipe(*data: str | Path, variants: Sequence[dict[str, Any]] = ({},), **defaults: Any) -> None:
    """Run the verb finetune on these data, with the settings of each variant and those that all runs share."""
    run_verb(finetune([str(source) for source in data], variants, **defaults), sys.modules["__main__"].__doc__)


def run_verb(verb: Callable[..., None], description: str | None, extra: str | None = None) -> None:
    """Run a script's function as a command line of its own; a package that it imports may belong to an extra."""

    @wraps(verb)
    def call(*values: Any, **named: Any) -> None:
        try:
            verb(*values, **named)
        except ModuleNotFoundError as error:
            if extra is None:
                raise
            raise SettingError(f"{error.name}: not installed: pip install 'nlptransfer[{extra}]'") from error

    single = Verbs(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    # Click wraps a paragraph unless it begins with \b: the commands of a recipe's description stay as they are.
    text = (description or "").strip().replace("\n\n", "\n\n\b\n")
    single.command(help=text)(call)
    guarded(single)
