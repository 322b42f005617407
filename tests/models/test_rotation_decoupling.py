import keras
import numpy as np
import pytest
import torch

from rfd_tf.imbalance import effective_rotation_counts, rotation_instance_weights
from rfd_tf.layers import fuse_batch_norm
from rfd_tf.losses import LDAMLoss
from rfd_tf.models import InstanceTask, RotationDecoupling, RotationTask, alexnet, resnet_cifar
from rfd_tf.optimizers import CoupledSGD
from rfd_tf.rotations import four_views_of_two_crops
from tests import torch_reference
from tests.contract import to_numpy
from tests.torch_reference import relative_difference

N, K, WIDTH, BATCH = 1000, 16, 64, 6
SMALL_N = 24
FLOATS = {"float32": torch.float32, "float64": torch.float64}
rng = np.random.default_rng(0)


def pair(use_instance_weights=False):
    """PyTorch's objective and ours, from the same weights and bank."""
    torch.manual_seed(0)
    # The bank: with some draws an activation comes to lie on a kink of ReLU or pooling: rounding decides.
    keras.utils.set_random_seed(0)
    theirs_backbone = torch_reference.AlexNet(WIDTH, spatial=1)
    backbone = alexnet((63, 63, 3), ["fc_block"], dense_width=WIDTH)
    torch_reference.copy_alexnet(theirs_backbone, backbone, spatial=1)
    ours = RotationDecoupling(
        backbone,
        N,
        rotation_task=RotationTask(use_instance_weights=use_instance_weights),
        instance_task=InstanceTask(num_negatives=K),
    )
    bank = to_numpy(ours.memory_bank.rows)
    theirs = torch_reference.Objective(theirs_backbone, WIDTH, bank).to(FLOATS[keras.config.floatx()])
    for layer, linear in ((ours.rotation_head, theirs.rotation_head), (ours.projection, theirs.projection)):
        layer.set_weights([linear.weight.detach().numpy().T, linear.bias.detach().numpy()])
    return ours, theirs


def batches(steps):
    for step in range(steps):
        yield {
            "image": rng.normal(size=(BATCH, 63, 63, 3)).astype(keras.config.floatx()),
            "index": (np.arange(BATCH) + BATCH * (step % 4)).astype("int64"),
            "negatives": rng.integers(0, N, (BATCH, K)).astype("int32"),
        }


def torch_losses(theirs, batch, weights=None):
    images = torch.tensor(batch["image"].transpose(0, 3, 1, 2))
    index, negatives = torch.tensor(batch["index"]), torch.tensor(batch["negatives"]).long()
    return theirs(images, index, negatives, None if weights is None else torch.tensor(weights)[index])


@pytest.fixture
def float64():
    """Doubles: after 5 steps in float32, PyTorch is 1e-2 and more away from itself in float64."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("weighted", [False, True])
def test_five_steps_equal_torch(weighted):
    """Losses, bank, Z and every weight, after 5 steps of the whole objective with the same negatives."""
    ours, theirs = pair(weighted)
    weights = None
    if weighted:
        weights = rotation_instance_weights(rng.uniform(size=(N, 4)))
        ours.set_instance_weights(weights)
        ours.instance_weighting.assign(1.0)
    ours.compile(CoupledSGD(0.01, 0.9, nesterov=True, coupled_weight_decay=5e-4))
    reference = torch.optim.SGD(theirs.parameters(), 0.01, 0.9, nesterov=True, weight_decay=5e-4)
    for batch in batches(5):
        logs = ours.train_on_batch(batch, return_dict=True)
        losses = torch_losses(theirs, batch, weights)
        reference.zero_grad()
        sum(losses).backward()
        reference.step()
        for name, loss in zip(("rotation_loss", "invariance_loss", "instance_loss"), losses, strict=True):
            assert float(logs[name]) == pytest.approx(loss.item(), rel=1e-5), name
        ours.reset_metrics()
    assert relative_difference(to_numpy(ours.memory_bank.rows), theirs.bank) < 1e-3
    assert float(ours.memory_bank.normalizer) == pytest.approx(theirs.z, rel=1e-4)

    expected = alexnet((63, 63, 3), ["fc_block"], dense_width=WIDTH)
    torch_reference.copy_alexnet(theirs.backbone, expected, spatial=1)
    for mine, other in zip(ours.backbone.trainable_variables, expected.trainable_variables, strict=True):
        assert relative_difference(to_numpy(mine), to_numpy(other)) < 1e-3, mine.path
    for layer, linear in ((ours.rotation_head, theirs.rotation_head), (ours.projection, theirs.projection)):
        kernel, bias = layer.get_weights()
        assert relative_difference(kernel, linear.weight.detach().numpy().T) < 1e-3
        assert relative_difference(bias, linear.bias.detach().numpy()) < 1e-3


@pytest.mark.usefixtures("float64")
def test_gradients_equal_torch():
    import tensorflow as tf

    ours, theirs = pair()
    batch = next(batches(1))
    with tf.GradientTape() as tape:
        outputs = ours(batch, training=True)
        loss = ours.compute_loss(x=batch, y_pred=outputs)
    first_kernel = ours.backbone.get_layer("conv1_conv").kernel
    variables = [ours.rotation_head.kernel, ours.projection.kernel, first_kernel]
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    sum(torch_losses(theirs, batch)).backward()
    conv1 = theirs.backbone._feature_blocks[0][0].weight.grad.numpy().transpose(2, 3, 1, 0)
    assert relative_difference(gradients[2], conv1) < 1e-4
    assert relative_difference(gradients[0], theirs.rotation_head.weight.grad.numpy().T) < 1e-4
    assert relative_difference(gradients[1], theirs.projection.weight.grad.numpy().T) < 1e-4


def small_model(*, instance_task=InstanceTask(num_negatives=K), **kwargs):
    backbone = resnet_cifar(8, (8, 8, 3), ["pool"], width=4)
    model = RotationDecoupling(backbone, SMALL_N, instance_task=instance_task, **kwargs)
    model.compile(CoupledSGD(0.01, 0.9))
    return model


def small_data():
    return {"image": rng.normal(size=(SMALL_N, 8, 8, 3)).astype("float32"), "index": np.arange(SMALL_N)}


def test_pixels_are_normalized_on_the_device():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    pixels = rng.integers(0, 256, (SMALL_N, 8, 8, 3), dtype="uint8")
    normalized = ((pixels / 255 - mean) / std).astype("float32")
    model, inputs = small_model(normalization=(mean, std)), small_data()
    expected = model(inputs | {"image": normalized, "second_image": normalized[::-1]})
    found = model(inputs | {"image": pixels, "second_image": pixels[::-1].copy()})
    for name, values in expected.items():
        np.testing.assert_allclose(to_numpy(found[name]), to_numpy(values), atol=1e-4)
    assert RotationDecoupling.from_config(model.get_config()).normalization == (mean, std)
    model.fit(inputs | {"image": pixels}, batch_size=8, validation_data=(inputs,), verbose=0)


def test_fit_logs_every_loss_and_both_accuracies():
    history = small_model().fit(
        small_data(), batch_size=8, epochs=1, validation_data=(small_data(),), verbose=0
    )
    names = {
        "loss",
        "rotation_loss",
        "invariance_loss",
        "instance_loss",
        "rotation_accuracy",
        "invariant_rotation_accuracy",
    }
    assert set(history.history) == names | {f"val_{name}" for name in names}
    logs = {name: values[0] for name, values in history.history.items()}
    for prefix in ("", "val_"):
        parts = sum(logs[f"{prefix}{n}_loss"] for n in ("rotation", "invariance", "instance"))
        assert logs[f"{prefix}loss"] == pytest.approx(parts, rel=1e-4)


def test_validation_leaves_bank_and_normalizer_alone():
    model = small_model()
    model.fit(small_data(), batch_size=8, verbose=0)
    before = to_numpy(model.memory_bank.rows), float(model.memory_bank.normalizer)
    model.evaluate(small_data(), batch_size=8, verbose=0)
    np.testing.assert_array_equal(to_numpy(model.memory_bank.rows), before[0])
    assert float(model.memory_bank.normalizer) == before[1] > 0


@pytest.mark.parametrize("num_negatives", [K, 0])
def test_the_softmax_over_the_bank(num_negatives):
    """Loss and bank of a step, by NumPy from the model's own outputs."""
    task = InstanceTask("softmax", num_negatives, temperature=0.2)
    model = small_model(instance_task=task)
    batch = {"image": small_data()["image"][:6], "index": np.array([5, 3, 8, 1, 0, 9])}
    if num_negatives:
        batch["negatives"] = rng.integers(0, SMALL_N, (6, K)).astype("int32")
    bank = to_numpy(model.memory_bank.rows).astype("float64")
    outputs = model(batch, training=False)
    z = to_numpy(outputs["embedding"]).astype("float64")
    rows = np.tile(np.arange(SMALL_N), (6, 1))
    if num_negatives:
        rows = np.concatenate([batch["index"][:, None], batch["negatives"]], axis=1)
    logits = np.einsum("bd,brd->br", z, bank[rows]) / 0.2
    own = np.einsum("bd,bd->b", z, bank[batch["index"]]) / 0.2
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - own)
    assert float(model.instance_loss_of(batch, outputs, training=True)) == pytest.approx(expected, rel=1e-5)
    mixed = 0.5 * bank[batch["index"]] + 0.5 * z
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    np.testing.assert_allclose(to_numpy(model.memory_bank.rows)[batch["index"]], mixed, atol=1e-6)
    assert float(model.memory_bank.normalizer) == 0.0
    again = RotationDecoupling.from_config(model.get_config())
    assert again.instance_task == task


@pytest.mark.parametrize("options", [{}, {"normalizer_momentum": 0.9}, {"loss": "softmax"}])
def test_training_with_each_instance_loss_lowers_it(options):
    keras.utils.set_random_seed(0)
    model = small_model(instance_task=InstanceTask(num_negatives=K, temperature=0.5, **options))
    losses = model.fit(small_data(), batch_size=8, epochs=12, verbose=0).history["instance_loss"]
    assert losses[-1] < losses[0]


def test_views_of_two_crops():
    """Upright and upside-down views are the first crop's, the other two the second's."""
    first, second = rng.normal(size=(2, 3, 8, 8, 3)).astype("float32")
    views = to_numpy(four_views_of_two_crops(first, second)).reshape(3, 4, 8, 8, 3)
    for image in range(3):
        for k in range(4):
            crop = (first, second)[k % 2][image]
            np.testing.assert_array_equal(views[image, k], np.rot90(crop, k))
    model = small_model()
    batch = {"image": first, "second_image": second, "index": np.arange(3)}
    features = model.backbone(views.reshape(-1, 8, 8, 3))["pool"]
    invariant = to_numpy(features)[:, model.half_width :]
    np.testing.assert_allclose(to_numpy(model(batch)["invariant_features"]), invariant, atol=1e-5)


def test_loss_weights_change_without_a_retrace():
    model = small_model(loss_weights=(1, 0, 0))
    model.fit(small_data(), batch_size=8, verbose=0)
    step = model.train_function
    model.set_loss_weights((0.0, 2.0, 0.5))
    logs = model.fit(small_data(), batch_size=8, verbose=0).history
    assert model.train_function is step
    weighted = 2 * logs["invariance_loss"][0] + 0.5 * logs["instance_loss"][0]
    assert logs["loss"][0] == pytest.approx(weighted, rel=1e-4)
    with pytest.raises(ValueError, match="three weights"):
        model.set_loss_weights((1, 1))


def test_the_backbone_is_not_changed():
    """Batch norm is fused by our runs, or by a call of the user's, never by a constructor."""
    backbone = resnet_cifar(8, (8, 8, 3), ["pool"], width=4)
    before = [dict(layer.__dict__) for layer in backbone.layers]
    model = RotationDecoupling(backbone, SMALL_N)
    assert model.backbone is backbone
    for layer, attributes in zip(backbone.layers, before, strict=True):
        assert layer.__dict__.keys() == attributes.keys(), layer.name
        assert "call" not in layer.__dict__
    fuse_batch_norm(model)
    assert "call" in backbone.get_layer("conv1_bn").__dict__


def test_the_saved_backbone_has_no_bank(tmp_path):
    model = small_model()
    model.backbone.save(tmp_path / "backbone.keras")
    again = keras.saving.load_model(tmp_path / "backbone.keras")
    assert again.count_params() == model.backbone.count_params()
    assert not any("memory_bank" in variable.path for variable in again.variables)


def test_ldam_head_and_whole_model_survive_disk(tmp_path):
    weights = rotation_instance_weights(rng.uniform(size=(SMALL_N, 4)))
    loss = LDAMLoss(effective_rotation_counts(weights))
    model = small_model(
        rotation_task=RotationTask("cosine", loss, use_instance_weights=True, view_margins=(0.4, 0.1))
    )
    model.set_instance_weights(weights)
    model.fit(small_data(), batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    batch = next(iter([{**small_data(), "negatives": rng.integers(0, SMALL_N, (SMALL_N, K))}]))
    expected, outputs = model.evaluate(batch, verbose=0), again.evaluate(batch, verbose=0)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5)
    np.testing.assert_array_equal(to_numpy(again.instance_weights), weights)
    assert again.rotation_task.view_margins == (0.4, 0.1)


def test_instance_weights_act_on_training_only_once_switched_on():
    model = small_model(rotation_task=RotationTask(use_instance_weights=True))
    model.set_instance_weights(np.eye(4, dtype="float32")[np.zeros(SMALL_N, int)])  # upright views alone
    batch = {**small_data(), "negatives": rng.integers(0, SMALL_N, (SMALL_N, K)).astype("int32")}
    outputs = model(batch, training=False)

    def rotation_loss(training):
        return float(model.rotation_loss_of(batch, outputs, training))

    unweighted = rotation_loss(True)
    assert unweighted == rotation_loss(False)
    model.instance_weighting.assign(1.0)
    assert unweighted == rotation_loss(False)
    per_view = keras.losses.sparse_categorical_crossentropy(
        np.tile(np.arange(4), SMALL_N), outputs["rotation_logits"], from_logits=True
    )
    assert rotation_loss(True) == pytest.approx(to_numpy(per_view)[::4].sum() / (4 * SMALL_N), rel=1e-5)


@pytest.mark.parametrize("margins", [(0.5, 0.2), (0.0, 0.5), (0.3, 0.3)])
@pytest.mark.parametrize("class_margin", [0.0, 0.4])
def test_margins_by_view_against_numpy(margins, class_margin):
    """Before and after the weights are switched on; in validation every view counts as rotatable."""
    weights = rotation_instance_weights(rng.uniform(size=(SMALL_N, 4)))
    loss = LDAMLoss(effective_rotation_counts(weights), class_margin, 10.0)
    model = small_model(
        rotation_task=RotationTask("cosine", loss, use_instance_weights=True, view_margins=margins)
    )
    model.set_instance_weights(weights)
    batch = {"index": rng.permutation(SMALL_N)[:8]}
    cosines = rng.uniform(-1, 1, (4 * 8, 4)).astype("float32")
    outputs = {"rotation_logits": keras.ops.convert_to_tensor(cosines)}

    def expected(rows, sample_weights):
        shifted = cosines.astype("float64")
        views, labels = np.arange(32), np.tile(np.arange(4), 8)
        shifted[views, labels] -= loss.margins[labels] + (1 - rows) * margins[0] + rows * margins[1]
        exponents = np.exp(10 * shifted)
        return np.mean(-np.log(exponents[views, labels] / exponents.sum(axis=1)) * sample_weights)

    rows = weights[batch["index"]].reshape(-1)
    for training, switch, used, sample_weights in (
        (True, 0.0, rows, 1.0),
        (True, 1.0, rows, rows),
        (False, 1.0, np.ones(32), 1.0),
    ):
        model.instance_weighting.assign(switch)
        found = float(model.rotation_loss_of(batch, outputs, training))
        assert found == pytest.approx(expected(used, sample_weights), rel=1e-5)


def test_mixed_bfloat16_trains():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    data = small_data()
    history = model.fit(data, batch_size=8, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert to_numpy(model.memory_bank.rows).dtype == np.float32
    assert keras.backend.standardize_dtype(model.memory_bank.rows.dtype) == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss_weights": (1, 1)}, "loss_weights"),
        ({"loss_weights": (1, -1, 1)}, "loss_weights"),
        ({"feature_name": "conv1"}, "no feature 'conv1'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_model(**arguments)


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (RotationTask, {"head": "ldam"}, "`head`.*'ldam'"),
        (RotationTask, {"view_margins": (0.0, 0.5)}, "use_instance_weights=False"),
        (RotationTask, {"view_margins": (0.5,), "use_instance_weights": True}, "two margins"),
        (InstanceTask, {"num_negatives": 0}, "num_negatives=0"),
        (InstanceTask, {"loss": "triplet"}, "`loss`.*'triplet'"),
        (InstanceTask, {"loss": "softmax", "num_negatives": -1}, "num_negatives=-1"),
        (InstanceTask, {"loss": "softmax", "num_negatives": 0, "bank": "sharded"}, "num_negatives > 0"),
    ],
)
def test_bad_tasks(task, arguments, message):
    with pytest.raises(ValueError, match=message):
        task(**arguments)


def test_features_that_cannot_be_split():
    maps = resnet_cifar(20, (8, 8, 3), ["block1"])
    with pytest.raises(ValueError, match="D even"):
        RotationDecoupling(maps, N)
    with pytest.raises(ValueError, match="use_instance_weights=False"):
        small_model().set_instance_weights(np.ones((SMALL_N, 4)))
    with pytest.raises(ValueError, match=r"\(24, 4\)"):
        small_model(rotation_task=RotationTask(use_instance_weights=True)).set_instance_weights(
            np.ones((SMALL_N, 3))
        )
