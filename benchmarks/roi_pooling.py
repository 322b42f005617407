"""RoI max pooling of 2,000 regions against what one would write first: a loop over regions and bins.

    python -m benchmarks.roi_pooling

The map is that of a 600 x 1000 image at stride 16. `tf.image.crop_and_resize` with max pooling behind it, a
common substitute, gives other numbers; it is timed for reference.
"""

import functools

import numpy as np

from benchmarks.harness import measure, quiet_tensorflow, spread
from benchmarks.outcome import Row, save

HEIGHT, WIDTH, CHANNELS, STRIDE, SIZE, REGIONS = 38, 63, 256, 16, 6, 2000


def random_boxes(count: int, height: int, width: int, rng: np.random.Generator, least: int = 16):
    """Boxes [count, 4] of x1, y1, x2, y2 within an image, the sides log-uniform from `least` pixels."""
    sides = [np.exp(rng.uniform(np.log(least), np.log(side - 1), count)) for side in (width, height)]
    starts = [rng.uniform(0, side - 1 - own) for side, own in zip((width, height), sides, strict=True)]
    corners = [*starts, *(start + own for start, own in zip(starts, sides, strict=True))]
    return np.stack(corners, axis=1).astype("float32")


def case() -> tuple[np.ndarray, np.ndarray]:
    """Maps [1, H, W, C] and regions [R, 5]."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(1, HEIGHT, WIDTH, CHANNELS)).astype("float32")
    boxes = random_boxes(REGIONS, HEIGHT * STRIDE, WIDTH * STRIDE, rng)
    return maps, np.concatenate([np.zeros((REGIONS, 1), "float32"), boxes], axis=1)


def candidate(pool_maker, backward: bool):
    """The step of one way of pooling, forward, or with the gradient to the maps."""
    tf = quiet_tensorflow()
    maps, regions = (tf.constant(values) for values in case())
    pool = pool_maker(tf)

    @tf.function
    def forward(maps, regions):
        return pool(maps, regions)

    @tf.function
    def both(maps, regions):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            pooled = pool(maps, regions)
        return tf.convert_to_tensor(tape.gradient(pooled, maps))

    run = both if backward else forward
    return lambda: run(maps, regions)[..., 0].numpy()


def layer(tf):
    from rfd_tf.layers import RoIMaxPool

    return RoIMaxPool(SIZE, STRIDE)


def loop(tf):
    """Each region's cells, cut out of the map; each bin, cut out of those; the maximum of each."""

    def pool(maps, regions):
        cells = tf.cast(tf.floor(regions[:, 1:] / STRIDE + 0.5), tf.int32)

        def one(corners):
            x1, y1, x2, y2 = tf.unstack(corners)
            height, width = tf.maximum(y2 - y1 + 1, 1), tf.maximum(x2 - x1 + 1, 1)
            region = maps[0, y1 : y1 + height, x1 : x1 + width]
            rows = [
                tf.stack([bin_maximum(region, i, j, height, width) for j in range(SIZE)]) for i in range(SIZE)
            ]
            return tf.stack(rows)

        return tf.map_fn(one, cells, fn_output_signature=tf.TensorSpec((SIZE, SIZE, CHANNELS)))

    def bin_maximum(region, i, j, height, width):
        cells = region[i * height // SIZE : -(-(i + 1) * height // SIZE)]
        cells = cells[:, j * width // SIZE : -(-(j + 1) * width // SIZE)]
        # The maximum of nothing, beyond the map, is 0.
        return tf.cond(
            tf.size(cells) > 0, lambda: tf.reduce_max(cells, axis=[0, 1]), lambda: tf.zeros([CHANNELS])
        )

    return pool


def crop_and_resize(tf):
    """Twice as many points as bins, by bilinear interpolation, and their maxima."""

    def pool(maps, regions):
        ends = regions[:, 1:] / STRIDE / np.float32([WIDTH - 1, HEIGHT - 1] * 2)
        boxes = tf.gather(ends, [1, 0, 3, 2], axis=1)
        points = tf.image.crop_and_resize(maps, boxes, tf.cast(regions[:, 0], tf.int32), [2 * SIZE] * 2)
        return tf.nn.max_pool2d(points, 2, 2, "VALID")

    return pool


def main() -> None:
    rows = []
    for backward in (False, True):
        found = measure(
            {
                maker.__name__: functools.partial(candidate, maker, backward)
                for maker in (layer, loop, crop_and_resize)
            },
            limit_seconds=70,
        )
        ours, theirs = found["layer"], found["loop"]
        np.testing.assert_allclose(ours.first, theirs.first, rtol=1e-5, atol=1e-5)
        what = "RoI max pooling of 2,000 regions, " + ("forward and gradient" if backward else "forward")
        for name, against in (("loop", "loop over regions and bins"), ("crop_and_resize", "crop_and_resize")):
            other = found[name]
            rows.append(
                Row(
                    6,
                    what,
                    "ms",
                    spread([1e3 * s for s in ours.seconds]),
                    spread([1e3 * s for s in other.seconds]),
                    f"{against}, {other.memory / 2**20:.0f} MiB; ours {ours.memory / 2**20:.0f} MiB",
                    other.median / ours.median,
                )
            )
    save("roi_pooling", rows)


if __name__ == "__main__":
    main()
