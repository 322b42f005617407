"""Your own images: a folder of class folders, or, with `data.source=flat_folder`, of unlabelled images.

    rfd train --config=image_folder --config.data.root=/data/images --workdir=/tmp/images

With a labelled folder to validate on (losses, decoupling, kNN accuracy):

    rfd train --config=image_folder --config.data.root=/data/images/train \
        --config.validation.source=image_folder --config.validation.root=/data/images/val \
        --workdir=/tmp/images
"""

from rfd_tf.configs import base


def get_config():
    config = base.get_config()
    config.epochs = 100
    config.batch_size = 64
    config.checkpoint_steps = 100
    config.data.on_error = "skip"
    config.validation.split = "train"  # its root itself
    config.validation.on_error = "skip"
    base.tell_instances_apart(config)
    config.optimizer.milestones = ((50, 1e-2), (80, 1e-3), (100, 1e-4))
    config.rotation_probabilities.start_epoch = 80
    config.ldam.start_epoch = 80
    return config
