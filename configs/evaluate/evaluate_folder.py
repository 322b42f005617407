"""Your own labelled images: one folder per class for training, one per class for testing.

    rfd evaluate --model=/tmp/images --protocol=knn --config=evaluate_folder \
        --config.data.root=/data/images/train --config.validation.root=/data/images/val

The recipe is for some thousand images: the published batches and epochs, nearly, but the high rate for most
of them, since an epoch has few steps; and fewer neighbours, since 200 would be more than most classes have.
"""

from rfd_tf.configs.evaluate import base


def get_config():
    config = base.get_config()
    config.batch_size = 128
    config.data.on_error = "skip"
    config.validation.split = "train"  # its root itself
    config.validation.on_error = "skip"
    config.epochs = 65
    config.classifier.zero_start = True
    config.classifier.drw_start_epoch = 52
    config.optimizer.milestones = ((40, 1e-2), (55, 2e-3), (65, 4e-4))
    config.knn.k = (20,)
    return config
