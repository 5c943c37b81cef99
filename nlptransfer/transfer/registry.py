"""The strategies by name: the command line and finetune() read them here. Imports none of them."""

from typing import TYPE_CHECKING

from nlptransfer.registry import Registry

if TYPE_CHECKING:
    from nlptransfer.transfer.base import Transfer

TRANSFERS: "Registry[Transfer]" = Registry(
    "transfer",
    "nlptransfer.transfers",
    {
        "direct": "nlptransfer.transfer.supervised:Direct",
        "copy": "nlptransfer.transfer.supervised:Copy",
        "sequential": "nlptransfer.transfer.supervised:Sequential",
        "joint": "nlptransfer.transfer.supervised:Joint",
        "select_features": "nlptransfer.transfer.supervised:SelectFeatures",
        "relational": "nlptransfer.transfer.supervised:Relational",
        "reweight": "nlptransfer.transfer.adaptation:Reweight",
        "coral": "nlptransfer.transfer.adaptation:Coral",
        "mmd": "nlptransfer.transfer.adaptation:Mmd",
        "dann": "nlptransfer.transfer.adaptation:Dann",
        "selftrain": "nlptransfer.transfer.self_training:SelfTrain",
        "adapt": "nlptransfer.transfer.adaptation:Adapt",
        "pretrain": "nlptransfer.transfer.pretraining:Pretrain",
        "contrastive": "nlptransfer.transfer.contrastive:Contrastive",
    },
)
"""The strategies by name."""
register_transfer = TRANSFERS.register
THEN = ">>"
"""Between the names of strategies that come one after the other."""


def transfer_classes(names: str) -> "list[type[Transfer]]":
    """The strategies of a name, or of several with ">>" between them.

    Raises:
        SettingError: there is none; the nearest is named.
    """
    return [TRANSFERS.find(name.strip()) for name in names.split(THEN)]
