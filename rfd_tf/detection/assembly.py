"""Detector and optimizer from a config and a pretrained network."""

from collections.abc import Callable

import keras
from keras import layers
from ml_collections import ConfigDict

from rfd_tf.models import FastRCNN
from rfd_tf.models.any_size import any_size
from rfd_tf.optimizers import CoupledSGD
from rfd_tf.training import assembly

Fold = Callable[[keras.Model], keras.Model]
DENSE = ("fc6", "fc7")


def build_detector(
    config: ConfigDict, network: keras.Model, num_classes: int, fold: Fold | None = None
) -> FastRCNN:
    """A detector that begins as the pretrained network does; to be called under the strategy's scope.

    Args:
        config: the run's, see `configs/detection/base.py`.
        network: functional, with a dict of outputs, `detector.feature` among them. It stays as it is.
        num_classes: without the background.
        fold: folds batch norms into the layers before them, such as `zoo.fold_batch_norm`; needed where the
            config asks for it and the network has any. The dense layers have none in a detector: those of
            the network are folded in any case.

    Raises:
        ValueError: if the network does not fit the config.
    """
    options = config.detector
    folded = _folded(network, options, fold)
    trunk = any_size(folded if options.fold_batch_norm else network, options.feature)
    _freeze(trunk, options.frozen)
    model = FastRCNN(
        trunk,
        num_classes,
        stride=options.stride,
        pool_size=options.pool_size,
        dense_width=options.dense_width,
        dropout=options.dropout,
    )
    if options.pretrained_dense:
        _copy_dense(folded, model.head)
    return model


def build_optimizer(config: ConfigDict, model: FastRCNN) -> CoupledSGD:
    """SGD by steps, built for the model: biases learn at a rate of their own, without decay.

    Reference: Girshick, ICCV 2015, section 2.3 (Caffe's `lr_mult: 2`, `decay_mult: 0`).
    """
    optimizer = assembly.build_optimizer(config.optimizer, steps_per_epoch=1)
    optimizer.build(model.trainable_variables)
    biases = [variable for variable in model.trainable_variables if variable.path.endswith("/bias")]
    optimizer.scale_rates(biases, config.optimizer.bias_rate)
    optimizer.spare_decay(biases)
    return optimizer


def _folded(network: keras.Model, options: ConfigDict, fold: Fold | None) -> keras.Model:
    """The network without batch norms, where that is asked for."""
    wanted = options.fold_batch_norm or options.pretrained_dense
    if not wanted or not any(isinstance(layer, layers.BatchNormalization) for layer in network.layers):
        return network
    if fold is None:
        raise ValueError("`detector.fold_batch_norm` and `detector.pretrained_dense` need a way to fold")
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


def _copy_dense(network: keras.Model, head: keras.Model) -> None:
    own = {layer.name: layer for layer in network.layers if isinstance(layer, layers.Dense)}
    for name in DENSE:
        if name not in own:
            raise ValueError(
                f"`detector.pretrained_dense`: {network.name!r} has no dense layer {name!r}; it has "
                f"{', '.join(own) or 'none'}"
            )
        shapes = [tuple(layer.kernel.shape) for layer in (own[name], head.get_layer(name))]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"`detector.pretrained_dense`: {name} of {network.name!r} is {shapes[0]}, the detector's "
                f"{shapes[1]}; see `detector.pool_size` and `detector.dense_width`"
            )
        head.get_layer(name).set_weights(own[name].get_weights())
