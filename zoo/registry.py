"""The entries that the project ships, those that users register, and their cards."""

from zoo.entry import Entry, Preprocessing
from zoo.errors import ZooError

_RFD = (
    "Feng, Xu, Tao: Self-Supervised Representation Learning by Rotation Feature Decoupling. CVPR 2019 "
    "(https://github.com/philiptheother/FeatureDecoupling)"
)
_RFD_LICENCE = "not stated with the file: ask the authors before you redistribute it"
_RESNET = (
    "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. CVPR 2016; checkpoints by "
    "Y. Idelbayev (https://github.com/akamaster/pytorch_resnet_cifar10)"
)
_IMAGENET = Preprocessing(input_size=(224, 224))

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
        preprocessing=Preprocessing(input_size=(32, 32)),
        licence="BSD-2-Clause",
        citation=_RESNET,
        notes="The checkpoints are in the cited repository; give one with --from_file.",
    )


ENTRIES = (*_RELEASED, *(_cifar_resnet(depth) for depth in (20, 32, 44, 56, 110)))


_entries: dict[str, Entry] = {entry.name: entry for entry in ENTRIES}


def entry_names() -> list[str]:
    """The names of all entries, sorted."""
    return sorted(_entries)


def info(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ZooError: if there is none; the message lists those that exist.
    """
    try:
        return _entries[name]
    except KeyError:
        raise ZooError(f"The zoo has no entry {name!r}; it has: {', '.join(entry_names())}") from None


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
    lines = [f"# {entry.name}", "", entry.description, "", "| | |", "|---|---|"]
    lines += [f"| {label} | {value} |" for label, value in rows]
    lines += _preprocessing_lines(entry.preprocessing)
    lines += ["", "## Links", ""]
    lines += [f"- <{link}>" for link in entry.links] or ["- none: give a file (`--from_file`)"]
    lines += ["", "## Citation", "", entry.citation]
    if entry.notes:
        lines += ["", "## Notes", "", entry.notes]
    if entry.architecture:
        lines += ["", "## Use", "", "```python", "import zoo", f'backbone = zoo.load("{entry.name}")', "```"]
    return "\n".join(lines) + "\n"


def _preprocessing_lines(preprocessing) -> list[str]:
    if preprocessing is None:
        return []
    height, width = preprocessing.input_size
    low, high = preprocessing.value_range
    return [
        f"| Input | {height} x {width}, {preprocessing.channel_order} in [{low:g}, {high:g}] |",
        f"| Mean | {', '.join(map(str, preprocessing.mean))} |",
        f"| Standard deviation | {', '.join(map(str, preprocessing.std))} |",
    ]
