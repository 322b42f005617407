"""Classifiers on long-tailed CIFAR-10 from scratch: cross-entropy, logit adjustment, LDAM, LDAM + DRW.

    rfd sweep --config=long_tail_losses --config.data=cifar10_lt.npz --workdir=/tmp/losses

`data` is a file of arrays train_images, train_labels, test_images and test_labels. The full recipe takes 200
epochs; `recipe` holds the flags of another, or of an auxiliary task for all of them (see
`finetune.localized_rotation` in configs/evaluate/base.py).
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
    config.kind = "sweep"
    config.seeds = (0, 1, 2)
    config.data = "cifar10_lt.npz"
    config.recipe = ""
    config.variants = {loss: (f"{_COMMAND} \"--config.classifier.losses=('{loss}',)\"",) for loss in _LOSSES}
    return config
