"""The entries that the project ships, those that users register, and their cards."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import ZooError

if TYPE_CHECKING:
    import keras

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputFormat:
    """What a released network takes: pixels in `value_range`, minus `mean`, over `std`.

    Called with images, it makes that of them. The pipelines' recipe, `rfd_tf.data.Preprocessing`, knows
    square RGB images in [0, 1] only.

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
FORMATS = ("torch", "caffemodel", "caffe_hdf5", "text", "keras")


@dataclass(frozen=True)
class Entry:
    """Released weights (or data) and all that is needed to fetch, check, convert and cite them.

    Args:
        name: lower case letters, digits and underscores.
        description: one sentence.
        format: one of `FORMATS`; `keras` is of the weights that come with the package.
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
    preprocessing: InputFormat | None = None
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

    @property
    def bundled(self) -> Path | None:
        """The file where it comes with the package."""
        return Path(__file__).parent / "weights" / self.file_name if self.format == "keras" else None

    def _check(self, condition, field: str, wanted: str) -> None:
        if not condition:
            raise ValueError(f"`{field}` must be {wanted}. Received: {field}={getattr(self, field)!r}")


_RFD = (
    "Feng, Xu, Tao: Self-Supervised Representation Learning by Rotation Feature Decoupling. CVPR 2019 "
    "(https://github.com/philiptheother/FeatureDecoupling)"
)
_RFD_LICENCE = "not stated with the file: ask the authors before you redistribute it"
_RESNET = (
    "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. CVPR 2016; checkpoints by "
    "Y. Idelbayev (https://github.com/akamaster/pytorch_resnet_cifar10)"
)
_IMAGENET = InputFormat(input_size=(224, 224))

_RELEASED = (
    Entry(
        name="rfd_alexnet_imagenet",
        description="AlexNet with batch norm, trained by rotation feature decoupling on unlabelled ImageNet.",
        links=("https://mega.nz/#!Wmh3WIDZ!e2TgkXEsMMpZNZvb1Tp8HsdBfeZOA3WKn5g0AkXEwAA",),
        format="torch",
        file_name="rfd_alexnet_imagenet.pth.tar",
        architecture="alexnet",
        preprocessing=_IMAGENET,
        licence=_RFD_LICENCE,
        citation=_RFD,
    ),
    Entry(
        name="rfd_alexnet_voc",
        description="The same network for PASCAL VOC: batch norm folded, then rescaled between layers.",
        links=("https://mega.nz/#!e65D3CLZ!jUvWfBt3NBcjZSI90X5mKKe-OHSswN9nWo_aPo1YCOQ",),
        format="caffemodel",
        file_name="rfd_alexnet_voc.caffemodel",
        architecture="alexnet_no_bn",
        preprocessing=_IMAGENET,
        licence=_RFD_LICENCE,
        citation=_RFD,
    ),
    Entry(
        name="rfd_rotation_probabilities_imagenet",
        description="Probability that a rotated view of an ImageNet training image looks upright, four each.",
        links=("https://mega.nz/#!brBVnQbK!AU2P0D1yh4L1V9aqP3LYsWaG464q3SD-yRg5BZ7st8c",),
        format="text",
        file_name="prob.dat",
        licence=_RFD_LICENCE,
        citation=_RFD,
        notes="One number a line; four lines (rotations 0 to 3) per image, sorted by folder, then name.",
    ),
)


def _cifar_resnet(depth: int) -> Entry:
    return Entry(
        name=f"cifar_resnet{depth}",
        description=f"CIFAR-10 ResNet-{depth} with option-A shortcuts, from a checkpoint file that you give.",
        format="torch",
        file_name=f"resnet{depth}.th",
        architecture=f"resnet{depth}",
        preprocessing=InputFormat(input_size=(32, 32)),
        licence="BSD-2-Clause",
        citation=_RESNET,
        notes="The checkpoints are in the cited repository; give one with --from_file.",
    )


_LDAM = "Cao et al.: Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss. NeurIPS 2019"
_OURS = "The rfd_tf authors; the method: " + _RFD
_BUNDLED = (
    Entry(
        name="rfd_resnet14_cifar10_lt",
        description="CIFAR ResNet-14 of width 32, trained without labels on long-tailed CIFAR-10.",
        format="keras",
        file_name="rfd_resnet14_cifar10_lt.keras",
        architecture="resnet14",
        preprocessing=InputFormat((32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
        size=3_352_670,
        sha256="12fceaa275f6c7d3f88249d6ec1757d7ad235081da4b878e80f90f30f5ea5068",
        licence="MIT",
        citation=_OURS,
        notes=(
            "12,406 images (exp, ratio 100); the config `cifar10_lt` in 140 epochs, seed 0, of "
            "`benchmarks/pretraining_jax.py`. Top-1 on the 10,000 test images: kNN 46.7 %, linear 65.5 % on "
            "`pool`; 44.2 and 63.6 % on `features`; untrained 23.0 and 32.1 % on `pool`. Without heads."
        ),
    ),
    Entry(
        name="ldam_drw_resnet14_cifar10_lt",
        description="`rfd_resnet14_cifar10_lt` trained on with labels, by LDAM and DRW: a classifier.",
        format="keras",
        file_name="ldam_drw_resnet14_cifar10_lt.keras",
        architecture="resnet14",
        preprocessing=InputFormat((32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
        size=1_558_364,
        sha256="8756f2b840c56c5dd296d01927b10d2fd4b38cbabf4b3e00dff68429c1b76c8a",
        licence="MIT",
        citation=_OURS + ". LDAM and DRW: " + _LDAM,
        notes=(
            "12,406 labelled images (exp, ratio 100); the config `classify` in 30 epochs, seed 0, from "
            "`rfd_resnet14_cifar10_lt`. Top-1 on the 10,000 test images, 1,000 of each class: 68.8 % after "
            "the last epoch; 69.2 % on the eight classes of more than 100 training images, 67.5 % on the two "
            "rarest (83 and 50). The images are decoded JPEGs. `logits` are the cosines to the ten classes, "
            "whose names are `rfd_tf.load(...).info.class_names`; `features` is `pool`. Stored as float16."
        ),
    ),
    Entry(
        name="rfd_resnet20_digits",
        description="CIFAR ResNet-20, trained without labels on long-tailed digits: the demo's.",
        format="keras",
        file_name="rfd_resnet20_digits.keras",
        architecture="resnet20",
        preprocessing=InputFormat((32, 32), mean=(0.3, 0.3, 0.3), std=(0.38, 0.38, 0.38)),
        size=1_776_222,
        sha256="58d252594df8047d96895750c611b665f191f9469ac60297a15e8bfbf1d95243",
        licence="MIT",
        citation=_OURS,
        notes=(
            "544 of scikit-learn's digits (exp, ratio 10); the config `digits_lt`, seed 0. Top-1 on 445 "
            "others, `pool`: kNN 76.4 %, logistic regression 92.4 %; untrained 56.9 and 72.1 %. With the "
            "rotation head and the embedding."
        ),
    ),
)

_SHIPPED = (*_RELEASED, *_BUNDLED, *(_cifar_resnet(depth) for depth in (20, 32, 44, 56, 110)))
_entries: dict[str, Entry] = {entry.name: entry for entry in _SHIPPED}


def entry_names() -> list[str]:
    """The names of all entries, sorted."""
    return sorted(_entries)


def info(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ZooError: if there is none; the message lists those that exist.
    """
    if name not in _entries:
        raise ZooError(f"The zoo has no entry {name!r}; it has: {', '.join(entry_names())}")
    return _entries[name]


def preprocessing(name: str) -> "keras.Model":
    """How an entry's images are prepared, as a Keras model to put before its network.

    Args:
        name: of the entry.

    Returns:
        A functional model from RGB images [B, H, W, 3] in 0..255, whose middle square is resized to the
        entry's size, to float32 [B, S, S, 3], normalised.

    Raises:
        ZooError: if there is no such entry, or it is data.

    Example:
        >>> features = zoo.load(NAME)(zoo.preprocessing(NAME)(images))
    """
    import keras

    entry = info(name)
    if entry.preprocessing is None:
        raise ZooError(f"{name} is data and no network")
    given = entry.preprocessing
    low, high = given.value_range
    images = keras.Input((None, None, 3), name="image")
    resize = keras.layers.Resizing(
        *given.input_size, antialias=True, crop_to_aspect_ratio=True, dtype="float32"
    )
    x = keras.layers.Rescaling((high - low) / 255, low, dtype="float32")(resize(images))
    if given.channel_order == "BGR":
        x = keras.ops.flip(x, axis=-1)
    variance = [deviation**2 for deviation in given.std]
    x = keras.layers.Normalization(mean=given.mean, variance=variance, dtype="float32")(x)
    return keras.Model(images, x, name=f"{name}_preprocessing")


def register(entry: Entry, *, replace: bool = False) -> Entry:
    """Add an entry of your own and return it.

    Args:
        entry: the new entry.
        replace: whether it may take the place of an entry of the same name.

    Raises:
        ZooError: if the name is taken and `replace` is not set.
    """
    if not isinstance(entry, Entry):
        raise ZooError(f"`entry` must be a zoo.Entry. Received: {entry!r}")
    if entry.name in _entries and not replace:
        raise ZooError(f"The zoo has an entry {entry.name!r} already; pass replace=True to replace it")
    _entries[entry.name] = entry
    return entry


def model_card(name: str) -> str:
    """The model card of an entry, as Markdown.

    Raises:
        ZooError: if there is no such entry.
    """
    entry = info(name)
    known = "unknown until its first verified download"
    rows = [
        ("Format", entry.format),
        ("Architecture", entry.architecture or "none (data)"),
        ("File in the cache", entry.file_name),
        ("Size", f"{entry.size:,} bytes" if entry.size else known),
        ("SHA-256", entry.sha256 or known),
        ("Licence", entry.licence),
    ]
    if given := entry.preprocessing:
        height, width = given.input_size
        low, high = given.value_range
        rows += [
            ("Input", f"{height} x {width}, {given.channel_order} in [{low:g}, {high:g}]"),
            ("Mean", ", ".join(map(str, given.mean))),
            ("Standard deviation", ", ".join(map(str, given.std))),
        ]
    lines = [f"# {entry.name}", "", entry.description, "", "| | |", "|---|---|"]
    lines += [f"| {label} | {value} |" for label, value in rows]
    lines += ["", "## Links", ""]
    none = "it comes with the package" if entry.bundled else "none: give a file (`--from_file`)"
    lines += [f"- <{link}>" for link in entry.links] or [f"- {none}"]
    lines += ["", "## Citation", "", entry.citation]
    if entry.notes:
        lines += ["", "## Notes", "", entry.notes]
    if entry.architecture:
        lines += ["", "## Use", "", "```python", "import zoo", f'backbone = zoo.load("{entry.name}")', "```"]
    return "\n".join(lines) + "\n"
