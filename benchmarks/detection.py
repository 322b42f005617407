"""Fast R-CNN end to end: images a second in training and in detection, at short side 600, 2,000 proposals.

    python -m benchmarks.detection [--growth=1000]

AlexNet's trunk (conv1 frozen), dense layers of 4096; VOC 2007 images and objects from `$RFD_TF_TEST_DATA`,
the proposals at random, so that hardly any two share their cells. Training reads, scales and samples 2
images and 128 regions a step through `detection_batches`. `--growth=STEPS` trains that many steps, of
smaller images at several scales and with smaller dense layers, and writes down the memory every 25 steps.
"""

import argparse
import time

import numpy as np

from benchmarks.harness import ROUNDS, keras_stepper, measure, quiet_tensorflow, resident_bytes, spread
from benchmarks.images import needed_data
from benchmarks.outcome import Row, save
from benchmarks.roi_pooling import random_boxes

PROPOSALS, SHORT_SIDE, LONGEST, PER_STEP = 2000, 600, 1000, 2
GROWTH_SIDES, GROWTH_WIDTH = (240, 288, 344), 512  # smaller, so that many steps take minutes
STEPS, IMAGES, MEBIBYTE = 2, 2, 2**20
RANKS = (1024, 256)  # of fc6 and fc7, those of Fast R-CNN's section 3.1


def devkit():
    from rfd_tf.data import VocDevkit

    return VocDevkit(needed_data() / "VOCdevkit", "trainval")


def detector(dense_width: int = 4096, ranks=None):
    import keras

    from rfd_tf.detection.fast_rcnn import FastRCNN
    from rfd_tf.models import alexnet
    from rfd_tf.optimizers import CoupledSGD

    keras.utils.set_random_seed(0)
    network = alexnet((None, None, 3), ["conv5"], use_batch_norm=False)
    network.get_layer("conv1_conv").trainable = False
    trunk = keras.Model(network.inputs[0], network.output["conv5"])
    model = FastRCNN(trunk, 20, dense_width=dense_width, ranks=ranks)
    model.compile(CoupledSGD(1e-3, 0.9, coupled_weight_decay=5e-4))
    return model


def proposals(source, index: int) -> np.ndarray:
    own = source.annotations[index]
    return random_boxes(PROPOSALS, own.height, own.width, np.random.default_rng(index))


def batches(source, scales=(SHORT_SIDE,)):
    from rfd_tf.data import Preprocessing, Schedule
    from rfd_tf.detection.boxes import match_regions
    from rfd_tf.detection.inputs import BatchOptions, detection_batches

    regions = [match_regions(proposals(source, row), own) for row, own in enumerate(source.annotations)]
    schedule = Schedule(np.arange(len(source)), seed=0, batch_size=PER_STEP, epochs=1000)
    options = BatchOptions(scales=scales, longest=LONGEST)
    return detection_batches(source, regions, Preprocessing(224), schedule, options)


def training():
    """`STEPS` steps of `model.fit`, batches prepared beside them."""
    quiet_tensorflow()
    model, source = detector(), devkit()
    return keras_stepper(model, batches(source), STEPS)


def testing():
    """`Detector` in `IMAGES` images."""
    return detecting(None)


def truncated():
    """The same with fc6 and fc7 of the ranks of `RANKS`; the speed is that of any weights."""
    return detecting(RANKS)


def detecting(ranks):
    tf = quiet_tensorflow()
    from rfd_tf.data.augmentation import IMAGENET_MEAN, IMAGENET_STD, decode
    from rfd_tf.data.voc import VOC_CLASSES
    from rfd_tf.detection.boxes import scale_factors
    from rfd_tf.detection.detector import DetectionOptions, Detector, distinct_regions

    source = devkit()
    # An untrained network's probabilities are all near 1/21: of those nothing would be left to suppress.
    options = DetectionOptions((SHORT_SIDE,), LONGEST, score=0.045)
    detect = Detector(detector(ranks=ranks), VOC_CLASSES, IMAGENET_MEAN, IMAGENET_STD, options)
    cases = [
        (decode(source.fetch(tf.constant(row, tf.int64))).numpy(), proposals(source, row))
        for row in range(IMAGES)
    ]
    factors = [scale_factors(*image.shape[:2], (SHORT_SIDE,), LONGEST)[0] for image, _ in cases]
    distinct = [
        len(distinct_regions(boxes * factor, detect.model.pool.stride)[0])
        for (_, boxes), factor in zip(cases, factors, strict=True)
    ]

    def step():
        for image, boxes in cases:
            detect(image, boxes)
        return distinct

    return step


def growth(steps: int) -> dict:
    """Resident memory every 25 steps of training, in MiB."""
    quiet_tensorflow()
    import keras

    model, source = detector(GROWTH_WIDTH), devkit()
    memory: dict[int, int] = {}
    begin = time.monotonic()

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if (batch + 1) % 25 == 0:
                memory[batch + 1] = resident_bytes() // MEBIBYTE
                print(
                    f"step {batch + 1}: {memory[batch + 1]} MiB, {time.monotonic() - begin:.0f} s", flush=True
                )

    model.fit(batches(source, GROWTH_SIDES), steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[Watch()])
    return memory


def measure_speed() -> None:
    candidates = {"training": training, "testing": testing, "truncated": truncated}
    found = measure(candidates, rounds=ROUNDS, limit_seconds=180)
    train, test, less = (found[name] for name in candidates)
    size = f"at short side {SHORT_SIDE}, {PROPOSALS:,} proposals"
    rows = [
        Row(6, f"Fast R-CNN training {size}", "images/s", train.per_second(STEPS * PER_STEP)),
        Row(6, f"Fast R-CNN detection {size}", "images/s", test.per_second(IMAGES)),
        Row(
            6,
            f"the same with fc6 and fc7 truncated to {RANKS[0]} and {RANKS[1]}",
            "images/s",
            less.per_second(IMAGES),
            test.per_second(IMAGES),
            "whole",
            test.median / less.median,
        ),
        Row(6, "peak memory, training", "MiB", spread([train.memory / MEBIBYTE])),
        Row(6, "peak memory, detection", "MiB", spread([test.memory / MEBIBYTE])),
    ]
    save("detection", rows, {"distinct proposals of the tested images": test.first})


def measure_growth(steps: int) -> None:
    memory = growth(steps)
    marks = sorted(memory)
    half, last = marks[len(marks) // 2 - 1], marks[-1]
    growth_mib = memory[last] - memory[half]
    row = Row(
        6,
        f"memory after {last} training steps, less that after {half}",
        "MiB",
        spread([growth_mib]),
        goal="no growth: under 2 %",
        met=growth_mib < 0.02 * memory[half],
        why="see the details in the result's file",
    )
    save("detection-growth", [row], {"MiB after each step": memory})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--growth", type=int, default=0, metavar="STEPS")
    steps = parser.parse_args().growth
    measure_growth(steps) if steps else measure_speed()


if __name__ == "__main__":
    main()
