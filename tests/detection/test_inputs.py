"""Batches of made-up images in which every box has a colour of its own."""

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data import Preprocessing, Schedule, VocDevkit
from rfd_tf.detection import boxes as box_functions
from rfd_tf.detection.boxes import match_regions, scale_factors
from rfd_tf.detection.inputs import BatchOptions, detection_batches
from rfd_tf.distribution import Share
from tests.data.devkits import annotation

PLAIN = Preprocessing(32, train="resize", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
IMAGES = {  # name: (size, (class, box counted from 1), colour channel)
    "000001": ((60, 40), ("cat", (11, 6, 30, 25)), 0),
    "000002": ((40, 60), ("dog", (5, 21, 34, 50)), 1),
    "000003": ((50, 50), ("cow", (21, 11, 50, 40)), 2),
    "000004": ((64, 48), ("cat", (1, 1, 32, 24)), 0),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devkit") / "VOC2007"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    for name, (size, (label, box), channel) in IMAGES.items():
        pixels = np.zeros((size[1], size[0], 3), "uint8")
        pixels[box[1] - 1 : box[3], box[0] - 1 : box[2], channel] = 255
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
        (folder / "Annotations" / f"{name}.xml").write_text(annotation((label, box, False), size=size))
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(IMAGES) + "\n")
    return VocDevkit(folder)


@pytest.fixture(scope="module")
def regions(source):
    rng = np.random.default_rng(0)
    found = []
    for objects in source.annotations:
        proposals = objects.boxes[0] + rng.integers(-8, 9, (60, 4))
        limits = [objects.width - 1, objects.height - 1] * 2
        found.append(match_regions(np.clip(proposals, 0, limits), objects))
    return found


def batches(source, regions, seed=3, epochs=4, start_step=0, share=None, **options):
    schedule = Schedule(np.arange(len(source)), seed, 2, epochs, start_step, share or Share())
    options = BatchOptions(**{"regions_per_image": 8, "scales": (40, 60), "longest": 90} | options)
    return list(detection_batches(source, regions, PLAIN, schedule, options).as_numpy_iterator())


def test_regions_lie_where_the_objects_are(source, regions):
    """Scaled and mirrored with the image: a region moved by its deltas holds the colour, no more."""
    foreground = 0
    seen = set()
    for inputs, targets in batches(source, regions):
        for image, boxes, labels, deltas in zip(
            inputs["image"], inputs["regions"], targets["labels"], targets["deltas"], strict=True
        ):
            assert set(labels) <= {-1, 0, 8, 10, 12}
            assert (labels > 0).sum() <= 2
            for box, delta in zip(boxes[labels > 0], deltas[labels > 0], strict=True):
                true = np.array(box_functions.decode(box[None], delta[None]))[0]
                bright = image.max(axis=2) > 0.5
                rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
                edges = np.array([columns[0], rows[0], columns[-1], rows[-1]])
                np.testing.assert_allclose(true, edges, atol=3)
                foreground += 1
                seen.add(tuple(edges))
    assert foreground > 20
    assert len(seen) >= 8  # scales and mirroring were drawn anew


def test_shapes_and_fill(source, regions):
    for inputs, targets in batches(source, regions):
        assert inputs["image"].shape[0] == 2
        assert inputs["regions"].shape == targets["deltas"].shape == (2, 8, 4)
        assert targets["labels"].shape == (2, 8)
        assert max(inputs["image"].shape[1:3]) <= 90
        fills = targets["labels"] < 0
        assert not targets["deltas"][fills].any()
        assert not targets["deltas"][targets["labels"] == 0].any()


def test_too_few_regions_are_filled_up(source, regions):
    alone = [match_regions(objects.boxes, objects) for objects in source.annotations]
    for _, targets in batches(source, alone, epochs=1):
        assert ((targets["labels"] > 0).sum(axis=1) == 2).all()
        assert ((targets["labels"] < 0).sum(axis=1) == 6).all()


def test_resumed_and_shared_equals_uninterrupted(source, regions):
    whole = batches(source, regions)
    for resumed, expected in zip(batches(source, regions, start_step=5), whole[5:], strict=True):
        for ours, theirs in zip(resumed, expected, strict=True):
            for name in theirs:
                np.testing.assert_array_equal(ours[name], theirs[name])
    parts = [batches(source, regions, share=Share(2, worker)) for worker in range(2)]
    for step, expected in enumerate(whole):
        for worker in range(2):
            found = parts[worker][step][1]["labels"][0]
            np.testing.assert_array_equal(found, expected[1]["labels"][worker])


def test_scale_factors():
    np.testing.assert_allclose(scale_factors(375, 500, (300, 600), 1000), [0.8, 1.6])
    np.testing.assert_allclose(scale_factors(200, 500, (300, 600), 1000), [1.5, 2.0])
    np.testing.assert_allclose(scale_factors(500, 100, (150, 600), 1000), [1.5, 2.0])
    for height, width in np.random.default_rng(4).integers(20, 2000, (200, 2)):
        found = scale_factors(height, width, (480, 600, 1200), 1000).numpy()
        expected = [min(side / min(height, width), 1000 / max(height, width)) for side in (480, 600, 1200)]
        np.testing.assert_array_equal(found, np.float32(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions_per_image": 0}, "regions_per_image"),
        ({"foreground_share": 1.5}, "foreground_share"),
        ({"scales": ()}, "scales"),
        ({"longest": 0}, "longest=0"),
    ],
)
def test_bad_arguments(source, regions, options, message):
    with pytest.raises(ValueError, match=message):
        batches(source, regions, **options)
    with pytest.raises(ValueError, match="regions of 3"):
        batches(source, regions[:3])
