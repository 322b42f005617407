"""RFD's pretraining on ImageNet, exactly: AlexNet, 245 epochs, batch 192.

The folder holds train/WNID/*.JPEG and val/WNID/*.JPEG. With the file of rotation probabilities
(`rfd zoo download` or your own) the positive-unlabelled weights act from epoch 210 on:

    rfd train --config=imagenet --config.data.root=/data/imagenet --config.validation.root=/data/imagenet \
        --config.rotation_probabilities.path=prob.dat --workdir=/tmp/imagenet

From TensorFlow Datasets instead (stored as array_record):

    rfd train --config=imagenet --config.data.source=tfds --config.data.name=imagenet2012 \
        --config.validation.source=tfds --config.validation.name=imagenet2012 \
        --config.validation.split=validation --workdir=/tmp/imagenet
"""

from rfd_tf.configs import base


def get_config():
    config = base.get_config()
    config.checkpoint_steps = 1000
    config.backbone.norm_scale_init = "uniform"
    config.validation.source = "image_folder"
    config.validation.split = "val"
    # As the original and the literature read ImageNet.
    config.data.exif_orientation = config.validation.exif_orientation = False
    config.knn.every_epochs = 5
    return config
