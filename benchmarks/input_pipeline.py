"""Random resized crops a second and core from JPEG files, against PIL in PyTorch's DataLoader.

    python -m benchmarks.input_pipeline [--collection=voc] [--epochs=10]

Batches of 32 normalised crops of side 224, of VOC's pictures (about 500 x 375) and of photographs of
224 x 224, both from `$RFD_TF_TEST_DATA`; a core for each of the two threads or worker processes. `--epochs=N`
writes down the memory after each of N passes instead.
"""

import argparse
import functools
from pathlib import Path

from benchmarks.harness import THREADS, measure, plain_torch, quiet_tensorflow, resident_bytes, spread
from benchmarks.outcome import Row, save
from benchmarks.pictures import needed_data

SIDE, BATCH, BATCHES, GOAL, MEBIBYTE = 224, 32, 4, 2.0, 2**20
COLLECTIONS = {
    "voc": ("VOC, 500 x 375", "VOCdevkit/VOC2007/JPEGImages"),
    "photos": ("photographs, 224 x 224", "photos/val"),
}


def files(folder: str) -> list[Path]:
    return sorted((needed_data() / folder).rglob("*.jpg"))


def source(folder: str):
    from rfd_tf.data.image_files import ImageFiles

    paths = files(folder)
    root = needed_data() / folder
    return ImageFiles(root, [str(path.relative_to(root)) for path in paths], None, None)


def batches(folder: str, epochs: int, **options):
    from rfd_tf.data import Preprocessing, training_dataset

    recipe = Preprocessing(SIDE, **options)
    return training_dataset(source(folder), recipe, batch_size=BATCH, seed=0, epochs=epochs)


def ours(folder: str, **options):
    quiet_tensorflow()
    data = iter(batches(folder, epochs=1000, **options))

    def step():
        for _ in range(BATCHES):
            last = next(data)["image"]
        return tuple(last.shape)

    return step


def pytorch(folder: str):
    torch = plain_torch(1)
    from benchmarks.torch_pictures import Crops

    crops = Crops(files(folder), SIDE, length=10_000_000)
    data = iter(torch.utils.data.DataLoader(crops, BATCH, num_workers=THREADS, prefetch_factor=4))

    def step():
        for _ in range(BATCHES):
            last, _ = next(data)
        return tuple(last.shape)

    return step


def measure_speed(collection: str) -> None:
    name, folder = COLLECTIONS[collection]
    found = measure(
        {"ours": functools.partial(ours, folder), "pytorch": functools.partial(pytorch, folder)},
        warm=2,
        limit_seconds=60,
    )
    mine, theirs = found["ours"], found["pytorch"]
    ratio = theirs.median / mine.median
    row = Row(
        3,
        f"random resized crops, {name}",
        "a second and core",
        mine.per_second(BATCHES * BATCH / THREADS),
        theirs.per_second(BATCHES * BATCH / THREADS),
        f"PIL, DataLoader of {THREADS} workers",
        ratio,
        f"{GOAL:g} times",
        ratio >= GOAL,
        "see NOTES.md, input",
    )
    save(f"input_pipeline-{collection}", [row])


def measure_memory(epochs: int) -> None:
    quiet_tensorflow()
    _, folder = COLLECTIONS["voc"]
    per_epoch = len(files(folder)) // BATCH
    data, memory = iter(batches(folder, epochs)), []
    for _ in range(epochs):
        for _ in range(per_epoch):
            next(data)
        memory.append(resident_bytes() // MEBIBYTE)
    growth = memory[-1] - memory[0]
    row = Row(
        3,
        f"memory after epoch {epochs}, less that after the first",
        "MiB",
        spread([growth]),
        goal="flat: under 2 %",
        met=growth < 0.02 * memory[0],
        why="see the details in the result's file",
    )
    save("input_pipeline-memory", [row], {"MiB after each epoch": memory})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=0, help="measure memory over that many")
    parser.add_argument("--collection", choices=tuple(COLLECTIONS), help="one only")
    arguments = parser.parse_args()
    if arguments.epochs:
        measure_memory(arguments.epochs)
        return
    for collection in [arguments.collection] if arguments.collection else COLLECTIONS:
        measure_speed(collection)


if __name__ == "__main__":
    main()
