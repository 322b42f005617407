"""What the folders of a large collection hold, kept from one start to the next.

Listing millions of files takes many seconds on a local disk and minutes over a network. A folder's own time
of change tells whether files came, went or were renamed in it: of a collection that was listed before only
the folders are looked at, not the files.
"""

import functools
import gzip
import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from rfd_tf.files import atomic_file, fits, parse_json, user_cache

SWITCH = "RFD_TF_FOLDER_INDEX"
_FORMAT = 1
_WORTH_KEEPING = 10_000  # images: fewer are listed in no time
# A folder that changed so shortly before it was listed may change again within the same tick of its file
# system's clock (2 s on FAT), and that clock, a server's, may be behind ours.
_SETTLED_NS = 60 * 10**9
_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError)
_MOUNTS = "/proc/self/mountinfo"


class Folder(NamedTuple):
    """What one folder holds.

    Attributes:
        folders: names of its folders, and of links to folders.
        images: names of its images, ascending.
        left_out: its other files, by kind.
        lasting: whether the folder's time of change would tell of any change: not where it holds links, whose
            targets are elsewhere.
    """

    folders: list[str]
    images: list[str]
    left_out: dict[str, int]
    lasting: bool


class FolderIndex:
    """Folders below one root, from the index where they have not changed since, else from the disk.

    The index is a file in `$RFD_TF_CACHE/folders`, else in the platform's cache folder of the user; nothing
    is written among the images. It is made for collections of 10,000 images and more. One that is damaged, of
    another version or cannot be written costs a line in the log. `RFD_TF_FOLDER_INDEX=0` does without it.

    A folder is taken from it if its inode and its times of last change, which no program can set back, are
    what they were. Not kept are folders that hold links, that changed within the minute before they were
    listed, or that lie on FUSE file systems, since object stores have no such times.

    Args:
        root: the folder.
        read: lists a folder, given its path.
        kinds: what `read` depends on; an index of other kinds is not used.
    """

    def __init__(self, root: str | os.PathLike, read: Callable[[str], Folder], kinds: Sequence[str]):
        self.root = os.fspath(root)
        self._read = read
        real = os.path.realpath(root)
        self._head = {"format": _FORMAT, "root": real, "kinds": list(kinds)}
        name = hashlib.sha256(os.fsencode(real)).hexdigest()[:32]
        off = os.environ.get(SWITCH, "1").lower() in ("0", "false", "no", "off")
        self._path = None if off else user_cache() / "folders" / f"{name}.json.gz"
        self._known = self._load()
        self._kept: dict[str, list] = {}
        self._images = 0

    def folder(self, relative: str) -> Folder:
        """A folder by its path below the root, "" for the root itself; OSError where it cannot be read."""
        path = f"{self.root}/{relative}" if relative else self.root
        state, lasting = _state(path)
        known = self._known.get(relative)
        if known is not None and lasting and known[0] == state:
            found = Folder(known[1], known[2].split("/") if known[2] else [], known[3], True)
            self._kept[relative] = known
        else:
            listed_at = time.time_ns()
            found = self._read(path)
            if lasting and found.lasting and listed_at - max(state[1:]) > _SETTLED_NS:
                self._kept[relative] = [state, found.folders, "/".join(found.images), found.left_out]
        self._images += len(found.images)
        return found

    def save(self) -> None:
        """Keep what was found, if it is not what was known."""
        if self._path is None or self._images < _WORTH_KEEPING or self._same():
            return
        content = json.dumps(self._head | {"folders": self._kept}, separators=(",", ":")).encode()
        try:
            with atomic_file(self._path) as file:
                file.write(gzip.compress(content, compresslevel=1))
        except OSError as error:
            logging.info("The list of the images in %s is not kept (%s)", self.root, error)

    def _same(self) -> bool:
        known, kept = self._known, self._kept
        return known.keys() == kept.keys() and all(known[path] is kept[path] for path in kept)

    def _load(self) -> dict[str, list]:
        """[state, folders, images joined by "/", left out] by path below the root."""
        if self._path is None:
            return {}
        try:
            content = parse_json(gzip.decompress(self._path.read_bytes()))  # which checks a sum of its bytes
            folders = content.pop("folders")
            if content != self._head:
                raise ValueError("it is of another version or folder")
            if not (fits(folders, dict) and all(map(_is_kept_folder, folders.values()))):
                raise ValueError("it is malformed")
            return folders
        except FileNotFoundError:
            pass
        except _UNREADABLE as error:
            logging.info("%s is not used (%s): %s is listed anew", self._path, error, self.root)
        return {}


def _is_kept_folder(value: Any) -> bool:
    return (
        fits(value, list)
        and [*map(type, value)] == [list, list, str, dict]
        and fits(value[0], list[int])
        and fits(value[1], list[str])
        and fits(value[3], dict[str, int])
    )


def _state(path: str) -> tuple[list[int], bool]:
    """([inode, times of last change of content and inode, in ns], whether these tell of changes)."""
    status = os.stat(path)
    state = [status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    return state, min(state) > 0 and not _on_fuse(status.st_dev)


@functools.cache
def _on_fuse(device: int) -> bool:
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path(_MOUNTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    fields = [line.partition(" - ") for line in mounts]  # man 5 proc_pid_mountinfo
    return any(kind.startswith("fuse") for first, _, kind in fields if first.split()[2:3] == [number])
