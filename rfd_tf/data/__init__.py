"""Images from files, arrays and builders to batches. See `open_source` and `training_dataset`."""

from rfd_tf.data.arrays import ArraySource, digits, load_npz
from rfd_tf.data.augmentation import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD
from rfd_tf.data.bad_images import BadImageError, find_bad_images, first_bad_image, valid_indices
from rfd_tf.data.image_folder import FlatFolder, ImageFolder
from rfd_tf.data.image_list import ImageList, places205
from rfd_tf.data.open_source import (
    VOC_SOURCES,
    VocData,
    VocSource,
    clipping_note,
    open_images,
    open_source,
    open_voc,
    source_kind,
)
from rfd_tf.data.pipeline import (
    LOCALIZED_ROTATIONS,
    evaluation_dataset,
    localized_rotation,
    random_crops_dataset,
    training_dataset,
)
from rfd_tf.data.prepared import PreparedSource, PrepareOptions, prepare
from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.data.schedule import Schedule, steps_per_epoch, training_indices
from rfd_tf.data.source import Source, Subset, host_constant, long_tailed
from rfd_tf.data.tfds_source import TfdsKeys, TfdsSource, VocTfds
from rfd_tf.data.voc import VOC_CLASSES, VocDevkit, VocError
from rfd_tf.imbalance import load_rotation_probabilities, save_rotation_probabilities

__all__ = [
    "CIFAR_MEAN",
    "CIFAR_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "LOCALIZED_ROTATIONS",
    "VOC_CLASSES",
    "VOC_SOURCES",
    "ArraySource",
    "BadImageError",
    "FlatFolder",
    "ImageFolder",
    "ImageList",
    "PrepareOptions",
    "PreparedSource",
    "Preprocessing",
    "Schedule",
    "Source",
    "Subset",
    "TfdsKeys",
    "TfdsSource",
    "VocData",
    "VocDevkit",
    "VocError",
    "VocSource",
    "VocTfds",
    "clipping_note",
    "digits",
    "evaluation_dataset",
    "find_bad_images",
    "first_bad_image",
    "host_constant",
    "load_npz",
    "load_rotation_probabilities",
    "localized_rotation",
    "long_tailed",
    "open_images",
    "open_source",
    "open_voc",
    "places205",
    "prepare",
    "random_crops_dataset",
    "save_rotation_probabilities",
    "source_kind",
    "steps_per_epoch",
    "training_dataset",
    "training_indices",
    "valid_indices",
]
