"""LDAM + DRW, ten epochs, against a plain PyTorch loop written from the paper: same weights, same batches."""

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rfd_tf.callbacks import DeferredReweighting
from rfd_tf.losses import classifier_loss
from rfd_tf.models import ProbedModel
from rfd_tf.models.backbone import batch_norm
from rfd_tf.models.heads import classifier
from rfd_tf.optimizers import CoupledSGD
from rfd_tf.optimizers.sgd import milestone_schedule

COUNTS = np.array([96, 30, 10, 4])
BATCH, EPOCHS, DRW_EPOCH, BETA = 20, 10, 6, 0.99
STEPS = COUNTS.sum() // BATCH
MILESTONES, WARMUP = ((8, 0.1), (10, 0.01)), 2


@pytest.fixture(autouse=True)
def doubles():
    """Ten epochs amplify what float32 rounds away."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(4), COUNTS))
    prototypes = rng.normal(size=(4, 8, 8, 3))
    return prototypes[labels] + 2.0 * rng.normal(size=(len(labels), 8, 8, 3)), labels


def network():
    """A convolution with batch norm, pooled."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
    x = keras.layers.ReLU()(batch_norm("bn")(x))
    return keras.Model(inputs, {"pool": keras.layers.GlobalAveragePooling2D()(x)})


def ours(images, backbone, head) -> np.ndarray:
    images, labels = images
    loss = classifier_loss("ldam_drw", COUNTS, beta=BETA)
    model = ProbedModel({"probe": head}, {"probe": "pool"}, {"probe": loss.loss}, backbone, frozen=False)
    rates = milestone_schedule(MILESTONES, STEPS, WARMUP)
    model.compile(CoupledSGD(rates, 0.9, nesterov=False, coupled_weight_decay=2e-4))
    history = model.fit(
        {"image": images[: STEPS * BATCH]},
        labels[: STEPS * BATCH],
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[DeferredReweighting(DRW_EPOCH, BETA, loss.loss)],
    )
    return np.array(history.history["loss"])


def in_torch(examples, kernel, cosine_kernel) -> np.ndarray:
    images = torch.tensor(examples[0]).permute(0, 3, 1, 2)
    labels = torch.tensor(examples[1])
    kernel = torch.nn.Parameter(torch.tensor(kernel).permute(3, 2, 0, 1).contiguous())
    classes = torch.nn.Parameter(torch.tensor(cosine_kernel))
    norm = torch.nn.BatchNorm2d(6).double()
    optimizer = torch.optim.SGD(
        [kernel, classes, *norm.parameters()], lr=0.1, momentum=0.9, weight_decay=2e-4
    )
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    margins = counts**-0.25
    margins = 0.5 * margins / margins.max()
    losses = []
    for epoch in range(EPOCHS):
        rate = 0.1 if epoch < 8 else 0.01
        beta = BETA if epoch >= DRW_EPOCH else 0.0
        weights = (1 - beta) / (1 - beta**counts)
        weights = weights / weights.sum() * len(counts)
        of_epoch = []
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = rate * (epoch + 1) / WARMUP if epoch < WARMUP else rate
            rows = slice(step * BATCH, (step + 1) * BATCH)
            pooled = F.relu(norm(F.conv2d(images[rows], kernel))).mean((2, 3))
            cosines = F.normalize(pooled) @ F.normalize(classes, dim=0)
            shifted = cosines - margins[labels[rows], None] * F.one_hot(labels[rows], 4)
            loss = F.cross_entropy(30 * shifted, labels[rows], weight=weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            of_epoch.append(loss.item())
        losses.append(np.mean(of_epoch))
    return np.array(losses)


def test_ten_epochs(images):
    keras.utils.set_random_seed(0)
    backbone = network()
    inputs = keras.Input((6,))
    head = keras.Model(inputs, classifier(inputs, 4, True, "cosine"))
    kernel = np.array(backbone.get_layer("conv").kernel)
    cosine_kernel = np.array(head.get_layer("cosine").kernel)
    expected = in_torch(images, kernel, cosine_kernel)
    found = ours(images, backbone, head)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert expected[DRW_EPOCH] > 1.1 * expected[DRW_EPOCH - 1]  # the weights made a difference
