"""PyTorch checkpoints, written by PyTorch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from zoo.errors import ZooError


def write_checkpoint(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Write `{"network": state}` in PyTorch's zip format.

    Raises:
        ZooError: if PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise ZooError("Writing a PyTorch checkpoint needs PyTorch: pip install 'rfd_tf[torch]'") from None
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in state.items()}
    torch.save({"network": tensors}, path)
