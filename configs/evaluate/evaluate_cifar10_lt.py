"""All classifier losses on the frozen features of long-tailed CIFAR-10: many/medium/few in one table.

From a file of arrays train_images, train_labels, test_images and test_labels, and the folder of a run of
`rfd train --config=cifar10_lt` or any other model:

    rfd evaluate --model=/tmp/cifar10_lt --protocol=linear --config=evaluate_cifar10_lt \
        --config.data.root=cifar10_lt.npz --config.validation.root=cifar10_lt.npz

Balanced arrays are made long-tailed by `--config.data.long_tail.profile=exp`. The features are computed once
and kept on disk. With augmentation: `--config.input=images`. The recipe is that of the linear probes,
shortened to 40 epochs for so small a set.
"""

from rfd_tf.configs.evaluate import base


def get_config():
    config = base.get_config()
    config.batch_size = 128
    config.data.source = "npz"
    config.validation.source = "npz"
    config.validation.split = "test"
    config.preprocessing.train = "pad_crop"
    config.input = "cached"
    config.features = ("features",)  # of `rfd train --config=cifar10_lt` try ("pool",) as well
    config.epochs = 40
    config.classifier.losses = ("all",)
    config.classifier.zero_start = True
    config.classifier.drw_start_epoch = 32
    config.optimizer.milestones = ((3, 1e-2), (15, 2e-3), (28, 4e-4), (40, 8e-5))
    config.knn.k = (20, 200)
    return config
