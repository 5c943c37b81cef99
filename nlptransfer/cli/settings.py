"""The verb settings: every setting in words. It does not know what a setting does."""

from collections import ChainMap
from collections.abc import Mapping
from typing import Annotated, Any, cast

from typer import Argument

from nlptransfer.cli.terminal import show_settings
from nlptransfer.errors import SettingError, nearest


def settings_classes() -> Mapping[str, type]:
    """Return the classes of settings of finetune by name: data, training, routes, transfers. Imports none."""
    from nlptransfer.data import DataSettings
    from nlptransfer.routes import ROUTES
    from nlptransfer.training import TrainingSettings
    from nlptransfer.transfer import TRANSFERS

    # Its names come from the last to the first.
    return ChainMap(cast(Any, TRANSFERS), cast(Any, ROUTES), {"data": DataSettings, "training": TrainingSettings})


def settings_verb(
    name: Annotated[str | None, Argument(metavar="NAME", help="data, training, a route or a transfer; or all")] = None,
) -> None:
    """List settings, for --set and for Python: what each means, what it may be, its default."""
    classes = settings_classes()
    if name is not None and name not in classes:
        raise SettingError(f"settings {name!r}: {nearest(name, classes)}")
    for each in classes if name is None else [name]:
        show_settings(each, classes[each])
