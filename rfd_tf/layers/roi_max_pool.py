import keras
import numpy as np
from keras import ops

_BEYOND = 4  # cells outside the map that a region may reach to and still be pooled fast
_FAR = 1e6  # cells, beyond every map; casting more than an int32 holds is undefined


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
    slowly, and cells that share a maximum share its gradient.

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
        longest = [_longest_bin(side, self.size) for side in self._sides(maps)]
        covered = ops.logical_and(
            ops.all(rows[1] - rows[0] <= longest[0]), ops.all(columns[1] - columns[0] <= longest[1])
        )
        # Outside the branch: TensorFlow's type inference complains where both of them have gradients.
        quick = self._largest(maps, image, rows, columns)
        pooled = ops.cond(covered, lambda: quick, lambda: _one_by_one(maps, image, rows, columns))
        empty = (rows[0] >= rows[1])[:, :, None] | (columns[0] >= columns[1])[:, None, :]
        return ops.where(empty[..., None], ops.zeros_like(pooled), pooled)

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

    def _largest(self, maps, image, rows, columns):
        height, width = ops.shape(maps)[1], ops.shape(maps)[2]
        windows, levels = self._window_maxima(maps)
        row_level, top, bottom = _covering(*rows, levels[0])
        column_level, left, right = _covering(*columns, levels[1])
        level = row_level[:, :, None] * levels[1] + column_level[:, None, :]
        plane = (level * ops.shape(maps)[0] + image[:, None, None]) * height

        def at(row, column):
            return ops.take(windows, (plane + row[:, :, None]) * width + column[:, None, :], axis=0)

        upper = ops.maximum(at(top, left), at(top, right))
        return ops.maximum(upper, ops.maximum(at(bottom, left), at(bottom, right)))

    def _window_maxima(self, maps):
        """The maps' maxima over windows that begin at each cell, [levels * B * H * W, C], and both counts.

        Level i * n + j is of windows of 2^i rows and 2^j columns; those beyond the map's edge are cut.
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
                levels.append(wide)
        return ops.reshape(ops.stack(levels), (-1, maps.shape[-1])), counts

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


def _one_by_one(maps, image, rows, columns):
    """Maxima of bins of any length, [R, size, size, C]; -inf for empty ones."""
    least = ops.cast(-np.inf, maps.dtype)
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

    return ops.map(pooled, (image, *rows, *columns))


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
    length = ops.shape(maxima)[axis]
    later = ops.minimum(ops.arange(length, dtype="int32") + shift, length - 1)
    return ops.maximum(maxima, ops.take(maxima, later, axis=axis))


def _covering(begin, end, num_levels: int):
    """The level of the two windows that cover [begin, end), and where each begins; three [R, size]."""
    powers = ops.convert_to_tensor(2 ** np.arange(num_levels, dtype="int32"))
    level = ops.sum(ops.cast((end - begin)[..., None] >= powers[1:], "int32"), axis=-1)
    last = end - ops.take(powers, level)
    return level, ops.minimum(begin, ops.maximum(last, 0)), ops.maximum(last, 0)
