"""TFDS's own `voc` on a small devkit: nothing but the archives' place is another."""

from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.object_detection import voc

FOLDER = {"devkit": Path()}  # the folder that holds VOCdevkit/VOC2007


class MiniVoc(voc.Voc):
    """`mini_voc/2007` and `mini_voc/2012`."""

    # TFDS 4.9.10 looks up builders of a package with `importlib_resources`, which it does not require.
    __module__ = "mini_voc"

    def _split_generators(self, dl_manager):
        parts = {tfds.Split.TEST: "test", tfds.Split.TRAIN: "train", tfds.Split.VALIDATION: "val"}
        return {
            split: self._generate_examples(str(FOLDER["devkit"]), set_name)
            for split, set_name in parts.items()
        }
