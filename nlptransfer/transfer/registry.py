"""The strategies by name: the command line and finetune() read them here. Imports none of them."""

from typing import TYPE_CHECKING

from nlptransfer.registry import Registry

if TYPE_CHECKING:
    from nlptransfer.transfer.base import Transfer

TRANSFERS: "Registry[Transfer]" = Registry(
    "transfer",
    "nlptransfer.transfers",
    {
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
    },
)
register_transfer = TRANSFERS.register


def transfer_classes(names: str) -> "list[type[Transfer]]":
    """Find the strategies of a name, or of several with ">>" between them; raise a SettingError where there is none."""
    return [TRANSFERS.find(name.strip()) for name in names.split(">>")]
