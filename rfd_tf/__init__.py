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
# Public name -> (module, name there).
_PUBLIC = {
    "DeferredReweighting": ("rfd_tf.callbacks", "DeferredReweighting"),
    "LDAMLoss": ("rfd_tf.losses", "LDAMLoss"),
    "RotationDecoupling": ("rfd_tf.models", "RotationDecoupling"),
    "classify": ("rfd_tf.api", "classify"),
    "create_backbone": ("rfd_tf.models", "create_backbone"),
    "evaluate": ("rfd_tf.api", "evaluate"),
    "export": ("rfd_tf.api", "export"),
    "extract": ("rfd_tf.api", "extract"),
    "load": ("rfd_tf.api", "load"),
    "pretrain": ("rfd_tf.api", "pretrain"),
    "train_rotation_probabilities": ("rfd_tf.api", "train_rotation_probabilities"),
}

__all__ = [*_SUBMODULES, *_PUBLIC, "__version__"]


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
