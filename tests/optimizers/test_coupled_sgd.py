import keras
import numpy as np
import pytest
import torch

from rfd_tf.optimizers import CoupledSGD
from tests.contract import check_config_round_trip


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, False)])
@pytest.mark.parametrize("weight_decay", [5e-4, 0.0])
def test_twenty_steps_equal_torch_with_a_rate_change_in_between(momentum, nesterov, weight_decay):
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(3, 4)).astype("float32"), rng.normal(size=5).astype("float32")]
    ours = [keras.Variable(value) for value in start]
    theirs = [torch.nn.Parameter(torch.tensor(value)) for value in start]
    optimizer = CoupledSGD(0.1, momentum, nesterov, weight_decay)
    reference = torch.optim.SGD(
        theirs, lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    for step in range(20):
        if step == 10:
            optimizer.learning_rate = 0.01
            reference.param_groups[0]["lr"] = 0.01
        gradients = [rng.normal(size=value.shape).astype("float32") for value in start]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], ours)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        reference.step()
    for variable, parameter in zip(ours, theirs, strict=True):
        value = keras.ops.convert_to_numpy(variable.value)
        np.testing.assert_allclose(value, parameter.detach().numpy(), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("spared", [False, True])
def test_rates_and_decays_of_their_own_are_torchs_parameter_groups(spared):
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(3, 4)).astype("float32"), rng.normal(size=5).astype("float32")]
    ours = [keras.Variable(value) for value in start]
    theirs = [torch.nn.Parameter(torch.tensor(value)) for value in start]
    optimizer = CoupledSGD(0.1, 0.9, True, 5e-2)
    optimizer.build(ours)
    optimizer.scale_rates(ours[1:], 0.2)
    groups = [{"params": theirs[:1]}, {"params": theirs[1:], "lr": 0.02}]
    if spared:
        optimizer.exclude_from_weight_decay(ours[1:])
        groups[1]["weight_decay"] = 0.0
    reference = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-2)
    for _ in range(5):
        gradients = [rng.normal(size=value.shape).astype("float32") for value in start]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], ours)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        reference.step()
    for variable, parameter in zip(ours, theirs, strict=True):
        value = keras.ops.convert_to_numpy(variable.value)
        np.testing.assert_allclose(value, parameter.detach().numpy(), rtol=2e-6, atol=2e-7)
    with pytest.raises(ValueError, match="factor=0"):
        optimizer.scale_rates(ours, 0)


def test_rates_and_decays_of_their_own_survive_saving(tmp_path):
    def model_of(optimizer):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(4, name="first"), keras.layers.Dense(1, name="second")]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile(optimizer, loss="mse")
        return model

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))
    optimizer = CoupledSGD(0.1, 0.9, coupled_weight_decay=0.3)
    optimizer.exclude_from_weight_decay(var_names=["bias"])  # before it is built
    model = model_of(optimizer)
    with pytest.raises(ValueError, match="call `build` first"):
        optimizer.scale_rates(model.get_layer("first").trainable_variables, 0.5)
    optimizer.build(model.trainable_variables)
    optimizer.scale_rates(model.get_layer("first").trainable_variables, 0.5)
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == optimizer.get_config()
    assert again.optimizer.without_decay == [1, 3]
    plain = model_of(CoupledSGD(0.1, 0.9, coupled_weight_decay=0.3))
    plain.set_weights(model.get_weights())
    for one in (model, again, plain):
        one.fit(x, y, epochs=2, shuffle=False, verbose=0)
    for ours, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert np.abs(plain.get_weights()[1] - model.get_weights()[1]).max() > 1e-4


def test_keras_sgd_is_not_the_same():
    """The reason why this class exists: the check above fails for `keras.optimizers.SGD`."""
    variable = keras.Variable(np.ones(3, "float32"))
    other = keras.Variable(np.ones(3, "float32"))
    gradients = [keras.ops.ones(3)]
    coupled = CoupledSGD(0.1, 0.9, coupled_weight_decay=0.1)
    decoupled = keras.optimizers.SGD(0.1, 0.9, weight_decay=0.1)
    for _ in range(3):
        coupled.apply(gradients, [variable])
        decoupled.apply(gradients, [other])
    assert np.abs(keras.ops.convert_to_numpy(variable - other)).max() > 1e-3


def test_round_trip_and_bad_arguments():
    check_config_round_trip(CoupledSGD(0.1, 0.9, True, 5e-4))
    for arguments, message in [
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"nesterov": True}, "nesterov"),
        ({"coupled_weight_decay": -1.0}, "coupled_weight_decay"),
        ({"rate_factors": [1.0, 0.0]}, "rate_factors"),
    ]:
        with pytest.raises(ValueError, match=message):
            CoupledSGD(0.1, **arguments)


@keras.saving.register_keras_serializable(package="rfd_tf_tests")
class Subclassed(keras.Model):
    """Keras numbers the names of its layers anew whenever one is made, as when it is loaded."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = keras.layers.Dense(4), keras.layers.Dense(1)

    def build(self, shape):
        self.first.build(shape)
        self.second.build((None, 4))

    def call(self, inputs):
        return self.second(self.first(inputs))


def test_variables_are_known_by_their_order_and_not_by_their_paths(tmp_path):
    model = Subclassed()
    model.build((None, 3))
    optimizer = CoupledSGD(0.1, 0.9, coupled_weight_decay=0.3)
    biases = [variable for variable in model.trainable_variables if variable.name == "bias"]
    optimizer.exclude_from_weight_decay(biases)
    model.compile(optimizer, loss="mse")
    optimizer.build(model.trainable_variables)
    optimizer.scale_rates(model.first.trainable_variables, 0.5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").optimizer
    assert (again.without_decay, again.rate_factors) == ([1, 3], [0.5, 0.5, 1.0, 1.0])


def test_before_it_is_built_they_are_saved_by_path(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    optimizer = CoupledSGD(0.1, 0.9, coupled_weight_decay=0.3)
    optimizer.exclude_from_weight_decay([model.trainable_variables[1]])
    model.compile(optimizer, loss="mse")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    again.optimizer.build(again.trainable_variables)
    assert again.optimizer.without_decay == [1]


def test_a_layer_of_the_same_name_within_another_is_not_meant():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, name="dense")], name="inner")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(inner(inputs)))
    optimizer = CoupledSGD(0.1)
    optimizer.exclude_from_weight_decay(model.trainable_variables[-1:])
    optimizer.build(model.trainable_variables)
    assert optimizer.without_decay == [3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate_factors": [1.0]}, "each of the 2 variables. Received: 1"),
        ({"without_decay": [2]}, "positions among 2 variables. Received: 2"),
        ({"without_decay": ["third/bias"]}, "no variable 'third/bias'"),
    ],
)
def test_what_is_of_another_model_is_refused(arguments, message):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match=message):
        CoupledSGD(0.1, **arguments).build(model.trainable_variables)


def test_keras_own_decay_leaves_them_out_too():
    variable = keras.Variable(np.ones(3, "float32"))
    optimizer = CoupledSGD(0.1, weight_decay=0.5, without_decay=[0])
    optimizer.apply([keras.ops.zeros(3)], [variable])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), np.ones(3))
