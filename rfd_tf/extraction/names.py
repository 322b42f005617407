"""What a picture is called in the shards, and which pictures they are of."""

import hashlib
import os

from rfd_tf.data import Source


def picture_name(source: Source, index: int) -> str:
    """The path relative to the pictures' root, with `/`, or `FILE.npz[12]`: text that UTF-8 can hold.

    File names may be any bytes. A backslash is written `\\\\`, and a byte that is no UTF-8 `\\xNN`, so that
    different names stay different; other names are as they are.
    """
    files = getattr(source, "files", None)
    name = os.path.basename(source.describe(index)) if files is None else files[index]
    return escaped(name)


def escaped(name: str) -> str:
    """A file name, as Python gives it, in UTF-8; see `picture_name`."""
    if "\\" not in name and name.isascii():
        return name
    return os.fsencode(name.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")


def listing_digest(source: Source) -> str:
    """SHA-256 over the names of all pictures, and their labels, in order."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(picture_name(source, index).encode() + b"\0")
    if source.labels is not None:
        digest.update(source.labels.astype("<i8").tobytes())
    return digest.hexdigest()
