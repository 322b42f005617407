import math

import keras
import numpy as np
from keras import ops

_BEYOND = 4  # cells outside the map that a region may reach to and still be pooled fast
_FAR = 1e6  # cells, beyond every map; casting more than an int32 holds is undefined
_BLOCK = 64  # regions that are pooled at once on a processor: what is gathered for them stays in its cache
_SHARES = 4  # of the gradient, that are summed side by side


@keras.saving.register_keras_serializable(package="rfd_tf")
class RoIMaxPool(keras.layers.Layer):
    """Maximum of a map over `size` x `size` bins of each region of interest, with the bins of Fast R-CNN.

    A region's corners are scaled by 1 / `stride` and rounded (halves away from 0) to cells of the map, both
    corners inclusive; it is at least one cell high and wide. Of its h rows, bin i spans those from
    floor(i * h / size) to before ceil((i + 1) * h / size), columns alike: bins may overlap. Bins are clipped
    to the map, wherever the region lies; a bin with nothing left is 0. Where cells share the maximum of a
    bin, one of them gets its gradient.

    Maxima over windows of 1, 2, 4, ... cells a side are computed once for the whole map; a bin is the maximum
    of the four windows that cover it. Time and memory hardly depend on the size of the regions. If a bin is
    longer than these windows cover, because a region reaches more than 4 cells beyond the map (or a map is
    longer than `max_side`), the regions of that call are pooled one after the other: the same values, but
    slowly.

    On TensorFlow regions are pooled in blocks that fit a processor's cache, and the gradient is one sum
    over the cells that the maxima lie in (but for doubles). On other backends it is that of the operations;
    where a region reaches too far, cells that share a maximum share its gradient there.

    Args:
        size: bins per side, 6 for AlexNet.
        stride: pixels per cell of the map, 16 for AlexNet's conv5.
        max_side: the largest side, in cells, that is pooled fast if the side is unknown in the graph.

    Call args:
        maps: [B, H, W, C].
        regions: float [R, 5], of (place in the batch, x1, y1, x2, y2) in pixels of the network's input.

    Returns:
        [R, size, size, C].

    Raises:
        ValueError: on arguments below 1, or shapes that do not fit.

    Reference: Girshick, "Fast R-CNN", ICCV 2015, section 2.1; the bins are those of its Caffe layer.
    """

    def __init__(self, size: int = 6, stride: int = 16, max_side: int = 128, **kwargs):
        super().__init__(**kwargs)
        if size < 1 or stride < 1 or max_side < 1:
            raise ValueError(
                "`size`, `stride` and `max_side` must be at least 1. "
                f"Received: size={size}, stride={stride}, max_side={max_side}"
            )
        self.size = size
        self.stride = stride
        self.max_side = max_side

    def call(self, maps, regions):
        _check_shapes(maps.shape, regions.shape)
        height, width = ops.shape(maps)[1], ops.shape(maps)[2]
        regions = ops.cast(regions, "float32")
        image = ops.cast(regions[:, 0], "int32")
        cells = ops.clip(rounded_cells(regions[:, 1:], self.stride), -_FAR, _FAR)
        corners = ops.cast(cells, "int32")
        left, top, right, bottom = (corners[:, side] for side in range(4))
        rows = self._bins(top, bottom, height)
        columns = self._bins(left, right, width)
        if (
            keras.backend.backend() == "tensorflow"
            and keras.backend.standardize_dtype(maps.dtype) != "float64"
        ):
            return self._by_tensorflow(maps, (image, *rows, *columns))
        covered = self._covered(maps, rows, columns)
        # Outside the branch: TensorFlow's type inference complains where both of them have gradients.
        windows, levels = self._window_maxima(maps, 0)
        quick = _largest(windows, levels, ops.shape(maps), image, rows, columns)
        return ops.cond(covered, lambda: quick, lambda: _one_by_one(maps, image, rows, columns, 0))

    def _covered(self, maps, rows, columns):
        """Whether four windows cover each bin."""
        longest = [_longest_bin(side, self.size) for side in self._sides(maps)]
        return ops.logical_and(
            ops.all(rows[1] - rows[0] <= longest[0]), ops.all(columns[1] - columns[0] <= longest[1])
        )

    def _by_tensorflow(self, maps, bins):
        """The pooled maps, in blocks of regions; the gradient by the cells that they came from.

        Args:
            bins: the image, and the begin and end of rows and of columns, of each region.
        """
        import tensorflow as tf

        @tf.custom_gradient
        def pooled(maps):
            def gradient(upstream):
                cells = tf.size(maps)
                found = self._blocks(_with_places(maps), bins, cells, tf.int32)  # the lower halves
                summed = self._sum_by_cell(found, tf.cast(upstream, tf.float32), cells)
                return tf.cast(tf.reshape(summed, tf.shape(maps)), maps.dtype)

            return self._blocks(maps, bins, 0, maps.dtype), gradient

        return pooled(maps)

    def _blocks(self, maps, bins, nothing, dtype):
        """[R, size, size, C], the maps' maxima in block after block, cast; `nothing` where a bin is empty."""
        import tensorflow as tf

        shape = [-1, self.size, self.size, maps.shape[-1]]
        count = tf.shape(bins[0])[0]

        def quick():
            windows, levels = self._window_maxima(maps, nothing)
            on_gpu = bool(tf.config.list_physical_devices("GPU"))
            blocks = 1 if on_gpu else tf.maximum(-(-count // _BLOCK), 1)
            length = -(-count // blocks)

            def split(values):
                more = [[0, blocks * length - count]] + [[0, 0]] * (values.shape.rank - 1)
                padded = tf.pad(values, more)
                return tf.reshape(padded, tf.concat([[blocks, length], tf.shape(values)[1:]], 0))

            def block(bins):
                image, top, bottom, left, right = bins
                found = _largest(windows, levels, tf.shape(maps), image, (top, bottom), (left, right))
                return tf.cast(found, dtype)

            # Eager loops know no parallel iterations, and say so.
            at_once = None if tf.executing_eagerly() else 2
            found = tf.map_fn(
                block, tuple(map(split, bins)), parallel_iterations=at_once, fn_output_signature=dtype
            )
            return tf.reshape(found, shape)[:count]

        def slow():
            image, top, bottom, left, right = bins
            found = _one_by_one(maps, image, (top, bottom), (left, right), nothing)
            return tf.reshape(tf.cast(found, dtype), shape)

        return tf.cond(self._covered(maps, bins[1:3], bins[3:5]), quick, slow)

    def _sum_by_cell(self, places, values, cells):
        """[cells], the sum of the values at each place; one that is no cell does not count."""
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            flat = tf.reshape(values, [-1])
            return tf.math.unsorted_segment_sum(flat, tf.reshape(places, [-1]), cells + 1)[:cells]
        # Each share is summed by one thread from beginning to end: the same sum at every run.
        shares = math.gcd(self.size**2 * values.shape[-1], _SHARES)
        places, values = (tf.reshape(of, [shares, -1]) for of in (places, values))
        sums = tf.raw_ops.DenseBincount(input=places, size=cells, weights=values, binary_output=False)
        return tf.reduce_sum(sums, axis=0)

    def _sides(self, maps) -> list[int]:
        """Cells of the maps' height and width, at most."""
        return [side or self.max_side for side in maps.shape[1:3]]

    def _bins(self, first, last, length):
        """Where each bin of a side begins and ends (exclusive) on the map, two [R, size]."""
        span = ops.maximum(last - first + 1, 1)[:, None]
        bins = ops.arange(self.size, dtype="int32")[None]
        begin = first[:, None] + bins * span // self.size
        end = first[:, None] - (-(bins + 1) * span // self.size)
        return ops.clip(begin, 0, length), ops.clip(end, 0, length)

    def _window_maxima(self, maps, nothing):
        """The maps' maxima over windows that begin at each cell, [n * B * H * W + 1, C], and both counts.

        Level i * columns + j is of windows of 2^i rows and 2^j columns; those beyond the map's edge are cut.
        The last row is `nothing`, for bins without a cell.
        """
        counts = [_longest_bin(side, self.size).bit_length() for side in self._sides(maps)]
        levels = []
        tall = maps
        for row_level in range(counts[0]):
            if row_level:
                tall = _doubled(tall, 1, 2 ** (row_level - 1))
            wide = tall
            for column_level in range(counts[1]):
                if column_level:
                    wide = _doubled(wide, 2, 2 ** (column_level - 1))
                levels.append(ops.reshape(wide, (-1, maps.shape[-1])))
        last = ops.broadcast_to(ops.cast(nothing, maps.dtype), (1, maps.shape[-1]))
        return ops.concatenate([*levels, last]), counts

    def compute_output_shape(self, maps_shape, regions_shape):
        _check_shapes(maps_shape, regions_shape)
        return (regions_shape[0], self.size, self.size, maps_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "size": self.size,
            "stride": self.stride,
            "max_side": self.max_side,
        }


def rounded_cells(corners, stride: int):
    """Corners in pixels as cells, still float: scaled and rounded, halves away from 0 as C's `round` does."""
    scaled = corners / stride
    return ops.sign(scaled) * ops.floor(ops.abs(scaled) + 0.5)


def _largest(windows, levels, shape, image, rows, columns):
    """Maxima of bins by `_window_maxima`, four windows to a bin, [R, size, size, C]; `shape` is the maps'."""
    batch, height, width = shape[0], shape[1], shape[2]
    row_level, top, bottom = _covering(*rows, levels[0])
    column_level, left, right = _covering(*columns, levels[1])
    level = row_level[:, :, None] * levels[1] + column_level[:, None, :]
    plane = (level * batch + image[:, None, None]) * height
    empty, last = _empty(rows, columns), levels[0] * levels[1] * batch * height * width

    def at(row, column):
        place = (plane + row[:, :, None]) * width + column[:, None, :]
        return ops.take(windows, ops.where(empty, last, place), axis=0)

    upper = ops.maximum(at(top, left), at(top, right))
    return ops.maximum(upper, ops.maximum(at(bottom, left), at(bottom, right)))


def _one_by_one(maps, image, rows, columns, nothing):
    """Maxima of bins of any length, [R, size, size, C]; `nothing` for empty ones."""
    kind = keras.backend.standardize_dtype(maps.dtype)
    least = ops.cast(np.iinfo(kind).min if "int" in kind else -np.inf, maps.dtype)
    height, width, channels = ops.shape(maps)[1], ops.shape(maps)[2], maps.shape[-1]
    flat = ops.reshape(maps, (-1, height * width, channels))  # whose gradient is dense

    def members(begin, end, length):
        cells = ops.arange(length, dtype="int32")
        return ops.logical_and(cells >= begin[:, None], cells < end[:, None])  # [size, length]

    def pooled(region):
        place, top, bottom, left, right = region
        found = ops.reshape(ops.take(flat, place, axis=0), (height, width, channels))
        tall = members(top, bottom, height)[:, :, None, None]
        found = ops.max(ops.where(tall, found[None], least), axis=1)  # [size, W, C]
        wide = members(left, right, width)[None, :, :, None]
        return ops.max(ops.where(wide, found[:, None], least), axis=2)

    found = ops.map(pooled, (image, *rows, *columns))
    return ops.where(_empty(rows, columns)[..., None], ops.cast(nothing, maps.dtype), found)


def _empty(rows, columns):
    """Bins of which nothing is on the map, [R, size, size]."""
    return (rows[0] >= rows[1])[:, :, None] | (columns[0] >= columns[1])[:, None, :]


def _with_places(maps):
    """int64, ordered as the values of the maps, in its lower half the place of each among all values.

    The maximum of several is that of the values, and says which it is; of equal values it is the last.
    """
    import tensorflow as tf

    bits = tf.bitcast(tf.cast(maps, tf.float32), tf.int32)
    # Negative floats order in reverse by their bits.
    ordered = tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, 0x7FFFFFFF), bits)
    places = tf.reshape(tf.range(tf.size(maps)), tf.shape(maps))
    upper = tf.bitwise.left_shift(tf.cast(ordered, tf.int64), tf.constant(32, tf.int64))
    return tf.bitwise.bitwise_or(upper, tf.cast(places, tf.int64))


def _check_shapes(maps_shape, regions_shape) -> None:
    if len(maps_shape) != 4 or maps_shape[-1] is None:
        raise ValueError(f"Maps must have shape [B, H, W, C], C known. Received: {tuple(maps_shape)}")
    if len(regions_shape) != 2 or regions_shape[1] != 5:
        raise ValueError(f"Regions must have shape [R, 5]. Received: {tuple(regions_shape)}")


def _longest_bin(side: int, size: int) -> int:
    """Cells of a bin on a map of `side` cells, at most."""
    return min(-(-(side + 2 * _BEYOND) // size) + 1, side)


def _doubled(maxima, axis: int, shift: int):
    """Maxima of windows twice as long: each joined with the one `shift` cells on, if the map goes on."""
    before, after = (
        (slice(None),) * axis + (slice(None, -shift),),
        (slice(None),) * axis + (slice(shift, None),),
    )
    last = (slice(None),) * axis + (slice(-shift, None),)
    return ops.concatenate([ops.maximum(maxima[before], maxima[after]), maxima[last]], axis=axis)


def _covering(begin, end, num_levels: int):
    """The level of the two windows that cover [begin, end), and where each begins; three [R, size]."""
    powers = ops.convert_to_tensor(2 ** np.arange(num_levels, dtype="int32"))
    level = ops.sum(ops.cast((end - begin)[..., None] >= powers[1:], "int32"), axis=-1)
    last = end - ops.take(powers, level)
    return level, ops.minimum(begin, ops.maximum(last, 0)), ops.maximum(last, 0)
