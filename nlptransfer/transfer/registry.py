"""The strategies by name: the command line and finetune() read them here. Imports none of them."""

from typing import TYPE_CHECKING

from nlptransfer.registry import Registry

if TYPE_CHECKING:
    from nlptransfer.transfer.base import Transfer

_PLACES = {
    "direct": "nlptransfer.transfer.direct:Direct",
    "copy": "nlptransfer.transfer.direct:Copy",
    "sequential": "nlptransfer.transfer.sequential:Sequential",
    "joint": "nlptransfer.transfer.joint:Joint",
    "select_features": "nlptransfer.transfer.select_features:SelectFeatures",
    "relational": "nlptransfer.transfer.relational:Relational",
    "reweight": "nlptransfer.transfer.direct:Reweight",
    "coral": "nlptransfer.transfer.alignment:Coral",
    "mmd": "nlptransfer.transfer.alignment:Mmd",
    "dann": "nlptransfer.transfer.alignment:Dann",
    "selftrain": "nlptransfer.transfer.self_training:SelfTrain",
    "adapt": "nlptransfer.transfer.adapt:Adapt",
    "pretrain": "nlptransfer.transfer.pretraining:Pretrain",
    "contrastive": "nlptransfer.transfer.contrastive:Contrastive",
}
_LABEL_FREE = {"reweight", "coral", "mmd", "dann", "selftrain", "adapt"}
"""Strategies that see no label of the target where there is a source."""
TRANSFERS: "Registry[Transfer]" = Registry("transfer", "nlptransfer.transfers", _PLACES)
register_transfer = TRANSFERS.register


def transfer_classes(names: str) -> "list[type[Transfer]]":
    """Find the strategies of a name, or of several with ">>" between them; raise a SettingError where there is none."""
    return [TRANSFERS.find(name) for name in _parts(names)]


def may_lack_labels(names: str) -> bool:
    """Tell, without an import, whether rows of the target need no labels for these strategies, or perhaps none.

    Nobody knows that of a strategy of another package. A SettingError where there is no such strategy.
    """
    for name in _parts(names):
        TRANSFERS.check(name)
    return any(name in _LABEL_FREE or name not in _PLACES for name in _parts(names))


def _parts(names: str) -> list[str]:
    return [name.strip() for name in names.split(">>")]
