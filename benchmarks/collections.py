"""What collections of made-up images and features cost by their size: seconds, memory, bytes read.

    python -m benchmarks.collections [--sizes=10000,100000,1000000] [--folder=DIR]
    python -m benchmarks.collections --draw=docs/results/collections.svg
    python -m benchmarks.collections --start=1280000 [--folder=DIR]

The images are hard links to 1,000 tiny JPEG files, in 1,000 class folders of a temporary folder in DIR. Each
step runs in a process of its own; its memory is the peak beyond what the process held before the step. `read`
counts what the process read from files, whether from the disk or from memory, but not the names in folders.
`--draw` draws what was measured before. `--start` times `rfd train`, from its first moment to its first step.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import spread
from benchmarks.outcome import RESULTS, Row, save

CLASSES, WIDTH, QUERIES, NEIGHBOURS = 1000, 128, 1000, 200
STARTS = 3  # of either kind
SETTLE_SECONDS = 61  # folders that changed a minute ago and less are not kept in the index
STEPS = {
    "list": "list, first time",
    "list_again": "list, from the index",
    "digest": "hash of the names",
    "state": "hash of sizes and times",
    "extract": "write shards of features",
    "resume": "look for missing shards, manifest",
    "load": "load all features",
    "rotations": "deal folds, write and read probabilities",
    "knn": f"kNN of {QUERIES:,} queries",
}
PANELS = (
    ("processor_seconds", "seconds of the processors"),
    ("memory_mib", "peak memory in MiB"),
    ("read_mib", "read in MiB"),
)


def make(root: Path, size: int) -> None:
    """So many images in class folders."""
    import numpy as np
    from PIL import Image

    masters = root.with_name(f"{root.name}-images")
    masters.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        master, folder = masters / f"{label}.jpg", root / f"n{label:08}"
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype="uint8")).save(master, quality=60)
        folder.mkdir(parents=True)
        for number in range(size // CLASSES):
            os.link(master, folder / f"n{label:08}_{number}.JPEG")


def prepare(step: str, root: Path, size: int):
    """What a step does, as a function; what it needs is there when it is called."""
    import numpy as np

    from rfd_tf import data, features, imbalance, metrics
    from rfd_tf.features import store
    from rfd_tf.files import LocalStorage
    from rfd_tf.runs import rotation_probabilities
    from rfd_tf.runs.images import ImageSet

    if step in ("list", "list_again"):
        return lambda: data.ImageFolder(root)
    rng, out = np.random.default_rng(0), root.with_name(f"{root.name}-features")
    if step == "knn":
        centres = rng.normal(size=(CLASSES, WIDTH)).astype("float32")
        reference, queries = (
            centres[np.arange(count) % CLASSES] + 2 * rng.standard_normal((count, WIDTH), "float32")
            for count in (size, QUERIES)
        )
        return lambda: metrics.nearest_neighbours(reference, queries, NEIGHBOURS)
    if step == "load":
        return lambda: features.load_features(out)
    source = data.ImageFolder(root)
    rows = np.arange(size)
    if step == "digest":
        return lambda: data.Source.fingerprint(source, rows)
    if step == "state":
        return lambda: source.fingerprint(rows)
    if step == "rotations":
        images = ImageSet(source, data.Preprocessing(8), rows, [])
        probabilities = rng.uniform(size=(size, 4)).astype("float32")

        def rotations():
            for part in rotation_probabilities.deal(images.valid, 5, 0):
                np.setdiff1d(images.valid, part)
            rotation_probabilities.write_parquet(root.with_name("table.parquet"), probabilities, images)
            data.save_rotation_probabilities(root.with_name("prob.dat"), probabilities)
            found = data.load_rotation_probabilities(root.with_name("prob.dat"), size)
            imbalance.rotation_instance_weights(found)

        return rotations
    info = features.ModelInfo("made_up", data.Preprocessing(8, train="resize"), {"features": (WIDTH,)})
    values = rng.standard_normal((4096, WIDTH), "float32")

    def settings():
        return store.Settings(
            *("made up", info, info.outputs, {"features": [1.0]}, str(root), size),
            *(store.listing_digest(source), True, source.class_names, "parquet", "float32", 4096, 10**6),
        )

    def extract():
        asked, storage = settings(), LocalStorage(out)
        store.claim(storage, asked)
        for number in store.pending_shards(storage, asked):
            index = np.array(asked.rows(number))
            names = [store.image_name(source, row) for row in index.tolist()]
            shard = store.Shard(index, names, source.labels[index], {"features": values[: len(index)]}, [])
            store.write_shard(storage, asked, number, shard)

    def resume():
        asked, storage = settings(), LocalStorage(out)
        store.claim(storage, asked)
        assert not store.pending_shards(storage, asked)
        store.write_manifest(storage, asked)

    return {"extract": extract, "resume": resume}[step]


def measured(action) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: the peak begins anew
    held, read = _kib("VmRSS"), _bytes_read()
    wall, processor = time.perf_counter(), time.process_time()
    result = action()  # kept until its memory is known
    found = {
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "memory_mib": (_kib("VmHWM") - held) / 1024,
        "read_mib": (_bytes_read() - read) / 2**20,
    }
    del result
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def in_a_process(arguments: list[str], cache: Path) -> str:
    command = [sys.executable, "-m", "benchmarks.collections", *arguments]
    environment = os.environ | {"RFD_TF_CACHE": str(cache), "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure_sizes(sizes: list[int], folder: Path) -> None:
    for size in sizes:
        make(folder / str(size), size)
    time.sleep(SETTLE_SECONDS)
    found: dict[str, dict[str, dict]] = {}
    for size in sizes:
        for step in STEPS:
            told = in_a_process([f"--step={step}", f"--root={folder / str(size)}"], folder / "cache")
            found.setdefault(step, {})[str(size)] = json.loads(told.splitlines()[-1])
            print(step, size, found[step][str(size)], flush=True)
    save("collections", [], {"steps": found})


def first_step(size: int, folder: Path) -> None:
    make(folder / str(size), size)
    time.sleep(SETTLE_SECONDS)
    names = ("without an index", "with one")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    processor: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, STARTS):
        for name in names:
            os.environ["RFD_TF_FOLDER_INDEX"] = str(names.index(name))
            workdir, spent = folder / f"run-{number}-{names.index(name)}", _children_seconds()
            began = time.time()
            told = in_a_process(
                ["--train", f"--root={folder / str(size)}", f"--workdir={workdir}"], folder / "cache"
            )
            if number >= 0:  # before, the index was made
                seconds[name].append(float(told.splitlines()[-1]) - began)
                processor[name].append(round(_children_seconds() - spent, 1))
    rows = []
    for name in names:
        figures = spread(seconds[name])
        goal, met = ("under 10 s", figures["median"] < 10) if name == names[1] else ("", None)
        what = f"`rfd train` to its first step, {size:,} files, {name}"
        rows.append(Row(5, what, "s", figures, goal=goal, met=met, why="see NOTES.md, start-up"))
    save("collections-start", rows, {"seconds of all processors": processor})


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def stop_after_first_step(_config, _workdir):
    """A factory of `rfd train --callbacks`."""
    import keras

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            print(time.time(), flush=True)
            os._exit(0)

    return Stop()


def train(root: Path, workdir: Path) -> int:
    from rfd_tf.cli.train import main

    arguments = ["rfd train", "--config=imagenet", f"--config.data.root={root}", f"--workdir={workdir}"]
    arguments += ["--config.validation.source=", "--config.tensorboard=False", "--config.batch_size=8"]
    arguments += ["--config.preprocessing.image_size=67", "--config.preprocessing.resize=67"]
    return main([*arguments, "--callbacks=benchmarks.collections:stop_after_first_step"])


def draw(out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*/collections.json")]
    steps = max(found, key=lambda record: record["measured"])["details"]["steps"]
    plt.rcParams["svg.hashsalt"] = "collections"  # the same file from the same figures
    figure, axes = plt.subplots(1, len(PANELS), figsize=(12, 4.6), layout="constrained")
    for axis, (field, title) in zip(axes, PANELS, strict=True):
        for step, by_size in steps.items():
            sizes = [int(size) for size in by_size]
            values = [max(by_size[str(size)][field], 1e-3) for size in sizes]
            axis.plot(sizes, values, marker="o", markersize=4, label=STEPS[step])
        axis.set(title=title, xscale="log", yscale="log", xlabel="images", xticks=sizes)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(out, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--folder", default=None, help="where the temporary folder is made")
    parser.add_argument("--draw", type=Path)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workdir", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        return train(given.root, given.workdir)
    if given.step:
        print(json.dumps(measured(prepare(given.step, given.root, int(given.root.name)))))
    elif given.draw:
        draw(given.draw)
    else:
        with tempfile.TemporaryDirectory(prefix="collections-", dir=given.folder) as folder:
            if given.start:
                first_step(given.start, Path(folder))
            else:
                measure_sizes([int(size) for size in given.sizes.split(",")], Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
