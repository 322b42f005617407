"""Pictures without labels, in any folders."""

import os
from collections import Counter
from pathlib import Path

from rfd_tf.data.image_files import ImageFiles, pictures_below


class FlatFolder(ImageFiles):
    """Every picture below `root`, unlabelled, in the order of its path relative to `root`.

    Args:
        root: the folder; sub-folders and links are followed.
        on_error: as in `ImageFolder`.

    Raises:
        FileNotFoundError: if `root` is not a folder or holds no picture.
        ValueError: on an undecodable ending with `on_error="raise"`, naming the file.
    """

    def __init__(self, root: str | os.PathLike, on_error: str = "raise"):
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"No folder of pictures at {root}")
        left_out: Counter[str] = Counter()
        files = sorted(
            Path(path, name).relative_to(root).as_posix()
            for path, names in pictures_below(root, left_out)
            for name in names
        )
        super().__init__(root, files, None, None, on_error, left_out)
