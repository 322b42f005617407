"""Keras's layers for training on labels: RandAugment of single images, MixUp and CutMix of batches.

In Keras what a layer draws depends on a state that every call moves on. Here it follows a stateless seed and
depends on nothing else, as everything random in `rfd_tf.data`: a resumed run draws what it would have drawn.
All run in graphs and eagerly, on TensorFlow.

References: Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
NeurIPS 2020; Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix:
Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from rfd_tf.data.augmentation import pick, uniform

MIXED = ("mixup", "cutmix")  # of several images, labels included
AUGMENTATIONS = ("rand_augment", *MIXED)
# Whatever the process's dtype policy and image format are.
_PLAIN = {"dtype": "float32", "data_format": "channels_last"}


class _Draws(keras.random.SeedGenerator):
    """Gives Keras's random functions, which take no tensor as a seed, those that follow a stateless one."""

    def __init__(self):
        super().__init__(seed=0, name="draws")
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def following(self, seed: tf.Tensor) -> Iterator["_Draws"]:
        """Within, draws follow `seed` (int64 [2]) as in Keras they follow the state of a generator."""
        with self._lock:
            self._seed, self._drawn = seed, 0
            try:
                yield self
            finally:
                del self._seed

    def next(self, ordered: bool = True) -> tf.Tensor:
        drawn = self._seed + tf.constant([0, self._drawn], tf.int64)
        self._drawn += 1
        return drawn


class _RandAugment(keras.layers.RandAugment):
    """Computes what was drawn only. Keras's layer computes all eleven operations, and picks among them."""

    def transform_images(self, images, transformation, training=True):
        for chosen in tf.unstack(transformation["layer_idxes"], self.num_ops):
            operations = [
                functools.partial(getattr(self, name).transform_images, images, drawn)
                for name, drawn in transformation["transforms"].items()
            ]
            images = tf.switch_case(chosen, operations)
        return images


@functools.lru_cache
def rand_augment_layer(num_ops: int, magnitude: float) -> tuple[keras.layers.RandAugment, _Draws]:
    """The layer and where it draws from. To be called once outside of graphs: a layer has variables."""
    layer, draws = _RandAugment((0, 255), num_ops, magnitude, **_PLAIN), _Draws()
    layer.generator = draws
    return layer, draws


def rand_augment(image: tf.Tensor, seed: tf.Tensor, num_ops: int, magnitude: float) -> tf.Tensor:
    """`keras.layers.RandAugment` of one image: Keras draws the operations of a whole batch at once.

    Args:
        image: float32 of shape [S, S, 3], RGB in 0..255.
        seed: stateless, int64 [2].
        num_ops: operations in a row, at least 1.
        magnitude: strength, `factor` of Keras's layer, in [0, 1].

    Returns:
        Like `image`.
    """
    layer, draws = rand_augment_layer(num_ops, magnitude)
    with draws.following(seed):
        transformation = layer.get_random_transformation(image[tf.newaxis])
        changed = layer.transform_images(image[tf.newaxis], transformation)
    return tf.ensure_shape(changed[0], image.shape)


def mixing(
    names: Sequence[str], num_classes: int, mixup_alpha: float
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A function that mixes the images of a batch, and their labels, with others of the batch.

    Args:
        names: of `MIXED`; with both each batch is mixed by one of them, both as likely.
        num_classes: C.
        mixup_alpha: of MixUp, where each image's share is drawn from Beta(alpha, alpha). In CutMix it is
            uniform, as in the paper.

    Returns:
        (images float32 [B, S, S, 3], labels int [B] in [0, C), stateless seed int64 [2]) -> (images, labels
        float32 [B, C]: the classes' shares of each image; in CutMix those of its pixels).
    """
    makers = {
        "mixup": lambda: keras.layers.MixUp(mixup_alpha, **_PLAIN),
        "cutmix": lambda: keras.layers.CutMix((1.0, 1.0), **_PLAIN),  # Beta(1, 1)
    }
    layers, draws = [makers[name]() for name in names], _Draws()

    def mixed(layer, images, shares, seed):
        with draws.following(seed):
            transformation = layer.get_random_transformation(images, seed=draws)
            if "batch_masks" in transformation:  # Keras has the area of the box before it is cut into pixels
                cut = tf.reduce_mean(tf.cast(transformation["batch_masks"], tf.float32), [1, 2, 3])
                transformation["mix_weight"] = 1.0 - cut
            else:  # both of the beta's two gammas may underflow where alpha is small
                weight = transformation["mix_weight"]
                transformation["mix_weight"] = tf.where(tf.math.is_nan(weight), 1.0, weight)
            images = layer.transform_images(images, transformation)
            return images, layer.transform_labels(shares, transformation)

    def mix(images, labels, seed):
        choice_seed, own_seed = tf.unstack(tf.random.split(seed, 2))
        shares = tf.one_hot(labels, num_classes)
        chosen = pick(tf.constant(len(layers)), uniform([], choice_seed))
        branches = [functools.partial(mixed, layer, images, shares, own_seed) for layer in layers]
        found, their_shares = tf.switch_case(chosen, branches)
        return tf.ensure_shape(found, images.shape), tf.ensure_shape(their_shares, shares.shape)

    return mix
