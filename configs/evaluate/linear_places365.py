"""RFD's recipe of linear probes on Places365, the successor of Places205, from TensorFlow Datasets.

The builder must have been prepared (`tfds build places365_small --file_format=array_record`); its images
have 256 x 256 pixels. Figures do not compare with those of Places205.

    rfd evaluate --model=/tmp/imagenet --protocol=linear --config=linear_places365
"""

from rfd_tf.configs.evaluate import linear_imagenet


def get_config():
    config = linear_imagenet.get_config()
    for data in (config.data, config.validation):
        data.source = "tfds"
        data.name = "places365_small"
    config.validation.split = "validation"
    return config
