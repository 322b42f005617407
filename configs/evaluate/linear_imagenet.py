"""RFD's linear probes on ImageNet: conv1 to conv5 at once, 65 epochs, batch 192.

The folder holds train/WNID/*.JPEG and val/WNID/*.JPEG:

    rfd evaluate --model=/tmp/imagenet --protocol=linear --config=linear_imagenet \
        --config.data.root=/data/imagenet --config.validation.root=/data/imagenet

With 1 % of the labels: `--config.label_fraction=0.01`. From TensorFlow Datasets (stored as array_record):
`--config.data.source=tfds --config.data.name=imagenet2012`, and the same for `validation` with
`--config.validation.split=validation`.
"""

from rfd_tf.configs.evaluate import base


def get_config():
    config = base.get_config()
    config.checkpoint_steps = 1000
    config.preprocessing.train = "random_crop"
    config.preprocessing.resize = 256
    # As the original and the literature read ImageNet.
    config.data.exif_orientation = config.validation.exif_orientation = False
    config.features = ("conv1", "conv2", "conv3", "conv4", "conv5")
    return config
