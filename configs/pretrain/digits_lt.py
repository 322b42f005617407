"""The demo: scikit-learn's 8 x 8 digits, made long-tailed; needs no download.

rfd train --config=digits_lt --workdir=/tmp/digits_lt
"""

from rfd_tf.configs import base


def get_config():
    config = base.get_config()
    config.epochs = 30
    config.batch_size = 32
    config.checkpoint_steps = 10

    config.data.source = "digits"
    config.data.long_tail.profile = "exp"
    config.data.long_tail.ratio = 10.0
    config.validation.source = "digits"
    config.validation.split = "validation"

    config.preprocessing.image_size = 32
    config.preprocessing.train = "random_resized_crop"
    config.preprocessing.min_area = 0.5
    config.preprocessing.flip = False  # a mirrored digit is another sign
    config.preprocessing.resize = 32
    config.preprocessing.mean = (0.3, 0.3, 0.3)
    config.preprocessing.std = (0.38, 0.38, 0.38)

    config.backbone.name = "resnet20"
    config.backbone.features = ("block1", "block2", "block3", "pool", "fc_block")
    config.knn.feature = "pool"
    # Grey digits have no colours to change, without which a softmax over the bank gained nothing here. NCE's
    # contrast is kept from overwhelming the other losses by a high temperature and few negatives.
    config.method.num_negatives = 16
    config.method.temperature = 0.5

    config.optimizer.milestones = ((18, 3e-2), (26, 3e-3), (30, 3e-4))
    config.rotation_probabilities.start_epoch = 18
    config.ldam.start_epoch = 18
    config.knn.k = 10
    return config
