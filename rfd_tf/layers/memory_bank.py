import keras
import numpy as np
from keras import ops

from rfd_tf.distribution import (
    DealtVariable,
    gather_over_replicas,
    num_replicas,
    own_part,
    sum_over_replicas,
)
from rfd_tf.layers.cosine_dense import l2_normalize

_MOST_SIMILAR = 60.0
_ROWS_DTYPES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable(package="rfd_tf")
class MemoryBank(keras.layers.Layer):
    """One remembered embedding per training image, to tell the images apart.

    Variables, in full precision and not trainable: `rows` [N, D], uniform in ±1/sqrt(D/3) at first; the
    scalar `normalizer` Z, 0 until the first batch sets it; and the scalar `current_temperature`, which
    `set_temperature` changes without a retrace. Comparing with named rows and updating cost as much as the
    batch's rows, whatever N. Under a `tf.distribute` strategy every replica holds the same table, or a share
    of it; per step only the batch's rows travel.

    Args:
        num_instances: N, training images.
        embedding_dim: D, length of an embedding.
        temperature: T, positive; similarities are divided by it.
        momentum: m in [0, 1), the share of the old row in an update.
        normalizer_momentum: in [0, 1], the share of the old Z when a batch updates it. 1 keeps the Z of the
            first batch, as the original does. That Z belongs to a bank of random rows; on a small set, whose
            rows are soon much alike, only a running mean (0.99, say) stays right.
        sharded: each of R replicas keeps N / R of the rows (`DealtVariable`), and draws from its own share
            (`contrast`). Makes no difference on one replica.
        rows_dtype: what the rows are kept in, `"float32"` or `"bfloat16"`; by default Keras's `floatx`, in
            which everything is computed.

    Raises:
        ValueError: on an argument out of range.

    Reference: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
        CVPR 2018, sections 3.2 and 3.3.
    """

    def __init__(
        self,
        num_instances: int,
        embedding_dim: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        normalizer_momentum: float = 1.0,
        sharded: bool = False,
        rows_dtype: str | None = None,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": keras.config.floatx(), "trainable": False})
        if num_instances < 1 or embedding_dim < 1:
            raise ValueError(
                "`num_instances` and `embedding_dim` must be at least 1. "
                f"Received: num_instances={num_instances}, embedding_dim={embedding_dim}"
            )
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive. Received: temperature={temperature}")
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum}")
        if not 0 <= normalizer_momentum <= 1:
            raise ValueError(
                "`normalizer_momentum` must be in [0, 1]. "
                f"Received: normalizer_momentum={normalizer_momentum}"
            )
        if rows_dtype not in (None, *_ROWS_DTYPES):
            raise ValueError(
                f"`rows_dtype` must be one of {_ROWS_DTYPES}. Received: rows_dtype={rows_dtype!r}"
            )
        self.num_instances = num_instances
        self.embedding_dim = embedding_dim
        self.temperature = temperature
        self.momentum = momentum
        self.normalizer_momentum = normalizer_momentum
        self.sharded = sharded
        self.rows_dtype = rows_dtype

    def build(self, input_shape=None):
        bound = (self.embedding_dim / 3.0) ** -0.5
        seed = keras.initializers.RandomUniform().seed  # of the global generator

        def draw(replica: int, shape: tuple[int, int], dtype: str):
            return _in_place(keras.initializers.RandomUniform(-bound, bound, seed + replica))(shape, dtype)

        dtype = self.rows_dtype or self.dtype
        if self.sharded:
            self.rows = DealtVariable(self.num_instances, self.embedding_dim, dtype, draw, "rows")
        else:
            self.rows = self.add_weight(
                name="rows",
                shape=(self.num_instances, self.embedding_dim),
                initializer=lambda shape, dtype=None: draw(0, shape, dtype),
                dtype=dtype,
                trainable=False,
                autocast=False,
            )
        self.normalizer = self.add_weight(name="normalizer", shape=(), initializer="zeros", trainable=False)
        self.current_temperature = self.add_weight(
            name="temperature",
            shape=(),
            initializer=keras.initializers.Constant(self.temperature),
            trainable=False,
        )

    def call(self, embeddings, index=None):
        """Similarities over temperature between embeddings and rows.

        Args:
            embeddings: [B, D], unit norm.
            index: [B, R] integer rows to compare each embedding with; None for all N, in order.

        Returns:
            [B, R] float32; gradients reach `embeddings` only.

        Raises:
            ValueError: if replicas keep shares of the rows, of which none has all that may be asked for.
        """
        if self._dealt:
            raise ValueError("Replicas that keep shares of the rows compare with drawn ones only: `contrast`")
        if index is not None:
            return self._similarities(embeddings, self._gather(own_part(self.rows), index))
        rows = ops.stop_gradient(ops.cast(ops.convert_to_tensor(self.rows), self.compute_dtype))
        return ops.matmul(embeddings, ops.transpose(rows)) / ops.convert_to_tensor(self.current_temperature)

    def contrast(self, embeddings, negatives, index=None):
        """Similarities over temperature with drawn rows and, before them, with the own one.

        Args:
            embeddings: [B, D], unit norm, of this replica.
            negatives: [B, K] integers, drawn uniformly from [0, N). Of a sharded bank j means row j n // N of
                the n rows that the replica keeps: uniform among them, exactly so if R divides N.
            index: [B] integer rows of the embeddings' own images, wherever they are kept; None for none.

        Returns:
            [B, 1 + K], or [B, K] without `index`; gradients reach `embeddings` only.
        """
        if not self._dealt:
            if index is not None:
                negatives = ops.concatenate([ops.cast(index, negatives.dtype)[:, None], negatives], axis=1)
            return self(embeddings, negatives)
        replica, share = self.rows.own_share()
        drawn = ops.cast(negatives, "int64") * self.rows.kept(replica) // self.num_instances
        rows = self._gather(share, drawn)
        if index is not None:
            rows = ops.concatenate([self._rows_anywhere(index)[:, None], rows], axis=1)
        return self._similarities(embeddings, rows)

    def _similarities(self, embeddings, rows):
        similarities = ops.einsum("brd,bd->br", ops.stop_gradient(rows), embeddings)
        return similarities / ops.convert_to_tensor(self.current_temperature)

    def _rows_anywhere(self, index):
        """Rows [B, D] by index [B] from the replicas that keep them; the batch's rows travel, whatever N."""
        replica, share = self.rows.own_share()
        asked = gather_over_replicas(ops.cast(index, "int32"))
        mine = ops.equal(asked % self.rows.num_replicas, replica)
        rows = self._gather(share, ops.where(mine, asked // self.rows.num_replicas, 0))
        rows = sum_over_replicas(ops.where(mine[:, None], rows, ops.zeros_like(rows)))
        count = ops.shape(index)[0]
        return rows[replica * count : (replica + 1) * count]

    def set_temperature(self, temperature: float) -> None:
        """Go on with another temperature; the next batch sets the normalizer, which belongs to one, anew.

        Nothing happens where the temperature is this one already.
        """
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive. Received: temperature={temperature}")
        if float(self.current_temperature) != float(np.float32(temperature)):
            self.current_temperature.assign(temperature)
            self.normalizer.assign(0.0)

    def normalizer_of(self, similarities, update: bool = False):
        """Z of a batch of similarities over temperature.

        Args:
            similarities: [B, R].
            update: blend the batch's own estimate into the stored value, by `normalizer_momentum`.

        Returns:
            The stored value, blended if asked for; before the first batch has set it the batch's own
            estimate, `mean(exp(similarities)) * N`. Similarities beyond ±60, of temperatures below 0.017,
            count as that, lest Z leave float32's range.
        """
        bounded = ops.clip(ops.stop_gradient(similarities), -_MOST_SIMILAR, _MOST_SIMILAR)
        mean = ops.mean(ops.exp(bounded))
        own = sum_over_replicas(mean) / num_replicas() * self.num_instances
        stored = ops.convert_to_tensor(self.normalizer)
        share = self.normalizer_momentum
        kept = share * stored + (1.0 - share) * own if update and share < 1 else stored
        return ops.where(stored > 0, kept, own)

    def update(self, embeddings, index) -> None:
        """Replace row `index[i]` by `normalize(m * row + (1 - m) * embeddings[i])`, in place, where it is.

        Args:
            embeddings: [B, D], unit norm, of this replica.
            index: [B] integer rows. Of a row named twice in a batch, one of the updates remains.
        """
        index = ops.cast(index, "int32")
        if not self._dealt:
            new = self._blended(self._gather(own_part(self.rows), index), embeddings)
            self._scatter(own_part(self.rows), gather_over_replicas(index), gather_over_replicas(new))
            return
        import tensorflow as tf

        replica, share = self.rows.own_share()
        index, embeddings = gather_over_replicas(index), gather_over_replicas(embeddings)
        mine = ops.equal(index % self.rows.num_replicas, replica)
        place, embeddings = (
            tf.boolean_mask(index, mine) // self.rows.num_replicas,
            tf.boolean_mask(embeddings, mine),
        )
        self._scatter(share, place, self._blended(self._gather(share, place), embeddings))

    def _blended(self, old, embeddings):
        new = l2_normalize(self.momentum * old + (1.0 - self.momentum) * embeddings)
        return ops.cast(new, self.rows.dtype)

    def sample(self, count: int) -> np.ndarray:
        """About `count` rows [., D], evenly spaced; of a sharded bank those that this process keeps."""
        parts = [(own_part(self.rows), self.num_instances)]
        if self._dealt:
            parts = [(share, self.rows.kept(replica)) for replica, share in self.rows.shares().items()]
        each = -(-count // len(parts))
        chosen = [np.linspace(0, kept - 1, min(each, kept)).astype("int32") for _, kept in parts]
        found = [self._gather(part, rows) for (part, _), rows in zip(parts, chosen, strict=True)]
        return ops.convert_to_numpy(ops.concatenate(found))

    @property
    def _dealt(self) -> bool:
        return self.sharded and self.rows.num_replicas > 1

    def _gather(self, table, index):
        """Rows of what `own_part` or `own_share` gives."""
        if hasattr(table, "scatter_update"):  # one of TensorFlow's variables
            import tensorflow as tf

            # A plain read of the variable would hold the table, and the scatter would then copy all of it.
            return ops.cast(tf.gather(table, index), self.compute_dtype)
        return ops.cast(ops.take(table, index, axis=0), self.compute_dtype)

    def _scatter(self, table, index, rows) -> None:
        if hasattr(table, "scatter_update"):
            import tensorflow as tf

            table.scatter_update(tf.IndexedSlices(rows, index))
        elif hasattr(table, "index_copy_"):  # one of PyTorch's tensors
            import torch

            with torch.no_grad():
                table.index_copy_(0, index.long(), rows)
        else:  # functional: XLA updates a donated buffer in place
            self.rows.assign(ops.scatter_update(self.rows, ops.expand_dims(index, -1), rows))

    def get_config(self):
        config = super().get_config()
        del config["dtype"], config["trainable"]
        return {
            **config,
            "num_instances": self.num_instances,
            "embedding_dim": self.embedding_dim,
            "temperature": self.temperature,
            "momentum": self.momentum,
            "normalizer_momentum": self.normalizer_momentum,
            "sharded": self.sharded,
            "rows_dtype": self.rows_dtype,
        }


def _in_place(initializer):
    """The same numbers; on TensorFlow drawn, scaled and shifted in one table's memory instead of three's."""
    if keras.backend.backend() != "tensorflow":
        return initializer
    import tensorflow as tf

    # A graph reuses the memory of what nothing else needs. The shape is an argument, lest the graph's
    # optimizer take the table for a constant and compute it once more.
    draw = tf.function(lambda rows, width, dtype: initializer((rows, width), dtype))
    return lambda shape, dtype=None: draw(*map(tf.constant, shape), dtype)
