"""How a fetched image becomes the network's input."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from rfd_tf.data import augmentation
from rfd_tf.data.augmentation import random_resized_crop
from rfd_tf.data.bad_images import DAMAGED, image_problem
from rfd_tf.data.color import random_color
from rfd_tf.data.keras_augmentation import AUGMENTATIONS, MIXED, rand_augment, rand_augment_layer

RECIPES = ("random_resized_crop", "random_crop", "pad_crop", "resize")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Recipe from a source's image to a normalised square input.

    Attributes:
        image_size: side S of the input in pixels.
        train: what training does before the flip:
            `"random_resized_crop"`: a random window, resized (the pretext task's recipe);
            `"random_crop"`: short side to `resize`, then a random crop (the probes' recipe);
            `"pad_crop"`: to S x S, four black pixels around, then a random crop (CIFAR);
            `"resize"`: to S x S only.
        resize: short side before the crop, in pixels; used by the first two recipes, where evaluation resizes
            to it and takes the centre. At least `image_size`. The other two evaluate on the resized image.
        flip: whether training mirrors every second image. Not for digits or text.
        min_area: least share of the image's area in a random resized crop, in (0, 1].
        max_area: largest share, in [min_area, 1].
        mean: per channel, of RGB in [0, 1].
        std: per channel, positive.
        fast_decoding: of JPEG files in random resized crops: large windows at a reduced scale, a quicker
            transform, no antialiasing (docs/training.md says how much faster, and by how much the pixels
            differ). By default they are PIL's; evaluation is always exact.
        color_jitter: strengths (brightness, contrast, saturation, hue) of random changes of a training
            image's colours, as torchvision's `ColorJitter` makes them. None negative, the hue's at most 0.5.
            () for none.
        color_jitter_probability: how likely a training image is jittered, in [0, 1].
        grayscale: how likely a training image loses its colours, in [0, 1].
        blur: how likely a training image is blurred, in [0, 1].
        crops: augmented crops of each training image, 1 or 2; for `training_dataset`.
        exif_orientation: whether encoded images are turned as their EXIF orientation says, or taken as they
            are stored.
        augment: for training on labels, any of `AUGMENTATIONS`: `"rand_augment"` changes each training image,
            after its colours; `"mixup"` and `"cutmix"` let `training_dataset` mix the images of a batch, and
            their labels. () for none.
        rand_augment_ops: operations of RandAugment on an image, at least 1.
        rand_augment_magnitude: their strength, in (0, 1].
        mixup_alpha: of MixUp's Beta(alpha, alpha), positive.

    Raises:
        ValueError: on a value out of range.

    Example: `Preprocessing(224)` is the pretext task's, `Preprocessing(224, "random_crop")` the probes'.
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
    crops: int = 1
    exif_orientation: bool = True
    augment: tuple[str, ...] = ()
    rand_augment_ops: int = 2
    rand_augment_magnitude: float = 0.5
    mixup_alpha: float = 0.2

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
        self._check_colors()
        if self.crops not in (1, 2):
            raise ValueError(f"`crops` must be 1 or 2. Received: crops={self.crops}")
        self._check_augment()
        if "rand_augment" in self.augment:  # made here, as a layer cannot be made within a graph
            rand_augment_layer(self.rand_augment_ops, self.rand_augment_magnitude)

    def _check_colors(self):
        jitter = self.color_jitter
        if len(jitter) not in (0, 4) or not all(math.isfinite(s) and s >= 0 for s in jitter):
            raise ValueError(
                "`color_jitter` must be four strengths (brightness, contrast, saturation, hue), none "
                f"negative, or (). Received: color_jitter={jitter}"
            )
        if jitter and jitter[3] > 0.5:
            raise ValueError(f"`color_jitter`'s hue must be at most 0.5. Received: color_jitter={jitter}")
        for name in ("color_jitter_probability", "grayscale", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1]. Received: {name}={getattr(self, name)}")

    def _check_augment(self):
        if isinstance(self.augment, str) or any(name not in AUGMENTATIONS for name in self.augment):
            raise ValueError(
                f"`augment` must be a tuple of some of {AUGMENTATIONS}. Received: augment={self.augment!r}"
            )
        if self.rand_augment_ops < 1 or not 0 < self.rand_augment_magnitude <= 1:
            raise ValueError(
                "`rand_augment_ops` must be at least 1, and `rand_augment_magnitude` in (0, 1]. Received: "
                f"rand_augment_ops={self.rand_augment_ops}, "
                f"rand_augment_magnitude={self.rand_augment_magnitude}"
            )
        if not 0 < self.mixup_alpha < math.inf:
            raise ValueError(
                f"`mixup_alpha` must be positive and finite. Received: mixup_alpha={self.mixup_alpha}"
            )

    @property
    def mixed(self) -> tuple[str, ...]:
        """Those of `augment` that mix images."""
        return tuple(name for name in MIXED if name in self.augment)

    @classmethod
    def of_config(cls, config: Mapping) -> "Preprocessing":
        """That of a training config (`configs/base.py`), or of the `config.json` that a run of it left.

        A run from before there was `data.exif_orientation` took images as they are stored.
        """
        recipe: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in config["preprocessing"].items()
        }
        return cls(**recipe, exif_orientation=bool(config.get("data", {}).get("exif_orientation", False)))

    def train_image(self, fetched: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """An augmented input, float32 of shape [S, S, 3], a function of the arguments alone.

        Args:
            fetched: what `Source.fetch` gave: a string scalar or uint8 of shape [H, W, 3].
            seed: stateless seed, shape [2].
        """
        return self.normalize(self.train_pixels(fetched, seed))

    def train_pixels(self, fetched: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """As `train_image`, before it is normalised: uint8 of shape [S, S, 3]."""
        crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
        image = self._train_crop(fetched, crop_seed)
        if self.flip:
            image = augmentation.random_flip(image, flip_seed)
        if self.color_jitter or self.grayscale or self.blur:
            image = random_color(
                tf.ensure_shape(image, [self.image_size, self.image_size, 3]),
                tf.random.fold_in(seed, tf.constant(2, tf.int64), alg="philox"),  # after crop and flip
                self.color_jitter,
                self.color_jitter_probability,
                self.grayscale,
                self.blur,
            )
        if "rand_augment" in self.augment:
            image = rand_augment(
                tf.ensure_shape(tf.cast(image, tf.float32), [self.image_size, self.image_size, 3]),
                tf.random.fold_in(seed, tf.constant(3, tf.int64), alg="philox"),
                self.rand_augment_ops,
                self.rand_augment_magnitude,
            )
        if image.dtype != tf.uint8:
            image = augmentation.rounded(tf.clip_by_value(image, 0.0, 255.0))
        return tf.ensure_shape(image, [self.image_size, self.image_size, 3])

    def normalize(self, images: tf.Tensor) -> tf.Tensor:
        """Pixels, uint8 [..., S, S, 3], as inputs of the network, float32."""
        return augmentation.normalize(images, self.mean, self.std)

    def eval_image(self, fetched: tf.Tensor) -> tf.Tensor:
        """The input without any chance in it, float32 of shape [S, S, 3]; `fetched` as in `train_image`."""
        image = augmentation.decode(fetched, self.exif_orientation)
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
                fetched,
                self.image_size,
                seed,
                self.min_area,
                self.max_area,
                self.fast_decoding,
                self.exif_orientation,
            )
        image = augmentation.decode(fetched, self.exif_orientation)
        if self.train == "random_crop":
            image = augmentation.resize_short_side(image, self.resize)
            return augmentation.random_crop(image, self.image_size, seed)
        image = self._square(image)
        return augmentation.pad_crop(image, self.image_size, seed) if self.train == "pad_crop" else image

    def _square(self, image: tf.Tensor) -> tf.Tensor:
        return augmentation.resize(image, self.image_size, self.image_size)

    def _finished(self, image: tf.Tensor) -> tf.Tensor:
        return self.normalize(tf.ensure_shape(image, [self.image_size, self.image_size, 3]))


# What a server's client finds in the error, once for each bad image, separated by "; ".
BAD_IMAGE = "image {position}: {reason}"
_PARALLEL_IMAGES = 8


def eval_images(encoded: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """`preprocessing.eval_image` of every image of a batch, float32 [B, S, S, 3]. Runs in graphs.

    Args:
        encoded: string [B], files' bytes.
        preprocessing: of the network.

    Raises:
        tf.errors.InvalidArgumentError: on an empty batch, and on images that are refused (see
            `image_problem`) or cannot be decoded. All of them are listed: `image 3: an empty
            file; image 5: damaged or cut short`, with positions in the batch from 0.
    """
    count = tf.size(encoded)
    with tf.control_dependencies([tf.debugging.Assert(count > 0, ["the batch of images is empty"])]):
        positions = tf.range(tf.identity(count))

    @tf.autograph.experimental.do_not_convert
    def prepare(position, file):
        problem = image_problem(file)
        nothing = tf.zeros([preprocessing.image_size, preprocessing.image_size, 3])
        image = tf.cond(problem == "", lambda: preprocessing.eval_image(file), lambda: nothing)
        return position, problem, image

    # Not tf.map_fn: an error in it does not say which image it is about.
    examples = tf.data.Dataset.from_tensor_slices((positions, encoded))
    examples = examples.map(prepare, num_parallel_calls=_PARALLEL_IMAGES, deterministic=True)
    nobody = tf.data.Dataset.from_tensors((-1, "", tf.zeros([preprocessing.image_size] * 2 + [3])))
    batch = nobody.concatenate(examples.ignore_errors()).batch(tf.cast(count, tf.int64) + 1)
    found, problems, images = (part[1:] for part in batch.get_single_element())
    problems = tf.tensor_scatter_nd_update(tf.fill([count], DAMAGED), found[:, tf.newaxis], problems)
    with tf.control_dependencies([_assert_no_problem(problems)]):
        return tf.identity(images)


def _assert_no_problem(problems: tf.Tensor) -> tf.Operation:
    bad = tf.where(problems != "")[:, 0]
    before, between = BAD_IMAGE.format(position="|", reason="|").split("|")[:2]
    listed = tf.strings.join([before, tf.strings.as_string(bad), between, tf.gather(problems, bad)])
    return tf.debugging.Assert(tf.size(bad) == 0, [tf.strings.reduce_join(listed, separator="; ")])
