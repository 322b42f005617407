"""From an entry's name to a Keras network."""

from collections.abc import Sequence
from pathlib import Path

import keras

from rfd_tf.models import select_features
from zoo.conversion import load_file
from zoo.downloader import download
from zoo.registry import info
from zoo.verification import TOLERANCE


def load(
    name: str,
    *,
    from_file: str | Path | None = None,
    heads: bool | str = False,
    heads_from: str | Path | Sequence[str | Path] = (),
    feature_names: Sequence[str] | None = None,
    tolerance: float = TOLERANCE,
) -> keras.Model:
    """The network of an entry, with its released weights, verified.

    Args:
        name: of the entry.
        from_file: the released file, or the same weights in another PyTorch or Caffe file, where you have
            it; else it comes from the cache or the network.
        heads: True to output what the checkpoint's heads make of the features as well: `rotation_logits`
            [B, 4] and `embedding` [B, 128], or `logits` [B, classes] of a CIFAR ResNet; "auto" for those
            heads that are there.
        heads_from: PyTorch files of heads, one or several: RFD's code writes the rotation classifier
            (`fc_classifier.0.*`) and the projection (`norm.0.*`) into files of their own. They go before
            those of the checkpoint, and are output without asking for `heads`.
        feature_names: the outputs; by default all.
        tolerance: how far the network may be from an independent forward pass of its source: absolute up to
            values of 1, relative to the feature's largest value beyond.

    Returns:
        A functional model from images [B, H, W, 3] to a dict of features. The images are to be prepared as
        `zoo.info(name).preprocessing` does it.

    Raises:
        ZooError: if there is no such entry, it cannot be had, its file is not what it says, or a head that
            was asked for is missing.

    Example:
        >>> backbone = zoo.load("rfd_alexnet_imagenet", feature_names=["conv5"])
        >>> network = zoo.load("rfd_alexnet_imagenet", heads_from=["rotation.pth.tar", "projection.pth.tar"])
    """
    entry = info(name)
    if not entry.architecture:
        load_file(entry, "")  # refuses
    path = Path(from_file) if from_file else download(name)
    model, _ = load_file(entry, path, heads=heads, heads_from=heads_from, tolerance=tolerance)
    return select_features(model, feature_names) if feature_names else model
