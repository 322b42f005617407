import keras
import numpy as np
import pytest

from rfd_tf.models import alexnet, any_size, resnet_cifar
from tests.contract import to_numpy


@pytest.mark.parametrize(
    ("backbone", "feature"),
    [
        (lambda: alexnet((95, 95, 3), ["conv1", "conv5", "fc_block"], dense_width=8), "conv5"),
        (lambda: resnet_cifar(8, (32, 32, 3), ["block2", "pool"]), "block2"),
    ],
)
def test_the_same_map_and_others(backbone, feature):
    keras.utils.set_random_seed(0)
    backbone = backbone()
    trunk = any_size(backbone, feature)
    size = backbone.inputs[0].shape[1]
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")
    expected = to_numpy(backbone(images)[feature])
    np.testing.assert_allclose(to_numpy(trunk(images)), expected, rtol=1e-5, atol=1e-6)
    wide = np.concatenate([images, images], axis=2)
    assert trunk(wide).shape[2] > expected.shape[2]
    for variable in trunk.trainable_variables:
        variable.assign(keras.ops.ones_like(variable))
    np.testing.assert_allclose(to_numpy(backbone(images)[feature]), expected)


def test_what_cannot_be():
    backbone = resnet_cifar(8, (32, 32, 3), ["block1", "pool"])
    with pytest.raises(ValueError, match="no output 'conv9'; it has block1, pool"):
        any_size(backbone, "conv9")
    with pytest.raises(ValueError, match=r"'pool' of .* is not a map"):
        any_size(backbone, "pool")
    images = keras.Input((8, 8, 3))
    flat = keras.layers.Dense(12)(keras.layers.Flatten()(images))
    fixed = keras.Model(images, {"map": keras.layers.Reshape((2, 2, 3))(flat)}, name="fixed")
    with pytest.raises(ValueError, match="'fixed' cannot do with images of any size"):
        any_size(fixed, "map")
