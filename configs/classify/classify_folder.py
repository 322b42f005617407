"""Your own labelled images, long-tailed or made so: one folder per class.

    rfd train --config=classify_folder --config.data.root=/data/images/train \
        --config.validation.root=/data/images/val --workdir=/tmp/classified

A balanced folder becomes long-tailed by `--config.data.long_tail.profile=exp` (or `step`) and `.ratio=100`.
From a self-supervised backbone of `rfd train --config=image_folder`, whose preprocessing this shares:

        --config.init=/tmp/images/backbone.keras --config.finetune.rate_factor=0.1
"""

from rfd_tf.configs.classify import classify_imagenet_lt


def get_config():
    config = classify_imagenet_lt.get_config()
    config.batch_size = 64
    config.epochs = 100
    config.checkpoint_steps = 100
    for part in (config.data, config.validation):
        part.source = "image_folder"
        part.root = ""
        part.split = "train"  # its root itself
        part.on_error = "skip"
        part.exif_orientation = True
    config.backbone.name = "alexnet"
    config.backbone.features = ("fc_block",)
    config.backbone.feature = "fc_block"
    config.classifier.drw_start_epoch = 80
    config.optimizer.milestones = ((50, 1e-2), (80, 1e-3), (100, 1e-4))
    config.optimizer.weight_decay = 5e-4
    return config
