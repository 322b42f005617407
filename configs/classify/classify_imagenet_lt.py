"""ImageNet-LT (Liu et al., CVPR 2019) by LDAM-DRW: 1000 classes of 1280 to 5 images.

    rfd train --config=classify_imagenet_lt --config.data.root=/data/imagenet \
        --config.validation.root=/data/imagenet --workdir=/tmp/imagenet_lt

reads the published lists `ImageNet_LT_train.txt` and `ImageNet_LT_test.txt` (rows `path label`), which must
lie in the folder that their paths are relative to. Places-LT is the same with other lists:

        --config.data.split=Places_LT_train --config.validation.split=Places_LT_test

Losses, margins and momentum are those of configs/classify/classify.py; schedule and augmentation
are ImageNet's usual ones, not a published recipe of LDAM-DRW.
"""

from rfd_tf.configs.classify import classify


def get_config():
    config = classify.get_config()
    config.batch_size = 256
    config.epochs = 90
    config.checkpoint_steps = 500

    for part, split in ((config.data, "ImageNet_LT_train"), (config.validation, "ImageNet_LT_test")):
        part.source = "image_list"
        part.name = ""
        part.split = split
        part.exif_orientation = False  # as the literature reads them
    config.data.long_tail.profile = ""

    config.preprocessing.image_size = 224
    config.preprocessing.train = "random_resized_crop"
    config.preprocessing.resize = 256
    config.preprocessing.mean = (0.485, 0.456, 0.406)
    config.preprocessing.std = (0.229, 0.224, 0.225)

    config.backbone.name = "keras.applications.ResNet50"
    config.backbone.features = ()

    config.classifier.drw_start_epoch = 72
    config.optimizer.milestones = ((60, 1e-1), (80, 1e-2), (90, 1e-3))
    config.optimizer.weight_decay = 1e-4
    return config
