"""Your own labelled pictures: one folder per class for training, one per class for testing.

    rfd evaluate --model=/tmp/pictures --protocol=knn --config=evaluate_folder \
        --config.data.root=/data/pictures/train --config.validation.root=/data/pictures/val

The recipe is for some thousand pictures: smaller batches, so that an epoch has steps enough to learn from,
fewer epochs, since a linear classifier soon fits so few pictures entirely, and fewer neighbours, since 200
would be more than most classes have.
"""

from configs.evaluation import base


def get_config():
    config = base.get_config()
    config.batch_size = 32
    config.data.on_error = "skip"
    config.validation.split = "train"  # its root itself
    config.validation.on_error = "skip"
    config.epochs = 30
    config.classifier.zero_start = True
    config.classifier.drw_start_epoch = 24
    config.optimizer.milestones = ((12, 1e-2), (24, 2e-3), (30, 4e-4))
    config.knn.k = (20,)
    return config
