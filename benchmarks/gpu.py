"""AlexNet's training step and features on one GPU: ours on JAX, and PyTorch beside it.

    python -m benchmarks.gpu [--out=gpu.json] [--budget=200] [--only='jax*'] [--tiny]

The full objective at 224 pixels: 192 images (768 views) a step, K = 4096 negatives, N = 1,281,167, in TF32
and bfloat16; features at batch 32 and 256. Ours as it is, with the first convolution on blocks of pixels
(`use_space_to_depth`), with max pools as slices (`pool_by_slices`), and with both; PyTorch eager and
compiled, channels last. Batches lie on the device: this measures the device's work, not its input.

It needs JAX and Keras, and PyTorch for the other half, but no TensorFlow; of this project `rfd_tf/` and
`benchmarks/`. Each half is a process of its own with half of the `--budget` (seconds); variants for which no
time is left are named. `--tiny` tries it on any machine, in float32: its figures mean nothing.
"""

import argparse
import dataclasses
import fnmatch
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TURN = 0.6  # seconds
LEARNING_RATE, DECAY = 0.01, 5e-4
LIBRARIES = ("jax", "torch")
# Of the first convolution and of the pools: how they are computed.
FORMS = {
    "": (False, False),
    "+blocks+slices": (True, True),
    "+blocks": (True, False),
    "+slices": (False, True),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """Of what is measured."""

    images: int = 192
    negatives: int = 4096
    instances: int = 1_281_167
    batches: tuple[int, ...] = (32, 256)
    precisions: tuple[str, ...] = ("bfloat16", "tf32")
    side: int = 224
    turns: int = 5  # that a variant is timed


TINY = Size(2, 16, 1000, (1, 2), ("tf32",), turns=1)


class Measurement:
    """One half's: times variants until its time is up, and writes each down as it is done."""

    def __init__(self, out: Path, seconds: float, only: str, turns: int):
        self.out, self.only, self.turns = out, only, turns
        self.deadline = time.monotonic() + seconds
        self.longest: dict[str, float] = {}  # seconds that a variant took, by kind of work

    def run(self, name: str, examples: int, build: Callable[[], tuple[Callable, Callable, dict]]) -> None:
        """Time what `build` makes: a step, what waits for its result, and facts to write down beside."""
        if not fnmatch.fnmatch(name, self.only):
            return
        begin, kind = time.monotonic(), name.split(", ")[1][:8]
        if begin + self.longest.get(kind, 0.0) > self.deadline:
            self._write({"name": name, "skipped": "no time was left"})
            return
        try:
            step, wait, facts = build()
            wait(step())
            built = time.monotonic() - begin
            seconds = _timed(step, wait, self.turns)
        except Exception as error:  # the other variants are to be measured all the same
            self._write({"name": name, "skipped": f"{type(error).__name__}: {error}"[:300]})
            return
        self.longest[kind] = max(self.longest.get(kind, 0.0), time.monotonic() - begin)
        rates = [examples / second for second in seconds]
        spread = {"median": statistics.median(rates), "low": min(rates), "high": max(rates)}
        self._write({"name": name, "images/s": spread, "first step, s": round(built, 1), **facts})

    def _write(self, row: dict) -> None:
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{row['name']}: {row.get('skipped') or format(row['images/s']['median'], ',.4g')}", flush=True)


def _timed(step: Callable, wait: Callable, turns: int) -> list[float]:
    """Seconds of a step, the mean of each turn; the device is waited for at a turn's end."""
    begin = time.perf_counter()
    wait(step())
    steps = max(1, min(200, round(TURN / (time.perf_counter() - begin))))
    found = []
    for _ in range(turns):
        begin = time.perf_counter()
        for _ in range(steps):
            last = step()
        wait(last)
        found.append((time.perf_counter() - begin) / steps)
    return found


def measure_jax(measurement: Measurement, size: Size) -> None:
    """Ours. The most telling variants first."""
    import jax

    if jax.default_backend() == "cpu" and size != TINY:
        raise SystemExit("JAX sees no GPU; --tiny tries this on a processor")
    forms = list(FORMS)

    def train(form: str, precision: str) -> None:
        name = f"jax{form}, training, {precision}"
        measurement.run(name, size.images, lambda: jax_training(size, precision, *FORMS[form]))

    for form in forms[:2]:
        for precision in size.precisions:
            train(form, precision)
    for form in ("", "+blocks"):
        for precision in size.precisions:
            for batch in size.batches:

                def build(batch=batch, precision=precision, blocks=bool(form)):
                    return jax_features(size, batch, precision, blocks)

                measurement.run(f"jax{form}, features at batch {batch}, {precision}", batch, build)
    for form in forms[2:]:
        for precision in size.precisions:
            train(form, precision)


def jax_training(size: Size, precision: str, blocks: bool, slices: bool):
    import jax
    import jax.numpy as jnp
    import keras

    from rfd_tf.models import InstanceTask, RotationDecoupling
    from rfd_tf.optimizers import CoupledSGD

    backbone = _backbone(size, precision, blocks, slices)
    model = RotationDecoupling(
        backbone, size.instances, instance_task=InstanceTask(num_negatives=size.negatives)
    )
    model.compile(CoupledSGD(LEARNING_RATE, 0.9, nesterov=True, coupled_weight_decay=DECAY))
    model.optimizer.build(model.trainable_variables)
    images = keras.random.normal((size.images, size.side, size.side, 3), seed=0, dtype="float32")
    data = ({"image": images, "index": jnp.arange(size.images)},)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    # Copies: what is given to a step is gone afterwards.
    state = tuple([jnp.array(variable.value, copy=True) for variable in group] for group in groups)

    def train_step(state, data):
        logs, state = model.train_step(state, data)
        return logs, tuple(map(list, state))

    compiled = jax.jit(train_step, donate_argnums=0).lower(state, data).compile()

    def step():
        nonlocal state
        logs, state = compiled(state, data)
        return logs

    return step, jax.block_until_ready, _cost(compiled)


def jax_features(size: Size, batch: int, precision: str, blocks: bool):
    import jax
    import jax.numpy as jnp
    import keras

    backbone = _backbone(size, precision, blocks, slices=False)
    images = keras.random.normal((batch, size.side, size.side, 3), seed=0, dtype="float32")
    values = [[variable.value for variable in backbone.trainable_variables]]
    values.append([variable.value for variable in backbone.non_trainable_variables])

    def features(values, images):
        found, _ = backbone.stateless_call(*values, images, training=False)
        return jnp.asarray(found["fc_block"])

    compiled = jax.jit(features).lower(values, images).compile()
    return lambda: compiled(values, images), jax.block_until_ready, _cost(compiled)


def _backbone(size: Size, precision: str, blocks: bool, slices: bool):
    import keras

    from rfd_tf.layers import pool_by_slices, use_space_to_depth
    from rfd_tf.models import alexnet

    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    keras.utils.set_random_seed(0)
    backbone = alexnet((size.side, size.side, 3), ["fc_block"])
    if blocks:
        use_space_to_depth(backbone)
    if slices:
        pool_by_slices(backbone)
    return backbone


def _cost(compiled) -> dict:
    """What XLA counts; on a GPU without the convolutions that a library computes."""
    found = compiled.cost_analysis() or {}
    found = found[0] if isinstance(found, list) else found
    return {name: found.get(key) for name, key in (("flops", "flops"), ("bytes", "bytes accessed"))}


def measure_torch(measurement: Measurement, size: Size) -> None:
    """PyTorch's, eager and compiled."""
    import torch

    if not torch.cuda.is_available() and size != TINY:
        raise SystemExit("PyTorch sees no GPU; --tiny tries this on a processor")
    for compiled in (False, True):
        for kind in ("training", "features"):
            for precision in size.precisions:
                way = "torch.compile" if compiled else "torch"
                if kind == "training":
                    measurement.run(
                        f"{way}, training, {precision}",
                        size.images,
                        lambda p=precision, c=compiled: torch_training(size, p, c),
                    )
                    continue
                for batch in size.batches:
                    measurement.run(
                        f"{way}, features at batch {batch}, {precision}",
                        batch,
                        lambda b=batch, p=precision, c=compiled: torch_features(size, b, p, c),
                    )


def _prepared_torch():
    """The device, and what waits for it; TF32 in products and convolutions."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    if not torch.cuda.is_available():
        return "cpu", lambda _: None
    return "cuda", lambda _: torch.cuda.synchronize()


def torch_training(size: Size, precision: str, compiled: bool):
    """`torch_objective.Trainer` on the device: channels last, the fused optimizer, and nothing read back."""
    import torch
    import torch.nn.functional as F

    from benchmarks.torch_objective import HALF, MOMENTUM, TEMPERATURE, WIDTH, Trainer

    device, wait = _prepared_torch()

    class DeviceTrainer(Trainer):
        def __init__(self):
            with torch.device(device):
                super().__init__(size.instances, size.negatives, LEARNING_RATE)
                self.labels = torch.arange(4).repeat(size.images)
                self.normalizer = torch.zeros(())
            self.backbone.to(memory_format=torch.channels_last)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["fused"], group["foreach"] = True, False
            self.losses_of = torch.compile(self.losses, dynamic=False) if compiled else self.losses

        def losses(self, images, index):
            views = torch.stack([torch.rot90(images, turns, (2, 3)) for turns in range(4)], dim=1)
            views = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                rotation, invariant = self.backbone(views).split(HALF, dim=1)
                logits = self.classifier(rotation).float()
                with torch.no_grad():
                    leaking = self.classifier(invariant)
                by_image = invariant.reshape(-1, 4, HALF)
                projected = self.projection(by_image.mean(dim=1)).float()
            with torch.no_grad():
                told, leaked = (
                    (found.argmax(1) == self.labels).float().mean() for found in (logits, leaking)
                )
            by_image = by_image.float()
            mean = by_image.mean(dim=1).detach().unsqueeze(1)
            embedding = F.normalize(projected)
            instance_loss, normalizer = self.compared(embedding, index)
            losses = (
                F.cross_entropy(logits, self.labels),
                F.mse_loss(by_image, mean.expand_as(by_image)),
                instance_loss,
            )
            shown = torch.stack([*losses, told, leaked]).detach()
            return sum(losses), shown, embedding.detach(), normalizer

        def compared(self, embedding, index):
            negatives = torch.randint(0, size.instances, (size.images, size.negatives), device=index.device)
            rows = torch.cat([index[:, None], negatives], dim=1)
            compared = torch.index_select(self.bank, 0, rows.view(-1)).view(size.images, -1, WIDTH)
            scores = torch.exp(torch.bmm(compared, embedding.unsqueeze(2)).squeeze(2) / TEMPERATURE)
            first = scores.detach().mean() * size.instances
            normalizer = torch.where(self.normalizer > 0, self.normalizer, first)
            scores = scores / normalizer
            noise = size.negatives / size.instances
            positive = torch.log(scores[:, 0] / (scores[:, 0] + noise + 1e-7))
            negative = torch.log(noise / (scores[:, 1:] + noise + 1e-7)).sum(1)
            return -(positive + negative).mean(), normalizer

        def step(self, images, index):
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            total, shown, embedding, normalizer = self.losses_of(images, index)
            with torch.no_grad():
                old = torch.index_select(self.bank, 0, index)
                self.bank.index_copy_(0, index, F.normalize(MOMENTUM * old + (1 - MOMENTUM) * embedding))
                self.normalizer = normalizer.detach().clone()
            total.backward()
            for optimizer in self.optimizers:
                optimizer.step()
            return shown

    trainer = DeviceTrainer()
    images = torch.randn(size.images, 3, size.side, size.side, device=device)
    index = torch.arange(size.images, device=device)
    return lambda: trainer.step(images, index), wait, {}


def torch_features(size: Size, batch: int, precision: str, compiled: bool):
    import torch

    from benchmarks.torch_alexnet import alexnet

    device, wait = _prepared_torch()
    with torch.device(device):
        model = alexnet().eval().to(memory_format=torch.channels_last)
        images = torch.randn(batch, 3, size.side, size.side).contiguous(memory_format=torch.channels_last)
    call = torch.compile(model, dynamic=False) if compiled else model

    @torch.no_grad()
    def step():
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            return call(images)

    return step, wait, {}


def table(rows: list[dict]) -> str:
    """Markdown: images a second, and over PyTorch's, eager and compiled, at the same work and precision."""
    rates = {row["name"]: row["images/s"]["median"] for row in rows if "images/s" in row}
    lines = ["| what | images/s | over torch | over torch.compile |", "|---|---:|---:|---:|"]
    for row in rows:
        if "images/s" not in row:
            lines.append(f"| {row['name']} | {row['skipped']} | | |")
            continue
        way, work = row["name"].split(", ", 1)
        others = [rates.get(f"{other}, {work}") for other in ("torch", "torch.compile")]
        over = [f"{rates[row['name']] / other:.2f}" if other and way[:3] == "jax" else "" for other in others]
        spread = row["images/s"]
        figure = "{median:,.5g} [{low:,.5g}, {high:,.5g}]".format(**spread)
        lines.append(f"| {row['name']} | {figure} | {' | '.join(over)} |")
    return "\n".join(lines)


def _device(library: str) -> dict:
    """What the half ran on, and its version."""
    if library == "jax":
        import jax
        import keras

        return {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "keras": keras.__version__}
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu"
    return {"device": name, "torch": torch.__version__}


def _half(library: str, options: argparse.Namespace, out: Path, seconds: float) -> str:
    """Run one half in a process of its own; what went wrong, if anything."""
    given = [f"--library={library}", f"--out={out}", f"--budget={seconds}", f"--only={options.only}"]
    if options.tiny:
        given.append("--tiny")
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-m", "benchmarks.gpu", *given]
    try:
        status = subprocess.run(command, env=environment, timeout=seconds + 60, check=False).returncode
    except subprocess.TimeoutExpired:
        return f"{library}: stopped after {seconds + 60:.0f} s"
    return f"{library}: ended with status {status}" if status else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--budget", type=float, default=200.0, metavar="SECONDS")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="of variants, such as 'jax*bfloat16'")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--library", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = TINY if options.tiny else Size()
    if options.library:
        measurement = Measurement(options.out, options.budget, options.only, size.turns)
        {"jax": measure_jax, "torch": measure_torch}[options.library](measurement, size)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_device(options.library)) + "\n")
        return
    rows, devices, problems = [], {}, []
    with tempfile.TemporaryDirectory() as folder:
        for library in LIBRARIES:
            found = Path(folder, library)
            problems.append(_half(library, options, found, options.budget / len(LIBRARIES)))
            lines = found.read_text(encoding="utf-8").splitlines() if found.exists() else []
            for row in map(json.loads, lines):
                if "name" in row:
                    rows.append(row)
                else:
                    devices[library] = row
    record = {
        "command": " ".join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
        "size": dataclasses.asdict(size),
        "devices": devices,
        "rows": rows,
        "problems": [problem for problem in problems if problem],
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{table(rows)}\n\n{devices}")
    for problem in record["problems"]:
        print(problem)


if __name__ == "__main__":
    main()
