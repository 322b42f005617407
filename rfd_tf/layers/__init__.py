"""Layers. They run on any Keras backend."""

from rfd_tf.layers.cosine_dense import CosineDense
from rfd_tf.layers.fused_batch_norm import fuse_batch_norm
from rfd_tf.layers.memory_bank import MemoryBank
from rfd_tf.layers.pooling import AdaptiveMaxPool2D, CeilMaxPooling2D, pool_by_slices
from rfd_tf.layers.roi_max_pool import RoIMaxPool
from rfd_tf.layers.space_to_depth import use_space_to_depth

__all__ = [
    "AdaptiveMaxPool2D",
    "CeilMaxPooling2D",
    "CosineDense",
    "MemoryBank",
    "RoIMaxPool",
    "fuse_batch_norm",
    "pool_by_slices",
    "use_space_to_depth",
]
