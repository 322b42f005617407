"""Supervised training on long-tailed labels: the recipe of LDAM-DRW on CIFAR-10 (exp, ratio 100).

    rfd train --config=classify --workdir=/tmp/ldam_drw

reads TensorFlow Datasets' cifar10, which must have been prepared (`tfds build cifar10`). From a file of
arrays train_images, train_labels, test_images and test_labels, long-tailed already:

    rfd train --config=classify --config.data.source=npz --config.data.root=cifar10_lt.npz \
        --config.data.long_tail.profile= --config.validation.source=npz \
        --config.validation.root=cifar10_lt.npz --workdir=/tmp/ldam_drw

The alternatives: `--config.classifier.losses="('cross_entropy',)"` (see configs/evaluate/base.py), with
`--config.classifier.sampling=class_balanced` for re-sampling. To start from a backbone of
`rfd train --config=cifar10_lt`, take its depth, its width and its layers, `fc_block` among them:

        --config.init=/tmp/cifar10_lt/backbone.keras --config.backbone.name=resnet14 \
        --config.backbone.width=32 "--config.backbone.features=('block1','block2','block3','pool','fc_block')"

Reference: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019.
"""

from rfd_tf.configs.evaluate import base
from rfd_tf.configs.pretrain import cifar10_lt


def get_config():
    config = base.get_config()
    config.kind = "classify"
    augmentation = config.preprocessing  # as of evaluations: off
    for field in ("features", "input", "pool_sizes", "nonlinear", "knn", "rotation", "logistic"):
        del config[field]  # of other protocols
    config.init = ""  # start from a backbone: a .keras file or zoo:NAME
    config.epochs = 200
    config.batch_size = 128
    config.checkpoint_steps = 50

    pretraining = cifar10_lt.get_config()  # on the same data
    config.data = pretraining.data  # what it learns from
    config.validation = pretraining.validation  # what it is measured on, after every epoch
    config.preprocessing = pretraining.preprocessing  # how images are prepared, training images augmented
    config.backbone = pretraining.backbone
    for field in (
        *("color_jitter", "color_jitter_probability", "grayscale", "blur"),  # not pretraining's
        *("augment", "rand_augment_ops", "rand_augment_magnitude", "mixup_alpha"),
    ):
        config.preprocessing[field] = augmentation[field]
    del config.preprocessing.crops
    config.preprocessing.train = "pad_crop"  # 4 pixels a side
    config.preprocessing.min_area = 0.08  # of "random_resized_crop", if that is asked for
    config.backbone.name = "resnet32"
    config.backbone.features = ("block1", "block2", "block3", "pool")
    config.backbone.feature = "pool"  # what is classified
    config.backbone.width = 0
    config.classifier.losses = ("ldam_drw",)
    config.classifier.drw_start_epoch = 160
    config.finetune.rate_factor = 1.0  # lower with an `init`, to keep what it has learnt

    config.optimizer.milestones = ((160, 1e-1), (180, 1e-3), (200, 1e-5))
    config.optimizer.warmup_epochs = 5
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 2e-4
    return config
