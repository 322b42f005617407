"""RFD's linear probes on Places205, from the original's CSV lists.

The folder holds trainvalsplit_places205/{train,val}_places205.csv and, below
data/vision/torralba/deeplearning/images256/, the images of 256 x 256 pixels:

    rfd evaluate --model=/tmp/imagenet --protocol=linear --config=linear_places205 \
        --config.data.root=/data/places205 --config.validation.root=/data/places205

Places205 can no longer be had from its makers; `linear_places365` takes its successor.
"""

from rfd_tf.configs.evaluate import linear_imagenet


def get_config():
    config = linear_imagenet.get_config()
    config.data.source = "places205"
    config.validation.source = "places205"
    return config
