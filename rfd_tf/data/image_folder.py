"""Images in folders: one folder a class, any tree, and Places205's."""

import contextlib
import functools
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from rfd_tf.data.folder_index import Folder, FolderIndex
from rfd_tf.data.source import Source, host_constant

DECODABLE = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
UNDECODABLE = (".ppm", ".pgm", ".tif", ".tiff")
_ENDINGS = DECODABLE + UNDECODABLE
ON_ERROR = ("raise", "skip")
_BLOCK = 65_536  # of files
_THREADS = 16  # that ask for the state of files: over a network each waits
LISTED_KINDS = 10  # of files left out, that are told apart in a message
_ENDING = re.compile(r"\.(?=.*[a-z])\w{1,10}", re.ASCII)  # not the numbers of a series, nor what is not text
BESIDE = "beside the class folders"  # a kind of images


class ImageFiles(Source):
    """A list of image files below one folder, in a given order. Base of the folder sources.

    Args:
        root: the folder; its name names the source.
        files: N paths relative to `root`, with `/`.
        labels: int64 of shape [N] or None.
        class_names: one name per class or None.
        on_error: as in `ImageFolder`.
        left_out: as of `Source`; what there is, is logged.

    Raises:
        FileNotFoundError: if `files` is empty.
        ValueError: on an undecodable ending with `on_error="raise"`, naming the file.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        labels: np.ndarray | None,
        class_names: tuple[str, ...] | None,
        on_error: str = "raise",
        left_out: Mapping[str, int] | None = None,
    ):
        if on_error not in ON_ERROR:
            raise ValueError(f"`on_error` must be one of {ON_ERROR}. Received: on_error={on_error!r}")
        if not files:
            found = f"; it holds {left_out_text(left_out)}" if left_out else ""
            raise FileNotFoundError(
                f"{root} holds no image (a file that ends in {', '.join(DECODABLE)}){found}"
            )
        if on_error == "raise":
            _refuse_undecodable(root, files)
        super().__init__(root.name or str(root), labels, class_names)
        self.root = root
        self.files = tuple(files)
        self.left_out = dict(left_out or {})
        if self.left_out:
            logging.warning("Files left out of %s: %s", root, left_out_text(self.left_out))

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, index: tf.Tensor) -> tf.Tensor:
        return tf.io.read_file(tf.gather(self._paths, index))

    def describe(self, index: int) -> str:
        return str(self.root / self.files[index])

    def descriptions(self, indices: np.ndarray) -> Iterator[str]:
        start = str(self.root / "x")[:-1]
        for first in range(0, len(indices), _BLOCK):
            files = [self.files[index] for index in np.asarray(indices[first : first + _BLOCK]).tolist()]
            inside = "/" + "/\0/".join(files) + "/"
            if "//" in inside or "/./" in inside:  # in a list; a `Path` leaves them out
                yield from (str(self.root / file) for file in files)
            else:
                yield from (start + file for file in files)

    def fingerprint(self, indices: np.ndarray) -> str:
        """Of paths, sizes and times of last change."""
        digest = hashlib.sha256()
        with futures.ThreadPoolExecutor(_THREADS) as pool:
            for first in range(0, len(indices), _BLOCK):
                paths = list(self.descriptions(indices[first : first + _BLOCK]))
                for states in pool.map(_states, (paths[at : at + 1024] for at in range(0, len(paths), 1024))):
                    digest.update(states)
        return digest.hexdigest()

    @functools.cached_property
    def _paths(self) -> tf.Tensor:
        # TensorFlow splits one text in a tenth of the time that it takes to be given as many.
        joined = os.fsencode(f"{self.root}/" + f"\0{self.root}/".join(self.files))
        with tf.init_scope(), tf.device("CPU:0"):
            return tf.strings.split(host_constant(joined), "\0")


def _states(paths: Sequence[str]) -> bytes:
    """Each path with its file's size and time of last change."""
    states = []
    for path in paths:
        try:
            status = os.stat(path)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "unreadable"
        states.append(os.fsencode(path) + f"\0{state}\0".encode())
    return b"".join(states)


def list_folder(path: str) -> Folder:
    """What a folder holds; links are followed. Files that are no images are counted by `kind_of_file`."""
    folders, images, lasting = [], [], True
    left_out: Counter[str] = Counter()
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            lasting = lasting and not entry.is_symlink()
            if _is_folder(entry):
                folders.append(name)
            elif has_image_ending(name):
                images.append(name)
            else:
                left_out[kind_of_file(name)] += 1
    return Folder(folders, sorted(images), dict(left_out), lasting)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def images_below(
    index: FolderIndex, left_out: Counter[str], top: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """(path below the root, names of its images) of the folder `top` and every one below it.

    A folder that cannot be read is passed over. Other files are counted in `left_out`.
    """
    remaining = [top]
    while remaining:
        path = remaining.pop()
        try:
            found = index.folder(path)
        except OSError:
            continue
        left_out.update(found.left_out)
        remaining += [f"{path}/{name}" if path else name for name in found.folders]
        yield path, found.images


def holds_image(folder: str) -> bool:
    """Whether there is an image in the folder or below; the search ends at the first."""
    remaining = [folder]
    while remaining:
        with contextlib.suppress(OSError), os.scandir(remaining.pop()) as entries:
            for entry in entries:
                if _is_folder(entry):
                    remaining.append(entry.path)
                elif has_image_ending(entry.name):
                    return True
    return False


def has_image_ending(name: str) -> bool:
    """Whether a file is listed as an image; the endings are torchvision's."""
    return name.lower().endswith(_ENDINGS)


def kind_of_file(name: str) -> str:
    """What a file that is left out is counted as: `hidden`, its ending such as `.heic`, or `other ending`."""
    ending = os.path.splitext(name)[1].lower()
    return "hidden" if name.startswith(".") else ending if _ENDING.fullmatch(ending) else "other ending"


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Files by kind, the most frequent first: `12 .heic, 3 .gif, 1 hidden`."""
    kinds = sorted(left_out.items(), key=lambda kind: (-kind[1], kind[0]))
    listed = [f"{count} {kind}" for kind, count in kinds[:LISTED_KINDS]]
    if others := sum(count for _, count in kinds[LISTED_KINDS:]):
        listed.append(f"{others} others")
    return ", ".join(listed)


def _refuse_undecodable(root: Path, files: Sequence[str]) -> None:
    last = {file[-5:] for file in files}  # few, and of many files
    if any(text.lower().endswith(UNDECODABLE) for text in last):
        refused = [file for file in files if file.lower().endswith(UNDECODABLE)]
        raise ValueError(
            f"TensorFlow cannot decode {root / refused[0]}"
            + (f" nor {len(refused) - 1} more files with such endings" if len(refused) > 1 else "")
            + '. Convert it (to PNG or JPEG), or leave it out with on_error="skip"'
        )


class ImageFolder(ImageFiles):
    """`root/CLASS/**/IMAGE`: classes in the order of their folders' names, then by path.

    The order, and with it the instance index, is that of torchvision's `ImageFolder`, so that a `prob.dat`
    written with it fits. The ending decides what is an image, in any case; links are followed. Other files,
    and images beside the class folders, are left out and counted.

    Args:
        root: the folder that holds the class folders.
        labelled: False drops the labels; then one class folder is enough, and empty ones are not an error.
        on_error: `"raise"` refuses files whose ending TensorFlow cannot decode; `"skip"` lists them, so
            that every index stays as it is, and leaves them to `valid_indices`.

    Raises:
        FileNotFoundError: if `root` is not a folder, or holds no class folder, or (labelled) an empty one.
        ValueError: if there is one class only (labelled), or on an undecodable ending with `"raise"`.

    Example: `ImageFolder("imagenet/train").labels`
    """

    def __init__(self, root: str | os.PathLike, labelled: bool = True, on_error: str = "raise"):
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"No folder of images at {root}")
        index = FolderIndex(root, list_folder, _ENDINGS)
        beside = index.folder("")
        classes = tuple(sorted(beside.folders))
        if not classes:
            raise FileNotFoundError(f"{root} holds no class folder: it needs one folder of images per class")
        left_out = Counter(beside.left_out)
        if beside.images:
            left_out[BESIDE] += len(beside.images)
        files: list[str] = []
        counts = []
        for name in classes:
            before = len(files)
            for path, names in sorted(images_below(index, left_out, name)):
                files += [f"{path}/{image}" for image in names]
            counts.append(len(files) - before)
            if labelled and not counts[-1]:
                raise FileNotFoundError(f"Class folder {root / name} holds no image. Fill it or remove it")
        if labelled and len(classes) < 2:
            raise ValueError(
                f"{root} holds one class folder only ({classes[0]!r}), and labels need at least two. For "
                "images without labels use a flat folder"
            )
        super().__init__(
            root,
            files,
            np.repeat(np.arange(len(classes)), counts) if labelled else None,
            classes if labelled else None,
            on_error,
            left_out,
        )
        index.save()


class FlatFolder(ImageFiles):
    """Every image below `root`, unlabelled, in the order of its path relative to `root`.

    Args:
        root: the folder; sub-folders and links are followed.
        on_error: as in `ImageFolder`.

    Raises:
        FileNotFoundError: if `root` is not a folder or holds no image.
        ValueError: on an undecodable ending with `on_error="raise"`, naming the file.
    """

    def __init__(self, root: str | os.PathLike, on_error: str = "raise"):
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"No folder of images at {root}")
        index = FolderIndex(root, list_folder, _ENDINGS)
        left_out: Counter[str] = Counter()
        files: list[str] = []
        for path, names in sorted(images_below(index, left_out)):
            files += [f"{path}/{name}" for name in names] if path else names
        files.sort()  # fast, as it nearly is
        super().__init__(root, files, None, None, on_error, left_out)
        index.save()
