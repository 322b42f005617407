"""`rfd extract` on JPEG files, decoding and start included, against a PyTorch script that does the same.

    python -m benchmarks.extraction [--images=2000] [--rounds=3]

AlexNet at 224 up to its 4096 features, of VOC's images (about 500 x 375, from `$RFD_TF_TEST_DATA`), repeated.
Each run is a process of its own, the ways take turns. Its start (imports, opening, compiling) counts,
and is shown by a run of 64 images. Memory is the peak of the process. bfloat16 is measured on processors that
compute in it.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.features import SIDE
from benchmarks.harness import quiet_tensorflow, spread
from benchmarks.images import needed_data
from benchmarks.outcome import Row, instructions, save

FEW, GOAL, MOST_GROWTH, MEBIBYTE = 64, 2.0, 100.0, 2**20
SHARD, BATCH = 256, 64
VOC = "VOCdevkit/VOC2007/JPEGImages"
# Ours, theirs, and how many times as fast ours should be.
PAIRS: tuple[tuple[str, str, float | None], ...] = (
    ("rfd extract, Keras", "PyTorch", None),
    ("rfd extract, float32", "PyTorch", GOAL),
)
BFLOAT16_PAIRS = (
    ("rfd extract, bfloat16", "PyTorch", None),
    ("rfd extract, bfloat16", "PyTorch, autocast bfloat16", GOAL),
)


def export(folder: Path) -> None:
    quiet_tensorflow()
    from rfd_tf.data import Preprocessing
    from rfd_tf.exporting.export_model import ExportOptions, export_model
    from rfd_tf.features import keras_feature_model
    from rfd_tf.models import alexnet

    model = keras_feature_model(alexnet(feature_names=["fc_block"]), Preprocessing(SIDE), "benchmark")
    export_model(model, folder, ExportOptions(formats=("keras", "openvino")))


def link(folder: Path, count: int) -> None:
    """That many files, the same ones again and again."""
    files = sorted((needed_data() / VOC).glob("*.jpg"))
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06}.jpg").symlink_to(files[number % len(files)])


def commands(model: Path, images: Path, out: Path) -> Mapping[str, list[str]]:
    rfd = [sys.executable, "-m", "rfd_tf.cli", "extract", f"--images={images}", f"--out={out}"]
    rfd += [f"--shard_size={SHARD}", f"--batch_size={BATCH}", "--format=npz"]
    script = [sys.executable, "-m", "benchmarks.torch_extract", str(images), str(out)]
    return {
        "rfd extract, Keras": [*rfd, f"--model={model / 'model.keras'}"],
        "rfd extract, float32": [*rfd, f"--model={model}"],
        "rfd extract, bfloat16": [*rfd, f"--model={model}", "--precision=bfloat16"],
        "PyTorch": script,
        "PyTorch, autocast bfloat16": [*script, "--autocast"],
    }


def timed(command: list[str]) -> tuple[float, int]:
    """Seconds, and peak resident bytes of the process itself."""
    begin = time.monotonic()
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"Failed: {' '.join(command)}")
    return time.monotonic() - begin, usage.ru_maxrss * 1024


def measured(model: Path, count: int, rounds: int, folder: Path) -> list[Row]:
    pairs = PAIRS + (BFLOAT16_PAIRS if "bf16" in instructions() else ())
    names = list(dict.fromkeys(name for pair in pairs for name in pair[:2]))
    sizes = {FEW: folder / "few", count // 4: folder / "quarter", count: folder / "all"}
    for size, images in sizes.items():
        link(images, size)
    rates: dict[str, list[float]] = {}
    starts: dict[str, list[float]] = {}
    memory: dict[str, list[int]] = {}
    for number in range(rounds):
        for name in names:
            few, all_ = (
                timed(
                    commands(model, sizes[size], folder / f"{number}-{name}-{size}".replace(" ", "-"))[name]
                )
                for size in (FEW, count)
            )
            rates.setdefault(name, []).append(count / all_[0])
            starts.setdefault(name, []).append(few[0])
            memory.setdefault(name, []).append(all_[1])
    rows = []
    for name, theirs, goal in pairs:
        ours, other = spread(rates[name]), spread(rates[theirs])
        ratio = ours["median"] / other["median"]
        verdict = {} if goal is None else {"goal": f"{goal:g} times", "met": ratio >= goal}
        rows.append(
            Row(
                4,
                f"{count} JPEGs: {name}",
                "images/s",
                ours,
                other,
                f"{theirs}, DataLoader",
                ratio,
                **verdict,
                why="decoding takes both cores' time, whoever computes the features; see NOTES.md",
            )
        )
    for name in starts:
        rows.append(Row(4, f"{FEW} JPEGs, start included: {name}", "s", spread(starts[name])))
    name = pairs[-1][0]
    quarter = timed(commands(model, sizes[count // 4], folder / "quarter-out")[name])[1]
    growth = (max(memory[name]) - quarter) / MEBIBYTE
    rows.append(
        Row(
            4,
            f"memory of {count} JPEGs beyond that of {count // 4}",
            "MiB",
            spread([growth]),
            goal=f"under {MOST_GROWTH:g} MiB",
            met=growth < MOST_GROWTH,
            why="with few images, buffers of TensorFlow's pipeline still grow: give --images=10000",
        )
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.images < 4 * FEW:
        raise SystemExit(f"--images must be at least {4 * FEW}. Received: {given.images}")
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary, "model")
        exporting = multiprocessing.get_context("spawn").Process(target=export, args=(model,))
        exporting.start()
        exporting.join(timeout=600)
        if exporting.exitcode != 0:
            raise SystemExit("The export failed; its error is above")
        save("extraction", measured(model, given.images, given.rounds, Path(temporary)))


if __name__ == "__main__":
    main()
