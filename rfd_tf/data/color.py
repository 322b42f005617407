"""Random changes of an image's colours and sharpness, for instance discrimination.

Images are float32 of shape [S, S, 3], RGB in 0..255, before and after. The operations are PIL's
`ImageEnhance` and torchvision's `ColorJitter`, without their rounding to whole grey levels. (`tf.image` has
others of these names: its brightness adds, its contrast is each channel's own, its saturation is HSV's.)
Random functions take a stateless seed and depend on nothing else. All run in graphs and eagerly.

References: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018
(NPID: jitter and greyscale); Chen et al., "A Simple Framework for Contrastive Learning of Visual
Representations", ICML 2020 (SimCLR: stronger jitter, blur).
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import tensorflow as tf

from rfd_tf.data.augmentation import pick, uniform

LUMA = (0.299, 0.587, 0.114)  # of ITU-R 601, as PIL's mode "L"
SIGMA = (0.1, 2.0)  # of a random blur, in pixels


def adjust_brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`image` times `factor`, clipped."""
    return _clipped(image * factor)


def adjust_contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Each pixel's distance from the mean grey level times `factor`, clipped."""
    mean = tf.reduce_sum(tf.reduce_mean(image, [0, 1]) * tf.constant(LUMA))
    return _clipped(image * factor + mean * (1.0 - factor))


def adjust_saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Each pixel's distance from its own grey level times `factor`, clipped."""
    return _clipped(_mixed(image, factor * tf.eye(3) + (1.0 - factor) * _to_gray()))


def adjust_hue(image: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """The hue of HSV moved by `turns` of its circle, in [-1, 1]."""
    return tf.raw_ops.AdjustHue(images=image, delta=turns)


def grayscale(image: tf.Tensor) -> tf.Tensor:
    """Each pixel's grey level (luma) in all three channels."""
    return _mixed(image, _to_gray())


def gaussian_blur(image: tf.Tensor, sigma: tf.Tensor, radius: int) -> tf.Tensor:
    """Convolved with a Gaussian of deviation `sigma`, cut off beyond `radius` pixels; edges are reflected."""
    distance = tf.range(-radius, radius + 1, dtype=tf.float32)
    weights = tf.nn.softmax(-tf.square(distance) / (2.0 * tf.square(sigma)))
    weights = tf.tile(weights[:, tf.newaxis], [1, 3])[:, tf.newaxis, :, tf.newaxis]
    framed = tf.pad(image, [[radius] * 2, [radius] * 2, [0, 0]], "SYMMETRIC")[tf.newaxis]
    columns = tf.nn.depthwise_conv2d(framed, weights, [1] * 4, "VALID")
    return tf.nn.depthwise_conv2d(columns, tf.transpose(weights, [1, 0, 2, 3]), [1] * 4, "VALID")[0]


def color_jitter(image: tf.Tensor, strengths: Sequence[float], uniforms: tf.Tensor) -> tf.Tensor:
    """Brightness, contrast, saturation and hue changed at random, in a random order.

    Args:
        image: the image.
        strengths: (brightness, contrast, saturation, hue). The first three factors are uniform in
            [max(0, 1 - strength), 1 + strength], the hue moves by a uniform number in [-hue, hue] of turns.
        uniforms: five numbers in [0, 1): for the four changes, and for their order.
    """
    adjustments = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    *factors, hue = strengths
    ranges = [(max(0.0, 1.0 - factor), 1.0 + factor) for factor in factors] + [(-hue, hue)]
    used = [place for place, strength in enumerate(strengths) if strength]
    if not used:
        return image
    amounts = [ranges[place][0] + (ranges[place][1] - ranges[place][0]) * uniforms[place] for place in used]
    orders = tf.constant(list(itertools.permutations(range(len(used)))), tf.int32)
    order = tf.unstack(orders[pick(tf.constant(orders.shape[0]), uniforms[4])], len(used))

    def changes(image: tf.Tensor) -> list[Callable[[], tf.Tensor]]:
        return [
            functools.partial(adjustments[place], image, amount)
            for place, amount in zip(used, amounts, strict=True)
        ]

    for turn in order:
        image = tf.switch_case(turn, changes(image))
    return image


def random_color(
    image: tf.Tensor,
    seed: tf.Tensor,
    jitter: Sequence[float] = (),
    jitter_probability: float = 1.0,
    grayscale_probability: float = 0.0,
    blur_probability: float = 0.0,
) -> tf.Tensor:
    """Jittered, then made grey, then blurred, each or not by its own chance.

    Args:
        image: float32 or uint8.
        seed: stateless seed, shape [2]. What one change draws does not depend on whether the others are on.
        jitter: strengths as of `color_jitter`; () for none.
        jitter_probability, grayscale_probability, blur_probability: of each change, in [0, 1].

    Returns:
        float32 of the same shape. The blur's deviation is uniform in `SIGMA`, its kernel a tenth of the
        side, at least three pixels.
    """
    image, drawn = tf.cast(image, tf.float32), uniform([9], seed)
    if jitter:
        image = _maybe(jitter_probability, drawn[0], image, lambda: color_jitter(image, jitter, drawn[1:6]))
    image = _maybe(grayscale_probability, drawn[6], image, lambda: grayscale(image))
    sigma = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * drawn[8]
    radius = max(1, image.shape[0] // 20)
    return _maybe(blur_probability, drawn[7], image, lambda: gaussian_blur(image, sigma, radius))


def _maybe(
    probability: float, chance: tf.Tensor, image: tf.Tensor, changed: Callable[[], tf.Tensor]
) -> tf.Tensor:
    if probability in (0.0, 1.0):
        return changed() if probability else image
    return tf.cond(chance < probability, changed, lambda: image)


def _to_gray() -> tf.Tensor:
    return tf.tile(tf.constant(LUMA)[:, tf.newaxis], [1, 3])


def _mixed(image: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Every pixel, as a row of three channels, times `matrix`."""
    return tf.reshape(tf.matmul(tf.reshape(image, [-1, 3]), matrix), tf.shape(image))


def _clipped(image: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(image, 0.0, 255.0)
