"""iNaturalist 2018 by LDAM-DRW: 8142 species, long-tailed by nature.

    rfd train --config=classify_inaturalist --config.data.root=/data/tfds \
        --config.validation.root=/data/tfds --workdir=/tmp/inaturalist

reads TensorFlow Datasets' i_naturalist2018, prepared in the folder `root`. The largest margin is 0.3, as the
authors of LDAM suggest for it; schedule and augmentation are those of
configs/classify/classify_imagenet_lt.py.
"""

from rfd_tf.configs.classify import classify_imagenet_lt


def get_config():
    config = classify_imagenet_lt.get_config()
    for part, split in ((config.data, "train"), (config.validation, "validation")):
        part.source = "tfds"
        part.name = "i_naturalist2018"
        part.split = split
    config.classifier.max_margin = 0.3
    return config
