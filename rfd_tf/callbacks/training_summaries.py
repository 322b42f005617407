import os

import keras
import numpy as np

from rfd_tf.models.backbone import first_layer_filters
from rfd_tf.rotations import NUM_ROTATIONS, four_views

_BANK_SAMPLE = 10_000


class TrainingSummaries(keras.callbacks.Callback):
    """TensorBoard records, per epoch, of what is particular to a `RotationDecoupling` model.

    Every value of the logs, the learning rate, the decoupling (rotation accuracy of the rotation features
    minus that of the invariant features), norms of the bank's rows (of 10,000 rows at most) and Z, a grid of
    images by their four views, and the first layer's filters.

    Args:
        log_dir: where TensorBoard reads.
        images: [B, S, S, C] normalised, a few of them, for the grid; C is 1 or 3.
    """

    def __init__(self, log_dir: str | os.PathLike, images: np.ndarray):
        super().__init__()
        self.log_dir = str(log_dir)
        self.images = images

    def on_train_begin(self, logs=None):
        import tensorflow as tf

        self._writer = tf.summary.create_file_writer(self.log_dir)

    def on_epoch_end(self, epoch, logs=None):
        import tensorflow as tf

        scalars = {f"epoch/{name}": value for name, value in (logs or {}).items()}
        scalars |= self._own_scalars(logs or {})
        with self._writer.as_default(step=epoch):
            for name, value in scalars.items():
                if np.isfinite(value):  # what is not measured in this epoch is NaN
                    tf.summary.scalar(name, float(value))
            if epoch == 0:
                tf.summary.image("views", _grid(_views(self.images), columns=NUM_ROTATIONS)[None])
            tf.summary.image("filters", _filter_grid(self.model.backbone)[None])
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()

    def _own_scalars(self, logs) -> dict[str, float]:
        bank = self.model.memory_bank
        stride = max(1, bank.num_instances // _BANK_SAMPLE)
        sample = np.arange(0, bank.num_instances, stride)
        rows = keras.ops.convert_to_numpy(keras.ops.take(bank.rows, sample, axis=0))
        norms = np.linalg.norm(rows, axis=1)
        scalars = {
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            "bank/norm_mean": norms.mean(),
            "bank/norm_std": norms.std(),
            "bank/normalizer": float(bank.normalizer.numpy()),
        }
        for prefix in ("", "val_"):
            if f"{prefix}rotation_accuracy" in logs:
                scalars[f"decoupling/{prefix or 'train_'}gap"] = (
                    logs[f"{prefix}rotation_accuracy"] - logs[f"{prefix}invariant_rotation_accuracy"]
                )
        return scalars


def _views(images: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(four_views(keras.ops.convert_to_tensor(images)))


def _filter_grid(backbone) -> np.ndarray:
    filters = np.transpose(first_layer_filters(backbone), (3, 0, 1, 2))
    return _grid(filters, columns=8)


def _grid(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Tiles [N, H, W, C], each stretched to [0, 1], as one picture [rows * H, columns * W, C]."""
    low = tiles.min(axis=(1, 2, 3), keepdims=True)
    high = tiles.max(axis=(1, 2, 3), keepdims=True)
    tiles = (tiles - low) / np.maximum(high - low, 1e-12)
    missing = -len(tiles) % columns
    tiles = np.concatenate([tiles, np.zeros((missing, *tiles.shape[1:]), tiles.dtype)])
    rows = [np.concatenate(list(row), axis=1) for row in tiles.reshape(-1, columns, *tiles.shape[1:])]
    return np.concatenate(rows, axis=0).astype("float32")
