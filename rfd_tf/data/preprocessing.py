"""How a fetched picture becomes the network's input."""

import dataclasses

import tensorflow as tf

from rfd_tf.data import augmentation
from rfd_tf.data.random_resized_crop import random_resized_crop

BLUR_SIGMAS = (0.1, 2.0)  # pixels
RECIPES = ("random_resized_crop", "random_crop", "pad_crop", "resize")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Recipe from a source's picture to a normalised square input.

    Attributes:
        image_size: side S of the input in pixels.
        train: what training does before the flip:
            `"random_resized_crop"`: a random window, resized (the pretext task's recipe);
            `"random_crop"`: short side to `resize`, then a random crop (the probes' recipe);
            `"pad_crop"`: to S x S, four black pixels around, then a random crop (CIFAR);
            `"resize"`: to S x S only.
        resize: short side before the crop, in pixels; used by the first two recipes, where evaluation resizes
            to it and takes the centre. At least `image_size`. The other two evaluate on the resized picture.
        flip: whether training mirrors every second picture. Not for digits or text.
        min_area: least share of the picture's area in a random resized crop, in (0, 1].
        max_area: largest share, in [min_area, 1].
        mean: per channel, of RGB in [0, 1].
        std: per channel, positive.
        fast_decoding: of JPEG files in random resized crops: large windows at a reduced scale, a quicker
            transform, no antialiasing (docs/training.md says how much faster, and by how much the pixels
            differ). By default they are PIL's; evaluation is always exact.
        color_jitter: strengths of brightness, contrast, saturation and hue in training, as of
            `augmentation.color_jitter`; () leaves colours as they are.
        color_jitter_probability: share of the images whose colours change.
        grayscale: share of the training images that become grey.
        blur: share of the training images that are blurred, by a Gaussian of 0.1 to 2 pixels, cut off at a
            twentieth of `image_size`.

    Raises:
        ValueError: on a value out of range.

    Example: `Preprocessing(224)` is the pretext task's, `Preprocessing(224, "random_crop")` the probes'.

    Reference: Wu et al., CVPR 2018 (NPID: jitter of 0.4, 0.4, 0.4, 0.4, a fifth grey); Chen et al., ICML 2020
        (SimCLR: also blur).
    """

    image_size: int
    train: str = "random_resized_crop"
    resize: int = 256
    flip: bool = True
    min_area: float = 0.08
    max_area: float = 1.0
    mean: tuple[float, float, float] = augmentation.IMAGENET_MEAN
    std: tuple[float, float, float] = augmentation.IMAGENET_STD
    fast_decoding: bool = False
    color_jitter: tuple[float, ...] = ()
    color_jitter_probability: float = 1.0
    grayscale: float = 0.0
    blur: float = 0.0

    def __post_init__(self):
        if self.image_size < 1:
            raise ValueError(f"`image_size` must be at least 1. Received: image_size={self.image_size}")
        if self.train not in RECIPES:
            raise ValueError(f"`train` must be one of {RECIPES}. Received: train={self.train!r}")
        if self._crops_center and self.resize < self.image_size:
            raise ValueError(
                f"`resize` must be at least image_size={self.image_size}. Received: resize={self.resize}"
            )
        if not 0 < self.min_area <= self.max_area <= 1:
            raise ValueError(
                "Areas must satisfy 0 < min_area <= max_area <= 1. "
                f"Received: min_area={self.min_area}, max_area={self.max_area}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                "`mean` and `std` need three values, `std` positive ones. "
                f"Received: mean={self.mean}, std={self.std}"
            )
        if self.fast_decoding and self.train != "random_resized_crop":
            raise ValueError(
                f"`fast_decoding` is for train='random_resized_crop' only. Received: train={self.train!r}"
            )
        jitter = tuple(self.color_jitter)
        if jitter and not (len(jitter) == 4 and min(jitter) >= 0 and jitter[3] <= 0.5):
            raise ValueError(
                "`color_jitter` must be () or four strengths at least 0, of brightness, contrast, saturation "
                f"and hue, the hue's at most 0.5. Received: color_jitter={jitter}"
            )
        for name in ("color_jitter_probability", "grayscale", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1]. Received: {name}={getattr(self, name)}")

    def train_image(self, fetched: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """An augmented input, float32 of shape [S, S, 3], a function of the arguments alone.

        Args:
            fetched: what `Source.fetch` gave: a string scalar or uint8 of shape [H, W, 3].
            seed: stateless seed, shape [2].
        """
        crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
        image = self._train_crop(fetched, crop_seed)
        if self.flip:
            image = augmentation.random_flip(image, flip_seed)
        return self._finished(self._recolored(image, seed))

    def eval_image(self, fetched: tf.Tensor) -> tf.Tensor:
        """The input without any chance in it, float32 of shape [S, S, 3]; `fetched` as in `train_image`."""
        image = augmentation.decode(fetched)
        if self._crops_center:
            image = augmentation.resize_short_side(image, self.resize)
            return self._finished(augmentation.center_crop(image, self.image_size))
        return self._finished(self._square(image))

    @property
    def _crops_center(self) -> bool:
        return self.train in ("random_resized_crop", "random_crop")

    def _train_crop(self, fetched: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if self.train == "random_resized_crop":
            return random_resized_crop(
                fetched, self.image_size, seed, self.min_area, self.max_area, self.fast_decoding
            )
        image = augmentation.decode(fetched)
        if self.train == "random_crop":
            image = augmentation.resize_short_side(image, self.resize)
            return augmentation.random_crop(image, self.image_size, seed)
        image = self._square(image)
        return augmentation.pad_crop(image, self.image_size, seed) if self.train == "pad_crop" else image

    def _recolored(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """`image` with the colour changes that are asked for, each with a seed of its own."""
        chances = tf.unstack(augmentation.uniform([3], tf.random.fold_in(seed, 0)))
        if self.color_jitter and self.color_jitter_probability:
            image = tf.cond(
                chances[0] < self.color_jitter_probability,
                lambda: augmentation.color_jitter(image, self.color_jitter, tf.random.fold_in(seed, 1)),
                lambda: tf.cast(image, tf.float32),
            )
        if self.grayscale:
            colored = tf.cast(image, tf.float32)
            image = tf.cond(
                chances[1] < self.grayscale,
                lambda: tf.repeat(augmentation.grayscale(colored), 3, axis=-1),
                lambda: colored,
            )
        if self.blur:
            sharp = tf.cast(image, tf.float32)
            sigma = augmentation.uniform([], tf.random.fold_in(seed, 2), *BLUR_SIGMAS)
            radius = max(1, self.image_size // 20)
            image = tf.cond(
                chances[2] < self.blur,
                lambda: augmentation.gaussian_blur(sharp, sigma, radius),
                lambda: sharp,
            )
        return image

    def _square(self, image: tf.Tensor) -> tf.Tensor:
        return augmentation.resize(image, self.image_size, self.image_size)

    def _finished(self, image: tf.Tensor) -> tf.Tensor:
        image = augmentation.normalize(image, self.mean, self.std)
        return tf.ensure_shape(image, [self.image_size, self.image_size, 3])
