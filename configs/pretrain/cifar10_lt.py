"""Long-tailed CIFAR-10 (exp, ratio 100) with a CIFAR ResNet-14 of twice the usual width.

    rfd train --config=cifar10_lt --workdir=/tmp/cifar10_lt

reads TensorFlow Datasets' cifar10, which must have been prepared (`tfds build cifar10`). From a file of
arrays train_images, train_labels, test_images and test_labels, long-tailed already:

    rfd train --config=cifar10_lt --config.data.source=npz --config.data.root=cifar10_lt.npz \
        --config.data.long_tail.profile= --config.validation.source=npz \
        --config.validation.root=cifar10_lt.npz --workdir=/tmp/cifar10_lt
"""

from rfd_tf.configs import base


def get_config():
    config = base.get_config()
    config.epochs = 200
    config.batch_size = 128
    config.checkpoint_steps = 50

    config.data.source = "tfds"
    config.data.name = "cifar10"
    config.data.long_tail.profile = "exp"
    config.validation.source = "tfds"
    config.validation.name = "cifar10"
    config.validation.split = "test"

    config.preprocessing.image_size = 32
    config.preprocessing.resize = 32
    config.preprocessing.min_area = 0.2
    config.preprocessing.mean = (0.4914, 0.4822, 0.4465)
    config.preprocessing.std = (0.2023, 0.1994, 0.2010)

    base.tell_instances_apart(config)

    config.backbone.name = "resnet14"
    config.backbone.features = ("block1", "block2", "block3", "pool", "fc_block")
    config.knn.feature = "pool"
    config.backbone.width = 32

    config.optimizer.milestones = ((120, 1e-1), (160, 1e-2), (200, 1e-3))
    config.optimizer.warmup_epochs = 5
    config.rotation_probabilities.start_epoch = 160
    config.ldam.start_epoch = 160
    config.knn.every_epochs = 5
    return config
