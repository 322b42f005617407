"""A short run of the same, for some hundred images, or to see it work.

    rfd detect --model=/tmp/images --config=voc2007_small --workdir=/tmp/small_detection \
        --config.data.root=/data/VOCdevkit --config.validation.root=/data/VOCdevkit
"""

from rfd_tf.configs.detect import base


def get_config():
    config = base.get_config()
    config.steps = 1000
    config.log_steps = 50
    config.scales = (480,)
    config.longest = 1000
    config.test.short_sides = (480,)
    config.proposals.most = 1000
    config.optimizer.milestones = ((750, 1e-3), (1000, 1e-4))
    return config
