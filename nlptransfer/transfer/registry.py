"""The table of strategies."""

from nlptransfer.errors import SettingError, nearest
from nlptransfer.transfer.adaptation import Adapt, Coral, Dann, Mmd, Reweight
from nlptransfer.transfer.base import Transfer
from nlptransfer.transfer.contrastive import Contrastive
from nlptransfer.transfer.pretraining import Pretrain
from nlptransfer.transfer.self_training import SelfTrain
from nlptransfer.transfer.supervised import Copy, Direct, Joint, Relational, SelectFeatures, Sequential

KINDS = (
    Direct,
    Copy,
    Sequential,
    Joint,
    SelectFeatures,
    Relational,
    Reweight,
    Coral,
    Mmd,
    Dann,
    SelfTrain,
    Adapt,
    Pretrain,
    Contrastive,
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
