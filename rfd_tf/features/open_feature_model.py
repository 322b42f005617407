"""A feature model by its location, in whatever form it is there."""

import os
from collections.abc import Sequence
from pathlib import Path

from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.features.feature_model import FeatureModel

SERVING_SCHEMES = ("grpc://", "grpcs://", "http://", "https://")


def open_feature_model(
    location: str | os.PathLike,
    feature_maps: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    **serving_options,
) -> FeatureModel:
    """Opens a feature model.

    Args:
        location: one of
            the folder of a finished `rfd train` run, or a `.keras` file;
            a SavedModel: its folder, or the folder that holds its numbered versions (the newest counts);
            an `.onnx` file;
            the folder of an `rfd export`: its SavedModel, else its `.keras` file, else its `.onnx` file;
            TensorFlow Serving: `grpc://HOST:PORT/NAME`, `http://HOST:PORT/NAME`, with an `s` for TLS.
        preprocessing: how images are prepared for a `.keras` file that does not tell, such as any functional
            model of yours.
        feature_maps: feature maps that are wanted besides the features; None for all there are. Exports give
            those that they were exported with.
        **serving_options: of `rfd_tf.serving.ServingClient`, for an address.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if what is there is no feature model, or lacks a feature map.
    """
    location = os.fspath(location)
    if location.startswith(SERVING_SCHEMES):
        from rfd_tf.features.serving_feature_model import open_serving

        return open_serving(location, feature_maps, **serving_options)
    if serving_options:
        raise ValueError(
            f"{', '.join(serving_options)} are for a server's address only. Received: {location}"
        )
    path = _within_export(Path(location))
    if not path.exists():
        raise FileNotFoundError(f"No model at {path}")
    if path.suffix == ".onnx":
        from rfd_tf.features.onnx_feature_model import open_onnx

        return open_onnx(path, feature_maps)
    if path.is_dir() and not (path / "config.json").exists():
        from rfd_tf.features.saved_model_feature_model import open_saved_model

        return open_saved_model(path, feature_maps)
    from rfd_tf.features.keras_feature_model import open_keras

    return open_keras(path, feature_maps, preprocessing)


def _within_export(path: Path) -> Path:
    """The file to open in an export's folder without SavedModel; any other path as it is."""
    if (path / "config.json").exists() or (path / "saved_model").exists():
        return path
    return next((file for name in ("model.keras", "model.onnx") if (file := path / name).is_file()), path)
