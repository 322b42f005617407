"""Files for TensorBoard's embedding projector."""

from pathlib import Path

import numpy as np
from PIL import Image

from rfd_tf.files import atomic_folder, write_text
from rfd_tf.report.sample import Sample

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
