"""A sample of images with their features, and its files for TensorBoard's projector."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

from rfd_tf import data
from rfd_tf.features import FeatureModel
from rfd_tf.files import atomic_folder, write_text
from rfd_tf.runs.images import ImageSet

THUMBNAIL = 96  # pixels; smaller images stay as they are
BATCH = 32
SEED = 0


@dataclasses.dataclass(frozen=True)
class Sample:
    """Some images of a source, chosen at random, in the source's order.

    Attributes:
        source: `"training"` or `"validation"`.
        indices: int64 [N], their indices in the source.
        features: float32 [N, D].
        thumbnails: uint8 [N, T, T, 3], what the network saw.
        labels: int64 [N], or None.
        class_names: a name for each label, or None.
        names: where each image is kept.
    """

    source: str
    indices: np.ndarray
    features: np.ndarray
    thumbnails: np.ndarray
    labels: np.ndarray | None
    class_names: list[str] | None
    names: list[str]

    def __len__(self) -> int:
        return len(self.indices)

    def label_name(self, row: int) -> str | None:
        """The name of the class of image `row`."""
        if self.labels is None or self.class_names is None:
            return None
        return self.class_names[self.labels[row]]


def take_sample(
    feature_model: FeatureModel, feature: str, images: ImageSet, source: str, max_images: int
) -> tuple[Sample, list[str]]:
    """A sample with features and thumbnails; images that cannot be read are left out.

    Args:
        feature_model: the model.
        feature: its output; a map is averaged over space.
        images: where they come from.
        source: what to call them.
        max_images: how many at most.

    Returns:
        The sample, and `path: reason` of each image left out.

    Raises:
        ValueError: if no image can be read or features are not finite.
    """
    chosen = choose(images.valid, max_images)
    bad = []
    try:
        found = _pass(feature_model, feature, images, source, chosen)
    except tf.errors.OpError:
        reasons = data.find_bad_images(images.source, chosen)
        bad = [f"{images.source.describe(index)}: {reason}" for index, reason in reasons.items()]
        chosen = np.setdiff1d(chosen, np.fromiter(reasons, "int64", len(reasons)))
        if not bad or not len(chosen):
            raise ValueError(f"none of the {source} images can be read, as {bad[0]}" if bad else "") from None
        found = _pass(feature_model, feature, images, source, chosen)
    features, thumbnails = found
    if not np.isfinite(features).all():
        raise ValueError(f"the features of the {source} images are not finite: the training diverged")
    origin, labels, names = images.source, None, None
    if origin.labels is not None:
        labels = origin.labels[chosen]
        names = list(origin.class_names or map(str, range(origin.num_classes)))
    described = [origin.describe(int(index)) for index in chosen]
    return Sample(source, chosen, features, thumbnails, labels, names, described), bad


def choose(rows: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` of `rows`, at random (always the same), in their order."""
    if len(rows) <= count:
        return rows
    return np.sort(np.random.default_rng(SEED).choice(rows, count, replace=False))


def features_of(
    feature_model: FeatureModel, feature: str, image_set: ImageSet, indices: np.ndarray, what: str
) -> np.ndarray:
    """Features [N, D] of the images at `indices`; a map is averaged over space."""
    return np.concatenate(
        [pooled(feature_model(images, [feature])[feature]) for images in batches(image_set, indices, what)]
    )


def pooled(features: np.ndarray) -> np.ndarray:
    """[B, D] of features [B, D] or [B, H, W, D]."""
    return features.mean(axis=(1, 2)) if features.ndim == 4 else features


def batches(image_set: ImageSet, indices: np.ndarray, what: str) -> Iterator[np.ndarray]:
    """Prepared images [b, S, S, 3] in order, with a progress bar where someone watches."""
    dataset = data.evaluation_dataset(image_set.source, image_set.preprocessing, BATCH, indices)
    with tqdm(total=len(indices), desc=what, unit="image", disable=None, leave=False) as progress:
        for batch in dataset:
            images = (batch[0] if isinstance(batch, tuple) else batch)["image"].numpy()
            yield images
            progress.update(len(images))


def _thumbnails(pixels: np.ndarray) -> np.ndarray:
    """uint8 [B, T, T, 3] of images uint8 [B, S, S, 3]."""
    if pixels.shape[1] <= THUMBNAIL:
        return pixels
    size = (THUMBNAIL, THUMBNAIL)
    shrunk = [Image.fromarray(image).resize(size, Image.Resampling.LANCZOS) for image in pixels]
    return np.stack([np.asarray(image) for image in shrunk])


def _pass(feature_model, feature, image_set, source, indices) -> tuple[np.ndarray, np.ndarray]:
    features, thumbnails = [], []
    for images in batches(image_set, indices, f"{source} images"):
        features.append(pooled(feature_model(images, [feature])[feature]))
        thumbnails.append(_thumbnails(feature_model.info.to_pixels(images)))
    return np.concatenate(features), np.concatenate(thumbnails)


FOLDER = "projector"
CONFIG_FILE = "projector_config.pbtxt"
MAX_SPRITE = 8192  # pixels a side; browsers refuse larger textures
_TILE = 64


def write_projector(sample: Sample, log_dir: Path) -> Path:
    """Writes the features of a sample, with classes and images, for TensorBoard's projector.

    Args:
        sample: N images.
        log_dir: TensorBoard's folder of the run. `log_dir/projector` gets `tensors.tsv`, `metadata.tsv`,
            `sprite.png` and their config; with a second config in `log_dir`,
            `tensorboard --logdir=log_dir` (or of a folder above) finds them as well.

    Returns:
        The folder `log_dir/projector`.
    """
    with atomic_folder(log_dir / FOLDER) as folder:
        np.savetxt(folder / "tensors.tsv", sample.features, fmt="%.6g", delimiter="\t")
        (folder / "metadata.tsv").write_text(_metadata(sample), encoding="utf-8")
        sprite, tile = sprite_of(sample.thumbnails)
        sprite.save(folder / "sprite.png")
        (folder / CONFIG_FILE).write_text(_config(sample, "", tile), encoding="utf-8")
    write_text(log_dir / CONFIG_FILE, _config(sample, f"{FOLDER}/", tile))
    return log_dir / FOLDER


def sprite_of(thumbnails: np.ndarray) -> tuple[Image.Image, int]:
    """All thumbnails [N, T, T, 3] in one square image, row by row, with the side of a tile in pixels."""
    columns = int(np.ceil(np.sqrt(len(thumbnails))))
    tile = max(1, min(_TILE, thumbnails.shape[1], MAX_SPRITE // columns))
    sprite = Image.new("RGB", (columns * tile, columns * tile))
    for position, thumbnail in enumerate(thumbnails):
        image = Image.fromarray(thumbnail)
        if image.width != tile:
            image = image.resize((tile, tile), Image.Resampling.LANCZOS)
        sprite.paste(image, (position % columns * tile, position // columns * tile))
    return sprite, tile


def _metadata(sample: Sample) -> str:
    """A row for each image; the heading is needed where there is more than one column."""
    rows = ["class\tindex\tfile"]
    for row, index in enumerate(sample.indices):
        cells = (sample.label_name(row) or "unlabelled", str(index), sample.names[row])
        rows.append("\t".join(" ".join(cell.split()) for cell in cells))
    return ("\n".join(rows) + "\n").encode("utf-8", "replace").decode("utf-8")


def _config(sample: Sample, place: str, tile: int) -> str:
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    config = ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = f"features of {sample.source} images"
    embedding.tensor_shape.extend(sample.features.shape)
    embedding.tensor_path = f"{place}tensors.tsv"
    embedding.metadata_path = f"{place}metadata.tsv"
    embedding.sprite.image_path = f"{place}sprite.png"
    embedding.sprite.single_image_dim.extend([tile, tile])
    return text_format.MessageToString(config)
