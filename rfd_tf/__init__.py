"""Self-supervised learning by imbalanced rotation feature decoupling (Keras 3, TensorFlow).

Sub-packages are imported when first used, so that `import rfd_tf` alone loads neither Keras nor TensorFlow.
"""

import importlib

__version__ = "0.1.0"

_SUBMODULES = (
    "callbacks",
    "data",
    "distribution",
    "evaluation",
    "imbalance",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "rotations",
)

__all__ = [*_SUBMODULES, "__version__"]


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
