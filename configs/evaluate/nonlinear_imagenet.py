"""RFD's non-linear probes on ImageNet: conv4 and conv5, 40 epochs, batch 192.

rfd evaluate --model=/tmp/imagenet --protocol=nonlinear --config=nonlinear_imagenet \
    --config.data.root=/data/imagenet --config.validation.root=/data/imagenet
"""

from rfd_tf.configs.evaluate import linear_imagenet


def get_config():
    config = linear_imagenet.get_config()
    config.features = ("conv4", "conv5")
    config.epochs = 40
    config.classifier.drw_start_epoch = 32
    config.optimizer.milestones = ((10, 1e-2), (20, 2e-3), (30, 4e-4), (40, 8e-5))
    return config
