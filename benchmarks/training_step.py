"""A training step of the full objective against the same in eager PyTorch, and against the machine's sgemm.

    python -m benchmarks.training_step

AlexNet at 224, 16 images (64 views), K = 4096 negatives, N = 1,281,167, float32, two threads. Ours is
`model.fit` on batches that are ready; PyTorch's is `benchmarks/torch_objective.py`.
"""

import numpy as np

from benchmarks.harness import keras_stepper, measure, plain_torch, quiet_tensorflow, spread
from benchmarks.outcome import Row, save

IMAGES, SIDE, NEGATIVES, INSTANCES, STEPS = 16, 224, 4096, 1_281_167, 1
GOAL = 1.2
SGEMM_SIDE = 2048
# Multiplications of a view forward: filters x (inputs) x positions; then fc6 and fc7.
_FIRST = 64 * (11 * 11 * 3) * 55**2
_OTHERS = (
    *(192 * (25 * 64) * 27**2, 384 * (9 * 192) * 13**2, 256 * (9 * 384) * 13**2, 256 * (9 * 256) * 13**2),
    *(9216 * 4096, 4096 * 4096),
)
# Forward, gradient to the weights, and, but for the first layer, gradient to the inputs.
OPERATIONS = 2 * 4 * IMAGES * (2 * _FIRST + 3 * sum(_OTHERS))


def batch(instances: int = INSTANCES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images [B, S, S, 3], their indices, their negatives."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(IMAGES, SIDE, SIDE, 3)).astype("float32")
    negatives = rng.integers(0, instances, (IMAGES, NEGATIVES), "int32")
    return images, rng.choice(instances, IMAGES, replace=False), negatives


def ours(instances: int = INSTANCES, data=None):
    """`data` makes the batches, on TensorFlow; by default one comes again and again."""
    tf = quiet_tensorflow()
    import keras

    from rfd_tf.layers import fuse_batch_norm
    from rfd_tf.models import InstanceTask, RotationDecoupling, alexnet
    from rfd_tf.optimizers import CoupledSGD

    keras.utils.set_random_seed(0)
    model = RotationDecoupling(alexnet(), instances, instance_task=InstanceTask(num_negatives=NEGATIVES))
    fuse_batch_norm(model)
    model.compile(CoupledSGD(0.01, 0.9, nesterov=True, coupled_weight_decay=5e-4))
    if data is not None:
        return keras_stepper(model, data(), STEPS)
    arrays = dict(zip(("image", "index", "negatives"), batch(instances), strict=True))
    return keras_stepper(model, tf.data.Dataset.from_tensors(arrays).repeat().prefetch(2), STEPS)


def pytorch():
    torch = plain_torch()
    from benchmarks.torch_objective import Trainer

    torch.manual_seed(0)
    trainer = Trainer(INSTANCES, NEGATIVES)
    images, index, _ = batch()
    images = torch.tensor(images.transpose(0, 3, 1, 2)).contiguous()
    index = torch.tensor(index)

    def step():
        for _ in range(STEPS):
            found = trainer.step(images, index)
        return dict(zip(("rotation_loss", "invariance_loss", "instance_loss"), found, strict=False))

    return step


def sgemm_tensorflow():
    tf = quiet_tensorflow()
    one, other = (tf.random.stateless_normal([SGEMM_SIDE] * 2, [seed, 0]) for seed in (0, 1))
    return lambda: float(tf.matmul(one, other)[0, 0])


def sgemm_pytorch():
    torch = plain_torch()
    one, other = torch.randn(SGEMM_SIDE, SGEMM_SIDE), torch.randn(SGEMM_SIDE, SGEMM_SIDE)
    return lambda: float((one @ other)[0, 0])


def main() -> None:
    found = measure(
        {
            "ours": ours,
            "pytorch": pytorch,
            "sgemm_tensorflow": sgemm_tensorflow,
            "sgemm_pytorch": sgemm_pytorch,
        },
        limit_seconds=110,
    )
    images = STEPS * IMAGES
    mine, theirs = found["ours"], found["pytorch"]
    ratio = theirs.median / mine.median
    peak = max(2 * SGEMM_SIDE**3 / found[name].median for name in ("sgemm_tensorflow", "sgemm_pytorch"))
    shares = {name: STEPS * OPERATIONS / found[name].median / peak for name in ("ours", "pytorch")}
    rows = [
        Row(
            1,
            "training step, AlexNet 224, 16 images",
            "images/s",
            mine.per_second(images),
            theirs.per_second(images),
            "eager PyTorch",
            ratio,
            f"{GOAL} times",
            ratio >= GOAL,
            "see NOTES.md, training step",
        ),
        Row(
            1,
            "share of the machine's sgemm rate",
            "%",
            spread([100 * shares["ours"]]),
            spread([100 * shares["pytorch"]]),
            "eager PyTorch",
            shares["ours"] / shares["pytorch"],
        ),
    ]
    details = {
        "sgemm, GFLOP/s": {
            name: f"{2 * SGEMM_SIDE**3 / found[name].median / 1e9:.0f}"
            for name in found
            if name.startswith("sgemm")
        },
        "GFLOP of a step": f"{OPERATIONS / 1e9:.0f}",
        "peak memory, MiB": {name: found[name].memory // 2**20 for name in ("ours", "pytorch")},
        "first losses": {name: found[name].first for name in ("ours", "pytorch")},
    }
    save("training_step", rows, details)


if __name__ == "__main__":
    main()
