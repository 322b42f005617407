"""Released weights: found, downloaded, converted to Keras, verified.

Nothing heavy is imported before it is used.
"""

import importlib

# Public name -> (module, name there). No module bears a public name: importing it would hide the function.
_PUBLIC = {
    "DownloadError": ("zoo.errors", "DownloadError"),
    "Entry": ("zoo.registry", "Entry"),
    "FormatError": ("zoo.errors", "FormatError"),
    "ImageClassifier": ("zoo.conversion", "ImageClassifier"),
    "InputFormat": ("zoo.registry", "InputFormat"),
    "Network": ("zoo.downloader", "Network"),
    "VerificationError": ("zoo.errors", "VerificationError"),
    "WeightError": ("zoo.errors", "WeightError"),
    "ZooError": ("zoo.errors", "ZooError"),
    "convert": ("zoo.conversion", "convert"),
    "download": ("zoo.downloader", "download"),
    "export_weights": ("zoo.conversion", "export_weights"),
    "fold_batch_norm": ("rfd_tf.models.folding", "fold_batch_norm"),
    "info": ("zoo.registry", "info"),
    "list": ("zoo.registry", "entry_names"),
    "load": ("zoo.conversion", "load"),
    "model_card": ("zoo.registry", "model_card"),
    "preprocessing": ("zoo.registry", "preprocessing"),
    "register": ("zoo.registry", "register"),
    "rescale": ("zoo.rescaling", "rescale"),
    "resolve_init": ("zoo.conversion", "resolve_init"),
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(_PUBLIC)
