"""Which objects region proposals cover: ours beside Fast R-CNN's files, and ours on a devkit.

    python -m benchmarks.proposal_recall --samples=FOLDER --devkit=VOCdevkit [--proposals=CACHE]

FOLDER has Fast R-CNN's two demonstration images and their proposals (000004, 001551; `.jpg`, `_boxes.mat`).
They are in no devkit of ours: their objects were marked by eye, to some three pixels, as VOC's rules have it.
An object is recalled if a proposal overlaps it with an IoU of 0.5 or more, in VOC's inclusive pixels.
"""

import argparse
from pathlib import Path

import numpy as np

from rfd_tf.data import VocData, open_voc
from rfd_tf.detection.mat_files import read_mat
from rfd_tf.detection.proposals import SelectiveSearch, load_proposals, propose
from rfd_tf.metrics import inclusive_iou

MARKED = {  # x1, y1, x2, y2 from 0: seven cars; an armchair, a screen, a chair
    "000004": (
        (16, 310, 82, 361),
        (84, 327, 117, 348),
        (108, 327, 147, 351),
        (138, 323, 187, 357),
        (174, 328, 248, 362),
        (232, 331, 332, 374),
        (362, 328, 499, 387),
    ),
    "001551": ((0, 101, 143, 298), (171, 47, 354, 190), (167, 188, 455, 374)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", required=True)
    parser.add_argument("--devkit", required=True)
    parser.add_argument("--proposals", default="proposals", help="folder that keeps ours")
    given = parser.parse_args()
    print("| image(s) | objects | proposals | recalled | mean best IoU |\n|---|---:|---|---:|---:|")
    for name, marked in MARKED.items():
        image = Path(given.samples, f"{name}.jpg")
        files = read_mat(image.with_name(f"{name}_boxes.mat"))[name]
        _row(name, "Fast R-CNN's file", [np.array(marked)], [files])
        ours = load_proposals(propose([image], Path(given.proposals, "samples")), name)
        _row(name, "ours", [np.array(marked)], [ours])
    for split in ("trainval", "test"):
        source = open_voc(VocData(root=given.devkit, split=split))
        paths = [source.describe(index) for index in range(len(source))]
        folder = propose(paths, given.proposals, SelectiveSearch())
        boxes = [annotation.boxes[~annotation.difficult] for annotation in source.annotations]
        found = [load_proposals(folder, name)[:2000] for name in source.names]
        _row(f"{len(source)} of {split}", "ours, 2000 at most", boxes, found)


def _row(images: str, whose: str, objects: list[np.ndarray], proposals: list[np.ndarray]) -> None:
    pairs = zip(objects, proposals, strict=True)
    best = np.concatenate([inclusive_iou(own, found).max(axis=1) for own, found in pairs if len(own)])
    count = np.mean([len(found) for found in proposals])
    print(
        f"| {images} | {len(best)} | {whose} ({count:.0f}) | {np.sum(best >= 0.5)} "
        f"({np.mean(best >= 0.5):.1%}) | {best.mean():.2f} |"
    )


if __name__ == "__main__":
    main()
