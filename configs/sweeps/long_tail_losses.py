"""Classifiers on long-tailed CIFAR-10 from scratch: cross-entropy, logit adjustment, LDAM, LDAM + DRW, LoRot.

    rfd sweep --config=long_tail_losses --config.data=cifar10_lt.npz --workdir=/tmp/losses

`data` is a file of arrays train_images, train_labels, test_images and test_labels. The full recipe takes 200
epochs; `recipe` holds the flags of another.
"""

from ml_collections import ConfigDict

_COMMAND = (
    "train --config=classify --workdir={dir} --config.seed={seed} --config.data.source=npz "
    "--config.data.root={data} --config.data.long_tail.profile= --config.validation.source=npz "
    "--config.validation.root={data} {recipe}"
)
_LOSSES = ("cross_entropy", "ldam_drw", "ldam", "logit_adjusted")


def get_config():
    config = ConfigDict()
    config.seeds = (0, 1, 2)
    config.data = "cifar10_lt.npz"
    config.recipe = ""
    config.variants = {loss: (_learning(loss),) for loss in _LOSSES}
    lorot = "\"--config.finetune.localized_rotation=('explicit',0.1)\""  # with localized rotation along
    config.variants["ldam_drw_lorot"] = (f"{_learning('ldam_drw')} {lorot}",)
    return config


def _learning(loss: str) -> str:
    return f"{_COMMAND} \"--config.classifier.losses=('{loss}',)\""
