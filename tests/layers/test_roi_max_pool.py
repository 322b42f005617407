"""The layer against a version that follows the definition cell by cell."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.layers import RoIMaxPool
from tests.contract import check_config_round_trip, to_numpy


def by_definition(maps, regions, size, stride):
    """Pooled [R, size, size, C], and the cell (row, column) of each maximum, -1 in an empty bin."""
    _, height, width, channels = maps.shape
    pooled = np.zeros((len(regions), size, size, channels), maps.dtype)
    cells = np.full((len(regions), size, size, channels, 2), -1)
    for r, (image, *corners) in enumerate(regions):
        x1, y1, x2, y2 = (int(np.sign(c) * np.floor(abs(c) / stride + 0.5)) for c in corners)
        h, w = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        for i in range(size):
            for j in range(size):
                rows = range(max(y1 + i * h // size, 0), min(y1 - (-(i + 1) * h // size), height))
                columns = range(max(x1 + j * w // size, 0), min(x1 - (-(j + 1) * w // size), width))
                for c in range(channels):
                    found = [(maps[int(image), y, x, c], y, x) for y in rows for x in columns]
                    if found:
                        pooled[r, i, j, c], *cells[r, i, j, c] = max(found)
    return pooled, cells


def random_case(rng, batch, height, width, channels, count, stride):
    maps = rng.normal(size=(batch, height, width, channels)).astype("float32")
    ends = [np.sort(rng.uniform(0, side * stride, (count, 2)), axis=1) for side in (width, height)]
    regions = np.stack(
        [rng.integers(0, batch, count), *np.stack(ends, axis=2).transpose(1, 2, 0).reshape(4, count)]
    )
    return maps, regions.T.astype("float32")


@pytest.mark.parametrize(
    ("height", "width", "size", "stride"),
    [(14, 22, 6, 16), (37, 9, 6, 16), (5, 5, 7, 8), (40, 40, 3, 4), (1, 3, 2, 16)],
)
def test_equals_the_definition(height, width, size, stride):
    rng = np.random.default_rng(height)
    maps, regions = random_case(rng, 2, height, width, 3, 40, stride)
    expected, _ = by_definition(maps, regions, size, stride)
    np.testing.assert_array_equal(to_numpy(RoIMaxPool(size, stride)(maps, regions)), expected)


def test_hand_made():
    maps = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    regions = [
        [0, 0, 0, 48, 48],  # the whole map
        [0, 16, 16, 16, 16],  # one cell, which every bin holds
        [0, 7.9, 8.0, 23.9, 24.1],  # columns 0 to 1, rows 1 to 2 (halves are rounded up)
    ]
    pooled = to_numpy(RoIMaxPool(2, 16)(maps, np.array(regions, "float32")))[..., 0]
    np.testing.assert_array_equal(pooled, [[[5, 7], [13, 15]], [[5, 5], [5, 5]], [[4, 5], [8, 9]]])


def test_beyond_the_map_there_is_nothing():
    maps = np.full((1, 3, 3, 1), -2.0, "float32")
    regions = np.array(
        [[0, 16, 0, 64, 32], [0, 80, 80, 96, 96], [0, -48, 0, 32, 32], [0, 32, 32, 0, 0]], "float32"
    )
    pooled = to_numpy(RoIMaxPool(4, 16)(maps, regions))
    expected, _ = by_definition(maps, regions, 4, 16)
    np.testing.assert_array_equal(pooled, expected)
    assert (pooled[1] == 0).all()
    assert (pooled[0] == 0).any()


FAR = np.array(
    [
        [0, -1e4, -1e4, 1e4, 1e4],  # one bin covers the whole map, the others nothing
        [1, -200, -40, 130, 700],
        [0, 10, 20, 100, 90],  # an ordinary one among them
        [1, -3e3, 0, 90, 3e3],
        [0, 500, 500, 900, 900],  # wholly outside
        [1, -24, -8, 40, 56],  # halves of cells below 0
    ],
    "float32",
)


def test_regions_far_beyond_are_pooled_as_in_caffe():
    """Bins are of the whole region and clipped to the map, however far the region reaches."""
    maps = np.random.default_rng(0).normal(size=(2, 9, 13, 2)).astype("float32")
    expected, _ = by_definition(maps, FAR, 3, 16)
    assert (expected[4] == 0).all()
    layer = RoIMaxPool(3, 16)
    np.testing.assert_array_equal(to_numpy(layer(maps, FAR)), expected)
    signature = [tf.TensorSpec([None, None, None, 2]), tf.TensorSpec([None, 5])]
    pool = tf.function(layer, input_signature=signature)
    np.testing.assert_array_equal(pool(maps, FAR), expected)
    near = FAR[2:3]
    np.testing.assert_array_equal(pool(maps, near), by_definition(maps, near, 3, 16)[0])


def test_maps_longer_than_announced_are_pooled_all_the_same():
    maps, regions = random_case(np.random.default_rng(7), 1, 60, 20, 2, 10, 16)
    regions[0] = [0, 0, 0, 20 * 16, 60 * 16]
    layer = RoIMaxPool(2, 16, max_side=8)
    signature = [tf.TensorSpec([None, None, None, 2]), tf.TensorSpec([None, 5])]
    pool = tf.function(layer, input_signature=signature)
    np.testing.assert_array_equal(pool(maps, regions), by_definition(maps, regions, 2, 16)[0])


def test_gradient_of_regions_far_beyond():
    rng = np.random.default_rng(8)
    maps = rng.normal(size=(2, 9, 13, 2)).astype("float32")
    _, cells = by_definition(maps, FAR, 3, 16)
    expected = np.zeros_like(maps)
    for (r, i, j, c), _ in np.ndenumerate(cells[..., 0]):
        if (cell := cells[r, i, j, c])[0] >= 0:
            expected[int(FAR[r, 0]), cell[0], cell[1], c] += 1
    variable = tf.Variable(maps)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(RoIMaxPool(3)(variable, FAR))
    np.testing.assert_allclose(tf.convert_to_tensor(tape.gradient(total, variable)), expected, atol=1e-5)


def test_gradient_goes_to_each_maximum():
    rng = np.random.default_rng(4)
    maps, regions = random_case(rng, 2, 12, 17, 2, 30, 16)
    _, cells = by_definition(maps, regions, 6, 16)
    weights = rng.normal(size=cells.shape[:-1]).astype("float32")
    expected = np.zeros_like(maps)
    for (r, i, j, c), weight in np.ndenumerate(weights):
        if (cell := cells[r, i, j, c])[0] >= 0:
            expected[int(regions[r, 0]), cell[0], cell[1], c] += weight
    variable = tf.Variable(maps)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(RoIMaxPool()(variable, regions) * weights)
    np.testing.assert_allclose(tf.convert_to_tensor(tape.gradient(total, variable)), expected, atol=1e-5)


def test_shared_maxima_share_no_gradient():
    """One of the cells gets all of it: in a map of equal cells nothing is lost, nothing comes twice."""
    variable = tf.Variable(tf.ones([1, 9, 9, 1]))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(RoIMaxPool(3, 16)(variable, np.array([[0, 0, 0, 128, 128]], "float32")))
    gradient = tf.convert_to_tensor(tape.gradient(total, variable)).numpy()
    assert gradient.sum() == 9
    assert set(np.unique(gradient)) <= {0.0, 1.0}


def test_maps_of_any_size_in_one_graph():
    rng = np.random.default_rng(5)
    layer = RoIMaxPool(6, 16, max_side=30)
    pool = tf.function(
        layer, input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 5])]
    )
    for height, width in ((11, 30), (30, 7), (4, 4)):
        maps, regions = random_case(rng, 1, height, width, 3, 12, 16)
        np.testing.assert_array_equal(pool(maps, regions), by_definition(maps, regions, 6, 16)[0])


def test_in_a_functional_model_and_back_from_disk(tmp_path):
    maps, regions = keras.Input((None, None, 4)), keras.Input((5,))
    model = keras.Model([maps, regions], RoIMaxPool(2, 16)(maps, regions))
    model.save(tmp_path / "pool.keras")
    values = random_case(np.random.default_rng(6), 1, 6, 7, 4, 5, 16)
    revived = keras.saving.load_model(tmp_path / "pool.keras")
    np.testing.assert_array_equal(to_numpy(revived(list(values))), to_numpy(model(list(values))))


def test_bad_arguments():
    for arguments in ({"size": 0}, {"stride": 0}, {"max_side": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))}=0"):
            RoIMaxPool(**arguments)
    with pytest.raises(ValueError, match=r"\[R, 5\]"):
        RoIMaxPool()(np.zeros((1, 4, 4, 2), "float32"), np.zeros((3, 4), "float32"))
    with pytest.raises(ValueError, match=r"\[B, H, W, C\]"):
        RoIMaxPool()(np.zeros((4, 4, 2), "float32"), np.zeros((3, 5), "float32"))


def test_config_round_trip():
    check_config_round_trip(RoIMaxPool(7, 8, 40))


def test_many_regions_in_blocks():
    """Several blocks, the last one filled up; zeros tie, as after a ReLU, and every gradient arrives."""
    rng = np.random.default_rng(9)
    maps, regions = random_case(rng, 2, 12, 17, 3, 150, 16)
    maps = np.maximum(maps, 0)
    weights = rng.normal(size=(150, 6, 6, 3)).astype("float32")
    expected, cells = by_definition(maps, regions, 6, 16)
    layer = RoIMaxPool()

    @tf.function(autograph=False)
    def both(maps):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            pooled = layer(maps, regions)
            total = tf.reduce_sum(pooled * weights)
        return pooled, tape.gradient(total, maps)

    pooled, gradient = both(tf.constant(maps))
    np.testing.assert_array_equal(pooled, expected)
    # What each image's zeros are given, whichever of them are.
    filled = weights * (expected == 0) * (cells[..., 0] >= 0)
    by_image = [filled[regions[:, 0] == place].sum((0, 1, 2)) for place in range(2)]
    zeros = tf.reduce_sum(gradient * tf.cast(maps == 0, tf.float32), axis=(1, 2))
    np.testing.assert_allclose(zeros, by_image, atol=1e-4)
    np.testing.assert_allclose(tf.reduce_sum(gradient * maps), (expected * weights).sum(), rtol=1e-4)
    np.testing.assert_array_equal(both(tf.constant(maps))[1], gradient)


def test_no_regions_and_half_precision():
    maps, regions = random_case(np.random.default_rng(10), 1, 9, 9, 2, 5, 16)
    assert RoIMaxPool()(maps, regions[:0]).shape == (0, 6, 6, 2)
    half = tf.cast(maps, tf.bfloat16)
    layer = RoIMaxPool(dtype="bfloat16")
    with tf.GradientTape() as tape:
        tape.watch(half)
        pooled = layer(half, regions)
    expected, cells = by_definition(np.array(tf.cast(half, tf.float32)), regions, 6, 16)
    np.testing.assert_array_equal(tf.cast(pooled, tf.float32), expected)
    gradient = tape.gradient(pooled, half)
    assert gradient.dtype == tf.bfloat16
    assert tf.reduce_sum(tf.cast(gradient, tf.float32)) == (cells[..., 0] >= 0).sum()


def test_compiled_by_xla():
    maps, regions = random_case(np.random.default_rng(11), 1, 9, 9, 2, 70, 16)

    def both(maps):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            pooled = RoIMaxPool(3)(maps, regions)
        return pooled, tape.gradient(pooled, maps)

    compiled = tf.function(both, jit_compile=True)(tf.constant(maps))
    for found, expected in zip(compiled, both(tf.constant(maps)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
