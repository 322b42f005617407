"""An entry of the zoo, and how the pixels of its images are prepared."""

import re
from dataclasses import dataclass

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Pixels in `value_range`, minus `mean`, over `std`, one number per channel.

    Args:
        input_size: (height, width) that the network was trained on.
        mean: subtracted per channel, in the order of `channel_order`.
        std: divided by, per channel.
        value_range: of the pixels before mean and std.
        channel_order: `RGB` or `BGR`.
    """

    input_size: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    value_range: tuple[float, float] = (0.0, 1.0)
    channel_order: str = "RGB"

    def __post_init__(self):
        if self.channel_order not in ("RGB", "BGR"):
            raise ValueError(f"`channel_order` must be RGB or BGR. Received: {self.channel_order!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"`mean` and `std` must be three numbers, std > 0. Received: {self.mean}, {self.std}"
            )

    def __call__(self, pixels):
        """uint8 RGB images [..., H, W, 3] -> float32, ready for the network."""
        import numpy as np

        low, high = self.value_range
        x = np.asarray(pixels, "float32") / 255.0 * (high - low) + low
        if self.channel_order == "BGR":
            x = x[..., ::-1]
        return ((x - np.asarray(self.mean, "float32")) / np.asarray(self.std, "float32")).astype("float32")


_LINK = re.compile(r"https://|file:///|http://127\.0\.0\.1[:/]")
FORMATS = ("torch", "caffemodel", "caffe_hdf5", "text")


@dataclass(frozen=True)
class Entry:
    """Released weights (or data) and all that is needed to fetch, check, convert and cite them.

    Args:
        name: lower case letters, digits and underscores.
        description: one sentence.
        format: one of `FORMATS`.
        file_name: the file's name in the cache.
        licence: of the weights.
        citation: whom to cite.
        links: mirrors, tried in order: `https://`, `file://`, a public MEGA link, or `http://127.0.0.1`.
            Empty for weights that the user must bring as a file.
        architecture: a name of `zoo.architectures`; None for data that is not a network.
        options: (argument, value) pairs for the architecture's builder, such as (("dense_width", 64),).
        preprocessing: of the network's images.
        size: bytes, where known.
        sha256: hexadecimal, where known.
        notes: anything else worth telling.

    Raises:
        ValueError: on a malformed name, file name, format, link, size or hash.
    """

    name: str
    description: str
    format: str
    file_name: str
    licence: str
    citation: str
    links: tuple[str, ...] = ()
    architecture: str | None = None
    options: tuple[tuple[str, int], ...] = ()
    preprocessing: Preprocessing | None = None
    size: int | None = None
    sha256: str | None = None
    notes: str = ""

    def __post_init__(self):
        self._check(re.fullmatch(r"[a-z0-9][a-z0-9_]*", self.name), "name", "[a-z0-9_]+")
        self._check(re.fullmatch(r"[A-Za-z0-9][\w.+-]*", self.file_name), "file_name", "a bare file name")
        self._check(self.format in FORMATS, "format", f"one of {', '.join(FORMATS)}")
        self._check(self.size is None or self.size > 0, "size", "positive bytes or None")
        self._check(
            self.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", self.sha256), "sha256", "64 lower case hex"
        )
        self._check(isinstance(self.links, tuple), "links", "a tuple of links")
        for link in self.links:
            self._check(_LINK.match(link), "links", "https://, file:// or http://127.0.0.1 links")

    @property
    def source(self) -> str:
        """Which naming of the arrays the file has: `torch` or `caffe`."""
        return "torch" if self.format == "torch" else "caffe"

    def _check(self, condition, field: str, wanted: str) -> None:
        if not condition:
            raise ValueError(f"`{field}` must be {wanted}. Received: {field}={getattr(self, field)!r}")
