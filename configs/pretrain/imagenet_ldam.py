"""ImageNet pretraining with the imbalanced extension: LDAM margins and DRW on the rotation head.

The effective counts of the four rotations come from the rotation probabilities:

    rfd train --config=imagenet_ldam --config.data.root=/data/imagenet \
        --config.validation.root=/data/imagenet --config.rotation_probabilities.path=prob.dat \
        --workdir=/tmp/imagenet_ldam
"""

from rfd_tf.configs.pretrain import imagenet


def get_config():
    config = imagenet.get_config()
    config.method.rotation_head = "ldam"
    return config
