import keras
import numpy as np
from keras import ops

from rfd_tf.distribution import gather_over_replicas, num_replicas, sum_over_replicas
from rfd_tf.layers.cosine_dense import l2_normalize

_MOST_SIMILAR = 60.0


@keras.saving.register_keras_serializable(package="rfd_tf")
class MemoryBank(keras.layers.Layer):
    """One remembered embedding per training image, to tell the images apart.

    Variables, in full precision and not trainable: `rows` [N, D], uniform in ±1/sqrt(D/3) at first; the
    scalar `normalizer` Z, 0 until the first batch sets it; and the scalar `current_temperature`, which
    `set_temperature` changes without a retrace. Comparing with named rows and updating cost as much as the
    batch's rows, whatever N. Under a `tf.distribute` strategy every replica holds the same table; per step
    only the batch's rows travel.

    Args:
        num_instances: N, training images.
        embedding_dim: D, length of an embedding.
        temperature: T, positive; similarities are divided by it.
        momentum: m in [0, 1), the share of the old row in an update.
        normalizer_momentum: in [0, 1], the share of the old Z when a batch updates it. 1 keeps the Z of the
            first batch, as the original does. That Z belongs to a bank of random rows; on a small set, whose
            rows are soon much alike, only a running mean (0.99, say) stays right.

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
        self.num_instances = num_instances
        self.embedding_dim = embedding_dim
        self.temperature = temperature
        self.momentum = momentum
        self.normalizer_momentum = normalizer_momentum

    def build(self, input_shape=None):
        bound = (self.embedding_dim / 3.0) ** -0.5
        self.rows = self.add_weight(
            name="rows",
            shape=(self.num_instances, self.embedding_dim),
            initializer=_in_place(keras.initializers.RandomUniform(-bound, bound)),
            trainable=False,
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
        """
        if index is None:
            rows = ops.stop_gradient(ops.convert_to_tensor(self.rows))
            similarities = ops.matmul(embeddings, ops.transpose(rows))
        else:
            compared = ops.stop_gradient(_gather_rows(self.rows, index))
            similarities = ops.einsum("brd,bd->br", compared, embeddings)
        return similarities / ops.convert_to_tensor(self.current_temperature)

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
        """Replace row `index[i]` by `normalize(m * row + (1 - m) * embeddings[i])`, in place, everywhere.

        Args:
            embeddings: [B, D], unit norm, of this replica.
            index: [B] integer rows. Of a row named twice in a batch, one of the updates remains.
        """
        old = _gather_rows(self.rows, index)
        new = l2_normalize(self.momentum * old + (1.0 - self.momentum) * embeddings)
        index = ops.cast(index, "int32")
        _scatter_rows(self.rows, gather_over_replicas(index), gather_over_replicas(new))

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
        }


def _in_place(initializer):
    """The same numbers; on TensorFlow drawn, scaled and shifted in one table's memory instead of three's."""
    if keras.backend.backend() != "tensorflow":
        return initializer
    import tensorflow as tf

    # A graph reuses the memory of what nothing else needs. The shape is an argument, lest the graph's
    # optimizer take the table for a constant and compute it once more.
    draw = tf.function(lambda rows, width: initializer((rows, width)))
    return lambda shape, dtype=None: draw(*map(tf.constant, shape))


def _gather_rows(variable, index):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # A plain read of the variable would hold the table, and the scatter would then copy all of it.
        if hasattr(variable.value, "sparse_read"):
            return tf.gather(variable.value, index)
    return ops.take(variable, index, axis=0)


def _scatter_rows(variable, index, rows) -> None:
    backend = keras.backend.backend()
    if backend == "tensorflow" and hasattr(variable.value, "scatter_update"):
        import tensorflow as tf

        variable.value.scatter_update(tf.IndexedSlices(rows, index))
    elif backend == "torch" and hasattr(variable.value, "index_copy_"):
        import torch

        with torch.no_grad():
            variable.value.index_copy_(0, index.long(), rows)
    else:  # functional: XLA updates a donated buffer in place
        variable.assign(ops.scatter_update(variable, ops.expand_dims(index, -1), rows))
