"""Where downloaded files live, and whether the network may be used."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$RFD_TF_CACHE/zoo`, else the platform's cache folder of the user. Not created here."""
    if root := os.environ.get("RFD_TF_CACHE"):
        return Path(root).expanduser() / "zoo"
    import platformdirs

    return Path(platformdirs.user_cache_dir("rfd_tf", appauthor=False)) / "zoo"


def is_offline() -> bool:
    """Whether `$RFD_TF_OFFLINE` forbids the network: anything but empty, `0`, `false` and `no` does."""
    return os.environ.get("RFD_TF_OFFLINE", "").lower() not in ("", "0", "false", "no")
