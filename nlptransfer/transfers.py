"""The table of strategies."""

from nlptransfer.adaptation import Adapt, Coral, Dann, Mmd, Reweight, SelfTrain
from nlptransfer.contrast import Contrast
from nlptransfer.errors import SettingError, nearest
from nlptransfer.pretraining import Pretrain
from nlptransfer.strategies import Copy, Direct, Joint, Relate, Select, Sequential
from nlptransfer.transfer import Transfer

KINDS = (
    Direct,
    Copy,
    Sequential,
    Joint,
    Select,
    Relate,
    Reweight,
    Coral,
    Mmd,
    Dann,
    SelfTrain,
    Adapt,
    Pretrain,
    Contrast,
)
TRANSFERS: dict[str, type[Transfer]] = {kind.name: kind for kind in KINDS}
"""The strategies, by name."""
THEN = ">>"
"""Between the names of strategies that come one after the other."""


def transfer_classes(names: str) -> list[type[Transfer]]:
    """The strategies of a name, or of several with ">>" between them.

    Raises:
        SettingError: there is none; the nearest is named.
    """
    found = [name.strip() for name in names.split(THEN)]
    for name in found:
        if name not in TRANSFERS:
            raise SettingError(f"unknown transfer {name!r}: {nearest(name, TRANSFERS)}")
    return [TRANSFERS[name] for name in found]
