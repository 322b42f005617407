import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from rfd_tf.features.feature_model import FeatureModel, ModelInfo, check_feature_maps

_ASSERTION = re.compile(r"assertion failed: \[(.*)\]")
_GRAPH = "saved_model.pb"
_FACTS = ("assets/model.json", "assets.extra/model.json")


class SavedModelFeatureModel(FeatureModel):
    """Features by the signature `serving_default` of a SavedModel, in this process.

    Args:
        model: what `tf.saved_model.load` gave.
        info: its facts.
        location: where it came from.
    """

    def __init__(self, model, info: ModelInfo, location: str):
        super().__init__(info, location)
        self._model = model  # signatures do not keep it alive
        self._selected: dict[tuple[str, ...], object] = {}

    def _extract(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        outputs = self._function(names)(tf.constant(images))
        return {name: value.numpy() for name, value in outputs.items()}

    def from_files(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        """All outputs for encoded images, prepared within the model as in evaluation (signature `jpeg`).

        Raises:
            ValueError: on an empty batch, and on images that are refused or cannot be decoded: all are
                listed by position, from 0.
        """
        encoded = tf.constant(list(files), tf.string, shape=[len(files)])
        try:
            outputs = self._model.signatures["jpeg"](encoded=encoded)
        except tf.errors.InvalidArgumentError as error:
            reason = _ASSERTION.search(error.message)
            raise ValueError(f"{self.location}: {reason[1] if reason else error.message}") from None
        return {name: outputs[name].numpy() for name in self.info.outputs}

    def _function(self, names: tuple[str, ...]):
        """Computes no more than `names` ask for; traced once for each."""
        if names not in self._selected:
            signature = self._model.signatures["serving_default"]
            spec = tf.TensorSpec(
                (None, *self.info.image_shape), signature.structured_input_signature[1]["image"].dtype
            )

            @tf.function(input_signature=[spec], autograph=False)
            def infer(images):
                outputs = signature(image=images)
                return {name: outputs[name] for name in names}

            self._selected[names] = infer
        return self._selected[names]


def open_saved_model(
    path: str | os.PathLike, feature_maps: Sequence[str] | None = None
) -> SavedModelFeatureModel:
    """Opens a SavedModel that `rfd export` wrote.

    Args:
        path: its folder, the folder of its numbered versions (the newest counts), or the export's folder.
        feature_maps: feature maps that it must have; None for those it has.

    Raises:
        FileNotFoundError: if there is no SavedModel.
        ValueError: if it cannot be read, has no facts of ours, or lacks a map.
    """
    if (folder := find_saved_model(path)) is None:
        raise FileNotFoundError(f"{path} holds no SavedModel (a {_GRAPH}, or numbered folders with one)")
    facts = next((file for name in _FACTS if (file := folder / name).is_file()), None)
    if facts is None:
        raise ValueError(f"{folder} has no {_FACTS[0]}: it was not exported by this package")
    info = ModelInfo.from_json(facts.read_text(encoding="utf-8"), str(facts))
    check_feature_maps(info, feature_maps, str(folder))
    try:
        model = tf.saved_model.load(str(folder))
        inputs = model.signatures["serving_default"].structured_input_signature[1]
    except Exception as error:  # TensorFlow raises whatever its parts raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{folder}: TensorFlow cannot read it ({reason})") from error
    if "image" not in inputs:
        raise ValueError(f"{folder}: its signature serving_default has no input `image`")
    return SavedModelFeatureModel(model, info, str(folder))


def find_saved_model(path: str | os.PathLike) -> Path | None:
    """The SavedModel that `path` means: itself, its newest version, or that of its folder `saved_model`."""
    path = Path(path)
    if (path / _GRAPH).is_file():
        return path
    versions = [child for child in path.glob("[0-9]*") if child.name.isdigit() and (child / _GRAPH).is_file()]
    if versions:
        return max(versions, key=lambda child: int(child.name))
    below = path / "saved_model"
    return find_saved_model(below) if below.is_dir() else None
