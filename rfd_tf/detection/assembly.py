"""Detector and optimizer from a config and a pretrained network."""

from collections.abc import Callable

import keras
from keras import layers
from ml_collections import ConfigDict

from rfd_tf.models import FastRCNN, dense_weights
from rfd_tf.models.any_size import any_size
from rfd_tf.optimizers import CoupledSGD
from rfd_tf.training import assembly

Fold = Callable[[keras.Model], keras.Model]


def build_detector(
    config: ConfigDict, network: keras.Model, num_classes: int, fold: Fold | None = None
) -> FastRCNN:
    """A detector that begins as the pretrained network does; to be called under the strategy's scope.

    Args:
        config: the run's, see `configs/detection/base.py`.
        network: functional, with a dict of outputs, `detector.feature` among them. It stays as it is.
        num_classes: without the background.
        fold: folds batch norms into the layers before them, such as `zoo.fold_batch_norm`; needed where the
            config asks for it and the network has any. (Those of fc6 and fc7 are folded in any case: a
            detector's dense layers have none.)

    Raises:
        ValueError: if the network does not fit the config.
    """
    options = config.detector
    folded = _folded(network, fold) if options.fold_batch_norm else network
    trunk = any_size(folded, options.feature, options.get("ceil_pools", False))
    _freeze(trunk, options.frozen)
    model = FastRCNN(
        trunk,
        num_classes,
        stride=options.stride,
        pool_size=options.pool_size,
        dense_width=options.dense_width,
        dropout=options.dropout,
        exclusive_deltas=options.get("exclusive_deltas", False),
    )
    _check_sides(model, config)
    if options.pretrained_dense:
        _copy_dense(network, model)
    return model


def build_optimizer(config: ConfigDict, model: FastRCNN) -> CoupledSGD:
    """SGD by steps, built for the model: biases learn at a rate of their own, without decay.

    Reference: Girshick, ICCV 2015, section 2.3 (Caffe's `lr_mult: 2`, `decay_mult: 0`).
    """
    optimizer = assembly.build_optimizer(config.optimizer, steps_per_epoch=1)
    optimizer.build(model.trainable_variables)
    biases = [variable for variable in model.trainable_variables if variable.path.endswith("/bias")]
    optimizer.scale_rates(biases, config.optimizer.bias_rate)
    optimizer.exclude_from_weight_decay(biases)
    return optimizer


def _folded(network: keras.Model, fold: Fold | None) -> keras.Model:
    if not any(isinstance(layer, layers.BatchNormalization) for layer in network.layers):
        return network
    if fold is None:
        raise ValueError("`detector.fold_batch_norm` needs a function that folds")
    return fold(network)


def _freeze(trunk: keras.Model, last: str) -> None:
    """The layers up to the one called `last` do not learn."""
    if not last:
        return
    names = [layer.name for layer in trunk.layers]
    if last not in names:
        raise ValueError(f"`detector.frozen`: {trunk.name!r} has no map {last!r} before its output")
    for layer in keras.Model(trunk.inputs[0], trunk.get_layer(last).output).layers:
        layer.trainable = False


def _check_sides(model: FastRCNN, config: ConfigDict) -> None:
    """What pictures will be tested at is known before anything is trained."""
    for name, longest in (("longest", config.longest), ("test.longest", config.test.longest)):
        if longest > model.longest_side:
            raise ValueError(
                f"`{name}` must be {model.longest_side} pixels at most, which the region pooling covers: "
                f"{longest}"
            )


def _copy_dense(network: keras.Model, model: FastRCNN) -> None:
    """fc6 and fc7 of the detector begin as the network's."""
    shape = tuple(model.head.input_shape[1:])
    own = dense_weights(network, shape)
    if own is None:
        raise ValueError(
            f"`detector.pretrained_dense`: {network.name!r} has no fc6 on a map of {shape} with fc7 behind "
            "it; see `detector.pool_size`"
        )
    for name, weights in zip(("fc6", "fc7"), own, strict=True):
        if len(weights[1]) != model.dense_width:
            raise ValueError(
                f"`detector.pretrained_dense`: {name} of {network.name!r} has {len(weights[1])} units. "
                f"Received: detector.dense_width={model.dense_width}"
            )
        model.head.get_layer(name).set_weights(weights)
