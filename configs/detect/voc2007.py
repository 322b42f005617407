"""Fast R-CNN on PASCAL VOC 2007 as RFD's authors trained it: trainval for training, test for testing.

    rfd detect --model=zoo:rfd_alexnet_voc --config=voc2007 --workdir=/tmp/voc_detection \
        --config.data.root=/data/VOCdevkit --config.validation.root=/data/VOCdevkit

A run of `rfd train` will do for --model as well. With TensorFlow Datasets' voc/2007 (`tfds build voc/2007`)
instead of the devkit: --config.data.source=voc_tfds --config.validation.source=voc_tfds, without roots.

Own data in the devkit's folders: --config.data.classes="('robin','wren')".
"""

from rfd_tf.configs.detect import base


def get_config():
    config = base.get_config()
    # VOC's boxes are in the images as they are stored.
    config.data.exif_orientation = config.validation.exif_orientation = False
    return config
