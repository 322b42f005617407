"""Features for an evaluation, kept in its folder."""

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
from absl import logging

from rfd_tf import data
from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.features import FeatureModel
from rfd_tf.features.feature_model import NORMALIZED
from rfd_tf.files import fits, parse_json, write_text
from rfd_tf.rotations import NUM_ROTATIONS
from rfd_tf.runs.images import IMAGE_ERRORS, ImageSet
from rfd_tf.terminal import progress_bar

DTYPES = ("float32", "float16")
_STATE_FILE = "state.json"
_SAVED_EVERY = 5.0  # seconds


@dataclasses.dataclass(frozen=True)
class Transform:
    """What is kept of a model's outputs.

    Attributes:
        name: tells one transform from others.
        function: makes of an output's name and float32 values [B, ...] what is kept, [B, ...].
    """

    name: str
    function: Callable[[str, np.ndarray], np.ndarray]


IDENTITY = Transform("", lambda _name, values: values)
MEAN_OVER_SPACE = Transform(
    "mean over space", lambda _name, values: values.mean(axis=(1, 2)) if values.ndim == 4 else values
)


def cached_features(
    feature_model: FeatureModel,
    images: ImageSet,
    names: Sequence[str],
    folder: Path,
    batch_size: int,
    *,
    transform: Transform = IDENTITY,
    dtype: str = "float32",
) -> dict[str, np.ndarray]:
    """Outputs of a model for every valid image, from disk where they are there already.

    Each output is a `.npy` file that is filled by batches, so that memory holds no more than a batch. Stopped
    at any moment, it goes on with the images that are missing. What is there is used only for the same
    model, images, preparation, names, transform and dtype; else it is replaced.

    Args:
        feature_model: the model; its own preprocessing prepares the images, but for `exif_orientation`, which
            is that of `images`.
        images: those at `valid` are taken, in that order.
        names: the model's outputs.
        folder: of these features and of nothing else; one process at a time may work in it.
        batch_size: images a batch.
        transform: what is kept of each output.
        dtype: of the files, `"float32"` or `"float16"`.

    Returns:
        name -> [len(images.valid), ...], memory maps that can be read only.

    Raises:
        BadImageError: on an image that cannot be read; with `on_error="skip"` none of the valid ones is.
        ValueError: on an unknown name, or a value that is not finite or too large for `dtype`; it names the
            image.
        OSError: if the disk has too little room; nothing is lost.
    """
    names = feature_model.check_names(names)
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {DTYPES}. Received: dtype={dtype!r}")
    key = {
        "model": feature_model.fingerprint,
        "pictures": images.source.fingerprint(images.valid),
        "preprocessing": dataclasses.asdict(_preprocessing(feature_model, images)),
        "outputs": list(names),
        "transform": transform.name,
        "dtype": dtype,
    }
    store = _Store(folder, json.loads(json.dumps(key)), len(images.valid), names, dtype)
    if store.done < store.rows:
        _fill(store, feature_model, images, batch_size, transform)
    return dict(store.maps(mode="r"))


class _Store:
    """The files of one folder: a row for each image, `done` of them filled."""

    def __init__(self, folder: Path, key: dict, rows: int, names: tuple[str, ...], dtype: str):
        self.folder, self.key, self.rows, self.names, self.dtype = folder, key, rows, names, dtype
        self.done = self._rows_of_same()
        if not self.done:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def _rows_of_same(self) -> int:
        """Rows there of the same features; 0 if there are none, or others."""
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            state = parse_json((self.folder / _STATE_FILE).read_text(encoding="utf-8"))
            if not fits(state, dict) or not fits(state["key"], dict) or not fits(state["done"], int):
                return 0
            if changed := [part for part, value in self.key.items() if state["key"].get(part) != value]:
                logging.info("Features in %s are of another %s: made anew", self.folder, ", ".join(changed))
                return 0
            if all(len(values) == self.rows for values in self.maps("r").values()):
                return min(max(state["done"], 0), self.rows)
        return 0

    def maps(self, mode: Literal["r", "r+"]) -> dict[str, np.memmap]:
        maps = {name: np.load(self._file(name), mmap_mode=mode, allow_pickle=False) for name in self.names}
        return cast(dict[str, np.memmap], maps)

    def create(self, first: dict[str, np.ndarray]) -> None:
        """Files for rows like those of the `first` batch, at full size: a full disk is an error here, and
        would be a signal that ends the process later.
        """
        for name, values in first.items():
            shape = (self.rows, *values.shape[1:])
            np.lib.format.open_memmap(self._file(name), "w+", self.dtype, shape).flush()
            with open(self._file(name), "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)

    def save_state(self) -> None:
        write_text(self.folder / _STATE_FILE, json.dumps({"key": self.key, "done": self.done}) + "\n")

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


def _fill(
    store: _Store, feature_model: FeatureModel, image_set: ImageSet, batch_size: int, transform: Transform
) -> None:
    rows = image_set.valid[store.done :]
    maps = store.maps("r+") if store.done else None

    def save() -> None:
        for values in (maps or {}).values():
            values.flush()
        store.save_state()

    saved = time.monotonic()
    try:
        with progress_bar(f"Features of {feature_model.info.name}", store.rows, done=store.done) as bar:
            for images, index in _batches(image_set, feature_model, batch_size, rows):
                outputs = _outputs(feature_model, images, store, transform, image_set, index)
                if maps is None:
                    store.create(outputs)
                    maps = store.maps("r+")
                for name, values in outputs.items():
                    maps[name][store.done : store.done + len(index)] = values
                store.done += len(index)
                bar.update(len(index))
                if time.monotonic() - saved > _SAVED_EVERY:
                    save()
                    saved = time.monotonic()
    finally:
        if store.done:
            save()


def _batches(images: ImageSet, feature_model: FeatureModel, batch_size: int, rows: np.ndarray):
    """Images and indices; an image that cannot be read is named."""
    preprocessing = _preprocessing(feature_model, images)
    dataset = data.evaluation_dataset(images.source, preprocessing, batch_size, rows)
    if images.source.labels is not None:
        dataset = dataset.map(lambda features, _label: features)
    try:
        for batch in dataset.as_numpy_iterator():
            yield batch["image"], batch["index"]
    except IMAGE_ERRORS as error:
        images.name_bad_image(error, rows)
        raise


def _preprocessing(feature_model: FeatureModel, images: ImageSet) -> data.Preprocessing:
    return dataclasses.replace(
        feature_model.info.preprocessing, exif_orientation=images.preprocessing.exif_orientation
    )


def _outputs(feature_model, images, store: _Store, transform: Transform, image_set: ImageSet, index) -> dict:
    outputs = {}
    for name, values in feature_model(images, store.names).items():
        with np.errstate(over="ignore"):
            outputs[name] = np.asarray(transform.function(name, values)).astype(store.dtype)
        finite = np.isfinite(outputs[name].reshape(len(index), -1)).all(axis=1)
        if not finite.all():
            bad = image_set.source.describe(int(index[~finite][0]))
            raise ValueError(f"Output {name!r} of {bad} has values that are not finite in {store.dtype}")
    return outputs


class FourViewFeatureModel(FeatureModel):
    """What a model says of an image's four views: each output becomes [B, 4, ...].

    Args:
        feature_model: the model. It is not closed with this one.
    """

    def __init__(self, feature_model: FeatureModel):
        outputs = {name: (NUM_ROTATIONS, *shape) for name, shape in feature_model.info.outputs.items()}
        info = dataclasses.replace(feature_model.info, outputs=outputs, input=NORMALIZED)
        super().__init__(info, feature_model.location)
        self.feature_model = feature_model

    @functools.cached_property
    def fingerprint(self) -> str:
        return f"four views of {self.feature_model.fingerprint}"

    def _extract(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        views = [
            self.feature_model(np.ascontiguousarray(np.rot90(images, turns, axes=(1, 2))), names)
            for turns in range(NUM_ROTATIONS)
        ]
        return {name: np.stack([view[name] for view in views], axis=1) for name in names}


def experiment_features(
    experiment: Experiment, names: Sequence[str], suffix: str, transform: Transform = IDENTITY
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Training and test features by name, from the workdir's cache: `training` and `test` with the suffix."""
    training, test = (
        cached_features(
            experiment.feature_model,
            images,
            names,
            experiment.run.cache / f"{part}{suffix}",
            experiment.config.batch_size,
            transform=transform,
        )
        for part, images in (("training", experiment.training), ("test", experiment.test))
    )
    return training, test


def vector_features(experiment: Experiment) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Training and test features, name -> [N, D] and [M, D], of the config's `features`, or of `features`.

    Maps are averaged over space.
    """
    names = tuple(experiment.config.features) or ("features",)
    return experiment_features(experiment, names, "", MEAN_OVER_SPACE)
